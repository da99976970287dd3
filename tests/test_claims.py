import numpy as np
import pytest
import torch

from labs.claims import ClaimFailedError, claim


def test_a_true_claim_prints_its_text_and_nothing_measured(capsys):
    claim("at least 98 % are right", 0.9871 > 0.98, measured=0.9871)
    assert capsys.readouterr().out == "✓ at least 98 % are right\n"


@pytest.mark.parametrize(
    "condition", [True, np.bool_(True), torch.tensor(True), torch.tensor([True]), np.array([True])]
)
def test_anything_with_one_truth_value_will_do(condition, capsys):
    claim("holds", condition)
    assert capsys.readouterr().out


def test_a_false_claim_raises_with_what_was_measured(capsys):
    with pytest.raises(ClaimFailedError, match=r"at least 98 %.*measured: 0\.91"):
        claim("at least 98 % are right", torch.tensor(0.91) > 0.98, measured=0.91)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("condition", [[False], "False", torch.tensor([True, True]), {}, None])
def test_a_condition_without_one_truth_value_is_refused(condition):
    with pytest.raises(TypeError, match=r"expected a bool.*\.all\(\)"):
        claim("holds", condition)


@pytest.mark.parametrize("text", ["", "  ", "two\nlines"])
def test_a_claim_is_one_line(text):
    with pytest.raises(ValueError, match="one line"):
        claim(text, True)


def test_a_measurement_that_cannot_be_written_hides_no_false_claim():
    class Unwritable:
        def __repr__(self):
            raise RuntimeError("no words")

    with pytest.raises(ClaimFailedError, match="one is two; measured: a Unwritable whose repr rai"):
        claim("one is two", False, measured=Unwritable())


def test_a_reader_who_changes_numbers_sees_which_findings_fall(monkeypatch, capsys):
    monkeypatch.setenv("LABS_CLAIMS", "warn")
    claim("at least 98 % are right", 0.91 > 0.98, measured=0.91)
    assert capsys.readouterr().out == (
        "✗ at least 98 % are right: no longer holds here; measured: 0.91\n"
    )
    claim("holds", True)
    assert capsys.readouterr().out == "✓ holds\n"
    with pytest.raises(TypeError, match="expected a bool"):
        claim("holds", [False])


@pytest.mark.parametrize("setting", ["", "raise", "1", "WARN"])
def test_only_that_word_lets_a_false_claim_pass(setting, monkeypatch):
    monkeypatch.setenv("LABS_CLAIMS", setting)
    with pytest.raises(ClaimFailedError):
        claim("holds", False)
