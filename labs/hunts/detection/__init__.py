"""Check the hunts of stage 02, one module per hunt."""

from labs.hunts.detection.anchor_order import check_anchor_order

