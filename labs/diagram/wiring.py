"""Hold what a diagram shows: the parts of a network, and what feeds what."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Hold the facts of one box.

    Attributes:
        name: In the diagram.
        layer: Its name in the model; of an end, which tensors: ``"input[1]"``.
        kind: The class of the layer, or ``"input"``, ``"output"``.
        shapes: Of every tensor that it returned, call by call.
        parameters: How many numbers it learns.
        calls: How often it ran.
        picture: Its strongest map at the first image, [h,w], or the image itself, [3,h,w], in
            [0, 1]; only where it was asked for and the part returned maps.
    """

    name: str
    layer: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    calls: int = 1
    picture: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, repr=False)
class Wiring:
    """Hold the parts of a network and what feeds what.

    Attributes:
        parts: In the order in which they were asked for.
        arrows: Pairs of names, from and to, in the order of the parts.
    """

    parts: tuple[Part, ...]
    arrows: tuple[tuple[str, str], ...]

    def __getitem__(self, name: str) -> Part:
        """Return the part of this name.

        Raises:
            KeyError: When there is none.
        """
        named = {part.name: part for part in self.parts}
        if name not in named:
            raise KeyError(f"no part {name!r} in the wiring; there are {', '.join(named)}")
        return named[name]

    def table(self) -> pd.DataFrame:
        """Return one row per part.

        Returns:
            Columns ``part``, ``layer``, ``kind``, ``shape`` (of the first tensor that it returned),
            ``parameters`` and ``feeds``, the names that its arrows lead to.
        """
        rows = [
            {
                "part": part.name,
                "layer": part.layer,
                "kind": part.kind,
                "shape": part.shapes[0] if part.shapes else None,
                "parameters": part.parameters,
                "feeds": ", ".join(to for start, to in self.arrows if start == part.name),
            }
            for part in self.parts
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        said = ", ".join(f"{start} → {to}" for start, to in self.arrows)
        return f"Wiring({len(self.parts)} parts; {said or 'no arrows'})"
