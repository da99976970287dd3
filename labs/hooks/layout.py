"""Bring what a layer returns into the layout of feature maps, [N,K,h,w], or refuse to guess."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Reshape = Callable[[Tensor], Tensor]
_FAR = 2.0  # how far h:w of the maps may be from H:W of the images, where neither reading fits


def from_nhwc(maps: Tensor) -> Tensor:
    """Return maps [N,h,w,K] as [N,K,h,w]: a ``reshape`` of :func:`grad_cam` for Swin.

    Raises:
        ValueError: When there are not four axes.
    """
    if maps.ndim != 4:
        raise ValueError(
            f"from_nhwc: expected maps [N,h,w,K], got {tuple(maps.shape)}; tokens [N,T,K] need "
            "from_tokens(h, w)"
        )
    return maps.permute(0, 3, 1, 2)


def from_tokens(h: int, w: int, skip: int = 1) -> Reshape:
    """Return a ``reshape`` of :func:`grad_cam` that lays tokens [N,T,K] out as maps [N,K,h,w].

    Args:
        h: Rows of patches: the height of the image over that of a patch.
        w: Columns of patches.
        skip: How many tokens in front belong to no patch: 1 for a class token, 5 for a class token
            and four registers, 0 for none.

    Raises:
        ValueError: When ``h`` or ``w`` is not positive or ``skip`` negative; by the result, when
            there are not ``skip + h * w`` tokens.
    """
    if h < 1 or w < 1 or skip < 0:
        raise ValueError(f"from_tokens: expected h, w >= 1 and skip >= 0, got {h}, {w} and {skip}")

    def lay_out(tokens: Tensor) -> Tensor:
        if tokens.ndim != 3 or tokens.shape[1] != skip + h * w:
            raise ValueError(
                f"from_tokens: expected tokens [N,{skip + h * w},K] for skip={skip} and {h}x{w} "
                f"patches, got {tuple(tokens.shape)}"
            )
        return tokens[:, skip:].unflatten(1, (h, w)).permute(0, 3, 1, 2)

    return lay_out


def checked_maps(
    output: Any, images: torch.Size, module: nn.Module, layer: str, reshape: Reshape | None
) -> None:
    """Raise unless what a layer returned is, or is brought into the form of, maps [N,K,h,w].

    Args:
        output: What the layer returned.
        images: The shape of the images, [N,C,H,W].
        module: The layer, whose parts tell which axis they count as channels.
        layer: Its name, for the message.
        reshape: What makes maps of it.

    Raises:
        ValueError: It says what was found, and names the ``reshape`` to pass.
    """
    shape = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    if not isinstance(output, Tensor) or (reshape is None and not _four(output, images[0])):
        fix = _for_tokens(output, images) if isinstance(output, Tensor) else ""
        raise ValueError(
            f"grad_cam: expected feature maps [{images[0]},K,h,w] from layer {layer!r}, "
            f"got {shape}; {fix or 'choose a convolution or a stage of them'}"
        )
    if reshape is not None:
        _refuse_wrong_reshape(output.detach(), images, layer, reshape)
    elif len(images) == 4:
        _refuse_other_layout(output, images, module, layer)


def _refuse_wrong_reshape(given: Tensor, images: torch.Size, layer: str, reshape: Reshape) -> None:
    made = reshape(given)
    got = tuple(made.shape) if isinstance(made, Tensor) else f"a {type(made).__name__}"
    said = (
        f"grad_cam: expected reshape to make maps [{images[0]},K,h,w] of what layer {layer!r} "
        f"returns, {tuple(given.shape)}, got {got}"
    )
    if not _four(made, images[0]):
        raise ValueError(said)
    if made is given or len(images) != 4 or _same_form(made.shape[2:], images):
        return  # what comes back untouched is [N,K,h,w] by the word of the caller
    if given.ndim == 4 and _same_form(given.shape[2:], images):
        raise ValueError(f"{said}; these were maps already: leave reshape out")
    if _same_form((made.shape[3], made.shape[2]), images):
        raise ValueError(f"{said}; for images of {images[2]}x{images[3]} swap h and w")


def _refuse_other_layout(maps: Tensor, images: torch.Size, module: nn.Module, layer: str) -> None:
    k, h, w = maps.shape[1:]
    last = _works_on_last_axis(module, k, w)
    fits, fits_nhwc = _same_form((h, w), images), _same_form((k, h), images)
    if last or (fits_nhwc and not fits):
        why = "its parts count channels on the last axis" if last else "h:w is not the images' H:W"
        fix = "pass reshape=from_nhwc"
    elif not fits and _far((h, w), images):
        why, fix = "h:w is far from the images' H:W", "pass a reshape that makes [N,K,h,w] of it"
    else:
        return
    raise ValueError(
        f"grad_cam: expected feature maps [{images[0]},K,h,w] from layer {layer!r} for images of "
        f"{images[2]}x{images[3]}, got {tuple(maps.shape)}, and {why}; {fix}, or, when it is "
        "[N,K,h,w] all the same, reshape=lambda maps: maps"
    )


def _works_on_last_axis(module: nn.Module, second: int, last: int) -> bool:
    """Tell whether parts of the layer have this many channels on the last axis, not the second."""
    on_last, on_second = set(), set()
    for part in module.modules():
        if isinstance(part, nn.Linear):
            on_last.add(part.out_features)
        elif type(part) is nn.LayerNorm:  # a class derived from it may move the axes
            if len(part.normalized_shape) == 1:
                on_last.add(part.normalized_shape[0])
        else:
            names = ("out_channels", "num_features", "num_channels")
            on_second |= {getattr(part, name, None) for name in names}
    return last in on_last and second not in on_second


def _same_form(size: Sequence[int], images: torch.Size) -> bool:
    """Tell whether one stride makes maps of this size of the images, to a row and a column."""
    low, high = 0.0, float("inf")
    for length, whole in zip(size, images[2:], strict=True):
        low = max(low, whole / (length + 1))
        high = min(high, whole / (length - 1) if length > 1 else float("inf"))
    return low <= high


def _far(size: Sequence[int], images: torch.Size) -> bool:
    (h, w), (height, width) = size, images[2:]
    least, most = h / (w + 1), (h + 1) / w
    return most * _FAR < height / width or height / width < least / _FAR


def _four(maps: Any, n: int) -> bool:
    return isinstance(maps, Tensor) and maps.ndim == 4 and len(maps) == n


def _for_tokens(tokens: Tensor, images: torch.Size) -> str:
    """Say how to lay tokens out, when their number is that of the patches of such images."""
    if tokens.ndim != 3 or len(tokens) != images[0]:
        return ""
    for skip in (1, 0, 5, 2):  # a class token; none; with four registers; with one of distillation
        h = round(((tokens.shape[1] - skip) * images[2] / images[3]) ** 0.5)
        if h and (tokens.shape[1] - skip) % h == 0:
            w = (tokens.shape[1] - skip) // h
            if _same_form((h, w), images):
                return f"these look like tokens: pass reshape=from_tokens({h}, {w}, skip={skip})"
    return "these look like tokens [N,T,K]: pass reshape=from_tokens(h, w, skip)"
