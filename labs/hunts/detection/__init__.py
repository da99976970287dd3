"""Check the hunts of stage 02, one module per hunt."""

from labs.hunts.detection.anchor_order import check_anchor_order
from labs.hunts.detection.answer_order import check_answer_order
from labs.hunts.detection.cell_targets import check_cell_targets
from labs.hunts.detection.class_ap import check_class_ap
from labs.hunts.detection.class_order import check_class_order
from labs.hunts.detection.empty_batch import check_multibox_loss
from labs.hunts.detection.focal_loss import check_focal_loss
from labs.hunts.detection.fused_bias import check_fused_conv
from labs.hunts.detection.ignore_band import check_objectness_targets
from labs.hunts.detection.letter_padding import check_letter_padding
from labs.hunts.detection.mish import check_mish
from labs.hunts.detection.moving_average import check_moving_average
from labs.hunts.detection.refined_regions import check_refined_regions

__all__ = [
    "check_anchor_order",
    "check_answer_order",
    "check_cell_targets",
    "check_class_ap",
    "check_class_order",
    "check_focal_loss",
    "check_fused_conv",
    "check_letter_padding",
    "check_mish",
    "check_moving_average",
    "check_multibox_loss",
    "check_objectness_targets",
    "check_refined_regions",
]
