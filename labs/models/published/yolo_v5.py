"""Name the entries of YOLOv5 as its program does: by the row of its published table of layers."""

from __future__ import annotations

from labs.models.blocks import SPPF, Bottleneck
from labs.models.published.layout import Layout, refuse_other_strides, spell
from labs.models.yolo_v5 import C3, YOLOv5

_ROWS = {
    "model.0": "backbone.stem",
    "model.1": "backbone.stages.0.0",
    "model.2": "backbone.stages.0.1",
    "model.3": "backbone.stages.1.0",
    "model.4": "backbone.stages.1.1",
    "model.5": "backbone.stages.2.0",
    "model.6": "backbone.stages.2.1",
    "model.7": "backbone.stages.3.0",
    "model.8": "backbone.stages.3.1",
    "model.9": "backbone.pool",
    "model.10": "neck.narrow.1",
    "model.13": "neck.up.1",
    "model.14": "neck.narrow.0",
    "model.17": "neck.up.0",
    "model.18": "neck.down.0",
    "model.20": "neck.merge.0",
    "model.21": "neck.down.1",
    "model.23": "neck.merge.1",
    "model.24.m": "head.levels",
}
_INNER = {
    C3: {"inner": "cv1", "around": "cv2", "mix": "cv3", "blocks": "m"},
    Bottleneck: {"first": "cv1", "second": "cv2"},
    SPPF: {"reduce": "cv1", "mix": "cv2"},
}


def layout(network: YOLOv5) -> Layout:
    """Return what each entry is called there."""
    refuse_other_strides(network, network.strides)
    return Layout(
        spell(network, _ROWS, _INNER),
        eps=1e-3,
        extras={
            "model.24.anchors": "the anchors, in cells; the postprocess takes them, in pixels",
            "model.24.anchor_grid": "the anchors, in pixels; the postprocess takes them",
        },
    )
