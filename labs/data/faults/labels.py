"""Make labels wrong: of files in class folders, and of a tensor of labels.

No scan sees these, because the files are sound; the loss of a trained network does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from labs.data.faults.fault import Fault, free


def wrong_label(path: Path) -> Fault:
    """Move the file into another class folder, as a slip of the hand does; classes change size.

    The new class depends on the file's name alone, so the same file always lands in the same one.

    Raises:
        ValueError: When there is no other class folder beside the file's own.
    """
    others = sorted(p for p in path.parent.parent.iterdir() if p.is_dir() and p != path.parent)
    if not others:
        raise ValueError(
            f"wrong_label: expected class folders beside {path.parent}, found none; "
            "lay the files out as root/class/file"
        )
    target = path.rename(free(Random(path.name).choice(others) / path.name))
    did = f"Moved it from class {path.parent.name} to {target.parent.name}."
    return Fault("wrong_label", target, path, did, "unseen", decodable=True)


def swapped_label(path: Path, other: Path) -> tuple[Fault, Fault]:
    """Exchange two pictures of different classes; both labels are wrong, no class changes size.

    Raises:
        ValueError: When the files lie in one folder, or their suffixes differ.
    """
    if path.parent == other.parent or path.suffix.lower() != other.suffix.lower():
        raise ValueError(
            "swapped_label: expected two files of different folders and one suffix, got "
            f"{path} and {other}"
        )
    held = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(held)
    did = f"Exchanged a picture of {path.parent.name} with one of {other.parent.name}."
    first = Fault("swapped_label", path, other, did, "unseen", decodable=True)
    return first, Fault("swapped_label", other, path, did, "unseen", decodable=True)


@dataclass(frozen=True, eq=False)
class Mislabelled:
    """Hold the labels before and after.

    Attributes:
        true: [N] of int64, as they were.
        labels: [N] of int64, as they are now.
    """

    true: Tensor
    labels: Tensor

    @property
    def wrong(self) -> Tensor:
        """Mark the changed labels, [N] of bool."""
        return self.labels != self.true

    def table(self) -> pd.DataFrame:
        """Return one row per changed label: ``index``, ``true``, ``label``."""
        rows = self.wrong.nonzero().flatten()
        columns = {"index": rows, "true": self.true[rows], "label": self.labels[rows]}
        return pd.DataFrame({name: column.numpy() for name, column in columns.items()})

    def __repr__(self) -> str:
        return f"Mislabelled({int(self.wrong.sum())} of {len(self.true)} labels)"


def mislabel(
    labels: Tensor | Sequence[int], share: float, swap: bool = False, seed: int = 0
) -> Mislabelled:
    """Make a share of the labels wrong; the labels given stay as they are.

    Args:
        labels: [N], integers of at least two classes.
        share: How many labels to change, in [0, 1] of all; rounded, and to an even number for
            ``swap``.
        swap: Exchange labels in pairs, so that every class keeps its size. Otherwise each is
            replaced by another class drawn uniformly, as in the usual study of label noise.
        seed: Which labels are drawn, and what they become.

    Returns:
        The labels before and after.

    Raises:
        ValueError: When ``share`` is out of range, there are fewer than two classes, or one class
            makes up more than half of the labels drawn for ``swap``.
    """
    true = torch.as_tensor(labels).long().clone()
    classes, ranks = np.unique(true.numpy(), return_inverse=True)
    if not 0 <= share <= 1 or len(classes) < 2:
        raise ValueError(
            f"mislabel: expected a share in [0, 1] and two or more classes, got {share} and "
            f"{len(classes)}"
        )
    random = np.random.default_rng(seed)
    count = round(share * len(true))
    if swap:
        given = _swap(ranks, count // 2, random)
    else:
        chosen = random.choice(len(ranks), count, replace=False)
        given = ranks.copy()
        given[chosen] += random.integers(1, len(classes), count)  # never a full turn
    return Mislabelled(true, torch.from_numpy(classes[given % len(classes)]))


def _swap(ranks: np.ndarray, pairs: int, random: np.random.Generator) -> np.ndarray:
    given, waiting = ranks.copy(), random.choice(len(ranks), 2 * pairs, replace=False)
    if pairs and np.bincount(ranks[waiting]).max() > pairs:
        raise ValueError(
            f"mislabel: one class holds more than half of the {2 * pairs} labels drawn, so they "
            "cannot all change places with another class; use swap=False"
        )
    while len(waiting):
        # One partner from the largest class left: then the others always suffice.
        at_first = int(np.argmax(ranks[waiting] == np.bincount(ranks[waiting]).argmax()))
        at_second = int(np.argmax(ranks[waiting] != ranks[waiting[at_first]]))
        first, second = waiting[at_first], waiting[at_second]
        given[[first, second]] = ranks[[second, first]]
        waiting = np.delete(waiting, [at_first, at_second])
    return given
