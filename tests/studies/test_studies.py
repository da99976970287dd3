import json
import warnings
from dataclasses import replace

import pytest
import torch

from labs.repro import seed_everything
from labs.stamp import RENEWED
from labs.studies import Experiment, read_record, replay
from labs.studies.catalogue import STUDIES, find
from labs.studies.making import _hashes, make, revalidate, stale, store_of
from labs.studies.record import write_record
from tests.studies import small
from tests.studies.small import EXPERIMENT, PLAN


@pytest.fixture
def record(tmp_path):
    return make(EXPERIMENT, tmp_path / "store", folder=tmp_path)


def test_a_record_holds_every_run_with_its_seed_settings_and_curve(record, tmp_path):
    lines = [json.loads(line) for line in (tmp_path / "small.jsonl").read_text().splitlines()]
    head, runs = lines[0], lines[1:]
    assert head["command"] == "labs study small"
    assert head["plan"]["base"] == PLAN["base"]
    assert {"python", "torch", "device"} <= head["versions"].keys()
    assert [(run["value"], run["seed"]) for run in runs] == [
        (rate, seed) for rate in (0.1, 0.4) for seed in (0, 1, 2)
    ]
    assert [point["step"] for point in runs[0]["curve"]] == [1, 2, 3, 4, 5, 6]
    seed_everything(1)
    last = list(small.descend(0.4, 5))[-1]
    assert record.points(0.4, 1)[-1] == pytest.approx(last, rel=1e-5)
    assert record.study.metrics == ("loss", "score")
    assert record.study.table("score").loc[0.4, "mean"] == pytest.approx(1, abs=1e-3)
    assert len(record.curves()) == 2 * 3 * 6


def test_a_record_says_what_it_is(record):
    assert replace(record, seconds=2460, date="2026-11-27").label == (
        "recorded: 3 seeds, 41 min of one core, 2026-11-27"
    )
    assert "6 runs" in repr(record)


def test_a_killed_study_goes_on_and_repeats_nothing(tmp_path, monkeypatch):
    calls = []

    def counted(rate, steps):
        calls.append(rate)
        if len(calls) == 3:
            raise KeyboardInterrupt
        yield from small.descend(rate, steps)

    monkeypatch.setattr(counted, "__qualname__", "counted")
    experiment = Experiment("small", "?", counted, **PLAN)
    assert make(experiment, tmp_path / "store", folder=tmp_path) is None
    assert not (tmp_path / "small.jsonl").exists()
    assert len(make(experiment, tmp_path / "store", folder=tmp_path).study.runs) == 6
    assert len(calls) == 3 + 4


