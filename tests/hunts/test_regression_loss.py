"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch
from torch import nn
from torch.nn.functional import l1_loss, mse_loss

from labs.hunts.engineering import check_regression_loss
from tests.hunts.lesson_cells import run_cell

LESSON = "lessons/06_engineering/02_debug_a_training_run"


class Locator(nn.Module):
    """Answer [N,1], or what ``ending`` makes of it."""

    def __init__(self, ending=lambda out: out, filters=8):
        super().__init__()
        self.conv = nn.Conv2d(1, filters, 3, stride=2, padding=1)
        self.fc = nn.Linear(filters * 7 * 7, 1)
        self.ending = ending

    def forward(self, images):
        return self.ending(self.fc(torch.relu(self.conv(images)).flatten(1)))


def check(criterion, ending=lambda out: out):
    def loss(net, batch):
        return criterion(net(batch[0]), batch[1])

    return check_regression_loss(lambda: Locator(ending), loss)


def test_the_planted_bug_fails():
    cell = run_cell(LESSON, "hunt-bug")
    verdict = check_regression_loss(cell["Locator"], cell["loss"])
    assert [probe.passed for probe in verdict.probes] == [False] * 5 + [True]


def test_the_solution_passes():
    cell = run_cell(LESSON, "hunt-solution")
    verdict = check_regression_loss(cell["Locator"], cell["loss"])
    assert verdict, verdict


def test_the_verdict_does_not_name_the_fix():
    seen = repr(check(lambda p, t: (p - t).square().mean()))
    assert not any(word in seen for word in ("squeeze", "shape", "broadcast", "[:, None]"))


@pytest.mark.parametrize(
    "criterion",
    [
        pytest.param(lambda p, t: (p - t[:, None]).square().mean(), id="a column of targets"),
        pytest.param(lambda p, t: (p.squeeze() - t).square().mean(), id="squeeze in the loss"),
        pytest.param(lambda p, t: mse_loss(p.flatten(), t), id="mse_loss of flat answers"),
        pytest.param(lambda p, t: (p.T - t).square().mean(), id="a row of answers"),
        pytest.param(lambda p, t: (p - t).diagonal().square().mean(), id="the diagonal"),
        pytest.param(lambda p, t: (p.view(-1) - t).pow(2).sum() / len(t), id="sum over N"),
    ],
)
def test_other_right_fixes_pass(criterion):
    verdict = check(criterion)
    assert verdict, verdict


def test_a_network_that_answers_a_vector_passes():
    verdict = check(lambda p, t: (p - t).square().mean(), ending=lambda out: out[:, 0])
    assert verdict, verdict


@pytest.mark.parametrize(
    "criterion",
    [
        pytest.param(lambda p, t: (p - t[None]).square().mean(), id="a row of targets"),
        pytest.param(lambda p, t: (p - t).square().sum() / len(t), id="sum of all pairs"),
        pytest.param(lambda p, t: (p.mean() - t.mean()).square(), id="means compared"),
        pytest.param(lambda p, t: (p - t).mean().square(), id="mean first, square second"),
        pytest.param(
            lambda p, t: (p - t).square().mean() - t.var(correction=0), id="variance subtracted"
        ),
        pytest.param(lambda p, t: (p - t).square().amin(0).mean(), id="the nearest answer"),
        pytest.param(lambda p, t: l1_loss(p.flatten(), t), id="absolute errors"),
        pytest.param(lambda p, t: (p.flatten() - t).square().sum(), id="sum, not mean"),
        pytest.param(lambda p, t: (p.flatten() - t).square().mean().sqrt(), id="root"),
        pytest.param(lambda p, t: (p.flatten() - t).square().mean() / 2, id="half of it"),
        pytest.param(lambda p, t: (p.detach().flatten() - t).square().mean(), id="detached"),
        pytest.param(
            lambda p, t: (p.flatten().sort()[0] - t.sort()[0]).square().mean(), id="both sorted"
        ),
        pytest.param(
            lambda p, t: (p.flatten() - t.flip(0)).square().mean(), id="targets in reverse"
        ),
        pytest.param(lambda p, t: (p[0] - t[0]).square().mean(), id="the first picture only"),
        pytest.param(lambda p, t: (p.flatten() - t).square(), id="no mean"),
    ],
)
def test_wrong_fixes_fail(criterion):
    assert not check(criterion)


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(lambda out: out.mean(0), id="one answer for the batch"),
        pytest.param(lambda out: (out - out.mean()).flatten(), id="answers that lean on others"),
    ],
)
def test_wrong_endings_fail(ending):
    assert not check(lambda p, t: (p - t).square().mean(), ending)


def test_a_wider_network_is_no_fix():
    def loss(net, batch):
        return mse_loss(net(batch[0]).flatten(), batch[1])

    verdict = check_regression_loss(lambda: Locator(filters=16), loss)
    assert not verdict
    assert "expected 473 parameters, got 945" in repr(verdict)


def test_the_random_state_is_left_alone():
    state = torch.get_rng_state()
    check(lambda p, t: mse_loss(p.flatten(), t))
    assert torch.equal(torch.get_rng_state(), state)
