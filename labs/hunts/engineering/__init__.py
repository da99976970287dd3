"""Check the hunts of stage 06, one module per hunt."""

from labs.hunts.engineering.any_size import check_any_size

__all__ = [
    "check_any_size",
]
