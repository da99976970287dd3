"""Turn a set of boxes into detections: nothing is suppressed."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import box_convert

from labs.boxes.precision import widen
from labs.models.detr import SetEstimates


class DETRPostprocess(nn.Module):
    """Read the last layer of the decoder, and write its boxes in pixels.

    Args:
        num_classes: C, "no object" not counted.
        focal: Whether each class has a sigmoid of its own, as in Deformable DETR. Then the best
            pairs of a query and a class are taken, and a query may be two of them. Else each query
            is one detection, of the class that it says most.
        max_detections: Of an image.
    """

    def __init__(
        self, num_classes: int = 91, focal: bool = False, *, max_detections: int = 100
    ) -> None:
        super().__init__()
        self.num_classes, self.focal, self.max_detections = num_classes, focal, max_detections

    def candidates(self, raw: SetEstimates) -> tuple[Tensor, Tensor]:
        """Return boxes [N,Q,4], xyxy in pixels, and scores [N,Q,C] in [0, 1]; exportable."""
        scale = raw.sizes.flip(1).repeat(1, 2)[:, None]  # width, height, width, height
        boxes = box_convert(widen(raw.boxes_norm[-1]), "cxcywh", "xyxy") * scale
        logits = widen(raw.logits[-1])
        return boxes, logits.sigmoid() if self.focal else logits.softmax(-1)[..., :-1]

    def forward(self, raw: SetEstimates) -> list[dict[str, Tensor]]:
        """Return for each image ``boxes`` [n,4], ``scores`` [n], highest first, ``labels`` [n].

        ``places`` [n] says which query each is.
        """
        found = []
        for boxes, scores in zip(*self.candidates(raw), strict=True):
            if self.focal:
                ranked, place = scores.flatten().sort(descending=True, stable=True)
                query, label = place // scores.shape[1], place % scores.shape[1]
            else:
                best, classes = scores.max(-1)
                ranked, query = best.sort(descending=True, stable=True)
                label = classes[query]
            most = slice(self.max_detections)
            kept = {"boxes": boxes[query], "scores": ranked, "labels": label, "places": query}
            found.append({name: values[most] for name, values in kept.items()})
        return found
