"""Name the entries of SSD300 as torchvision does."""

from __future__ import annotations

from labs.models.published.layout import Layout, translate
from labs.models.ssd import SSD, VGGMaps

_ROWS = {
    "backbone.scale_weight": "backbone.scale",
    "backbone.features.": "backbone.to_conv4.",
    "backbone.extra.0.7.1.": "backbone.to_conv7.8.",  # conv6
    "backbone.extra.0.7.3.": "backbone.to_conv7.10.",  # conv7
    "backbone.extra.0.": "backbone.to_conv7.",
    **{f"backbone.extra.{i + 1}.": f"backbone.further.{i}." for i in range(4)},
    "head.classification_head.module_list.": "classes.",
    "head.regression_head.module_list.": "boxes.",
}


def layout(network: SSD) -> Layout:
    """Return the published name of each entry, and ours; SSD has no batch norms.

    Raises:
        ValueError: When the backbone is not VGG-16's.
    """
    if not isinstance(network.backbone, VGGMaps):
        raise ValueError(
            "load_published: expected an SSD on VGGMaps, whose weights are published, got one on "
            f"{type(network.backbone).__name__}"
        )
    return Layout(translate(network, _ROWS), eps=1e-5)
