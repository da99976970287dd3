"""Read Pascal VOC: one XML file per picture (Everingham et al., 2010)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor
from torch.utils.data import Dataset

from labs.data.folders.pictures import Target, checked_box, read_picture
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
    x1 - 1, y1 - 1, x2, y2. Boxes that reach at most one pixel beyond the picture are clipped, and
    those without area are left out.

    Args:
        folder: The folder.
        split: The name of a list in ``ImageSets/Main``.
        classes: The names that occur; a label is an index into them.

    Attributes:
        names: The picture of each index.

    Raises:
        FileNotFoundError: When the list, or the annotation of a picture in it, is missing.
        ValueError: When an annotation is damaged, names an unknown class, or has a box outside of
            the picture. All are read at once, so errors come here.
    """

    def __init__(
        self, folder: str | Path, split: str, classes: Sequence[str] = VOC_CLASSES
    ) -> None:
        self.folder, self.split, self.classes = Path(folder), split, tuple(classes)
        lists = self.folder / "ImageSets" / "Main"
        file = lists / f"{split}.txt"
        if not file.is_file():
            known = sorted(path.stem for path in lists.glob("*.txt"))
            raise FileNotFoundError(
                f"VocFolder: expected {file}, got none; splits there: {', '.join(known) or 'none'}"
                f"{did_you_mean(split, known)}"
            )
        lines = file.read_text(encoding="utf-8").splitlines()
        self.names = tuple(line.split()[0] for line in lines if line.strip())
        self._read = [self._annotation(name) for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        size, target = self._read[index]
        pictures = self.folder / "JPEGImages"
        path = pictures / f"{self.names[index]}.jpg"
        if not path.is_file() and path.with_suffix(".png").is_file():
            path = path.with_suffix(".png")
        return read_picture(path, size), {name: rows.clone() for name, rows in target.items()}

    def _annotation(self, name: str) -> tuple[tuple[int, int], Target]:
        path = self.folder / "Annotations" / f"{name}.xml"
        if not path.is_file():
            raise FileNotFoundError(
                f"VocFolder: expected the annotation {path}, got none; take {name!r} out of the "
                "list, or restore the file"
            )
        try:
            return read_voc(path, self.classes)
        except (ElementTree.ParseError, TypeError) as error:  # float(None) is a TypeError
            raise ValueError(f"{path}: expected a VOC annotation, got {error}") from error

    def __repr__(self) -> str:
        count = sum(len(target["labels"]) for _, target in self._read)
        return f"VocFolder({len(self)} of {self.split!r}, {count} objects in {self.folder})"


def read_voc(path: Path, classes: Sequence[str]) -> tuple[tuple[int, int], Target]:
    """Return height and width, and the truth, of one VOC file; see :class:`VocFolder`."""
    root = ElementTree.parse(path).getroot()
    size = int(_text(root, "size/height")), int(_text(root, "size/width"))
    boxes: list[list[float]] = []
    labels: list[int] = []
    ignore: list[bool] = []
    for number, thing in enumerate(root.findall("object"), start=1):
        where, name = f"{path}, object {number}", _text(thing, "name")
        if name not in classes:
            raise ValueError(
                f"{where}: expected a class of {', '.join(classes)}, got {name!r}"
                f"{did_you_mean(name, classes)}"
            )
        x1, y1, x2, y2 = (
            float(_text(thing, f"bndbox/{corner}")) for corner in ("xmin", "ymin", "xmax", "ymax")
        )
        box = checked_box([x1 - 1, y1 - 1, x2, y2], size, where)
        if box is not None:
            boxes.append(box)
            labels.append(classes.index(name))
            ignore.append(thing.findtext("difficult", "0").strip() == "1")
    return size, {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "ignore": torch.tensor(ignore, dtype=torch.bool),
    }


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise TypeError(f"no <{path.replace('/', '><')}>")
    return text.strip()
