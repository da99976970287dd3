import re
from hashlib import sha256

import pytest

from labs.data import digits, shipped
from labs.data.shipped import FOLDER, DamagedAssetError, read_asset

MEGABYTE = 1_000_000


def test_right_content_is_returned(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    (tmp_path / "a.bin").write_bytes(b"pixels")
    assert read_asset("a.bin", sha256(b"pixels").hexdigest()) == b"pixels"


def test_changed_asset_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    (tmp_path / "a.bin").write_bytes(b"pixelz")
    with pytest.raises(DamagedAssetError, match=r"expected SHA-256 0+, got \w{64} \(6 bytes\)"):
        read_asset("a.bin", "0" * 64)


def test_missing_asset_names_file_and_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    message = r"digits-train.npz.xz: expected the file .*got none; restore it with `git checkout"
    with pytest.raises(DamagedAssetError, match=message):
        digits()


def test_assets_leave_room():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= 25 * MEGABYTE


def test_licences_name_every_asset_and_no_other():
    text = (FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`([^`]+)`", " ".join(rows)))
    assert named == {path.name for path in FOLDER.iterdir()} - {"LICENSES.md"}
