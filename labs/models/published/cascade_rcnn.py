"""Name the entries of Cascade R-CNN as MMDetection does."""

from __future__ import annotations

from labs.models.cascade_rcnn import CascadeRCNN
from labs.models.published.layout import Layout, translate

_STAGES = range(4)


def layout(network: CascadeRCNN) -> Layout:
    """Return the published name of each entry, and ours.

    MMDetection's program adds what torchvision's does not: anchors that are not rounded
    (``AnchorGrid(..., rounded=False)``), as many samples in a cell of a region as it has cells of
    the map (``RoIFeatures(..., samples=0)``), and stds of .033 and .067 for the third head.
    """
    rows = {
        "backbone.conv1.": "backbone.body.stem.0.",
        "backbone.bn1.": "backbone.body.stem.1.",
        **{f"backbone.layer{i + 1}.": f"backbone.body.stages.{i}." for i in _STAGES},
        **{f"neck.lateral_convs.{i}.conv.": f"backbone.pyramid.lateral.{i}." for i in _STAGES},
        **{f"neck.fpn_convs.{i}.conv.": f"backbone.pyramid.smooth.{i}." for i in _STAGES},
        "rpn_head.rpn_conv.": "proposals.conv.",
        "rpn_head.rpn_cls.": "proposals.objectness.",
        "rpn_head.rpn_reg.": "proposals.boxes.",
    }
    for i in range(len(network.heads)):
        theirs, ours = f"roi_head.bbox_head.{i}.", f"heads.{i}."
        rows |= {
            f"{theirs}shared_fcs.0.": f"{ours}body.fc6.",
            f"{theirs}shared_fcs.1.": f"{ours}body.fc7.",
            f"{theirs}fc_cls.": f"{ours}classes.",
            f"{theirs}fc_reg.": f"{ours}boxes.",
        }
    names = translate(network, rows)
    last = frozenset(name for name in names if "fc_cls" in name)
    counts = [n.replace("running_var", "num_batches_tracked") for n in names if "running_var" in n]
    left = {count: "nothing is computed from it" for count in counts if count not in names}
    return Layout(names, eps=1e-5, background_last=last, extras=left)
