"""Write detection data the way COCO does, and read it back: images, and one JSON file.

Lin et al., 2014, arXiv:1405.0312. Masks are run-length encoded by pycocotools.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from labs.data.folders.coco import CocoFolder, mask_codec
from labs.data.scenes.truth import Target


class Labelled(Protocol):
    """Stand for any data set of images [3,H,W] and truths with ``boxes``, ``labels``, ``masks``."""

    split: str
    classes: tuple[str, ...]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Tensor, Any]: ...


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
    mask_codec()  # refuses before anything is written
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
    file = _annotation_file(Path(folder), split)
    if not file.is_file():
        raise FileNotFoundError(
            f"from_coco: expected {file}, got none; write it with to_coco(dataset, folder), or "
            "read a published folder with labs.data.folders.coco_folder"
        )
    return CocoFolder(Path(folder) / split, file, split)


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
    rle = mask_codec()
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
