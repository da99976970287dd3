"""Print the pins of requirements.lock for others: people who use conda, and Binder.

    python -m tools.environment > environment.yml
    python -m tools.environment --binder > .binder/requirements.txt

Binder has no GPU, and builds an image from what it installs: it gets PyTorch without CUDA.
"""

from __future__ import annotations

import re
import sys

from labs.stamp import ROOT

HEAD = """\
# Generated from requirements.lock by `make lock`; a test holds the two equal.
name: cv-debugged
channels:
  - conda-forge
dependencies:
  - python=3.12
  - pip
  - pip:
"""
BINDER_HEAD = """\
# Generated from requirements.lock by `make lock`; a test holds the two equal.
--extra-index-url https://download.pytorch.org/whl/cpu
"""
CUDA = re.compile(r"(nvidia|cuda|triton\b|onnxruntime-gpu)")


def pins() -> list[str]:
    """Return the requirement lines of requirements.lock, without comments."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def environment() -> str:
    """Return the text of environment.yml; pip reads the same markers as in the lock file."""
    return HEAD + "".join(f"      - {_quoted(pin)}\n" for pin in [*pins(), "--editable ."])


def binder() -> str:
    """Return the requirements of Binder: the same pins, PyTorch for CPUs and nothing of CUDA."""
    kept = [pin for pin in pins() if not CUDA.match(pin)]
    cpu = [re.sub(r"^(torch|torchvision)(==[\w.]+)", r"\1\2+cpu", pin) for pin in kept]
    cpu = [pin.partition(";")[0] if pin.startswith("onnxruntime=") else pin for pin in cpu]
    return BINDER_HEAD + "".join(f"{line}\n" for line in [*cpu, "--editable ."])


def _quoted(pin: str) -> str:
    return f'"{pin}"' if ";" in pin or pin.startswith("-") else pin


if __name__ == "__main__":
    print(binder() if "--binder" in sys.argv else environment(), end="")
