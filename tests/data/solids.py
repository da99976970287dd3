"""Pictures with unique solid rectangles, so that a box can be compared with what is seen."""

from __future__ import annotations

import torch
from torch import Tensor

PALETTE = [
    (r / 4, g / 4, b / 4) for r in range(5) for g in range(5) for b in range(5) if r != g or g != b
]


class Solids:
    """Hold pictures whose k-th object is a rectangle of the colour ``PALETTE[label]``."""

    split, classes = "train", tuple(map(str, range(len(PALETTE))))

    def __init__(self, sizes, boxes, masks=True):
        self.sizes, self.boxes, self.masks = sizes, boxes, masks

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        h, w = self.sizes[index]
        first = sum(map(len, self.boxes[:index]))
        image, masks = torch.zeros(3, h, w), torch.zeros(len(self.boxes[index]), h, w).bool()
        labels = torch.arange(len(self.boxes[index])) + first
        for k, (x1, y1, x2, y2) in enumerate(self.boxes[index]):
            image[:, y1:y2, x1:x2] = torch.tensor(PALETTE[first + k])[:, None, None]
            masks[k, y1:y2, x1:x2] = True
        boxes = torch.tensor(self.boxes[index], dtype=torch.float32).view(-1, 4)
        target = {"boxes": boxes, "labels": labels, "track_ids": labels + 100}
        return image, target | ({"masks": masks} if self.masks else {})


def blob(image: Tensor, label: int, tolerance: float = 0.01) -> Tensor:
    """Return where the picture has the colour of this label, [H,W]."""
    colour = torch.tensor(PALETTE[label])[:, None, None]
    return (image - colour).abs().amax(0) <= tolerance


def seen(image: Tensor) -> dict[int, list[float]]:
    """Return the box of every colour of the palette that is seen, by label."""
    found = {}
    for label in range(len(PALETTE)):
        ys, xs = torch.nonzero(blob(image, label), as_tuple=True)
        if len(ys):
            found[label] = [float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
    return found


def assert_honest(image, target):
    """Assert that each object's box and mask are its blob, and that no blob lacks an object."""
    found = dict(zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True))
    assert found == seen(image)
    assert torch.equal(target["track_ids"], target["labels"] + 100)
    for mask, label in zip(target.get("masks", ()), target["labels"].tolist(), strict=False):
        assert torch.equal(mask, blob(image, label))
