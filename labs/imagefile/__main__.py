"""Answer one path per line, as JSON, with one report per line, until the input ends.

The scan runs this program in processes of its own, so that a file which kills or hangs its decoder
takes only that process along. No pickle travels between the two.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from labs.imagefile.report import Rules, check_file

BYTES_PER_PIXEL = 16  # what JPEG 2000 needs, the hungriest of the decoders
SPARE = 512 * 2**20  # bytes


def main() -> None:
    """Say that we are ready, then answer; the rules come as JSON in the first argument."""
    if len(sys.argv) != 2:
        sys.exit(
            "labs.imagefile: this is the process that labs.data.scan starts to read images; "
            "to check a folder, call labs.data.scan(folder) in Python"
        )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the scan, which then ends us
    settings = json.loads(sys.argv[1])
    rules = Rules(**settings | {"modes": tuple(settings["modes"])})
    limit_memory(rules)
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a C library prints must not mix with the answers
    print("ready", file=answers, flush=True)
    for line in iter(sys.stdin.readline, ""):
        report = asdict(check_file(Path(json.loads(line)), rules))
        print(json.dumps(report, default=str), file=answers, flush=True)


def limit_memory(rules: Rules) -> None:
    """Let no file take more memory than the largest picture needs; on Linux, which heeds it."""
    with suppress(ImportError, OSError, ValueError):
        import resource  # there is none on Windows

        now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        more = BYTES_PER_PIXEL * rules.max_pixels + rules.max_bytes + SPARE
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now * resource.getpagesize() + more, hard))


if __name__ == "__main__":
    main()
