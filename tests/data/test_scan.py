import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

import labs
from labs.data import decoder, faults
from labs.data.scan import list_files, scan_images
from labs.imagefile import Rules, check_file
from tests.data.trees import as_plain_user, smooth_picture, write_tree

SINGLE = [kind for kind in faults.FAULTS if kind is not faults.swapped_label]


def report_of(path, **settings):
    """Scan the folder of one file, in this process, and return that file's report."""
    (report,) = scan_images(path.parent, workers=0, **settings).files
    return report


def kinds_of(messages):
    return {message.partition(":")[0] for message in messages}


def written(path, data):
    path.write_bytes(data)
    return path


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


# Content


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"\x1f\x8b" + bytes(30), "not an image: gzip data", id="gzip"),
        pytest.param(b"\0\0\0\x18ftypheic" + bytes(9), "not an image: a heic file", id="heic"),
        pytest.param(b"  <HTML>", "not an image: an HTML page", id="html in capitals"),
        pytest.param("naïve\n".encode(), "not an image: text, 'naïve'", id="text"),
        pytest.param(b"\x01\x02\x03", "not an image: unknown content, 01 02 03", id="binary"),
        pytest.param(b"\xff\xd8\xff\xe0" + bytes(9), "not an image", id="jpeg header only"),
        pytest.param(b"\x93NUMPY\x01\x00", "corrupt: ", id="numpy header only"),
        pytest.param(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "not an image: text",
            id="postscript, which another program would have to run",
        ),
    ],
)
def test_what_is_no_image_is_named(data, reason, tmp_path):
    assert report_of(written(tmp_path / "a.jpg", data)).reason.startswith(reason)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        pytest.param(np.arange(12.0).reshape(3, 4), "", id="sound"),
        pytest.param(np.ones((3, 4)), "blank", id="blank"),
        pytest.param(np.array([[1.0, np.inf]]), "not finite", id="infinite"),
        pytest.param(np.zeros((0, 3)), "not a picture", id="empty"),
        pytest.param(np.array(["a"]), "not a picture", id="strings"),
        pytest.param(np.array([{}]), "needs pickle", id="objects"),
        pytest.param(np.arange(101), "too many pixels", id="large"),
    ],
)
def test_arrays_are_judged_by_their_values(array, said, tmp_path):
    np.save(tmp_path / "a.npy", array)
    report = report_of(tmp_path / "a.npy", max_pixels=25)
    assert kinds_of([report.reason, *report.warnings]) - {""} == {said} - {""}


def test_an_array_that_claims_more_than_it_holds_is_corrupt(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((100, 100)))
    held = (tmp_path / "a.npy").read_bytes()
    assert report_of(written(tmp_path / "a.npy", held[:200])).reason.startswith("corrupt: ")


def test_a_bomb_is_not_decoded(tmp_path, monkeypatch):
    faults.bomb(written(tmp_path / "a.png", b""))

    def explode(image):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", explode)
    assert report_of(tmp_path / "a.png").reason == (
        "too many pixels: claims 100000 x 100000, the limit is 100,000,000"
    )


