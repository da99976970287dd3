"""Check how two splits are labelled by their folders: one number must mean one class in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labs.hunts import Verdict, examine
from labs.hunts.answer import described

Labels = Sequence[int]
LabelSplits = Callable[[list[str], list[str]], tuple[Labels, Labels, Sequence[str]]]

_PETS = ["dog", "cat", "owl", "cat", "ant", "dog"]


def check_class_map(label_splits: LabelSplits) -> Verdict:
    """Check that a label means the same class in the training and in the test.

    Args:
        label_splits: ``label_splits(train, test)`` is given the folder of each file, and returns
            ``train_labels, test_labels, classes``: one whole number a file, in the order of the
            files, and the names of the folders of ``train``, so that ``classes[label]`` is the
            folder. Classes stand by number when all names are whole numbers, else by alphabet. A
            folder that only ``test`` has raises ``ValueError``.

    Returns:
        The verdict of six probes: on equal folders, a folder that one split lacks, the order of
        names and of numbers, names that are one number, and folders that were never trained on.
    """
    return examine(
        "the class map",
        label_splits,
        {
            "both splits have the same folders: every label names its folder": _same_folders,
            "the test lacks a folder: every label still names its folder": _missing_folder,
            "the classes stand in the order of the alphabet": _alphabet,
            "folders called by numbers stand in the order of the numbers": _numbers,
            "7 and 07 are two folders": _same_number,
            "a folder that only the test has is refused": _stranger,
        },
    )


def _labelled(
    label_splits: LabelSplits, train: list[str], test: list[str]
) -> tuple[list[int], list[int], list[str]]:
    """Return the three parts of an answer, or say what came instead."""
    answer = label_splits(list(train), list(test))
    if not isinstance(answer, (tuple, list)) or len(answer) != 3:
        raise AssertionError(
            f"expected two lists of labels and the classes, got {described(answer)}"
        )
    first = _numbers_of(answer[0], "the labels of the training", len(train))
    second = _numbers_of(answer[1], "the labels of the test", len(test))
    return first, second, _names_of(answer[2])


def _numbers_of(value: object, name: str, count: int) -> list[int]:
    listed = getattr(value, "tolist", lambda: value)()
    assert isinstance(listed, (list, tuple)), f"expected {name} as a list, got {described(value)}"
    whole = all(isinstance(v, int) and not isinstance(v, bool) for v in listed)
    assert whole, f"expected {name} as whole numbers, got {described(list(listed))}"
    assert len(listed) == count, f"{count} files, and {len(listed)} of {name}"
    return list(listed)


def _names_of(value: object) -> list[str]:
    assert isinstance(value, (list, tuple)), f"expected classes as a list, got {described(value)}"
    assert all(isinstance(v, str) for v in value), "expected classes as the names of the folders"
    assert len(set(value)) == len(value), "a class is in the list twice"
    return list(value)


def _expect_names(label_splits: LabelSplits, train: list[str], test: list[str]) -> list[str]:
    """Read every label back as a name, compare it with the folder, and return the classes."""
    first, second, classes = _labelled(label_splits, train, test)
    lost = sorted(set(train) ^ set(classes))
    assert not lost, f"the classes and the folders of the training differ in {lost[0]!r}"
    for split, labels, folders in (("training", first, train), ("test", second, test)):
        told = [classes[k] if 0 <= k < len(classes) else "no class" for k in labels]
        false = [(a, b) for a, b in zip(folders, told, strict=True) if a != b]
        assert not false, (
            f"{len(false)} of {len(folders)} labels of the {split} are false: a picture of "
            f"{false[0][0]!r} is called {false[0][1]!r}"
        )
    return classes


def _same_folders(label_splits: LabelSplits) -> str:
    _expect_names(label_splits, _PETS, sorted(_PETS))
    return f"{2 * len(_PETS)} labels, all right"


def _missing_folder(label_splits: LabelSplits) -> str:
    for lost in ("ant", "cat", "owl"):
        _expect_names(label_splits, _PETS, [name for name in _PETS if name != lost])
    _expect_names(label_splits, _PETS, [])
    return "without the first, a middle and the last one, and without any file"


def _alphabet(label_splits: LabelSplits) -> str:
    # A number among words is a word; and the first file's folder is not the first class.
    for train in (_PETS, ["b2", "b10", "10", "9", "a"]):
        _, _, classes = _labelled(label_splits, train, train)
        expected = sorted(set(train))
        assert classes == expected, f"expected {', '.join(expected)}, got {', '.join(classes)}"
    return "words, and words among numbers"


def _numbers(label_splits: LabelSplits) -> str:
    train = ["10", "2", "1", "11", "0", "2"]
    _, _, classes = _labelled(label_splits, train, train)
    expected = ["0", "1", "2", "10", "11"]
    assert classes == expected, f"expected {', '.join(expected)}, got {', '.join(classes)}"
    return ", ".join(classes)


def _same_number(label_splits: LabelSplits) -> str:
    train = ["07", "7", "3", "7"]
    classes = _expect_names(label_splits, train, ["3", "7", "07"])
    return f"{len(classes)} classes: {', '.join(classes)}"


def _stranger(label_splits: LabelSplits) -> str:
    for test in (["cat", "yak"], ["yak"], ["aardvark", "dog"]):
        try:
            label_splits(list(_PETS), list(test))
        except ValueError:
            continue
        except KeyError as error:
            raise AssertionError(f"expected a ValueError, got KeyError: {error}") from None
        raise AssertionError("a folder that was never trained on was labelled without a word")
    return "three strangers, three errors"
