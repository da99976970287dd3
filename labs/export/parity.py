"""Prove that an ONNX file computes what the PyTorch model computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from labs.export.arguments import Keywords, each, positional
from labs.export.layers import LayerErrors, compare_layers, copied, exact
from labs.export.session import CPU, Session, session
from labs.hooks.layers import refuse_train_mode
from labs.hooks.nested import tensors
from labs.machine import first_line

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class OutputError:
    """Hold how far one output differs for one input.

    Attributes:
        input: Which of the inputs, from 0.
        output: The name of the output in the ONNX file.
        shape: Its shape.
        max_abs: The largest difference.
        off: The share of values, in [0, 1], that are beyond the tolerance.
        excess: The largest difference over what is tolerated there; above 1 is too much.
    """

    input: int
    output: str
    shape: tuple[int, ...]
    max_abs: float
    off: float
    excess: float


@dataclass(frozen=True, repr=False)
class Parity:
    """Hold the differences of every output for every input, and the tolerance."""

    rows: tuple[OutputError, ...]
    rtol: float
    atol: float

    @property
    def worst(self) -> OutputError:
        """Return the output that is the furthest beyond, or the nearest to, the tolerance."""
        return max(self.rows, key=lambda row: row.excess)

    @property
    def ok(self) -> bool:
        """Tell whether every value of every output is within the tolerance."""
        return self.worst.excess <= 1

    def table(self) -> pd.DataFrame:
        """Return one row per input and output: shape, ``max_abs``, ``off``, ``excess``."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def __repr__(self) -> str:
        worst, inputs = self.worst, len({row.input for row in self.rows})
        return (
            f"Parity({'ok' if self.ok else 'FAILS'}: {inputs} inputs, {len(self.rows)} outputs, "
            f"worst {worst.output!r} of inputs[{worst.input}]: differs by up to "
            f"{worst.max_abs:.2g}, {worst.excess:.2g} of what is tolerated)"
        )


class ParityError(AssertionError):
    """Say which output differs the most, and in which layer the difference begins."""


def parity(
    model: nn.Module,
    path: str | Path,
    inputs: Sequence[Any],
    rtol: float = 1e-3,
    atol: float = 1e-5,
    *,
    kwargs: Keywords | Sequence[Keywords] | None = None,
) -> Parity:
    """Compare a model with its ONNX file, on the CPU, for inputs that the exporter never saw.

    Give it other batch sizes, and other image sizes where these are dynamic: what an exporter bakes
    in shows only there. A value is equal when ``|onnx - torch| <= atol + rtol * |torch|``; whole
    numbers must be equal. When an output differs, the layers are compared one by one
    (:func:`labs.export.compare_layers`).

    Args:
        model: The module the file was made from, in eval mode. It is left as it was.
        path: The file.
        inputs: One entry per comparison: one argument of ``forward``, or a tuple of arguments.
        rtol: The tolerated difference, relative to PyTorch's value.
        atol: The tolerated difference near zero.
        kwargs: The keyword arguments of ``forward``: one dict for all inputs, or one per input.
            Where all arguments have keywords, each entry of ``inputs`` is ``()``.

    Returns:
        The differences, all within the tolerance.

    Raises:
        ParityError: When the file refuses an input, returns other shapes, or differs; it names the
            worst output and the first layer that differs.
        TypeError: When ``inputs`` is one tensor and not a list of inputs, or the file takes other
            arguments.
        ValueError: When a module is in train mode, there are no inputs, or not one dict of
            ``kwargs`` for each.
    """
    if isinstance(inputs, (Tensor, dict)):
        raise TypeError(f"parity: expected a list of inputs, got a {type(inputs).__name__}; [x]")
    if len(inputs) == 0:
        raise ValueError("parity: expected at least one input, got none")
    refuse_train_mode("parity", model)
    runner = session(path, [CPU])
    rows: list[OutputError] = []
    keywords = each("parity", kwargs, len(inputs))
    for index, (x, named) in enumerate(zip(inputs, keywords, strict=True)):
        rows += _compare(model, runner, index, positional(x), named, (rtol, atol))
    result = Parity(tuple(rows), rtol, atol)
    if not result.ok:
        worst = result.worst.input
        said = _said(result)
        try:
            said += _where(compare_layers(model, path, inputs[worst], keywords[worst]))
        except Exception as error:  # the explanation may fail, and the outputs differ all the same
            said += f"; the layers cannot be compared: {first_line(error)}"
        raise ParityError(said)
    return result


def _compare(
    model: nn.Module,
    runner: Session,
    index: int,
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    tolerances: tuple[float, float],
) -> list[OutputError]:
    with exact():
        made = model(*copied(arguments), **copied(named))
    ours = [tensor.cpu() for tensor in tensors(made)]
    feed = runner.feed(*arguments, **named)
    try:
        theirs = [torch.as_tensor(array) for array in runner.runtime.run(None, feed)]
    except Exception as error:  # ONNX Runtime raises a class of its own for each status
        shapes = ", ".join(str(list(array.shape)) for array in feed.values())
        raise ParityError(
            f"parity: the ONNX model does not run with inputs[{index}] of shape {shapes}: "
            f"{first_line(error)}; name what may change in to_onnx(..., dynamic=...)"
        ) from error
    expected, got = ([list(tensor.shape) for tensor in side] for side in (ours, theirs))
    if expected != got:
        raise ParityError(
            f"parity: for inputs[{index}], expected outputs of shape {expected} as in PyTorch, "
            f"got {got}; see check(path)"
        )
    pairs = zip(runner.outputs, ours, theirs, strict=True)
    return [_error(index, name, one, other, *tolerances) for name, one, other in pairs]


def _error(
    index: int, name: str, ours: Tensor, theirs: Tensor, rtol: float, atol: float
) -> OutputError:
    exactly = not ours.is_floating_point()
    expected, got = ours.double(), theirs.double()
    same = (expected == got) | (expected.isnan() & got.isnan())  # also infinities of one sign
    apart = (got - expected).abs().masked_fill(same, 0).nan_to_num(math.inf, math.inf)
    allowed = atol + rtol * expected.abs().nan_to_num(0, 0, 0)
    excess = apart.masked_fill(apart > 0, math.inf) if exactly else apart / allowed
    excess = excess.masked_fill(same, 0)  # 0 / 0, where nothing is tolerated
    return OutputError(
        input=index,
        output=name,
        shape=tuple(ours.shape),
        max_abs=apart.max().item() if apart.numel() else 0.0,
        off=(excess > 1).double().mean().item() if apart.numel() else 0.0,
        excess=excess.max().item() if apart.numel() else 0.0,
    )


def _said(result: Parity) -> str:
    worst = result.worst
    return (
        f"parity: output {worst.output!r} of inputs[{worst.input}] {list(worst.shape)} differs by "
        f"up to {worst.max_abs:.3g}; {worst.off:.1%} of its values are beyond atol={result.atol:g} "
        f"+ rtol={result.rtol:g} * |torch|"
    )


def _where(layers: LayerErrors) -> str:
    """Say in which layer the difference begins."""
    if (first := layers.first) is None:
        return (
            "; no single layer stands out, so rounding adds up: compare in float64, or allow more "
            "(see compare_layers(model, path, x).table())"
        )
    before = layers.last_equal
    return (
        f". The first layer that differs is {first.layer!r} (call {first.call}, relative "
        f"error {first.relative:.2g}), after "
        + (f"{before.layer!r}, which agrees" if before else "the input")
    )
