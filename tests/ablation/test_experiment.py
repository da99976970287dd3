import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from labs.ablation import NotAScoreError, ablate
from tests.ablation.runs import BASE, draws, fails_at, mobilenet_head, noisy


def test_everything_but_the_varied_setting_stays_and_seeds_repeat():
    study = ablate(noisy, BASE, "shift", [0.0, 1.0], seeds=[5, 6, 7])
    frame = study.frame()
    by_seed = frame.pivot(index="seed", columns="shift", values="score")
    np.testing.assert_allclose(by_seed[1.0] - by_seed[0.0], 1.0, atol=1e-6)
    torch.manual_seed(5)
    assert by_seed.loc[5, 0.0] == 0.1 * torch.randn(1).item()
    assert study.metrics == ("score", "cost")
    assert list(frame.columns) == ["shift", "seed", "score", "cost"]
    assert repr(study) == "Study(vary='shift', 2 values, 6 runs)"


def test_the_random_state_is_as_it_was():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    ablate(draws, {"library": 0}, "library", [0, 1])
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_a_failed_run_is_a_row_and_the_others_go_on():
    with pytest.warns(RuntimeWarning, match="2 of 6 runs failed, first part=2 with seed 0"):
        study = ablate(fails_at, {"limit": 2, "part": 0}, "part", [0, 1, 2], seeds=range(2))
    assert study.frame()["error"].tolist() == [""] * 4 + ["ValueError: too large"] * 2
    assert "with a second line" in study.runs[-1].traceback
    assert study.table()["failed"].tolist() == [0, 0, 2]


def test_a_study_without_any_finished_run_says_so():
    with pytest.warns(RuntimeWarning, match="4 of 4 runs failed"):
        study = ablate(fails_at, {"limit": -1, "part": 0}, "part", [0, 1], seeds=range(2))
    assert study.metrics == ()
    assert "no run finished" in study.to_markdown()
    with pytest.raises(KeyError, match=r"no run finished; 4 of 4.*too large"):
        study.table()


def test_ctrl_c_ends_the_study_and_keeps_what_finished(tmp_path):
    calls = []

    def interrupted(part):
        calls.append(part)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return float(part)

    study = ablate(interrupted, {"part": 0}, "part", range(3), range(2), store=tmp_path)
    assert study.interrupted
    assert study.frame()["part"].tolist() == [0, 0, 1]
    assert study.table()["n"].tolist() == [2, 1, 0]
    assert (
        len(ablate(interrupted, {"part": 0}, "part", range(3), range(2), store=tmp_path).runs) == 6
    )
    assert len(calls) == 4 + 3


def test_ctrl_c_before_anything_finished_is_passed_on():
    def interrupted(part):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(interrupted, {"part": 0}, "part", range(2))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        pytest.param(None, "returned NoneType as 'score'.*missing `return`", id="nothing"),
        pytest.param("0.9", "returned str as 'score'", id="a string"),
        pytest.param(torch.rand(2, 3), r"Tensor of shape \(2, 3\).*reduce it", id="a tensor"),
        pytest.param({}, "an empty dict, or nothing yielded", id="empty"),
        pytest.param({"a": [1.0]}, "returned list as 'a'", id="a list inside"),
        pytest.param({"seed": 1.0}, "metric 'seed'.*columns already", id="a column's name"),
        pytest.param({"part": 1.0}, "metric 'part'", id="the setting's name"),
        pytest.param({3: 1.0}, "metric 3; expected a string", id="no name"),
    ],
)
def test_what_is_no_score_ends_the_study_at_once(result, message):
    calls = []
    with pytest.raises(NotAScoreError, match=message):
        ablate(lambda part: calls.append(part) or result, {"part": 0}, "part", [0, 1])
    assert len(calls) == 1


@pytest.mark.parametrize(
    "score", [1, True, np.float32(1), torch.ones(()), torch.ones(1, 1), np.ones(1), pd.Series([1])]
)
def test_one_number_in_any_wrapping_is_a_score(score):
    study = ablate(lambda part: score, {"part": 0}, "part", [0, 1])
    assert study.frame()["score"].tolist() == [1.0] * 6


