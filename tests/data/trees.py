"""Small folders of pictures for the tests of bad data."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from labs.data import faults


def smooth_picture(seed, size=(48, 32)):
    """Return a colourful RGB picture that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)


def write_tree(root, classes=("ant", "bee", "cow"), each=4, suffixes=(".jpg", ".png")):
    """Write root/class/nnn.suffix and return the paths, sorted."""
    paths = []
    for c, name in enumerate(classes):
        folder = Path(root) / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(each):
            path = folder / f"{i:03}{suffixes[i % len(suffixes)]}"
            smooth_picture(c * each + i).save(path)
            paths.append(path)
    return sorted(paths)


def broken_tree(root, broken=(1, 4, 5, 9)):
    """Write 12 pictures in 3 classes and ruin some; return all paths."""
    paths = write_tree(root)
    for index in broken:
        faults.html(paths[index])
    return paths


def written(path, data):
    """Write the bytes, and return the path."""
    path.write_bytes(data)
    return path


def kinds_of(messages):
    """Return the problems named in reasons or warnings, without what was seen."""
    return {message.partition(":")[0] for message in messages}


@contextmanager
def as_plain_user():
    """Give a folder to a user whom permissions bind; root gives up its powers inside."""
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.chown(folder, 65534, 65534)
            os.setegid(65534)
            os.seteuid(65534)
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
            os.setegid(0)
        shutil.rmtree(folder)
