"""Answer lists of paths, one a line, as JSON, with one report a line, until the input ends.

The scan runs this program in processes of its own, so that a file which kills or hangs its decoder
takes only that process along. No pickle travels between the two.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from labs.imagefile.report import Rules, check_file
from labs.imagefile.serve import limit_memory, serve


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
    serve(iter(sys.stdin.readline, ""), answers, rules, check_file)


if __name__ == "__main__":
    main()
