"""Say what is wrong with this machine before pip says it in a hundred lines.

Runs on any Python 3, before anything is installed: ``python3 tools/preflight.py FOLDER``.
"""

import shutil
import sys

OLDEST, NEWEST = (3, 11), (3, 13)
NEEDED_GB = 8  # PyTorch with its CUDA libraries, twice, because pip unpacks beside its cache


def complaint(version: tuple, free_bytes: int) -> str:
    """Return one sentence with the fix, or an empty string when the machine will do."""
    if not OLDEST <= tuple(version)[:2] <= NEWEST:
        oldest, newest, this = (".".join(map(str, v[:2])) for v in (OLDEST, NEWEST, version))
        return (
            f"Python {oldest} to {newest} is needed, this is {this}. "
            "Choose another one with `make PYTHON=python3.12 ...`"
        )
    if free_bytes < NEEDED_GB * 10**9:
        return (
            f"{NEEDED_GB} GB of free disk are needed here, there are {free_bytes / 10**9:.1f}. "
            "Free some, or move the project to a larger disk"
        )
    return ""


if __name__ == "__main__":
    problem = complaint(sys.version_info, shutil.disk_usage(sys.argv[1]).free)
    if problem:
        sys.exit("preflight: " + problem)
