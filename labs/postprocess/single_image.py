"""Find the objects of one image in a form that exports to ONNX, suppression included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.ops import nms

Candidates = Callable[[Any], tuple[Tensor, Tensor]]


class SingleImage(nn.Module):
    """Map one image [1,3,H,W] in [0,1] to boxes [n,4], scores [n] and labels [n].

    :func:`labs.boxes.suppress` decides in Python how many candidates to compare, which no graph can
    hold. Here their number is fixed, and the operator of ONNX does the rest. Of boxes that are
    nearly equal it may keep another one than PyTorch does; thresholds far above the noise agree.

    Args:
        network: Of the detector.
        candidates: Of its postprocess, such as ``postprocess.candidates``.
        count: How many of the highest scores are compared; at most cells times classes.
        iou_threshold: From which overlap two boxes of a class claim the same object.
    """

    def __init__(
        self,
        network: nn.Module,
        candidates: Candidates,
        count: int = 300,
        iou_threshold: float = 0.6,
    ) -> None:
        super().__init__()
        self.network, self.candidates = network, candidates
        self.count, self.iou_threshold = count, iou_threshold

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return xyxy in pixels, scores with the highest first, and labels."""
        boxes, scores = self.candidates(self.network(image))
        best, place = scores[0].flatten().topk(self.count)
        cell, label = place // scores.shape[2], place % scores.shape[2]
        # A second stage may correct a region once for each class: boxes [1,R,C,4], not [1,P,4].
        boxes = boxes[0, cell, label] if boxes.dim() == 4 else boxes[0, cell]
        # Classes are moved apart, farther than the picture is large, so that none meets another.
        apart = 2.0 * max(image.shape[-2:]) * label[:, None]
        keep = nms(boxes + apart, best, self.iou_threshold)
        return boxes[keep], best[keep], label[keep]
