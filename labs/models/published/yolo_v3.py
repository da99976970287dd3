"""List the convolutions of YOLO v3 in the order of yolov3.cfg, and so of its weights."""

from __future__ import annotations

from labs.models.yolo_v3 import YOLOv3


def order(network: YOLOv3) -> list[str]:
    """Return our names of the convolutions, from the first of the file to the last."""
    names = ["backbone.stem"]
    for i, stage in enumerate(network.backbone.stages):
        names.append(f"backbone.stages.{i}.0")
        for block in range(1, len(list(stage.children()))):
            path = f"backbone.stages.{i}.{block}"
            names += [f"{path}.squeeze", f"{path}.expand"]
    coarsest = len(network.strides) - 1
    for level in range(coarsest, -1, -1):  # the coarsest level is predicted first
        if level < coarsest:
            names.append(f"neck.lead.{level}")
        names += [f"neck.mix.{level}.{i}" for i in range(5)]
        names += [f"head.{level}.0", f"head.{level}.1"]
    return names
