"""Hold what is wrong with single pictures of a folder, or raise the first of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from labs.imagefile import BadImageError


class Faults:
    """Collect the errors of single pictures where somebody wants to see all of them.

    A picture with one damaged object is left out whole: without that object it would teach that
    there is nothing.

    Args:
        strict: Raise the first error instead.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._said: dict[Hashable, list[str]] = defaultdict(list)

    @contextmanager
    def of(self, picture: Hashable) -> Iterator[None]:
        """Take the errors of the block for those of this picture."""
        try:
            yield
        except (ValueError, OSError, BadImageError) as error:
            if self._strict:
                raise
            self._said[picture].append(str(error))

    def __contains__(self, picture: object) -> bool:
        """Tell whether something is wrong with this picture."""
        return picture in self._said

    def lines(self) -> tuple[str, ...]:
        """Return all errors, those of one picture together."""
        return tuple(line for said in self._said.values() for line in said)
