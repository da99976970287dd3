"""Show how far long work is, where somebody looks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bar(
    work: Iterable[Any] | None, progress: bool | None, what: str, total: int = 0, done: int = 0
) -> Any:
    """Return a bar on stderr, which goes away when the work is done.

    The environment variable ``TQDM_DISABLE`` silences every bar, whatever a caller asks for.

    Args:
        work: What to go through while the bar shows; None for a bar that is moved by hand.
        progress: Show it, or not; None shows it on a terminal and in a notebook only, so that
            nothing of it gets into the log of a job.
        what: What the work is called.
        total: How many pieces there are, where ``work`` does not say.
        done: How many of these are done already.

    Raises:
        TypeError: When ``progress`` is not a bool or None.
    """
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(f"progress: expected True, False or None, got {progress!r}")
    shown = (_is_watched() if progress is None else progress) and not _is_silenced()
    return tqdm(work, what, total or None, False, initial=done, disable=not shown)


def _is_watched() -> bool:
    """Tell whether stderr is a terminal, or the stream of a notebook."""
    stream = sys.stderr
    in_notebook = type(stream).__module__.partition(".")[0] == "ipykernel"
    return in_notebook or bool(getattr(stream, "isatty", bool)())


def _is_silenced() -> bool:
    return os.environ.get("TQDM_DISABLE", "").lower() not in ("", "0", "false")
