"""Give the outputs and the dynamic dimensions of an ONNX graph the names that the model has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils import _pytree as pytree


def own_names(program: Any) -> list[str | None]:
    """Return the name that the model itself gives each tensor it returns, in their order.

    It is the path to the tensor, through the keys of dicts and the fields of named tuples and
    dataclasses, with a dot between two: ``boxes``, ``aux.mask``, ``levels.0``. A tensor that only
    positions lead to (a bare one, or one of a tuple) has no name of its own, and stands as None.

    Args:
        program: The ``torch.onnx.ONNXProgram``; without its exported program, nothing is known.
    """
    exported = getattr(program, "exported_program", None)
    if exported is None or exported.call_spec.out_spec is None:
        return []
    leaves = list(exported.graph_signature.user_outputs)
    tree = pytree.tree_unflatten(leaves, exported.call_spec.out_spec)
    # An entry of the path is a key, a field or a position; None among the outputs is no output.
    paths, _ = pytree.tree_flatten_with_path(tree)
    return [_joined(path) for path, leaf in paths if leaf is not None]


def _joined(path: Sequence[Any]) -> str | None:
    if all(isinstance(part, pytree.SequenceKey) for part in path):
        return None
    return ".".join(map(_step, path))


def _step(part: Any) -> str:
    if isinstance(part, pytree.SequenceKey):
        return str(part.idx)
    return str(part.key if isinstance(part, pytree.MappingKey) else part.name)


def rename_outputs(proto: Any, wanted: Sequence[str | None], exactly: bool) -> None:
    """Rename the outputs of a graph; other values that bear such a name make way.

    Args:
        proto: The ``onnx.ModelProto``, changed in place.
        wanted: One name per output; None keeps the exporter's.
        exactly: Whether a name that an input bears is refused. Otherwise ``_out`` is added to it.

    Raises:
        ValueError: When there are more or fewer names than outputs, one is given twice, or
            ``exactly`` and an input has it.
    """
    now = [value.name for value in proto.graph.output]
    fixed = {value.name for value in [*proto.graph.input, *proto.graph.initializer]}
    if exactly:
        _refuse(wanted, now, fixed)
    elif len(wanted) != len(now):
        return
    names = _apart([new or old for new, old in zip(wanted, now, strict=True)], fixed)
    moves = dict(zip(now, names, strict=True))
    used = {name for node in _nodes(proto.graph) for name in [*node.input, *node.output]}
    for name in (used & set(names)) - set(now):  # a value inside, which nobody asks for by name
        moves[name] = next(_free(f"{name}_inner", used | set(names) | fixed))
    _rename(proto.graph, {old: new for old, new in moves.items() if old != new})


def _refuse(wanted: Sequence[str | None], now: Sequence[str], fixed: set[str]) -> None:
    twice = [name for name, n in Counter(wanted).items() if n > 1]
    taken = [name for name in wanted if name in fixed]
    if len(wanted) != len(now) or twice or taken:
        raise ValueError(
            f"to_onnx: expected as outputs {len(now)} different names that no input has, one for "
            f"each of {', '.join(now)}, got {list(wanted)}"
            + (f"; {taken[0]!r} is an input" if taken else "")
        )


def _apart(names: list[str], fixed: set[str]) -> list[str]:
    """Add ``_out`` to a name that an input or a weight has, or an output before it."""
    found: list[str] = []
    for name in names:
        taken = fixed | set(found)
        found.append(name if name not in taken else next(_free(f"{name}_out", taken)))
    return found


def _free(name: str, taken: set[str]) -> Iterator[str]:
    while name in taken:
        name += "_"
    yield name


def _rename(graph: Any, moves: Mapping[str, str]) -> None:
    for node in _nodes(graph):
        for values in (node.input, node.output):
            values[:] = [moves.get(name, name) for name in values]
    for value in [*graph.output, *graph.value_info]:
        value.name = moves.get(value.name, value.name)


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _nodes(inner)


def rename_dimensions(proto: Any, dynamic: Mapping[str, Mapping[int, str]]) -> None:
    """Write the names of the dynamic dimensions in the place of the exporter's symbols.

    A symbol that has two names gets the first.

    Args:
        proto: The ``onnx.ModelProto``, changed in place.
        dynamic: For each input, its dynamic dimensions and their names.
    """
    known = {name for dims in dynamic.values() for name in dims.values()}
    moves: dict[str, str] = {}
    for value in proto.graph.input:
        sizes = value.type.tensor_type.shape.dim
        for dim, name in dynamic.get(value.name, {}).items():
            symbol = sizes[dim].dim_param
            if symbol and symbol not in known:
                moves.setdefault(symbol, name)
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:  # a symbol, or an expression of symbols
                size.dim_param = re.sub(
                    r"\w+", lambda word: moves.get(word[0], word[0]), size.dim_param
                )
