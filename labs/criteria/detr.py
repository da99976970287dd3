"""Say how wrong a set of boxes is: match queries with objects first, then compare pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision.ops import box_convert, sigmoid_focal_loss

from labs.assigners.hungarian import Hungarian
from labs.assigners.targets import Target
from labs.assigners.truths import Truths
from labs.boxes.overlap import overlap
from labs.boxes.precision import widen
from labs.ddp import mean_over_ranks
from labs.models.detr import SetEstimates


@dataclass(frozen=True)
class DETRCriterion:
    """Return the terms of the loss: ``class``, ``box`` and ``giou``, each over all layers.

    After Carion et al. 2020, section 3.1 and appendix A.2. Each layer of the decoder is matched
    with the objects and judged by itself; the loss of the layers before the last is what the paper
    calls auxiliary. An encoder that proposes the queries is judged the same way, with all objects
    of class 0. Boxes are compared in shares of the picture, and their losses divided by the
    number of objects of the whole batch, at least 1.

    Attributes:
        num_classes: C, "no object" not counted.
        matcher: Chooses which query answers for which object. Its ``focal`` says whether the
            network has sigmoids and no "no object" (Deformable DETR), and which loss the classes
            have.
        background_weight: Of a query without an object, where there is a "no object".
        class_weight: Of the cross entropy, or of the focal loss.
        box_weight: Of the L1 distance.
        giou_weight: Of one minus the generalised IoU.
        auxiliary: Whether the layers before the last are judged too.
    """

    num_classes: int = 91
    matcher: Hungarian = field(default_factory=Hungarian)
    background_weight: float = 0.1
    class_weight: float = 1.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    auxiliary: bool = True

    def __call__(self, raw: SetEstimates, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Compare raw outputs with targets.

        Args:
            raw: From the network.
            targets: One dict per image, on any device: ``boxes`` [n,4] xyxy in pixels and
                ``labels`` [n], from 0.

        Raises:
            ValueError: When outputs, settings and targets do not belong together, or what the
                network says is not finite.
        """
        objects = self._objects(raw, targets)
        count = sum(len(labels) for _, labels in objects)
        total = mean_over_ranks(raw.logits.new_tensor(float(count), dtype=torch.float32))
        total = total.clamp(min=1)
        terms = dict.fromkeys(("class", "box", "giou"), widen(raw.logits).new_zeros(()))
        last = len(raw.logits) - 1
        sets = list(zip(raw.logits, raw.boxes_norm, strict=True))[0 if self.auxiliary else last :]
        judged = [(logits, boxes, objects) for logits, boxes in sets]
        if raw.first is not None:  # an encoder that proposes is asked only whether there is one
            alike = [(where, torch.zeros_like(labels)) for where, labels in objects]
            judged.append((*raw.first, alike))
        for logits, boxes, those in judged:
            for name, value in self._judge(widen(logits), widen(boxes), those, total).items():
                terms[name] = terms[name] + value
        return terms

    def _judge(
        self,
        logits: Tensor,
        boxes: Tensor,
        objects: Sequence[tuple[Tensor, Tensor]],
        total: Tensor,
    ) -> dict[str, Tensor]:
        """Match one set with the objects, [N,Q,K] and [N,Q,4], and return its terms."""
        pairs = [
            self.matcher(said, where, *those)
            for said, where, those in zip(logits, boxes, objects, strict=True)
        ]
        image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(pairs)])
        query = torch.cat([query for query, _ in pairs])
        matched = zip(objects, pairs, strict=True)
        aims, labels = (
            torch.cat(found)
            for found in zip(
                *((where[truth], label[truth]) for (where, label), (_, truth) in matched),
                strict=True,
            )
        )
        mine = boxes[image, query]
        corners, others = (box_convert(x, "cxcywh", "xyxy") for x in (mine, aims))
        return {
            "class": self.class_weight * self._of_classes(logits, image, query, labels, total),
            "box": self.box_weight * (mine - aims).abs().sum() / total,
            "giou": self.giou_weight * (1 - overlap(corners, others, "giou")).sum() / total,
        }

    def _of_classes(
        self, logits: Tensor, image: Tensor, query: Tensor, labels: Tensor, total: Tensor
    ) -> Tensor:
        if self.matcher.focal:
            wanted = torch.zeros_like(logits)
            wanted[image, query, labels] = 1
            return sigmoid_focal_loss(logits, wanted, 0.25, 2.0, "sum") / total
        nothing = self.num_classes
        wanted = torch.full(logits.shape[:2], nothing, device=logits.device)
        wanted[image, query] = labels
        weight = logits.new_ones(self.num_classes + 1)
        weight[nothing] = self.background_weight
        return cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight)

    def _objects(self, raw: SetEstimates, targets: Sequence[Target]) -> list[tuple[Tensor, Tensor]]:
        """Return boxes in shares of the picture and labels, image by image."""
        who = type(self).__name__
        rows = self.num_classes + (0 if self.matcher.focal else 1)
        if raw.logits.shape[-1] != rows:
            told = "" if self.matcher.focal else ' + 1 for "no object"'
            raise ValueError(
                f"{who}: expected logits of {self.num_classes} classes{told}, got "
                f"{raw.logits.shape[-1]}; give the network and its criterion the same classes"
            )
        if raw.logits.shape[1] != len(targets) or not targets:
            raise ValueError(
                f"{who}: expected one target per image, and at least one, got estimates of "
                f"{raw.logits.shape[1]} images and {len(targets)} targets; an image without "
                "objects has boxes [0,4] and labels [0]"
            )
        sizes = raw.sizes.amax(0).tolist()
        truths = Truths.of(targets, widen(raw.boxes_norm), self.num_classes, tuple(sizes), who)
        scale = raw.sizes.flip(1).repeat(1, 2).to(truths.boxes)  # width, height, width, height
        norm = box_convert(truths.boxes, "xyxy", "cxcywh") / scale[truths.image]
        found = [truths.image == image for image in range(len(targets))]
        return [(norm[mine], truths.labels[mine]) for mine in found]
