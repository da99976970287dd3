"""Check a regression loss: it must compare each answer with its own target, and with no other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labs.hunts import Verdict, examine
from labs.hunts.answer import described, loss_of, number_of
from labs.hunts.fix import Fix, Loss, MakeNet

N, _SIZE, _PARAMETERS, _STEPS = 16, 14, 473, 100


def check_regression_loss(make_net: MakeNet, loss: Loss) -> Verdict:
    """Check a network that answers one number per picture, together with the loss that trains it.

    Args:
        make_net: ``make_net()`` builds a module that maps images [N,1,14,14] to one number each.
        loss: ``loss(net, (images, targets))``, with targets [N], returns the scalar to minimise.

    Returns:
        The verdict of six probes: on right answers, on any answers, on one picture alone, on the
        gradient, on learning by heart, and on what must not change.
    """
    return examine(
        "the loss of a regression",
        Fix(make_net, loss),
        {
            "if every answer is right, the loss is zero": _right_is_free,
            "for any targets, the loss is the mean of the squared errors": _value_is_right,
            "the same holds for batches of one, two and five pictures": _other_sizes_are_right,
            "each parameter gets the gradient of that formula": _gradient_is_right,
            "sixteen pictures can be learned by heart": _learns_by_heart,
            "one number per picture, the same alone as in a batch": _answers_are_as_before,
        },
    )


def _right_is_free(fix: Fix) -> str:
    net, (images, _) = fix.make_net(), _batch()
    value = _value(fix, net, images, _answers(net, images).detach())
    seen = f"with the network's own answers as targets, the loss is {abs(value):.4f}"
    assert abs(value) < 1e-6, seen
    return seen


def _value_is_right(fix: Fix) -> str:
    return _compare_values(fix, N)


def _other_sizes_are_right(fix: Fix) -> str:
    return ", ".join(f"{size}: {_compare_values(fix, size)}" for size in (1, 2, 5))


def _gradient_is_right(fix: Fix) -> str:
    net, (images, targets) = fix.make_net(), _batch()
    weights = list(net.parameters())
    expected = torch.autograd.grad(_formula(net, images, targets), weights)
    value = loss_of(fix.loss(net, (images, targets)))
    found = torch.autograd.grad(value, weights, allow_unused=True)
    assert all(g is not None for g in found), "some parameters get no gradient"
    off = max(
        float((f - e).norm() / e.norm())
        for f, e in zip(found, expected, strict=True)
        if f is not None
    )
    assert off < 1e-4, f"it is off by {off:.2f} of its length"
    return "it does"


def _learns_by_heart(fix: Fix) -> str:
    net, (images, targets) = fix.make_net(), _batch()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss_of(fix.loss(net, (images, targets))).backward()
        optimizer.step()
    with torch.no_grad():
        error = (_answers(net, images) - targets).square().mean().item()
    spread = targets.var().item()
    seen = f"after {_STEPS} steps the mean squared error is {error:.3f}"
    assert error < 0.05 * spread, f"{seen}; the variance of the targets is {spread:.3f}"
    return seen


def _answers_are_as_before(fix: Fix) -> str:
    net, (images, _) = fix.make_net(), _batch()
    with torch.no_grad():
        together = _answers(net, images)
        alone = torch.cat([_answers(net, image[None]) for image in images])
    worst = (together - alone).abs().max().item()
    assert worst < 1e-4, f"an answer changes by up to {worst:.3f} with the rest of the batch"
    parameters = sum(p.numel() for p in net.parameters())
    assert parameters == _PARAMETERS, f"expected {_PARAMETERS} parameters, got {parameters}"
    return "all as before"


def _compare_values(fix: Fix, size: int) -> str:
    net, (images, targets) = fix.make_net(), _batch(size)
    with torch.no_grad():
        expected = _formula(net, images, targets).item()
    got = _value(fix, net, images, targets)
    assert abs(got - expected) < 1e-4 * max(1, expected), (
        f"for {size} pictures expected {expected:.4f}, got {got:.4f}"
    )
    return f"{got:.4f}, as it should be"


def _value(fix: Fix, net: nn.Module, images: Tensor, targets: Tensor) -> float:
    with torch.no_grad():
        return number_of(fix.loss(net, (images, targets)), "the loss")


def _formula(net: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return (_answers(net, images) - targets).square().mean()


def _answers(net: nn.Module, images: Tensor) -> Tensor:
    answers = net(images)
    right = isinstance(answers, Tensor) and answers.numel() == len(images)
    assert right, f"expected one number for each of {len(images)}, got {described(answers)}"
    return answers.flatten()


def _batch(size: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    images = torch.rand(size, 1, _SIZE, _SIZE, generator=generator)
    return images, 3 * torch.randn(size, generator=generator)
