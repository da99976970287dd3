"""Break where and how a file lies: its name, its type, its permission. POSIX systems only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from labs.data.faults.fault import Fault, free


def duplicate(path: Path) -> Fault:
    """Put an exact copy beside it.

    Copies that land in both training and test set inflate the score: tqwei05/PlantSeg#11 counts
    277 of 7,774 files, and in stefyste/RIAWELC#2 the whole test set was in the training set.
    """
    copy = free(path.with_name(f"{path.stem}_copy{path.suffix}"))
    shutil.copyfile(path, copy)
    did = f"Copied it to {copy.name}."
    return Fault("duplicate", copy, path, did, "warning", "duplicate", decodable=True)


def resource_fork(path: Path) -> Fault:
    """Put a ``._`` companion beside it, as macOS does on foreign disks: no image, same suffix.

    Met in python-pillow/Pillow#4807, where ``ImageFolder`` had taken them for pictures.
    """
    fork = path.with_name(f"._{path.name}")
    fork.write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(4072))
    did = f"Put the resource fork {fork.name} beside it."
    return Fault("resource_fork", fork, path, did, "bad", "not an image")


def symlink_loop(path: Path) -> Fault:
    """Replace it by a link to itself, which no reader can follow."""
    path.unlink()
    path.symlink_to(path.name)
    did = "Replaced it by a symbolic link to itself."
    return Fault("symlink_loop", path, path, did, "bad", "symlink loop")


def dangling_symlink(path: Path) -> Fault:
    """Replace it by a link to a file that is not there, as data moved without its disk has."""
    path.unlink()
    path.symlink_to(f"{path.stem}_on_another_disk{path.suffix}")
    did = "Replaced it by a symbolic link to nowhere."
    return Fault("dangling_symlink", path, path, did, "bad", "dangling symlink")


def unreadable(path: Path) -> Fault:
    """Take away every permission. Root reads it all the same; then the verdict is ``unseen``."""
    path.chmod(0)
    did = "Set its permissions to 000"
    try:
        path.open("rb").close()
    except PermissionError:
        return Fault("unreadable", path, path, f"{did}.", "bad", "no permission")
    did = f"{did}, which does not stop the user who runs this."
    return Fault("unreadable", path, path, did, "unseen", decodable=True)


def odd_name(path: Path) -> Fault:
    """Give it a legal name of about 200 bytes with spaces, accents, Chinese and an emoji.

    Nothing is wrong with it: the scan and the loader must simply cope.
    """
    name = f"Übung 花卉 🌻 {'long ' * 30}{path.stem[-20:]}{path.suffix}"
    target = path.rename(free(path.with_name(name)))
    did = "Renamed it to a long name with spaces, accents, Chinese and an emoji."
    return Fault("odd_name", target, path, did, "unseen", decodable=True)


def folder(path: Path) -> Fault:
    """Replace it by an empty folder of the same name, which ``glob("*.jpg")`` finds as well."""
    path.unlink()
    path.mkdir()
    did = "Replaced it by a folder of the same name."
    return Fault("folder", path, path, did, "bad", "not a file")


def pipe(path: Path) -> Fault:
    """Replace it by a named pipe: whoever opens it waits for a writer, for ever."""
    path.unlink()
    os.mkfifo(path)
    did = "Replaced it by a named pipe."
    return Fault("pipe", path, path, did, "bad", "not a file")
