"""List the convolutions of YOLO v4 in the order of yolov4.cfg, and so of its weights."""

from __future__ import annotations

from labs.models.yolo_v4 import CSPStage, YOLOv4

_TOP = ("0", "1", "2.reduce", "2.mix", "3", "4")  # the pools of SPP stand in the middle


def order(network: YOLOv4) -> list[str]:
    """Return our names of the convolutions, from the first of the file to the last."""
    names = ["backbone.stem"]
    for i, stage in enumerate(network.backbone.stages):
        assert isinstance(stage, CSPStage)
        path = f"backbone.stages.{i}"
        names += [f"{path}.halve", f"{path}.past", f"{path}.enter"]
        for block in range(len(stage.blocks)):
            names += [f"{path}.blocks.{block}.squeeze", f"{path}.blocks.{block}.expand"]
        names += [f"{path}.leave", f"{path}.join"]
    names += [f"neck.top.{part}" for part in _TOP]
    levels = range(len(network.strides))
    for level in reversed(levels[:-1]):  # up, from coarse to fine
        names += [f"neck.lead.{level}", f"neck.lateral.{level}"]
        names += [f"neck.up.{level}.{i}" for i in range(5)]
    for level in levels:  # and down: the finest level is predicted first
        if level:
            names.append(f"neck.stride.{level - 1}")
            names += [f"neck.down.{level - 1}.{i}" for i in range(5)]
        names += [f"head.{level}.0", f"head.{level}.1"]
    return names
