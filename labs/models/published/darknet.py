"""Read the weights files of darknet: numbers without names, in the order of the configuration.

A file holds the version as three integers of 32 bits and how many images were seen as one of 64
(of 32 before version 0.2), then, for each convolution, biases, and where it is normalised scales,
means and variances, then kernels [C_out,C_in,k,k], all in float32, lowest byte first
(``src/parser.c`` of https://github.com/pjreddie/darknet).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from labs.models.blocks import Conv
from labs.models.published.layout import Layout
from labs.models.published.yolo_v3 import order as order_v3
from labs.models.published.yolo_v4 import order as order_v4

_NORMALISED = {
    "biases": "bn.bias",
    "scales": "bn.weight",
    "means": "bn.running_mean",
    "variances": "bn.running_var",
    "kernels": "conv.weight",
}
_PLAIN = {"biases": "bias", "kernels": "weight"}


def _named_in_order(order: Callable[..., list[str]]) -> Callable[[nn.Module], Layout]:
    """Return what makes the layout of a network: ``N.biases`` and so on for its convolution N."""

    def layout(network: nn.Module) -> Layout:
        names: dict[str, str] = {}
        for i, ours in enumerate(order(network)):
            parts = _NORMALISED if isinstance(network.get_submodule(ours), Conv) else _PLAIN
            names |= {f"{i}.{theirs}": f"{ours}.{part}" for theirs, part in parts.items()}
        return Layout(names, eps=1e-5)  # src/blas_kernels.cu adds .00001f to the variance

    return layout


layout_v3 = _named_in_order(order_v3)
layout_v4 = _named_in_order(order_v4)


def split(
    source: Tensor | bytes | str | Path, layout: Layout, network: nn.Module
) -> dict[str, Tensor]:
    """Cut the numbers of a file into the entries of a network.

    Args:
        source: The path of a file, its content, or its numbers after the header as one flat tensor.
        layout: Of the network, in the order of the file.
        network: Says how large each entry is.

    Raises:
        ValueError: When these are not as many numbers as the network has; it says for how many
            classes they would be enough.
    """
    flat = source if isinstance(source, Tensor) else _after_header(source)
    if flat.ndim != 1 or not flat.is_floating_point():
        raise ValueError(
            "load_published: expected the numbers of a darknet file as one flat tensor of floats, "
            f"got {flat.dtype} {list(flat.shape)}"
        )
    own = network.state_dict()
    sizes = [own[ours].numel() for ours in layout.names.values()]
    if len(flat) != sum(sizes):
        raise ValueError(
            f"load_published: expected {sum(sizes):,} numbers for this {type(network).__name__}, "
            f"got {len(flat):,}{_as_classes(len(flat) - sum(sizes), network)}; nothing was loaded"
        )
    parts = flat.split(sizes)
    return {
        theirs: part.view(own[ours].shape)
        for (theirs, ours), part in zip(layout.names.items(), parts, strict=True)
    }


def _after_header(source: bytes | str | Path) -> Tensor:
    """Return the numbers of a file."""
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    version = np.frombuffer(content[:12], "<i4")
    if len(version) < 3 or not (0 <= version[0] < 1000 and 0 <= version[1] < 1000):
        raise ValueError(
            "load_published: expected a darknet weights file, which begins with its version, got "
            f"{len(content):,} bytes that begin with {list(map(int, version))}"
        )
    start = 20 if version[0] * 10 + version[1] >= 2 else 16
    if len(content) < start or (len(content) - start) % 4:
        raise ValueError(
            f"load_published: expected {start} bytes and then numbers of 4 bytes each, got "
            f"{len(content):,} bytes in all: the file is cut off, load it down again"
        )
    return torch.tensor(np.frombuffer(content, "<f4", offset=start))


def _as_classes(difference: int, network: nn.Module) -> str:
    """Say for how many classes a file has this many numbers more than a network."""
    heads: Sequence[nn.Conv2d] = [
        part for part in network.modules() if isinstance(part, nn.Conv2d) and part.bias is not None
    ]
    anchors, classes = int(network.anchors), int(network.num_classes)  # type: ignore[arg-type]
    more, rest = divmod(difference, sum(anchors * (head.in_channels + 1) for head in heads))
    fits = not rest and classes + more > 0
    return f"; as many as num_classes={classes + more} gives" if fits else ""
