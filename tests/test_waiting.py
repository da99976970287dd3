"""No test depends on how fast the machine is, nor on how the tests were started."""

import ast
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, settings

from labs.stamp import ROOT
from tests.waiting import HANG, alive, until

ENOUGH = 120  # seconds: only what hangs takes so long, even on a busy machine
MEANT = {  # a limit that has to ring, and one that would only ring on what must not happen
    ("tests/ddp/test_launch.py", "launch(workers.add, 1, (0,), timeout=0.05)"),
    ("tests/data/test_scan.py", "scan_images(tmp_path, workers=1, timeout=20)"),
}


def calls():
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT).as_posix(), node


def limits(call):
    """Return the numbers after which a call gives up."""
    given = [word.value for word in call.keywords if word.arg == "timeout"]
    if isinstance(call.func, ast.Attribute) and call.func.attr in ("wait", "join"):
        given += call.args
    numbers = [node.value for node in given if isinstance(node, ast.Constant)]
    return [number for number in numbers if isinstance(number, int | float)]


def test_no_test_gives_up_on_what_is_only_slow():
    short = {
        (file, ast.unparse(call))
        for file, call in calls()
        if any(limit < ENOUGH for limit in limits(call))
    }
    assert short <= MEANT
    assert HANG >= ENOUGH


def test_no_test_sleeps_until_something_should_have_happened():
    sleeping = {file for file, call in calls() if ast.unparse(call.func) in ("time.sleep", "sleep")}
    tests = {file for file in sleeping if file.rpartition("/")[2].startswith("test_")}
    assert tests == set()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("process.communicate(timeout=30)", [30]),
        ("process.wait(10)", [10]),
        ("study.join(0.5)", [0.5]),
        ("launch(f, timeout=HANG)", []),
        ("''.join('ab')", []),
    ],
)
def test_limits_are_found(code, found):
    assert limits(ast.parse(code, mode="eval").body) == found


def test_no_example_has_a_deadline():
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check


def test_ctrl_c_is_heard():
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


@pytest.mark.skipif(sys.platform == "win32", reason="its signals are others")
def test_ctrl_c_is_heard_where_the_shell_had_it_ignored():
    this = "tests/test_waiting.py::test_ctrl_c_is_heard"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", this],
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout


def test_waiting_ends_with_the_event_or_the_time():
    answers = iter([False, False, True, True])
    assert until(lambda: next(answers))
    assert not until(lambda: False, seconds=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_process_that_nobody_waited_for_is_not_alive():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert alive(process.pid)
        process.kill()
        assert until(lambda: not alive(process.pid))
        assert os.path.exists(f"/proc/{process.pid}")
