"""Collect what was repaired or left out while labels were read, and say it once."""

from __future__ import annotations

import warnings
from collections import defaultdict
from pathlib import Path

_SHOWN = 3  # examples of each kind in the warning


class Notices:
    """Count what a reader of labels repairs or leaves out."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = defaultdict(list)

    def add(self, what: str, where: str) -> None:
        """Note one more, such as ``"box without area left out"`` in ``"annotation 7"``."""
        self._places[what].append(where)

    def lines(self) -> tuple[str, ...]:
        """Return one line for each, ``WHERE: WHAT``."""
        return tuple(f"{where}: {what}" for what, all in self._places.items() for where in all)

    def warn(self, source: Path) -> None:
        """Warn once about all of them; say nothing when there are none."""
        if not self._places:
            return
        kinds = []
        for what, places in self._places.items():
            more = ", …" if len(places) > _SHOWN else ""
            kinds.append(f"{len(places)} x {what} ({', '.join(places[:_SHOWN])}{more})")
        said = f"{source}: {'; '.join(kinds)}; `.notices` lists all"
        warnings.warn(said, UserWarning, stacklevel=4)
