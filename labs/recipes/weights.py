"""Write trained weights with the story of how they came about, and read them back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

KEYS = ("detector", "arguments", "classes", "metrics", "recipe")
"""What the header of a file of weights holds, each as JSON."""


def compact(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights as they are shipped: matrices and kernels in half precision, on the CPU.

    What has at most one axis (biases, and the statistics of batch norms, which may be very small or
    very large) costs little, and keeps its type.
    """
    state = network.state_dict()
    return {name: (t.half() if t.ndim > 1 else t).cpu().contiguous() for name, t in state.items()}


def write(path: Path, weights: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write weights and header as safetensors; the same content always gives the same bytes.

    Args:
        path: The file; it appears whole or not at all.
        weights: By name.
        header: One entry for each of :data:`KEYS`, of what JSON can hold.
    """
    content = save(dict(weights), {key: json.dumps(header[key]) for key in KEYS})
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(_with_sorted_header(content))
    os.replace(part, path)


def read(content: bytes, source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights and the header of a file's content.

    Args:
        content: Of the file. Safetensors hold no code, so it may come from anybody.
        source: What errors call it.

    Raises:
        ValueError: When these are no safetensors, or not with the header that :func:`write` writes.
    """
    try:
        weights = load(content)
        told: Mapping[str, str] = _split(content)[0].get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{source}: expected a safetensors file, got: {error}") from error
    if missing := [key for key in KEYS if key not in told]:
        raise ValueError(
            f"{source}: expected a header with {', '.join(KEYS)}, got none of "
            f"{', '.join(missing)}; write it with `python -m labs.recipes NAME --out FILE`"
        )
    return weights, {key: json.loads(told[key]) for key in KEYS}


def fill(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Put weights into a network of the same architecture, in the precision of the network.

    Raises:
        ValueError: When a weight is missing, unknown or of another shape; it names some.
    """
    own = network.state_dict()
    wrong = [f"no {name}" for name in own if name not in weights]
    wrong += [f"unknown {name}" for name in weights if name not in own]
    wrong += [
        f"{name} {list(weights[name].shape)} in place of {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(
            f"{source}: expected weights of this architecture, got {'; '.join(wrong[:3])} "
            f"({len(wrong)} in all do not fit); the detector has changed since: train it again"
        )
    with torch.no_grad():
        network.load_state_dict(dict(weights))


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Split into the header and the tensors: 8 bytes of length, so many of JSON, then the rest."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _with_sorted_header(content: bytes) -> bytes:
    """Sort what safetensors writes in an order that differs from process to process."""
    header, tensors = _split(content)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + tensors
