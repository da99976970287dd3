"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import random

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from labs.hunts.foundations import check_delivery
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks

LESSON = "lessons/01_foundations/03_survive_bad_data"


class Pictures(Dataset):
    """Hold what every fix needs; each fix below is one way to write ``__getitem__``."""

    def __init__(self, read, labels):
        self.read, self.labels, self.failed = read, labels, {}

    def __len__(self):
        return len(self.labels)

    def sample(self, index):
        return self.read(index), self.labels[index]

    def report(self, index, error):
        self.failed[index] = str(error)


def drop_none(samples):
    kept = [sample for sample in samples if sample is not None]
    return default_collate(kept) if kept else (torch.empty(0), torch.empty(0, dtype=torch.int64))


def loader_of(dataset_class, collate_fn=None, shuffle=True):
    def make_loader(read, labels, batch_size):
        dataset = dataset_class(read, labels)
        loader = DataLoader(dataset, batch_size, shuffle=shuffle, collate_fn=collate_fn)
        return loader, dataset.failed

    return make_loader


# ---- right fixes ---------------------------------------------------------------------------------


class NoneOnError(Pictures):
    def __getitem__(self, index):
        try:
            return self.sample(index)
        except OSError as error:
            self.report(index, error)
            return None


def screen_first(read, labels, batch_size):
    good, failed = [], {}
    for index in range(len(labels)):
        try:
            read(index)
        except OSError as error:
            failed[index] = str(error)
        else:
            good.append(index)
    samples = Pictures(read, labels)
    pairs = [samples.sample(index) for index in good]
    return DataLoader(pairs, batch_size, shuffle=bool(good)), failed


class Stream(IterableDataset):
    def __init__(self, read, labels):
        self.read, self.labels, self.failed = read, labels, {}

    def __iter__(self):
        for index, label in enumerate(self.labels):
            try:
                picture = self.read(index)
            except OSError as error:
                self.failed[index] = repr(error)
            else:
                yield picture, label


def stream(read, labels, batch_size):
    dataset = Stream(read, labels)
    return DataLoader(dataset, batch_size), dataset.failed


# ---- wrong fixes ---------------------------------------------------------------------------------


class NextReported(Pictures):
    def __getitem__(self, index):
        try:
            return self.sample(index)
        except OSError as error:
            self.report(index, error)
            return self[(index + 1) % len(self)]


class Previous(Pictures):
    def __getitem__(self, index):
        try:
            return self.sample(index)
        except OSError as error:
            self.report(index, error)
            return self[index - 1]


class RandomGood(Pictures):
    def __getitem__(self, index):
        while True:
            try:
                return self.sample(index)
            except OSError as error:
                self.report(index, error)
                index = random.randrange(len(self))


class Zeros(Pictures):
    def __getitem__(self, index):
        try:
            return self.sample(index)
        except OSError as error:
            self.report(index, error)
            return torch.zeros(1, 2, 2), self.labels[index]


class LastGood(Pictures):
    last = None

    def __getitem__(self, index):
        try:
            self.last = self.sample(index)
        except OSError as error:
            self.report(index, error)
        return self.last


class Bare(Pictures):
    def __getitem__(self, index):
        try:
            return self.sample(index)
        except:  # noqa: E722
            self.report(index, "failed")
            return None


class AnyException(Pictures):
    def __getitem__(self, index):
        try:
            return self.sample(index)
        except Exception as error:
            self.report(index, error)
            return None


class Silent(Pictures):
    def __getitem__(self, index):
        try:
            return self.sample(index)
        except OSError:
            return None


class NoReason(Pictures):
    def __getitem__(self, index):
        try:
            return self.sample(index)
        except OSError:
            self.report(index, "")
            return None


def drop_the_batch(samples):
    whole = all(sample is not None for sample in samples)
    return drop_none(samples if whole else [])


def keep_the_none(samples):
    kept = [sample for sample in samples if sample is not None]
    return default_collate(kept)


def screen_and_slip(read, labels, batch_size):
    """Drop the broken pictures, and forget that the labels move up with them."""
    pictures, failed = [], {}
    for index in range(len(labels)):
        try:
            pictures.append(read(index))
        except OSError as error:
            failed[index] = str(error)
    pairs = list(zip(pictures, labels, strict=False))
    return DataLoader(pairs, batch_size, shuffle=bool(pairs)), failed


def screen_once_used_up(read, labels, batch_size):
    """Return a generator: the first epoch is right, and there is no second."""
    make, failed = stream(read, labels, batch_size)
    return iter(make), failed


def screen_and_count_good(read, labels, batch_size):
    """Report the good ones."""
    loader, failed = screen_first(read, labels, batch_size)
    return loader, {i: "broken" for i in range(len(labels)) if i not in failed}


