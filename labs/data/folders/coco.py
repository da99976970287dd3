"""Read COCO: pictures in a folder, and one JSON file (Lin et al., 2014, arXiv:1405.0312)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from labs.data.folders.faults import Faults
from labs.data.folders.fields import (
    Row,
    identity,
    is_number,
    numbers,
    read_lists,
    refuse_twice,
    text,
)
from labs.data.folders.masks import Code, checked_code, mask_codec, to_masks
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

__all__ = ["CocoFolder", "coco_folder", "mask_codec"]


@dataclass(frozen=True)
class _Image:
    path: Path
    size: tuple[int, int]


@dataclass(frozen=True)
class _Note:
    corners: list[float]
    label: int
    iscrowd: bool
    area: float
    code: Code | None


class CocoFolder(Dataset[tuple[Tensor, Target]]):
    """Serve pictures and an ``instances`` file of COCO.

    A truth has ``boxes``, ``labels``, ``iscrowd`` [n], bool, ``area`` [n], float32 in square pixels
    as annotated (what COCO calls small is decided by it), and ``masks`` [n,H,W], bool, from
    polygons and run lengths. Category ids may have gaps: a label is the place of its id among all
    ids. Pictures without an object are served as well.

    All that the file says is checked when it is opened; see :mod:`labs.data.folders` for what is
    an error and what is repaired. What may be missing: ``iscrowd`` (then 0), ``area`` (then the
    box's), the ``id`` of an annotation, and the size of a picture.

    Args:
        images: The folder of the pictures.
        annotations: The JSON file.
        split: A name for this part of the data.
        masks: Whether truths have masks; without them ``segmentation`` is not looked at.
        strict: Raise the first error. Otherwise pictures whose size or annotations are damaged are
            left out, and ``faults`` tells of each; a file that is damaged as a whole still raises.

    Attributes:
        classes: The class names, in the order of their category ids.
        paths: The picture of each index.
        faults: The errors that were not raised, one line each.
        notices: What was repaired or left out, one line each.

    Raises:
        FileNotFoundError: When the file or the folder is missing, or a picture whose size the file
            does not tell.
        ValueError: When the file is no ``instances`` file, or an annotation has an unknown image,
            an unknown category, a box outside of its picture, or a damaged mask.
        ImportError: On the first picture with polygons, when pycocotools is not installed.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        split: str,
        masks: bool = True,
        strict: bool = True,
    ) -> None:
        self.images, self.annotations = Path(images), Path(annotations)
        self.split, self.masks = split, masks
        _refuse_missing(self.images, self.annotations)
        content = read_lists(
            self.annotations,
            ("annotations", "categories", "images"),
            "take an instances file (a test set has no annotations)",
        )
        notices, faults = Notices(), Faults(strict)
        ids, self.classes = self._categories(content["categories"])
        self._label = {key: k for k, key in enumerate(ids)}
        self._images = self._checked_images(content["images"], notices, faults)
        self._notes: dict[int | str, list[_Note]] = {key: [] for key in self._images}
        self._read_notes(content["annotations"], notices, faults)
        self._keys = [key for key in self._images if key not in faults]
        self.paths = tuple(self._images[key].path for key in self._keys)
        self.faults = faults.lines()
        self.notices = notices.lines()
        notices.warn(self.annotations)

    def _categories(self, rows: list[Row]) -> tuple[list[int | str], tuple[str, ...]]:
        found = []
        for place, row in enumerate(rows):
            where = f"{self.annotations}, categories[{place}]"
            found.append((identity(row, "id", where), text(row, "name", where)))
        refuse_twice([key for key, _ in found], "id of a category", self.annotations)
        refuse_twice([name for _, name in found], "name of a category", self.annotations)
        found.sort(key=lambda pair: pair[0])
        return [key for key, _ in found], tuple(name for _, name in found)

    def _checked_images(
        self, rows: list[Row], notices: Notices, faults: Faults
    ) -> dict[int | str, _Image]:
        found: list[tuple[int | str, _Image]] = []
        keys: list[int | str] = []
        for place, row in enumerate(rows):
            key = identity(row, "id", f"{self.annotations}, images[{place}]")
            keys.append(key)
            where = f"{self.annotations}, image {shown(key)}"
            with faults.of(key):
                path = inside(self.images, text(row, "file_name", where), where)
                found.append((key, _Image(path, _size(row, path, where, notices))))
        refuse_twice(keys, "id of an image", self.annotations)
        return dict(sorted(found, key=lambda pair: pair[0]))

    def _read_notes(self, rows: list[Row], notices: Notices, faults: Faults) -> None:
        ids, fractions, boxes = [], [], 0
        for place, row in enumerate(rows):
            name = f"annotations[{place}]"
            if row.get("id") is not None:
                ids.append(identity(row, "id", f"{self.annotations}, {name}"))
                name = f"annotation {shown(ids[-1])}"
            where = f"{self.annotations}, {name}"
            key = identity(row, "image_id", where)
            if key in faults and key not in self._images:
                continue  # of a picture that is left out already
            note = None
            with faults.of(key):
                note = self._checked(row, key, where, notices)
            if key in faults:
                continue
            if note is None:
                notices.add("box without area left out", name)
                continue
            boxes += 1
            self._notes[key].append(note)
            if looks_normalised(note.corners):
                fractions.append(name)
                notices.add("box inside the first pixel kept, a fraction of the picture?", name)
        refuse_twice(ids, "id of an annotation", self.annotations)
        if boxes and len(fractions) == boxes:
            raise ValueError(
                f"{self.annotations}, {fractions[0]}: expected boxes in pixels, got fractions of "
                "the picture in all of them; multiply by its width and height"
            )

    def _checked(self, row: Row, key: int | str, where: str, notices: Notices) -> _Note | None:
        category = identity(row, "category_id", where)
        if key not in self._images:
            raise ValueError(f"{where}: expected the id of an image, got {shown(key)}")
        if category not in self._label:
            known = ", ".join(f"{key} {self.classes[k]}" for key, k in self._label.items())
            raise ValueError(
                f"{where}: expected a category id of {known or 'none'}, got {shown(category)}"
            )
        size = self._images[key].size
        x, y, w, h = numbers(row, "bbox", 4, where)
        corners = checked_box([x, y, x + w, y + h], size, where)
        if corners is None:
            return None
        crowd, area = _flag(row, "iscrowd", where), _area(row, w * h, where)
        code = row.get("segmentation")
        checked = checked_code(code, size, where, notices) if self.masks else None
        return _Note(corners, self._label[category], crowd, area, checked)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image, notes = self._images[self._keys[index]], self._notes[self._keys[index]]
        picture = read_picture(image.path, image.size)
        corners = torch.tensor([note.corners for note in notes], dtype=torch.float64)
        target = {
            "boxes": corners.view(-1, 4).float(),
            "labels": torch.tensor([note.label for note in notes]).long(),
            "iscrowd": torch.tensor([note.iscrowd for note in notes]).bool(),
            "area": torch.tensor([note.area for note in notes], dtype=torch.float32),
        }
        if self.masks:
            codes = [note.code for note in notes if note.code is not None]
            where = f"{self.annotations}, {image.path.name}"
            target["masks"] = torch.from_numpy(to_masks(codes, image.size, where))
        return picture, target

    def __repr__(self) -> str:
        count = sum(len(self._notes[key]) for key in self._keys)
        return f"CocoFolder({len(self)} of {self.split!r}, {count} objects in {self.images})"


