"""Read the text files of YOLO: one beside each picture, one row for each object.

The format is that of Darknet (Redmon, 2013-2016, pjreddie.com/darknet/yolo).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from labs.data.folders.faults import Faults
from labs.data.folders.fields import is_number, read_text
from labs.data.folders.masks import Code, to_masks
from labs.data.folders.notices import Notices
from labs.data.folders.pictures import Target, read_picture, shown
from labs.imagefile.report import SUFFIXES
from labs.near_miss import did_you_mean

_SLACK_SHARE = 0.005  # of the picture: tools round, so a box may reach so far beyond it
_CLASSES = "classes.txt"


@dataclass(frozen=True)
class _Thing:
    label: int
    box: list[float]  # x1, y1, x2, y2 as shares of the picture
    outline: list[float]  # x1, y1, x2, y2, … as shares; empty when the row is a box


class YoloFolder(Dataset[tuple[Tensor, Target]]):
    """Serve pictures and, for each, a text file of the same name.

    A row is ``class cx cy w h``, or ``class x1 y1 x2 y2 …`` with three points or more of an
    outline; numbers are shares of the picture's width and height. A truth is that of
    :class:`CocoFolder`: ``boxes``, ``labels``, ``iscrowd`` [n], bool, never set, ``area`` [n],
    float32, of the outline or else of the box, in square pixels, and ``masks`` [n,H,W], bool. An
    empty file, and none, mean that there is no object.

    Args:
        images: The folder of the pictures, and of folders of pictures.
        labels: The folder of the text files, laid out in the same way.
        split: A name for this part of the data.
        classes: The class names, such as those in ``data.yaml``; by default the lines of a
            ``classes.txt`` in ``labels`` or a folder above it.
        masks: Whether truths have masks. Every row must be an outline then.
        strict: Raise the first error. Otherwise pictures with a damaged text file are left out,
            and ``faults`` tells of each.

    Attributes:
        classes: The class names; a label is an index into them.
        paths: The picture of each index.
        unlabelled: The pictures without a text file.
        faults: The errors that were not raised, one line each.
        notices: What was repaired or left out, one line each.

    Raises:
        FileNotFoundError: When a folder is missing, or no ``classes`` are given and there is no
            ``classes.txt``.
        ValueError: When there is no picture or no text file at all, two pictures share a text
            file, or a row is damaged; see :mod:`labs.data.folders`. All are read at once, so errors
            come here.
        ImportError: On the first picture with outlines, when pycocotools is not installed.
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        split: str,
        classes: Sequence[str] | None = None,
        masks: bool = False,
        strict: bool = True,
    ) -> None:
        self.images, self.labels = Path(images), Path(labels)
        self.split, self.masks = split, masks
        for folder in (self.images, self.labels):
            _refuse_missing(folder)
        self.classes = _checked_classes(_read_classes(self.labels) if classes is None else classes)
        paths = _pictures(self.images)
        files = [self.labels / path.relative_to(self.images).with_suffix(".txt") for path in paths]
        _refuse_shared(paths, files)
        _refuse_no_labels(self.labels, files)
        self.unlabelled = tuple(
            path for path, file in zip(paths, files, strict=True) if not file.is_file()
        )
        notices, faults = Notices(), Faults(strict)
        for file in sorted(set(self.labels.rglob("*.txt")) - set(files)):
            if file.name != _CLASSES:
                notices.add("text file without a picture left out", file.name)
        self._things: list[list[_Thing]] = []
        for path, file in zip(paths, files, strict=True):
            with faults.of(path):
                self._things.append(self._read(file, notices) if file.is_file() else [])
        self.paths = tuple(path for path in paths if path not in faults)
        self.faults = faults.lines()
        self.notices = notices.lines()
        notices.warn(self.labels)

    def _read(self, file: Path, notices: Notices) -> list[_Thing]:
        seen: set[tuple[str, ...]] = set()
        things = []
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            cells, name = tuple(line.split()), f"{file.name}, line {number}"
            if not cells:
                continue
            if cells in seen:
                notices.add("the same row again left out", name)
                continue
            seen.add(cells)
            thing = _thing(cells, self.classes, f"{file}, line {number}")
            if thing is None:
                notices.add("box without area left out", name)
                continue
            if self.masks and not thing.outline:
                raise ValueError(
                    f"{file}, line {number}: expected an outline, class x1 y1 x2 y2 x3 y3 …, got a "
                    "box; open the folder with masks=False"
                )
            things.append(thing)
        return things

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        picture, things = read_picture(self.paths[index]), self._things[index]
        h, w = picture.shape[1:]
        corners = torch.tensor([thing.box for thing in things], dtype=torch.float64).view(-1, 4)
        target = {
            "boxes": (corners * torch.tensor([w, h, w, h])).float(),
            "labels": torch.tensor([thing.label for thing in things]).long(),
            "iscrowd": torch.zeros(len(things)).bool(),
            "area": torch.tensor([_share(thing) * w * h for thing in things]).float(),
        }
        if self.masks:
            codes: list[Code] = [[_scaled(thing.outline, w, h)] for thing in things]
            where = str(self.paths[index])
            target["masks"] = torch.from_numpy(to_masks(codes, (h, w), where))
        return picture, target

    def __repr__(self) -> str:
        count = sum(map(len, self._things))
        without = f", {len(self.unlabelled)} without a text file" if self.unlabelled else ""
        return (
            f"YoloFolder({len(self)} of {self.split!r}, {count} objects in {self.images}{without})"
        )


