"""Check the hunts of stage 02, one module per hunt."""

from labs.hunts.detection.class_ap import check_class_ap
from labs.hunts.detection.mish import check_mish

__all__ = ["check_class_ap", "check_mish"]
