"""Check the hunts of stage 06, one module per hunt."""

from labs.hunts.engineering.reporting import check_report

__all__ = ["check_report"]
