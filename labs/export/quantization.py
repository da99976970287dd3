"""Make an ONNX file smaller with whole-number weights, and measure what that costs."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from labs.export import onnx_file
from labs.export.layers import scopes
from labs.export.session import CPU, session
from labs.extras import optional
from labs.hooks.layers import refuse_train_mode

if TYPE_CHECKING:
    import pandas as pd

Predict = Callable[[Tensor], Tensor]
# ONNX Runtime computes a convolution with int8 weights alone more slowly than in float32.
DYNAMIC_OPERATORS = ["MatMul", "Gemm", "Attention", "LSTM", "Gather"]


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
    that suits transformers, and it needs no data. Weights have one scale per output channel.

    Args:
        path: The float32 file.
        target: Where to write. It must be another file.
        calibration: Inputs from the *training* data, a few hundred images in all: each entry is one
            argument of ``forward``, or a tuple of them. It is read once.
        keep: Layers, by name as in ``model.named_modules()``, that stay in float32.

    Returns:
        The target.

    Raises:
        KeyError: When ``keep`` names a layer without nodes in the file.
        TypeError: When an entry has more or fewer tensors than the model has inputs, such as the
            labels of a data loader.
        ValueError: When the calibration data are empty, or ``target`` is ``path``.
    """
    if Path(path).resolve() == Path(target).resolve():
        raise ValueError("quantize: expected another file as target; keep the float32 one")
    proto = onnx_file.read(path)
    options = {"per_channel": True, "nodes_to_exclude": _nodes_of(proto, keep)}
    batches = None if calibration is None else _batches(path, calibration)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        ready, small = str(Path(folder) / "ready.onnx"), str(Path(folder) / "small.onnx")
        _prepare(proto, ready)
        quantization = optional("onnxruntime.quantization", "labs.export")
        if batches is None:
            options["op_types_to_quantize"] = DYNAMIC_OPERATORS
            quantization.quantize_dynamic(ready, small, **options)
        else:
            quantization.quantize_static(ready, small, _reader(batches), **options)
        result = onnx_file.read(small)
    del result.metadata_props[:]
    result.metadata_props.extend(proto.metadata_props)
    return onnx_file.write(result, target)


def _prepare(proto: Any, ready: str) -> None:
    """Infer the shapes anew: the quantiser transposes weights, and old shapes would contradict."""
    bare = deepcopy(proto)
    del bare.graph.value_info[:]
    onnx_file.write(bare, ready)
    preparation = optional("onnxruntime.quantization.shape_inference", "labs.export")
    # Optimising would rename the nodes that are to be kept.
    preparation.quant_pre_process(ready, ready, skip_symbolic_shape=True, skip_optimization=True)


def _reader(batches: list[dict[str, Any]]) -> Any:
    """Wrap the batches in the class that ONNX Runtime asks for."""
    base = optional("onnxruntime.quantization", "labs.export").CalibrationDataReader
    left = iter(batches)
    return type("Reader", (base,), {"get_next": lambda self: next(left, None)})()


def _batches(path: str | Path, calibration: Iterable[Any]) -> list[dict[str, Any]]:
    runner = session(path, [CPU])
    try:
        feeds = [runner.feed(*(x if isinstance(x, tuple) else (x,))) for x in calibration]
    except TypeError as error:
        raise TypeError(
            f"quantize: in the calibration data, {error}; leave labels out: "
            "(images for images, _ in loader)"
        ) from None
    if not feeds:
        raise ValueError("quantize: expected calibration data, got none; leave it out for dynamic")
    return feeds


def _nodes_of(proto: Any, layers: Iterable[str]) -> list[str]:
    found: list[str] = []
    for layer in layers:
        nodes = [node.name for node in proto.graph.node if layer in scopes(node)]
        if not nodes:
            known = sorted({name for node in proto.graph.node for name in scopes(node) if name})
            near = ", ".join(get_close_matches(layer, known)) or ", ".join(known[:5])
            raise KeyError(f"quantize: no node of layer {layer!r} in the file; near: {near}")
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
