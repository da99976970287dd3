"""Plant small faults in the library, one at a time, and see which of them the tests catch.

python -m tools.mutants --number 100 --seed 0
python -m tools.mutants --file labs/boxes/sides.py --number 5

Faults are planted in a temporary copy of the tree, never here. The nearest tests run first, then
those that are a step further away. What survives both is a hole in the tests, or a fault that
changes nothing: list that one, and why, in tools/equivalent_mutants.txt.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Lock

from tools.mutate import OPERATORS, Fault, faults, is_another

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path("tools", "equivalent_mutants.txt")
LEFT_OUT = shutil.ignore_patterns(".*", "_build", "build", "__pycache__", "*.ipynb", "*.egg-info")
OF_ALL = ("tests/test_frozen.py",)  # read every module, and import none
MOST = 10  # files that are further away: with more, what survives takes minutes
PASSED, FAILED = 0, 1  # what pytest returns; anything else says that it could not run


@dataclass(frozen=True)
class Result:
    """Hold what became of one fault.

    Attributes:
        fault: What was planted.
        fate: ``"killed"``, ``"survived"``, ``"timeout"``, ``"untested"`` (no test is near), or
            ``"broken"`` (the test that failed fails without the fault too).
        by: The test that failed, or the files that passed.
    """

    fault: Fault
    fate: str
    by: str

    def __str__(self) -> str:
        return f"{self.fate:<9} {self.fault}  ({self.by})"


# --------------------------------------------------------------------------------- the draw


def draw(root: Path, number: int, seed: int, files: Sequence[str] = ()) -> list[Fault]:
    """Draw faults: ``number`` over all of ``labs``, or ``number`` in each of the files.

    Operators take turns, so that the rare ones come as often as the common ones. The same arguments
    give the same faults, and those of a smaller number are the first of a larger one.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the list of equivalent faults has a line without a reason.
    """
    known = _equivalents(root)
    if files:
        return [
            f for k, file in enumerate(files) for f in _some(root, [file], number, seed + k, known)
        ]
    everything = sorted(str(path.relative_to(root)) for path in (root / "labs").rglob("*.py"))
    return _some(root, everything, number, seed, known)


def _some(root: Path, files: Sequence[str], number: int, seed: int, known: set[str]) -> list[Fault]:
    chance = random.Random(seed)
    sources = {file: (root / file).read_text(encoding="utf-8") for file in files}
    heaps: dict[str, list[Fault]] = {name: [] for name in OPERATORS}
    for file, source in sources.items():
        for fault in faults(source, file):
            heaps[fault.operator].append(fault)
    for heap in heaps.values():
        chance.shuffle(heap)
    drawn: list[Fault] = []
    while len(drawn) < number and any(heaps.values()):
        for heap in heaps.values():
            found = _next(heap, sources, known)
            drawn += [found] if found is not None else []
    return drawn[:number]


def _next(heap: list[Fault], sources: dict[str, str], known: set[str]) -> Fault | None:
    while heap:
        fault = heap.pop()
        if _key(fault, sources[fault.file]) not in known and is_another(sources[fault.file], fault):
            return fault
    return None


def _key(fault: Fault, source: str) -> str:
    """Return what names a fault in the list of equivalent ones; no line number, for lines move.

    The whole lines stand there, because the same ``False`` may stand elsewhere in the file.
    """
    content, end = source.encode(), fault.start + len(fault.before.encode())
    first = content.rfind(b"\n", 0, fault.start) + 1
    last = content.find(b"\n", end)
    tail = content[end : last if last >= 0 else len(content)]
    lines = [
        content[first : fault.start] + part.encode() + tail for part in (fault.before, fault.after)
    ]
    parts = fault.file, fault.operator, *(line.decode() for line in lines)
    return " | ".join(" ".join(part.split()) for part in parts)


def _equivalents(root: Path) -> set[str]:
    """Read the faults that change nothing: ``file | operator | line | changed # reason``."""
    path = root / EQUIVALENT
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    listed = [line for line in lines if line.strip() and not line.startswith("#")]
    for line in listed:
        if line.count(" | ") < 3 or " # " not in line:
            raise ValueError(
                f"{EQUIVALENT}: expected 'file | operator | line | changed # reason', got {line!r}"
            )
    return {line.rpartition(" # ")[0].strip() for line in listed}


# ------------------------------------------------------------------------------ the tests


