import os
import sys
from pathlib import Path

import pytest

from labs.data import faults
from labs.data.scan import list_files, scan_images
from labs.imagefile import FileReport
from tests.data.trees import as_plain_user, kinds_of, smooth_picture, write_tree, written

SINGLE = [kind for kind in faults.FAULTS if kind is not faults.swapped_label]


def report_of(path, **settings):
    """Scan the folder of one file, in this process, and return that file's report."""
    (report,) = scan_images(path.parent, workers=0, **settings).files
    return report


# What the scan must say, fault by fault


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kind", SINGLE, ids=lambda kind: kind.__name__)
def test_each_fault_is_reported_as_documented(kind, suffix, tmp_path):
    path = next(path for path in write_tree(tmp_path) if path.suffix == suffix)
    fault = kind(path)
    scan = scan_images(tmp_path, workers=0)
    (report,) = [file for file in scan.files if file.path == fault.path]
    if fault.verdict == "bad":
        assert not report.ok
        assert kinds_of([report.reason]) == {fault.problem}
    elif fault.verdict == "warning":
        assert report.ok
        assert fault.problem in kinds_of(report.warnings)
    else:
        assert report.ok
    others = [file for file in scan.files if file is not report]
    assert all(file.ok and not file.warnings for file in others)


def test_swapped_pictures_are_not_the_scans_business(tmp_path):
    write_tree(tmp_path)
    faults.damage(tmp_path, counts={faults.swapped_label: 3})
    assert scan_images(tmp_path, workers=0).problems().empty


def test_a_sound_folder_has_nothing_to_report(tmp_path):
    paths = write_tree(tmp_path)
    scan = scan_images(tmp_path, workers=0)
    assert scan.good == paths
    assert scan.bad == scan.suspicious == []
    assert repr(scan) == (
        f"Scan({tmp_path.name}: 12 files, 12 good of which 0 carry a warning, 0 bad)"
    )


def test_the_table_has_one_row_per_file_with_its_facts(tmp_path):
    paths = write_tree(tmp_path, classes=["ant"], each=3)
    faults.html(paths[1])
    faults.exif_rotated(paths[2])
    table = scan_images(tmp_path, workers=0).table()
    assert table["path"].tolist() == ["ant/000.jpg", "ant/001.png", "ant/002.jpg"]
    assert table["ok"].tolist() == [True, False, True]
    facts = ["format", "mode", "width", "height", "orientation"]
    assert table.loc[0, facts].tolist() == ["JPEG", "RGB", 48, 32, 1]
    assert table.loc[2, facts].tolist() == ["JPEG", "RGB", 32, 48, 6]
    assert table.loc[1, facts].isna().all()
    assert table["bytes"].tolist() == [path.stat().st_size for path in paths]
    assert table["sha256"].str.len().tolist() == [64, 64, 64]


def test_the_repr_counts_each_problem(tmp_path):
    paths = write_tree(tmp_path)
    for path in paths[:3]:
        faults.empty(path)
    faults.html(paths[3])
    faults.one_pixel(paths[4])
    scan = scan_images(tmp_path, workers=0)
    assert repr(scan).splitlines()[1:] == [
        *("  bad: 3 empty", "  bad: 1 not an image"),
        *("  warning: 1 blank", "  warning: 1 tiny"),
    ]
    assert scan.problems().columns.tolist() == ["verdict", "problem", "files"]


def test_a_checksum_kept_from_before_finds_the_rot_that_decodes(tmp_path):
    path = write_tree(tmp_path)[0]
    before = scan_images(tmp_path, workers=0).table().set_index("path")["sha256"]
    assert faults.bit_rot(path).verdict == "unseen"
    after = scan_images(tmp_path, workers=0).table().set_index("path")["sha256"]
    assert (before != after).pipe(lambda changed: changed[changed].index.tolist()) == [
        "ant/000.jpg"
    ]


