"""Write pictures and boxes in the layout of YOLO, which any tool can read and any editor mend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image
from torch import Tensor

from labs.data.folders.pictures import Target


class _Labelled(Protocol):
    split: str
    classes: tuple[str, ...]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Tensor, Target]: ...


def to_yolo(dataset: _Labelled, folder: str | Path) -> Path:
    """Write ``images/SPLIT/*.png``, ``labels/SPLIT/*.txt`` and ``classes.txt``; boxes only.

    Args:
        dataset: Single pictures [3,H,W] in [0, 1] with ``boxes`` and ``labels``.
        folder: Where to write; other splits in it stay.

    Returns:
        The folder.

    Raises:
        FileExistsError: When the folder has this split already.
        ValueError: When it has other classes.
    """
    root = Path(folder)
    images, labels = root / "images" / dataset.split, root / "labels" / dataset.split
    names, said = root / "classes.txt", "".join(f"{name}\n" for name in dataset.classes)
    for path in (images, labels):
        if path.exists():
            raise FileExistsError(
                f"to_yolo: expected no {path}, got one; remove it, or write elsewhere"
            )
    if names.exists() and names.read_text(encoding="utf-8") != said:
        raise ValueError(
            f"to_yolo: expected {names} to say {', '.join(dataset.classes)}, got "
            f"{', '.join(names.read_text(encoding='utf-8').split())}; write elsewhere"
        )
    for path in (images, labels):
        path.mkdir(parents=True)
    names.write_text(said, encoding="utf-8")
    for index in range(len(dataset)):
        image, target = dataset[index]
        pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()  # [H,W,3]
        Image.fromarray(pixels).save(images / f"{index:06d}.png")
        rows = zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True)
        lines = [_row(label, box, *image.shape[1:]) for label, box in rows]
        (labels / f"{index:06d}.txt").write_text("".join(lines), encoding="utf-8")
    return root


def _row(label: int, box: Sequence[float], height: int, width: int) -> str:
    x1, y1, x2, y2 = box
    shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return " ".join([str(label), *(f"{share:.8f}" for share in shares)]) + "\n"
