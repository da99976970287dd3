"""Records must not meet in a merge nor outlive their lesson, and must show what is too slow."""

import json

import pytest
import torch

from tools import measured, reference

ONE, TWO = "lessons/01_start/01_count", "lessons/01_start/02_v1.5_again"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    return tmp_path / "measured"


def put(name, record):
    path = measured.record_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(measured.text(record))


def cpu(seconds):
    return {"cpu": {"cpu_seconds": seconds}}


def test_each_lesson_has_a_file_of_its_own(folder):
    put(TWO, cpu(2.0))
    before = measured.record_file(TWO).read_bytes()
    put(ONE, cpu(1.0))
    assert measured.record_file(ONE) == folder / "01_start/01_count.json"
    assert measured.record_file(TWO) == folder / "01_start/02_v1.5_again.json"
    assert measured.record_file(TWO).read_bytes() == before
    assert measured.read_all() == {ONE: cpu(1.0), TWO: cpu(2.0)}
    assert list(measured.read_all()) == [ONE, TWO]


def test_a_lesson_without_a_record_was_never_measured(folder):
    assert measured.read(ONE) == {}
    assert measured.read_all() == {}
    assert measured.orphans([ONE]) == []


def test_the_order_of_what_was_measured_changes_no_byte():
    one, other = {"cpu": {"a": 1, "b": 2}, "gpu": {}}, {"gpu": {}, "cpu": {"b": 2, "a": 1}}
    assert measured.text(one) == measured.text(other)
    assert json.loads(measured.text(one)) == one


@pytest.mark.parametrize(
    "content",
    [
        pytest.param('<<<<<<< main\n{"cpu": {}}\n=======\n', id="marks of a merge"),
        pytest.param("", id="empty"),
        pytest.param("[1, 2]", id="a list"),
        pytest.param('{"cpu": 41.6}', id="a number for a run"),
    ],
)
def test_a_damaged_record_is_named_with_the_way_to_mend_it(folder, content):
    put(ONE, {})
    measured.record_file(ONE).write_text(content)
    message = rf"01_count\.json: expected JSON .*python -m tools.execute {ONE} --force"
    with pytest.raises(ValueError, match=message):
        measured.read(ONE)


def test_files_that_belong_to_no_lesson_are_found(folder):
    put(ONE, cpu(1.0))
    put(TWO, cpu(2.0))
    (folder / "01_start/01_count.json.part").touch()
    (folder / "old").mkdir()
    (folder / "old/notes.txt").touch()
    assert measured.orphans([ONE]) == [
        folder / "01_start/01_count.json.part",
        measured.record_file(TWO),
        folder / "old/notes.txt",
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([90.0, 40.0], [], id="at the edge"),
        pytest.param([90.1, 1.0], ["l0: expected at most 90 s of one core, got 90.1"], id="one"),
        pytest.param(
            [65.0, 65.2], ["expected at most 65 s a lesson on average, got 65.1"], id="average"
        ),
        pytest.param([65.0] * 46, [], id="the whole book"),
        pytest.param(
            [64.0] * 47,
            ["expected all lessons in 25 minutes, two at a time, got 25.1"],
            id="too many",
        ),
    ],
)
def test_what_takes_too_long_is_said(seconds, expected):
    records = {f"l{number}": cpu(took) for number, took in enumerate(seconds)}
    assert measured.over_budget(records) == expected


def test_seconds_of_a_slow_machine_count_as_those_of_the_budgets():
    twice = {"cpu_seconds": 170.0, "reference_seconds": 2 * reference.SECONDS}
    assert measured.comparable(twice) == 85.0
    assert measured.over_budget({ONE: {"cpu": twice}}) == [
        "expected at most 65 s a lesson on average, got 85.0"
    ]
    fast = {"cpu_seconds": 60.0, "reference_seconds": reference.SECONDS / 2}
    assert measured.over_budget({ONE: {"cpu": fast}})[0].endswith("of one core, got 120")
    assert measured.comparable({"cpu_seconds": 60.0}) == 60.0


def test_the_reference_takes_a_while_and_leaves_no_trace():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert 0.05 < reference.measure(tries=1) < 60
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_gpu_has_no_budget_here():
    assert measured.over_budget({ONE: cpu(1.0) | {"gpu": {"cpu_seconds": 400.0}}}) == []
    assert measured.over_budget({ONE: {"gpu": {"cpu_seconds": 400.0}}}) == []
