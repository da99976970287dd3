"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

from copy import deepcopy

import pytest
import torch

from labs.evaluate import accuracy
from labs.hunts.engineering import check_report
from tests.hunts.lesson_cells import run_cell

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


def test_the_planted_bug_fails():
    verdict = check_report(run_cell(LESSON, "hunt-bug")["train_and_report"])
    held = [probe.passed for probe in verdict.probes]
    assert held == [False, False, False, True, False, False, True]


def test_the_solution_passes():
    verdict = check_report(run_cell(LESSON, "hunt-solution")["train_and_report"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", [keep_whole_networks, clone_each_tensor])
def test_other_right_fixes_pass(fix):
    verdict = check_report(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    "fix",
    [
        report_the_last_epoch,
        keep_a_reference,
        forget_to_load,
        note_the_test_score_on_the_way,
        choose_by_both,
        rename_the_sets,
        report_the_best_test_score,
        report_the_validation_score,
        break_ties_by_looking,
        stay_in_eval_mode,
        score_in_train_mode,
        stop_early,
    ],
)
def test_wrong_fixes_fail(fix):
    assert not check_report(fix)


def test_a_report_that_lacks_a_score_is_told_so():
    verdict = check_report(lambda *_: {"epoch": 0, "test": 0.5})
    assert "lacks valid" in verdict.probes[0].seen
