"""Keep what the ranks of the sharding, parity and training tests run."""

from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import mobilenet_v3_small, resnet18

from labs.data import digits
from labs.ddp import Place, accumulate, gather_exact, mean_over_ranks, shard
from labs.ddp.group import current_place
from labs.ddp_train import Settings, build, digit_task, loop, measure, train
from labs.models import DigitNet
from labs.repro import seed_everything
from labs.train import cross_entropy
from tests.models import TwoConvs

ALONE = Place(0, 1, 0, torch.device("cpu"))


def gathered(rank, sizes):
    """Gather the squares of the indices in [0, n), as pairs, for each n."""
    world = dist.get_world_size()
    found = []
    for n in sizes:
        mine = torch.tensor(list(shard(n, rank, world)), dtype=torch.int64)
        found.append(gather_exact(torch.stack([mine, mine**2], 1), n))
    return found


def gathers_too_much(rank):
    try:
        gather_exact(torch.zeros(2), 3)
    except ValueError as error:
        return str(error)


def means(rank, given):
    """Return what this rank has, its mean over the ranks, and whether a gradient would flow."""
    mine = torch.tensor(given[rank], requires_grad=True)
    mean = mean_over_ranks(mine)
    return mine.tolist(), mean.tolist(), mean.requires_grad


def per_object(model, batch):
    """Divide by how many objects a rank has on average, as detectors do."""
    images, objects = batch
    return (model(images).square().sum(1) * objects).sum() / mean_over_ranks(objects.sum())


def batch_of(n):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 3


def accumulated(rank, n, size, steps):
    """Return the gradients of each step over this rank's shard, and when they were exchanged."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    images, labels = batch_of(n)
    mine = list(shard(n, rank, world))
    parts = torch.tensor(mine).split(size)
    seed_everything(0)
    model = TwoConvs()
    wrapped = DistributedDataParallel(model) if world > 1 else model
    found, synced = [], []
    for micro in accumulate(wrapped, [(images[p], labels[p]) for p in parts], steps):
        synced.append(getattr(wrapped, "require_backward_grad_sync", None))
        (micro.weight * cross_entropy(wrapped, micro.batch)).backward()
        if micro.last:
            found.append([p.grad.clone() for p in model.parameters()])
            model.zero_grad()
    return found, synced


def runs_out(rank):
    """Give rank 0 a step more than rank 1."""
    model = TwoConvs()
    batches = [batch_of(2)] * (2 - rank)
    try:
        for micro in accumulate(model, batches, 1):
            cross_entropy(model, micro.batch).backward()
    except RuntimeError as error:
        return str(error)


def small_mobilenet():
    """Build a torchvision network without batch norm and without dropout."""
    return mobilenet_v3_small(
        num_classes=5, width_mult=0.25, norm_layer=lambda c: nn.GroupNorm(1, c), dropout=0.0
    )


def frozen_resnet():
    """Build a torchvision network in eval mode: its batch norms use their running statistics."""
    return resnet18(num_classes=5).eval()


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
