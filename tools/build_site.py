"""Render the book to ``_build/html``, from nothing, and fail on any warning.

    python -m tools.build_site

The site is complete and opens without a network. Nothing is executed, and PyTorch is not imported.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from labs.stamp import ROOT

BUILD = ROOT / "_build"
SITE = BUILD / "html"
SOURCES = [
    *("*.md", "*.yml", "*.bib", "LICENSE", "book/**/*", "lessons/**/*"),
    *("labs/**/*.py", "labs/**/*.md", "tools/*.py"),
]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def main() -> int:
    """Render, say how it went, and return the exit status."""
    started = time.perf_counter()
    if complaints := render():
        print(f"{complaints}\nthe book was not rendered: see above what to mend", file=sys.stderr)
        return 1
    pages = sum(1 for _ in SITE.rglob("*.html"))
    print(f"rendered {pages} pages in {time.perf_counter() - started:.0f} s")
    return 0


def render() -> str:
    """Render the site from nothing, and return what Sphinx complained of: nothing, when it is good.

    A site that was rendered in full holds the fingerprint of its sources, so that the tests know
    whether they look at this book or at an older one.
    """
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
    sources = fingerprint()
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "--all"]
    strict = ["-W", "-n", "--keep-going", "--quiet"]  # each warning is reported, and any fails
    run = subprocess.run([*command, *strict], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        return COLOUR.sub("", run.stderr + run.stdout).strip()
    (SITE / ".fingerprint").write_text(sources)
    return ""


def is_fresh() -> bool:
    """Tell whether the site in ``_build/html`` was rendered from the sources as they are now."""
    held = SITE / ".fingerprint"
    return held.exists() and held.read_text() == fingerprint()


def fingerprint(root: Path = ROOT) -> str:
    """Return a hash of everything that a page may show: names and bytes of all sources."""
    digest = hashlib.sha256()
    for path in sorted(_sources(root)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _sources(root: Path) -> Iterator[Path]:
    found = {path for pattern in SOURCES for path in root.glob(pattern) if path.is_file()}
    start = root / "lessons/start.md"  # of JupyterLab, written by ``make lab``: no part of the site
    return (path for path in found - {start} if "__pycache__" not in path.parts)


if __name__ == "__main__":
    sys.exit(main())
