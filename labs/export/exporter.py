"""Run PyTorch's exporter quietly, and explain what stopped it."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from labs.machine import first_line

# What nn.TransformerEncoderLayer and nn.MultiheadAttention call in eval mode, as one operator.
_FAST_PATH = ("_transformer_encoder_layer_fwd", "_native_multi_head_attention")


class ExportError(RuntimeError):
    """Say which operator or which line of the model cannot be exported, and what to do."""


def export(
    model: nn.Module,
    arguments: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dynamic: Any,
    opset: int | None,
    translations: Any,
) -> Any:
    """Return the ``torch.onnx.ONNXProgram`` of a model.

    Args:
        model: In eval mode, without wrappers.
        arguments: The positional ones of the example.
        kwargs: Those with keywords.
        dynamic: As ``dynamic_shapes`` of ``torch.onnx.export``.
        opset: As there.
        translations: As ``custom_translation_table`` there.

    Raises:
        ExportError: When the exporter fails, whatever it raises.
    """
    # A dict in the last place would be taken for keyword arguments.
    ends_in_dict = bool(arguments) and isinstance(arguments[-1], dict) and not kwargs
    try:
        with _quiet(), torch.no_grad():
            return torch.onnx.export(
                model,
                (*arguments, {}) if ends_in_dict else arguments,
                kwargs=dict(kwargs) or None,
                dynamic_shapes=dynamic,
                opset_version=opset,
                custom_translation_table=dict(translations) if translations else None,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(_reason(error, model, arguments, kwargs)) from error


def _reason(
    error: Exception, model: nn.Module, arguments: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str:
    """Explain an error of the exporter; what goes wrong meanwhile takes nothing away from it."""
    try:
        said = "\n".join(map(str, _causes(error)))
        if missing := re.search(r"No ONNX function .*op='([\w.]+)', overload='(\w+)'", said):
            layer = _caller(missing[1], model, arguments, kwargs)
            return _explain_missing(missing[1], missing[2], layer)
        return _explain(_causes(error)[-1], said)
    except Exception:
        return f"to_onnx: the exporter stopped: {first_line(error)}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress and its remarks about its own internals, and nothing else."""
    before = logging.root.manager.disable
    nowhere = io.StringIO()
    streams = contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere)
    with warnings.catch_warnings(), streams[0], streams[1]:
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _causes(error: BaseException) -> list[BaseException]:
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return causes


def _explain_missing(name: str, overload: str, layer: str) -> str:
    """Name the operator that ONNX lacks, and the layer that calls it."""
    operator = f"torch.ops.{name}.{overload}"
    said = f"to_onnx: ONNX has no translation of the operator {operator}, which {layer} calls; "
    if name.rpartition(".")[2] in _FAST_PATH:
        return said + (
            "it is PyTorch's fast path of attention in eval mode: call "
            "torch.backends.mha.set_fastpath_enabled(False) before the export, and pass is_causal="
            "True or False beside a mask, whose values nn.TransformerEncoder looks at otherwise"
        )
    return said + (
        f"write one with onnxscript and pass translations={{{operator}: your_function}}, or "
        "compute it in the model from other operators, or leave it outside the model"
    )


def _caller(
    operator: str, model: nn.Module, arguments: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str:
    """Find which layer calls an operator, by tracing the model again where that works."""
    for strict in (False, True):
        with contextlib.suppress(Exception):
            return _traced_caller(operator, model, arguments, kwargs, strict)
    return "the model"


def _traced_caller(
    operator: str,
    model: nn.Module,
    arguments: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    strict: bool,
) -> str:
    with _quiet(), torch.no_grad():
        program = torch.export.export(model, arguments, dict(kwargs), strict=strict)
        graph = program.run_decompositions().graph
    for node in graph.nodes:
        # The exporter breaks aten.special_x into prims.x, which this trace need not do.
        if operator.rpartition(".")[2].strip("_") in str(node.target):
            path, kind = list(node.meta["nn_module_stack"].values())[-1]
            return f"layer {path!r} ({kind.rpartition('.')[2]})" if path else "the model itself"
    return "a layer"


def _explain(cause: BaseException, said: str) -> str:
    """Say what stopped the exporter, and what helps."""
    place = _place(said)
    if fixed := re.search(r"inferred a static shape of (\d+) for dimension (\S+?)\.?$", said, re.M):
        return (
            f"to_onnx: {fixed[2]} was named as dynamic, but the model's code fixes it to {fixed[1]}"
            f"{place}; look for a number where x.shape[...] should stand, such as a reshape to the "
            "example's size"
        )
    first = next((line for line in str(cause).splitlines() if line.strip()), "")
    return (
        f"to_onnx: the exporter stopped{place}: {type(cause).__name__}: {first}; make that line "
        "independent of the values of tensors (torch.where, torch.cond), or keep it outside the "
        "model"
    )


def _place(said: str) -> str:
    """Find the innermost line of the user's own code in what the exporter said."""
    lines = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', said)
    own = [line for line in lines if not re.search(r"[/\\]torch[/\\]", line[0])]
    return f" at {Path(own[-1][0]).name}:{own[-1][1]}, in {own[-1][2]}()" if own else ""
