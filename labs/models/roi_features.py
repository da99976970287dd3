"""Cut the same few cells out of a map for every region, whatever its size.

RoIAlign after He et al. 2017, "Mask R-CNN", https://arxiv.org/abs/1703.06870, section 3; the level
of a region after Lin et al. 2017, https://arxiv.org/abs/1612.03144, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torchvision.ops import roi_align

from labs.boxes import widen

_CANONICAL = (224.0, 4)
"""A region of so many pixels a side belongs on this level, whose stride is 2 to its power."""


def level_of(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Return the place of each region's map in ``strides``, [R] of int64.

    Half the side is one level finer; beyond the finest and the coarsest there is none.

    Args:
        boxes: xyxy in pixels, [R,4].
        strides: Pixels per cell of each map, powers of two, finest first.
    """
    size, level = _CANONICAL
    side = (boxes[:, 2:] - boxes[:, :2]).prod(-1).clamp(min=0).sqrt()
    # The small number keeps a region of just 224 pixels where it belongs.
    wanted = (level + (side / size).log2() + 1e-6).floor()
    finest = strides[0].bit_length() - 1
    return (wanted.clamp(finest, finest + len(strides) - 1) - finest).long()


class RoIFeatures(nn.Module):
    """Sample each region on the map of its level (RoIAlign).

    Args:
        strides: Pixels per cell of the maps, powers of two, finest first.
        size: Cells along each side of what comes out.
        samples: Points along each side of such a cell, of which the mean is taken.
        aligned: Whether a pixel's value stands at its centre. ``False`` is half a pixel off, and
            what torchvision's published weights were trained with.
    """

    def __init__(
        self, strides: Sequence[int], size: int = 7, samples: int = 2, aligned: bool = True
    ) -> None:
        super().__init__()
        powers = [2**k for k in range(31)]
        wrong = [stride for stride in strides if stride not in powers]
        if not strides or wrong or any(b != 2 * a for a, b in pairwise(strides)):
            raise ValueError(
                "RoIFeatures: expected strides that are powers of two, each twice the one before, "
                f"got {tuple(strides)}"
            )
        self.strides, self.size = tuple(strides), size
        self.samples, self.aligned = samples, aligned

    def forward(self, maps: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Return what stands in each region, [R,C,size,size], in the order of the regions.

        Args:
            maps: One per stride, [N,C,H,W]; more are left over.
            rois: Which image of the batch, and xyxy in pixels, [R,5].
        """
        level = level_of(rois[:, 1:], self.strides)
        out = maps[0].new_zeros(len(rois), maps[0].shape[1], self.size, self.size)
        for index, stride in enumerate(self.strides):
            mine = (level == index).nonzero()[:, 0]
            cut = self._cut(maps[index], rois[mine], stride)
            out = out.index_copy(0, mine, cut)
        return out

    def _cut(self, one: Tensor, rois: Tensor, stride: int) -> Tensor:
        wide, size = widen(one), (self.size, self.size)  # half precision has no half pixels
        rois = rois.to(wide.dtype)
        return roi_align(wide, rois, size, 1 / stride, self.samples, self.aligned).to(one.dtype)
