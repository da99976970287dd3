"""Print environment.yml: the pins of requirements.lock for people who use conda.

python -m tools.environment > environment.yml
"""

from __future__ import annotations

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


def pins() -> list[str]:
    """Return the requirement lines of requirements.lock, without comments."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def environment() -> str:
    """Return the text of environment.yml; pip reads the same markers as in the lock file."""
    return HEAD + "".join(f"      - {_quoted(pin)}\n" for pin in [*pins(), "--editable ."])


def _quoted(pin: str) -> str:
    return f'"{pin}"' if ";" in pin or pin.startswith("-") else pin


if __name__ == "__main__":
    print(environment(), end="")
