"""Drive a loss over extreme inputs, and look at its value and at its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from labs.hooks.nested import map_tensors
from labs.numerics.cases import Case, cases
from labs.numerics.smallest import Smallest, shrink
from labs.repro import random_state_kept

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Outcome:
    """Hold what a loss made of one case in one dtype.

    Attributes:
        case: The name of the case.
        dtype: Such as ``"float32"``.
        value: The loss; when it is not one number, NaN if any is, else the largest in magnitude.
            ``None`` when there is none, because the loss raised or the case was skipped.
        gradient: The largest magnitude in the gradient of the predictions, NaN if any is NaN.
            ``None`` when there is none.
        failed: Whether something is wrong.
        verdict: ``ok``, what is wrong, what is not finite yet allowed, or why it was skipped.
        smallest: The smallest input that fails in the same way; ``None`` unless it failed.
    """

    case: str
    dtype: str
    value: float | None
    gradient: float | None
    failed: bool
    verdict: str
    smallest: Smallest | None = None


@dataclass(frozen=True, repr=False)
class StressReport:
    """Hold the outcome of every case in every dtype.

    Attributes:
        loss: The name of the loss.
        outcomes: One per case and dtype, in the order of the table.
    """

    loss: str
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """Return the outcomes that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.failed)

    @property
    def ok(self) -> bool:
        """Say whether nothing failed."""
        return not self.failures

    @property
    def smallest(self) -> Smallest | None:
        """Return the failing input of the fewest numbers, in the widest dtype among equals.

        An empty input is named only when nothing else fails.
        """

        def size(small: Smallest) -> tuple[bool, int, int]:
            bits = torch.finfo(getattr(torch, small.dtype)).bits
            return small.values == 0, small.values, -bits

        found = [outcome.smallest for outcome in self.failures if outcome.smallest is not None]
        return min(found, key=size, default=None)

    def table(self) -> pd.DataFrame:
        """Return one row per case and dtype, with value, largest gradient, and the verdict."""
        return pd.DataFrame(
            {
                "case": outcome.case,
                "dtype": outcome.dtype,
                "value": outcome.value,
                "finite value": _finite(outcome.value),
                "max |grad|": outcome.gradient,
                "finite gradient": _finite(outcome.gradient),
                "failed": outcome.failed,
                "verdict": outcome.verdict,
            }
            for outcome in self.outcomes
        )

    def __repr__(self) -> str:
        counts = f"{len(self.failures)} of {len(self.outcomes)} failed"
        smallest = "" if self.smallest is None else f"; {self.smallest!r}"
        return f"StressReport({self.loss}: {counts}{smallest})"


def stress(
    loss_fn: Callable[..., Tensor],
    cases_or_family: str | Iterable[Case],
    *,
    dtypes: Iterable[torch.dtype] = _DTYPES,
    device: torch.device | str = "cpu",
) -> StressReport:
    """Call a loss with extreme inputs, and report each value or gradient that is not finite.

    A case fails when the loss raises, when its value or its gradient is NaN or infinite (unless
    the case allows it), or when no gradient comes back. Each failing input is then made small.

    A case is skipped, which its verdict says, in a dtype that cannot hold its finite numbers, or
    for which PyTorch has no such operation on this device. Every call starts from the same random
    state, and the state is afterwards as before; so are parameters and their ``.grad``.

    Args:
        loss_fn: From the inputs of a case to one number, or to any tensor (its sum is then
            differentiated): a loss, an activation, a module without state.
        cases_or_family: The name of a family of :func:`cases`, or your own cases.
        dtypes: The floating-point types to try.
        device: Where. On a GPU an index out of range ends the process, so the CPU is the default.

    Returns:
        The report.

    Raises:
        ValueError: When there is no such family, no case, or no dtype.
        TypeError: When a dtype is not a floating-point one, or the loss returns no tensor.
    """
    table = cases(cases_or_family) if isinstance(cases_or_family, str) else tuple(cases_or_family)
    dtypes = tuple(dtypes)
    _refuse(table, dtypes)
    outcomes = (_try(loss_fn, case, dtype, device) for case in table for dtype in dtypes)
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    return StressReport(name, tuple(outcomes))


@dataclass(frozen=True)
class _Seen:
    """Hold one call: its value and gradient, what is wrong, and how bad that is."""

    value: float | None
    gradient: float | None
    problem: str = ""
    least: str = "finite"  # what a case must allow for this to be right; "never" when it cannot

    @property
    def kind(self) -> str:
        """Return the problem without the words of an exception, which may name a shape."""
        return self.problem.partition(":")[0]


