"""Check the hunts of stage 02, one module per hunt."""

from labs.hunts.detection.ignore_band import check_objectness_targets

__all__ = [
    "check_objectness_targets",
]
