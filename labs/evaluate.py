"""Ask a trained network for answers, and count how many are right."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn


class Labelled(Sized, Protocol):
    """Describe what :func:`accuracy` needs: ``images`` [N,C,H,W] and ``labels`` [N]."""

    @property
    def images(self) -> Tensor:
        """Return the images, [N,C,H,W]."""
        ...

    @property
    def labels(self) -> Tensor:
        """Return the class of each image, [N] of int64."""
        ...


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Switch every module to eval mode and gradients off, and put each module's mode back.

    ``model.train()`` afterwards would also wake the layers that were frozen on purpose, so the
    mode of each module is remembered by itself.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield model
    finally:
        for module, was_training in modes:
            module.training = was_training


def predict(model: nn.Module, images: Tensor, batch_size: int = 256) -> Tensor:
    """Return the model's outputs for all images, in eval mode, without gradients, on the CPU.

    Args:
        model: Any module that maps [n,C,H,W] to one tensor [n,...].
        images: [N,C,H,W], on any device; each batch is moved to the model's.
        batch_size: How many images at a time, at least 1.

    Returns:
        The outputs, [N,...], on the CPU.

    Raises:
        ValueError: When there are no images, or ``batch_size`` is below 1.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(
            f"predict: expected at least one image and batch_size >= 1, "
            f"got {len(images)} images and batch_size={batch_size}"
        )
    home = next((p.device for p in model.parameters()), images.device)
    with evaluating(model):
        return torch.cat([model(batch.to(home)).cpu() for batch in images.split(batch_size)])


def accuracy(model: nn.Module, data: Labelled, batch_size: int = 256) -> float:
    """Return the share of images, in [0, 1], whose largest output is their label."""
    hits = predict(model, data.images, batch_size).argmax(1) == data.labels.cpu()
    return hits.float().mean().item()
