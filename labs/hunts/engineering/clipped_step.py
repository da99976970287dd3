"""Check a training step in mixed precision: clipping must see the true gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from labs.hunts import Verdict, examine
from labs.hunts.answer import number_of

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
TrainStep = Callable[
    [nn.Module, torch.optim.Optimizer, torch.amp.GradScaler, Sequence[Batch], Loss, float], float
]

_SCALES = (2.0**4, 2.0**10, 2.0**16)
_SIZES = (7, 2, 3)  # uneven, so that a mean of means would show
_RATE = 0.5


def check_clipped_step(train_step: TrainStep) -> Verdict:
    """Check one step that scales its loss, accumulates, clips and lets the optimizer work.

    Args:
        train_step: ``train_step(model, optimizer, scaler, micro_batches, loss_fn, max_norm)`` takes
            one step on the mean loss of all samples, its gradient clipped to ``max_norm``, and
            returns the norm of that gradient before clipping.

    Returns:
        The verdict of six probes, all on the CPU.
    """
    return examine(
        "the clipped step",
        train_step,
        {
            "a long gradient: the step is as long as the limit allows": _long_is_clipped,
            "a short gradient: the step is that of plain float32": _short_is_kept,
            "the scale of the loss changes nothing": _scale_is_invisible,
            "the norm it returns is that of the gradient before clipping": _norm_is_true,
            "an infinite gradient: no step, and a smaller scale": _overflow_is_skipped,
            "a second step starts from nothing": _steps_are_apart,
        },
    )


def _make() -> tuple[nn.Module, list[Batch]]:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(6, 4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    batches = [
        (torch.randn(n, 6, generator=generator), torch.randint(4, (n,), generator=generator))
        for n in _SIZES
    ]
    return model, batches


def _gradient() -> tuple[list[Tensor], float]:
    """Return the true gradient of the whole batch at the start, and its norm."""
    model, batches = _make()
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    gradient = torch.autograd.grad(cross_entropy(model(images), labels), list(model.parameters()))
    return list(gradient), torch.cat([g.flatten() for g in gradient]).norm().item()


def _run(
    train_step: TrainStep, max_norm: float, scale: float = _SCALES[-1], steps: int = 1
) -> tuple[list[Tensor], list[float]]:
    """Return how far each parameter moved down, and what each step returned."""
    model, batches = _make()
    start = [p.detach().clone() for p in model.parameters()]
    sgd = torch.optim.SGD(model.parameters(), lr=_RATE)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    told = [train_step(model, sgd, scaler, batches, cross_entropy, max_norm) for _ in range(steps)]
    told = [number_of(norm, "the norm") for norm in told]
    return [s - p.detach() for s, p in zip(start, model.parameters(), strict=True)], told


def _norm(parts: Sequence[Tensor]) -> float:
    return torch.cat([part.flatten() for part in parts]).norm().item()


def _off(moved: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the distance of the two moves, relative to the expected one."""
    return _norm([m - e for m, e in zip(moved, expected, strict=True)]) / _norm(expected)


def _long_is_clipped(train_step: TrainStep) -> str:
    gradient, norm = _gradient()
    limit = 0.4 * norm
    moved, _ = _run(train_step, limit)
    length = _norm(moved) / _RATE
    assert 0.99 * limit < length < 1.01 * limit, f"limit {limit:.3g}, length {length:.3g}"
    assert _off(moved, [_RATE * 0.4 * g for g in gradient]) < 1e-3, "right length, other direction"
    return f"limit {limit:.3g}, length {length:.3g}"


def _short_is_kept(train_step: TrainStep) -> str:
    gradient, norm = _gradient()
    moved, _ = _run(train_step, 5 * norm)
    off = _off(moved, [_RATE * g for g in gradient])
    assert off < 1e-3, f"the step has length {_norm(moved) / _RATE:.3g}, the gradient {norm:.3g}"
    return "it is"


def _scale_is_invisible(train_step: TrainStep) -> str:
    _, norm = _gradient()
    lengths = [_norm(_run(train_step, 0.4 * norm, scale)[0]) / _RATE for scale in _SCALES]
    moves = ", ".join(
        f"{length:.3g} (scale {s:g})" for length, s in zip(lengths, _SCALES, strict=True)
    )
    assert min(lengths) > 0.999 * max(lengths) > 0, f"lengths {moves}"
    return "it does not"


def _norm_is_true(train_step: TrainStep) -> str:
    _, norm = _gradient()
    _, (told,) = _run(train_step, 0.4 * norm)
    assert abs(told - norm) < 1e-3 * norm, f"returned {told:.3g}, expected {norm:.3g}"
    return "it is"


def _overflow_is_skipped(train_step: TrainStep) -> str:
    model, batches = _make()
    batches[1][0][0, 0] = float("inf")
    before = [p.detach().clone() for p in model.parameters()]
    sgd = torch.optim.SGD(model.parameters(), lr=_RATE)
    scaler = torch.amp.GradScaler("cpu", init_scale=_SCALES[-1])
    train_step(model, sgd, scaler, batches, cross_entropy, 1.0)
    same = all(torch.equal(b, p) for b, p in zip(before, model.parameters(), strict=True))
    assert same, "the weights changed"
    assert scaler.get_scale() < _SCALES[-1], "the scale stayed as it was"
    return "both"


def _steps_are_apart(train_step: TrainStep) -> str:
    _, norm = _gradient()
    model, batches = _make()
    start = [p.detach().clone() for p in model.parameters()]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for _ in range(2):
        gradient = torch.autograd.grad(
            cross_entropy(model(images), labels), list(model.parameters())
        )
        shrink = min(1.0, 0.4 * norm / _norm(gradient))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradient, strict=True):
                p.sub_(_RATE * shrink * g)
    expected = [s - p.detach() for s, p in zip(start, model.parameters(), strict=True)]
    # A small scale: a large one would divide away what the first step left behind.
    moved, _ = _run(train_step, 0.4 * norm, _SCALES[0], steps=2)
    off = _off(moved, expected)
    assert off < 1e-3, f"after two steps the weights are {off:.0%} of the way off"
    return "it does"
