"""Compose scenes with many objects, and know the truth about every pixel of them.

Handwritten digits, clothes and photographic cut-outs lie on photographic backgrounds. Because the
scenes are put together here, boxes, masks, hidden parts and tracks are known exactly.

Boxes are ``x1, y1, x2, y2`` in pixels, measured at the edges of pixels: a mask of one pixel in the
upper left corner has the box 0, 0, 1, 1. (``torchvision.ops.masks_to_boxes`` gives 0, 0, 0, 0.)
"""

from labs.data.scenes.coco import CocoFolder, Labelled, from_coco, to_coco
from labs.data.scenes.dataset import Scenes, collate
from labs.data.scenes.knobs import Knobs
from labs.data.scenes.layout import Layout, Sprite
from labs.data.scenes.preview import preview
from labs.data.scenes.rendered import Batches, Rendered

__all__ = [
    "Batches",
    "CocoFolder",
    "Knobs",
    "Labelled",
    "Layout",
    "Rendered",
    "Scenes",
    "Sprite",
    "collate",
    "from_coco",
    "preview",
    "to_coco",
]
