"""Judge the gradients that a backward pass left behind."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from labs.hooks.layers import bare
from labs.hooks.scaling import LossScale, loss_scale


@dataclass(frozen=True)
class ParameterHealth:
    """Hold what the gradient of one parameter looks like.

    Attributes:
        parameter: Its name, as in ``model.named_parameters()``.
        shape: Its shape.
        grad_norm: The Euclidean norm of its gradient; NaN when there is none.
        weight_norm: The Euclidean norm of its values.
        ratio: ``grad_norm / weight_norm``: how far a step of learning rate 1 would move it, in
            units of its own length. NaN when the weights are all zero.
        zeros: The share of gradient values that are exactly zero, in [0, 1].
        verdict: ``ok``, ``missing``, ``dead``, ``non-finite``, ``vanishing``, ``exploding`` or
            ``frozen``.
    """

    parameter: str
    shape: tuple[int, ...]
    grad_norm: float
    weight_norm: float
    ratio: float
    zeros: float
    verdict: str


@dataclass(frozen=True, repr=False)
class GradientHealth:
    """Hold the gradient of every parameter of a model, with a verdict on each."""

    parameters: tuple[ParameterHealth, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Name what is to be trained but has no gradient: the loss does not depend on it."""
        return self.named("missing")

    @property
    def dead(self) -> tuple[str, ...]:
        """Name what has a gradient of exact zeros: it is used, and nothing can move it."""
        return self.named("dead")

    @property
    def non_finite(self) -> tuple[str, ...]:
        """Name what has a NaN or an infinity in its gradient."""
        return self.named("non-finite")

    @property
    def vanishing(self) -> tuple[str, ...]:
        """Name what has a gradient norm below the threshold ``vanishing``, but not all zero."""
        return self.named("vanishing")

    @property
    def exploding(self) -> tuple[str, ...]:
        """Name what has a finite gradient norm above the threshold ``exploding``."""
        return self.named("exploding")

    @property
    def frozen(self) -> tuple[str, ...]:
        """Name what is not to be trained (``requires_grad`` is off) and has no gradient."""
        return self.named("frozen")

    def named(self, verdict: str) -> tuple[str, ...]:
        """Return the names of the parameters with this verdict, in the order of the model."""
        return tuple(row.parameter for row in self.parameters if row.verdict == verdict)

    def table(self) -> pd.DataFrame:
        """Return one row per parameter, in the order of the model; see :class:`ParameterHealth`."""
        columns = list(ParameterHealth.__dataclass_fields__)
        return pd.DataFrame([vars(row) for row in self.parameters], columns=columns)

    def __repr__(self) -> str:
        verdicts = dict.fromkeys(row.verdict for row in self.parameters)
        counts = ", ".join(f"{len(self.named(verdict))} {verdict}" for verdict in verdicts)
        trained = len(self.parameters) - len(self.frozen)
        none = trained > 0 and len(self.missing) == trained
        hint = "; no gradient at all: was backward() called?" if none else ""
        return f"GradientHealth({len(self.parameters)} parameters: {counts or 'none'}{hint})"


def gradient_health(
    model: nn.Module,
    vanishing: float = 1e-6,
    exploding: float = 1e3,
    scale: LossScale = 1.0,
) -> GradientHealth:
    """Judge the gradient of each parameter; call it after ``backward()``, before the next step.

    The thresholds are on the Euclidean norm of a parameter's gradient, and suit a loss that is a
    mean over the batch. Two gradients are small without being ill: those of a network that has
    nothing left to learn, and that of a bias in front of a batch norm, which cancels it.

    Args:
        model: Any module. Nothing of it is changed. The names are those of the network inside
            ``torch.compile`` and the wrappers of distributed training.
        vanishing: A norm below it is vanishing. In [0, ``exploding``].
        exploding: A norm above it is exploding.
        scale: By what the loss was multiplied before ``backward()``: a number, or the
            ``GradScaler``, as long as its ``unscale_`` was not called.

    Returns:
        The report. A parameter without gradient is ``frozen`` when it does not require one, and
        ``missing`` when it does.

    Raises:
        ValueError: When the thresholds are negative or the wrong way round, or the scale is not
            above zero.
    """
    if not 0 <= vanishing <= exploding:
        raise ValueError(
            "gradient_health: expected 0 <= vanishing <= exploding, got "
            f"vanishing={vanishing}, exploding={exploding}"
        )
    by = loss_scale(scale)
    rows = [_judge(name, p, by, vanishing, exploding) for name, p in bare(model).named_parameters()]
    return GradientHealth(tuple(rows))


def _judge(
    name: str, parameter: nn.Parameter, scale: float, vanishing: float, exploding: float
) -> ParameterHealth:
    weight_norm = _norm(parameter.detach())
    gradient = None if parameter.grad is None else parameter.grad.detach()
    if gradient is None:
        verdict = "missing" if parameter.requires_grad else "frozen"
        nan = float("nan")
        return ParameterHealth(name, tuple(parameter.shape), nan, weight_norm, nan, nan, verdict)
    if gradient.layout is not torch.strided:  # an Embedding(sparse=True) has such gradients
        gradient = gradient.to_dense()
    norm = _norm(gradient) / scale
    return ParameterHealth(
        parameter=name,
        shape=tuple(parameter.shape),
        grad_norm=norm,
        weight_norm=weight_norm,
        ratio=norm / weight_norm if weight_norm > 0 else float("nan"),
        zeros=(gradient == 0).double().mean().item(),
        verdict=_verdict(gradient, norm, vanishing, exploding),
    )


def _verdict(gradient: Tensor, norm: float, vanishing: float, exploding: float) -> str:
    if gradient.numel() == 0:
        return "ok"
    if not gradient.isfinite().all():
        return "non-finite"
    if not gradient.any():
        return "dead"
    if norm < vanishing:
        return "vanishing"
    return "exploding" if norm > exploding else "ok"


def _norm(tensor: Tensor) -> float:
    # In float64: a float16 norm overflows at 65,504, and 1e-30 squared is zero in float32.
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).item()