def test_problems_count_files_not_warnings(tmp_path, monkeypatch):
    smooth_picture(0).save(tmp_path / "a.png")

    def talkative(path, rules):
        return FileReport(path, warnings=("decoder's warning: a", "decoder's warning: b"))

    monkeypatch.setattr("labs.data.scan.check_file", talkative)
    (row,) = scan_images(tmp_path, workers=0).problems().to_numpy().tolist()
    assert row == ["warning", "decoder's warning", 1]


# Ten thousand files


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_all_reported(tmp_path):
    paths = write_tree(tmp_path, each=2500, classes=["ant", "bee", "cow", "dog"])
    key = faults.damage(tmp_path, share=0.97, seed=0)
    assert len(paths) == 10_000
    before = sum(os.times()[:4])  # of this process and of those it has ended, whatever else runs
    scan = scan_images(tmp_path, workers=2)
    assert sum(os.times()[:4]) - before < 30  # seconds

    listed = {os.path.join(f, name) for f, _, names in os.walk(tmp_path) for name in names}
    folders = {str(fault.path) for fault in key.faults if fault.kind == "folder"}
    assert [str(file.path) for file in scan.files] == sorted(listed | folders)

    rows = key.table().merge(scan.table(), on="path", validate="one_to_one")
    assert rows["kind"].nunique() == 31
    assert len(rows) == len(key.faults)
    assert (rows["ok"] == (rows["verdict"] != "bad")).all()
    said = rows["reason"] + "; " + rows["warnings"]
    pairs = zip(rows["problem"], said, strict=True)
    assert all(problem in words for problem, words in pairs)
    untouched = scan.table().merge(rows[["path"]], on="path", how="left", indicator=True)
    assert untouched.loc[untouched["_merge"] == "left_only", "ok"].all()
    bad = sum(fault.verdict == "bad" for fault in key.faults)
    assert (len(scan.bad), len(scan.good)) == (bad, len(scan.files) - bad)


def test_processes_and_this_process_agree_and_so_does_a_second_run(tmp_path):
    write_tree(tmp_path, each=30)
    faults.damage(tmp_path, share=0.9)
    here = scan_images(tmp_path, workers=0)
    assert scan_images(tmp_path, workers=2) == here
    assert scan_images(tmp_path, workers=2) == here


# Files and folders that are not what they seem


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    scan = scan_images(tmp_path, workers=1, timeout=20)
    assert [reason for _, reason in scan.bad] == ["not a file: a pipe"] * 2


def test_a_device_is_not_read(tmp_path):
    (tmp_path / "a.jpg").symlink_to("/dev/zero")
    assert report_of(tmp_path / "a.jpg").reason == "not a file: a device"


def test_a_link_to_a_folder_above_ends_the_walk(tmp_path):
    write_tree(tmp_path, each=1)
    (tmp_path / "ant" / "again").symlink_to(tmp_path)
    (tmp_path / "aaa").symlink_to(tmp_path / "ant")  # before "ant", and yet the link
    scan = scan_images(tmp_path, workers=0)
    assert {path.parent.name for path in scan.good} == {"ant", "bee", "cow"}
    assert [(path.name, reason) for path, reason in scan.bad] == [
        ("aaa", "linked folder: leads to ant, which is scanned already"),
        ("again", f"linked folder: leads to {tmp_path}, which is scanned already"),
    ]


def test_folders_that_link_to_each_other_end_the_walk(tmp_path):
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        for other in "abcdefgh":
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    assert len(scan_images(tmp_path, workers=0).bad) == 64


def test_a_linked_folder_outside_is_scanned_once(tmp_path):
    write_tree(tmp_path / "disk", classes=["ant"])
    root = tmp_path / "root"
    root.mkdir()
    for name in ("first", "second"):
        (root / name).symlink_to(tmp_path / "disk" / "ant")
    scan = scan_images(root, workers=0)
    assert {path.parent.name for path in scan.good} == {"first"}
    assert [path.name for path, _ in scan.bad] == ["second"]


