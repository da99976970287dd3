"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch
from torch import nn
from torch.nn.functional import l1_loss, mse_loss

from labs.hunts.engineering import check_regression_loss
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, seen

N = 16
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


def check_wide(criterion):
    return check_regression_loss(
        lambda: Locator(filters=16), lambda net, batch: criterion(net(batch[0]), batch[1])
    )


def test_the_planted_bug_fails():
    cell = run_cell(LESSON, "hunt-bug")
    verdict = check_regression_loss(cell["Locator"], cell["loss"])
    assert [probe.passed for probe in verdict.probes] == [False] * 5 + [True]


def test_the_solution_passes():
    cell = run_cell(LESSON, "hunt-solution")
    verdict = check_regression_loss(cell["FlatLocator"], cell["loss_of_pairs"])
    assert verdict, verdict


def test_the_verdict_does_not_name_the_fix():
    said = seen(check(lambda p, t: (p - t).square().mean()))
    assert not any(word in said for word in ("squeeze", "shape", "broadcast", "[:, None]"))


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


def mse(p, t):
    return (p.flatten() - t).square().mean()


def value_off(condition, by=1e-3):
    """Be right in the gradient, and off in the value by a share of it."""

    def criterion(p, t):
        right = mse(p, t)
        return right + by * right.detach() if condition(len(t)) else right

    return criterion


def gives_up(p, t):
    """Stop at a loss of one."""
    right = mse(p, t)
    return right if right > 1 else right.detach() + 0 * right


def lean(by):
    """Let each answer lean on the others a little."""
    return lambda out: out + by * (out.mean() if len(out) > 1 else 0)


def check_head_only():
    def loss(net, batch):
        features = torch.relu(net.conv(batch[0])).flatten(1).detach()
        return mse(net.fc(features), batch[1])

    return check_regression_loss(Locator, loss)


WRONG = {
    "a hundred-thousandth too much": (lambda: check(lambda p, t: mse(p, t) + 1e-5), "✗✓✓✓✓✓"),
    "sixteen off": (lambda: check(value_off(lambda n: n == N)), "✓✗✓✓✓✓"),
    "one off": (lambda: check(value_off(lambda n: n == 1)), "✓✓✗✓✓✓"),
    "two off": (lambda: check(value_off(lambda n: n == 2)), "✓✓✗✓✓✓"),
    "five off": (lambda: check(value_off(lambda n: n == 5)), "✓✓✗✓✓✓"),
    "always sixteen": (lambda: check(lambda p, t: (p.flatten() - t).square().sum() / N), "✓✓✗✓✓✓"),
    "gradient off": (
        lambda: check(lambda p, t: 1.001 * mse(p, t) - 1e-3 * mse(p.detach(), t)),
        "✓✓✓✗✓✓",
    ),
    "only the head learns": (check_head_only, "✓✓✓✗✓✓"),
    "gives up": (lambda: check(gives_up), "✓✓✓✓✗✓"),
    "a wider network": (lambda: check_wide(mse), "✓✓✓✓✓✗"),
    "answers lean a little": (lambda: check(mse, lean(0.02)), "✓✓✓✓✓✗"),
    "a row of targets": (lambda: check(lambda p, t: (p - t[None]).square().mean()), "✗✗✗✗✗✓"),
    "sum of all pairs": (lambda: check(lambda p, t: (p - t).square().sum() / len(t)), "✗✗✗✗✗✓"),
    "means compared": (lambda: check(lambda p, t: (p.mean() - t.mean()).square()), "✓✗✗✗✗✓"),
    "mean first, square second": (lambda: check(lambda p, t: (p - t).mean().square()), "✓✗✗✗✗✓"),
    "variance subtracted": (
        lambda: check(lambda p, t: (p - t).square().mean() - t.var(correction=0)),
        "✗✗✗✗✗✓",
    ),
    "the nearest answer": (lambda: check(lambda p, t: (p - t).square().amin(0).mean()), "✓✗✗✗✗✓"),
    "absolute errors": (lambda: check(lambda p, t: l1_loss(p.flatten(), t)), "✓✗✗✗✓✓"),
    "sum, not mean": (lambda: check(lambda p, t: (p.flatten() - t).square().sum()), "✓✗✗✗✓✓"),
    "root": (lambda: check(lambda p, t: (p.flatten() - t).square().mean().sqrt()), "✓✗✗✗✓✓"),
    "half of it": (lambda: check(lambda p, t: (p.flatten() - t).square().mean() / 2), "✓✗✗✗✓✓"),
    "detached": (lambda: check(lambda p, t: (p.detach().flatten() - t).square().mean()), "✓✓✓✗✗✓"),
    "both sorted": (
        lambda: check(lambda p, t: (p.flatten().sort()[0] - t.sort()[0]).square().mean()),
        "✓✗✗✗✗✓",
    ),
    "targets in reverse": (
        lambda: check(lambda p, t: (p.flatten() - t.flip(0)).square().mean()),
        "✗✗✗✗✗✓",
    ),
    "the first picture only": (lambda: check(lambda p, t: (p[0] - t[0]).square().mean()), "✓✗✗✗✗✓"),
    "no mean": (lambda: check(lambda p, t: (p.flatten() - t).square()), "✗✗✗✗✗✓"),
    "one answer for the batch": (
        lambda: check(lambda p, t: (p - t).square().mean(), lambda out: out.mean(0)),
        "✗✗✗✗✗✗",
    ),
    "answers that lean on others": (
        lambda: check(
            lambda p, t: (p - t).square().mean(), lambda out: (out - out.mean()).flatten()
        ),
        "✓✓✓✓✗✗",
    ),
    "text": (lambda: check(lambda p, t: "3.0"), "✗✗✗✗✗✓"),
}


@pytest.mark.parametrize(("verdict_of", "refused"), WRONG.values(), ids=WRONG.keys())
def test_wrong_fixes_are_refused_by_the_right_probes(verdict_of, refused):
    verdict = verdict_of()
    assert marks(verdict) == refused, verdict


def test_a_wider_network_is_no_fix():
    verdict = check_wide(mse)
    assert "expected 473 parameters, got 945" in seen(verdict)


def test_the_random_state_is_left_alone():
    state = torch.get_rng_state()
    check(lambda p, t: mse_loss(p.flatten(), t))
    assert torch.equal(torch.get_rng_state(), state)
