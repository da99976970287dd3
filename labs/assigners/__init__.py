"""Decide which prediction answers for which object: what changed most from YOLO v1 to v8."""

from labs.assigners.best_anchor import BestAnchor, Matches
from labs.assigners.bipartite import Bipartite
from labs.assigners.collisions import keep_largest
from labs.assigners.grid_cell import GridCell, Responsible
from labs.assigners.hungarian import Hungarian
from labs.assigners.multi_anchor import MultiAnchor
from labs.assigners.pairs import Pairs
from labs.assigners.sampling import BalancedSampling
from labs.assigners.sim_ota import SimOTA
from labs.assigners.task_aligned import Assignment, TaskAligned
from labs.assigners.thresholds import Thresholds
from labs.assigners.truths import Truths

__all__ = [
    "Assignment",
    "BalancedSampling",
    "BestAnchor",
    "Bipartite",
    "GridCell",
    "Hungarian",
    "Matches",
    "MultiAnchor",
    "Pairs",
    "Responsible",
    "SimOTA",
    "TaskAligned",
    "Thresholds",
    "Truths",
    "keep_largest",
]
