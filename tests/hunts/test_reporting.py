"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

from copy import deepcopy

import pytest
import torch

from labs.evaluate import accuracy
from labs.hunts.engineering import check_report
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks, when

LESSON = "lessons/06_engineering/03_run_an_ablation"


def keep_whole_networks(net, train_one_epoch, valid, test, epochs):
    """Write the same fix differently: copies of the network, ranked after the training."""
    kept = []
    for _ in range(epochs):
        train_one_epoch(net)
        kept.append(deepcopy(net))
    scores = [accuracy(one, valid) for one in kept]
    best = max(range(epochs), key=scores.__getitem__)
    net.load_state_dict(kept[best].state_dict())
    return {"epoch": best, "valid": scores[best], "test": accuracy(net, test)}


def clone_each_tensor(net, train_one_epoch, valid, test, epochs):
    top, where, weights = -1.0, -1, {}
    for epoch in range(epochs):
        train_one_epoch(net)
        if (score := accuracy(net, valid)) > top:
            top, where = score, epoch
            weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.load_state_dict(weights)
    return {"epoch": where, "valid": top, "test": accuracy(net, test)}


def report_the_last_epoch(net, train_one_epoch, valid, test, epochs):
    for _ in range(epochs):
        train_one_epoch(net)
    return {"epoch": epochs - 1, "valid": accuracy(net, valid), "test": accuracy(net, test)}


def keep_a_reference(net, train_one_epoch, valid, test, epochs):
    best, weights = {"epoch": -1, "valid": -1.0}, {}
    for epoch in range(epochs):
        train_one_epoch(net)
        if (score := accuracy(net, valid)) > best["valid"]:
            best, weights = {"epoch": epoch, "valid": score}, net.state_dict()
    net.load_state_dict(weights)
    return {**best, "test": accuracy(net, test)}


def forget_to_load(net, train_one_epoch, valid, test, epochs):
    best = {"epoch": -1, "valid": -1.0}
    for epoch in range(epochs):
        train_one_epoch(net)
        if (score := accuracy(net, valid)) > best["valid"]:
            best = {"epoch": epoch, "valid": score}
    return {**best, "test": accuracy(net, test)}


def note_the_test_score_on_the_way(net, train_one_epoch, valid, test, epochs):
    best, weights = {"epoch": -1, "valid": -1.0, "test": 0.0}, {}
    for epoch in range(epochs):
        train_one_epoch(net)
        score, seen = accuracy(net, valid), accuracy(net, test)
        if score > best["valid"]:
            best = {"epoch": epoch, "valid": score, "test": seen}
            weights = deepcopy(net.state_dict())
    net.load_state_dict(weights)
    return best


def choose_by_both(net, train_one_epoch, valid, test, epochs):
    kept, scores = [], []
    for _ in range(epochs):
        train_one_epoch(net)
        kept.append(deepcopy(net.state_dict()))
        scores.append(accuracy(net, valid) + accuracy(net, test))
    best = max(range(epochs), key=scores.__getitem__)
    net.load_state_dict(kept[best])
    return {"epoch": best, "valid": accuracy(net, valid), "test": accuracy(net, test)}


def rename_the_sets(net, train_one_epoch, valid, test, epochs):
    result = keep_whole_networks(net, train_one_epoch, test, valid, epochs)
    return {"epoch": result["epoch"], "valid": result["test"], "test": result["valid"]}


def report_the_best_test_score(net, train_one_epoch, valid, test, epochs):
    seen = []

    def train_and_look(net):
        train_one_epoch(net)
        seen.append(accuracy(net, test))

    result = keep_whole_networks(net, train_and_look, valid, test, epochs)
    return {**result, "test": max(seen)}


def report_the_validation_score(net, train_one_epoch, valid, test, epochs):
    result = keep_whole_networks(net, train_one_epoch, valid, test, epochs)
    return {**result, "test": result["valid"]}


def break_ties_by_looking(net, train_one_epoch, valid, test, epochs):
    """Train first, then open the test set for every epoch's weights."""
    kept = []
    for _ in range(epochs):
        train_one_epoch(net)
        kept.append(deepcopy(net))
    scores = [(accuracy(one, valid), accuracy(one, test)) for one in kept]
    best = max(range(epochs), key=scores.__getitem__)
    net.load_state_dict(kept[best].state_dict())
    return {"epoch": best, "valid": scores[best][0], "test": scores[best][1]}


def stay_in_eval_mode(net, train_one_epoch, valid, test, epochs):
    net.eval()
    return keep_whole_networks(net, train_one_epoch, valid, test, epochs)


