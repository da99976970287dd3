"""Read a file of named tensors without running any code that may be in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_EXPORT = (
    "in an environment with that program write its tensors alone, with `torch.save(torch.load("
    'path, weights_only=False)["model"].float().state_dict(), "tensors.pt")`, and load them here'
)


def named_tensors(source: Mapping[str, Tensor] | str | Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of a file that holds one, by name.

    Args:
        source: A state dict, or the path of a file: ``.safetensors``, or what ``torch.save`` wrote,
            which is read with ``weights_only=True``.

    Raises:
        ValueError: When it holds something else; it says how to get at the tensors.
        FileNotFoundError: When there is no such file.
    """
    held = _read(Path(source)) if isinstance(source, str | Path) else source
    if not isinstance(held, Mapping):
        raise ValueError(
            f"load_published: expected a state dict, tensors by name, got {type(held).__name__}; "
            f"of a network give its .state_dict()"
        )
    if others := [key for key, value in held.items() if not isinstance(value, Tensor)]:
        inside = [key for key in others if isinstance(held[key], Mapping)]
        fix = f"; give the entry {inside[0]!r} of it" if inside else ""
        raise ValueError(
            "load_published: expected a state dict, tensors by name, got "
            f"{', '.join(f'{key!r}: {type(held[key]).__name__}' for key in others[:3])}{fix}"
        )
    return dict(held)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"load_published: expected {path} to hold tensors alone, got a pickle of other "
            f"objects, which may run any code and is not opened; {_EXPORT}"
        ) from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"load_published: expected {path} to be what torch.save or safetensors wrote, got "
            f"something else, or a part of it: {error}"
        ) from error
