"""Wait for an event, never for a time: a file, a line, the end of a process."""

import time
from pathlib import Path

HANG = 540  # seconds: on the busiest machine this is long enough; only what hangs takes it


def until(true, seconds=HANG):
    """Wait until ``true()`` holds, and return whether it does."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def alive(pid):
    """Tell whether a process runs: one that ended and was not waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
