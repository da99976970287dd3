r"""Train a small detector on scenes of digits, and load one that is trained.

One command trains it, in one process or in many, and goes on where it was stopped::

    python -m labs.recipes yolo_v8 --steps 600 --out yolo_v8.safetensors
    python -m labs.recipes yolo_v8 --steps 6000 --checkpoint runs/v8 --save-every 200 --resume
    torchrun --standalone --nproc-per-node=2 -m labs.recipes yolo_v8 --steps 600

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
from labs.recipes.single_shot import mini_ssd
from labs.recipes.task import TEST, VAL, detection_task, held_out, measure
from labs.recipes.trained import SHIPPED, Trained, load, trained
from labs.recipes.weights import compact, read, write

__all__ = [
    "DETECTORS",
    "SHIPPED",
    "TEST",
    "VAL",
    "Trained",
    "compact",
    "detection_task",
    "held_out",
    "load",
    "measure",
    "mini_ssd",
    "mini_yolo_v1",
    "mini_yolo_v3",
    "mini_yolo_v4",
    "mini_yolo_v5",
    "mini_yolo_v7",
    "mini_yolo_v8",
    "read",
    "trained",
    "write",
]
