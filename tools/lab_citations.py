"""Write the extension that gives citations their names in JupyterLab.

    python -m tools.lab_citations

``make lab`` writes it anew each time, from ``references.bib``. In JupyterLab, jupyterlab-myst
renders the boxes, folds and terms of a lesson, but reads no bibliography: it shows keys.
"""

from __future__ import annotations

import json
from pathlib import Path

from labs.stamp import ROOT
from tools.colab import bibliography, cited

NAME = "cv-debugged-citations"
FOLDER = ROOT / "_build" / "labextensions"
"""Where JupyterLab is told to look for extensions, beside its own folders."""
SCRIPT = ROOT / "tools/jupyterlab/citations.js"
ENTRY = "static/citations.js"


def citations() -> dict[str, tuple[str, str, str]]:
    """Return the names, the year and the title of everything that can be cited, by its key."""
    return {key: (*cited(key), _title(key)) for key in bibliography()}


def _title(key: str) -> str:
    written = str(bibliography()[key].fields.get("title", ""))
    return " ".join(written.replace("{", "").replace("}", "").split())


def manifest() -> str:
    """Return what JupyterLab has to know of the extension: its name, and where it begins."""
    start = {"load": ENTRY, "extension": "./extension"}
    about = {"name": NAME, "version": "1.0.0", "jupyterlab": {"extension": True, "_build": start}}
    return json.dumps(about, indent=1) + "\n"


def script() -> str:
    """Return the program, with what it has to know above it."""
    known = json.dumps(citations(), ensure_ascii=False, sort_keys=True)
    return f"const CITATIONS = {known};\n" + SCRIPT.read_text(encoding="utf-8")


def write(folder: Path) -> None:
    """Write the extension into a folder of extensions."""
    for path, text in {"package.json": manifest(), ENTRY: script()}.items():
        target = folder / NAME / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
