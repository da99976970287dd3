"""Convert a PyTorch model to an ONNX file."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labs.export import onnx_file
from labs.extras import optional
from labs.hooks.layers import bare, refuse_train_mode
from labs.hooks.nested import map_tensors, tensors


class ExportError(RuntimeError):
    """Say which operator or which line of the model cannot be exported, and what to do."""


def to_onnx(
    model: nn.Module,
    example: Any,
    path: str | Path,
    dynamic: Any = None,
    *,
    opset: int | None = None,
    outputs: Sequence[str] | None = None,
    translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> Path:
    """Convert a model to an ONNX file with PyTorch's ``torch.export``-based exporter.

    ::

        path = to_onnx(model, torch.rand(2, 3, 64, 64), "model.onnx", dynamic={0: "batch"})

    The file also holds the versions, the dynamic dimensions and the shape of the example, and each
    node knows the layer it came from. The model is left as it was.

    Args:
        model: A module in eval mode, on any device.
        example: What ``forward`` takes: one argument, or a tuple of arguments. An argument is a
            tensor, or a dict, list or tuple of tensors. A dynamic batch needs an example with
            a batch of at least 2, because a size of 1 can be broadcast and so means less.
        path: Where to write. Its folder must exist. Weights above 2 GB go to a file beside it.
        dynamic: Which dimensions may change, by name: ``{0: "batch"}`` for every tensor of the
            example; or ``{"images": {0: "batch", 2: "height"}, "mask": None}``, one entry per
            argument of ``forward``, where an entry may repeat the structure of its argument. Equal
            names are one size. None keeps every size as in the example.
        opset: The version of the ONNX operators; the exporter's own choice when not given.
        outputs: Names for the outputs, in their order; the exporter's own when not given.
        translations: For operators that the exporter lacks: from the operator
            (``torch.ops.aten.cumprod.default``) to an onnxscript function that computes it.

    Returns:
        The path.

    Raises:
        ExportError: When the model cannot be exported; it names the operator, or the line.
        ImportError: When onnx or onnxscript is not installed.
        TypeError: When ``dynamic`` does not fit the example, or the example holds no tensor.
        ValueError: When a module is in train mode, or a named size cannot be free.
    """
    refuse_train_mode("to_onnx", model)
    optional("onnx", "labs.export"), optional("onnxscript", "labs.export")
    arguments = example if isinstance(example, tuple) else (example,)
    names = _dynamic_names(bare(model), arguments, dynamic)
    proto = _export(
        bare(model),
        # A dict in the last place would be taken for keyword arguments.
        (*arguments, {}) if isinstance(arguments[-1], dict) else arguments,
        dynamic_shapes=names,
        opset_version=opset,
        output_names=outputs,
        custom_translation_table=dict(translations) if translations else None,
    )
    _describe(proto, tensors(arguments), _per_tensor(names, arguments))
    return onnx_file.write(proto, path)


# --- Dynamic dimensions ------------------------------------------------------------------------


def _dynamic_names(model: nn.Module, arguments: tuple[Any, ...], dynamic: Any) -> Any:
    """Return the names of the dynamic dimensions in the structure of the arguments."""
    if not tensors(arguments):
        raise TypeError("to_onnx: expected an example with at least one tensor, got none")
    if isinstance(dynamic, Mapping) and any(isinstance(key, str) for key in dynamic):
        known = list(inspect.signature(model.forward).parameters)[: len(arguments)]
        if unknown := sorted(set(dynamic) - set(known)):
            raise TypeError(
                f"to_onnx: dynamic names the argument {unknown[0]!r}; of those in the example, "
                f"forward takes {', '.join(known)}"
            )
        dynamic = tuple(dynamic.get(name) for name in known)
    names = _spread(dynamic, arguments)
    _refuse_two_sizes(tensors(arguments), _per_tensor(names, arguments))
    return names


def _spread(dynamic: Any, value: Any) -> Any:
    """Give each tensor in ``value`` its names, in the structure of ``value``."""
    if dynamic is None or _is_of_one_tensor(dynamic):
        return map_tensors(partial(_fit, dynamic or {}), value)
    if isinstance(value, Mapping) and isinstance(dynamic, Mapping) and set(dynamic) <= set(value):
        return {key: _spread(dynamic.get(key), part) for key, part in value.items()}
    same = isinstance(value, (tuple, list)) and isinstance(dynamic, (tuple, list))
    if same and len(dynamic) == len(value):
        return type(value)(_spread(*pair) for pair in zip(dynamic, value, strict=True))
    raise TypeError(
        "to_onnx: expected dynamic like {0: 'batch'}, {'images': {0: 'batch'}}, or the structure "
        f"of the example with such entries, got {dynamic!r}"
    )


def _is_of_one_tensor(dynamic: Any) -> bool:
    return isinstance(dynamic, Mapping) and all(
        isinstance(key, int) and isinstance(name, str) for key, name in dynamic.items()
    )


def _fit(dynamic: Mapping[int, str], tensor: Tensor) -> dict[int, str]:
    if outside := [key for key in dynamic if not 0 <= key < tensor.ndim]:
        raise TypeError(
            f"to_onnx: dimension {outside[0]} was named {dynamic[outside[0]]!r}, but a tensor of "
            f"the example has shape {tuple(tensor.shape)}; count from 0, or name per argument"
        )
    return dict(dynamic)


def _per_tensor(names: Any, value: Any) -> list[dict[int, str]]:
    """Flatten the names, one entry for each tensor in ``value``."""
    if isinstance(value, Tensor):
        return [names]
    if isinstance(value, Mapping):
        return [leaf for key, part in value.items() for leaf in _per_tensor(names[key], part)]
    if isinstance(value, (tuple, list)):
        pairs = zip(names, value, strict=True)
        return [leaf for name, part in pairs for leaf in _per_tensor(name, part)]
    return []


def _refuse_two_sizes(given: list[Tensor], names: list[dict[int, str]]) -> None:
    sizes: dict[str, int] = {}
    for tensor, dims in zip(given, names, strict=True):
        for dim, name in dims.items():
            if sizes.setdefault(name, tensor.shape[dim]) != tensor.shape[dim]:
                raise ValueError(
                    f"to_onnx: {name!r} is {sizes[name]} in one place of the example and "
                    f"{tensor.shape[dim]} in another; give two names to two sizes"
                )


# --- The exporter ------------------------------------------------------------------------------


def _export(model: nn.Module, arguments: tuple[Any, ...], **options: Any) -> Any:
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                model, arguments, dynamo=True, verbose=False, **options
            )
    except torch.onnx.errors.OnnxExporterError as error:
        said = "\n".join(map(str, _causes(error)))
        if missing := re.search(r"No ONNX function .*op='([\w.]+)', overload='(\w+)'", said):
            raise ExportError(_explain_missing(missing[1], missing[2], model, arguments)) from error
        raise ExportError(_explain(_causes(error)[-1], said)) from error
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress and its remarks about its own internals, and nothing else."""
    before = logging.root.manager.disable
    nowhere = io.StringIO()
    streams = contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere)
    with warnings.catch_warnings(), streams[0], streams[1]:
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        # Said whenever a name is used twice, which is how two sizes are declared equal.
        warnings.filterwarnings("ignore", message="# The axis name")
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


