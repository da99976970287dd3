"""Decode every file of a folder before training does, and report each one."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd

from labs.data.decoder import decoders
from labs.imagefile import BadImageError, FileReport, Rules, check_file
from labs.imagefile.read import MAX_BYTES, MAX_PIXELS
from labs.imagefile.report import SUFFIXES
from labs.near_miss import did_you_mean
from labs.progress import bar


@dataclass(frozen=True)
class Scan:
    """Hold one report per file of ``root``, sorted by path.

    A file is *bad* when no usable pixels can be had from it. A file that decodes is *good*, and may
    carry warnings: something to look at before you train on it.
    """

    root: Path
    files: tuple[FileReport, ...]

    @property
    def good(self) -> list[Path]:
        """List the files whose pixels can be used, with or without warnings."""
        return [file.path for file in self.files if file.ok]

    @property
    def bad(self) -> list[tuple[Path, str]]:
        """List the files that cannot be used, each with the reason."""
        return [(file.path, file.reason) for file in self.files if not file.ok]

    @property
    def suspicious(self) -> list[tuple[Path, str]]:
        """List the good files that carry warnings, each with them."""
        return [(file.path, "; ".join(file.warnings)) for file in self.files if file.warnings]

    def table(self) -> pd.DataFrame:
        """Return one row per file: ``path`` (from the root), ``ok``, and the fields of its report.

        Paths are made printable: a byte that is not UTF-8 is shown as an escape.
        """
        names = [field.name for field in fields(FileReport)]
        rows = [[getattr(file, name) for name in names] for file in self.files]
        table = pd.DataFrame(rows, columns=names)
        table["path"] = [self._name(file.path) for file in self.files]
        table["warnings"] = ["; ".join(file.warnings) for file in self.files]
        originals = [file.duplicate_of for file in self.files]
        table["duplicate_of"] = [None if path is None else self._name(path) for path in originals]
        table.insert(1, "ok", [file.ok for file in self.files])
        sizes = ["width", "height", "orientation", "bytes"]
        return table.astype(dict.fromkeys(sizes, "Int64") | {"ok": bool})

    def problems(self) -> pd.DataFrame:
        """Return one row per kind of problem: ``verdict``, ``problem``, ``files``; most first."""
        found = Counter(("bad", _kind(file.reason)) for file in self.files if not file.ok)
        for file in self.files:  # once, however many warnings of this kind it carries
            found.update({("warning", _kind(warning)) for warning in file.warnings})
        rows = [(verdict, problem, n) for (verdict, problem), n in found.items()]
        rows.sort(key=lambda row: (row[0], -row[2], row[1]))
        return pd.DataFrame(rows, columns=["verdict", "problem", "files"])

    def _name(self, path: Path) -> str:
        inside = path.relative_to(self.root).as_posix()
        return inside.encode("utf-8", "backslashreplace").decode()

    def __repr__(self) -> str:
        good, bad, warned = len(self.good), len(self.bad), len(self.suspicious)
        name, total = self.root.resolve().name, len(self.files)
        head = f"Scan({name}: {total:,} files, {good:,} good of which {warned:,} carry a warning, "
        rows = [f"  {v}: {n:,} {p}" for v, p, n in self.problems().to_numpy()]
        return "\n".join([f"{head}{bad:,} bad)", *rows])


def scan_images(
    root: str | Path,
    modes: Collection[str] = ("RGB",),
    ignore: Collection[str] = (),
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    timeout: float = 60.0,
) -> Scan:
    """Decode every file under a folder to its last pixel, in processes of its own, and report it.

    Opening is not enough: ``Image.open`` reads the header, and a truncated file has a sound one.
    Every file is reported, an image or not, whatever its name; so is a folder named like an image,
    and a folder that cannot be listed. Links to folders are followed, each folder once. Nothing
    that could block or harm is opened: no pipe, no device, no pickle, no picture above the limits.
    Labels are not looked at.

    A file that kills or hangs its decoder is reported as bad, and the rest goes on. On Ctrl-C the
    processes end and ``KeyboardInterrupt`` is raised: half a scan would look like a whole one.

    That has a price: a process takes as long to start as a few hundred small files to decode, so a
    plain loop over fewer is quicker. None is kept for the next scan, because a helper that stays is
    a trace, and a decoder that has read one folder's damaged files should not judge another's.

    Args:
        root: The folder.
        modes: Pillow's names of the pixel layouts you expect; another one is a warning. ``("L",)``
            for grayscale images, ``("P",)`` for palette masks.
        ignore: Patterns of names to leave out, of files and folders: ``("*.csv", ".git")``.
        workers: How many processes. All cores by default; 0 decodes in this process, where a
            decoder that crashes or hangs takes you along and ``timeout`` has no effect.
        max_pixels: A picture that claims more is bad, and is not decoded.
        max_bytes: A larger file is bad, and is not read.
        timeout: Seconds that one file may take before its process is killed.

    Returns:
        The scan: ``.good``, ``.bad``, ``.suspicious``, ``.table()``, ``.problems()``. An empty
        folder gives a scan of no files.

    Raises:
        FileNotFoundError: When ``root`` does not exist.
        NotADirectoryError: When ``root`` is not a folder.
        PermissionError: When ``root`` may not be listed.
        ValueError: When a limit is not positive, ``workers`` is negative, or ``modes`` or
            ``ignore`` is a string.
        RuntimeError: When the decoding processes cannot be started.
    """
    root = Path(root)
    _refuse_strings(modes=modes, ignore=ignore)
    workers = _cores() if workers is None else workers
    if workers < 0 or min(max_pixels, max_bytes, timeout) <= 0:
        raise ValueError(
            "scan_images: expected workers >= 0 and limits above 0, got "
            f"workers={workers}, max_pixels={max_pixels}, max_bytes={max_bytes}, timeout={timeout}"
        )
    found = list_files(root, ignore)
    rules = Rules(tuple(modes), max_pixels, max_bytes)
    reports = [FileReport(path, reason=problem) for path, problem in found if problem]
    paths = [path for path, problem in found if not problem]
    reports += _check(paths, rules, min(workers, _worth(paths)), timeout)
    reports.sort(key=lambda file: file.path.as_posix())
    return Scan(root, tuple(_mark_duplicates(root, reports)))


def list_files(root: Path, ignore: Collection[str] = ()) -> list[tuple[Path, str]]:
    """List what lies under a folder, sorted by path, each with why it cannot be a file to decode.

    Real folders are walked before linked ones, and each folder once, so a link that leads back
    ends the walk instead of making it endless.

    Args:
        root: The folder.
        ignore: Patterns of names to leave out.

    Returns:
        Every entry that is no folder, with an empty reason; and the folders that are named like an
        image, cannot be listed, or were reached before by another way.

    Raises:
        FileNotFoundError, NotADirectoryError, PermissionError: About ``root`` itself.
    """
    _refuse_root(root)
    found: list[tuple[Path, str]] = []
    seen: dict[tuple[int, int], Path] = {}
    real, linked = [root], list[Path]()
    while real or linked:
        folder = (real or linked).pop(0)
        try:
            entries = _enter(folder, seen)
        except BadImageError as problem:
            found.append((folder, str(problem).replace(f"{root}{os.sep}", "")))
            continue
        for entry in entries:
            path = Path(entry.path)
            if any(fnmatch(entry.name, pattern) for pattern in ignore):
                continue
            if not path.is_dir():
                found.append((path, ""))
                continue
            (linked if entry.is_symlink() else real).append(path)
            if path.suffix.lower() in SUFFIXES:
                found.append((path, "not a file: a folder named like an image"))
    return sorted(found, key=lambda item: item[0].as_posix())


def _enter(folder: Path, seen: dict[tuple[int, int], Path]) -> list[os.DirEntry[str]]:
    try:
        status = folder.stat()
        first = seen.setdefault((status.st_dev, status.st_ino), folder)
        if first != folder:
            raise BadImageError(f"linked folder: leads to {first}, which is scanned already")
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise BadImageError(f"no permission: cannot list the folder, {error.strerror}") from error


def _worth(paths: Sequence[Path]) -> int:
    """Return for how many processes there is work: each costs a start, and must gain it back.

    A start takes about as long as 512 small files, or as 8 MB of large ones.
    """
    by_count = math.ceil(len(paths) / 512)
    if by_count >= _cores():  # enough, whatever the sizes
        return by_count
    total = 0
    for path in paths:
        with suppress(OSError):
            total += path.stat().st_size
    return max(by_count, min(len(paths), math.ceil(total / 8e6)))


def _check(paths: list[Path], rules: Rules, workers: int, timeout: float) -> list[FileReport]:
    if workers == 0:
        return list(bar((check_file(path, rules) for path in paths), None, "scan", len(paths)))
    with decoders(workers, rules, timeout) as pool:
        return list(bar(pool.check(paths), None, "scan", len(paths)))


def _mark_duplicates(root: Path, reports: Iterable[FileReport]) -> list[FileReport]:
    first: dict[str, Path] = {}
    marked = []
    for file in reports:
        if file.ok and file.sha256:
            original = first.setdefault(file.sha256, file.path)
            if original != file.path:
                said = f"duplicate: the same bytes as {original.relative_to(root).as_posix()}"
                file = replace(file, warnings=(*file.warnings, said), duplicate_of=original)
        marked.append(file)
    return marked


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _kind(message: str) -> str:
    return message.partition(":")[0]


def _refuse_strings(**settings: Collection[str]) -> None:
    for name, value in settings.items():
        if isinstance(value, str):
            raise ValueError(f"scan_images: expected {name}=({value!r},), a tuple, got {value!r}")


def _refuse_root(root: Path) -> None:
    if not root.exists():
        beside = root.parent.iterdir() if root.parent.is_dir() else ()
        guess = did_you_mean(root.name, [path.name for path in beside])
        hint = guess or f"; the current folder is {Path.cwd()}"
        raise FileNotFoundError(f"scan_images: expected a folder, but there is no {root}{hint}")
    if not root.is_dir():
        raise NotADirectoryError(f"scan_images: expected a folder, got the file {root}")
    try:
        os.scandir(root).close()
    except PermissionError as error:
        raise PermissionError(f"scan_images: you may not list {root}; chmod u+rx it") from error
