import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def nothing_left(tmp_path, monkeypatch):
    """Fail when a process or a temporary file of a launch is still there after the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.iterdir()) == []
    assert running(str(tmp_path)) == []


def running(word):
    """Return the command lines with this word in them, of the processes that are not zombies."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [line for line in lines if word in line]
