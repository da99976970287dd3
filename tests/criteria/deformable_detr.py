"""Describe Deformable DETR to the sanity tests."""

from labs.assigners import Hungarian
from labs.criteria import DETRCriterion
from labs.models import DeformableDETR, ResNetMaps, resnet18
from labs.postprocess import DETRPostprocess
from tests.criteria import detr
from tests.criteria.version import CLASSES, Version


def network(refine, two_stage):
    body = ResNetMaps(resnet18(width=8), first=1)
    return DeformableDETR(
        body, body.channels, CLASSES, 24, 3, 2, 2, 32, 20, 4, 2,
        refine=refine, two_stage=two_stage, groups=4,
    )  # fmt: skip


def encode(targets, height, width):
    """Write what DETR would, without the row of "no object"."""
    raw = detr.encode(targets, height, width)
    return raw._replace(logits=raw.logits[..., :-1])


def silent(refine, two_stage):
    """Name what hears nothing before the layers have moved that begin with zeros.

    Where a cell looks begins with fixed steps, and so does not depend on the code of its map; and
    no box depends on what comes before the last layer of its head.
    """
    heads = 3 if two_stage else 2 if refine else 1
    parts = [f"boxes.{head}.{layer}." for head in range(heads) for layer in (0, 2)]
    return ("level", *(part + kind for part in parts for kind in ("weight", "bias")))


def deformable_detr(refine=False, two_stage=False):
    return Version(
        lambda: network(refine, two_stage),
        DETRCriterion(CLASSES, Hungarian(focal=True)),
        DETRPostprocess(CLASSES, focal=True),
        encode,
        silent=silent(refine, two_stage),
    )