def test_permissions_are_reported_not_raised():
    scan_images(Path(__file__).parent, workers=0)  # import all that is needed as who we are
    with as_plain_user() as folder:
        paths = write_tree(folder)
        paths[0].chmod(0)
        (folder / "bee").chmod(0)
        scan = scan_images(folder, workers=0)
        (folder / "bee").chmod(0o700)
        assert kinds_of(reason for _, reason in scan.bad) == {"no permission"}
        assert [path for path, _ in scan.bad] == [paths[0], folder / "bee"]
        folder.chmod(0)
        with pytest.raises(PermissionError, match=r"you may not list .*; chmod"):
            scan_images(folder)
        folder.chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_cannot_be_printed_are_shown_escaped(tmp_path):
    smooth_picture(0).save(tmp_path / "new\nline.png")
    smooth_picture(1).save(os.fsencode(tmp_path) + b"/latin\xe9.png")
    scan = scan_images(tmp_path, workers=1)
    assert len(scan.good) == 2
    assert all(path.exists() for path in scan.good)
    assert kinds_of(w for file in scan.files for w in file.warnings) == {"unprintable name"}
    assert scan.table()["path"][0] == "latin\\udce9.png"
    repr(scan).encode()
    scan.table().to_csv().encode()


def test_a_file_that_vanishes_while_scanning_is_reported(tmp_path, monkeypatch):
    paths = write_tree(tmp_path)

    def listed_then_gone(root, ignore):
        found = list_files(root, ignore)
        paths[0].unlink()
        return found

    monkeypatch.setattr("labs.data.scan.list_files", listed_then_gone)
    scan = scan_images(tmp_path, workers=0)
    assert scan.bad == [(paths[0], "vanished: No such file or directory")]


def test_duplicates_name_the_first_usable_file(tmp_path):
    paths = write_tree(tmp_path, each=2, suffixes=[".png"])
    for path in paths[3:5]:
        path.write_bytes(paths[1].read_bytes())
    faults.html(paths[0])
    faults.html(paths[2])
    scan = scan_images(tmp_path, workers=0)
    table = scan.table().set_index("path")["duplicate_of"]
    assert table[table.notna()].to_dict() == {
        "bee/001.png": "ant/001.png",
        "cow/000.png": "ant/001.png",
    }
    assert scan.suspicious == [
        (path, "duplicate: the same bytes as ant/001.png") for path in paths[3:5]
    ]


# The root and the settings


def test_an_empty_folder_is_a_scan_of_nothing(tmp_path):
    scan = scan_images(tmp_path)
    assert (scan.good, scan.bad, len(scan.table())) == ([], [], 0)
    assert "0 files" in repr(scan)


def test_a_missing_folder_names_the_nearest(tmp_path):
    (tmp_path / "flowers").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no .*flower; did you mean 'flowers'\?"):
        scan_images(tmp_path / "flower")
    with pytest.raises(FileNotFoundError, match="the current folder is"):
        scan_images(tmp_path / "nowhere" / "at all")


def test_a_file_is_not_a_folder(tmp_path):
    with pytest.raises(NotADirectoryError, match=r"expected a folder, got the file .*a\.jpg"):
        scan_images(written(tmp_path / "a.jpg", b""))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"workers": -1}, "workers=-1", id="workers"),
        pytest.param({"timeout": 0}, "timeout=0", id="timeout"),
        pytest.param({"max_pixels": 0}, "max_pixels=0", id="max_pixels"),
        pytest.param({"modes": "RGB"}, r"expected modes=\('RGB',\), a tuple", id="modes"),
        pytest.param({"ignore": "*.csv"}, "expected ignore=", id="ignore"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        scan_images(tmp_path, **settings)


def test_what_is_ignored_is_left_out_and_all_else_is_reported(tmp_path):
    write_tree(tmp_path, classes=["ant", "bee"], each=1)
    (tmp_path / "labels.csv").write_text("000.jpg,ant\n")
    assert [path.name for path, _ in scan_images(tmp_path, workers=0).bad] == ["labels.csv"]
    scan = scan_images(tmp_path, workers=0, ignore=["*.csv", "bee"])
    assert [file.path for file in scan.files] == [tmp_path / "ant" / "000.jpg"]