def _explain_missing(name: str, overload: str, model: nn.Module, arguments: tuple[Any, ...]) -> str:
    """Name the operator that ONNX lacks, and the layer that calls it."""
    layer = _caller(name, model, arguments)
    operator = f"torch.ops.{name}.{overload}"
    return (
        f"to_onnx: ONNX has no translation of the operator {operator}, which {layer} calls; write "
        f"one with onnxscript and pass translations={{{operator}: your_function}}, or compute it "
        "in the model from other operators, or leave it outside the model"
    )


def _caller(operator: str, model: nn.Module, arguments: tuple[Any, ...]) -> str:
    """Find which layer calls an operator, by tracing the model again."""
    given = arguments[:-1] if isinstance(arguments[-1], dict) else arguments
    with _quiet(), torch.no_grad():
        graph = torch.export.export(model, given).run_decompositions().graph
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


def _describe(proto: Any, example: list[Tensor], names: list[dict[int, str]]) -> None:
    """Note the versions and sizes in the file, and take out the paths of this machine."""
    declared = onnx_file.shapes(proto.graph.input)
    dynamic = dict(zip(declared, names, strict=True))
    for tensor, dims in dynamic.items():
        for dim, name in dims.items():
            if declared[tensor][dim] != name:
                raise ValueError(
                    f"to_onnx: dimension {dim} of {tensor!r} was named {name!r}, but in this model "
                    f"it always equals {declared[tensor][dim]!r}; give both that one name"
                )
    for node in proto.graph.node:
        kept = [entry for entry in node.metadata_props if "stack_trace" not in entry.key]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    shapes = {n: tuple(t.shape) for n, t in zip(declared, example, strict=True)}
    onnx_file.write_note(proto, onnx_file.Note(torch.__version__, opset, dynamic, shapes))
