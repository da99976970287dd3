"""Read a folder of somebody's own pictures, check it, split it, and fit it to one size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from labs.data.augment import letterbox
from labs.data.scenes import Rendered
from labs.imagefile import BadImageError
from labs.near_miss import did_you_mean
from labs.recipes.layouts import Folder, open_layout

_SHOWN = 8  # faults in an error
_SMALL = 8.0  # px: the stride of the finest map of most detectors


@dataclass(frozen=True, repr=False, eq=False)
class OwnPictures:
    """Hold the pictures of a folder, letterboxed to one size and split by file.

    Attributes:
        parts: ``"train"`` and ``"val"``, and ``"test"`` where the folder has one.
        paths: The file of each picture, by the same names.
        layout: ``"COCO"``, ``"Pascal VOC"`` or ``"YOLO"``.
        size: Height and width of the pictures.
        faults: What was wrong with the pictures that are left out, one line each.
        notices: What was repaired, and what you may want to know, one line each.
        digest: Changes when a pixel, a box or a label does.
    """

    parts: Mapping[str, Rendered]
    paths: Mapping[str, tuple[Path, ...]]
    layout: str
    size: int
    faults: tuple[str, ...]
    notices: tuple[str, ...]
    digest: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the labels."""
        return self.parts["train"].classes

    @property
    def judge(self) -> str:
        """Return the part that the result is measured on: the test pictures where there are any."""
        return "test" if "test" in self.parts else "val"

    @property
    def shapes(self) -> Tensor:
        """Return width and height of every box to learn from, [n,2], in pixels of ``size``."""
        boxes = torch.cat([target["boxes"] for target in self.parts["train"].targets])
        return boxes[:, 2:] - boxes[:, :2]

    def table(self) -> pd.DataFrame:
        """Return one row per class: how many objects of it each part holds."""
        rows = {}
        for name, part in self.parts.items():
            labels = torch.cat([target["labels"] for target in part.targets])
            rows[name] = labels.bincount(minlength=len(self.classes)).tolist()
        return pd.DataFrame(rows, index=pd.Index(self.classes, name="class"))

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(part)} {name}" for name, part in self.parts.items())
        return (
            f"OwnPictures({self.layout}, {counts}, {len(self.classes)} classes, "
            f"{int(self.table().to_numpy().sum())} objects, {self.size}x{self.size}, "
            f"{len(self.faults)} faults)"
        )


def own_pictures(
    folder: str | Path,
    size: int = 128,
    *,
    share: float = 0.2,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    skip_faults: bool = False,
    limit: int | None = None,
) -> OwnPictures:
    """Read a folder in the layout of COCO, Pascal VOC or YOLO, and hold all of it in memory.

    Every label is checked and every picture decoded first. The folder's own validation pictures
    are taken where there are any. Otherwise a share of the files is, drawn by their content, so
    that a picture that is there twice lies on one side.

    Args:
        folder: The folder.
        size: Height and width that the pictures are letterboxed to, a multiple of 32.
        share: How many of the files are for validation, in (0, 1).
        seed: Of this choice.
        classes: The names of the labels; those that the folder tells by default.
        skip_faults: Leave out pictures that are damaged, or whose labels are.
        limit: Use only the first so many pictures of each part.

    Raises:
        FileNotFoundError: When there is no such folder, or something in it is missing.
        ValueError: When the folder has no known layout, something in it is damaged (the error
            lists what, up to a few lines), or its parts have different classes.
    """
    root = _checked(Path(folder), size, share)
    layout, folders = open_layout(root, classes)
    _refuse_other_classes(folders)
    held = [_Held(name, part, size) for name, part in folders.items()]
    faults = tuple(line for part in held for line in part.faults)
    if faults and not skip_faults:
        more = f"\n  … and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ValueError(
            f"{root}: {len(faults)} faults:\n  "
            + "\n  ".join(faults[:_SHOWN])
            + f"{more}\nmend them, or leave these pictures out with --skip-faults"
        )
    if any(not len(part) for part in held):
        empty = ", ".join(part.split for part in held if not len(part))
        raise ValueError(f"{root}: expected sound pictures in every part, got none in {empty}")
    parts = {part.split: part for part in held}
    if "val" not in parts:
        parts |= _divide(parts["train"], share, seed)
    if limit is not None:
        parts = {name: part.take(range(min(limit, len(part)))) for name, part in parts.items()}
    rendered = {name: Rendered(part, part.keys) for name, part in parts.items()}
    notices = [line for part in folders.values() for line in part.notices]
    return OwnPictures(
        rendered,
        {name: part.paths for name, part in parts.items()},
        layout,
        size,
        faults,
        (*notices, *_advice(rendered, size)),
        _digest(rendered.values()),
    )


