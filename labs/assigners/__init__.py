"""Decide which prediction answers for which object: what changed most from YOLO v1 to v8."""
