"""A checker that is used wrongly must answer in a sentence: expected and got, and no traceback."""

import copy
import re
from functools import partial

import pytest
import torch
from torch import nn

import labs.hunts.detection as detection
import labs.hunts.foundations as foundations
from labs.hunts import _WIDTH, examine
from labs.hunts.answer import (
    close,
    described,
    loss_of,
    mapping_of,
    module_of,
    number_of,
    pair_of,
    refusal,
    tensor_of,
)
from labs.hunts.fix import Fix
from tests.hunts.refusals import marks

# What Python says by itself when a value of the wrong kind is used.
RAW = re.compile(
    r"has no attribute|not subscriptable|not callable|not iterable|cannot unpack|unsupported"
    r"|missing \d+ required|takes \d+ positional|Tensor-likes|Traceback|object is not|must be real"
)
MAKERS = [
    foundations.check_hidden_layers,
    foundations.check_skip_connection,
    detection.check_moving_average,
]
OTHERS = [getattr(detection, name) for name in detection.__all__]
OTHERS += [foundations.check_delivery, foundations.check_checkpoint]
OTHERS += [foundations.check_shrink_photo]
OTHERS += [foundations.check_class_map]
OTHERS = [check for check in OTHERS if check not in MAKERS]


def engineering():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("labs.hunts.engineering")


def checkers(makers):
    stage = engineering()
    made = [stage.check_any_size, stage.check_explainer]
    both = [stage.check_regression_loss]
    others = [getattr(stage, name) for name in stage.__all__]
    return MAKERS + made if makers else OTHERS + [c for c in others if c not in made + both]


def lines(verdict):
    assert not verdict
    shown = repr(verdict).splitlines()
    assert all(len(line) <= _WIDTH for line in shown)
    return " ".join(probe.seen for probe in verdict.probes)


@pytest.mark.parametrize("answer", [None, "text", 3.5, torch.zeros(2, 2), (1, 2, 3)])
def test_any_answer_of_a_function_is_told_in_a_sentence(answer):
    for check in checkers(makers=False):
        said = lines(check(lambda *_: answer))
        assert not RAW.search(said), (check.__name__, said)


def test_any_thing_that_a_class_makes_is_told_in_a_sentence():
    class Silent(nn.Module):
        def forward(self, *_):
            return None

    for check in checkers(makers=True):
        for make in (lambda *_: None, lambda *_: "text", lambda *_: Silent()):
            said = lines(check(make))
            assert not RAW.search(said), (check.__name__, said)


@pytest.mark.parametrize("candidate", [None, 3, "text", nn.Linear(2, 2), torch.zeros(3)])
def test_an_instance_instead_of_the_class(candidate):
    for check in checkers(makers=True):
        verdict = check(candidate)
        assert not RAW.search(lines(verdict))
        assert len(repr(verdict).splitlines()) <= 3  # said once, not once for each probe
        assert "expected" in repr(verdict)
    if isinstance(candidate, nn.Module):
        assert "pass Linear, not Linear(...)" in " ".join(repr(verdict).split())


def test_a_class_instead_of_a_function():
    for check in checkers(makers=False):
        said = lines(check(nn.ReLU))
        assert "expected a function, got the class ReLU" in said
        assert "expected a function, got the number 3" in lines(check(3))


def both_parts(check):
    right = nn.Sequential(nn.Flatten(), nn.Linear(784 if "digit" in check.__name__ else 196, 10))

    def criterion(net, batch):
        return net(batch[0]).mean()

    return right, criterion


def test_a_network_and_a_loss():
    for check in (foundations.check_digit_loss, engineering().check_regression_loss):
        net, loss = both_parts(check)
        made = partial(copy.deepcopy, net)
        assert "pass Sequential, not Sequential(...)" in lines(check(net, loss))
        assert "expected a function, got None" in lines(check(made, None))
        for answer in (None, "text", 2.0, torch.zeros(3), torch.tensor(1.0)):
            said = lines(check(made, lambda *_, value=answer: value))
            assert not RAW.search(said), said
        assert "got None: is there a return?" in lines(check(made, lambda *_: None))


def test_an_exception_inside_says_what_and_where():
    def fix(*_):
        raise ValueError("the third one is odd")

    for check in checkers(makers=False) + checkers(makers=True):
        said = lines(check(fix))
        assert "expected an answer, got ValueError: the third one is odd (from line" in said
        assert "of fix)" in said


