"""Decide which prediction answers for which object: what changed most from YOLO v1 to v8."""

from labs.assigners.task_aligned import Assignment, TaskAligned

__all__ = ["Assignment", "TaskAligned"]
