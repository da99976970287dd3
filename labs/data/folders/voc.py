"""Read Pascal VOC: one XML file per picture (Everingham et al., 2010)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import torch
from torch import Tensor
from torch.utils.data import Dataset

from labs.data.folders.faults import Faults
from labs.data.folders.fields import is_number, read_text
from labs.data.folders.notices import Notices
from labs.data.folders.pictures import (
    Target,
    checked_box,
    checked_size,
    inside,
    looks_normalised,
    picture_size,
    read_picture,
    shown,
)
from labs.data.folders.xml import parse_xml
from labs.near_miss import did_you_mean

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


class VocFolder(Dataset[tuple[Tensor, Target]]):
    """Serve a folder such as ``VOCdevkit/VOC2012``, fetched by ``torchvision.datasets``.

    It holds ``ImageSets/Main/SPLIT.txt`` with one name per line, ``JPEGImages/NAME.jpg`` (or
    ``.png``) and ``Annotations/NAME.xml``. A truth has ``boxes``, ``labels``, and ``ignore`` [n],
    bool, for the objects marked as difficult, as :func:`labs.metrics.coco_map` takes it.

    VOC counts pixels from 1 and includes the last one, so its corners x1, y1, x2, y2 are here
    x1 - 1, y1 - 1, x2, y2. A size that is missing or 0 is taken from the picture; see
    :mod:`labs.data.folders` for what else is repaired, and what is an error.

    Args:
        folder: The folder.
        split: The name of a list in ``ImageSets/Main``.
        classes: The names that occur; a label is an index into them.
        names: The pictures, for a folder without such a list; ``split`` is only a name then.
        strict: Raise the first error. Otherwise pictures with a damaged annotation are left out,
            and ``faults`` tells of each.

    Attributes:
        names: The picture of each index.
        paths: Its file.
        faults: The errors that were not raised, one line each.
        notices: What was repaired or left out, one line each.

    Raises:
        FileNotFoundError: When the list, or the annotation of a picture in it, is missing.
        ValueError: When an annotation is damaged, names an unknown class, or has a box outside of
            the picture. All are read at once, so errors come here.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        classes: Sequence[str] = VOC_CLASSES,
        names: Sequence[str] | None = None,
        strict: bool = True,
    ) -> None:
        self.folder, self.split, self.classes = Path(folder), split, tuple(classes)
        file = self.folder / "ImageSets" / "Main" / f"{split}.txt"
        if names is None:
            names = _names(file)
        else:
            file = self.folder / "Annotations"
        notices, faults = Notices(), Faults(strict)
        self._read = []
        for name in names:
            with faults.of(name):
                self._read.append(self._annotation(name, notices))
        self.names = tuple(name for name in names if name not in faults)
        self.paths = tuple(self._picture(name) for name in self.names)
        self.faults = faults.lines()
        self._refuse_fractions(file)
        self.notices = notices.lines()
        notices.warn(file)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        size, target = self._read[index]
        picture = read_picture(self._picture(self.names[index]), size)
        return picture, {name: rows.clone() for name, rows in target.items()}

    def _picture(self, name: str) -> Path:
        path = self.folder / "JPEGImages" / f"{name}.jpg"
        png = path.with_name(f"{name}.png")
        return png if not path.is_file() and png.is_file() else path

    def _annotation(self, name: str, notices: Notices) -> tuple[tuple[int, int], Target]:
        path = inside(self.folder / "Annotations", f"{name}.xml", str(self.folder))
        if not path.is_file():
            raise FileNotFoundError(
                f"VocFolder: expected the annotation {path}, got none; take {name!r} out of the "
                "list, or restore the file"
            )
        return read_voc(path, self.classes, self._picture(name), notices)

    def _refuse_fractions(self, file: Path) -> None:
        boxes = [box for _, target in self._read for box in target["boxes"].tolist()]
        if boxes and all(map(looks_normalised, boxes)):
            raise ValueError(
                f"{file}: expected boxes in pixels, got none beyond the first pixel in any of "
                f"{len(self.names)} files; multiply fractions by the width and height"
            )

    def __repr__(self) -> str:
        count = sum(len(target["labels"]) for _, target in self._read)
        return f"VocFolder({len(self)} of {self.split!r}, {count} objects in {self.folder})"