def test_the_first_steps_made_again_agree_and_leave_no_trace(record):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    again = replay(EXPERIMENT, record, 0.4, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.agrees
    assert len(again.here) == EXPERIMENT.first == 3
    assert "loss (recorded)" in again.table()
    assert "agrees" in repr(again)


@pytest.mark.parametrize(
    ("change", "worst"),
    [
        pytest.param({"loss": 0.25}, 0.0015, id="a number"),
        pytest.param({"other": 0.0}, float("inf"), id="a number more"),
        pytest.param({"loss": float("nan")}, float("inf"), id="not a number"),
    ],
)
def test_first_steps_that_differ_are_seen(record, change, worst):
    again = replay(EXPERIMENT, record, 0.1, 0)
    was = again.here[1]
    moved = {**was, **change}
    if "loss" in change and change["loss"] == change["loss"]:
        moved["loss"] = was["loss"] + worst
    other = replace(again, here=(again.here[0], moved, again.here[2]))
    assert not other.agrees
    assert other.worst == pytest.approx(worst, rel=1e-2)
    assert not replace(again, here=again.here[:2]).agrees
    assert not replace(again, here=(), recorded=()).agrees  # nothing compared is no agreement


def test_large_numbers_are_compared_relative_to_their_size(record):
    again = replay(EXPERIMENT, record, 0.1, 0)
    big = replace(again, here=({"loss": 1000.5},), recorded=({"loss": 1000.0},))
    assert big.worst == pytest.approx(0.0005)
    assert big.agrees


def test_a_changed_module_makes_a_record_stale_and_agreeing_steps_renew_it(
    record, tmp_path, monkeypatch
):
    assert stale(EXPERIMENT, record) == []
    older = replace(record, code={**record.code, "labs.repro": "0"}, revalidated="2020-01-01")
    write_record(older, EXPERIMENT, tmp_path)
    older = read_record("small", tmp_path)
    assert stale(EXPERIMENT, older) == ["labs.repro"]
    assert all(one.agrees for one in revalidate(EXPERIMENT, older, tmp_path))
    renewed = read_record("small", tmp_path)
    assert stale(EXPERIMENT, renewed) == []
    assert renewed.revalidated > "2020-01-01"
    assert renewed.date == record.date
    assert renewed.study == record.study
    # A lesson does not become stale by a renewal, because its stamp leaves out just these.
    told = [name for name in vars(record) if getattr(older, name) != getattr(renewed, name)]
    assert sorted(told) == sorted(RENEWED)

    def other(rate, steps):
        for point in small.descend(rate, steps):
            yield {**point, "loss": point["loss"] + (0.01 if rate == 0.4 else 0.0)}

    write_record(older, EXPERIMENT, tmp_path)
    changed = replace(EXPERIMENT, run=other)
    monkeypatch.setattr("labs.studies.making._hashes", lambda experiment: dict(record.code))
    replays = revalidate(changed, older, tmp_path)
    assert [one.agrees for one in replays] == [True, False]
    assert read_record("small", tmp_path).code["labs.repro"] == "0"


def test_other_settings_are_another_study(record, tmp_path):
    longer = replace(EXPERIMENT, base={**PLAN["base"], "steps": 6})
    assert stale(longer, record) == ["plan"]
    assert store_of(longer, tmp_path) != store_of(EXPERIMENT, tmp_path)
    with pytest.raises(ValueError, match="other settings, values or seeds"):
        revalidate(longer, record, tmp_path)


def test_a_failed_run_stays_in_the_record(tmp_path):
    experiment = Experiment("small", "?", small.fails, **PLAN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        record = make(experiment, tmp_path / "store", folder=tmp_path)
    assert record.study.table()["failed"].tolist() == [0, 3]
    text = (tmp_path / "small.jsonl").read_text()
    assert "RuntimeError: too fast" in text
    assert "File" not in text  # no path of a machine


def test_settings_that_json_turns_into_lists_come_back_as_they_were(tmp_path):
    record = make(
        Experiment(
            "small",
            "?",
            sides,
            {"strides": (8, 16)},
            "strides",
            ((16,), (8, 16)),
            (0, 1),
        ),
        tmp_path / "store",
        folder=tmp_path,
    )
    assert record.study.values == ((16,), (8, 16))
    assert record.study.reference == (8, 16)
    assert record.points((16,), 1) == ({"step": 1.0, "score": 16.0},)


def sides(strides):
    yield {"step": 1, "score": sum(strides)}


def test_what_is_not_there_is_said_with_near_misses(record, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"did you mean 'small'.*`labs study smal` makes it"
    ):
        read_record("smal", tmp_path)
    with pytest.raises(KeyError, match=r"no run with rate=0.3 and seed 0; it tries 0.1, 0.4"):
        record.points(0.3, 0)
    with pytest.raises(ValueError, match=r"expected a study of .*did you mean 'levels'"):
        find("level")
    with pytest.raises(ValueError, match=r"rate is one of \(0.1, 0.4\), got 0.2"):
        EXPERIMENT.settings(0.2)


@pytest.mark.parametrize("damage", ["", "{}\n", "nonsense\n"], ids=["empty", "no head", "no json"])
def test_a_damaged_record_names_its_file(damage, tmp_path):
    (tmp_path / "small.jsonl").write_text(damage)
    with pytest.raises(ValueError, match=r"small\.jsonl: expected a header and one line of JSON"):
        read_record("small", tmp_path)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        pytest.param({"run": lambda rate, steps: 1.0}, TypeError, "a generator as run", id="plain"),
        pytest.param({"base": {"rate": 0.1}}, TypeError, "steps", id="a setting is missing"),
        pytest.param({"vary": "rates"}, ValueError, "a setting of base as vary", id="typo"),
        pytest.param({"seeds": (0,)}, ValueError, "two\\s+seeds|two seeds", id="one seed"),
        pytest.param({"values": (0.1,)}, ValueError, "two values", id="one value"),
        pytest.param({"first": 0}, ValueError, "first >= 1", id="nothing to replay"),
        pytest.param({"tolerance": 0.0}, ValueError, "tolerance > 0", id="no tolerance"),
    ],
)
def test_what_is_no_study_is_refused_before_an_hour_is_spent(wrong, error, message):
    with pytest.raises(error, match=message):
        replace(EXPERIMENT, **wrong)


def test_the_hashes_cover_what_a_run_reaches():
    code = _hashes(find("levels"))
    assert {"plan", "labs.models.yolo_v3", "labs.criteria.yolo_v3", "labs.train"} <= code.keys()
    assert "labs.models.yolo_v8" not in code


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_fresh_record(name):
    experiment, record = find(name), read_record(name)
    old = stale(experiment, record)
    assert not old, f"{name} is stale ({', '.join(old)}): labs study --revalidate {name}"
    assert [run.seed for run in record.study.runs] == list(experiment.seeds) * len(
        experiment.values
    )
