"""Say what a call of ``forward`` holds: its arguments, by the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labs.near_miss import did_you_mean

Keywords = Mapping[str, Any]


def positional(x: Any) -> tuple[Any, ...]:
    """Return the positional arguments: ``x`` when it is a tuple, and ``(x,)`` otherwise."""
    return x if isinstance(x, tuple) else (x,)


def checked(verb: str, kwargs: Keywords | None) -> dict[str, Any]:
    """Return keyword arguments as a dict.

    Raises:
        TypeError: When they are no mapping, or a key is not a string.
    """
    given = {} if kwargs is None else kwargs
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise TypeError(
            f"{verb}: expected kwargs like {{'mask': tensor}}, one entry per keyword argument, got "
            f"{type(given).__name__}"
        )
    return dict(given)


def each(verb: str, kwargs: Keywords | Sequence[Keywords] | None, n: int) -> list[dict[str, Any]]:
    """Return the keyword arguments of each of ``n`` calls.

    Args:
        verb: Who asks.
        kwargs: One dict for all calls, or a list with one dict per call.
        n: How many calls.

    Raises:
        TypeError: When an entry is no mapping.
        ValueError: When there are not ``n`` entries.
    """
    if kwargs is None or isinstance(kwargs, Mapping):
        return [checked(verb, kwargs)] * n
    if len(kwargs) != n:
        raise ValueError(
            f"{verb}: expected one dict of kwargs per input, got {len(kwargs)} for {n} inputs; "
            "where all arguments have keywords, an input is an empty tuple: inputs=[(), ()]"
        )
    return [checked(verb, entry) for entry in kwargs]


def bound(
    verb: str, forward: Callable[..., Any], arguments: tuple[Any, ...], kwargs: Keywords
) -> dict[str, Any]:
    """Return the arguments by parameter, in the order of the signature; defaults stay out.

    Those that ``**kwargs`` of the signature takes stand at the end under their own names, and those
    that ``*args`` takes are a tuple under its name.

    Raises:
        TypeError: When ``forward`` does not take these arguments.
    """
    signature = inspect.signature(forward)
    try:
        by_name = signature.bind(*arguments, **kwargs).arguments
    except TypeError as problem:
        raise TypeError(_refusal(verb, signature, arguments, kwargs, problem)) from None
    found: dict[str, Any] = {}
    for name, value in by_name.items():
        loose = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        found |= value if loose else {name: value}
    return found


def _refusal(
    verb: str,
    signature: inspect.Signature,
    arguments: tuple[Any, ...],
    kwargs: Keywords,
    problem: TypeError,
) -> str:
    said = f"{verb}: forward{signature} cannot take this call: {problem}"
    if len(arguments) == 1 and isinstance(arguments[0], Mapping) and not kwargs:
        keys = ", ".join(map(str, arguments[0]))
        return (
            f"{said}; a dict is one positional argument. If its keys ({keys}) are arguments, pass "
            "them as kwargs=that_dict, beside () as the positional ones"
        )
    unknown = [key for key in kwargs if key not in signature.parameters]
    return said + (did_you_mean(unknown[0], signature.parameters) if unknown else "")
