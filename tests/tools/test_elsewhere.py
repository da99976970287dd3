"""Other machines and other seeds must be real, off by default, and named where claims fail."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from labs.repro import seed_everything
from tools import elsewhere
from tools.elsewhere import CONDITIONS, named, recorded_cells
from tools.kept import Result, Store
from tools.lesson import Lesson, find
from tools.trial import Fate


def numbers(seed):
    """Return what every source of chance draws after seeding."""
    generator = seed_everything(seed)
    drawn = torch.rand(1).item(), torch.rand(1, generator=generator).item()
    return random.random(), np.random.rand(), *drawn  # noqa: NPY002


@pytest.fixture(autouse=True)
def as_written(monkeypatch):
    monkeypatch.delenv("LABS_SEED_SHIFT", raising=False)


# ------------------------------------------------------------------------------ shifted seeds


def test_the_shift_is_added_to_every_seed_and_is_off_when_unset(monkeypatch):
    plain, other = numbers(3), numbers(1003)
    assert not set(plain) & set(other)
    torch.manual_seed(3)
    assert plain[2] == torch.rand(1).item()
    monkeypatch.setenv("LABS_SEED_SHIFT", "1000")
    assert numbers(3) == other
    monkeypatch.setenv("LABS_SEED_SHIFT", " ")
    assert numbers(3) == plain


def test_a_shifted_seed_stays_in_the_range_of_numpy(monkeypatch):
    expected = numbers(1)
    monkeypatch.setenv("LABS_SEED_SHIFT", "2")
    assert numbers(2**32 - 1) == expected


@pytest.mark.parametrize("given", ["-1", "1.5", "many", "²"])
def test_a_shift_that_is_no_number_is_refused(monkeypatch, given):
    monkeypatch.setenv("LABS_SEED_SHIFT", given)
    with pytest.raises(ValueError, match=r"LABS_SEED_SHIFT: expected a whole number .* unset it"):
        seed_everything(0)


def test_a_wrong_seed_is_refused_before_it_is_shifted(monkeypatch):
    monkeypatch.setenv("LABS_SEED_SHIFT", "1000")
    with pytest.raises(ValueError, match="got -1"):
        seed_everything(-1)


# --------------------------------------------------------------------------------- conditions


def test_the_conditions_are_those_of_other_processors_threads_and_seeds():
    assert {one.name: dict(one.environment) for one in CONDITIONS} == {
        "avx2": {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_CBWR": "AVX2",
        },
        "two threads": {
            "OMP_NUM_THREADS": "2",
            "MKL_NUM_THREADS": "2",
            "OPENBLAS_NUM_THREADS": "2",
        },
        "seeds + 1000": {"LABS_SEED_SHIFT": "1000"},
        "seeds + 2000": {"LABS_SEED_SHIFT": "2000"},
    }


def test_an_unknown_condition_is_refused_with_a_near_miss(capsys):
    with pytest.raises(LookupError, match=r"got 'avx'; did you mean 'avx2'\?"):
        named("avx")
    assert elsewhere.main(["two thread"]) == 2
    assert "did you mean 'two threads'?" in capsys.readouterr().err


def test_an_unknown_lesson_is_refused(capsys):
    assert elsewhere.main(["avx2", "--lesson", "no such lesson"]) == 2
    assert "expected one lesson for LESSON=no such lesson, got 0" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- the report


def test_cells_that_use_a_record_are_found_through_the_names_that_hold_it():
    code = [
        "import torch\nx = torch.ones(1)",
        "from labs.studies import read_record as read, Record",
        "%matplotlib inline\nrecord = read('levels')",
        "table = record.curves()\nbest = max(table)",
        "claim('live', x > 0)",
        "claim('recorded', best > x)",
        "def judge(y):\n    return y > best",
        "claim('through a function', judge(x))",
        "import labs.studies\nagain = labs.studies.replay(1)",
        "claim('replayed', again.agrees)",
    ]
    cells = [new_markdown_cell("read_record"), *map(new_code_cell, code)]
    assert recorded_cells(new_notebook(cells=cells)) == {2, 3, 5, 6, 7, 8, 9}


def test_the_failing_claims_are_listed_with_lesson_condition_and_mark(monkeypatch):
    monkeypatch.setattr(elsewhere, "recorded_cells", lambda notebook: {1})
    name = find("residual")[0].name
    fates = (
        Fate(0, "a", "green"),
        Fate(0, "b", "red"),
        Fate(1, "c", "red"),
        Fate(2, "d", "error", "KeyError: 'x'"),
    )
    results = [Result("avx2", name, "key", fates), Result("two threads", name, "key", fates[:1])]
    assert elsewhere.report(results, 2).splitlines() == [
        f"{name} | avx2 | red | b",
        f"{name} | avx2 | red [recorded] | c",
        f"{name} | avx2 | error | d: KeyError: 'x'",
        "3 of 5 claims fail, in 2 runs",
    ]
    assert "1 of 3 runs are not known yet" in elsewhere.report(results, 3)


@pytest.mark.parametrize(("fate", "status"), [("green", 0), ("red", 1), ("error", 1)])
def test_the_exit_status_says_whether_a_claim_fails(tmp_path, capsys, monkeypatch, fate, status):
    monkeypatch.setattr("tools.kept.run", None)  # nothing is run
    (lesson,), condition = find("residual"), named("avx2")
    known = Result("avx2", lesson.name, condition.key(lesson), (Fate(0, "a", fate),))
    Store(tmp_path / "kept").add(known)
    arguments = ["avx2", "--lesson", "residual", "--table", "--kept", str(tmp_path / "kept")]
    assert elsewhere.main(arguments) == status
    assert f"{status} of 1 claims fail, in 1 runs" in capsys.readouterr().out


def test_what_was_known_of_another_condition_is_not_taken_for_this_one(tmp_path):
    (lesson,), condition = find("residual"), named("seeds + 1000")
    store = Store(tmp_path / "kept")
    store.add(Result(condition.name, lesson.name, condition.key(lesson), ()))
    assert store.find(condition, lesson) is not None
    moved = replace(condition, environment={"LABS_SEED_SHIFT": "1"})
    assert store.find(moved, lesson) is None
    assert store.find(condition, Lesson(find("three_scales")[0].name)) is None
