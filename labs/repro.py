"""Run the same lesson on any machine, and know what it ran on."""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

from labs.near_miss import did_you_mean

T = TypeVar("T")


def seed_everything(seed: int = 0) -> torch.Generator:
    """Seed Python, NumPy and PyTorch (CPU and CUDA), and return a generator with the same seed.

    Call it before the model is built: initial weights are drawn from the global generator.

    Args:
        seed: An integer in [0, 2**32), the range that NumPy accepts.

    Returns:
        A CPU generator seeded with ``seed``, for a ``DataLoader`` or a random split.

    Raises:
        ValueError: When the seed is out of range.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed_everything: expected 0 <= seed < 2**32, got {seed}")
    seed = (seed + _shift()) % 2**32
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  torchvision and older libraries still draw from it
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def _shift() -> int:
    """Return what is added to each seed: nothing, unless the book is asked what luck has to do."""
    given = os.environ.get("LABS_SEED_SHIFT", "").strip() or "0"
    if not (given.isascii() and given.isdecimal()):
        raise ValueError(
            f"LABS_SEED_SHIFT: expected a whole number from 0 on, such as 1000, got {given!r}; "
            "unset it for the seeds as they are written"
        )
    return int(given)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put the random state of Python, NumPy and PyTorch (CPU and CUDA) back after the block."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


DEVICES = ("cpu", "cuda", "mps", "xpu")


def device() -> torch.device:
    """Return ``cuda`` when a GPU of NVIDIA or AMD can be used, ``cpu`` otherwise.

    Set the environment variable ``LABS_DEVICE`` to choose it yourself: ``cpu``, ``cuda``, ``mps``
    (Apple) or ``xpu`` (Intel), of several with a number: ``cuda:1``. Only ``cuda`` is taken by
    itself, because the lessons are measured on it and on the CPU.

    Raises:
        ValueError: When ``LABS_DEVICE`` names a device that this machine does not have.
    """
    chosen = os.environ.get("LABS_DEVICE", "").strip()
    if not chosen:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = chosen.partition(":")
    if kind not in DEVICES or (colon and not number.isdecimal()):
        raise ValueError(
            f"LABS_DEVICE: expected 'mps', 'xpu', 'cuda:1', 'cpu' or 'cuda', got "
            f"{chosen!r}{did_you_mean(kind.lower(), DEVICES)}"
        )
    there = _count(kind)
    if int(number or 0) >= there:
        seen = f"{there} of that kind" if there else f"no {'GPU' if kind == 'cuda' else kind}"
        raise ValueError(
            f"LABS_DEVICE={chosen}, but PyTorch sees {seen}, counted from 0; run "
            "`python -m labs doctor`, or set LABS_DEVICE=cpu"
        )
    return torch.device(chosen)


def _count(kind: str) -> int:
    """Count the devices of a kind that PyTorch can use."""
    if kind == "cpu":
        return 1
    backend = torch.backends.mps if kind == "mps" else getattr(torch, kind)
    if not backend.is_available():
        return 0
    return 1 if kind == "mps" else int(backend.device_count())


def budget(*, cpu: T, gpu: T) -> T:
    """Choose how much work to do: ``cpu`` here, ``gpu`` where :func:`device` is a GPU."""
    return cpu if device().type == "cpu" else gpu


@dataclass(frozen=True)
class Versions:
    """Name the software and the device that produced a result."""

    python: str
    torch: str
    torchvision: str
    numpy: str
    system: str
    device: str
    threads: int

    def table(self) -> pd.DataFrame:
        """Return one row per fact, with columns ``what`` and ``version``."""
        return pd.DataFrame(asdict(self).items(), columns=["what", "version"])


def versions() -> Versions:
    """Collect the versions, the device name and the number of CPU threads in use."""
    import torchvision

    here = device()
    named = {"cuda": torch.cuda.get_device_name, "xpu": torch.xpu.get_device_name}
    name = named[here.type](here) if here.type in named else platform.machine()
    return Versions(
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        numpy=np.__version__,
        system=platform.system(),
        device=f"{here.type} ({name})",
        threads=torch.get_num_threads(),
    )
