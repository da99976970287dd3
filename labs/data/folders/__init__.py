"""Serve detection data in the layouts of COCO and Pascal VOC, the way scenes are served.

An image is [3,H,W], float32 in [0, 1]; a truth has ``boxes`` [n,4], x1, y1, x2, y2 in pixels at
their edges, and ``labels`` [n] from 0. Pictures differ in size: use
:func:`labs.data.augment.letterboxed` before batches are made.
"""

from labs.data.folders.coco import CocoFolder, coco_folder
from labs.data.folders.voc import VOC_CLASSES, VocFolder

__all__ = ["VOC_CLASSES", "CocoFolder", "VocFolder", "coco_folder"]
