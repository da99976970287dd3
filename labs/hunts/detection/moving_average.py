"""Check a moving average of a network: it must be a network that works, not only its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from labs.hunts import Verdict, examine
from labs.hunts.answer import module_of

MakeAverage = Callable[[nn.Module, float], Any]


def check_moving_average(average: MakeAverage) -> Verdict:
    """Check that a moving average follows weights and running statistics, and disturbs nothing.

    Args:
        average: ``average(net, decay)`` keeps a copy of ``net`` as its attribute ``net``, and
            ``.update(net)`` lets the copy follow.

    Returns:
        The verdict of six probes.
    """
    return examine(
        "the moving average that forgot a half",
        average,
        {
            "with decay 0 the average predicts what the network predicts": _predicts,
            "with decay 0.9 the weights are the average of those it saw": _averages,
            "its running statistics follow the network's": _follows,
            "whole numbers stay whole, and are the network's": _counts,
            "the network that is trained stays as it was": _leaves_alone,
            "training on does not move the average": _stands_alone,
        },
        expects="class",
    )


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def _started(average: MakeAverage, net: nn.Module, decay: float) -> Any:
    kept = average(net, decay)
    module_of(getattr(kept, "net", None), nn.Module, "the copy, in the attribute net,")
    assert callable(getattr(kept, "update", None)), "expected a method update, got none"
    return kept


def _steps(net: nn.Module, count: int) -> None:
    """Train a little, on inputs whose mean and spread are far from 0 and 1."""
    sgd = torch.optim.SGD(net.parameters(), lr=0.02)
    for _ in range(count):
        x = 3 + 5 * torch.randn(32, 6)
        sgd.zero_grad()
        (net(x) - x[:, :3]).square().mean().backward()
        sgd.step()


def _followed(average: MakeAverage, decay: float, updates: int = 20) -> tuple[Any, nn.Module]:
    net = _net()
    kept = _started(average, net, decay)
    for _ in range(updates):
        _steps(net, 1)
        kept.update(net)
    return kept, net


def _apart(one: Tensor, other: Tensor) -> float:
    return (one.double() - other.double()).abs().max().item()


@torch.no_grad()
def _outputs(net: nn.Module, x: Tensor) -> Tensor:
    return copy.deepcopy(net).eval()(x)


def _predicts(average: MakeAverage) -> str:
    kept, net = _followed(average, 0.0)
    x = 3 + 5 * torch.randn(64, 6)
    off = _apart(_outputs(kept.net, x), _outputs(net, x))
    assert off < 1e-4, f"the outputs differ by up to {off:.2g}"
    return "it does"


def _averages(average: MakeAverage) -> str:
    net = _net()
    kept = _started(average, net, 0.9)
    expected = [p.detach().double().clone() for p in net.parameters()]
    for _ in range(10):
        _steps(net, 1)
        kept.update(net)
        for mean, p in zip(expected, net.parameters(), strict=True):
            mean.mul_(0.9).add_(p.detach().double(), alpha=0.1)
    pairs = zip(kept.net.parameters(), expected, strict=True)
    off = max(_apart(p.detach(), mean) for p, mean in pairs)
    assert off < 1e-5, f"a weight is off by {off:.2g} after ten updates"
    assert not any(p.grad_fn for p in kept.net.parameters()), "its weights carry a graph"
    return "after ten updates"


def _follows(average: MakeAverage) -> str:
    kept, net = _followed(average, 0.9, updates=60)
    mine, theirs = dict(kept.net.named_buffers()), dict(net.named_buffers())
    start = dict(_net().named_buffers())
    for name in ("1.running_mean", "1.running_var"):
        left = _apart(mine[name], theirs[name]) / _apart(start[name], theirs[name])
        assert left < 0.5, f"{name[2:]} kept {left:.0%} of its distance from the network's"
    return "mean and variance do"


def _counts(average: MakeAverage) -> str:
    kept, net = _followed(average, 0.9, updates=7)
    name = "1.num_batches_tracked"
    mine, theirs = dict(kept.net.named_buffers())[name], dict(net.named_buffers())[name]
    assert mine.dtype == torch.int64, f"a counter became {mine.dtype}"
    assert mine == theirs, f"a counter says {int(mine)}, the network's {int(theirs)}"
    return "they are"


def _leaves_alone(average: MakeAverage) -> str:
    net = _net()
    kept = _started(average, net, 0.5)
    _steps(net, 3)
    before = copy.deepcopy(net.state_dict())
    kept.update(net)
    assert net.training, "the network is no longer in train mode"
    moved = [name for name, value in net.state_dict().items() if not value.equal(before[name])]
    assert not moved, f"the update changed {moved[0]} of the network"
    assert all(p.requires_grad for p in net.parameters()), "the network no longer learns"
    return "it does"


def _stands_alone(average: MakeAverage) -> str:
    kept, net = _followed(average, 0.0, updates=3)
    before = copy.deepcopy(kept.net.state_dict())
    _steps(net, 3)
    moved = [n for n, value in kept.net.state_dict().items() if not value.equal(before[n])]
    assert not moved, f"{moved[0]} of the average moved without an update"
    return "it waits for the next update"
