"""Check a function that runs a script: in the environment of this notebook, whatever the PATH."""

from __future__ import annotations

import os
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory
from unittest.mock import patch

from labs.hunts import Verdict, examine
from labs.hunts.answer import described

RunScript = Callable[[Path, Sequence[str]], str]

# Pillow stands for all packages: the book needs it, and an environment just made has none of it.
_LOOK = "import sys, PIL; print(sys.prefix)"
_SENT = ("two words", "it's", 'a "quote"', "*.jpg", "$HOME", "")


def check_run_script(run_script: RunScript) -> Verdict:
    """Check that a script runs in a process of its own, with the Python of this notebook.

    Args:
        run_script: ``run_script(script, arguments)`` runs the file ``script``, a path, with the
            strings of ``arguments``, and returns what the script prints. It raises
            ``subprocess.CalledProcessError`` when the script fails.

    Returns:
        The verdict of seven probes. Some of them run with another ``PATH``, which is put back.
    """
    probes: dict[str, Callable[[RunScript], str]] = {
        "the script finds this notebook's packages": partial(_finds_packages, decoy=True),
        "also where the terminal knows no Python": partial(_finds_packages, decoy=False),
        "the script runs in a process of its own": _own_process,
        "arguments arrive as they were sent, from a folder with a blank in its name": _arguments,
        "the script finds the files beside it": _neighbours,
        "a script that fails raises CalledProcessError": _failure,
        "the variables and the folder of this notebook stay as they were": _leaves_no_trace,
    }
    return examine("A script without its packages", run_script, probes)


def _printed(run_script: RunScript, script: Path, arguments: Sequence[str] = ()) -> str:
    """Return what the script prints, or tell in the script's own words why it stopped."""
    try:
        printed = run_script(script, list(arguments))
    except CalledProcessError as error:
        said = error.stderr or error.stdout or ""
        lines = (said if isinstance(said, str) else said.decode(errors="replace")).split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no reason was kept")
        raise AssertionError(f"the script stopped: {last}") from error
    assert isinstance(printed, str), f"expected what the script prints, got {described(printed)}"
    return printed.strip()


@contextmanager
def _script(text: str, name: str = "script.py") -> Iterator[Path]:
    """Write a script for the time of the block; the folder and the variables are put back."""
    here = Path.cwd()
    with TemporaryDirectory() as folder, patch.dict(os.environ):
        script = Path(folder, name)
        script.parent.mkdir(exist_ok=True)
        script.write_text(text, encoding="utf-8")
        try:
            yield script
        finally:
            os.chdir(here)  # before the folder goes: a fix may have moved into it


def _finds_packages(run_script: RunScript, decoy: bool) -> str:
    """Ask where a terminal would find another Python first, or with no decoy none at all."""
    with _script(_LOOK) as script:
        first = Path(script.parent, "programs")
        first.mkdir()
        path = str(first)
        if decoy:
            venv.create(first, with_pip=False, symlinks=os.name != "nt")
            path = str(first / ("Scripts" if os.name == "nt" else "bin"))
            path += os.pathsep + os.environ.get("PATH", "")
        with patch.dict(os.environ, PATH=path):
            where = _printed(run_script, script)
    assert where == sys.prefix, "the script ran in another environment"
    return "it does"


def _own_process(run_script: RunScript) -> str:
    with _script("import os; print(os.getpid())", "process.py") as script:
        number = _printed(run_script, script)
    assert number.isdecimal(), "expected the number of a process, got another answer"
    assert int(number) != os.getpid(), "it ran inside this notebook, whose names it can change"
    return "it does"


def _arguments(run_script: RunScript) -> str:
    text = "import sys; print(ascii(sys.argv[1:]))"
    with _script(text, "my scripts/arguments.py") as script:
        arrived = _printed(run_script, script, _SENT)
    assert arrived == ascii(list(_SENT)), f"{list(_SENT)!a} arrived as {arrived}"
    return "they do"


def _neighbours(run_script: RunScript) -> str:
    with _script("import beside; print(beside.WORD, __file__)", "neighbours.py") as script:
        Path(script.parent, "beside.py").write_text("WORD = 'found'\n", encoding="utf-8")
        word, _, own = _printed(run_script, script).partition(" ")
        assert word == "found", "the module beside the script was not imported"
        assert Path(own).name == script.name, "the script does not know its own file"
    return "it does"


def _failure(run_script: RunScript) -> str:
    with _script("print('half of it'); raise SystemExit(3)", "failure.py") as script:
        try:
            run_script(script, [])
        except CalledProcessError as error:
            status = error.returncode
        else:
            status = 0
    assert status, "the script ended with status 3, and nothing was raised"
    assert status == 3, f"status 3 of the script became {status}"
    return "it does"


def _leaves_no_trace(run_script: RunScript) -> str:
    with _script("print('done')", "trace.py") as script:
        before, here = dict(os.environ), Path.cwd()
        printed = _printed(run_script, script)
        after, there = dict(os.environ), Path.cwd()
    assert printed == "done", "the script did not print its word"
    changed = sorted(name for name in before | after if before.get(name) != after.get(name))
    assert not changed, f"changed: {', '.join(changed)}"
    assert there == here, "the working folder is another one now"
    return "they do"
