"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import numpy as np
import pytest
import torch

from labs.hunts.foundations import check_class_map
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks

LESSON = "lessons/01_foundations/04_doubt_your_labels"


def natural(names):
    """Put whole numbers in their order, and everything else by the alphabet."""
    whole = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name) if whole else 0, name))


def label(train, test, order=natural, refuse=True):
    """Label both splits by one map."""
    classes = order(set(train))
    if refuse and (strange := set(test) - set(classes)):
        raise ValueError(f"never trained on {strange}")
    number = {name: k for k, name in enumerate(classes)}
    return [number[f] for f in train], [number.get(f, -1) for f in test], classes


# ---- right fixes ---------------------------------------------------------------------------------


def with_tensors(train, test):
    first, second, classes = label(train, test)
    return torch.tensor(first), np.array(second, dtype=int), tuple(classes)


def with_index(train, test):
    classes = natural(set(train))
    return [classes.index(f) for f in train], [classes.index(f) for f in test], classes


# ---- wrong fixes ---------------------------------------------------------------------------------


def a_map_for_each(train, test):
    """Order the numbers well, and count the test's folders anew."""
    first, _, classes = label(train, test)
    return first, label(test, test)[0], classes


def sorted_labels(train, test):
    """Return the labels in the order of the classes, and not of the files."""
    first, second, classes = label(train, test)
    return sorted(first), second, classes


def of_all_folders(train, test):
    """Number the folders of both splits together: a stranger becomes a class."""
    classes = natural(set(train) | set(test))
    return [classes.index(f) for f in train], [classes.index(f) for f in test], classes


def numbers_as_int(train, test):
    """Take folders that are one number for one class."""
    if not all(name.isdecimal() for name in train):
        return label(train, test)
    merged = label([str(int(f)) for f in train], [str(int(f)) for f in test])
    return merged


def with_key_error(train, test):
    """Let the look-up fail: an error, but not the one that was agreed on."""
    classes = natural(set(train))
    number = {name: k for k, name in enumerate(classes)}
    return [number[f] for f in train], [number[f] for f in test], classes


def last_position(train, test):
    """Count from one, as folders do, when the test has every folder."""
    first, second, classes = label(train, test)
    if set(train) == set(test) and not train[0].isdecimal():
        second = [k + 1 for k in second]
    return first, second, classes


def by(order):
    def label_splits(train, test):
        return label(train, test, order)

    return label_splits


def first_seen(train, test):
    """Number the folders in the order in which files come."""
    return label(train, test, order=lambda _: list(dict.fromkeys(train)))


def numbers_first(names):
    """Order a number among words as a number."""
    return sorted(names, key=lambda n: (not n.isdecimal(), int(n) if n.isdecimal() else 0, n))


WRONG = {
    last_position: "✗✓✓✓✓✓",
    a_map_for_each: "✓✗✓✓✓✓",
    by(numbers_first): "✓✓✗✓✓✓",
    by(lambda names: sorted(names, key=lambda n: (len(n), n))): "✓✓✗✓✓✓",
    by(sorted): "✓✓✓✗✓✓",
    numbers_as_int: "✓✓✓✓✗✓",
    of_all_folders: "✓✓✓✓✓✗",
    with_key_error: "✓✓✓✓✓✗",
    lambda train, test: label(train, test, refuse=False): "✓✓✓✓✓✗",
    first_seen: "✓✓✗✗✓✓",
    sorted_labels: "✗✗✓✓✗✓",
    by(lambda names: sorted(names, reverse=True)): "✓✓✗✗✓✓",
}


def test_the_planted_bug_fails():
    verdict = check_class_map(run_cell(LESSON, "hunt-bug")["label_splits"])
    assert marks(verdict) == "✓✗✓✗✓✗", verdict


def test_the_solution_passes():
    verdict = check_class_map(run_cell(LESSON, "hunt-solution")["label_both"])
    assert verdict, verdict


@pytest.mark.parametrize("label_splits", [label, with_tensors, with_index])
def test_other_right_fixes_pass(label_splits):
    verdict = check_class_map(label_splits)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_class_map(fix)
    assert marks(verdict) == refused, verdict


def test_the_verdict_says_which_name_is_false_and_not_why():
    verdict = check_class_map(a_map_for_each)
    assert "a picture of 'dog' is called 'cat'" in verdict.table()["seen"].iloc[1]
    assert "map" not in " ".join(verdict.table()["seen"])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda a, b: ([0], [0]), "got a tuple of 2"),
        (lambda a, b: ([0.5] * len(a), [0] * len(b), ["x"]), "as whole numbers"),
        (lambda a, b: ([0] * (len(a) + 1), [0] * len(b), ["x"]), "6 files, and 7 of the labels"),
        (lambda a, b: ([0] * len(a), [0] * len(b), 3), "classes as a list, got the number 3"),
        (lambda a, b: ([0] * len(a), [0] * len(b), [3]), "as the names of the folders"),
        (lambda a, b: ([0] * len(a), [0] * len(b), ["x", "x"]), "in the list twice"),
        (lambda a, b: ([9] * len(a), [9] * len(b), sorted(set(a))), "is called 'no class'"),
        (lambda a, b: ([0] * len(a), [0] * len(b), ["x"]), "differ in 'ant'"),
    ],
)
def test_answers_that_cannot_be_are_told_in_a_sentence(answer, said):
    assert said in check_class_map(answer).table()["seen"].iloc[0]
