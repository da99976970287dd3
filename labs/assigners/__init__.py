"""Decide which prediction answers for which object: what changed most from YOLO v1 to v8."""

from labs.assigners.best_anchor import BestAnchor, Matches
from labs.assigners.collisions import keep_largest
from labs.assigners.grid_cell import GridCell, Responsible
from labs.assigners.task_aligned import Assignment, TaskAligned

__all__ = [
    "Assignment",
    "BestAnchor",
    "GridCell",
    "Matches",
    "Responsible",
    "TaskAligned",
    "keep_largest",
]
