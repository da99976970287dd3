"""Check a loader that meets broken files: what does one epoch deliver, and what does it report?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labs.hunts import Verdict, examine
from labs.hunts.answer import described, mapping_of, pair_of

Read = Callable[[int], Tensor]
Loader = Iterable[tuple[Tensor, Tensor]]
MakeLoader = Callable[[Read, Sequence[int], int], tuple[Loader, Mapping[int, str]]]

_BATCH_SIZE = 3
_MOST_READS = 100  # per file and epoch; a patient fix reads twice
_STRANGER = "a picture that is in no file"
# Twelve files; batches of three, so one batch here is broken as a whole, and both ends are.
_RUNS = frozenset({0, 3, 4, 5, 8, 11})


def check_delivery(make_loader: MakeLoader) -> Verdict:
    """Check that broken pictures are left out and reported, and that nothing else changes.

    Args:
        make_loader: ``make_loader(read, labels, batch_size)`` returns a loader and a dict.
            ``read(i)`` returns picture ``i`` as a tensor, or raises ``OSError`` when its file is
            broken, always for the same ``i``. One pass over the loader is one epoch. It yields
            pairs ``(images [n,...], labels [n])``, where n may be smaller than ``batch_size``, and
            zero, and holds each readable picture once, with its own label. After it, the dict
            leads from the number of each broken picture to a reason. Any other error of ``read``
            reaches the caller.

    Returns:
        The verdict of seven probes: on sound folders, single and many broken files, folders
        without a sound file, the report, the second epoch, and errors that are no broken file.
    """
    return examine(
        "the delivery",
        make_loader,
        {
            "a sound folder arrives whole": _sound_folder,
            "one broken picture: the others arrive once each": _one_broken,
            "several in a row, and at both ends: the others arrive once each": _many_broken,
            "every picture broken: the epoch ends, and is empty": _all_broken,
            "the broken pictures are reported, and no others": _report,
            "the second epoch is like the first": _second_epoch,
            "what is not a broken file reaches the caller": _other_errors,
        },
    )


class _EndlessError(BaseException):
    """Stop a fix that never ceases to read, also one that catches every ``Exception``."""


@dataclass
class _Folder:
    """Play a folder of pictures that are all different, so that each betrays its number."""

    size: int
    broken: frozenset[int] = frozenset()
    error: type[BaseException] = OSError
    reads: int = 0

    @property
    def labels(self) -> list[int]:
        # All different, and none equal to its picture's number, so that any mix-up shows.
        return [100 + i for i in range(self.size)]

    @property
    def expected(self) -> Counter[tuple[str, int]]:
        """Return what an epoch should deliver: each readable picture once, with its label."""
        good = set(range(self.size)) - self.broken
        return Counter((f"picture {i}", self.labels[i]) for i in good)

    def read(self, index: int) -> Tensor:
        self.reads += 1
        if self.reads > _MOST_READS * self.size:
            raise _EndlessError
        if not 0 <= index < self.size:
            raise IndexError(f"there is no picture {index}; there are {self.size}")
        if index in self.broken:
            raise self.error(f"image file of picture {index} is truncated")
        return self._pixels(index)

    def name(self, image: Tensor) -> str:
        """Say whose picture it is."""
        for index in sorted(set(range(self.size)) - self.broken):
            if image.shape == (1, 2, 2) and torch.equal(image.float(), self._pixels(index)):
                return f"picture {index}"
        return _STRANGER

    def _pixels(self, index: int) -> Tensor:
        return torch.arange(4.0).reshape(1, 2, 2) + 10 * (index + 1)


def _deliver(
    make_loader: MakeLoader, folder: _Folder, epochs: int = 1
) -> tuple[list[Counter[tuple[str, int]]], Mapping[int, str]]:
    """Return, for each epoch, how often each pair of picture and label came; and the report."""
    try:
        answer = make_loader(folder.read, folder.labels, _BATCH_SIZE)
        loader, failed = pair_of(answer, "a loader and a dict")
        mapping_of(failed, "the report")
        return [_epoch(folder, loader) for _ in range(epochs)], failed
    except _EndlessError:
        seen = f"still reading after {folder.reads - 1} reads of {folder.size} files"
        raise AssertionError(seen) from None


def _epoch(folder: _Folder, loader: Loader) -> Counter[tuple[str, int]]:
    folder.reads = 0
    delivered: Counter[tuple[str, int]] = Counter()
    for batch in loader:
        images, labels = pair_of(batch, "batches (images, labels)")
        for name, part in (("images", images), ("labels", labels)):
            assert isinstance(part, Tensor), f"expected {name} as a tensor, got {described(part)}"
        assert len(images) == len(labels), f"{len(images)} images and {len(labels)} labels"
        assert len(images) <= _BATCH_SIZE, f"a batch of {len(images)}, batch_size is {_BATCH_SIZE}"
        names = [folder.name(image) for image in images]
        delivered.update(zip(names, map(int, labels), strict=True))
    return delivered


def _expect_delivery(make_loader: MakeLoader, folder: _Folder, epochs: int = 1) -> str:
    for delivered in _deliver(make_loader, folder, epochs)[0]:
        _compare(delivered, folder)
    return f"{len(folder.expected)} of {folder.size} files, once each, with their labels"


def _compare(delivered: Counter[tuple[str, int]], folder: _Folder) -> None:
    """Say what is wrong with an epoch in the order in which a reader would look for it."""
    counts: Counter[str] = Counter()
    for (name, _), times in delivered.items():
        counts[name] += times
    wanted = {name for name, _ in folder.expected}
    missing = sorted(wanted - set(counts))
    again = [name for name, times in counts.items() if times > 1]
    assert _STRANGER not in counts, f"delivered {_STRANGER}, {counts[_STRANGER]} times"
    assert not again, f"delivered more than once: {_list(sorted(again))}"
    assert not missing, f"never delivered: {_list(missing)}"
    assert delivered == folder.expected, "pictures and labels do not belong together"


def _list(items: Iterable[str]) -> str:
    """Join the first three items."""
    items = list(items)
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def _sound_folder(make_loader: MakeLoader) -> str:
    return _expect_delivery(make_loader, _Folder(7))


def _one_broken(make_loader: MakeLoader) -> str:
    return _expect_delivery(make_loader, _Folder(10, frozenset({4})))


def _many_broken(make_loader: MakeLoader) -> str:
    return _expect_delivery(make_loader, _Folder(12, _RUNS))


def _all_broken(make_loader: MakeLoader) -> str:
    return _expect_delivery(make_loader, _Folder(6, frozenset(range(6))))


def _second_epoch(make_loader: MakeLoader) -> str:
    return _expect_delivery(make_loader, _Folder(12, _RUNS), epochs=2)


def _report(make_loader: MakeLoader) -> str:
    for broken in (_RUNS, frozenset(range(12)), frozenset[int]()):
        _, failed = _deliver(make_loader, _Folder(12, broken))
        told = sorted(failed)
        assert told == sorted(broken), f"{len(broken)} of 12 broken, reported: {told or 'none'}"
        silent = [index for index in told if not str(failed[index]).strip()]
        assert not silent, f"no reason is given for {silent}"
    return f"{len(_RUNS)} of 12 broken, all reported, each with a reason"


def _other_errors(make_loader: MakeLoader) -> str:
    for error in (ZeroDivisionError, KeyboardInterrupt):  # a bug in the code; Ctrl-C
        folder = _Folder(6, frozenset({4}), error)
        try:
            _deliver(make_loader, folder)
        except error:
            continue
        raise AssertionError(f"a {error.__name__} while reading was swallowed")
    return "a ZeroDivisionError and a KeyboardInterrupt arrived"
