"""Make an ONNX file smaller with whole-number weights, and measure what that costs."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from labs.export import onnx_file
from labs.export.arguments import positional
from labs.export.check import run_once
from labs.export.layers import scopes
from labs.export.session import CPU, Session, session
from labs.extras import optional
from labs.hooks.layers import refuse_train_mode
from labs.machine import first_line
from labs.near_miss import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

Predict = Callable[[Tensor], Tensor]
# ONNX Runtime computes a convolution with int8 weights alone more slowly than in float32.
_DYNAMIC_OPERATORS = ["MatMul", "Gemm", "Attention", "LSTM", "Gather"]

_PRODUCTS = ("MatMul", "Gemm", "Gather", "Conv", "ConvTranspose", "Attention")


class QuantizationError(RuntimeError):
    """Say why there is no 8-bit file of a model, and what to keep in float32."""


def quantize(
    path: str | Path,
    target: str | Path,
    calibration: Iterable[Any] | None = None,
    *,
    keep: Iterable[str] = (),
) -> Path:
    """Write a copy of an ONNX file with 8-bit integers in the place of float32.

    With calibration data the quantisation is *static*: weights and activations are 8-bit, with
    ranges seen on that data; this is what a convolutional network needs. Without, it is
    *dynamic*: matrix products measure their inputs as they run and convolutions stay in float32;
    that suits transformers, and it needs no data. Weights of products and convolutions have one
    scale per output channel, and a table of embeddings has one in all. A weight that several kinds
    of layers share (an embedding and the output layer tied to it) is stored once for each of them.

    Before the file is written, ONNX Runtime opens and runs it at the sizes of the example.

    Args:
        path: The float32 file.
        target: Where to write. It must be another file.
        calibration: Inputs from the *training* data, a few hundred images in all: each entry is one
            argument of ``forward``, a tuple of them, or a dict of its keyword arguments. It is read
            once.
        keep: Layers, by name as in ``model.named_modules()``, that stay in float32. The model
            itself is ``""``.

    Returns:
        The target.

    Raises:
        KeyError: When ``keep`` names a layer without nodes in the file.
        QuantizationError: When ONNX Runtime cannot quantise the model, or not run what came of it;
            nothing is written, and a file that was there stays.
        TypeError: When an entry has more or fewer tensors than the model has inputs, such as the
            labels of a data loader.
        ValueError: When the calibration data are empty, or ``target`` is ``path``.
    """
    if Path(path).resolve() == Path(target).resolve():
        raise ValueError("quantize: expected another file as target; keep the float32 one")
    proto = onnx_file.read(path)
    kept = _nodes_of(proto, keep)
    options = {"per_channel": True, "nodes_to_exclude": kept}
    batches = None if calibration is None else _batches(path, calibration)
    try:
        result = _quantized(proto, batches, options)
    except Exception as error:  # the quantiser fails in as many ways as there are operators
        raise QuantizationError(_why(proto, error, kept)) from error
    del result.metadata_props[:]
    result.metadata_props.extend(proto.metadata_props)
    _refuse_what_does_not_run(result, batches)
    return onnx_file.write(result, target)


def _quantized(proto: Any, batches: list[dict[str, Any]] | None, options: dict[str, Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        ready, small = str(Path(folder) / "ready.onnx"), str(Path(folder) / "small.onnx")
        _prepare(proto, ready)
        quantization = optional("onnxruntime.quantization", "labs.export")
        if batches is None:
            dynamic = {**options, "op_types_to_quantize": _DYNAMIC_OPERATORS}
            quantization.quantize_dynamic(ready, small, **dynamic)
        else:
            quantization.quantize_static(ready, small, _reader(batches), **options)
        return onnx_file.read(small)


def _refuse_what_does_not_run(result: Any, batches: list[dict[str, Any]] | None) -> None:
    try:
        run_once(result, batches[0] if batches else None)
    except Exception as error:  # ONNX Runtime raises a class of its own for each status
        raise QuantizationError(
            f"quantize: ONNX Runtime does not run what came of it: {first_line(error)}; keep the "
            "layer of that node in float32 with keep=[...]"
        ) from error


def _why(proto: Any, error: Exception, kept: Iterable[str]) -> str:
    said = f"quantize: ONNX Runtime cannot quantise this model: {first_line(error)}"
    grouped = [
        f"{(scopes(node) or ('',))[-1]!r} ({node.name})"
        for node in proto.graph.node
        if node.op_type == "ConvTranspose"
        and node.name not in kept
        and any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    ]
    if grouped:
        return (
            f"{said}; it has no scale per channel for transposed convolutions in groups: keep "
            f"{', '.join(grouped)} in float32 with keep=[...]"
        )
    return f"{said}; keep the layer at fault in float32 with keep=[...]"


def _prepare(proto: Any, ready: str) -> None:
    """Infer the shapes anew: the quantiser transposes weights, and old shapes would contradict."""
    bare = deepcopy(proto)
    del bare.graph.value_info[:]
    _untie(bare)
    onnx_file.write(bare, ready)
    preparation = optional("onnxruntime.quantization.shape_inference", "labs.export")
    # Optimising would rename the nodes that are to be kept.
    preparation.quant_pre_process(ready, ready, skip_symbolic_shape=True, skip_optimization=True)


def _untie(proto: Any) -> None:
    """Store a weight that several layers share once for each way in which it is read.

    The quantiser stores a weight along the axis of the layer that it meets first, where another
    kind of layer would read it along a wrong one. And it transposes the weight of a Gemm in place:
    the second Gemm would turn it back.
    """
    weights = {weight.name: weight for weight in proto.graph.initializer if len(weight.dims) > 1}
    uses = Counter(name for node in proto.graph.node for name in node.input if name in weights)
    copies: dict[str, dict[str, str]] = {}  # by weight and by how it is read, the name of the copy
    for node in proto.graph.node:
        for place, name in enumerate(node.input):
            if uses[name] < 2 or node.op_type not in _PRODUCTS:
                continue
            turned = node.op_type == "Gemm" and place == 1 and _take(node, "transB")
            # Two layers read a weight alike when their operator, its options and the place agree.
            options = b"".join(sorted(a.SerializeToString() for a in node.attribute)).hex()
            known = copies.setdefault(name, {})
            own = f"{name}.tied{len(known)}"
            reading = f"{node.op_type} {place} {turned} {options}"
            if reading not in known:
                proto.graph.initializer.append(_copy(weights[name], own, turned))
            node.input[place] = known.setdefault(reading, own)


def _take(node: Any, option: str) -> bool:
    """Remove an option of a node, and return whether it was set."""
    (found,) = [a for a in node.attribute if a.name == option] or [None]
    if found is None or not found.i:
        return False
    node.attribute.remove(found)
    return True


def _copy(weight: Any, name: str, turned: bool) -> Any:
    numpy = optional("onnx.numpy_helper", "labs.export")
    array = numpy.to_array(weight)
    return numpy.from_array(array.T.copy() if turned else array, name)


def _reader(batches: list[dict[str, Any]]) -> Any:
    """Wrap the batches in the class that ONNX Runtime asks for."""
    base = optional("onnxruntime.quantization", "labs.export").CalibrationDataReader
    left = iter(batches)
    return type("Reader", (base,), {"get_next": lambda self: next(left, None)})()


def _batches(path: str | Path, calibration: Iterable[Any]) -> list[dict[str, Any]]:
    runner = session(path, [CPU])
    try:
        feeds = [_feed(runner, x) for x in calibration]
    except TypeError as error:
        raise TypeError(
            f"quantize: in the calibration data, {error}; leave labels out: "
            "(images for images, _ in loader)"
        ) from None
    if not feeds:
        raise ValueError("quantize: expected calibration data, got none; leave it out for dynamic")
    return feeds


def _feed(runner: Session, entry: Any) -> dict[str, Any]:
    if isinstance(entry, Mapping) and set(entry) <= runner.keywords:
        return runner.feed(**entry)
    return runner.feed(*positional(entry))


def _nodes_of(proto: Any, layers: Iterable[str]) -> list[str]:
    found: list[str] = []
    for layer in layers:
        nodes = [node.name for node in proto.graph.node if layer in scopes(node)]
        if not nodes:
            known = sorted({name for node in proto.graph.node for name in scopes(node) if name})
            raise KeyError(
                f"quantize: no node of layer {layer!r} in the file; there are "
                f"{', '.join(known[:5])}{', ...' * (len(known) > 5)}{did_you_mean(layer, known, 3)}"
            )
        # The quantiser splits a Gemm, and names its product so.
        found += [*nodes, *(f"{node}_MatMul" for node in nodes)]
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    with contextlib.redirect_stdout(io.StringIO()):
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


@dataclass(frozen=True)
class Score:
    """Hold the score and the size of one model.

    Attributes:
        name: What it was called.
        score: What ``evaluate`` returned.
        delta: The score minus that of the first model.
        megabytes: The size of its file, or of its parameters and buffers in PyTorch.
    """

    name: str
    score: float
    delta: float
    megabytes: float


@dataclass(frozen=True)
class Scores:
    """Hold one score per model, the first being what the others are compared with."""

    scores: tuple[Score, ...]

    def table(self) -> pd.DataFrame:
        """Return one row per model: ``name``, ``score``, ``delta``, ``megabytes``."""
        import pandas as pd

        return pd.DataFrame([asdict(score) for score in self.scores])


def compare_scores(
    models: Mapping[str, nn.Module | str | Path], evaluate: Callable[[Predict], float]
) -> Scores:
    """Measure several versions of a model in the same way, such as before and after quantisation.

    ::

        def evaluate(predict):
            return (predict(images).argmax(1) == labels).float().mean().item()

        compare_scores({"float32": path, "int8": small}, evaluate).table()

    Args:
        models: By name, the reference first: a module in eval mode, or an ONNX file.
        evaluate: Gets a function from a batch to the model's first output, and returns a score.

    Raises:
        ValueError: When there are no models, or one is in train mode.
    """
    if not models:
        raise ValueError("compare_scores: expected at least one model, got none")
    found = {name: evaluate(_predictor(model)) for name, model in models.items()}
    base = next(iter(found.values()))
    rows = [Score(n, s, s - base, _megabytes(models[n])) for n, s in found.items()]
    return Scores(tuple(rows))


def _predictor(model: nn.Module | str | Path) -> Predict:
    if isinstance(model, nn.Module):
        refuse_train_mode("compare_scores", model)
        return torch.no_grad()(model)
    runner = session(model)
    return lambda images: runner(images)[0]


def _megabytes(model: nn.Module | str | Path) -> float:
    if isinstance(model, nn.Module):
        held = [*model.parameters(), *model.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held) / 1e6
    weights = Path(f"{model}.data")
    apart = weights.stat().st_size if weights.is_file() else 0
    return (Path(model).stat().st_size + apart) / 1e6
