"""Make a small picture of what a part returned."""

from __future__ import annotations

import base64
import io

import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

_MAP, _IMAGE = 64, 128  # pixels of the longer side; an image is looked at more closely


def strongest_map(value: Tensor) -> Tensor | None:
    """Return the first image of [N,3,H,W] as it is, or of [N,C,H,W] the map that varies most.

    Returns:
        [3,h,w] or [h,w], in [0, 1], at most 128 or 64 pixels a side, on the CPU; ``None`` where the
        tensor holds no maps.
    """
    if value.ndim != 4 or min(value.shape[2:]) < 2 or not value.is_floating_point():
        return None
    maps = value[0].detach().float().cpu()
    if len(maps) != 3:
        maps = maps[maps.flatten(1).std(1).argmax()][None]
    height, width = maps.shape[1:]
    shrink = (_IMAGE if len(maps) == 3 else _MAP) / max(height, width)
    if shrink < 1:
        size = max(1, round(height * shrink)), max(1, round(width * shrink))
        maps = adaptive_avg_pool2d(maps, size)
    low, high = maps.flatten().quantile(torch.tensor([0.01, 0.99]))
    scaled = ((maps - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return scaled if len(scaled) == 3 else scaled[0]


def to_uri(picture: Tensor) -> str:
    """Return a picture as a data URI: an image in its colours, a map in those of viridis."""
    if picture.ndim == 3:
        pixels = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()  # [h,w,3]
    else:
        pixels = colormaps["viridis"](picture.numpy(), bytes=True)[..., :3]
    held = io.BytesIO()
    Image.fromarray(pixels).quantize(64).save(held, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
