"""Serve detection data in the layouts of COCO, Pascal VOC and YOLO, the way scenes are served.

An image is [3,H,W], float32 in [0, 1], upright; a truth has ``boxes`` [n,4], x1, y1, x2, y2 in
pixels at their edges, and ``labels`` [n] from 0. Pictures differ in size: use
:func:`labs.data.augment.letterboxed` before batches are made.

**What labels say is checked when a folder is opened.** Whatever leaves their meaning in doubt is an
error, which names the file and the object: a value that is missing, no number, not finite or true
or false; an id or name twice, or of nothing; a box outside of its picture or inside out; an odd
outline, run lengths that do not fill the picture; fractions in place of pixels, or pixels in place
of fractions; a name that leads out of the folder; a size above the limit; a file that is not UTF-8,
or cut off; an XML document type.

**What leaves no doubt is repaired**, and nothing in silence: a warning counts it, and ``.notices``
lists it. Left out are boxes without area, outlines of fewer than three points beside others, rows
of YOLO that are there twice, and its text files without a picture. A size that is missing or 0 is
that of the picture. Without a notice, because nothing is lost: a byte order mark is passed over,
and a box that reaches at most a pixel (in YOLO's files 0.5 % of the picture) beyond it is clipped.

With ``strict=False`` errors of single pictures are not raised: the picture is left out whole, and
``.faults`` lists them.
"""

from labs.data.folders.coco import CocoFolder, coco_folder
from labs.data.folders.voc import VOC_CLASSES, VocFolder
from labs.data.folders.writing import to_yolo
from labs.data.folders.yolo import YoloFolder, yolo_folder

__all__ = [
    "VOC_CLASSES",
    "CocoFolder",
    "VocFolder",
    "YoloFolder",
    "coco_folder",
    "to_yolo",
    "yolo_folder",
]
