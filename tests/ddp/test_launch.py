import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from labs.ddp import RankFailed, launch
from labs.ddp.outcome import Failure, _guilty
from tests.ddp import workers
from tests.waiting import HANG, alive, until

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("nothing_left")
def test_each_rank_returns_its_result_and_prints_nothing(capfd):
    results = launch(workers.add, 2, (10,))
    assert [r["rank"] for r in results] == [0, 1]
    assert [r["total"] for r in results] == [21.0, 21.0]
    assert all(r["threads"] >= 1 for r in results)
    assert capfd.readouterr() == ("", "")


def test_a_rank_sees_what_torchrun_would_tell_it_and_no_input():
    (seen,) = launch(workers.environment, 1)
    assert seen == {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "input": ""}


@pytest.mark.usefixtures("nothing_left")
def test_a_result_may_be_larger_than_a_pipe():
    (result,) = launch(workers.big, 1)
    assert result.shape == (5_000_000,)


FAILURES = [
    pytest.param("raises", True, "ZeroDivisionError: on purpose", id="raises, peer waits"),
    pytest.param("raises", False, "ZeroDivisionError: on purpose", id="raises, peer is busy"),
    pytest.param("sys.exit", True, "SystemExit: 0", id="sys.exit, peer waits"),
    pytest.param("os._exit", True, "ended with exit status 3", id="os._exit, peer waits"),
    pytest.param("os._exit(0)", False, "status 0, without a result", id="os._exit(0), peer busy"),
    pytest.param("is killed", True, "killed by SIGKILL", id="killed, peer waits"),
    pytest.param("is killed", False, "killed by SIGKILL", id="killed, peer is busy"),
]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("how", "blocked", "message"), FAILURES)
def test_the_guilty_rank_is_named_and_no_process_is_left(how, blocked, message):
    with pytest.raises(RankFailed, match=message) as failed:
        launch(workers.fails, 2, (how, blocked), timeout=HANG)
    assert failed.value.rank == 1
    assert "Last output of rank 1:\nabout to fail" in str(failed.value)
    if how == "raises":
        assert 'raise ZeroDivisionError("on purpose")' in failed.value.traceback
        assert "labs/ddp" not in failed.value.traceback.replace(str(ROOT / "tests"), "")


def hang_of(worker, args, said):
    """Launch what never ends, with more time as long as that is too little to get there."""
    for timeout in (8, 30, 120, HANG):
        with pytest.raises(RankFailed) as failed:
            launch(worker, 2, args, timeout=timeout)
        if said in str(failed.value):
            break
    return failed.value


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_a_rank_that_sleeps_for_ever_is_named_and_its_stack_shown():
    failed = hang_of(workers.fails, ("sleeps", True), "in _sleep_for_ever")
    assert re.match(r"rank 1 of 2 did not end within \d+ s", str(failed))
    assert failed.rank == 1
    assert "in _sleep_for_ever" in failed.traceback
    assert "The other ranks waited for it" in str(failed)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
def test_ranks_that_wait_for_each_other_are_told_so():
    failed = hang_of(workers.wait_for_each_other, (), "All of them wait for another rank")
    assert "All of them wait for another rank" in str(failed)
    assert "in wait_for_each_other" in str(failed)


@pytest.mark.usefixtures("nothing_left")
def test_a_timeout_too_short_to_start_in_says_so():
    with pytest.raises(RankFailed, match="still starting: give it a longer timeout"):
        launch(workers.add, 1, (0,), timeout=0.05)


@pytest.mark.usefixtures("nothing_left")
def test_a_result_that_cannot_travel_is_the_fault_of_its_rank():
    with pytest.raises(RankFailed, match="result, of type lock, cannot be pickled") as failed:
        launch(workers.unpicklable, 2)
    assert failed.value.rank == 1


def test_a_rank_that_returns_while_another_waits_for_it_is_explained():
    with pytest.raises(RankFailed, match="Rank 0 had returned while rank 1 still waited"):
        launch(workers.returns_early, 2)


def of_main(rank):
    return rank


def test_a_function_of_a_notebook_cell_is_refused(monkeypatch):
    monkeypatch.setattr(of_main, "__module__", "__main__")
    for worker in (of_main, partial(of_main)):
        with pytest.raises(TypeError, match="spawn cannot import a function defined in a notebook"):
            launch(worker)


def test_an_argument_of_a_notebook_cell_is_explained_by_the_rank(monkeypatch):
    monkeypatch.setattr(of_main, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "of_main", of_main, raising=False)
    with pytest.raises(RankFailed, match="spawn cannot import a function defined in a notebook"):
        launch(workers.add, 1, (of_main,))


@pytest.mark.parametrize(
    ("worker", "keywords", "error", "message"),
    [
        pytest.param(lambda rank: rank, {}, TypeError, "no name to import it by", id="lambda"),
        pytest.param(
            workers.add, {"args": (iter, (i for i in ()))}, TypeError, "by pickle", id="args"
        ),
        pytest.param(workers.add, {"world_size": 0}, ValueError, "world_size >= 1", id="no rank"),
        pytest.param(workers.add, {"timeout": float("inf")}, ValueError, "finite", id="for ever"),
    ],
)
def test_what_cannot_be_launched_is_refused(worker, keywords, error, message):
    with pytest.raises(error, match=message):
        launch(worker, **keywords)


def test_a_lost_connection_is_never_blamed_before_what_caused_it():
    victim = Failure(0, 1.0, "connection closed", lost_peer=True)
    late, early = Failure(1, 3.0, "killed"), Failure(2, 2.0, "raised")
    assert _guilty([victim, late, early]) is early
    assert _guilty([victim]) is victim


PARENT = (
    "from labs.ddp import launch; from tests.ddp import workers; launch(workers.{}, 2, ({!r},))"
)


def parent(worker, path):
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(path)}
    code = PARENT.format(worker.__name__, str(path))
    return subprocess.Popen(
        [sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_no_process_outlives_its_parent(how, tmp_path):
    caller = parent(workers.leave_a_child_and_sleep, tmp_path)
    files = [tmp_path / "0", tmp_path / "1"]
    assert until(lambda: all(f.exists() and " " in f.read_text() for f in files))
    pids = [int(pid) for file in files for pid in file.read_text().split()]
    assert all(alive(pid) for pid in pids)
    caller.send_signal(how)
    assert until(lambda: not any(alive(pid) for pid in pids))
    assert caller.wait(HANG) != 0
    caller.stderr.close()


def test_what_a_finished_rank_started_is_ended_too(tmp_path):
    (child,) = launch(workers.leave_a_child, 1, (str(tmp_path),))
    assert until(lambda: not alive(child))
