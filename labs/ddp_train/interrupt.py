"""Let Ctrl-C end a run between two steps, where it can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_between_steps(possible: bool = True) -> Iterator[Callable[[], bool]]:
    """Make the first Ctrl-C a wish, which the block asks for; the second one interrupts at once.

    An interrupt in the middle of a step would leave weights of which some have moved.

    Args:
        possible: False leaves Ctrl-C as it is. Ranks of a group could not all stop at the same
            step, so their launcher ends them, and the last checkpoint stays. Outside of the main
            thread Python allows no other choice.

    Yields:
        A function that tells whether to stop.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    if not possible or threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
