"""Reach every tensor in what a module takes or returns: tuples, dicts, dataclasses, objects."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor, nn


def map_tensors(fn: Callable[[Tensor], Any], value: Any) -> Any:
    """Return ``value`` with ``fn(tensor)`` in the place of each tensor, in a copy of its structure.

    Args:
        fn: Called once per tensor, in the order in which the structure holds them.
        value: A tensor, or tuples, named tuples, lists, dicts, dataclasses and plain objects
            (torchvision's ``ImageList``) that hold tensors. Anything else is kept as it is.
    """
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[map_tensors(fn, part) for part in value])
    if isinstance(value, (tuple, list)):
        return type(value)([map_tensors(fn, part) for part in value])
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.init]
        return replace(value, **{name: map_tensors(fn, getattr(value, name)) for name in names})
    if isinstance(value, MutableMapping):
        copied = copy(value)
        for key, part in value.items():
            copied[key] = map_tensors(fn, part)
        return copied
    if _holds_tensors(value):
        copied = copy(value)
        vars(copied).update({key: map_tensors(fn, part) for key, part in vars(value).items()})
        return copied
    return value


def tensors(value: Any) -> list[Tensor]:
    """Return every tensor in ``value``, in the order of :func:`map_tensors`."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(keep, value)
    return found


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, (type, nn.Module)):
        return False
    return any(isinstance(part, Tensor) for part in getattr(value, "__dict__", {}).values())
