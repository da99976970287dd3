"""Write and read detection data the way COCO does: images in a folder, and one JSON file.

Lin et al., 2014, arXiv:1405.0312. Masks are run-length encoded by pycocotools.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from labs.data.scenes.truth import Target
from labs.extras import optional


class Labelled(Protocol):
    """Stand for any data set of images [3,H,W] and truths with ``boxes``, ``labels``, ``masks``."""

    split: str
    classes: tuple[str, ...]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Tensor, Any]: ...


class CocoFolder(Dataset[tuple[Tensor, Target]]):
    """Serve what :func:`to_coco` wrote.

    Images are [3,H,W], float32 in [0, 1]; a truth has ``boxes``, ``labels`` and ``masks`` as those
    of :class:`Scenes`, and ``iscrowd`` [n], bool.

    Args:
        folder: The folder that was written.
        split: Which of its splits.

    Attributes:
        classes: The class names, in the order of their category ids.
    """

    def __init__(self, folder: str | Path, split: str) -> None:
        file = _annotation_file(Path(folder), split)
        if not file.is_file():
            raise FileNotFoundError(
                f"from_coco: expected {file}, got none; write it with to_coco(dataset, folder)"
            )
        content = json.loads(file.read_text(encoding="utf-8"))
        self.folder, self.split = Path(folder), split
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.classes = tuple(category["name"] for category in categories)
        self._label = {category["id"]: k for k, category in enumerate(categories)}
        self._images = sorted(content["images"], key=lambda image: image["id"])
        self._notes: dict[int, list[dict[str, Any]]] = {row["id"]: [] for row in self._images}
        for note in content["annotations"]:
            self._notes[note["image_id"]].append(note)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        rle = _rle()
        row = self._images[index]
        with Image.open(self.folder / self.split / row["file_name"]) as file:
            pixels = np.array(file.convert("RGB"))
        notes = self._notes[row["id"]]
        corners = torch.tensor([note["bbox"] for note in notes], dtype=torch.float64).view(-1, 4)
        corners[:, 2:] += corners[:, :2]  # x, y, width, height -> x1, y1, x2, y2
        masks = np.zeros((len(notes), row["height"], row["width"]), bool)
        for mask, note in zip(masks, notes, strict=True):
            mask[:] = rle.decode(note["segmentation"])
        return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255).contiguous(), {
            "boxes": corners.float(),
            "labels": torch.tensor([self._label[n["category_id"]] for n in notes]).long(),
            "masks": torch.from_numpy(masks),
            "iscrowd": torch.tensor([n["iscrowd"] for n in notes]).bool(),
        }

    def __repr__(self) -> str:
        count = sum(map(len, self._notes.values()))
        return f"CocoFolder({len(self)} of {self.split!r}, {count} objects in {self.folder})"


def to_coco(dataset: Labelled, folder: str | Path) -> Path:
    """Write a data set as COCO does: ``annotations/SPLIT.json``, and ``SPLIT/*.png``.

    Image ids are the indices; category ids are the labels plus 1; annotation ids start at 1,
    because COCO's evaluation takes an id of 0 for no match. Hidden parts and tracks have no place
    in the format and are left out.

    Args:
        dataset: Single scenes, not sequences.
        folder: Where to write; other splits in it stay.

    Returns:
        The JSON file.

    Raises:
        FileExistsError: When the folder has this split already.
        ImportError: When pycocotools is not installed.
        ValueError: When the data set holds sequences.
    """
    file = _annotation_file(Path(folder), dataset.split)
    images = Path(folder) / dataset.split
    if file.exists() or images.exists():
        raise FileExistsError(
            f"to_coco: expected no {file} and no {images}, got one; remove it, or write elsewhere"
        )
    _rle()  # refuses before anything is written
    if len(dataset) and dataset[0][0].ndim != 3:
        raise ValueError(
            f"to_coco: expected images [3,H,W], got {list(dataset[0][0].shape)}; write scenes with "
            "frames=None"
        )
    images.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        image, target = dataset[index]
        rows.append(_write_image(images, index, image))
        notes += _annotations(target, index, first=len(notes) + 1)
    content = {"images": rows, "annotations": notes, "categories": _categories(dataset.classes)}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def from_coco(folder: str | Path, split: str) -> CocoFolder:
    """Read what :func:`to_coco` wrote; images, boxes, labels and masks come back exactly.

    Raises:
        FileNotFoundError: When the folder has no such split.
        ImportError: On the first scene, when pycocotools is not installed.
    """
    return CocoFolder(folder, split)


def _rle() -> Any:
    return optional("pycocotools.mask", "labs.data.scenes", "dev")


def _annotation_file(folder: Path, split: str) -> Path:
    return folder / "annotations" / f"{split}.json"


def _categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": k, "name": name} for k, name in enumerate(classes, start=1)]


def _write_image(folder: Path, index: int, image: Tensor) -> dict[str, Any]:
    name = f"{index:06d}.png"
    pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()  # [H,W,3]
    Image.fromarray(pixels).save(folder / name)
    return {"id": index, "file_name": name, "height": image.shape[1], "width": image.shape[2]}


def _annotations(target: Target, index: int, first: int) -> list[dict[str, Any]]:
    rle = _rle()
    notes = []
    boxes, labels = target["boxes"].double().tolist(), target["labels"].tolist()
    for k, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        code = rle.encode(np.asfortranarray(target["masks"][k].numpy().astype(np.uint8)))
        notes.append(
            {
                "id": first + k,
                "image_id": index,
                "category_id": label + 1,
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "area": int(rle.area(code)),
                "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
                "iscrowd": 0,
            }
        )
    return notes
