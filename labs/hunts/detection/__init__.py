"""Check the hunts of stage 02, one module per hunt."""

from labs.hunts.detection.class_ap import check_class_ap
from labs.hunts.detection.moving_average import check_moving_average

__all__ = ["check_class_ap", "check_moving_average"]
