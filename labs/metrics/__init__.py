"""Score a detector as COCO does, and say which of its mistakes cost how much."""

from labs.metrics.average_precision import AveragePrecision
from labs.metrics.coco import coco_map
from labs.metrics.curves import PrecisionRecall
from labs.metrics.errors import ERRORS, ErrorBreakdown, error_breakdown

__all__ = [
    "ERRORS",
    "AveragePrecision",
    "ErrorBreakdown",
    "PrecisionRecall",
    "coco_map",
    "error_breakdown",
]
