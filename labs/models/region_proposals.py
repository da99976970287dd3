"""RPN: say at every anchor whether there is an object, and where the box should be.

After Ren et al. 2015, "Faster R-CNN", https://arxiv.org/abs/1506.01497, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.ops import clip_boxes_to_image, nms

from labs.boxes import AnchorGrid, Deltas, Estimates, answers_in_a_row, strongest, widen

_LEAST_SIDE = 1e-3
"""Pixels; a proposal cut off at the edge of the image may be thinner, and then is none."""


class Proposals(NamedTuple):
    """Hold boxes that may hold objects, as many of every image.

    Attributes:
        boxes: xyxy in pixels, the best first, [N,R,4].
        scores: That there is an object, in [0, 1], [N,R].
        found: Which of them are proposals, [N,R] of bool: an image that has fewer is filled up.
    """

    boxes: Tensor
    scores: Tensor
    found: Tensor


class RegionProposals(nn.Module):
    """Convolve maps of several levels with the same small head, and keep the best boxes.

    Args:
        channels: Of every map.
        anchors: As many of each level.
        before: How many boxes of a level are compared, in training and in eval mode.
        after: How many proposals an image has at most, in training and in eval mode.
        iou_threshold: Overlap above which two boxes of a level are one proposal.
    """

    def __init__(
        self,
        channels: int,
        anchors: AnchorGrid,
        before: tuple[int, int] = (2000, 1000),
        after: tuple[int, int] = (2000, 1000),
        iou_threshold: float = 0.7,
    ) -> None:
        super().__init__()
        counts = set(anchors.counts)
        if len(counts) != 1:
            raise ValueError(
                "RegionProposals: expected as many anchors of each level, since one head reads "
                f"them all, got {anchors.counts}"
            )
        (count,) = counts
        self.anchors, self.deltas = anchors, Deltas()
        self.before, self.after, self.iou_threshold = before, after, iou_threshold
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, count, 1)
        self.boxes = nn.Conv2d(channels, 4 * count, 1)
        for layer in (self.conv, self.objectness, self.boxes):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> tuple[Estimates, Proposals]:
        """Judge every anchor, and propose the best.

        Args:
            maps: One per level, finest first, [N,C,H,W].
            size: Height and width of the images in pixels.

        Returns:
            The estimates at all anchors with one logit each; and the proposals, which carry no
            gradient: for the second stage they are given.
        """
        hidden = [relu(self.conv(one)) for one in maps]
        logits = [answers_in_a_row(self.objectness(x), 1) for x in hidden]
        deltas = [answers_in_a_row(self.boxes(x), 4) for x in hidden]
        references = self.anchors(maps, size)
        estimates = Estimates(torch.cat(deltas, 1), torch.cat(logits, 1), references, size)
        return estimates, self.propose(estimates, [x.shape[1] for x in logits])

    @torch.no_grad()
    def propose(self, estimates: Estimates, counts: Sequence[int]) -> Proposals:
        """Decode, cut at the edges of the image, and keep the best of what overlaps.

        Args:
            estimates: At all anchors.
            counts: How many of them each level has.
        """
        mode = 0 if self.training else 1  # now, not when it was built
        boxes = self.deltas.decode(estimates.deltas, estimates.references)
        boxes = clip_boxes_to_image(boxes, estimates.size)
        scores, start, chosen, levels = widen(estimates.logits[..., 0]), 0, [], []
        for level, count in enumerate(counts):
            best = scores[:, start : start + count].topk(min(self.before[mode], count))[1] + start
            chosen.append(best)
            levels.append(torch.full_like(best, level))
            start += count
        place, group = torch.cat(chosen, 1), torch.cat(levels, 1)
        boxes, scores = _picked(boxes, place), scores.gather(1, place)
        # Boxes of two images, or of two levels, are no rivals.
        group = group + torch.arange(len(group), device=group.device)[:, None] * len(counts)
        large = (boxes[..., 2:] - boxes[..., :2] >= _LEAST_SIDE).all(-1)
        scores = scores.masked_fill(~large, -torch.inf)  # the last to be compared
        choose = _strongest_as_exported if torch.compiler.is_exporting() else strongest
        rivals = boxes.flatten(0, 1), scores.flatten(), group.flatten()
        kept = torch.zeros_like(large).flatten()
        kept = kept.index_fill(0, choose(*rivals, self.iou_threshold), True).view_as(large)
        scores = scores.masked_fill(~kept, -torch.inf)
        scores, place = scores.topk(min(self.after[mode], scores.shape[1]))
        boxes = _picked(boxes, place)
        return Proposals(boxes, scores.sigmoid(), scores > -torch.inf)


def _picked(boxes: Tensor, place: Tensor) -> Tensor:
    """Return the boxes [N,K,4] at some places [N,K] of each image."""
    return boxes.gather(1, place[..., None].expand(-1, -1, 4))


def _strongest_as_exported(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float
) -> Tensor:
    """Return what :func:`labs.boxes.strongest` does, without a branch that depends on values.

    ONNX compares in float32. Groups are moved apart by the size of the image, so that of very
    large batches and images hundredths of a pixel are lost.
    """
    apart = boxes.max() + 1
    return nms(boxes.float() + groups[:, None] * apart.float(), scores.float(), iou_threshold)
