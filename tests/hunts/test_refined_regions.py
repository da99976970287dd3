"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch

from labs.hunts.detection import check_refined_regions
from labs.hunts.detection.refined_regions import _DELTAS
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, when

LESSON = "lessons/02_detection/10_raise_the_bar"


def moving_by(choose, constant=True):
    """Build the function from how it chooses a column."""

    def refine(rois, logits, deltas):
        with torch.set_grad_enabled(not constant and torch.is_grad_enabled()):
            label = choose(logits)
            return _DELTAS.decode(deltas[torch.arange(len(rois)), label], rois)

    return refine


def likeliest_object(logits):
    return logits[:, 1:].argmax(1) + 1


def likeliest(logits):
    return logits.argmax(1)


def without_moving_back(logits):
    return logits[:, 1:].argmax(1)


def background_last(logits):
    return logits[:, :-1].argmax(1)


def first_object(logits):
    return torch.ones(len(logits), dtype=torch.long)


def in_place(logits):
    logits[:, 0] = -torch.inf
    return logits.argmax(1)


def by_gather(rois, logits, deltas):
    """Do the same in another way."""
    scores = logits.detach().softmax(1)[:, 1:]
    place = scores.argmax(1)[:, None, None].expand(-1, 1, 4)
    return _DELTAS.decode(deltas.detach()[:, 1:].gather(1, place)[:, 0], rois)


RIGHT = moving_by(likeliest_object)


def left_where_they_are(rois, logits, deltas):
    stays = logits.argmax(1) == 0
    return torch.where(stays[:, None], rois, RIGHT(rois, logits, deltas))


def dropped(rois, logits, deltas):
    return RIGHT(rois, logits, deltas)[logits.argmax(1) > 0]


def by_the_mean(rois, logits, deltas):
    mean = (logits.softmax(1)[:, 1:, None] * deltas[:, 1:]).sum(1)
    return _DELTAS.decode(mean, rois).detach()


def one_class(rois, logits, deltas):
    return deltas.shape[1] == 2


def nobody(rois, logits, deltas):
    return not len(rois)


def sure(rois, logits, deltas):
    return deltas.shape[1] > 2 and len(rois) == 9 and bool((logits.argmax(1) > 0).all())


WRONG = {
    when(sure, moving_by(first_object), RIGHT): "✗✓✓✓✓✓",
    when(lambda *a: not one_class(*a), moving_by(likeliest), RIGHT): "✓✗✓✓✓✓",
    when(one_class, moving_by(likeliest), RIGHT): "✓✓✗✓✓✓",
    when(nobody, lambda rois, *_: torch.zeros(0), RIGHT): "✓✓✓✗✓✓",
    moving_by(likeliest_object, constant=False): "✓✓✓✓✗✓",
    when(lambda r, lo, d: not lo.requires_grad, moving_by(in_place), RIGHT): "✓✓✓✓✓✗",
    moving_by(likeliest): "✓✗✗✓✓✓",
    moving_by(without_moving_back): "✗✗✗✓✓✓",
    moving_by(background_last): "✗✗✗✓✓✓",
    moving_by(first_object): "✗✗✓✓✓✓",
    left_where_they_are: "✓✗✗✓✓✓",
    dropped: "✓✗✗✓✓✓",
    by_the_mean: "✗✗✗✓✓✓",
}


def test_the_planted_bug_fails():
    verdict = check_refined_regions(run_cell(LESSON, "hunt-bug")["refine"])
    assert marks(verdict) == "✓✗✗✓✓✓", verdict


def test_the_solution_passes():
    verdict = check_refined_regions(run_cell(LESSON, "hunt-solution")["moved_by_an_object"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", [RIGHT, by_gather], ids=["by index", "by gather"])
def test_other_right_fixes_pass(fix):
    verdict = check_refined_regions(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_refined_regions(fix)
    assert marks(verdict) == refused, verdict
