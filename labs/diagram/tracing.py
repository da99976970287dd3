"""Find out what feeds what in a network, by changing the output of one part at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from labs.diagram.changes import changed, distance
from labs.diagram.places import Parts, Place, find_places, inside, select
from labs.diagram.replay import Call, Inputs, apart, record, replay, unhurried_attention
from labs.diagram.thumbnail import strongest_map
from labs.diagram.weights import draw_weights
from labs.diagram.wiring import Part, Wiring
from labs.hooks.layers import bare, eager, named_inputs
from labs.hooks.nested import tensors
from labs.hooks.ranks import refuse_sharded
from labs.repro import random_state_kept

_DRAWS = 2  # of weights: in one, a narrow layer may be dead
_NOISE = 1e-3  # of a part's largest number; on a CPU a run repeats itself exactly

_Seen = dict[str, list[Tensor]]
"""What each part was given, in one run."""


def trace(
    model: nn.Module,
    example: Any,
    parts: Parts,
    kwargs: Mapping[str, Any] | None = None,
    pictures: bool = False,
) -> Wiring:
    """Find the shapes of a network's parts, and what feeds what, from runs of a copy.

    ::

        wiring = trace(resnet18(), images, ["input", "conv1", "layer?", "fc", "output"])
        wiring.arrows  # (("input", "conv1"), ("conv1", "layer1"), ...

    There is an arrow from a to b where a change of what a returned, with everything that the other
    parts returned held as it was, changes what b is given. What lies between the parts (an
    addition, a concatenation, an activation) runs as it is. So an arrow is a way that information
    takes past no other part. What flows outside of tensors (a number from ``.item()``) is not seen.

    Shapes and pictures are those of the weights as they are. For the arrows they are drawn anew,
    since a branch that starts at zero would hide one. All runs are of a copy in eval mode: the
    model's own mode, weights, gradients and hooks stay as they are, and so does the random state.

    Args:
        model: Any module, or a part of one: a block is a model too.
        example: What the model takes; a tuple is several arguments.
        parts: Names of layers, or patterns, as :func:`labs.hooks.capture` takes them, and the ends:
            ``"input"`` and ``"output"``, or some of their tensors: ``"input[1]"`` is the second
            argument, ``"input['mask']"`` the one of that name, ``"output[0]"`` the first of a
            tuple. A dict gives them short names: ``{"C3": "backbone.stages.1"}``. A layer that runs
            several times is one part, and may feed itself.
        kwargs: What the model takes by name.
        pictures: Also keep a small picture of the strongest map of each part.

    Raises:
        KeyError: When there is no such layer or tensor; the message names the nearest ones.
        TypeError: When the model is no module, or holds its parameters in parts on several ranks.
        ValueError: When parts contain each other, one does not run, or returns NaN or nothing that
            can be changed.
        RuntimeError: When the model fails once a part's output has changed, or does not repeat
            itself.
    """
    model, named = bare(model), named_inputs("trace", kwargs)
    refuse_sharded("trace", model, "trace the model as it is before it is divided")
    places = find_places(model, parts)
    with (
        random_state_kept(),
        torch.inference_mode(False),
        torch.no_grad(),
        eager(),
        unhurried_attention(),
    ):
        twin, generator = apart(model), torch.Generator().manual_seed(0)
        inputs = Inputs(example, named)
        described = _describe(twin, places, inputs, pictures)
        arrows: set[tuple[str, str]] = set()
        for _ in range(_DRAWS):
            draw_weights(twin, generator)
            arrows |= _find_arrows(twin, places, inputs, generator)
    order = list(places)
    ordered = sorted(arrows, key=lambda arrow: [order.index(name) for name in arrow])
    return Wiring(described, tuple(ordered))


def _describe(
    model: nn.Module, places: Mapping[str, Place], inputs: Inputs, pictures: bool
) -> tuple[Part, ...]:
    """Return the parts of the model as it is, in the order of their places."""
    layers = _layers(places)
    calls, returned = record(model, layers, inputs)
    ends = {"input": inputs.whole(), "output": returned}
    described = []
    for name, place in places.items():
        if place.role == "layer":
            module = model.get_submodule(place.target)
            found = tensors([call.output for call in calls[name]])
            kind, ran = type(module).__name__, len(calls[name])
            learns = sum(parameter.numel() for parameter in module.parameters())
        else:
            found = list(select(place, ends[place.role], name).values())
            kind, ran, learns = place.role, 1, 0
        shapes = tuple(tuple(tensor.shape) for tensor in found)
        picture = strongest_map(found[0]) if pictures and found else None
        layer = place.target if place.role == "layer" else place.role + place.target
        described.append(Part(name, layer, kind, shapes, learns, ran, picture))
    return tuple(described)


def _find_arrows(
    model: nn.Module, places: Mapping[str, Place], inputs: Inputs, generator: torch.Generator
) -> set[tuple[str, str]]:
    """Return the arrows that show with the weights as they are."""
    layers = _layers(places)
    calls, _ = record(model, layers, inputs)

    def see(calls: Mapping[str, list[Call]], inputs: Inputs) -> _Seen:
        given, returned = replay(model, layers, calls, inputs)
        exits = {name: place for name, place in places.items() if place.role == "output"}
        return given | {name: list(inside(p, returned).values()) for name, p in exits.items()}

    held, again = see(calls, inputs), see(calls, inputs)
    noise = {name: _noise(name, held[name], again[name]) for name in held}
    arrows = set()
    for name, place in places.items():
        for variant in _variants(name, place, calls, inputs, generator):
            try:
                seen = see(*variant)
            except Exception as error:
                raise RuntimeError(
                    f"trace: the model failed when the output of part {name!r} was changed: "
                    f"{error}; where it decides how many things the next parts hold, name fewer "
                    "parts, or trace the network without what picks its boxes"
                ) from error
            for to in held:
                if (name, to) not in arrows and distance(held[to], seen[to]) > noise[to]:
                    arrows.add((name, to))
    return arrows


def _variants(
    name: str,
    place: Place,
    calls: Mapping[str, list[Call]],
    inputs: Inputs,
    generator: torch.Generator,
) -> Iterator[tuple[Mapping[str, list[Call]], Inputs]]:
    """Yield what to hold where this part's output is another one, several times."""
    if place.role == "layer":
        overs = [call.over for call in calls[name]]
        for outputs in changed([call.output for call in calls[name]], name, generator):
            yield {**calls, name: list(map(Call, outputs, overs))}, inputs
    elif place.role == "input":
        own = inside(place, inputs.whole())
        for others in changed(list(own.values()), name, generator):
            yield calls, inputs.replaced(dict(zip(own, others, strict=True)))


def _noise(name: str, held: list[Tensor], again: list[Tensor]) -> float:
    """Return how far apart two numbers must be to differ: on a CPU, at all."""
    apart = distance(held, again)
    largest = max((distance([t], [torch.zeros_like(t)]) for t in held), default=0.0)
    if apart > _NOISE * largest:
        raise RuntimeError(
            f"trace: two equal runs gave part {name!r} different inputs, so no change can be "
            "followed; take out what draws at random in eval mode"
        )
    return 10 * apart


def _layers(places: Mapping[str, Place]) -> dict[str, str]:
    return {name: place.target for name, place in places.items() if place.role == "layer"}
