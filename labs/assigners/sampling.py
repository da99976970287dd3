"""Draw a few of very many references, so that background does not drown the objects."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labs.assigners.bipartite import BACKGROUND


@dataclass(frozen=True)
class BalancedSampling:
    """Draw references of an image at random: some that answer for objects, the rest background.

    Attributes:
        size: How many to draw.
        fraction: Which share of them may answer for objects. Where there are fewer, background
            takes their place.
    """

    size: int = 256
    fraction: float = 0.5

    @torch.no_grad()
    def __call__(self, matched: Tensor) -> Tensor:
        """Return which references are drawn, [P] of bool.

        Args:
            matched: The object of each reference, or a number below 0, [P]: see
                :class:`labs.assigners.Thresholds`.
        """
        objects = (matched >= 0).nonzero()[:, 0]
        background = (matched == BACKGROUND).nonzero()[:, 0]
        wanted = min(int(self.size * self.fraction), len(objects))
        drawn = [_some(objects, wanted), _some(background, self.size - wanted)]
        return torch.zeros_like(matched, dtype=torch.bool).index_fill_(0, torch.cat(drawn), True)


def _some(places: Tensor, count: int) -> Tensor:
    return places[torch.randperm(len(places), device=places.device)[:count]]
