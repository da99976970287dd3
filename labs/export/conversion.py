"""Convert a PyTorch model to an ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labs.export import naming, onnx_file
from labs.export.arguments import Keywords, bound, checked, positional
from labs.export.exporter import ExportError, export
from labs.extras import optional
from labs.hooks.layers import bare, refuse_train_mode
from labs.hooks.nested import map_tensors, tensors
from labs.near_miss import did_you_mean

__all__ = ["ExportError", "to_onnx"]


def to_onnx(
    model: nn.Module,
    example: Any,
    path: str | Path,
    dynamic: Any = None,
    *,
    kwargs: Keywords | None = None,
    opset: int | None = None,
    outputs: Sequence[str] | None = None,
    translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> Path:
    """Convert a model to an ONNX file with PyTorch's ``torch.export``-based exporter.

    ::

        path = to_onnx(model, torch.rand(2, 3, 64, 64), "model.onnx", dynamic={0: "batch"})

    The file also holds the versions, the dynamic dimensions, the arguments and the shape of the
    example, and each node knows the layer it came from. The model is left as it was.

    What a dict, a named tuple or a dataclass returns keeps its name: the key or the field, in
    nested ones with a dot between two, positions counted (``boxes``, ``aux.mask``, ``levels.0``).
    Where an input has that name already, the output is ``boxes_out``. A tensor that has no such
    name, alone or in a plain tuple, gets the exporter's.

    Args:
        model: A module in eval mode, on any device.
        example: What ``forward`` takes: one argument, or a tuple of arguments. An argument is a
            tensor, or a dict, list or tuple of tensors. A dynamic batch needs an example with
            a batch of at least 2, because a size of 1 can be broadcast and so means less. It is
            ``()`` for a model that takes keyword arguments only.
        path: Where to write. Its folder must exist. Weights above 2 GB go to a file beside it.
        dynamic: Which dimensions may change, by name: ``{0: "batch"}`` for every tensor of the
            example; or ``{"images": {0: "batch", 2: "height"}, "mask": None}``, one entry per
            argument of ``forward``, where an entry may repeat the structure of its argument. Equal
            names are one size. None keeps every size as in the example.
        kwargs: The keyword arguments of ``forward`` in the example: tensors, or structures of
            them. What is no tensor (``None``, a flag, a number) is fixed in the file.
        opset: The version of the ONNX operators; the exporter's own choice when not given.
        outputs: Names for the outputs, in their order, in the place of those above.
        translations: For operators that the exporter lacks: from the operator
            (``torch.ops.aten.cumprod.default``) to an onnxscript function that computes it.

    Returns:
        The path.

    Raises:
        ExportError: When the model cannot be exported; it names the operator, or the line.
        ImportError: When onnx or onnxscript is not installed.
        TypeError: When ``forward`` does not take the example, ``dynamic`` does not fit it, or it
            holds no tensor.
        ValueError: When a module is in train mode, a named size cannot be free, or ``outputs`` are
            not one free name for each output.
    """
    refuse_train_mode("to_onnx", model)
    optional("onnx", "labs.export"), optional("onnxscript", "labs.export")
    network, arguments = bare(model), positional(example)
    by_name = bound("to_onnx", network.forward, arguments, checked("to_onnx", kwargs))
    keywords = {name: by_name[name] for name in by_name if name in (kwargs or {})}
    names = _dynamic_names(by_name, dynamic)
    free = _free(names)
    shapes = free if keywords else tuple(free.values())
    program = export(network, arguments, keywords, shapes, opset, translations)
    proto = program.model_proto
    naming.rename_outputs(proto, outputs or naming.own_names(program), exactly=bool(outputs))
    _describe(proto, by_name, names)
    return onnx_file.write(proto, path)


# --- Dynamic dimensions ------------------------------------------------------------------------


def _dynamic_names(by_name: Mapping[str, Any], dynamic: Any) -> dict[str, Any]:
    """Return, for each argument, the names of its dynamic dimensions in its structure."""
    given = tensors(tuple(by_name.values()))
    if not given:
        raise TypeError("to_onnx: expected an example with at least one tensor, got none")
    if isinstance(dynamic, Mapping) and any(isinstance(key, str) for key in dynamic):
        if unknown := sorted(set(dynamic) - set(by_name)):
            raise TypeError(
                f"to_onnx: dynamic names the argument {unknown[0]!r}; of those in the example, "
                f"forward takes {', '.join(by_name)}{did_you_mean(unknown[0], by_name)}"
            )
        names = {name: _spread(dynamic.get(name), value) for name, value in by_name.items()}
    else:
        names = dict(zip(by_name, _spread(dynamic, tuple(by_name.values())), strict=True))
    _refuse_two_sizes(given, _per_tensor(names, by_name))
    return names


def _spread(dynamic: Any, value: Any) -> Any:
    """Give each tensor in ``value`` its names, in the structure of ``value``."""
    if dynamic is None or _is_of_one_tensor(dynamic):
        if not tensors(value):
            return None  # a flag or a number, which has no dimensions
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


def _free(names: Any) -> Any:
    """Write what the exporter understands in the place of each name; the file gets them later."""
    if isinstance(names, str):
        return torch.export.Dim.DYNAMIC
    if isinstance(names, Mapping):
        return {key: _free(part) for key, part in names.items()}
    if isinstance(names, (tuple, list)):
        return type(names)(map(_free, names))
    return None


def _refuse_two_sizes(given: list[Tensor], names: list[dict[int, str]]) -> None:
    sizes: dict[str, int] = {}
    for tensor, dims in zip(given, names, strict=True):
        for dim, name in dims.items():
            if sizes.setdefault(name, tensor.shape[dim]) != tensor.shape[dim]:
                raise ValueError(
                    f"to_onnx: {name!r} is {sizes[name]} in one place of the example and "
                    f"{tensor.shape[dim]} in another; give two names to two sizes"
                )


# --- What the file says -------------------------------------------------------------------------


def _describe(proto: Any, by_name: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    """Note the versions and sizes in the file, and take out the paths of this machine."""
    inputs = [value.name for value in proto.graph.input]
    dynamic = dict(zip(inputs, _per_tensor(names, by_name), strict=True))
    naming.rename_dimensions(proto, dynamic)
    declared = onnx_file.shapes(proto.graph.input)
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
    onnx_file.write_note(proto, _noted(proto, by_name, dynamic))


def _noted(
    proto: Any, by_name: Mapping[str, Any], dynamic: dict[str, dict[int, str]]
) -> onnx_file.Note:
    left = iter(dynamic)
    takes = {name: [next(left) for _ in tensors(value)] for name, value in by_name.items()}
    shapes = [tuple(tensor.shape) for tensor in tensors(tuple(by_name.values()))]
    return onnx_file.Note(
        torch=torch.__version__,
        opset=next(e.version for e in proto.opset_import if e.domain in ("", "ai.onnx")),
        dynamic=dynamic,
        example=dict(zip(dynamic, shapes, strict=True)),
        arguments=takes,
        fixed={name: repr(by_name[name]) for name, inputs in takes.items() if not inputs},
    )
