"""Execute the lessons whose outputs are stale, two at a time, one thread each.

    python -m tools.execute [LESSON] [--force] [--check] [--jobs 2]

A lesson that fails keeps its old notebook. Ctrl-C keeps everything that was finished. A picture
that looks as it did keeps its bytes. With --check nothing is written: what is not up to date is
listed by name, and the exit status is 1 if anything is.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from hashlib import sha256
from pathlib import Path
from typing import Any

import nbformat
from jupytext.combine import combine_inputs_with_outputs
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from labs.stamp import ROOT
from tools import reference
from tools.cells import is_folded
from tools.lesson import Lesson, current_stamp, find
from tools.measured import record_file, text

# One thread, so that two lessons share two cores fairly and results do not depend on the machine.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "LABS_CLAIMS": "",  # a claim that is false must end the execution, whatever a reader had set
    "TQDM_DISABLE": "1",  # a progress bar in a committed output differs at every execution
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
CELL_TIMEOUT = 600


def main() -> int:
    """Execute what is stale, and return the number of lessons that failed."""
    options = _options()
    if options.inside:
        return _execute(Lesson(options.inside))
    lessons = find(options.lesson)
    if options.check:
        complaints = [line for lesson in lessons for line in _complaints(lesson)]
        print("".join(f"{line}\n" for line in complaints), end="")
        return len(complaints)
    stale = [lesson for lesson in lessons if options.force or lesson.stale()]
    for lesson in lessons:
        if lesson not in stale and lesson.drifted():
            _write(lesson, _with_old_outputs(lesson))
            print(f"{lesson.name}: text updated, outputs kept")
    print(f"{len(lessons) - len(stale)} of {len(lessons)} lessons fresh, {len(stale)} to execute")
    return _execute_all(stale, options.jobs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.execute", description=__doc__)
    parser.add_argument("lesson", nargs="?", default="", help="one lesson, by path or part of it")
    parser.add_argument("--force", action="store_true", help="execute fresh lessons too")
    parser.add_argument("--check", action="store_true", help="write nothing, list what is stale")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default 2)")
    parser.add_argument("--inside", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _complaints(lesson: Lesson) -> Iterator[str]:
    """Say what in the notebook of a lesson is older than its source; nothing when it is fresh."""
    mend = f"make lessons LESSON={lesson.name}"
    if stale := lesson.stale():
        yield f"{lesson.name} is stale: {', '.join(stale)} changed; {mend}"
    elif lesson.drifted():
        yield f"{lesson.name}: its text is not in the notebook; {mend}"


def _execute_all(lessons: list[Lesson], jobs: int) -> int:
    failed = 0
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        runs = {pool.submit(_execute_apart, lesson): lesson for lesson in lessons}
        try:
            for number, run in enumerate(as_completed(runs), 1):
                code, measured, report = run.result()
                failed += code != 0
                line = f"[{number}/{len(lessons)}] {runs[run].name}: "
                print(line + (f"{measured['seconds']} s" if code == 0 else f"FAILED\n{report}"))
                if code == 0:
                    _record(runs[run], measured)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            print("stopped; what was finished is kept")
            return 1
    return failed


def _execute_apart(lesson: Lesson) -> tuple[int, dict[str, Any], str]:
    """Run one lesson in a process of its own, so that its time and peak memory are its own."""
    command = [sys.executable, "-m", "tools.execute", "--inside", lesson.name]
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    report = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    measured = {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)),
        "date": dt.date.today().isoformat(),
        "reference_seconds": round(reference.measure(), 3),
        **_device(),
    }
    return process.returncode, measured, report


def _device() -> dict[str, str]:
    import torch

    on_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, 1 thread"
    python = ".".join(platform.python_version_tuple()[:2])
    kind = "gpu" if on_gpu else "cpu"
    return {
        "kind": kind,
        "device": name,
        "python": python,
        "torch": torch.__version__.split("+")[0],
    }


def _record(lesson: Lesson, measured: dict[str, Any]) -> None:
    kind = measured.pop("kind")
    path = record_file(lesson.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, text(lesson.measured() | {kind: measured}))


def _execute(lesson: Lesson) -> int:
    from tools.pictures import keep_old_bytes  # Pillow, which rendering the book does without

    notebook = lesson.read_source()
    stamp = current_stamp(lesson)  # before the run: an edit made meanwhile must count as stale
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(lesson.source.parent)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(re.sub(r"\x1b\[[0-9;]*m", "", str(error)))  # no colours: this may go to a log file
        return 1
    notebook.metadata["labs_stamp"] = stamp
    if lesson.notebook.exists():
        keep_old_bytes(notebook, lesson.read_notebook())
    _write(lesson, notebook)
    return 0


def _with_old_outputs(lesson: Lesson) -> Any:
    old = lesson.read_notebook()
    notebook = combine_inputs_with_outputs(lesson.read_source(), old)
    notebook.metadata = old.metadata
    return notebook


def _write(lesson: Lesson, notebook: Any) -> None:
    """Write the notebook so that the same cells and outputs give the same bytes."""
    from tools.pictures import write_drawings_small  # Pillow, which rendering the book does without

    notebook.metadata = NotebookNode(
        kernelspec={
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        language_info={"name": "python", "file_extension": ".py"},
        labs_stamp=notebook.metadata["labs_stamp"],
    )
    write_drawings_small(notebook)
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        name = sha256(f"{cell.cell_type}{cell.source}".encode()).hexdigest()[:8]
        seen[name] = seen.get(name, 0) + 1
        cell.id = name if seen[name] == 1 else f"{name}-{seen[name]}"
        for key in ("execution", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            _fold(cell)
    nbformat.validate(notebook)
    _replace(lesson.notebook, nbformat.writes(notebook) + "\n")


def _fold(cell: Any) -> None:
    """Fold in JupyterLab what the book folds."""
    tags = cell.metadata.get("tags", [])
    if "hide-cell" in tags:
        cell.metadata["jupyter"] = {"outputs_hidden": True, "source_hidden": True}
    elif is_folded(cell.source, tags):
        cell.metadata["jupyter"] = {"source_hidden": True}


def _replace(path: Path, content: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(content, encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
