import multiprocessing
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pandas as pd
import pytest
import torch

from labs.ablation import ablate, processes
from labs.ablation.store import open_store
from tests.ablation.runs import (
    BASE,
    dies_at,
    draws,
    fails_at,
    noisy,
    study_in_processes,
    where,
)
from tests.waiting import HANG, alive, until


@pytest.fixture(scope="module")
def pool():
    before, setting = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(4)
    two = processes(2)
    torch.set_num_threads(before)
    assert os.environ.get("OMP_NUM_THREADS") == setting
    with two:
        yield two


def test_processes_give_the_numbers_of_this_process_in_the_same_order(pool):
    here = ablate(noisy, BASE, "scale", [0.1, 1.0, 2.0])
    there = ablate(noisy, BASE, "scale", [0.1, 1.0, 2.0], executor=pool)
    pd.testing.assert_frame_equal(there.frame(), here.frame())
    drawn = ablate(draws, {"library": 0}, "library", [0, 1], executor=pool).frame()
    assert (drawn.groupby("seed").nunique() == 1)[["python", "numpy", "torch"]].all(axis=None)


def test_each_process_has_its_share_of_the_threads(pool, tmp_path):
    here = {"part": 0, "folder": str(tmp_path)}
    places = ablate(where, here, "part", [0, 1], [0, 1], executor=pool)
    seen = places.frame()
    assert seen["pid"].nunique() == 2
    assert os.getpid() not in seen["pid"].to_list()
    assert seen["torch"].unique().tolist() == seen["OpenMP"].unique().tolist() == [2.0]


def test_a_failure_in_a_process_is_a_row_with_its_traceback(pool):
    with pytest.warns(RuntimeWarning, match="2 of 4 runs failed"):
        study = ablate(fails_at, {"limit": 1, "part": 0}, "part", [0, 1], range(2), executor=pool)
    assert study.frame()["error"].tolist() == ["", ""] + ["ValueError: too large"] * 2
    assert "with a second line" in study.runs[-1].traceback


def test_a_process_that_dies_takes_no_finished_run_along(tmp_path):
    with processes(1) as one, pytest.warns(RuntimeWarning, match="BrokenProcessPool"):
        study = ablate(dies_at, {"part": 0}, "part", [0, 1], range(2), executor=one, store=tmp_path)
    assert study.table()["n"].tolist() == [2, 0]
    with open_store(tmp_path, dies_at, {"part": 0}, "part") as record:
        assert [record.find(0, seed) for seed in range(2)] == list(study.runs[:2])
        assert record.find(1, 0) is None


@pytest.mark.slow
def test_processes_end_when_the_study_is_killed(tmp_path):
    study = multiprocessing.get_context("spawn").Process(
        target=study_in_processes, args=(str(tmp_path),)
    )
    study.start()
    waited = until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    study.kill()
    study.join()
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert waited
    assert until(lambda: not any(map(alive, pids)))


@pytest.mark.slow
def test_ctrl_c_ends_the_runs_in_processes_too(tmp_path):
    study = multiprocessing.get_context("spawn").Process(
        target=study_in_processes, args=(str(tmp_path),)
    )
    study.start()
    assert until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    for pid in (study.pid, *pids):  # as a terminal sends it: to all of them
        os.kill(pid, signal.SIGINT)
    study.join(HANG)
    assert study.exitcode == 1
    assert until(lambda: not any(map(alive, pids)))


def test_threads_are_refused_since_they_share_the_random_state():
    with ThreadPoolExecutor(2) as threads, pytest.raises(TypeError, match="share one random state"):
        ablate(noisy, BASE, "scale", [0.1, 1.0], executor=threads)
    with pytest.raises(TypeError, match=r"Executor, for example processes\(2\), got 4"):
        ablate(noisy, BASE, "scale", [0.1, 1.0], executor=4)


@pytest.mark.parametrize("wrapped", [lambda f: f, partial], ids=["itself", "a partial of it"])
def test_a_function_of_a_notebook_is_refused_with_the_way_out(pool, monkeypatch, wrapped):
    def train(part):
        return float(part)

    monkeypatch.setattr(train, "__module__", "__main__")
    monkeypatch.setattr(train, "__qualname__", "train")
    monkeypatch.setattr(sys.modules["__main__"], "train", train, raising=False)
    with pytest.raises(TypeError, match=r"defined in this notebook .*move it into a file.*import"):
        ablate(wrapped(train), {"part": 0}, "part", [0, 1], executor=pool)


def test_what_cannot_be_pickled_is_refused_with_the_way_out(pool):
    with pytest.raises(TypeError, match=r"cannot be sent .*leave out executor to run here"):
        ablate(lambda part: 1.0, {"part": 0}, "part", [0, 1], executor=pool)
    with pytest.raises(TypeError, match="cannot be sent"):
        ablate(noisy, BASE, "scale", [0.1, lambda: 1.0], executor=pool)


def test_no_process_is_refused():
    with pytest.raises(ValueError, match="workers >= 1, got 0"):
        processes(0)


@pytest.mark.slow
def test_a_dask_cluster_gives_the_numbers_of_this_process(tmp_path):
    distributed = pytest.importorskip("distributed")
    here = ablate(draws, {"library": 0}, "library", [0, 1], seeds=range(6))
    workers = {"n_workers": 2, "threads_per_worker": 2, "processes": True}  # threads must not mix
    with (
        distributed.LocalCluster(**workers, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor = client.get_executor()
        study = ablate(
            draws, {"library": 0}, "library", [0, 1], range(6), executor=executor, store=tmp_path
        )
        with pytest.warns(RuntimeWarning, match="2 of 4 runs failed"):
            ablate(fails_at, {"limit": 1, "part": 0}, "part", [0, 1], range(2), executor=executor)
    ours = ["library", "seed", "numpy", "torch"]  # Dask itself draws from Python's random
    pd.testing.assert_frame_equal(study.frame()[ours], here.frame()[ours])
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 1 + 12