def test_placeholders_are_told_in_a_sentence():
    """Zeros left where the answer belongs."""
    for check, zeros in (
        (detection.check_mish, torch.zeros_like),
        (detection.check_class_ap, lambda *_: 0),
        (detection.check_anchor_order, lambda anchors, _: torch.zeros_like(anchors)),
        (detection.check_cell_targets, lambda b, s, h, w: torch.zeros(5, h, w)),
    ):
        assert not RAW.search(lines(check(zeros)))


# --------------------------------------------------------------------------- the sentences


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (
            lambda: tensor_of(None, (2, 3)),
            "the output of shape (2, 3), got None: is there a return?",
        ),
        (lambda: tensor_of(torch.zeros(2), (2, 3)), "got a tensor of shape (2,)"),
        (lambda: number_of("3", "the AP"), "the AP as one number, got a value of type str"),
        (lambda: number_of(torch.zeros(2), "the AP"), "got a tensor of shape (2,)"),
        (lambda: loss_of(2.0), "a tensor of one number, got the number 2.0"),
        (lambda: loss_of(torch.zeros(2)), "a tensor of one number, got a tensor of shape (2,)"),
        (lambda: loss_of(torch.zeros(())), "no gradient comes back from the loss"),
        (lambda: pair_of((1,), "two things"), "expected two things, got a tuple of 1"),
        (lambda: mapping_of([], "the report"), "the report as a dict, got a list of 0"),
        (
            lambda: module_of(nn.ReLU(), nn.Conv2d, "it"),
            "it as nn.Conv2d, got a value of type ReLU",
        ),
    ],
)
def test_each_sentence_says_expected_and_got(ask, sentence):
    with pytest.raises(AssertionError) as error:
        ask()
    assert sentence in str(error.value)


def test_what_is_right_is_handed_on():
    x = torch.ones(2, 3, requires_grad=True)
    assert tensor_of(x, [2, 3]) is x
    assert number_of(torch.ones(1, 1), "it") == number_of(1, "it") == 1.0
    assert loss_of(x.sum()).item() == 6
    assert pair_of([1, 2], "") == (1, 2)
    assert mapping_of({1: 2}, "") == {1: 2}
    assert described(True) == "the number True"


def test_close_puts_the_number_first_and_refuses_nan():
    expected = torch.tensor([1.0, 2.0, 4.0, 8.0])
    close(expected + 1e-6, expected, "the output")
    with pytest.raises(AssertionError, match=r"^off by up to 0\.5 in 25% of the output$"):
        close(expected + torch.tensor([0.5, 0, 0, 0]), expected, "the output")
    with pytest.raises(AssertionError, match=r"^off by up to inf in 100% of the output$"):
        close(expected * torch.nan, expected, "the output")
    with pytest.raises(AssertionError):
        close(expected + 3e-5, expected, "it", rtol=0)


def test_refusal():
    assert refusal(nn.Linear, "class") == refusal(lambda: 0, "class") == ""
    assert refusal(nn.ReLU(), "function") == ""  # a module is a function of tensors
    assert refusal(None, "function") == "expected a function, got None: is there a return?"


def test_a_verdict_stays_short_and_wraps():
    def long(_):
        raise AssertionError("a word " * 100)

    verdict = examine("hunt", lambda: 0, {"first question": long, "second": lambda _: "yes"})
    shown = repr(verdict).splitlines()
    assert max(map(len, shown)) <= _WIDTH
    assert [line[:3] for line in shown[1:]] == ["  ✗", "   ", "   ", "  ✓"]
    assert marks(verdict) == "✗✓"


def test_one_answer_for_all_is_shown_once():
    verdict = examine("hunt", None, {"a": str, "b": str, "c": str})
    assert repr(verdict) == (
        "hunt: not solved (0/3 probes)\n  ✗ every probe: expected a function, got None: is there a "
        "return?"
    )
    assert len(verdict.table()) == 3


def test_leaving_the_program_is_a_wrong_fix_and_ctrl_c_is_not():
    def leave(_):
        raise SystemExit(2)

    def stop(_):
        raise KeyboardInterrupt

    (probe,) = examine("hunt", lambda: 0, {"a": leave}).probes
    assert "expected an answer, got SystemExit: 2" in probe.seen
    with pytest.raises(KeyboardInterrupt):
        examine("hunt", lambda: 0, {"a": stop})


def test_both_parts_of_a_fix_are_looked_at():
    assert "a class" in examine("hunt", Fix(3, lambda: 0), {"a": str}).probes[0].seen
    assert "a function" in examine("hunt", Fix(nn.Linear, 3), {"a": str}).probes[0].seen