def coco_folder(folder: str | Path, split: str, masks: bool = True) -> CocoFolder:
    """Serve the published layout: ``SPLIT/*.jpg`` and ``annotations/instances_SPLIT.json``.

    Args:
        folder: The folder of both.
        split: Such as ``"val2017"``.
        masks: Whether truths have masks.

    Raises:
        FileNotFoundError: When one of them is missing.
        ValueError: When the annotations are damaged; see :class:`CocoFolder`.
    """
    annotations = Path(folder) / "annotations" / f"instances_{split}.json"
    return CocoFolder(Path(folder) / split, annotations, split, masks)


def _refuse_missing(images: Path, annotations: Path) -> None:
    if not annotations.is_file():
        raise FileNotFoundError(
            f"CocoFolder: expected the annotations {annotations}, got none; files there: "
            f"{', '.join(sorted(p.name for p in annotations.parent.glob('*.json'))) or 'none'}"
        )
    if not images.is_dir():
        raise FileNotFoundError(f"CocoFolder: expected a folder of pictures {images}, got none")


def _size(row: Row, path: Path, where: str, notices: Notices) -> tuple[int, int]:
    """Return height and width; those of the picture where the file has none, or zero."""
    sides: list[Any] = [row.get("height"), row.get("width")]
    if any(side in (None, 0) and side is not False for side in sides):
        notices.add("size taken from the picture", where.rpartition(", ")[2])
        return checked_size(*picture_size(path), str(path))
    for name, side in zip(("height", "width"), sides, strict=True):
        if not is_number(side) or side != int(side):
            raise ValueError(f"{where}: expected {name} to be an integer, got {shown(side)}")
    return checked_size(int(sides[0]), int(sides[1]), where)


def _flag(row: Row, key: str, where: str) -> bool:
    value = row.get(key)
    if value is None or (type(value) in (int, bool) and value in (0, 1)):
        return bool(value)
    raise ValueError(f"{where}: expected {key} to be 0 or 1, got {shown(value)}")


def _area(row: Row, default: float, where: str) -> float:
    value = default if row.get("area") is None else row["area"]
    if not is_number(value) or value < 0:
        raise ValueError(f"{where}: expected area to be a number from 0 on, got {shown(value)}")
    return float(value)
