"""Name the entries of Faster R-CNN on a pyramid as torchvision does."""

from __future__ import annotations

from labs.models.faster_rcnn import FasterRCNN
from labs.models.feature_pyramid import FeaturePyramid
from labs.models.published.layout import Layout, translate

_ROWS = {
    "backbone.body.conv1.": "backbone.body.stem.0.",
    "backbone.body.bn1.": "backbone.body.stem.1.",
    **{f"backbone.body.layer{i + 1}.": f"backbone.body.stages.{i}." for i in range(4)},
    **{f"backbone.fpn.inner_blocks.{i}.0.": f"backbone.pyramid.lateral.{i}." for i in range(4)},
    **{f"backbone.fpn.layer_blocks.{i}.0.": f"backbone.pyramid.smooth.{i}." for i in range(4)},
    "rpn.head.conv.0.0.": "proposals.conv.",
    "rpn.head.cls_logits.": "proposals.objectness.",
    "rpn.head.bbox_pred.": "proposals.boxes.",
    "roi_heads.box_head.": "head.body.",
    "roi_heads.box_predictor.cls_score.": "head.classes.",
    "roi_heads.box_predictor.bbox_pred.": "head.boxes.",
}


def layout(network: FasterRCNN) -> Layout:
    """Return the published name of each entry, and ours.

    torchvision's file of COCO counts with an eps of 0 in its frozen norms: call
    ``freeze_norms(network, eps=0.0)`` before or after.

    Raises:
        ValueError: When the network does not stand on a pyramid.
    """
    if not isinstance(getattr(network.backbone, "pyramid", None), FeaturePyramid):
        raise ValueError(
            "load_published: expected a FasterRCNN on a pyramid, whose weights are published, got "
            "one on a single map; build it with pyramid=True"
        )
    return Layout(translate(network, _ROWS), eps=1e-5)
