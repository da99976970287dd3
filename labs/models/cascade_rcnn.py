"""Cascade R-CNN: correct a region, look again, and ask for more each time.

After Cai and Vasconcelos 2018, https://arxiv.org/abs/1712.00726.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from labs.boxes import Deltas, Estimates
from labs.models.faster_rcnn import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RoIEstimates,
    RoIHead,
    TwoLayers,
    faster_rcnn_resnet50,
    propose,
)
from labs.models.region_proposals import Proposals, RegionProposals
from labs.models.roi_features import RoIFeatures

CASCADE_DELTAS = tuple(Deltas((10.0 * k, 10.0 * k, 5.0 * k, 5.0 * k)) for k in (1, 2, 3))
"""How each stage writes corrections: the better the boxes, the less there is left to correct."""


class Cascade(NamedTuple):
    """Hold what the first stage says, and the stages after it, to be asked one after the other.

    Attributes:
        estimates: Of the first stage, at all anchors, one logit each.
        proposals: The best of them, without gradients.
        judges: ``judges[t](rois)`` asks stage t about regions [R,5], see
            :class:`labs.models.RoIEstimates`. Which regions those are, whoever asks decides: in
            training and afterwards they are what stage t - 1 made of its own.
    """

    estimates: Estimates
    proposals: Proposals
    judges: tuple[Callable[[Tensor], RoIEstimates], ...]


@torch.no_grad()
def corrected(said: RoIEstimates, deltas: Deltas, size: tuple[int, int]) -> Tensor:
    """Return the regions where a stage would put them, [R,5], for the next one to judge.

    They carry no gradient: a stage is not to learn what the next one would like.

    Args:
        said: With one correction for all classes.
        deltas: How they are written.
        size: Height and width of the images in pixels; boxes are cut at their edges.

    Raises:
        ValueError: When each class has a correction of its own: which of them holds is open.
    """
    if said.deltas.shape[1] != 1:
        raise ValueError(
            "corrected: expected one correction for all classes, deltas [R,1,4], got "
            f"{list(said.deltas.shape)}; build the RoIHead with each_class=False"
        )
    boxes = deltas.decode(said.deltas[:, 0], said.rois[:, 1:])
    boxes = clip_boxes_to_image(boxes, size)
    return torch.cat([said.rois[:, :1], boxes.to(said.rois.dtype)], 1)


class CascadeRCNN(nn.Module):
    """Find regions on the maps of a backbone, and judge them by several heads in a row.

    Args:
        backbone: Maps images to maps, finest first, all as wide.
        proposals: The first stage; it reads all maps.
        pooling: Cuts regions out of the maps, for every head.
        heads: The stages after it, with one correction for all classes each.
        num_classes: C, background not counted.
        mean: Of the channels of images, which are standardised first.
        std: The same.
        shared: Whether the maps take the gradient of each of H heads divided by H, as in
            detectron2. Otherwise they take it whole, and the criterion weights the stages, as in
            the authors' program and in MMDetection.

    Raises:
        ValueError: When there is no head.
    """

    def __init__(
        self,
        backbone: nn.Module,
        proposals: RegionProposals,
        pooling: RoIFeatures,
        heads: Sequence[RoIHead],
        num_classes: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if not heads:
            raise ValueError("CascadeRCNN: expected at least one head, got none")
        self.num_classes, self.mean, self.std = num_classes, tuple(mean), tuple(std)
        self.backbone, self.proposals, self.pooling = backbone, proposals, pooling
        self.heads, self.shared = nn.ModuleList(heads), shared

    def forward(self, images: Tensor) -> Cascade:
        """Map images [N,3,H,W] in [0,1] to estimates and proposals of regions, to be judged."""
        maps, estimates, proposals = propose(self, images)

        def asked(head: nn.Module) -> Callable[[Tensor], RoIEstimates]:
            def judge(rois: Tensor) -> RoIEstimates:
                cells = self.pooling(maps, rois)
                if self.shared:
                    constant = cells.detach()
                    cells = constant + (cells - constant) / len(self.heads)
                return head(cells, rois)

            return judge

        return Cascade(estimates, proposals, tuple(asked(head) for head in self.heads))


def cascade_rcnn_resnet50(
    num_classes: int = 80,
    frozen_norms: bool = True,
    frozen_stages: int = 2,
    aligned: bool = True,
    width: int = 64,
) -> CascadeRCNN:
    """Build Cascade R-CNN on a pyramid on ResNet-50, with the three stages of the paper.

    With 80 classes it has 69,341,646 parameters, and 69,394,766 when the batch norms learn.

    Args:
        num_classes: C, background not counted.
        frozen_norms: As of :func:`labs.models.faster_rcnn_resnet50`, and so are the others.
        frozen_stages: How many parts of the backbone never learn.
        aligned: Whether a pixel's value stands at its centre.
        width: Channels of the ResNet's first stage.
    """
    first = faster_rcnn_resnet50(
        num_classes,
        frozen_norms=frozen_norms,
        frozen_stages=frozen_stages,
        aligned=aligned,
        width=width,
    )
    heads = [RoIHead(TwoLayers(256), 1024, num_classes, each_class=False) for _ in CASCADE_DELTAS]
    return CascadeRCNN(first.backbone, first.proposals, first.pooling, heads, num_classes)