def _try(
    loss_fn: Callable[..., Tensor], case: Case, dtype: torch.dtype, device: torch.device | str
) -> Outcome:
    inputs = _cast(case.inputs, dtype, device)
    name = str(dtype).removeprefix("torch.")
    if _overflowed(case.inputs, inputs):
        return Outcome(case.name, name, None, None, False, f"skipped: too large for {name}")
    seen = _look(loss_fn, inputs, case.wrt)
    if "not implemented for" in seen.problem:
        return Outcome(case.name, name, None, None, False, f"skipped: {seen.problem}")
    if _right(seen, case):
        verdict = f"{seen.problem}, as allowed" if seen.problem else "ok"
        return Outcome(case.name, name, seen.value, seen.gradient, False, verdict)

    def fails_alike(smaller: tuple[Any, ...]) -> bool:
        again = _look(loss_fn, smaller, case.wrt)
        return again.kind == seen.kind and not _right(again, case)

    small = shrink(fails_alike, case, inputs, rows_only=seen.value is None)
    smallest = Smallest(case.name, name, seen.problem, small)
    return Outcome(case.name, name, seen.value, seen.gradient, True, seen.problem, smallest)


def _look(loss_fn: Callable[..., Tensor], inputs: tuple[Any, ...], wrt: tuple[int, ...]) -> _Seen:
    """Call the loss once and differentiate it; whatever it raises is a finding."""
    wanted = {index % len(inputs) for index in wrt}
    leaves = {i: inputs[i].detach().clone().requires_grad_() for i in sorted(wanted)}
    with random_state_kept(), torch.inference_mode(False), torch.enable_grad():
        # The loss gets copies, which it may write over as it may over what a layer returned.
        given = map_tensors(torch.clone, [leaves.get(i, value) for i, value in enumerate(inputs)])
        try:
            value = loss_fn(*given)
            gradients = _gradients(value, tuple(leaves.values()))
        except Exception as error:
            return _Seen(None, None, f"raised {type(error).__name__}: {error}", "never")
    if not isinstance(value, Tensor):
        raise TypeError(f"stress: expected the loss to return a tensor, got {type(value).__name__}")
    return _judge(_largest([value]), None if gradients is None else abs(_largest(gradients)))


def _gradients(value: Any, leaves: tuple[Tensor, ...]) -> list[Tensor] | None:
    """Return the gradient of the sum by each prediction, or ``None`` where one has none."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return None
    found = torch.autograd.grad(value, leaves, torch.ones_like(value), allow_unused=True)
    gradients = [gradient for gradient in found if gradient is not None]
    return gradients if len(gradients) == len(leaves) else None


def _judge(value: float, gradient: float | None) -> _Seen:
    if math.isnan(value):
        return _Seen(value, gradient, "value is NaN", "nan")
    if gradient is None:
        return _Seen(value, gradient, "no gradient", "never")
    if math.isnan(gradient):
        return _Seen(value, gradient, "gradient is NaN", "nan")
    if math.isinf(value):
        return _Seen(value, gradient, "value is infinite", "infinite")
    if math.isinf(gradient):
        return _Seen(value, gradient, "gradient is infinite", "infinite")
    return _Seen(value, gradient)


def _right(seen: _Seen, case: Case) -> bool:
    allowed = {"finite": ("finite",), "infinite": ("finite", "infinite")}
    return seen.least in allowed.get(case.allows, ("finite", "infinite", "nan"))


def _largest(found: list[Tensor]) -> float:
    """Return the number of largest magnitude, with its sign; NaN if there is one, 0 if none."""
    numbers = torch.cat([tensor.detach().double().flatten() for tensor in found])
    if numbers.isnan().any() or not len(numbers):
        return float("nan") if len(numbers) else 0.0
    return float(numbers[numbers.abs().argmax()])


def _cast(
    inputs: tuple[Any, ...], dtype: torch.dtype, device: torch.device | str
) -> tuple[Any, ...]:
    def cast(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else None)

    return tuple(map(cast, inputs))


def _overflowed(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    """Say whether a finite number became infinite."""
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, Tensor)]
    return any(int(a.isinf().sum()) != int(b.isinf().sum()) for a, b in pairs)


def _finite(number: float | None) -> bool:
    return number is not None and math.isfinite(number)


def _refuse(table: tuple[Case, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    if not table or not dtypes:
        raise ValueError(
            f"stress: expected a case and a dtype, got {len(table)} cases and {len(dtypes)} dtypes"
        )
    for dtype in dtypes:
        if not dtype.is_floating_point:
            raise TypeError(f"stress: expected floating-point dtypes, got {dtype}")
