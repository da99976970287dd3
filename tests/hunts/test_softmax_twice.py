"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, nll_loss, one_hot

from labs.hunts.foundations import check_digit_loss
from tests.hunts.lesson_cells import run_cell

LESSON = "lessons/01_foundations/02_watch_a_network_see_digits"
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
    verdict = check_digit_loss(cell["Reader"], cell["loss"])
    assert verdict, verdict


def test_the_verdict_shows_the_floor_and_does_not_name_the_fix():
    seen = repr(check(softmax, cross_entropy))
    assert f"the loss is {FLOOR:.4f}" in seen
    assert "softmax" not in seen


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


@pytest.mark.parametrize(
    ("ending", "criterion"),
    [
        pytest.param(lambda x: 20 * x.softmax(1), cross_entropy, id="larger probabilities"),
        pytest.param(lambda x: (10 * x).softmax(1), cross_entropy, id="a sharper softmax"),
        pytest.param(torch.sigmoid, cross_entropy, id="sigmoid for softmax"),
        pytest.param(softmax, lambda p, y: cross_entropy(p, y) - FLOOR, id="floor subtracted"),
        pytest.param(softmax, nll_loss, id="no logarithm"),
        pytest.param(softmax, lambda p, y: nll_loss(p.log(), y), id="logarithm of zero"),
        pytest.param(
            softmax, lambda p, y: nll_loss((p + 1e-8).log(), y), id="a small number added"
        ),
        pytest.param(
            softmax, lambda p, y: nll_loss(p.clamp(1e-7, 1).log(), y), id="probabilities clamped"
        ),
        pytest.param(scores, nll_loss, id="scores without any softmax"),
        pytest.param(lambda x: x.log_softmax(1) / 2, cross_entropy, id="temperature"),
        pytest.param(lambda x: x.clamp(-30, 30), cross_entropy, id="scores clamped"),
        pytest.param(lambda x: x.softmax(0), cross_entropy, id="softmax over the batch"),
        pytest.param(lambda x: -x, cross_entropy, id="wrong sign"),
        pytest.param(scores, lambda x, y: cross_entropy(x, y, reduction="sum"), id="sum, not mean"),
        pytest.param(
            scores, lambda x, y: cross_entropy(x, y, label_smoothing=0.1), id="smoothed labels"
        ),
        pytest.param(
            softmax, lambda p, y: (p - one_hot(y, 10)).square().mean(), id="squared error"
        ),
    ],
)
def test_wrong_fixes_fail(ending, criterion):
    assert not check(ending, criterion)


def test_more_classes_are_no_fix():
    verdict = check(scores, cross_entropy, classes=20)
    assert not verdict
    assert "expected (16, 10), got (16, 20)" in repr(verdict)


def test_a_wider_network_is_no_fix():
    class Wider(Reader):
        def __init__(self):
            super().__init__(scores)
            self.conv, self.fc = nn.Conv2d(1, 16, 7, 4, 3), nn.Linear(16 * 49, 10)

    def loss(net, batch):
        return cross_entropy(net(batch[0]), batch[1])

    assert "expected 4330 parameters" in repr(check_digit_loss(Wider, loss))


def test_the_candidate_and_the_random_state_are_left_alone():
    net, state = Reader(scores), torch.get_rng_state()
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def loss(net, batch):
        return cross_entropy(net(batch[0]), batch[1])

    check_digit_loss(lambda: Reader(scores), loss)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
