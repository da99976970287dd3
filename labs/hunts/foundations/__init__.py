"""Check the hunts of stage 01, one module per hunt."""

from labs.hunts.foundations.skip_connection import check_skip_connection

__all__ = ["check_skip_connection"]
