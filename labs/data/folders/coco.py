"""Read COCO: pictures in a folder, and one JSON file (Lin et al., 2014, arXiv:1405.0312)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from labs.data.folders.pictures import Target, checked_box, read_picture
from labs.extras import optional

Note = dict[str, Any]


class CocoFolder(Dataset[tuple[Tensor, Target]]):
    """Serve pictures and an ``instances`` file of COCO.

    A truth has ``boxes``, ``labels``, ``iscrowd`` [n], bool, ``area`` [n], float32 in square pixels
    as annotated (what COCO calls small is decided by it), and ``masks`` [n,H,W], bool, from
    polygons and run lengths. Category ids may have gaps: a label is the place of its id among all
    ids. Boxes that reach at most one pixel beyond the picture are clipped, and those without area
    are left out. Pictures without an object are served as well.

    Args:
        images: The folder of the pictures.
        annotations: The JSON file.
        split: A name for this part of the data.
        masks: Whether truths have masks; without them pycocotools is not needed.

    Attributes:
        classes: The class names, in the order of their category ids.

    Raises:
        FileNotFoundError: When the file or the folder is missing.
        ValueError: When the file is no ``instances`` file, or an annotation has an unknown image,
            an unknown category, or a box outside of its picture.
        ImportError: On the first picture, when pycocotools is needed and not installed.
    """

    def __init__(
        self, images: str | Path, annotations: str | Path, split: str, masks: bool = True
    ) -> None:
        self.images, self.annotations = Path(images), Path(annotations)
        self.split, self.masks = split, masks
        content = _content(self.images, self.annotations)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.classes = tuple(category["name"] for category in categories)
        self._label = {category["id"]: k for k, category in enumerate(categories)}
        self._images = sorted(content["images"], key=lambda image: image["id"])
        self._notes: dict[int, list[Note]] = {row["id"]: [] for row in self._images}
        sizes = {row["id"]: (row["height"], row["width"]) for row in self._images}
        for note in content["annotations"]:
            box = self._checked(note, sizes)
            if box is not None:
                self._notes[note["image_id"]].append(note | {"corners": box})

    def _checked(self, note: Note, sizes: dict[int, tuple[int, int]]) -> list[float] | None:
        where = f"{self.annotations}, annotation {note.get('id')}"
        if note["image_id"] not in sizes:
            raise ValueError(f"{where}: expected the id of an image, got {note['image_id']}")
        if note["category_id"] not in self._label:
            known = ", ".join(f"{key} {self.classes[k]}" for key, k in self._label.items())
            raise ValueError(
                f"{where}: expected a category id of {known}, got {note['category_id']}"
            )
        x, y, w, h = note["bbox"]
        return checked_box([x, y, x + w, y + h], sizes[note["image_id"]], where)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        row = self._images[index]
        notes, size = self._notes[row["id"]], (row["height"], row["width"])
        corners = torch.tensor([note["corners"] for note in notes], dtype=torch.float64)
        areas = [n.get("area", n["bbox"][2] * n["bbox"][3]) for n in notes]
        target = {
            "boxes": corners.view(-1, 4).float(),
            "labels": torch.tensor([self._label[n["category_id"]] for n in notes]).long(),
            "iscrowd": torch.tensor([n.get("iscrowd", 0) for n in notes]).bool(),
            "area": torch.tensor(areas, dtype=torch.float32),
        }
        if self.masks:
            masks = np.zeros((len(notes), *size), bool)
            for mask, note in zip(masks, notes, strict=True):
                mask[:] = _decoded(note, size)
            target["masks"] = torch.from_numpy(masks)
        return read_picture(self.images / row["file_name"], size), target

    def __repr__(self) -> str:
        count = sum(map(len, self._notes.values()))
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


def mask_codec() -> Any:
    """Return the module of pycocotools that codes masks.

    Raises:
        ImportError: When it is not installed.
    """
    return optional("pycocotools.mask", "masks of COCO folders")


def _content(images: Path, annotations: Path) -> dict[str, list[Note]]:
    if not annotations.is_file():
        raise FileNotFoundError(
            f"CocoFolder: expected the annotations {annotations}, got none; files there: "
            f"{', '.join(sorted(p.name for p in annotations.parent.glob('*.json'))) or 'none'}"
        )
    if not images.is_dir():
        raise FileNotFoundError(f"CocoFolder: expected a folder of pictures {images}, got none")
    content: dict[str, list[Note]] = json.loads(annotations.read_text(encoding="utf-8"))
    wanted = {"images", "annotations", "categories"}
    if not wanted <= content.keys():
        raise ValueError(
            f"{annotations}: expected {', '.join(sorted(wanted))}, got {', '.join(content)}; take "
            "an instances file (a test set has no annotations)"
        )
    return content


def _decoded(note: Note, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the mask [H,W] of polygons or of run lengths."""
    codec, code = mask_codec(), note.get("segmentation")
    if not code:
        raise ValueError(
            f"annotation {note.get('id')}: expected a segmentation, got none; open the folder with "
            "masks=False"
        )
    if isinstance(code, list):  # polygons: the parts of one object
        code = codec.merge(codec.frPyObjects(code, *size))
    elif isinstance(code["counts"], list):  # run lengths that are not compressed, as of crowds
        code = codec.frPyObjects(code, *size)
    mask: NDArray[np.uint8] = codec.decode(code)
    return mask
