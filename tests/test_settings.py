"""Settings that no network can be built with are refused by name, in the words of the network."""

from functools import partial

import pytest

from labs.models import YOLOv1, YOLOv3, YOLOv4, YOLOv5, YOLOv7, YOLOv8, resnet18

SMALL = {"strides": (8, 16), "depths": (1, 1, 1), "width": 0.25, "stem_stride": 2}
LATER = {"width": 0.125, "strides": (8,)}
FIRST = {"image_size": (64, 64), "stride": 16, "reduction": 16, "hidden": None, "width": 0.1}
# For each network what builds a small one, its counts, and its factors.
NETWORKS = {
    "YOLOv1": (partial(YOLOv1, **FIRST), ["num_classes", "stride", "boxes", "hidden"], ["width"]),
    "YOLOv3": (partial(YOLOv3, **SMALL), ["num_classes", "anchors", "stem_stride"], ["width"]),
    "YOLOv4": (partial(YOLOv4, **SMALL), ["num_classes", "anchors", "stem_stride"], ["width"]),
    "YOLOv5": (
        partial(YOLOv5, **LATER),
        ["num_classes", "anchors", "in_channels"],
        ["width", "depth", "image_size"],
    ),
    "YOLOv7": (
        partial(YOLOv7, **LATER),
        ["num_classes", "anchors", "in_channels", "depth"],
        ["width", "image_size"],
    ),
    "YOLOv8": (
        partial(YOLOv8, **LATER),
        ["num_classes", "reg_max", "in_channels"],
        ["width", "depth", "image_size"],
    ),
    "ResNet": (partial(resnet18, width=4), ["num_classes", "in_channels", "width"], []),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_below_one_and_factors_that_are_not_positive_are_refused(name):
    build, counts, factors = NETWORKS[name]
    build()
    for what in counts:
        for bad in (0, -1, 2.5, True):
            with pytest.raises(
                ValueError, match=rf"{name}: expected {what} to be a whole .* {bad}$"
            ):
                build(**{what: bad})
    for what in factors:
        for bad in (0, -0.5, float("nan"), float("inf"), "wide"):
            with pytest.raises(
                ValueError, match=rf"{name}: expected {what} to be a number above 0"
            ):
                build(**{what: bad})


@pytest.mark.parametrize("build", [YOLOv3, YOLOv4])
def test_a_stage_without_blocks_is_refused(build):
    with pytest.raises(
        ValueError, match=r"expected depths\[1\] to be a whole number from 1, got -2"
    ):
        build(3, **(SMALL | {"depths": (1, -2, 1)}))