class _Held(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Hold the letterboxed pictures of one part whose files and labels are sound."""

    keys = ("boxes", "labels", "iscrowd", "ignore")

    def __init__(self, split: str, folder: Folder, size: int) -> None:
        self.split, self.classes = split, folder.classes
        self._examples: list[tuple[Tensor, dict[str, Tensor]]] = []
        faults, paths = list(folder.faults), []
        for index, path in enumerate(folder.paths):
            try:
                example = folder[index]
            except (ValueError, OSError, BadImageError) as error:
                faults.append(str(error))
                continue
            self._examples.append(self._fitted(*example, size))
            paths.append(path)
        self.faults, self.paths = tuple(faults), tuple(paths)

    def _fitted(
        self, image: Tensor, target: dict[str, Tensor], size: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        no = torch.zeros(len(target["labels"]), dtype=torch.bool)
        whole = {key: target.get(key, no) for key in self.keys}
        small, fitted = letterbox((image, whole), (size, size))
        return small.mul(255).round_().byte(), fitted

    def take(self, indices: Iterable[int]) -> _Held:
        """Return a part of this part."""
        taken = object.__new__(_Held)
        taken.split, taken.classes, taken.faults = self.split, self.classes, ()
        which = list(indices)
        taken._examples = [self._examples[k] for k in which]
        taken.paths = tuple(self.paths[k] for k in which)
        return taken

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, target = self._examples[index]
        return image.float().div_(255), dict(target)


def _checked(root: Path, size: int, share: float) -> Path:
    if size < 32 or size % 32:
        raise ValueError(f"--size: expected a multiple of 32, got {size}")
    if not 0 < share < 1:
        raise ValueError(f"--val-share: expected a share in (0, 1), got {share}")
    if not root.is_dir():
        beside = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
        hint = did_you_mean(root.name, beside)
        raise FileNotFoundError(f"--data: expected a folder, got {root}, which is none{hint}")
    return root


def _refuse_other_classes(folders: Mapping[str, Folder]) -> None:
    classes = folders["train"].classes
    for name, folder in folders.items():
        if folder.classes == classes:
            continue
        same = set(folder.classes) == set(classes)
        what = "the same classes in another order" if same else "other classes"
        raise ValueError(
            f"--data: {name} has {what}: {', '.join(folder.classes)} in place of "
            f"{', '.join(classes)}; a label would mean two things: number them alike in both files"
        )


def _divide(whole: _Held, share: float, seed: int) -> dict[str, _Held]:
    """Split by content, so that neither the order of the files nor a new file moves the others."""
    if len(whole) < 2:
        raise ValueError(
            f"--data: expected two pictures at least, to learn from one and to judge by the other, "
            f"got {len(whole)}"
        )
    n = len(whole)
    keys = [hashlib.sha256(f"{seed}".encode() + _bytes(whole[k][0])).digest() for k in range(n)]
    order = sorted(range(len(whole)), key=keys.__getitem__)
    end = min(max(1, round(share * len(whole))), len(whole) - 1)
    while end < len(whole) - 1 and keys[order[end]] == keys[order[end - 1]]:
        end += 1  # twins stay together
    train, val = whole.take(sorted(order[end:])), whole.take(sorted(order[:end]))
    train.split, val.split = "train", "val"
    return {"train": train, "val": val}


def _bytes(image: Tensor) -> bytes:
    return image.mul(255).round().byte().numpy().tobytes()


def _digest(parts: Iterable[Rendered]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.images.numpy().tobytes())
        for target in part.targets:
            digest.update(target["boxes"].numpy().tobytes() + target["labels"].numpy().tobytes())
    return digest.hexdigest()[:16]


def _advice(parts: Mapping[str, Rendered], size: int) -> list[str]:
    """Say what is no fault, and still decides what can be learnt."""
    found = []
    for name, part in parts.items():
        labels = torch.cat([target["labels"] for target in part.targets])
        counts = labels.bincount(minlength=len(part.classes)).tolist()
        if lacking := [part.classes[k] for k, count in enumerate(counts) if not count]:
            found.append(f"{name}: no object of {', '.join(lacking)}")
    boxes = torch.cat([target["boxes"] for target in parts["train"].targets])
    small = ((boxes[:, 2:] - boxes[:, :2]).amin(1) < _SMALL).sum() if len(boxes) else 0
    if 10 * small > len(boxes):
        found.append(
            f"train: {int(small)} of {len(boxes)} boxes are thinner than {_SMALL:g} px at "
            f"{size}x{size}: try --size {2 * size}, or cut the pictures into tiles"
        )
    train = {image.numpy().tobytes() for image in parts["train"].images}
    for name, part in parts.items():
        twins = sum(image.numpy().tobytes() in train for image in part.images)
        if name != "train" and twins:
            found.append(f"{name}: {twins} pictures are in train as well, so its score flatters")
    return found
