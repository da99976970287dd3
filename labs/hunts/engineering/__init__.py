"""Check the hunts of stage 06, one module per hunt."""

from labs.hunts.engineering.explainer import check_explainer

__all__ = [
    "check_explainer",
]