def test_the_limits_are_the_largest_that_pass(tmp_path):
    smooth_picture(0, (20, 10)).save(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size
    assert report_of(tmp_path / "a.png", max_pixels=200, max_bytes=size).ok
    assert report_of(tmp_path / "a.png", max_pixels=199).reason.startswith("too many pixels")
    assert report_of(tmp_path / "a.png", max_bytes=size - 1).reason.startswith("too many bytes")


def test_more_pixels_than_pillow_allows_are_decoded_when_you_allow_them(tmp_path, monkeypatch):
    smooth_picture(0).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert report_of(tmp_path / "a.png").ok
    assert Image.MAX_IMAGE_PIXELS == 10


def test_truncated_is_bad_even_where_pillow_is_told_to_invent_the_rest(tmp_path, monkeypatch):
    faults.truncated(write_tree(tmp_path, classes=["."], each=1)[0])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert report_of(tmp_path / "000.jpg").reason.startswith("truncated")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_the_checksums_of_a_png_are_looked_at(tmp_path):
    silent = 0
    for seed in range(60):
        smooth_picture(seed, (100, 90 + seed)).save(tmp_path / "a.png")
        faults.bit_rot(tmp_path / "a.png")
        with suppress(OSError):
            Image.open(tmp_path / "a.png").load()
            silent += 1
        assert report_of(tmp_path / "a.png").reason.startswith("corrupt: ")
    assert silent > 0  # decoding alone lets some through, with wrong colours


def test_a_later_frame_that_is_cut_off_is_found(tmp_path):
    path = faults.animated(write_tree(tmp_path, classes=["."], each=1)[0]).path
    path.write_bytes(path.read_bytes()[:-40])
    report = report_of(path)
    assert report.ok
    assert "damaged frame" in kinds_of(report.warnings)


def test_the_expected_modes_raise_no_warning(tmp_path):
    smooth_picture(0).convert("L").save(tmp_path / "a.png")
    assert report_of(tmp_path / "a.png").warnings == ("grayscale: mode L, expected RGB",)
    assert report_of(tmp_path / "a.png", modes=["RGB", "L"]).warnings == ()


@pytest.mark.parametrize("name", ["a.JPG", "a.jpeg", "a.jfif", "a.mpo"])
def test_every_name_of_a_jpeg_is_right(name, tmp_path):
    smooth_picture(0).save(tmp_path / name, format="JPEG")
    assert report_of(tmp_path / name).warnings == ()


def test_a_missing_suffix_is_a_warning(tmp_path):
    smooth_picture(0).save(tmp_path / "a", format="PNG")
    (warning,) = report_of(tmp_path / "a").warnings
    assert warning == "wrong extension: PNG content in a file without a suffix"


def test_white_below_a_picture_is_no_grey_band(tmp_path):
    page = Image.new("RGB", (64, 64), "white")
    page.paste(smooth_picture(0), (8, 0))
    page.save(tmp_path / "a.jpg")
    assert report_of(tmp_path / "a.jpg").warnings == ()


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


# Processes that die


def deadly(tmp_path, body):
    """Write a decoding program in which some file names do harm, and return its command."""
    program = tmp_path / "deadly.py"
    harm = textwrap.indent(textwrap.dedent(body), "    ")
    program.write_text(
        "import os, signal, sys, time\n"
        "from labs.imagefile import __main__ as honest\n"
        "check_file = honest.check_file\n"
        f"def check(path, rules):\n{harm}\n"
        "    return check_file(path, rules)\n"
        "honest.check_file = check\n"
        "honest.main()\n"
    )
    return [sys.executable, "-P", str(program)]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", "crash: .* killed", id="killed"),
        pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", "crash: .* SIGSEGV", id="segfault"),
        pytest.param("os._exit(3)", "crash: .* exit code 3", id="exit"),
        pytest.param("time.sleep(60)", r"timeout: no answer in 0\.5 s", id="hangs"),
    ],
)
def test_a_file_that_ends_its_process_is_named_and_the_rest_goes_on(
    harm, reason, tmp_path, monkeypatch
):
    root = tmp_path / "root"
    paths = write_tree(root, each=20)
    body = f"if path.name in ('004.jpg', '011.png'): {harm}"
    monkeypatch.setattr(decoder, "_PROGRAM", deadly(tmp_path, body))
    scan = scan_images(root, workers=2, timeout=0.5 if "sleep" in harm else 30)
    assert [path for path, _ in scan.bad] == [p for p in paths if p.stem in ("004", "011")]
    assert pd.Series([why for _, why in scan.bad]).str.fullmatch(f"{reason}.*").all()
    assert len(scan.good) == 60 - 6


