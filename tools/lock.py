"""Turn what pip would install on Linux into a lock file for every platform.

python -m pip install --dry-run --ignore-installed --report - ... | python -m tools.lock
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

HEAD = """\
# Exact versions that were measured to work together; written by `make lock`, installed by
# `pip install -r requirements.lock` as it is.
"""
LINUX_ONLY = re.compile(r"(nvidia-|cuda-|triton\b)")
PROJECT = "cv-debugged"


def lock(report: dict[str, Any]) -> str:
    """Return the text of the lock file, with markers for what only some platforms have.

    Args:
        report: pip's installation report, as ``pip install --report`` writes it.
    """
    found = (item["metadata"] for item in report["install"])
    pins = {item["name"].lower(): item["version"] for item in found if item["name"] != PROJECT}
    lines = [line for name in sorted(pins) for line in _lines(name, pins[name])]
    return HEAD + "".join(f"{line}\n" for line in lines)


def _lines(name: str, version: str) -> list[str]:
    pin = f"{name}=={version}"
    if name == "onnxruntime-gpu":
        mac = f"onnxruntime=={version}; sys_platform == 'darwin'"
        return [mac, f"{pin}; sys_platform != 'darwin'"]
    return [f"{pin}; sys_platform == 'linux'" if LINUX_ONLY.match(name) else pin]


if __name__ == "__main__":
    print(lock(json.load(sys.stdin)), end="")
