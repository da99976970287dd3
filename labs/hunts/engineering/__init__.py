"""Check the hunts of stage 06, one module per hunt."""

from labs.hunts.engineering.regression_loss import check_regression_loss

__all__ = ["check_regression_loss"]
