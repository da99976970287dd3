"""Turn what SSD says into boxes and scores."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from labs.boxes.deltas import Deltas
from labs.boxes.estimates import Estimates
from labs.boxes.precision import widen
from labs.boxes.suppression import suppress
from labs.models.ssd import SSD_DELTAS


class SSDPostprocess(nn.Module):
    """Decode corrections, take the softmax of the classes, and suppress what is found twice.

    Boxes are cut at the edges of the image.

    Args:
        num_classes: C, background not counted.
        deltas: How the network writes corrections.
        score_threshold: As in :func:`labs.boxes.suppress`, and so are the others.
        iou_threshold: From which overlap two boxes claim the same object.
        max_detections: Of an image.
    """

    def __init__(
        self,
        num_classes: int = 80,
        deltas: Deltas = SSD_DELTAS,
        *,
        score_threshold: float = 0.01,
        iou_threshold: float = 0.45,
        max_detections: int = 200,
    ) -> None:
        super().__init__()
        self.num_classes, self.deltas = num_classes, deltas
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.max_detections = max_detections

    def candidates(self, raw: Estimates) -> tuple[Tensor, Tensor]:
        """Return boxes [N,P,4], xyxy in pixels, and scores [N,P,C] in [0, 1]; exportable."""
        boxes = self.deltas.decode(raw.deltas, raw.references)
        return clip_boxes_to_image(boxes, raw.size), widen(raw.logits).softmax(-1)[..., 1:]

    def forward(self, raw: Estimates) -> list[dict[str, Tensor]]:
        """Return for each image ``boxes`` [n,4], ``scores`` [n], highest first, ``labels`` [n]."""
        boxes, scores = self.candidates(raw)
        return suppress(
            boxes, scores, self.score_threshold, self.iou_threshold, self.max_detections
        )
