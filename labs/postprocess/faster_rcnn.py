"""Turn what the second stage of Faster R-CNN says into boxes and scores."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from labs.boxes.deltas import Deltas
from labs.boxes.precision import widen
from labs.boxes.suppression import suppress
from labs.models.cascade_rcnn import Cascade
from labs.models.faster_rcnn import RCNN_DELTAS, RoIEstimates, TwoStages, rois_of


class FasterRCNNPostprocess(nn.Module):
    """Ask the second stage about all proposals, and suppress what is found twice.

    Boxes are cut at the edges of the image.

    Args:
        num_classes: C, background not counted.
        deltas: How the second stage writes corrections.
        score_threshold: As in :func:`labs.boxes.suppress`, and so are the others.
        iou_threshold: From which overlap two boxes of a class claim the same object.
        max_detections: Of an image.
        sigma: Of Soft-NMS; ``None`` drops what overlaps.
    """

    def __init__(
        self,
        num_classes: int = 80,
        deltas: Deltas = RCNN_DELTAS,
        *,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 100,
        sigma: float | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.deltas = num_classes, deltas
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.max_detections, self.sigma = max_detections, sigma

    def candidates(self, raw: TwoStages) -> tuple[Tensor, Tensor]:
        """Return boxes, xyxy in pixels, and scores [N,R,C] in [0, 1] of all proposals; exportable.

        The boxes are [N,R,C,4] where each class has its own correction, else [N,R,4]. What only
        fills up the proposals has the score 0.
        """
        said = raw.judge(rois_of(raw.proposals.boxes))
        return decoded(said, said.logits, raw, self.deltas)

    def forward(self, raw: TwoStages) -> list[dict[str, Tensor]]:
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


def decoded(
    said: RoIEstimates, logits: Tensor, raw: TwoStages | Cascade, deltas: Deltas
) -> tuple[Tensor, Tensor]:
    """Return the corrected boxes, cut at the edges, and the scores of the classes, image by image.

    Args:
        said: Of as many regions of every image, [N*R].
        logits: Background first, [N*R,C+1].
        raw: What the regions were proposed from.
        deltas: How corrections are written.
    """
    boxes = deltas.decode(said.deltas, said.rois[:, None, 1:])
    boxes = clip_boxes_to_image(boxes, raw.estimates.size)
    boxes = boxes[:, 1:] if boxes.shape[1] > 1 else boxes[:, 0]
    scores = widen(logits).softmax(-1)[:, 1:]
    found = raw.proposals.found
    scores = scores.unflatten(0, found.shape) * found[..., None]
    return boxes.unflatten(0, found.shape), scores
