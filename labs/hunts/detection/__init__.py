"""Check the hunts of stage 02, one module per hunt."""

from labs.hunts.detection.class_ap import check_class_ap

__all__ = ["check_class_ap"]
