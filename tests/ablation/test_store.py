import itertools
import json
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from labs.ablation import Run, ablate, store
from labs.ablation.store import canonical, open_store
from tests.ablation.runs import BASE, fails_at, noisy, signs, study_of_twelve
from tests.waiting import until


@dataclass(frozen=True)
class Recipe:
    epochs: int = 2


def open_for_noisy(folder, base=BASE):
    return open_store(folder, noisy, base, "shift")


def written(folder):
    return (Path(folder) / "runs.jsonl").read_text().splitlines()


def test_a_finished_study_is_read_and_not_repeated(tmp_path):
    base = {"file": str(tmp_path / "signed"), "part": 0}
    first = ablate(signs, base, "part", [0, 1], seeds=range(2), store=tmp_path / "a" / "b")
    again = ablate(signs, base, "part", [0, 1], seeds=range(2), store=tmp_path / "a" / "b")
    assert again.runs == first.runs
    assert len((tmp_path / "signed").read_text().splitlines()) == 4
    more = ablate(signs, base, "part", [0, 1, 2], seeds=range(3), store=tmp_path / "a" / "b")
    assert len((tmp_path / "signed").read_text().splitlines()) == 9
    assert more.frame()["part"].tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_values_come_back_as_they_were_given_and_nan_as_nan(tmp_path):
    def measure(norm):
        return {"nan": float("nan"), "inf": float("inf"), "third": 1 / 3}

    values = [nn.BatchNorm2d, None, (1, 2), torch.float16, Recipe()]
    for _ in range(2):
        study = ablate(measure, {"norm": None}, "norm", values, store=tmp_path)
    assert study.values == tuple(values)
    assert study.runs[0].value is nn.BatchNorm2d
    assert study.frame()[["nan", "inf", "third"]].isna().to_numpy()[:, 0].all()
    assert study.frame()["third"].tolist() == [1 / 3] * 15


def test_cut_at_any_byte_the_record_keeps_every_whole_line_and_goes_on(tmp_path):
    with open_for_noisy(tmp_path) as record:
        for seed in range(3):
            record.add(Run(0.5, seed, {"score": 1 / (seed + 3), "cost": 1.0}))
    path = tmp_path / "runs.jsonl"
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        runs = max(0, content[:length].count(b"\n") - 1)
        with open_for_noisy(tmp_path) as record:
            found = [record.find(0.5, seed) is not None for seed in range(3)]
            assert found == [seed < runs for seed in range(3)]
            record.add(Run(0.5, 2, {"score": 0.2, "cost": 1.0}))
        with open_for_noisy(tmp_path) as record:
            assert record.find(0.5, 2).metrics == {"score": 0.2, "cost": 1.0}
            assert (record.find(0.5, 0) is None) == (runs == 0)


def test_only_what_failed_is_tried_again(tmp_path):
    base = {"limit": 1, "part": 0}
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="2 of 4 runs failed"):
            ablate(fails_at, base, "part", [0, 1], seeds=range(2), store=tmp_path)
    assert len(written(tmp_path)) == 1 + 2 + 2 + 2
    assert "with a second line" in json.loads(written(tmp_path)[-1])["traceback"]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        pytest.param({"shift": 0.0, "scale": 0.2}, "scale was 0.1 and is 0.2", id="changed"),
        pytest.param({"shift": 0.0}, "scale was 0.1 and is 'absent'", id="taken away"),
        pytest.param(BASE | {"lr": 1}, "lr was 'absent' and is 1", id="added"),
    ],
)
def test_another_study_is_refused_with_what_changed(tmp_path, base, message):
    with open_for_noisy(tmp_path):
        pass
    with pytest.raises(ValueError, match=message), open_for_noisy(tmp_path, base):
        pass
    with open_for_noisy(tmp_path, BASE | {"shift": 9.0}):  # it is replaced in every run
        pass
    with pytest.raises(ValueError, match=r"fn was '.*noisy' and is '.*signs'"):
        ablate(signs, {"file": "", "part": 0}, "part", [0, 1], store=tmp_path)


def test_a_line_that_is_no_record_is_named(tmp_path):
    with open_for_noisy(tmp_path):
        pass
    (tmp_path / "runs.jsonl").write_text(written(tmp_path)[0] + "\n" + '{"value": 1}\n')
    with (
        pytest.raises(ValueError, match=r"runs\.jsonl, line 2: not a record"),
        open_for_noisy(tmp_path),
    ):
        pass


def test_a_store_in_use_is_refused_and_free_again_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_PATIENCE_SECONDS", 0.05)
    refused = pytest.raises(RuntimeError, match="in use by another study")
    with open_for_noisy(tmp_path), refused, open_for_noisy(tmp_path):
        pass
    with open_for_noisy(tmp_path):
        pass


@pytest.mark.parametrize(
    "value",
    [lambda x: x, object(), torch.zeros(2000), [1, object()]],
)
def test_a_setting_that_reads_differently_tomorrow_is_refused(value):
    with pytest.raises(ValueError, match=r"cannot write .* into the store"):
        canonical(value)


def test_values_that_the_store_cannot_tell_apart_are_refused(tmp_path):
    twins = [nn.Linear(1, 1), nn.Linear(1, 1)]
    with pytest.raises(ValueError, match="given twice in values as the store writes them"):
        ablate(lambda net: 1.0, {"net": None}, "net", twins, store=tmp_path)


@pytest.mark.slow
def test_a_study_killed_twenty_times_loses_nothing_and_repeats_nothing(tmp_path):
    context = multiprocessing.get_context("forkserver")  # loads PyTorch once, then forks
    context.set_forkserver_preload(["tests.ablation.runs", "labs.repro", "filelock"])
    begun, signed = tmp_path / "begun", tmp_path / "signed"
    allowed, runs = tmp_path / "allowed", tmp_path / "store" / "runs.jsonl"
    allowed.mkdir()
    finished, before = set(), 0
    # What grows before a study is killed: nothing, or what its first run, allowed or not, does.
    moments = {itertools.count().__next__: False, lambda: lines(begun): False}
    moments |= {lambda: lines(signed): True, lambda: len(recorded(runs)): True}
    for count, allow in [*moments.items()] * 5:
        if allow:  # one run and not more, so that no study can end by itself
            (allowed / "one").touch()
        kill_when_it_grows(count, context.Process(target=study_of_twelve, args=(str(tmp_path),)))
        made = signed.read_text().splitlines() if signed.exists() else []
        assert finished.isdisjoint(made[before:]), "a finished run was made again"
        before, finished = len(made), recorded(runs)
        assert finished <= set(made)
    assert 5 <= len(finished) <= 10, "a study that was killed made more or fewer runs than allowed"
    for number in range(12):
        (allowed / str(number)).touch()
    study = study_of_twelve(tmp_path)
    rows = study.frame()[["part", "seed"]].drop_duplicates()
    assert len(study.frame()) == len(rows) == len(recorded(runs)) == 12
    assert len(written(tmp_path / "store")) == 1 + 12
    assert finished.isdisjoint(signed.read_text().splitlines()[before:])


def kill_when_it_grows(count, study):
    before = count()
    study.start()
    assert until(lambda: count() > before)
    study.kill()
    study.join()
    assert study.exitcode == -9


def lines(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def recorded(path):
    """Return the whole lines of the record, written as the runs sign."""
    lines = path.read_bytes().splitlines(keepends=True)[1:] if path.exists() else []
    runs = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return {json.dumps([run["value"], run["seed"]]) for run in runs}
