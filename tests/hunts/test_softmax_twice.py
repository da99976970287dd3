"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, nll_loss, one_hot

from labs.hunts.foundations import check_digit_loss
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, seen

LESSON = "lessons/01_foundations/05_watch_a_network_see_digits"
FLOOR = math.log(1 + 9 / math.e)


class Reader(nn.Module):
    """Map images to what ``ending`` makes of the scores; each fix below is an ending and a loss."""

    def __init__(self, ending, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 7, stride=4, padding=3)
        self.fc = nn.Linear(8 * 7 * 7, classes)
        self.ending = ending

    def forward(self, images):
        return self.ending(self.fc(torch.relu(self.conv(images)).flatten(1)))


def scores(x):
    return x


def softmax(x):
    return x.softmax(1)


def log_softmax(x):
    return x.log_softmax(1)


def by_definition(x, y):
    return (x.logsumexp(1) - x.gather(1, y[:, None])[:, 0]).mean()


def check(ending, criterion, classes=10):
    def loss(net, batch):
        return criterion(net(batch[0]), batch[1])

    return check_digit_loss(lambda: Reader(ending, classes), loss)


def test_the_planted_bug_fails():
    cell = run_cell(LESSON, "hunt-bug")
    verdict = check_digit_loss(cell["Reader"], cell["loss"])
    assert [probe.passed for probe in verdict.probes] == [False] * 5 + [True]


def test_the_solution_passes():
    cell = run_cell(LESSON, "hunt-solution")
    verdict = check_digit_loss(cell["ScoreReader"], cell["score_loss"])
    assert verdict, verdict


def test_the_verdict_shows_the_floor_and_does_not_name_the_fix():
    verdict = check(softmax, cross_entropy)
    assert f"the loss is {FLOOR:.4f}" in seen(verdict)
    said = seen(verdict) + " ".join(probe.question for probe in verdict.probes)
    assert not any(word in said for word in ("softmax", "entropy", "probabilit", "log"))


@pytest.mark.parametrize(
    ("ending", "criterion"),
    [
        pytest.param(log_softmax, nll_loss, id="log-softmax and negative log likelihood"),
        pytest.param(scores, by_definition, id="cross entropy written out"),
        pytest.param(log_softmax, cross_entropy, id="log-softmax twice, which is once"),
    ],
)
def test_other_right_fixes_pass(ending, criterion):
    verdict = check(ending, criterion)
    assert verdict, verdict


def right_but(change):
    """Be right, but for what ``change`` makes of the loss and the labels."""
    return lambda x, y: change(cross_entropy(x, y), y)


def gives_up(loss, labels):
    return loss if loss > 0.5 else loss.detach() + 0 * loss


def mixed(labels):
    return 1e-3 * (len(labels.unique()) > 1)


class Wider(Reader):
    def __init__(self):
        super().__init__(scores)
        self.conv, self.fc = nn.Conv2d(1, 16, 7, 4, 3), nn.Linear(16 * 49, 10)


def check_wide():
    return check_digit_loss(Wider, lambda net, batch: cross_entropy(net(batch[0]), batch[1]))


WRONG = {
    "nothing is free": (
        lambda: check(scores, right_but(lambda v, y: v + 1e-3 * (v.item() < 1e-3))),
        "✗✓✓✓✓✓",
    ),
    "a limit of 199.9": (lambda: check(lambda x: x.clamp(max=199.9), cross_entropy), "✓✗✓✓✓✓"),
    "a value a thousandth off": (
        lambda: check(scores, right_but(lambda v, y: v + mixed(y))),
        "✓✓✗✓✓✓",
    ),
    "a gradient a thousandth off": (
        lambda: check(scores, right_but(lambda v, y: 1.001 * v - 0.001 * v.detach())),
        "✓✓✓✗✓✓",
    ),
    "gives up": (lambda: check(scores, right_but(gives_up)), "✓✓✓✓✗✓"),
    "minus the scores": (lambda: check(lambda x: -x, lambda x, y: cross_entropy(-x, y)), "✓✓✓✓✓✗"),
    "a wider network": (check_wide, "✓✓✓✓✓✗"),
    "more classes": (lambda: check(scores, cross_entropy, classes=20), "✓✓✓✗✓✗"),
    "larger probabilities": (lambda: check(lambda x: 20 * x.softmax(1), cross_entropy), "✓✗✗✗✓✓"),
    "a sharper softmax": (lambda: check(lambda x: (10 * x).softmax(1), cross_entropy), "✗✗✗✗✗✓"),
    "sigmoid for softmax": (lambda: check(torch.sigmoid, cross_entropy), "✗✗✗✗✗✓"),
    "floor subtracted": (
        lambda: check(softmax, lambda p, y: cross_entropy(p, y) - FLOOR),
        "✓✗✗✗✗✓",
    ),
    "no logarithm": (lambda: check(softmax, nll_loss), "✗✗✗✗✗✓"),
    "logarithm of zero": (lambda: check(softmax, lambda p, y: nll_loss(p.log(), y)), "✓✗✓✓✓✓"),
    "a small number added": (
        lambda: check(softmax, lambda p, y: nll_loss((p + 1e-8).log(), y)),
        "✓✗✓✓✓✓",
    ),
    "probabilities clamped": (
        lambda: check(softmax, lambda p, y: nll_loss(p.clamp(1e-7, 1).log(), y)),
        "✓✗✓✓✓✓",
    ),
    "scores without any softmax": (lambda: check(scores, nll_loss), "✗✗✗✗✗✓"),
    "temperature": (lambda: check(lambda x: x.log_softmax(1) / 2, cross_entropy), "✓✗✗✗✓✓"),
    "scores clamped": (lambda: check(lambda x: x.clamp(-30, 30), cross_entropy), "✓✗✓✓✓✓"),
    "softmax over the batch": (lambda: check(lambda x: x.softmax(0), cross_entropy), "✗✗✗✗✗✗"),
    "wrong sign": (lambda: check(lambda x: -x, cross_entropy), "✗✗✗✗✓✗"),
    "sum, not mean": (
        lambda: check(scores, lambda x, y: cross_entropy(x, y, reduction="sum")),
        "✓✗✗✗✓✓",
    ),
    "smoothed labels": (
        lambda: check(scores, lambda x, y: cross_entropy(x, y, label_smoothing=0.1)),
        "✗✗✗✗✗✓",
    ),
    "squared error": (
        lambda: check(softmax, lambda p, y: (p - one_hot(y, 10)).square().mean()),
        "✓✗✗✗✓✓",
    ),
}


@pytest.mark.parametrize(("verdict_of", "refused"), WRONG.values(), ids=WRONG.keys())
def test_wrong_fixes_are_refused_by_the_right_probes(verdict_of, refused):
    verdict = verdict_of()
    assert marks(verdict) == refused, verdict


def test_what_must_not_change_is_told_in_numbers():
    verdict = check(scores, cross_entropy, classes=20)
    assert "expected the output of shape (16, 10), got a tensor of shape (16, 20)" in seen(verdict)
    assert "expected 4330 parameters, got 8650" in seen(check_wide())


def test_the_candidate_and_the_random_state_are_left_alone():
    net, state = Reader(scores), torch.get_rng_state()
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def loss(net, batch):
        return cross_entropy(net(batch[0]), batch[1])

    check_digit_loss(lambda: Reader(scores), loss)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
