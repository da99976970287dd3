import io
import json
import lzma
import shutil
import sys
import tarfile
import zipfile
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from tools import build_assets
from tools.build_assets import (
    Package,
    build_backgrounds,
    build_idx,
    build_trees,
    deal_splits,
    fetch,
    unpack,
)


def archive(content):
    return Package("a.tgz", (sys.executable, "-c", "pass"), sha256(content).hexdigest())


def test_archive_that_is_there_is_not_fetched_again(tmp_path):
    (tmp_path / "a.tgz").write_bytes(b"same")
    assert fetch(archive(b"same"), tmp_path).read_bytes() == b"same"


def test_missing_archive_is_fetched_by_its_command(tmp_path):
    write = "open('a.tgz', 'w').write('new')"
    package = Package("a.tgz", (sys.executable, "-c", write), sha256(b"new").hexdigest())
    assert fetch(package, tmp_path) == tmp_path / "a.tgz"


def test_fetching_stops_at_what_is_wrong(tmp_path):
    with pytest.raises(SystemExit, match=r"did not leave .*a\.tgz"):
        fetch(archive(b"new"), tmp_path)
    with pytest.raises(
        SystemExit, match=r"no-such-client is not installed; needed: no-such-client"
    ):
        fetch(Package("b.tgz", ("no-such-client", "get"), ""), tmp_path)
    fails = (sys.executable, "-c", "import sys; sys.exit('no such version')")
    with pytest.raises(SystemExit, match=r"failed:\nno such version"):
        fetch(Package("b.tgz", fails, ""), tmp_path)
    (tmp_path / "a.tgz").write_bytes(b"other")
    with pytest.raises(SystemExit, match=r"expected sha256 \w{64}, got \w{64}; delete the file"):
        fetch(archive(b"new"), tmp_path)


def test_archives_are_unpacked(tmp_path):
    (tmp_path / "name.txt").write_text("content")
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        tar.add(tmp_path / "name.txt", "name.txt")
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.write(tmp_path / "name.txt", "name.txt")
    for kind in ("tgz", "whl"):
        folder = unpack(tmp_path / f"a.{kind}", tmp_path / kind)
        assert (folder / "name.txt").read_text() == "content"


@pytest.fixture
def idx(tmp_path):
    """Write 400 images, each filled with its row number, of 10 classes that differ in size."""
    labels = np.repeat(np.arange(10), np.arange(31, 50, 2)).astype(np.uint8)
    images = (np.arange(400) % 256).astype(np.uint8)[:, None].repeat(784, 1)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(bytes(16) + images.tobytes())
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes(8) + labels.tobytes())
    return tmp_path, labels


@pytest.mark.parametrize("per_class", [20, None], ids=["subset", "all"])
def test_packed_images_keep_their_label_and_row(idx, per_class):
    folder, labels = idx
    content = build_idx(folder, per_class, 1000, "train", seed=0)
    assert content == build_idx(folder, per_class, 1000, "train", seed=0)
    assert content != build_idx(folder, per_class, 1000, "train", seed=1)
    packed = np.load(io.BytesIO(lzma.decompress(content)))
    rows = packed["rows"] - 1000
    assert len(set(rows.tolist())) == len(rows) == (200 if per_class else 400)
    assert (packed["labels"] == labels[rows]).all()
    assert (packed["images"][:, 0, 0] == rows % 256).all()
    counts = np.bincount(packed["labels"])
    assert (counts == (per_class or np.bincount(labels))).all()
    first = np.bincount(packed["labels"][:100], minlength=10)
    assert np.abs(first - 100 * counts / counts.sum()).max() <= 1


def test_splits_are_dealt_without_an_empty_one():
    groups = {"few": ["a", "b", "c"], "many": [f"m{i}" for i in range(100)]}
    splits = deal_splits(groups, seed=0)
    assert {splits[name] for name in groups["few"]} == {"train", "val", "test"}
    assert Counter(splits[name] for name in groups["many"]) == {"train": 60, "val": 15, "test": 25}
    assert splits == deal_splits({"few": ["c", "b", "a"], "many": groups["many"][::-1]}, seed=0)


def test_specks_and_faint_pixels_do_not_widen_an_object():
    alpha = np.zeros((60, 60), np.uint8)
    alpha[20:50, 20:50] = 255
    alpha[30, 50:58] = 9
    alpha[0, 0] = 255
    cleaned = build_assets._without_specks(Image.fromarray(alpha))
    assert cleaned.getbbox() == (20, 20, 50, 50)