def nearest_tests(root: Path, file: str) -> list[str]:
    """Return the test files of a module, nearest first: of its name, of its folder, then importers.

    A test counts as an importer also when it takes from a package what the module gives to it.
    """
    path = Path(file)
    folder = root / "tests" / Path(*path.parent.parts[1:])
    tests = sorted((root / "tests").rglob("test_*.py"))
    stem = path.parent.name if path.stem == "__init__" else path.stem
    users = [test for test in tests if _imports(test) & _names(root, path)]
    named = [t for t in tests if t.stem == f"test_{stem}" and (t.parent == folder or t in users)]
    named.sort(key=lambda test: test.parent != folder)
    users.sort(key=lambda test: (test.parent != folder, not _is_of(test, path), test.stem))
    found = list(dict.fromkeys([*named, *users])) or [t for t in tests if t.parent == folder]
    if not found and len(path.parts) > 2:  # hidden in its package: then the tests of that
        inner = path.stem == "__init__"
        above = path.parents[1] if inner else path.parent
        return nearest_tests(root, str(above / "__init__.py"))
    return [str(test.relative_to(root)) for test in found]


def further_tests(root: Path, file: str) -> list[str]:
    """Return the test files one step further away, nearest first, and those of every module.

    They import a module that imports this one, or name a helper among the tests that imports it,
    as those do that start it in another process.
    """
    path, near = Path(file), nearest_tests(root, file)
    folder = root / "tests" / Path(*path.parent.parts[1:])
    names = _names(root, path)
    users = [user for user in sorted((root / "labs").rglob("*.py")) if _imports(user) & names]
    wider = set[str]().union(*(_names(root, u.relative_to(root)) for u in users if not _lists(u)))
    found: list[tuple[tuple[bool, ...], str]] = []
    for test in sorted((root / "tests").rglob("test_*.py")):
        helped = bool(
            names & {name for helper in _helpers(root, test) for name in _imports(helper)}
        )
        if helped or _imports(test) & wider:
            place = test.parent != folder, not _is_of(test, path), not helped
            found.append((place, str(test.relative_to(root))))
    far = [test for _, test in sorted(found) if test not in near]
    return far[:MOST] + [test for test in OF_ALL if (root / test).is_file()]


def _is_of(test: Path, module: Path) -> bool:
    """Tell whether a test has the name of a package that the module is in."""
    return test.stem.removeprefix("test_") in module.parts[1:-1]


def _lists(module: Path) -> bool:
    """Tell whether it passes names on: who takes one of them from there is found as it is."""
    return module.name == "__init__.py"


def _helpers(root: Path, test: Path) -> Iterator[Path]:
    """Yield the modules among the tests that one imports, or names to another process."""
    for name in set(re.findall(r"\btests(?:\.\w+)+", test.read_text(encoding="utf-8"))):
        helper = root.joinpath(*name.split(".")).with_suffix(".py")
        if helper.is_file() and helper != test:
            yield helper


def _names(root: Path, path: Path) -> set[str]:
    """Return the dotted names under which a module, or what it defines, can be imported."""
    parts = path.with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    names = {module}
    for folder in path.parents[:-1]:
        init = root / folder / "__init__.py"
        if init.is_file() and init != root / path:
            package = ".".join(folder.parts)
            names |= {f"{package}.{name}" for source, name in _taken(init) if source == module}
    return names


def _imports(file: Path) -> set[str]:
    return {name for source, taken in _taken(file) for name in (source, f"{source}.{taken}")}


def _taken(path: Path) -> tuple[tuple[str, str], ...]:
    """Return module and name of each thing that a file imports, wherever in it."""
    return _taken_from(path.read_text(encoding="utf-8"))


@cache
def _taken_from(source: str) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
    return tuple(found)


# -------------------------------------------------------------------------------- the runs


