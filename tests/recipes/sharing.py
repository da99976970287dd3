"""Keep what the ranks of the recipes' tests run."""

import torch
import torch.distributed as dist
from torch import nn

from labs.data.scenes import Scenes, collate
from labs.ddp import Place
from labs.ddp.group import current_place
from labs.detection import Detector
from labs.recipes import held_out, measure, mini_yolo_v8

ALONE = Place(0, 1, 0, torch.device("cpu"))


def frozen_norms():
    """Build the mini YOLOv8 in eval mode: batch norms would else normalise by their shard."""
    return mini_yolo_v8(10).network.eval()


def loss_of_scenes(network, indices):
    """Return the loss on the scenes of these indices, which have 1 to 4 objects each."""
    scenes = Scenes("train", 100, seed=3)
    batch = collate([scenes[i] for i in indices.tolist()])
    return mini_yolo_v8(10).loss(network, batch)


class Memory(nn.Module):
    """Say which of some images each image is."""

    def __init__(self, images):
        super().__init__()
        self.means = nn.Parameter(images.mean((1, 2, 3)))

    def forward(self, images):
        return (images.mean((1, 2, 3))[:, None] - self.means).abs().argmin(1)


def answer(truth, right):
    """Return the truth as a prediction, or boxes without an area."""
    boxes = truth["boxes"] * right
    return {"boxes": boxes, "labels": truth["labels"], "scores": torch.ones(len(boxes))}


def figures(rank, n):
    """Return the figures, as each rank gets them, of a detector that knows all but scene 1."""
    place = current_place() if dist.is_initialized() else ALONE
    data = held_out({"split": "val", "n": 5, "seed": 1}, n)

    def remember(numbers):
        return [answer(data.targets[i], i != 1) for i in numbers.tolist()]

    images = torch.stack([image for image, _ in data])
    return measure(Detector(Memory(images), mini_yolo_v8(10).criterion, remember), data, place)


def every_figure(rank):
    """Return the figures on fewer scenes than ranks, and on more."""
    return {n: figures(rank, n) for n in (1, 5)}
