"""Name the entries of YOLOv7 as its program does: by the row of its published table of layers.

It is the table of the network to train. In the files to run, the implicit constants have been
worked into the last convolutions, so that they lack entries.
"""

from __future__ import annotations

from labs.models.fusion import RepConv
from labs.models.published.layout import Layout, refuse_other_strides, spell
from labs.models.yolo_v7 import ELAN, SPPCSPC, YOLOv7

_ELANS = {  # the row of the first convolution of each, which is ``around``
    4: "backbone.stages.0",
    17: "backbone.stages.1.1",
    30: "backbone.stages.2.1",
    43: "backbone.stages.3.1",
    56: "neck.up.1",
    68: "neck.up.0",
    81: "neck.merge.0",
    94: "neck.merge.1",
}
_HALVES = {  # the row after each max-pool
    13: "backbone.stages.1.0",
    26: "backbone.stages.2.0",
    39: "backbone.stages.3.0",
    77: "neck.down.0",
    90: "neck.down.1",
}
_ROWS = {
    "model.0": "backbone.stem.0",
    "model.1": "backbone.stem.1",
    "model.2": "backbone.stem.2",
    "model.3": "backbone.stem.3",
    "model.51": "neck.pool",
    "model.52": "neck.narrow.1",
    "model.54": "neck.across.1",
    "model.64": "neck.narrow.0",
    "model.66": "neck.across.0",
    "model.102": "head.rep.0",
    "model.103": "head.rep.1",
    "model.104": "head.rep.2",
    "model.105.m.0": "head.levels.0.conv",
    "model.105.m.1": "head.levels.1.conv",
    "model.105.m.2": "head.levels.2.conv",
}
_IMPLICIT = {
    "model.105.ia.0.implicit": "head.levels.0.shift",
    "model.105.ia.1.implicit": "head.levels.1.shift",
    "model.105.ia.2.implicit": "head.levels.2.shift",
    "model.105.im.0.implicit": "head.levels.0.scale",
    "model.105.im.1.implicit": "head.levels.1.scale",
    "model.105.im.2.implicit": "head.levels.2.scale",
}
_INNER = {
    RepConv: {"wide": "rbr_dense", "narrow": "rbr_1x1", "identity": "rbr_identity"},
    SPPCSPC: {
        "before.0": "cv1",
        "around": "cv2",
        "before.1": "cv3",
        "before.2": "cv4",
        "after.0": "cv5",
        "after.1": "cv6",
        "mix": "cv7",
    },
}


def layout(network: YOLOv7) -> Layout:
    """Return what each entry is called there.

    Raises:
        ValueError: When the network is another than the published table describes.
    """
    refuse_other_strides(network, network.strides)
    _refuse_other_blocks(network)
    rows = dict(_ROWS)
    for first, block in _ELANS.items():
        parts = ("around", "start", "row.0", "row.1", "row.2", "row.3")
        rows |= {f"model.{first + i}": f"{block}.{part}" for i, part in enumerate(parts)}
        rows[f"model.{first + 7}"] = f"{block}.mix"  # the stack is a row of its own
    for first, block in _HALVES.items():
        ways = ("pooled", "strided.0", "strided.1")
        rows |= {f"model.{first + i}": f"{block}.{way}" for i, way in enumerate(ways)}
    return Layout(
        spell(network, rows, _INNER) | _IMPLICIT,
        eps=1e-3,
        flattened=frozenset(_IMPLICIT),
        extras={
            "model.105.anchors": "the anchors, in cells; the postprocess takes them, in pixels",
            "model.105.anchor_grid": "the anchors, in pixels; the postprocess takes them",
        },
    )


def _refuse_other_blocks(network: YOLOv7) -> None:
    for block in map(network.get_submodule, _ELANS.values()):
        if not isinstance(block, ELAN) or len(block.row) != 4:
            raise ValueError(
                "load_published: expected a YOLOv7 with extended=False and depth=2, as published, "
                f"got one with other blocks: {type(block).__name__}"
            )
