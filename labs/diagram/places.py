"""Say where the parts of a diagram are: layers by name, and what the model takes and returns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from torch import Tensor, nn

from labs.hooks.layers import find_layers
from labs.hooks.nested import named_tensors
from labs.near_miss import did_you_mean

Parts = Iterable[str] | Mapping[str, str]
"""Names of layers, or short names for them: ``{"C3": "backbone.stages.1"}``."""

_END = re.compile(r"(input|output)(|[.\[].*)")


@dataclass(frozen=True)
class Place:
    """Hold where one part is found.

    Attributes:
        role: A layer, or an end of the model: what goes in, what comes out.
        target: The name of the layer, or which tensors of the end: ``""`` is all of them,
            ``"[1]"`` the second argument, ``"['boxes']"`` an entry of a dict.
    """

    role: Literal["layer", "input", "output"]
    target: str


def find_places(model: nn.Module, parts: Parts) -> dict[str, Place]:
    """Return the place of each part, by the name that it has in the diagram.

    Raises:
        KeyError: When a layer does not exist; the message names the nearest ones.
        TypeError: When parts is a single string.
        ValueError: When there are no parts, one contains another, a short name stands for several
            layers, or the model has a layer called as an end is.
    """
    if isinstance(parts, str):
        raise TypeError(f"trace: expected a list of parts, got the string {parts!r}; write [...]")
    named = parts.items() if isinstance(parts, Mapping) else [(None, target) for target in parts]
    layers = dict(model.named_modules(remove_duplicate=False))
    places: dict[str, Place] = {}
    for name, target in named:
        found = _places(model, layers, target)
        if name is not None and len(found) > 1:
            raise ValueError(
                f"trace: expected one layer for part {name!r}, got {target!r}, which matches "
                f"{len(found)}: {', '.join(list(found)[:3])}..."
            )
        for full, place in found.items():
            places[full if name is None else name] = place
    if not places:
        raise ValueError('trace: expected at least one part, got none; "input" is one')
    _refuse_nested(places, layers)
    return places


def inside(place: Place, value: Any) -> dict[str, Tensor]:
    """Return the tensors of an end that belong to a part, by their paths."""
    found = named_tensors(value)
    return {path: tensor for path, tensor in found.items() if _starts(path, place.target)}


def select(place: Place, value: Any, name: str) -> dict[str, Tensor]:
    """Return the same as :func:`inside`, where there is something.

    Raises:
        KeyError: When there is none; the message names the nearest ones.
    """
    chosen = inside(place, value)
    if not chosen:
        known = [place.role + path for path in named_tensors(value)]
        wanted = place.role + place.target
        raise KeyError(
            f"trace: part {name!r}: no tensor at {wanted!r}"
            f"{did_you_mean(wanted, known)}; there are {', '.join(known) or 'none'}"
        )
    return chosen


def _places(model: nn.Module, layers: Mapping[str, nn.Module], target: str) -> dict[str, Place]:
    end = _END.fullmatch(target) if isinstance(target, str) else None
    if end is None or (target in layers and end[2]):
        return {name: Place("layer", name) for name in find_layers(model, [target])}
    if end[1] in layers:
        raise ValueError(
            f"trace: {target!r} is an end of the model, and this model has a layer of that name; "
            f"trace nn.Sequential(model), whose layer is '0.{end[1]}'"
        )
    role: Literal["input", "output"] = "input" if end[1] == "input" else "output"
    return {target: Place(role, end[2])}


def _starts(path: str, prefix: str) -> bool:
    """Tell whether a path is inside another: ``[1].boxes`` is in ``[1]``."""
    return path.startswith(prefix) and (not prefix or path[len(prefix) :][:1] in ("", "[", "."))


def _refuse_nested(places: Mapping[str, Place], layers: Mapping[str, nn.Module]) -> None:
    for (a, first), (b, second) in combinations(places.items(), 2):
        if first.role != second.role:
            continue
        if first.role != "layer":
            nested = _starts(first.target, second.target) or _starts(second.target, first.target)
        elif layers[first.target] is layers[second.target]:
            raise ValueError(f"trace: parts {a!r} and {b!r} are one layer; name it once")
        else:
            one, other = layers[first.target], layers[second.target]
            nested = other in one.modules() or one in other.modules()
        if nested:
            raise ValueError(
                f"trace: expected parts that do not contain each other, got {a!r} and {b!r}; "
                "leave one out, or name all parts inside the larger one"
            )
