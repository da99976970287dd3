"""Check the hunts of stage 06, one module per hunt."""

from labs.hunts.engineering.clipped_step import check_clipped_step

__all__ = ["check_clipped_step"]
