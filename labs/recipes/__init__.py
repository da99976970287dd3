r"""Train a small detector on scenes of digits, and load one that is trained.

One command trains it, in one process or in many, and goes on where it was stopped::

    python -m labs.recipes yolo_v8 --steps 600 --out yolo_v8.safetensors
    python -m labs.recipes yolo_v8 --steps 6000 --checkpoint runs/v8 --save-every 200 --resume
    torchrun --standalone --nproc-per-node=2 -m labs.recipes yolo_v8 --steps 600

On your own pictures, in the layout of COCO, Pascal VOC or YOLO::

    python -m labs.recipes yolo_v8 --data FOLDER --from yolo_v8 --epochs 20 --out mine.safetensors

The file holds the weights, and in its header how they were made and what they reach on scenes that
training never saw. ``labs.recipes.load("yolo_v8.safetensors")`` gives the detector.
"""

from labs.recipes.detectors import (
    DETECTORS,
    mini_yolo_v1,
    mini_yolo_v3,
    mini_yolo_v4,
    mini_yolo_v5,
    mini_yolo_v7,
    mini_yolo_v8,
)
from labs.recipes.own_pictures import OwnPictures, own_pictures
from labs.recipes.report import worst_pictures, write_report
from labs.recipes.single_shot import mini_ssd
from labs.recipes.start import Start, carry_over
from labs.recipes.task import TEST, VAL, detection_task, held_out, measure
from labs.recipes.trained import SHIPPED, Trained, load, trained
from labs.recipes.tuning import AUGMENTS, Tuned, tune
from labs.recipes.two_stage import mini_cascade_rcnn, mini_faster_rcnn
from labs.recipes.weights import compact, read, write

__all__ = [
    "AUGMENTS",
    "DETECTORS",
    "SHIPPED",
    "TEST",
    "VAL",
    "OwnPictures",
    "Start",
    "Trained",
    "Tuned",
    "carry_over",
    "compact",
    "detection_task",
    "held_out",
    "load",
    "measure",
    "mini_cascade_rcnn",
    "mini_faster_rcnn",
    "mini_ssd",
    "mini_yolo_v1",
    "mini_yolo_v3",
    "mini_yolo_v4",
    "mini_yolo_v5",
    "mini_yolo_v7",
    "mini_yolo_v8",
    "own_pictures",
    "read",
    "trained",
    "tune",
    "worst_pictures",
    "write",
    "write_report",
]
