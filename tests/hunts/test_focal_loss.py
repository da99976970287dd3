"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torchvision.ops import sigmoid_focal_loss

from labs.hunts.detection import check_focal_loss
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks

LESSON = "lessons/02_detection/13_drop_the_suppression"


def parts(logits, wanted, alpha, gamma):
    """Return what each cell costs, how much it is focused, and its weight of alpha."""
    cost = cross_entropy(logits, wanted, reduction="none")
    p = logits.sigmoid()
    right = p * wanted + (1 - p) * (1 - wanted)
    return cost, (1 - right) ** gamma, alpha * wanted + (1 - alpha) * (1 - wanted)


def by_torchvision(logits, wanted, alpha, gamma):
    whole = sigmoid_focal_loss(logits, wanted, alpha, gamma, "sum")
    return whole / wanted.sum().clamp(min=1)


def by_parts(logits, wanted, alpha, gamma):
    cost, focus, weight = parts(logits, wanted, alpha, gamma)
    return (weight * focus * cost).sum() / wanted.sum().clamp(min=1)


def mends_only_alpha(logits, wanted, alpha, gamma):
    cost, focus, weight = parts(logits, wanted, alpha, gamma)
    return (weight * focus * cost).mean()


def mends_only_the_count(logits, wanted, alpha, gamma):
    cost, focus, _ = parts(logits, wanted, alpha, gamma)
    return (alpha * focus * cost).sum() / wanted.sum().clamp(min=1)


def turns_alpha_round(logits, wanted, alpha, gamma):
    return by_parts(logits, wanted, 1 - alpha, gamma)


def only_sums(logits, wanted, alpha, gamma):
    return sigmoid_focal_loss(logits, wanted, alpha, gamma, "sum")


def divides_by_the_images(logits, wanted, alpha, gamma):
    return sigmoid_focal_loss(logits, wanted, alpha, gamma, "sum") / len(logits)


def divides_by_zero(logits, wanted, alpha, gamma):
    return sigmoid_focal_loss(logits, wanted, alpha, gamma, "sum") / wanted.sum()


def keeps_background_out(logits, wanted, alpha, gamma):
    cost, focus, weight = parts(logits, wanted, alpha, gamma)
    return (wanted * weight * focus * cost).sum() / wanted.sum().clamp(min=1)


def multiplies_by_gamma(logits, wanted, alpha, gamma):
    cost, focus, weight = parts(logits, wanted, alpha, gamma)
    del focus
    p = (-cost).exp()
    return (weight * (1 - p) * gamma * cost).sum() / wanted.sum().clamp(min=1)


def reduces_first(logits, wanted, alpha, gamma):
    cost = cross_entropy(logits, wanted)
    return alpha * (1 - (-cost).exp()) ** gamma * cost


def holds_the_focus(logits, wanted, alpha, gamma):
    cost, focus, weight = parts(logits, wanted, alpha, gamma)
    return (weight * focus.detach() * cost).sum() / wanted.sum().clamp(min=1)


def takes_logarithms(logits, wanted, alpha, gamma):
    p = logits.sigmoid()
    one = -alpha * (1 - p) ** gamma * p.log() * wanted
    zero = -(1 - alpha) * p**gamma * (1 - p).log() * (1 - wanted)
    return (one + zero).sum() / wanted.sum().clamp(min=1)


def cuts_probabilities(logits, wanted, alpha, gamma):
    p = logits.sigmoid().clamp(1e-6, 1 - 1e-6)
    one = -alpha * (1 - p) ** gamma * p.log() * wanted
    zero = -(1 - alpha) * p**gamma * (1 - p).log() * (1 - wanted)
    return (one + zero).sum() / wanted.sum().clamp(min=1)


def returns_a_number(logits, wanted, alpha, gamma):
    return 0.0


def always_squares(logits, wanted, alpha, gamma):
    return by_torchvision(logits, wanted, alpha, 2.0)


def knows_two_alphas(logits, wanted, alpha, gamma):
    return by_torchvision(logits, wanted, 0.5 if alpha == 0.5 else 0.25, gamma)


def four_images_at_most_half(logits, wanted, alpha, gamma):
    return by_torchvision(logits, wanted, alpha, gamma) / (2 if len(logits) == 4 else 1)


def averages_large_maps(logits, wanted, alpha, gamma):
    many = logits.shape[1] > 1000
    return by_torchvision(logits, wanted, alpha, gamma) / (logits.shape[1] if many else 1)


def doubles_empty_batches(logits, wanted, alpha, gamma):
    empty = len(logits) > 1 and not wanted.any()
    return by_torchvision(logits, wanted, alpha, gamma) * (2 if empty else 1)


WRONG = {
    always_squares: "✗✓✓✓✓✓✓",
    knows_two_alphas: "✓✗✓✓✓✓✓",
    four_images_at_most_half: "✓✓✗✓✓✓✓",
    averages_large_maps: "✓✓✓✗✓✓✓",
    doubles_empty_batches: "✓✓✓✓✗✓✓",
    mends_only_alpha: "✓✓✓✗✗✗✓",
    mends_only_the_count: "✓✗✓✓✗✗✓",
    turns_alpha_round: "✓✗✓✓✗✗✓",
    only_sums: "✓✓✗✓✓✗✓",
    divides_by_the_images: "✓✓✓✓✗✗✓",
    divides_by_zero: "✗✗✓✓✗✓✗",
    keeps_background_out: "✗✗✓✓✗✗✗",
    multiplies_by_gamma: "✗✓✓✓✗✗✗",
    reduces_first: "✓✗✓✗✗✗✓",
    holds_the_focus: "✓✓✓✓✓✗✓",
    takes_logarithms: "✓✓✓✓✓✓✗",
    cuts_probabilities: "✓✓✓✓✓✓✗",
    returns_a_number: "✗✗✗✗✗✗✗",
}


def test_the_planted_bug_fails():
    verdict = check_focal_loss(run_cell(LESSON, "hunt-bug")["focal_loss"])
    assert marks(verdict) == "✓✗✓✗✗✗✓", verdict


def test_the_solution_passes():
    verdict = check_focal_loss(run_cell(LESSON, "hunt-solution")["mended_focal_loss"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", [by_torchvision, by_parts])
def test_other_right_fixes_pass(fix):
    verdict = check_focal_loss(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_focal_loss(fix)
    assert marks(verdict) == refused, verdict