@pytest.mark.parametrize(
    ("vary", "values", "seeds", "error", "message"),
    [
        pytest.param("shfit", [0, 1], range(2), KeyError, "shift, scale; did you mean", id="typo"),
        pytest.param(["shift", "scale"], [0, 1], range(2), TypeError, "one setting", id="two"),
        pytest.param("shift", [0], range(2), ValueError, "two or more values, got 1", id="one"),
        pytest.param("shift", [0, 1], [3], ValueError, "two or more seeds, got 1", id="one seed"),
        pytest.param("shift", [0, 1, 0], range(2), ValueError, "0 is given twice", id="repeated"),
        pytest.param("shift", [0, 1], [3, 3], ValueError, "3 is given twice in seeds", id="luck"),
        pytest.param("shift", "ab", range(2), TypeError, "a list or a range as values", id="word"),
        pytest.param("shift", [0, 1], 3, TypeError, "a list or a range as seeds", id="a count"),
        pytest.param("shift", [0, 1], [0, -1], ValueError, r"in \[0, 2\*\*32\)", id="negative"),
    ],
)
def test_what_is_no_ablation_is_refused(vary, values, seeds, error, message):
    with pytest.raises(error, match=message):
        ablate(noisy, BASE, vary, values, seeds)


def test_settings_that_the_function_does_not_take_are_refused_before_the_first_run():
    with pytest.raises(TypeError, match=r"noisy\(shift, scale\) cannot take base: got an unexp"):
        ablate(noisy, {**BASE, "epochs": 3}, "shift", [0, 1])


def test_a_torchvision_model_can_be_ablated():
    study = ablate(mobilenet_head, {"dropout": 0.2}, "dropout", [0.2, 0.0], seeds=range(2))
    assert study.table("loss")["mean"].between(0.1, 10).all()
    assert study.table("parameters")["std"].tolist() == [0.0, 0.0]
    again = ablate(mobilenet_head, {"dropout": 0.2}, "dropout", [0.2, 0.0], seeds=range(2))
    pd.testing.assert_frame_equal(study.frame(), again.frame())


def test_importing_costs_neither_pytorch_nor_scipy_nor_matplotlib():
    heavy = ["torch", "scipy", "matplotlib", "distributed", "filelock"]
    code = f"import sys, labs.ablation; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_generator_is_recorded_point_by_point_and_its_last_one_is_the_score(tmp_path):
    def learn(rate):
        for step in (1, 5):
            yield {"step": step, "loss": rate / step, "noise": torch.rand(1)}
        yield {"step": 9, "loss": 0.5, "AP": 10 * rate}

    study = ablate(learn, {"rate": 1.0}, "rate", [1.0, 2.0], seeds=[4, 5])
    assert study.metrics == ("loss", "AP")
    assert study.table("AP")["mean"].tolist() == [10.0, 20.0]
    curves = study.curves()
    assert curves["step"].tolist() == [1, 5, 9] * 4
    assert curves["loss"][:3].tolist() == [1.0, 0.2, 0.5]
    assert curves["rate"].tolist() == [1.0] * 6 + [2.0] * 6
    # Both arms start from their seed, so they draw the same noise.
    torch.manual_seed(4)
    assert curves["noise"][0] == curves["noise"][6] == torch.rand(1).item()


def score_twice(part):
    yield {"step": 0, "score": 0.0}
    yield {"step": 1, "score": float(part)}


def test_a_stored_curve_is_read_back(tmp_path):
    first = ablate(score_twice, {"part": 0}, "part", [0, 1], range(2), store=tmp_path)
    again = ablate(score_twice, {"part": 0}, "part", [0, 1], range(2), store=tmp_path)
    assert again.runs == first.runs
    assert [len(run.curve) for run in again.runs] == [2] * 4


def test_a_function_that_yields_nothing_gave_no_score():
    def silent(part):
        yield from ()

    with pytest.raises(NotAScoreError, match="nothing yielded"):
        ablate(silent, {"part": 0}, "part", [0, 1])
