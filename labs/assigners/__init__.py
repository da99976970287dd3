"""Decide which prediction answers for which object: what changed most from YOLO v1 to v8."""

from labs.assigners.multi_anchor import MultiAnchor
from labs.assigners.pairs import Pairs, Truths
from labs.assigners.sim_ota import SimOTA
from labs.assigners.task_aligned import Assignment, TaskAligned

__all__ = [
    "Assignment",
    "MultiAnchor",
    "Pairs",
    "SimOTA",
    "TaskAligned",
    "Truths",
]
