"""Check the hunts of stage 06, one module per hunt."""

from labs.hunts.engineering.tracker import check_tracker

__all__ = [
    "check_tracker",
]