class Trials:
    """Run the tests of faults, each in a copy of the tree that is nobody else's at that time."""

    def __init__(self, root: Path, folder: Path, jobs: int, limit: float) -> None:
        self.root, self.limit = root, limit
        self.copies: SimpleQueue[Path] = SimpleQueue()
        self.running: set[subprocess.Popen[str]] = set()
        self.stopped, self.lock = False, Lock()
        for job in range(jobs):
            copy = folder / f"copy{job}"
            shutil.copytree(root, copy, ignore=LEFT_OUT)
            self.copies.put(copy)

    def judge(self, fault: Fault) -> Result:
        """Plant the fault, run its tests, and take it out again."""
        near, far = nearest_tests(self.root, fault.file), further_tests(self.root, fault.file)
        if not near + far:
            return Result(fault, "untested", "no test imports it")
        copy = self.copies.get()
        file = copy / fault.file
        source = file.read_text(encoding="utf-8")
        try:
            for tests in filter(None, (near, far)):
                _write(file, fault.planted(source))
                code, output = self._pytest(copy, tests)
                _write(file, source)
                if code != PASSED:
                    return self._judged(fault, copy, tests, code, output)
            return Result(fault, "survived", " ".join(near + far))
        finally:
            _write(file, source)
            self.copies.put(copy)

    def _judged(
        self, fault: Fault, copy: Path, tests: list[str], code: int | None, output: str
    ) -> Result:
        """Say what it means that tests failed, or that they did not end."""
        if code is None:  # a fault may make a loop endless; or the tests are as slow as that
            sound, _ = self._pytest(copy, tests)
            fate = "killed" if sound == PASSED else "timeout"
            return Result(fault, fate, f"{self.limit:g} s over {len(tests)} files")
        marks = ("FAILED ", "ERROR ")
        lines = [line for line in output.splitlines() if line.startswith(marks)]
        killer = lines[0].split(" ", 1)[1].split(" - ")[0] if lines else tests[0]
        sound, _ = self._pytest(copy, [killer])  # a test that fails anyway kills nothing
        return Result(fault, "killed" if sound == PASSED else "broken", killer)

    def _pytest(self, copy: Path, tests: Sequence[str]) -> tuple[int | None, str]:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "--tb=no", *tests]
        command += ["-p", "no:cacheprovider"]
        # No test needs a plugin, and to load those that are installed takes seconds.
        env = os.environ | {"PYTHONPATH": str(copy), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        with self.lock:
            if self.stopped:
                return None, ""
            process = subprocess.Popen(
                command, cwd=copy, env=env, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            self.running.add(process)
        try:
            output, _ = process.communicate(timeout=self.limit)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            _end(process)
            self.running.discard(process)

    def stop(self) -> None:
        """End what runs, and start nothing more."""
        with self.lock:
            self.stopped = True
        for process in list(self.running):
            _end(process)


def _write(file: Path, source: str) -> None:
    """Write a program, and remove its bytecode: a fault may leave second and size as they were."""
    file.write_text(source, encoding="utf-8")
    Path(cache_from_source(str(file))).unlink(missing_ok=True)


def _end(process: subprocess.Popen[str]) -> None:
    """End the tests and all that they started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(
    root: Path, drawn: Sequence[Fault], out: Path, jobs: int = 2, limit: float = 120
) -> list[Result]:
    """Judge the faults, and write each result to ``out`` when it is known; Ctrl-C keeps them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with TemporaryDirectory() as folder, out.open("w", encoding="utf-8") as lines:
        trials = Trials(root, Path(folder), jobs, limit)
        with ThreadPoolExecutor(jobs) as pool:
            asked = [pool.submit(trials.judge, fault) for fault in drawn]
            try:
                for done in as_completed(asked):
                    results.append(done.result())
                    print(results[-1], file=lines, flush=True)
            except KeyboardInterrupt:
                trials.stop()
                pool.shutdown(wait=True, cancel_futures=True)
    return results


def report(results: Sequence[Result]) -> str:
    """Return the kill rate, and every fault that was not killed."""
    killed = sum(result.fate == "killed" for result in results)
    judged = sum(result.fate in ("killed", "survived", "untested") for result in results)
    rate = f"{killed} of {judged} faults killed" + (f" ({killed / judged:.0%})" if judged else "")
    others = sorted(
        (r for r in results if r.fate != "killed"), key=lambda r: (r.fate, str(r.fault))
    )
    return "\n".join([rate, *map(str, others)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, run and report; return 0 when nothing survived."""
    parser = argparse.ArgumentParser(prog="tools.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--number", type=int, help="how many (default 100, or 5 for each --file)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--file", action="append", default=[], help="draw in this file; repeat it")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=120, help="seconds for each fault")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "mutants.txt")
    chosen = parser.parse_args(arguments)
    number = (5 if chosen.file else 100) if chosen.number is None else chosen.number
    drawn = draw(ROOT, number, chosen.seed, chosen.file)
    results = run(ROOT, drawn, chosen.out, chosen.jobs, chosen.limit)
    print(report(results), f"{len(results)} of {len(drawn)} run; all in {chosen.out}", sep="\n")
    return int(any(result.fate != "killed" for result in results))


if __name__ == "__main__":
    sys.exit(main())
