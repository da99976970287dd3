"""The tool that disturbs the tests counts rightly, and leaves no process behind."""

import signal
import subprocess
import sys

import pytest

from labs.stamp import ROOT
from tests.waiting import HANG, alive, until
from tools import load, roadmap

SOME = """
import pytest

@pytest.mark.parametrize("n", [1, 2])
def test_a(n):
    assert n == 1

def test_b():
    pass
"""


def test_every_test_that_it_runs_is_there():
    assert [one for one in map(roadmap.wrong, load.TESTS) if one] == []


def test_it_counts_each_test_with_its_own_parameters(tmp_path):
    (tmp_path / "test_some.py").write_text(SOME)
    some = [str(tmp_path / "test_some.py"), "--times=3", "--busy=1"]
    run = [sys.executable, "-m", "tools.load", *some]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 1
    ends = [line.replace("test_some.py::", "") for line in done.stdout.splitlines()[-3:]]
    assert ends == ["3/3 test_a[1]", "0/3 test_a[2]", "3/3 test_b"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_computes_ends_with_the_block_and_with_us():
    with load.busy(2) as spinning:
        assert all(process.poll() is None for process in spinning)
    assert all(process.poll() is not None for process in spinning)
    program = (
        "import time; from tools import load\n"
        "with load.busy(1) as (one,): print(one.pid, flush=True); time.sleep(900)"
    )
    ours = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    pid = int(ours.stdout.readline())
    assert alive(pid)
    ours.send_signal(signal.SIGKILL)
    ours.wait()
    ours.stdout.close()
    assert until(lambda: not alive(pid), seconds=60)
