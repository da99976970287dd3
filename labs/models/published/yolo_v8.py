"""Name the entries of YOLOv8 as its program does: by the row of its published table of layers."""

from __future__ import annotations

import torch

from labs.models.blocks import SPPF, Bottleneck
from labs.models.published.layout import Layout, refuse_other_strides, spell
from labs.models.yolo_v8 import C2f, YOLOv8

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
    "model.12": "neck.up.1",
    "model.15": "neck.up.0",
    "model.16": "neck.down.0",
    "model.18": "neck.merge.0",
    "model.19": "neck.down.1",
    "model.21": "neck.merge.1",
    "model.22.cv2": "head.sides",
    "model.22.cv3": "head.classes",
}
_MASK_ROWS = {
    "model.22.cv4": "mask_head.coefficients",
    "model.22.proto.cv1": "mask_head.prototypes.0",
    "model.22.proto.upsample": "mask_head.prototypes.1",
    "model.22.proto.cv2": "mask_head.prototypes.2",
    "model.22.proto.cv3": "mask_head.prototypes.3",
}
_INNER = {
    C2f: {"split": "cv1", "mix": "cv2", "blocks": "m"},
    Bottleneck: {"first": "cv1", "second": "cv2"},
    SPPF: {"reduce": "cv1", "mix": "cv2"},
}


def layout(network: YOLOv8) -> Layout:
    """Return what each entry is called there, with masks or without."""
    refuse_other_strides(network, network.strides)
    rows = _ROWS if network.mask_head is None else _ROWS | _MASK_ROWS
    bins = torch.arange(float(network.reg_max)).view(1, -1, 1, 1)
    return Layout(
        spell(network, rows, _INNER),
        eps=1e-3,
        extras={"model.22.dfl.conv.weight": "the numbers of the bins, which never learn"},
        fixed={"model.22.dfl.conv.weight": bins},
    )
