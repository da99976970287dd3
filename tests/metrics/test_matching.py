"""The rules of COCO's matching, each by hand."""

import numpy as np
import torch

from labs.metrics.detections import Objects
from labs.metrics.matching import match


def objects(count, crowd=(), ignore=()):
    flags = {"crowd": crowd, "ignore": ignore}
    boxes, labels = torch.zeros(count, 4), torch.zeros(count, dtype=torch.int64)
    marked = {k: torch.tensor([i in v for i in range(count)]).bool() for k, v in flags.items()}
    return Objects(boxes=boxes, labels=labels, area=boxes[:, 0], **marked)


def matched(rows, truth, threshold=0.5):
    return match(np.array(rows, dtype=np.float64), truth, threshold).tolist()


def test_of_equal_overlaps_the_last_object_is_taken():
    assert matched([[0.7, 0.7, 0.6]], objects(3)) == [1]
    assert matched([[0.7, 0.7], [0.7, 0.7], [0.7, 0.7]], objects(2)) == [1, 0, -1]


def test_the_threshold_itself_is_enough_and_a_perfect_one_may_round():
    assert matched([[0.5], [0.5]], objects(1)) == [0, -1]
    assert matched([[0.4999]], objects(1)) == [-1]
    assert matched([[1 - 1e-11]], objects(1), 1.0) == [0]


def test_what_is_ignored_is_taken_only_when_nothing_else_fits():
    assert matched([[0.6, 0.9], [0.6, 0.9]], objects(2, ignore=[1])) == [0, 1]


def test_a_crowd_stays_free():
    assert matched([[0.9], [0.8]], objects(1, crowd=[0])) == [0, 0]
