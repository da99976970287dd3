"""Show where in an image the evidence for an answer lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from labs.hooks.layers import bare, eager, find_layers, named_inputs, refuse_train_mode
from labs.hooks.layout import Reshape, checked_maps
from labs.hooks.ranks import refuse_sharded


def grad_cam(
    model: nn.Module,
    images: Tensor,
    layer: str,
    target: Callable[[Any], Tensor],
    reshape: Reshape | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """Compute Grad-CAM heat maps (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).

    The layer's feature maps are added up, each weighted by the mean gradient that it receives, and
    what is negative is cut off. The sum is enlarged to the size of the images and divided by its
    maximum, so 0 keeps its meaning: no evidence for the target. (Some libraries also subtract the
    minimum, which always paints some place as 0.)

    Nothing of the model changes: no ``.grad``, no mode, no buffer. It may be frozen.

    Args:
        model: A network in eval mode.
        images: [N,C,H,W], whatever the model takes.
        layer: The name of a layer that runs once and returns feature maps [N,K,h,w]; most often
            the last one that does. In a vision transformer, the last one before the class is read
            off, such as the ``ln_1`` of the last block: what comes after the attention reaches the
            score from the class token alone.
        target: From the model's output to one score per image, [N]:
            ``lambda logits: logits[:, 3]``.
        reshape: From what the layer returns to [N,K,h,w], where it is something else:
            :func:`from_nhwc`, ``from_tokens(14, 14)``, or a function of your own that only moves
            values or leaves some out. Without it, a layout that cannot be [N,K,h,w] is refused: of
            a layer that works on the last axis, or whose h:w is not that of the images.
        kwargs: What the model takes by name besides the images.

    Returns:
        Heat maps [N,H,W], float32, in [0, 1]. All zeros where nothing speaks for the target.

    Raises:
        KeyError: When the layer does not exist; the message names the nearest ones.
        TypeError: When the model is no module, its parameters are in parts on several ranks, or
            ``kwargs`` is no mapping from names.
        ValueError: When a module is in train mode, the layer does not return feature maps or runs
            more or less than once, or the score has another shape or does not depend on the layer.
        FloatingPointError: When the feature maps or their gradients are not finite.
    """
    model, named = bare(model), named_inputs("grad_cam", kwargs)
    refuse_train_mode("grad_cam", model)
    refuse_sharded("grad_cam", model, "explain the model as it is before it is divided")
    if not isinstance(images, Tensor):
        raise TypeError(f"grad_cam: expected a tensor [N,C,H,W], got a {type(images).__name__}")
    module = _only_layer(model, layer)
    maps: list[Tensor] = []

    def start_graph_here(module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        checked_maps(output, images.shape, module, layer, reshape)
        maps.append(output.detach().requires_grad_())
        return maps[-1].clone()  # a ReLU(inplace=True) that follows may write over the clone

    # Leave inference mode as well: a caller's no_grad() or inference_mode() must not matter.
    with eager(), torch.inference_mode(False), torch.enable_grad():
        handle = module.register_forward_hook(start_graph_here)
        try:
            scores = target(model(images.detach().clone(), **named))
        finally:
            handle.remove()
        if len(maps) != 1:
            raise ValueError(
                f"grad_cam: expected layer {layer!r} to run once, it ran {len(maps)} times; "
                "choose a layer that the model calls exactly once"
            )
        gradient = _gradient(scores, maps[0], layer)
    found, slopes = maps[0].detach(), gradient
    if reshape is not None:
        found, slopes = reshape(found), reshape(slopes)
    heat = (slopes.mean((2, 3), keepdim=True) * found).float().sum(1, keepdim=True)
    return _scaled(heat.relu(), images.shape[-2:], layer)


def _only_layer(model: nn.Module, layer: str) -> nn.Module:
    found = find_layers(model, [layer])
    if len(found) != 1:
        raise ValueError(
            f"grad_cam: expected the name of one layer, got {layer!r}, which matches {len(found)}: "
            f"{', '.join(list(found)[:3])}..."
        )
    return next(iter(found.values()))


def _gradient(scores: Tensor, maps: Tensor, layer: str) -> Tensor:
    got = tuple(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
    if got != tuple(maps.shape[:1]):
        raise ValueError(
            f"grad_cam: expected target(output) of shape {tuple(maps.shape[:1])}, one score per "
            f"image, got {got}; pick one class: lambda out: out[:, 3]"
        )
    gradient = None
    if scores.requires_grad:
        (gradient,) = torch.autograd.grad(scores.sum(), maps, allow_unused=True)
    if gradient is None:
        raise ValueError(f"grad_cam: the target does not depend on layer {layer!r}; choose another")
    return gradient


def _scaled(heat: Tensor, size: torch.Size, layer: str) -> Tensor:
    if not heat.isfinite().all():
        raise FloatingPointError(
            f"grad_cam: layer {layer!r} has values or gradients that are not finite; find where "
            "they begin with first_bad(model, images)"
        )
    heat = nn.functional.interpolate(heat, tuple(size), mode="bilinear", align_corners=False)[:, 0]
    peak = heat.amax((1, 2), keepdim=True)
    return torch.where(peak > 0, heat / peak, 0.0)