def yolo_folder(
    folder: str | Path, split: str, classes: Sequence[str] | None = None, masks: bool = False
) -> YoloFolder:
    """Serve the published layouts: ``images/SPLIT`` and ``labels/SPLIT``, or ``SPLIT/images``.

    Args:
        folder: The folder of both.
        split: Such as ``"train"``.
        classes: The class names; see :class:`YoloFolder`.
        masks: Whether truths have masks.

    Raises:
        FileNotFoundError: When one of them is missing.
        ValueError: When a row is damaged; see :class:`YoloFolder`.
    """
    root = Path(folder)
    if not (root / "images" / split).is_dir() and (root / split / "images").is_dir():
        return YoloFolder(root / split / "images", root / split / "labels", split, classes, masks)
    return YoloFolder(root / "images" / split, root / "labels" / split, split, classes, masks)


def _thing(cells: Sequence[str], classes: Sequence[str], where: str) -> _Thing | None:
    """Return what a row says, clipped to the picture, or ``None`` when it has no area."""
    values = [_number(cell, where) for cell in cells]
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        hint = "; is the last a score?" if len(values) == 6 else ""
        raise ValueError(
            f"{where}: expected 5 numbers, class cx cy w h, or a class and three or more points, "
            f"got {len(values)}{hint}"
        )
    label, rest = _label(values[0], classes, where), values[1:]
    if max(rest) > 1 + _SLACK_SHARE or min(rest) < -_SLACK_SHARE:
        first = next(value for value in rest if not 0 <= value <= 1)
        raise ValueError(
            f"{where}: expected shares of the picture in [0, 1], got {shown(first)}; "
            "divide pixels by the width and height"
        )
    if len(rest) > 4:
        outline = [min(1.0, max(0.0, value)) for value in rest]
        box = [min(outline[::2]), min(outline[1::2]), max(outline[::2]), max(outline[1::2])]
    else:
        outline, box = [], _box(rest, where)
    return _Thing(label, box, outline) if box[2] > box[0] and box[3] > box[1] else None


def _box(row: list[float], where: str) -> list[float]:
    cx, cy, w, h = row
    box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    if min(w, h) < 0 or min(box) < -_SLACK_SHARE or max(box) > 1 + _SLACK_SHARE:
        raise ValueError(
            f"{where}: expected centre, width and height of a box inside the picture, got "
            f"{shown(row)}; are these corners?"
        )
    return [min(1.0, max(0.0, value)) for value in box]


def _number(cell: str, where: str) -> float:
    try:
        value = float(cell) if "_" not in cell else float("nan")
    except ValueError:
        value = float("nan")
    if not is_number(value):
        raise ValueError(f"{where}: expected finite numbers between spaces, got {shown(cell)}")
    return value


def _label(value: float, classes: Sequence[str], where: str) -> int:
    if value != int(value) or not 0 <= value < len(classes):
        raise ValueError(
            f"{where}: expected a class from 0 to {len(classes) - 1}, got {value:g}; numbers begin "
            "at 0, and `classes` names all of them"
        )
    return int(value)


def _share(thing: _Thing) -> float:
    """Return the area as a share of the picture's: of the outline, by the shoelace formula."""
    if not thing.outline:
        x1, y1, x2, y2 = thing.box
        return (x2 - x1) * (y2 - y1)
    x, y = torch.tensor(thing.outline, dtype=torch.float64).view(-1, 2).unbind(1)
    return (x * y.roll(-1) - y * x.roll(-1)).sum().abs().item() / 2


def _scaled(outline: list[float], w: int, h: int) -> list[float]:
    return [value * side for value, side in zip(outline, [w, h] * (len(outline) // 2), strict=True)]


def _read_classes(labels: Path) -> list[str]:
    for folder in (labels, *labels.absolute().parents[:2]):
        if (folder / _CLASSES).is_file():
            return [
                line.strip() for line in read_text(folder / _CLASSES).splitlines() if line.strip()
            ]
    raise FileNotFoundError(
        f"YoloFolder: expected classes, or {_CLASSES} in {labels}, got none; pass the names in "
        "data.yaml as classes=[…]"
    )


def _checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    names = () if isinstance(classes, str) else tuple(classes)
    if (
        not names
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) < len(names)
    ):
        raise ValueError(
            f"YoloFolder: expected classes as different names, such as ['cat', 'dog'], got "
            f"{shown(classes)}"
        )
    return names


def _pictures(images: Path) -> tuple[Path, ...]:
    found = (path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = tuple(sorted(path for path in found if not path.is_dir()))
    if not paths:
        raise ValueError(f"YoloFolder: expected pictures in {images}, found none")
    return paths


def _refuse_shared(paths: Sequence[Path], files: Sequence[Path]) -> None:
    first: dict[Path, Path] = {}
    for path, file in zip(paths, files, strict=True):
        if first.setdefault(file, path) != path:
            raise ValueError(
                f"YoloFolder: expected one picture for {file}, got {first[file]} and {path}; "
                "remove or rename one"
            )


def _refuse_no_labels(labels: Path, files: Sequence[Path]) -> None:
    if not any(file.is_file() for file in files):
        raise ValueError(
            f"YoloFolder: expected text files in {labels} named like the pictures, such as "
            f"{files[0].name}, found none"
        )


def _refuse_missing(folder: Path) -> None:
    if not folder.is_dir():
        beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
        hint = did_you_mean(folder.name, sorted(path.name for path in beside))
        raise FileNotFoundError(f"YoloFolder: expected the folder {folder}, got none{hint}")
