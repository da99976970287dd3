"""Check the hunts of stage 06, one module per hunt."""

from labs.hunts.engineering.any_size import check_any_size
from labs.hunts.engineering.clipped_step import check_clipped_step
from labs.hunts.engineering.explainer import check_explainer
from labs.hunts.engineering.regression_loss import check_regression_loss
from labs.hunts.engineering.reporting import check_report
from labs.hunts.engineering.tracker import check_tracker

__all__ = [
    "check_any_size",
    "check_clipped_step",
    "check_explainer",
    "check_regression_loss",
    "check_report",
    "check_tracker",
]
