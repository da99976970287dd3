"""Judge the gradients that a backward pass left behind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

import pandas as pd
import torch
from torch import Tensor, nn

from labs.hooks.layers import bare
from labs.hooks.ranks import refuse_flattened
from labs.hooks.scaling import LossScale, loss_scale
from labs.hooks.values import norm_of, numbers

_BELOW_MEDIAN = 1e-5  # a float32 sum whose terms cancel leaves 1e-7 to 1e-6 of them


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
        """Name what has too small a gradient, but not all zero; see :func:`gradient_health`."""
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
    mean over the batch. Small is not ill by itself. Each block of a fresh ConvNeXt is multiplied by
    1e-6 (LayerScale), and so are the gradients in it, while the layers in front of it get theirs
    in full. So a norm below ``vanishing`` is called vanishing where it is alone with that or at
    the end of the way:

    - when no parameter before it, in the order of the model, has a norm of at least ``vanishing``:
      then the gradient does not reach the front of the network;
    - otherwise, when it is also below 1e-5 of the median norm of all parameters.

    Two gradients are small without being ill, and called so all the same: those of a network that
    has nothing left to learn, and that of a bias in front of a batch norm, which cancels it.

    Where parameters are in parts on several ranks (``fully_shard``), the norms are those of the
    whole, which the ranks put together: all of them must call this.

    Args:
        model: Any module. Nothing of it is changed. The names are those of the network inside
            ``torch.compile`` and the wrappers of distributed training.
        vanishing: A norm below it may be vanishing. In [0, ``exploding``].
        exploding: A norm above it is exploding.
        scale: By what the loss was multiplied before ``backward()``: a number, or the
            ``GradScaler``, as long as its ``unscale_`` was not called.

    Returns:
        The report. A parameter without gradient is ``frozen`` when it does not require one, and
        ``missing`` when it does.

    Raises:
        TypeError: When the model is no module, or in ``FullyShardedDataParallel``, where no
            parameter is whole.
        ValueError: When the thresholds are negative or the wrong way round, or the scale is not
            above zero.
    """
    if not 0 <= vanishing <= exploding:
        raise ValueError(
            "gradient_health: expected 0 <= vanishing <= exploding, got "
            f"vanishing={vanishing}, exploding={exploding}"
        )
    by, network = loss_scale(scale), bare(model)
    refuse_flattened("gradient_health", network)
    rows = [_measured(name, p, by, exploding) for name, p in network.named_parameters()]
    return GradientHealth(tuple(_without_small(rows, vanishing)))


def _measured(
    name: str, parameter: nn.Parameter, scale: float, exploding: float
) -> ParameterHealth:
    """Judge one parameter by itself: everything but whether its gradient is too small."""
    weight_norm, shape = norm_of(parameter), tuple(parameter.shape)
    gradient = parameter.grad
    if gradient is None:
        verdict = "missing" if parameter.requires_grad else "frozen"
        nan = float("nan")
        return ParameterHealth(name, shape, nan, weight_norm, nan, nan, verdict)
    norm = norm_of(gradient) / scale
    zeros, finite = _zeros_and_finite(gradient)
    return ParameterHealth(
        parameter=name,
        shape=shape,
        grad_norm=norm,
        weight_norm=weight_norm,
        ratio=norm / weight_norm if weight_norm > 0 else float("nan"),
        zeros=zeros,
        verdict=_verdict(zeros, finite, norm, exploding),
    )


def _zeros_and_finite(gradient: Tensor) -> tuple[float, bool]:
    with torch.no_grad():
        found = numbers(gradient)
        if found is None or found.count == 0:
            return float("nan"), True
        zeros = found.absent + int((found.values == 0).sum())
        return zeros / found.count, bool(found.values.isfinite().all())


def _verdict(zeros: float, finite: bool, norm: float, exploding: float) -> str:
    if not finite:
        return "non-finite"
    if zeros == 1:
        return "dead"
    return "exploding" if norm > exploding else "ok"


def _without_small(rows: list[ParameterHealth], vanishing: float) -> list[ParameterHealth]:
    """Call vanishing what is too small, by itself or beside the others; see gradient_health."""
    judged = [row for row in rows if row.verdict in ("ok", "exploding") and row.zeros >= 0]
    usual = _BELOW_MEDIAN * median(row.grad_norm for row in judged) if judged else 0.0
    reached = next((i for i, row in enumerate(judged) if row.grad_norm >= vanishing), len(judged))
    small = {row.parameter for row in judged[:reached]}
    small |= {row.parameter for row in judged if row.grad_norm < min(usual, vanishing)}
    return [replace(row, verdict="vanishing") if row.parameter in small else row for row in rows]
