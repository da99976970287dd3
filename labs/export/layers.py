"""Find the outputs of a PyTorch model's layers inside its ONNX graph, and compare them."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from labs.export import onnx_file
from labs.export.arguments import Keywords, checked, positional
from labs.export.session import load
from labs.hooks import capture
from labs.hooks.layers import bare, refuse_train_mode
from labs.hooks.nested import map_tensors, tensors

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
_SCOPES = "pkg.torch.onnx.name_scopes"
# Rounding in float32 stays below the first number, and grows from layer to layer by less than the
# second; a fault does not.
_NOISE, _JUMP = 1e-6, 10


@dataclass(frozen=True)
class LayerError:
    """Hold how far one tensor of one call of a layer differs.

    Attributes:
        layer: Its name, as in ``model.named_modules()``.
        call: Which call of it, from 0.
        shape: The shape of the tensor.
        max_abs: The largest difference.
        relative: The norm of the difference over the norm of PyTorch's values.
    """

    layer: str
    call: int
    shape: tuple[int, ...]
    max_abs: float
    relative: float


@dataclass(frozen=True, repr=False)
class LayerErrors:
    """Hold the differences layer by layer, in the order in which the layers finish.

    Attributes:
        rows: One entry per tensor that could be found in the graph.
        hidden: The layers that ran in PyTorch and have no value of their own in the graph, because
            they were fused (a convolution with its batch norm) or do nothing (dropout).
    """

    rows: tuple[LayerError, ...]
    hidden: tuple[str, ...]

    @property
    def first(self) -> LayerError | None:
        """Return the first layer whose error is far above the rounding of all layers before it.

        The fault lies in that layer, or in the code between it and the last layer that agrees.
        ``None`` when no layer stands out.
        """
        worst = _NOISE
        for row in self.rows:
            if not row.relative <= worst * _JUMP:  # also true of NaN
                return row
            worst = max(worst, row.relative)
        return None

    @property
    def last_equal(self) -> LayerError | None:
        """Return the layer just before :attr:`first`; ``None`` when there is none."""
        position = self.rows.index(self.first) if self.first else 0
        return self.rows[position - 1] if position else None

    def table(self) -> pd.DataFrame:
        """Return one row per tensor: ``layer``, ``call``, ``shape``, ``max_abs``, ``relative``."""
        import pandas as pd

        columns = ["layer", "call", "shape", "max_abs", "relative"]
        return pd.DataFrame([asdict(row) for row in self.rows], columns=columns)

    def __repr__(self) -> str:
        first = f"{self.first.layer!r}" if self.first else "none"
        return f"LayerErrors({len(self.rows)} tensors compared, first that differs: {first})"


def compare_layers(
    model: nn.Module, path: str | Path, x: Any, kwargs: Keywords | None = None
) -> LayerErrors:
    """Compare what each layer returns in PyTorch with the same value inside the ONNX graph.

    Needs a file of PyTorch's ``torch.export``-based exporter, which notes for each node the layer
    it came from. A layer's output is the last value that its nodes hand to others.

    Args:
        model: The module the file was made from, in eval mode.
        path: The file.
        x: What ``forward`` takes: one argument, or a tuple of arguments.
        kwargs: Its keyword arguments.

    Returns:
        The differences, with ``.first`` and ``.table()``.

    Raises:
        ValueError: When a module is in train mode, or the file does not name its layers.
    """
    refuse_train_mode("compare_layers", model)
    proto = onnx_file.read(path)
    runs = _runs(proto)
    if not runs:
        raise ValueError(
            f"compare_layers: no node of {path} names its layer; export with to_onnx(model, ...)"
        )
    arguments, named = positional(x), checked("compare_layers", kwargs)
    names = [name for name, _ in bare(model).named_modules() if name in runs]
    with exact(), capture(model, *names) as maps:
        model(*copied(arguments), **copied(named))
    values = _values(proto, runs, arguments, named)
    found: list[tuple[int, int, LayerError]] = []
    for name in maps:
        calls = maps.calls(name)
        if len(calls) != len(runs[name]):  # two calls without a node between them look like one
            continue
        for call, (output, run) in enumerate(zip(calls, runs[name], strict=True)):
            for tensor, value in _matched(tensors(output), [values[v] for v in run.handed_on]):
                found.append((run.end, -len(name), _difference(name, call, tensor, value)))
    # A layer ends where its last node does; of two that end together, the inner one comes first.
    rows = tuple(row for *_, row in sorted(found, key=lambda entry: entry[:2]))
    seen = {row.layer for row in rows}
    return LayerErrors(rows, tuple(n for n, _ in bare(model).named_modules() if n not in seen))


@contextmanager
def exact() -> Iterator[None]:
    """Compute without gradients, and on a GPU with all digits of float32 in convolutions too."""
    cudnn = torch.backends.cudnn
    kept = cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic
    with torch.no_grad(), cudnn.flags(*kept, allow_tf32=False):
        yield


def copied(arguments: T) -> T:
    """Copy the tensors among the arguments, because a model may write over its input."""
    copy: T = map_tensors(lambda tensor: tensor.detach().clone(), arguments)
    return copy


@dataclass(frozen=True)
class _Run:
    """Hold one call of a layer in the graph: where its nodes end, and what others take from it."""

    end: int
    handed_on: tuple[str, ...]


def _runs(proto: Any) -> dict[str, list[_Run]]:
    """Find, for each layer, the unbroken runs of its nodes; each run is one call."""
    owners = {index: scopes(node) for index, node in enumerate(proto.graph.node) if scopes(node)}
    open_runs: dict[str, list[int]] = {}
    done: dict[str, list[list[int]]] = {}
    for index, around in owners.items():
        for name in [name for name in open_runs if name not in around]:
            done.setdefault(name, []).append(open_runs.pop(name))
        for name in around:
            open_runs.setdefault(name, []).append(index)
    for name, nodes in open_runs.items():
        done.setdefault(name, []).append(nodes)
    users = _users(proto)
    return {name: [_run(proto, nodes, users) for nodes in calls] for name, calls in done.items()}


def _run(proto: Any, nodes: list[int], users: Mapping[str, set[int]]) -> _Run:
    made = [value for index in nodes for value in proto.graph.node[index].output if value]
    inside = set(nodes)
    return _Run(nodes[-1], tuple(value for value in made if users.get(value, set()) - inside))


def _users(proto: Any) -> dict[str, set[int]]:
    """Return which nodes take each value; the graph's own outputs are taken by node -1."""
    users: dict[str, set[int]] = {value.name: {-1} for value in proto.graph.output}
    for index, node in enumerate(proto.graph.node):
        for value in node.input:
            users.setdefault(value, set()).add(index)
    return users


