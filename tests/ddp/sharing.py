"""Keep what the ranks of the sharding and parity tests run.

Every rank imports this afresh, so nothing here needs torchvision, which takes longer than PyTorch.
"""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from labs.ddp import accumulate, gather_exact, mean_over_ranks, shard
from labs.repro import seed_everything
from labs.train import cross_entropy
from tests.models import TwoConvs


def together(rank, tasks):
    """Run several workers one after another in one group: to start a rank takes seconds."""
    return {name: worker(rank, *args) for name, (worker, *args) in tasks.items()}


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
    return "no error"


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
    return "no error"