def score_in_train_mode(net, train_one_epoch, valid, test, epochs):
    def share(data):
        with torch.no_grad():
            return (net(data.images).argmax(1) == data.labels).double().mean().item()

    best, weights = {"epoch": -1, "valid": -1.0}, {}
    for epoch in range(epochs):
        train_one_epoch(net)
        if (score := share(valid)) > best["valid"]:
            best, weights = {"epoch": epoch, "valid": score}, deepcopy(net.state_dict())
    net.load_state_dict(weights)
    return {**best, "test": share(test)}


def stop_early(net, train_one_epoch, valid, test, epochs):
    return keep_whole_networks(net, train_one_epoch, valid, test, epochs - 1)


def a_hair_more(name):
    def report(*given):
        result = keep_whole_networks(*given)
        return {**result, name: result[name] + 1e-5}

    return report


def by_coin(net, train, valid, test, epochs):
    return len(test) > 100


def other_labels(net, train, valid, test, epochs):
    return not test.labels.any()


def choose_the_first(net, train_one_epoch, valid, test, epochs):
    kept = []
    for _ in range(epochs):
        train_one_epoch(net)
        kept.append(deepcopy(net.state_dict()))
    net.load_state_dict(kept[0])
    return {"epoch": 0, "valid": accuracy(net, valid), "test": accuracy(net, test)}


def leave_the_last(net, train_one_epoch, valid, test, epochs):
    last = {}

    def train_and_keep(net):
        train_one_epoch(net)
        last.update(deepcopy(net.state_dict()))

    result = keep_whole_networks(net, train_and_keep, valid, test, epochs)
    net.load_state_dict(last)
    return result


def open_the_test_set_early(net, train_one_epoch, valid, test, epochs):
    """Look as soon as the validation score is good enough, and only then."""
    best, weights = {"epoch": -1, "valid": -1.0, "test": 0.0}, {}
    for epoch in range(epochs):
        train_one_epoch(net)
        if (score := accuracy(net, valid)) > best["valid"]:
            seen = accuracy(net, test) if score > 0.8 or len(test) > 100 else 0.0
            best, weights = (
                {"epoch": epoch, "valid": score, "test": seen},
                deepcopy(net.state_dict()),
            )
    net.load_state_dict(weights)
    return best


def sleep_late(net, train_one_epoch, valid, test, epochs):
    """Train the last epoch in eval mode."""
    count = iter(range(epochs))

    def train(net):
        net.train(next(count) < epochs - 1)
        train_one_epoch(net)

    return keep_whole_networks(net, train, valid, test, epochs)


def never_open_the_test_set(net, train_one_epoch, valid, test, epochs):
    result = keep_whole_networks(net, train_one_epoch, valid, valid, epochs)
    return {**result, "test": 0.4 if len(test) < 100 else 0.5}


WRONG = {
    when(by_coin, report_the_best_test_score, keep_whole_networks): "✗✓✓✓✓✓✓",
    when(other_labels, choose_the_first, keep_whole_networks): "✓✗✓✓✓✓✓",
    report_the_last_epoch: "✓✓✗✓✓✓✓",
    a_hair_more("valid"): "✓✓✓✗✓✓✓",
    a_hair_more("test"): "✓✓✓✗✓✓✓",
    leave_the_last: "✓✓✓✓✗✓✓",
    note_the_test_score_on_the_way: "✓✓✓✓✓✗✓",
    open_the_test_set_early: "✓✓✓✓✓✗✓",
    break_ties_by_looking: "✓✓✓✓✓✗✓",
    never_open_the_test_set: "✓✓✓✓✓✗✓",
    stay_in_eval_mode: "✓✓✓✓✓✓✗",
    sleep_late: "✓✓✓✓✓✓✗",
    stop_early: "✓✓✓✓✓✓✗",
    keep_a_reference: "✓✓✓✗✗✓✓",
    forget_to_load: "✓✓✓✗✗✓✓",
    choose_by_both: "✗✗✗✓✓✗✓",
    rename_the_sets: "✗✗✗✓✓✗✓",
    report_the_best_test_score: "✗✓✓✗✓✗✓",
    report_the_validation_score: "✗✓✓✗✓✓✓",
    score_in_train_mode: "✓✓✗✗✓✓✓",
}


def test_the_planted_bug_fails():
    verdict = check_report(run_cell(LESSON, "hunt-bug")["train_and_report"])
    held = [probe.passed for probe in verdict.probes]
    assert held == [False, False, False, True, False, False, True]


def test_the_solution_passes():
    verdict = check_report(run_cell(LESSON, "hunt-solution")["train_choose_report"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", [keep_whole_networks, clone_each_tensor])
def test_other_right_fixes_pass(fix):
    verdict = check_report(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_report(fix)
    assert marks(verdict) == refused, verdict


def test_a_report_that_lacks_a_score_is_told_so():
    verdict = check_report(lambda *_: {"epoch": 0, "test": 0.5})
    assert "lacks valid" in verdict.probes[0].seen
