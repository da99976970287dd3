"""Turn what the heads of Cascade R-CNN say into boxes and scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labs.boxes.deltas import Deltas
from labs.boxes.suppression import suppress
from labs.models.cascade_rcnn import CASCADE_DELTAS, Cascade, corrected
from labs.models.faster_rcnn import RoIEstimates, rois_of
from labs.postprocess.faster_rcnn import decoded


class CascadeRCNNPostprocess(nn.Module):
    """Send all proposals through the heads, and suppress what is found twice.

    A box is where the last head puts it. Its scores are the softmax of the mean of all heads'
    logits, each head asked about the region that it was given, as in MMDetection; the paper lets
    all heads judge the last regions.

    Args:
        num_classes: C, background not counted.
        deltas: How each head writes corrections.
        score_threshold: As in :func:`labs.boxes.suppress`, and so are the others.
        iou_threshold: From which overlap two boxes of a class claim the same object.
        max_detections: Of an image.
        sigma: Of Soft-NMS; ``None`` drops what overlaps.
    """

    def __init__(
        self,
        num_classes: int = 80,
        deltas: Sequence[Deltas] = CASCADE_DELTAS,
        *,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        sigma: float | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.deltas = num_classes, tuple(deltas)
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.max_detections, self.sigma = max_detections, sigma

    def stages(self, raw: Cascade) -> list[RoIEstimates]:
        """Return what each head says of the regions that the head before it corrected.

        Raises:
            ValueError: When the network has another number of heads.
        """
        if len(raw.judges) != len(self.deltas):
            raise ValueError(
                "CascadeRCNNPostprocess: expected one of deltas for each head of the network, got "
                f"{len(self.deltas)} for {len(raw.judges)}"
            )
        rois, all_said = rois_of(raw.proposals.boxes), []
        for judge, deltas in zip(raw.judges, self.deltas, strict=True):
            all_said.append(judge(rois))
            rois = corrected(all_said[-1], deltas, raw.estimates.size)
        return all_said

    def candidates(self, raw: Cascade) -> tuple[Tensor, Tensor]:
        """Return boxes [N,R,4], xyxy in pixels, and scores [N,R,C] in [0, 1]; exportable.

        What only fills up the proposals has the score 0.
        """
        stages = self.stages(raw)
        logits = torch.stack([said.logits for said in stages]).mean(0)
        return decoded(stages[-1], logits, raw, self.deltas[-1])

    def forward(self, raw: Cascade) -> list[dict[str, Tensor]]:
        """Return for each image ``boxes`` [n,4], ``scores`` [n], highest first, ``labels`` [n]."""
        boxes, scores = self.candidates(raw)
        return suppress(
            boxes,
            scores,
            self.score_threshold,
            self.iou_threshold,
            self.max_detections,
            sigma=self.sigma,
        )
