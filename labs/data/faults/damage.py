"""Damage a folder of images reproducibly, and keep the answer key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from labs.data.faults import content, labels, layout, place
from labs.data.faults.fault import Fault

Kind = Callable[..., Fault | tuple[Fault, Fault]]
FILE_FAULTS: tuple[Kind, ...] = (
    content.truncated,
    content.grey_band,
    content.bit_rot,
    content.empty,
    content.zeroed,
    content.html,
    content.text,
    content.wrong_extension,
    content.bomb,
    content.nan_array,
    content.pickled_array,
    layout.palette,
    layout.cmyk,
    layout.sixteen_bit,
    layout.exif_rotated,
    layout.animated,
    layout.alpha,
    layout.grayscale,
    layout.one_pixel,
    layout.extreme_shape,
    layout.blank,
    place.duplicate,
    place.resource_fork,
    place.symlink_loop,
    place.dangling_symlink,
    place.unreadable,
    place.odd_name,
    place.folder,
    place.pipe,
)
LABEL_FAULTS: tuple[Kind, ...] = (labels.wrong_label, labels.swapped_label)
FAULTS = FILE_FAULTS + LABEL_FAULTS
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Damage:
    """Hold the answer key: what was done to which file of ``root``."""

    root: Path
    seed: int
    faults: tuple[Fault, ...]

    def table(self) -> pd.DataFrame:
        """Return one row per fault, in order of path; ``path`` and ``source`` start at the root."""
        rows = [
            (
                self._inside(f.path),
                f.kind,
                f.verdict,
                f.problem,
                f.decodable,
                self._inside(f.source),
                f.did,
            )
            for f in self.faults
        ]
        names = ["path", "kind", "verdict", "problem", "decodable", "source", "did"]
        return pd.DataFrame(rows, columns=names).sort_values("path", ignore_index=True)

    def _inside(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def __repr__(self) -> str:
        verdicts = Counter(fault.verdict for fault in self.faults)
        kinds = len({fault.kind for fault in self.faults})
        seen = ", ".join(f"{verdicts[v]} {v}" for v in ("bad", "warning", "unseen"))
        name = self.root.resolve().name
        return f"Damage({name}: {len(self.faults)} faults of {kinds} kinds; {seen})"


def damage(
    root: str | Path,
    share: float = 0.2,
    kinds: Sequence[Kind] = FAULTS,
    counts: Mapping[Kind, int] | None = None,
    seed: int = 0,
) -> Damage:
    """Damage JPEG and PNG files under ``root`` IN PLACE; there is no way back, so work on a copy.

    Each file meets one fault at most. The same tree and seed give the same damage.

    Args:
        root: The folder; for the label faults laid out as ``root/class/file``.
        share: How many of the files to damage, in [0, 1], dealt out evenly among ``kinds``.
        kinds: Which faults, as functions: ``[faults.truncated, faults.html]``.
        counts: How often to apply each fault, instead of ``share`` and ``kinds``.
        seed: Which files are drawn.

    Returns:
        The answer key.

    Raises:
        ValueError: When ``share`` is out of range, there are too few files, or a label fault is
            asked for and the files do not lie in class folders. Nothing is damaged then.
    """
    root = Path(root)
    files = _images(root)
    _refuse_loose_labels(root, files, kinds if counts is None else list(counts))
    queue = [files[i] for i in np.random.default_rng(seed).permutation(len(files))]
    if counts is None:
        plan = _deal(queue, share, kinds)
    else:
        wanted = [kind for kind, times in counts.items() for _ in range(times)]
        plan = [(kind, _draw(kind, queue)) for kind in wanted]
    done: list[Fault] = []
    for kind, victims in plan:
        faults = kind(*victims)
        done += faults if isinstance(faults, tuple) else [faults]
    return Damage(root, seed, tuple(done))


def _images(root: Path) -> list[Path]:
    """List the regular JPEG and PNG files in a fixed order."""
    found = (p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES)
    files = sorted(p for p in found if p.is_file() and not p.is_symlink())
    if not files:
        raise ValueError(f"damage: expected JPEG or PNG files under {root}, found none")
    return files


def _deal(queue: list[Path], share: float, kinds: Sequence[Kind]) -> list[tuple[Kind, list[Path]]]:
    if not 0 <= share <= 1 or not kinds:
        raise ValueError(
            f"damage: expected a share in [0, 1] and one or more kinds, got {share}, {len(kinds)}"
        )
    plan: list[tuple[Kind, list[Path]]] = []
    spared = len(queue) - round(share * len(queue))
    while len(queue) > spared:
        kind = kinds[len(plan) % len(kinds)]
        plan.append((kind, _draw(kind, queue)))
    return plan


def _draw(kind: Kind, queue: list[Path]) -> list[Path]:
    """Take the files that one fault needs out of the queue: two of different classes for a swap."""
    if not queue:
        raise ValueError("damage: more faults asked for than there are files; lower `counts`")
    first = queue.pop()
    if kind is not labels.swapped_label:
        return [first]
    for at in reversed(range(len(queue))):
        other = queue[at]
        if other.parent != first.parent and other.suffix.lower() == first.suffix.lower():
            return [first, queue.pop(at)]
    raise ValueError(
        f"damage: no {first.suffix} file of another class is left to swap with {first}; "
        "damage fewer files, or leave faults.swapped_label out of `kinds`"
    )


def _refuse_loose_labels(root: Path, files: list[Path], kinds: Sequence[Kind]) -> None:
    folders = {file.parent for file in files}
    if set(kinds) & set(LABEL_FAULTS) and (root in folders or len(folders) < 2):
        raise ValueError(
            f"damage: label faults expect {root}/class/file with two or more classes; "
            "lay the files out so, or pass kinds=faults.FILE_FAULTS"
        )