class Batches:
    """Give lists of (picture, label) as batches of up to three, changed by ``change``."""

    def __init__(self, read, labels, change):
        self.dataset, self.change = Stream(read, labels), change

    def __iter__(self):
        whole = [*self.dataset]
        samples = self.change(whole, self.dataset.failed)
        for k in range(0, len(samples), 3):
            yield default_collate(samples[k : k + 3])


def changed(change):
    def make_loader(read, labels, batch_size):
        loader = Batches(read, labels, change)
        return loader, loader.dataset.failed

    return make_loader


class OneBatch(Batches):
    def __iter__(self):
        samples = [*self.dataset]
        if samples:
            yield default_collate(samples)


class LabelTooMany(Batches):
    def __iter__(self):
        for images, labels in super().__iter__():
            yield images, torch.cat([labels, labels[:1]])


def of_class(batches):
    def make_loader(read, labels, batch_size):
        loader = batches(read, labels, lambda samples, failed: samples)
        return loader, loader.dataset.failed

    return make_loader


def reports_when(condition, instead):
    """Report right, unless the condition holds for (broken, all)."""

    def make_loader(read, labels, batch_size):
        loader, failed = screen_first(read, labels, batch_size)
        return loader, instead if condition(len(failed), len(labels)) else failed

    return make_loader


GREY = (torch.zeros(1, 2, 2), 0)
WRONG = {
    changed(lambda s, failed: s if failed else s[:-1]): "✗✓✓✓✓✓✓",
    changed(lambda s, failed: s[:-1] if len(failed) == 1 else s): "✓✗✓✓✓✓✓",
    changed(lambda s, failed: s[:-1] if len(failed) == 6 else s): "✓✓✗✓✓✗✓",
    changed(lambda s, failed: s or [GREY]): "✓✓✓✗✓✓✓",
    loader_of(Silent, drop_none): "✓✓✓✓✗✓✓",
    loader_of(NoReason, drop_none): "✓✓✓✓✗✓✓",
    screen_and_count_good: "✓✓✓✓✗✓✓",
    reports_when(lambda broken, n: broken == n == 12, {}): "✓✓✓✓✗✓✓",
    reports_when(lambda broken, n: broken == 0 and n == 12, {3: "bad"}): "✓✓✓✓✗✓✓",
    screen_once_used_up: "✓✓✓✓✓✗✓",
    loader_of(Bare, drop_none): "✓✓✓✓✓✓✗",
    loader_of(AnyException, drop_none): "✓✓✓✓✓✓✗",
    loader_of(NextReported): "✓✗✗✗✗✗✓",
    loader_of(Previous): "✓✗✗✗✗✗✓",
    loader_of(RandomGood): "✓✗✗✗✗✗✓",
    loader_of(Zeros): "✓✗✗✗✓✗✓",
    loader_of(LastGood): "✓✗✗✗✗✗✓",
    loader_of(NoneOnError, drop_the_batch): "✓✗✗✓✓✗✓",
    loader_of(NoneOnError, keep_the_none): "✓✓✗✗✗✗✓",
    loader_of(NoneOnError): "✓✗✗✗✗✗✓",
    screen_and_slip: "✓✗✗✓✓✗✓",
    of_class(OneBatch): "✗✗✗✓✗✗✓",
    of_class(LabelTooMany): "✗✗✗✓✗✗✓",
    changed(lambda s, failed: s + s[:1]): "✗✗✗✓✓✗✓",
}
TOGETHER = {
    "several in a row, and at both ends: the others arrive once each": (
        "the first epoch of the probe on the second one is the same"
    ),
}


def test_the_planted_bug_fails():
    verdict = check_delivery(run_cell(LESSON, "hunt-bug")["make_loader"])
    assert [probe.passed for probe in verdict.probes] == [True, *[False] * 6], verdict


def test_the_solution_passes():
    verdict = check_delivery(run_cell(LESSON, "hunt-solution")["open_closet"])
    assert verdict, verdict


@pytest.mark.parametrize(
    "make_loader",
    [
        pytest.param(loader_of(NoneOnError, drop_none), id="none and collate"),
        pytest.param(loader_of(NoneOnError, drop_none, shuffle=False), id="without shuffling"),
        pytest.param(screen_first, id="screened first"),
        pytest.param(stream, id="iterable data set"),
    ],
)
def test_other_right_fixes_pass(make_loader):
    verdict = check_delivery(make_loader)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_delivery(fix)
    assert marks(verdict) == refused, verdict


def test_verdict_says_what_was_delivered_and_not_how_to_mend_it():
    verdict = check_delivery(loader_of(NextReported, shuffle=False))
    assert verdict.table()["seen"].iloc[1] == "delivered more than once: picture 5"
    assert "collate" not in repr(verdict)
    assert "None" not in repr(verdict)


def test_labels_that_slipped_are_named():
    verdict = check_delivery(screen_and_slip)
    assert "do not belong together" in verdict.table()["seen"].iloc[1]
