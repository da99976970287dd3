"""Turn `pip freeze` of a complete Linux environment into a lock file for every platform.

python -m pip freeze --all --exclude-editable | python -m tools.lock > requirements.lock
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

HEAD = """\
# Exact versions that were measured to work together; written by `make lock`, installed by
# `pip install -r requirements.lock` as it is.
"""
LINUX_ONLY = re.compile(r"(nvidia-|cuda-|triton\b)")
GPU_RUNTIME = "onnxruntime-gpu=="


def lock(frozen: Iterable[str]) -> str:
    """Return the text of the lock file, with markers for what only some platforms have."""
    lines = []
    for pin in sorted(line.strip() for line in frozen if "==" in line):
        if pin.startswith("pip=="):
            continue
        if pin.startswith(GPU_RUNTIME):
            version = pin.removeprefix(GPU_RUNTIME)
            lines.append(f"onnxruntime=={version}; sys_platform == 'darwin'")
            lines.append(f"{pin}; sys_platform != 'darwin'")
        elif LINUX_ONLY.match(pin):
            lines.append(f"{pin}; sys_platform == 'linux'")
        else:
            lines.append(pin)
    return HEAD + "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    print(lock(sys.stdin), end="")
