"""Run the tests that wait for other processes, again and again, while others keep the cores busy.

    python -m tools.load [TEST ...] [--times 20] [--busy 10]

A test that waits for a time instead of an event passes on a quiet machine and fails on a busy one.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

TESTS = [
    "tests/data/test_faults.py::test_mislabel_changes_exactly_the_share",
    "tests/data/test_decoder.py::test_a_scan_that_is_stopped_leaves_no_process",
    "tests/ddp/test_launch.py::test_no_process_outlives_its_parent",
    "tests/ddp/test_train.py::test_ctrl_c_ends_a_run_after_the_step_and_twice_at_once",
    "tests/ablation/test_pool.py::test_ctrl_c_ends_the_runs_in_processes_too",
    "tests/ablation/test_store.py::"
    "test_a_study_killed_twenty_times_loses_nothing_and_repeats_nothing",
]
# It ends by itself when we are gone, however we ended.
SPIN = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"


@contextmanager
def busy(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Let so many processes compute without a pause, and end them afterwards."""
    spin = [sys.executable, "-c", SPIN, str(os.getpid())]
    spinning = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield spinning
    finally:
        for process in spinning:
            process.kill()
        for process in spinning:
            process.wait()


class Repeat:
    """Run every test so many times, and count how often each passed (a plugin of pytest)."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.seen: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Give each test a number that it does not ask for."""
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", [f"run{n}" for n in range(self.times)])

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Go through all tests before any comes again, so that a run cut short counts all."""
        runs = [f"run{n}" for n in range(self.times)]
        items.sort(key=lambda item: runs.index(item.callspec.params["repetition"]))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test that ran, and as failed when any part of it failed."""
        name = self._name(report.nodeid)
        self.seen[name] += report.when == "call" or (report.when == "setup" and report.failed)
        self.failed[name] += report.failed

    def lines(self) -> list[str]:
        """Say of each test how often it passed."""
        return [f"{n - self.failed[name]}/{n} {name}" for name, n in self.seen.items() if n]

    @staticmethod
    def _name(nodeid: str) -> str:
        test, bracket, own = nodeid.rstrip("]").partition("[")
        parts = [part for part in own.split("-") if not re.fullmatch(r"run\d+", part)]
        return f"{test}[{'-'.join(parts)}]" if bracket and parts else test


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, print how often each test passed, and return pytest's exit status."""
    parser = argparse.ArgumentParser("tools.load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tests", nargs="*", default=TESTS, help="as pytest names them")
    parser.add_argument("--times", type=int, default=20, help="how often each test runs")
    parser.add_argument("--busy", type=int, default=10, help="how many processes disturb them")
    chosen = parser.parse_args(arguments)
    repeat = Repeat(chosen.times)
    with busy(chosen.busy):
        status = pytest.main(["-q", "-p", "no:cacheprovider", *chosen.tests], plugins=[repeat])
    print(*repeat.lines(), sep="\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
