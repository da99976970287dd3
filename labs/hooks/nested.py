"""Reach every tensor in what a module takes or returns: tuples, dicts, dataclasses, objects."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn


def map_tensors(fn: Callable[[Tensor], Any], value: Any) -> Any:
    """Return ``value`` with ``fn(tensor)`` in the place of each tensor, in a copy of its structure.

    Args:
        fn: Called once per tensor, in the order in which the structure holds them.
        value: A tensor, or tuples, named tuples, lists, dicts, dataclasses and plain objects
            (torchvision's ``ImageList``) that hold tensors. Anything else is kept as it is.
    """
    return _map(lambda _path, tensor: fn(tensor), value, "")


def tensors(value: Any) -> list[Tensor]:
    """Return every tensor in ``value``, in the order of :func:`map_tensors`."""
    return list(named_tensors(value).values())


def named_tensors(value: Any) -> dict[str, Tensor]:
    """Return every tensor with the path to it: ``""``, ``[0]``, ``['boxes']``, ``[1].scores``."""
    found: dict[str, Tensor] = {}
    _map(found.__setitem__, value, "")
    return found


def _map(fn: Callable[[str, Tensor], Any], value: Any, path: str) -> Any:
    if isinstance(value, Tensor):
        return fn(path, value)
    if isinstance(value, tuple) and (make := getattr(value, "_make", None)):  # a named tuple
        named = zip(value._fields, value, strict=True)  # type: ignore[attr-defined]
        return make([_map(fn, part, f"{path}.{name}") for name, part in named])
    if isinstance(value, (tuple, list)):
        return type(value)([_map(fn, part, f"{path}[{i}]") for i, part in enumerate(value)])
    if isinstance(value, MutableMapping):
        copied = copy(value)
        for key, part in value.items():
            copied[key] = _map(fn, part, f"{path}[{key!r}]")
        return copied
    copied = copy(value) if (names := _attributes(value)) else value
    for name in names:
        # Past the constructor and past `frozen`, which may refuse a None among the gradients.
        object.__setattr__(copied, name, _map(fn, getattr(value, name), f"{path}.{name}"))
    return copied


def _attributes(value: Any) -> list[str]:
    """Name the fields of a dataclass, or all attributes of another object that holds a tensor."""
    if isinstance(value, (type, nn.Module)):
        return []
    if is_dataclass(value):
        return [field.name for field in fields(value)]
    held = getattr(value, "__dict__", {})
    return list(held) if any(isinstance(part, Tensor) for part in held.values()) else []