def scopes(node: Any) -> tuple[str, ...]:
    """Return the layers around a node, outermost first; the last scope noted is its operator."""
    noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    with suppress(ValueError, SyntaxError):  # another tool may write anything there
        return tuple(ast.literal_eval(noted)[:-1])
    return ()


def _values(
    proto: Any, runs: Mapping[str, list[_Run]], arguments: tuple[Any, ...], named: Keywords
) -> dict[str, Tensor]:
    """Run a copy of the graph that also returns every value that a layer hands on."""
    wanted = {value for calls in runs.values() for run in calls for value in run.handed_on}
    opened = deepcopy(proto)
    present = {value.name for value in proto.graph.output}
    for name in sorted(wanted - present):
        opened.graph.output.add(name=name)
    runner = load(opened)
    return dict(zip(runner.outputs, runner(*arguments, **named), strict=True))


def _matched(outputs: list[Tensor], values: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair what a layer returned with what its nodes hand on, where only one pair fits."""
    pairs = []
    for output in outputs:
        alike = [v for v in values if v.shape == output.shape and v.dtype == output.dtype]
        if alike and (len(alike) == 1 or len(outputs) == 1):
            pairs.append((output, alike[-1]))
    return pairs


def _difference(layer: str, call: int, expected: Tensor, got: Tensor) -> LayerError:
    ours = expected.detach().cpu().double()
    apart = (got.double() - ours).abs()
    size = ours.norm().item()
    relative = apart.norm().item() / size if size else math.inf if apart.any() else 0.0
    largest = apart.max().item() if apart.numel() else 0.0
    return LayerError(layer, call, tuple(expected.shape), largest, relative)
