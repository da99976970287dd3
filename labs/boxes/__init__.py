"""Measure, decode and sort out boxes: ``x1, y1, x2, y2`` in pixels at the edges of pixels."""

from labs.boxes.anchor_grid import AnchorGrid
from labs.boxes.anchors import (
    auto_anchor,
    best_possible_recall,
    evolve,
    fitness,
    k_means,
    lay_onto_strides,
)
from labs.boxes.default_boxes import DefaultBoxes
from labs.boxes.deltas import Deltas
from labs.boxes.estimates import Estimates, answers_in_a_row
from labs.boxes.grid import cell_centres, cell_corners
from labs.boxes.levels import flatten_levels
from labs.boxes.overlap import KINDS, overlap
from labs.boxes.precision import widen
from labs.boxes.sides import distribution_focal_loss, expected_side, from_sides, to_sides
from labs.boxes.suppression import strongest, suppress

__all__ = [
    "KINDS",
    "AnchorGrid",
    "DefaultBoxes",
    "Deltas",
    "Estimates",
    "answers_in_a_row",
    "auto_anchor",
    "best_possible_recall",
    "cell_centres",
    "cell_corners",
    "distribution_focal_loss",
    "evolve",
    "expected_side",
    "fitness",
    "flatten_levels",
    "from_sides",
    "k_means",
    "lay_onto_strides",
    "overlap",
    "strongest",
    "suppress",
    "to_sides",
    "widen",
]
