"""Check the hunts of stage 00, one module per hunt."""

from labs.hunts.workbench.same_python import check_run_script

__all__ = ["check_run_script"]
