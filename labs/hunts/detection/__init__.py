"""Check the hunts of stage 02, one module per hunt."""

from labs.hunts.detection.anchor_order import check_anchor_order
from labs.hunts.detection.class_ap import check_class_ap

__all__ = ["check_anchor_order", "check_class_ap"]