def test_zip_is_the_same_whenever_it_is_built(tmp_path, monkeypatch):
    names = ["p/a.jpg", "p/b.jpg", "p/c.jpg", "p/d.jpg"]
    (tmp_path / "p").mkdir()
    for name in names:
        Image.effect_noise((480, 360), 40).convert("RGB").save(tmp_path / name)
    monkeypatch.setattr(build_assets, "BACKGROUNDS", {"group": names})
    monkeypatch.setattr(build_assets, "SAME_BACKGROUND", {"p/d.jpg": "p/a.jpg"})
    content = build_backgrounds(tmp_path)
    assert content == build_backgrounds(tmp_path)
    index = json.loads(zipfile.ZipFile(io.BytesIO(content)).read("index.json"))
    split = {row["file"]: row["split"] for row in index}
    assert set(split.values()) == {"train", "val", "test"}
    assert split["group/a.webp"] == split["group/d.webp"]


def test_trees_keep_their_boxes_at_the_edges_of_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(build_assets, "TREES", {"a": "train"})
    box = "<xmin>1</xmin><ymin>2</ymin><xmax>60</xmax><ymax>40</ymax>"
    thing = f"<object><name>Dead</name><bndbox>{box}</bndbox></object>"
    size = "<size><width>60</width><height>40</height></size>"
    (tmp_path / "a.xml").write_text(f"<annotation>{size}{thing}</annotation>")
    Image.effect_noise((60, 40), 40).convert("RGB").save(tmp_path / "a.png")
    content = build_trees(tmp_path)
    assert content == build_trees(tmp_path)
    archive = zipfile.ZipFile(io.BytesIO(content))
    (row,) = json.loads(archive.read("index.json"))
    assert row == {"file": "a.webp", "split": "train", "boxes": [[0, 1, 60, 40]]}
    assert Image.open(io.BytesIO(archive.read("a.webp"))).size == (60, 40)
    Image.new("RGB", (40, 60)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit, match=r"a: expected \(60, 40\), got \(40, 60\)"):
        build_trees(tmp_path)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_damaged_deb_is_reported(tmp_path):
    (tmp_path / "a.deb").write_bytes(b"not a package")
    with pytest.raises(SystemExit, match=r"dpkg-deb -x .* failed"):
        unpack(tmp_path / "a.deb", tmp_path / "out")


class TestTheCommand:
    @pytest.fixture
    def rebuild(self, tmp_path, monkeypatch):
        """Build a project whose loader knows the asset that is there, and rebuild another."""
        (tmp_path / "labs").mkdir()
        digest = sha256(b"old").hexdigest()
        (tmp_path / "labs/loader.py").write_text(f'NAME, HASH = "a.zip", "{digest}"')
        (tmp_path / "a.zip").write_bytes(b"old")
        monkeypatch.setattr(build_assets, "ROOT", tmp_path)
        monkeypatch.setattr(build_assets, "ASSETS", tmp_path)

        def run(content, *options):
            monkeypatch.setattr(build_assets, "build_all", lambda raw: {"a.zip": content})
            monkeypatch.setattr(sys, "argv", ["build_assets", *options])
            return build_assets.main(), (tmp_path / "a.zip").read_bytes()

        return run

    def test_the_check_reports_what_differs_and_writes_nothing(self, rebuild, capsys):
        assert rebuild(b"new", "--check") == (1, b"old")
        printed = capsys.readouterr().out
        assert "a.zip  <- differs  <- put this hash into labs/loader.py" in printed
        assert sha256(b"new").hexdigest() in printed

    def test_a_loader_that_has_to_learn_a_hash_is_a_failure(self, rebuild, capsys):
        assert rebuild(b"new") == (1, b"new")
        assert "put this hash into labs/loader.py" in capsys.readouterr().out

    @pytest.mark.parametrize("options", [(), ("--check",)])
    def test_the_same_bytes_are_no_failure(self, rebuild, capsys, options):
        assert rebuild(b"old", *options) == (0, b"old")
        assert "<-" not in capsys.readouterr().out

    def test_a_missing_file_differs(self, rebuild, tmp_path):
        (tmp_path / "a.zip").unlink()
        with pytest.raises(FileNotFoundError):
            rebuild(b"old", "--check")
        assert rebuild(b"old") == (0, b"old")
