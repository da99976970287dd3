"""Print a Markdown table of what the last execution of each lesson measured.

python -m tools.timings
"""

from __future__ import annotations

from tools.measured import read_all

COLUMNS = ("seconds", "cpu_seconds", "peak_mb", "device", "python", "torch", "date")


def table() -> str:
    """Return one row per lesson and device kind, from the records in ``lessons/measured``."""
    lines = ["| lesson | on | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, kinds in read_all().items():
        for kind, measured in kinds.items():
            cells = (str(measured[column]) for column in COLUMNS)
            lines.append(f"| {name} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
