"""Name what people report when a vision model misbehaves, and where the book answers it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TABLE = Path(__file__).with_name("symptoms.toml")


@dataclass(frozen=True)
class Symptom:
    """Hold one symptom.

    Attributes:
        where: The place where it shows, such as ``The loss``.
        words: What somebody reports, as they would say it.
        reveals: The instrument that shows the cause, as Markdown; it does not name the cause.
        lesson: The lesson that answers it, such as ``07_feel_the_residual``.
        heading: The section of it, up to a colon that only adds to its name.
    """

    where: str
    words: str
    reveals: str
    lesson: str
    heading: str


def symptoms(words: Iterable[str] = ()) -> list[Symptom]:
    """Return the symptoms that hold all of these words, by where they show; all for no words.

    Args:
        words: Looked for in everything that is said of a symptom; their case does not count.
    """
    rows = tomllib.loads(_TABLE.read_text(encoding="utf-8"))["symptom"]
    wanted = [word.lower() for word in words]
    return [
        Symptom(**row)
        for row in rows
        if all(word in " ".join(row.values()).lower() for word in wanted)
    ]
