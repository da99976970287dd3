"""Keep what the ranks of the training tests run."""

from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn

from labs.data import digits
from labs.ddp import Place
from labs.ddp.group import current_place
from labs.ddp_train import Settings, build, digit_task, loop, measure, train
from labs.models import DigitNet
from labs.repro import seed_everything

ALONE = Place(0, 1, 0, torch.device("cpu"))


class Draws(nn.Module):
    """Drop out features, and keep what was dropped."""

    def __init__(self):
        super().__init__()
        self.linear, self.kept = nn.Linear(784, 10), []

    def forward(self, images):
        mask = nn.functional.dropout(torch.ones(784), 0.5)
        if self.training:
            self.kept.append(mask)
        return self.linear(images.flatten(1) * mask)


def masks(rank, settings, folder=None, resume=False):
    """Train, and return the dropout mask of every forward pass."""
    place = current_place() if dist.is_initialized() else ALONE
    seed_everything(0)
    network = Draws()
    task = replace(digit_task(limit=settings.limit), network=network)
    train(settings, place, folder, save_every=1, resume=resume, task=task)
    return torch.stack(network.kept)


def short_run(rank, settings):
    """Train two steps of 16 without batch norm, and return the weights and the loss."""
    place = current_place() if dist.is_initialized() else ALONE
    seed_everything(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    task = replace(digit_task(limit=32), network=network)
    run = build(settings, place, network)
    loss = loop._train_epoch(run, settings, place, task, 0)
    return [p.detach() for p in run.network.parameters()], loss


def measured(rank, n):
    """Return accuracy and mean of an untrained network whose buffers differ from rank to rank."""
    place = current_place() if dist.is_initialized() else ALONE
    seed_everything(0)
    network = DigitNet()
    network.bn1.running_mean.fill_(float(rank))
    loop._take_buffers_of_first(network)
    accuracy = measure(network, digits("test", n), place)
    return accuracy, network.bn1.running_mean.unique().tolist()


def whole_run(rank, settings, folder, save_every):
    """Train; the checkpoint is the result."""
    train(settings, current_place(), folder, save_every)


def settings_of(**changes):
    return Settings(**{"epochs": 1, "batch_size": 16, "limit": 32} | changes)
