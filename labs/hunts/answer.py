"""Take what a fix answered, or say in one sentence what was expected and what came instead."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def refusal(candidate: Any, expects: str) -> str:
    """Say why this cannot be asked at all; nothing when it can.

    Args:
        candidate: What was handed to a checker.
        expects: ``"class"``, for what is called to make an object, or ``"function"``.
    """
    made = inspect.isclass(candidate) or inspect.isroutine(candidate)
    if expects == "class" and not (made or isinstance(candidate, partial)):
        name = type(candidate).__name__
        if type(candidate).__module__ == "builtins":
            return f"expected a class, got {described(candidate)}"
        return f"expected the class, got an instance of it: pass {name}, not {name}(...)"
    if expects == "function" and inspect.isclass(candidate):
        return f"expected a function, got the class {candidate.__name__}"
    if not callable(candidate):
        return f"expected a {expects}, got {described(candidate)}"
    return ""


def described(value: Any) -> str:
    """Return a few words for any value: the shape of a tensor, the kind of anything else."""
    if value is None:
        return "None: is there a return?"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (bool, int, float)):
        return f"the number {value!r}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a value of type {type(value).__name__}"


def tensor_of(value: Any, shape: Sequence[int], name: str = "the output") -> Tensor:
    """Return the value, a tensor of this shape.

    Raises:
        AssertionError: When it is something else.
    """
    if isinstance(value, Tensor) and tuple(value.shape) == tuple(shape):
        return value
    raise AssertionError(f"expected {name} of shape {tuple(shape)}, got {described(value)}")


def number_of(value: Any, name: str) -> float:
    """Return the value, one number, as a float.

    Raises:
        AssertionError: When it is something else.
    """
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value.item())
    if isinstance(value, Tensor) or not hasattr(value, "__float__"):
        raise AssertionError(f"expected {name} as one number, got {described(value)}")
    return float(value)


def loss_of(value: Any) -> Tensor:
    """Return the value, a loss that can be walked back from.

    Raises:
        AssertionError: When it is no tensor of one number, or has no graph.
    """
    wanted = "expected the loss as a tensor of one number"
    assert isinstance(value, Tensor), f"{wanted}, got {described(value)}"
    assert value.numel() == 1, f"{wanted}, got {described(value)}"
    assert value.requires_grad, "no gradient comes back from the loss"
    return value


def pair_of(value: Any, names: str) -> tuple[Any, Any]:
    """Return the two values of a tuple or a list.

    Raises:
        AssertionError: When it is something else.
    """
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return value[0], value[1]
    raise AssertionError(f"expected {names}, got {described(value)}")


def mapping_of(value: Any, name: str) -> Mapping[Any, Any]:
    """Return the value, a dict.

    Raises:
        AssertionError: When it is something else.
    """
    assert isinstance(value, Mapping), f"expected {name} as a dict, got {described(value)}"
    return value


def module_of(value: Any, kind: type[nn.Module], name: str) -> Any:
    """Return the value, a module of this kind.

    Raises:
        AssertionError: When it is something else.
    """
    if isinstance(value, kind):
        return value
    raise AssertionError(f"expected {name} as nn.{kind.__name__}, got {described(value)}")


def close(got: Tensor, expected: Tensor, what: str, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Compare with float32's rounding in mind; the number comes first in the sentence.

    Raises:
        AssertionError: When a value differs by more than ``atol + rtol * |expected|``.
    """
    off = (got - expected).abs()
    wrong = ~(off <= atol + rtol * expected.abs())  # a NaN is wrong too
    if wrong.any():
        most = off.nan_to_num(nan=torch.inf).max().item()
        share = wrong.float().mean().item()
        raise AssertionError(f"off by up to {most:.2g} in {share:.0%} of {what}")
