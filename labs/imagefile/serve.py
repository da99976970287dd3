"""Answer for one file after the other, inside the process that may die of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from labs.imagefile.report import FileReport, Rules, check_file

_BYTES_PER_PIXEL = 16  # what JPEG 2000 needs, the hungriest of the decoders
_SPARE = 512 * 2**20  # bytes


def serve(
    requests: Iterable[str],
    answers: TextIO,
    rules: Rules,
    check: Callable[[Path, Rules], FileReport] | None = None,
    hold: float = 0.0,
) -> None:
    """Say that we are ready, then answer each line until there are no more.

    Args:
        requests: A list of paths per line, as JSON.
        answers: Gets ``ready``, then one report per line, as JSON, without its path.
        rules: What is expected of the files.
        check: What makes the reports; ``check_file`` by default.
        hold: Seconds for which answers may be held back while a list is under way: each one that
            is sent wakes its reader, which can take longer than a small picture. The answers that
            are held when a file ends this process are lost.
    """
    print("ready", file=answers, flush=True)
    for line in requests:
        sent = time.monotonic()
        for name in json.loads(line):
            report = vars((check or check_file)(Path(name), rules))
            said = {name: value for name, value in report.items() if name != "path"}
            print(json.dumps(said, default=str), file=answers)
            if time.monotonic() - sent >= hold:
                answers.flush()
                sent = time.monotonic()
        answers.flush()


def limit_memory(rules: Rules) -> None:
    """Let no file take more memory than the largest picture needs; on Linux, which heeds it.

    The limit is what this process has by now, and that much more.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource  # there is none on Windows

        now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        more = _BYTES_PER_PIXEL * rules.max_pixels + rules.max_bytes + _SPARE
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now * resource.getpagesize() + more, hard))