def test_a_bystander_of_a_full_memory_gets_a_second_chance(tmp_path, monkeypatch):
    root = tmp_path / "root"
    write_tree(root)
    body = f"""
        if path.name == '002.jpg' and not os.path.exists({str(tmp_path / "once")!r}):
            open({str(tmp_path / "once")!r}, 'w').close()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    monkeypatch.setattr(decoder, "_PROGRAM", deadly(tmp_path, body))
    assert len(scan_images(root, workers=1).good) == 12
    assert (tmp_path / "once").exists()


def test_a_program_that_does_not_start_says_why(tmp_path, monkeypatch):
    write_tree(tmp_path / "root")
    (tmp_path / "broken.py").write_text("raise SystemExit('no Pillow today')")
    monkeypatch.setattr(decoder, "_PROGRAM", [sys.executable, str(tmp_path / "broken.py")])
    with pytest.raises(RuntimeError, match=r"pass workers=0 .*\sno Pillow today"):
        scan_images(tmp_path / "root", workers=2)


def test_chatter_on_stdout_does_not_mix_with_the_answers(tmp_path, monkeypatch):
    root = tmp_path / "root"
    write_tree(root)
    monkeypatch.setattr(decoder, "_PROGRAM", deadly(tmp_path, "os.write(1, b'libtiff says hello')"))
    assert len(scan_images(root, workers=1).good) == 12


def script(tmp_path, text):
    (tmp_path / "script.py").write_text(textwrap.dedent(text))
    environment = os.environ | {"PYTHONPATH": str(Path(labs.__file__).parents[1])}
    command = [sys.executable, str(tmp_path / "script.py")]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_script_needs_no_main_guard(tmp_path):
    write_tree(tmp_path / "root")
    process = script(
        tmp_path,
        f"""
        from labs.data.scan import scan_images
        print(len(scan_images({str(tmp_path / "root")!r}, workers=2).good))
        """,
    )
    assert process.communicate(timeout=60)[0] == "12\n"


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def noting_its_pid(folder, then="pass"):
    folder.mkdir()
    return f"open({str(folder)!r} + f'/{{os.getpid()}}', 'w').close(); {then}"


def noted(folder):
    return [int(path.name) for path in folder.iterdir()]


def test_a_scan_that_ends_well_leaves_no_process(tmp_path, monkeypatch):
    write_tree(tmp_path / "root", each=30)
    program = deadly(tmp_path, noting_its_pid(tmp_path / "pids"))
    monkeypatch.setattr(decoder, "_PROGRAM", program)
    assert len(scan_images(tmp_path / "root", workers=2).good) == 90
    assert noted(tmp_path / "pids")
    assert not any(map(alive, noted(tmp_path / "pids")))


@pytest.mark.parametrize(
    ("ending", "seconds"),
    [pytest.param(signal.SIGINT, 60, id="ctrl-c"), pytest.param(signal.SIGKILL, 1, id="killed")],
)
def test_a_scan_that_is_stopped_leaves_no_process(ending, seconds, tmp_path):
    write_tree(tmp_path / "root", each=30)
    body = noting_its_pid(tmp_path / "pids", f"time.sleep({seconds})")
    process = script(
        tmp_path,
        f"""
        from labs.data import decoder, scan
        decoder._PROGRAM = {deadly(tmp_path, body)!r}
        scan.scan_images({str(tmp_path / "root")!r}, workers=2)
        print("finished")
        """,
    )
    assert wait_until(lambda: len(noted(tmp_path / "pids")) == 2)
    process.send_signal(ending)
    out, err = process.communicate(timeout=30)
    assert out == ""
    assert process.returncode != 0
    assert ("KeyboardInterrupt" in err) == (ending == signal.SIGINT)
    assert wait_until(lambda: not any(map(alive, noted(tmp_path / "pids"))), seconds=10)


def test_one_file_can_be_checked_by_itself(tmp_path):
    path = written(tmp_path / "a.jpg", b"")
    assert check_file(path, Rules()).reason == "empty: 0 bytes"