def read_voc(
    path: Path,
    classes: Sequence[str],
    picture: Path | None = None,
    notices: Notices | None = None,
) -> tuple[tuple[int, int], Target]:
    """Return height and width, and the truth, of one VOC file; see :class:`VocFolder`.

    Args:
        path: The XML file.
        classes: The names that occur.
        picture: Tells the size where the file does not.
        notices: Is told what was repaired or left out.

    Raises:
        ValueError: When the file is damaged.
    """
    notices = Notices() if notices is None else notices
    root = parse_xml(path)
    if root.tag != "annotation":
        raise ValueError(f"{path}: expected <annotation>, got <{root.tag[:60]}>")
    size = _size(root, path, picture, notices)
    boxes: list[list[float]] = []
    labels: list[int] = []
    ignore: list[bool] = []
    for number, thing in enumerate(root.findall("object"), start=1):
        where = f"{path}, object {number}"
        label, difficult = _label(thing, classes, where), _difficult(thing, where)
        box = checked_box(_corners(thing, where), size, where)
        if box is None:
            notices.add("box without area left out", f"{path.name}, object {number}")
            continue
        boxes.append(box)
        labels.append(label)
        ignore.append(difficult)
    return size, {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "ignore": torch.tensor(ignore, dtype=torch.bool),
    }


def _names(file: Path) -> tuple[str, ...]:
    """Return the names of a list, in which ``NAME 1`` and ``NAME -1`` are of one class's list."""
    if not file.is_file():
        known = sorted(path.stem for path in file.parent.glob("*.txt"))
        raise FileNotFoundError(
            f"VocFolder: expected {file}, got none; splits there: {', '.join(known) or 'none'}"
            f"{did_you_mean(file.stem, known)}"
        )
    lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    names = [re.sub(r"\s+(-1|0|1)$", "", line) for line in lines]
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"{file}: expected every name once, got {name!r} {count} times")
    return tuple(names)


def _size(root: Element, path: Path, picture: Path | None, notices: Notices) -> tuple[int, int]:
    where = f"{path}, size"
    sizes = root.findall("size")
    sides = [
        _number((_text(sizes[0], side, where, "0") if sizes else "") or "0", side, where)
        for side in ("height", "width")
    ]
    if 0 in sides and picture is not None:
        notices.add("size taken from the picture", path.name)
        return checked_size(*picture_size(picture), str(picture))
    if any(side != int(side) for side in sides):
        raise ValueError(f"{where}: expected integers for height and width, got {sides}")
    return checked_size(int(sides[0]), int(sides[1]), where)


def _label(thing: Element, classes: Sequence[str], where: str) -> int:
    name = _text(thing, "name", where)
    if name not in classes:
        raise ValueError(
            f"{where}: expected a class of {', '.join(classes)}, got {shown(name)}"
            f"{did_you_mean(name, classes)}"
        )
    return classes.index(name)


def _difficult(thing: Element, where: str) -> bool:
    flag = _text(thing, "difficult", where, "0") or "0"
    if flag not in ("0", "1"):
        raise ValueError(f"{where}: expected <difficult> to be 0 or 1, got {shown(flag)}")
    return flag == "1"


def _corners(thing: Element, where: str) -> list[float]:
    """Return x1, y1, x2, y2 at the edges of pixels; VOC counts from 1 and includes the last."""
    frames = thing.findall("bndbox")
    if len(frames) != 1:
        raise ValueError(
            f"{where}: expected one <bndbox>, got {len(frames) or 'none'}; a polygon needs a box "
            "around it"
        )
    x1, y1, x2, y2 = (
        _number(_text(frames[0], corner, where), corner, where)
        for corner in ("xmin", "ymin", "xmax", "ymax")
    )
    return [x1 - 1, y1 - 1, x2, y2]


def _number(text: str, name: str, where: str) -> float:
    try:
        value = float(text) if "_" not in text else float("nan")
    except ValueError:
        value = float("nan")
    if not is_number(value):
        raise ValueError(f"{where}: expected a finite number for <{name}>, got {shown(text)}")
    return value


def _text(element: Element, name: str, where: str, default: str | None = None) -> str:
    """Return the text of the only child of this name; the default stands for none."""
    found = element.findall(name)
    if not found and default is not None:
        return default
    if len(found) != 1:
        raise ValueError(f"{where}: expected one <{name}>, got {len(found) or 'none'}")
    return (found[0].text or "").strip()
