"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch
from torch.nn import functional as F

from labs.hunts.detection import check_multibox_loss
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, when

LESSON = "lessons/02_detection/08_cover_the_image_with_default_boxes"


def counted(loss, positive, ratio):
    hidden = loss.detach().masked_fill(positive, -torch.inf)
    rank = hidden.argsort(1, descending=True).argsort(1)
    return positive | (rank < ratio * positive.sum(1, keepdim=True))


def loss_with(finish, choose=counted):
    """Build the function from what makes one number of what counts."""

    def multibox_loss(logits, wanted, off, ratio=3):
        positive = wanted > 0
        loss = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        parts = loss * choose(loss, positive, ratio) + off * positive  # [N,P]
        return finish(parts, positive)

    return multibox_loss


def at_least_one(parts, positive):
    return parts.sum() / positive.sum().clamp(min=1)


def by_a_branch(parts, positive):
    return parts.sum() / positive.sum() if positive.any() else parts.sum() * 0


def by_where(parts, positive):
    count = positive.sum()
    return parts.sum() / torch.where(count > 0, count, 1)


def as_planted(parts, positive):
    return parts.sum() / positive.sum()


def nan_to_zero(parts, positive):
    return (parts.sum() / positive.sum()).nan_to_num()


def where_afterwards(parts, positive):
    loss = parts.sum() / positive.sum()
    return torch.where(loss.isnan(), 0.0, loss)


def without_a_graph(parts, positive):
    return parts.sum() / positive.sum() if positive.any() else torch.zeros(())


def one_more(parts, positive):
    return parts.sum() / (positive.sum() + 1)


def by_the_images(parts, positive):
    return parts.sum() / len(parts)


def image_by_image(parts, positive):
    return (parts.sum(1) / positive.sum(1).clamp(min=1)).mean()


def not_divided(parts, positive):
    return parts.sum()


def at_least_ten(parts, positive):
    return parts.sum() / positive.sum().clamp(min=10)


def always_some_background(loss, positive, ratio):
    hidden = loss.detach().masked_fill(positive, -torch.inf)
    rank = hidden.argsort(1, descending=True).argsort(1)
    return positive | (rank < (ratio * positive.sum(1, keepdim=True)).clamp(min=1))


def three_each(loss, positive, ratio):
    return counted(loss, positive, 3)


RIGHT = loss_with(at_least_one)


def one_image(logits, *_):
    return len(logits) == 1


def doubled(logits, *_):
    return len(logits) == 4


def three_with_objects(logits, wanted, *_):
    return len(logits) == 3 and bool((wanted > 0).any(1).all())


def all_with_objects(_, wanted, *__):
    return bool((wanted > 0).any(1).all())


def some_without(_, wanted, *__):
    there = (wanted > 0).any(1)
    return bool(there.any()) and not bool(there.all())


def without_objects(_, wanted, *__):
    return not bool((wanted > 0).any())


def half_the_gradient(parts, positive):
    loss = at_least_one(parts, positive)
    return 0.5 * loss + 0.5 * loss.detach()


def one_for_nothing(parts, positive):
    return at_least_one(parts, positive) + 1


WRONG = {
    loss_with(nan_to_zero): "✓✓✓✓✓✓✗✓",
    loss_with(where_afterwards): "✓✓✓✓✓✓✗✓",
    loss_with(without_a_graph): "✓✓✓✓✓✗✗✓",
    loss_with(one_more): "✗✗✗✗✗✓✓✗",
    loss_with(by_the_images): "✗✗✗✓✗✓✓✗",
    loss_with(image_by_image): "✗✗✗✓✗✓✓✗",
    loss_with(not_divided): "✗✗✗✓✗✓✓✗",
    loss_with(at_least_ten): "✗✗✗✗✗✓✓✗",
    loss_with(at_least_one, always_some_background): "✓✓✗✓✓✗✗✗",
    loss_with(at_least_one, three_each): "✓✓✓✓✓✓✓✗",
    when(one_image, loss_with(one_more), RIGHT): "✓✓✓✗✓✓✓✓",
    when(doubled, loss_with(one_more), RIGHT): "✓✓✓✓✗✓✓✓",
    when(three_with_objects, loss_with(one_more), RIGHT): "✗✓✓✓✓✓✓✓",
    when(all_with_objects, loss_with(half_the_gradient), RIGHT): "✓✗✓✓✓✓✓✓",
    when(some_without, loss_with(one_more), RIGHT): "✓✓✗✓✓✓✓✓",
    when(without_objects, loss_with(one_for_nothing), RIGHT): "✓✓✓✓✓✗✓✓",
}


def test_the_planted_bug_fails():
    verdict = check_multibox_loss(run_cell(LESSON, "hunt-bug")["multibox_loss"])
    assert marks(verdict) == "✓✓✓✓✓✗✗✓", verdict
    assert "it is nan" in str(verdict)


def test_the_solution_passes():
    verdict = check_multibox_loss(run_cell(LESSON, "hunt-solution")["loss_of_batch"])
    assert verdict, verdict


@pytest.mark.parametrize("finish", [at_least_one, by_a_branch, by_where])
def test_other_right_fixes_pass(finish):
    verdict = check_multibox_loss(loss_with(finish))
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    assert marks(check_multibox_loss(fix)) == refused, check_multibox_loss(fix)
