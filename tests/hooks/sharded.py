"""Keep what the ranks of the tests of hooks run: they import it."""

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from labs.hooks import capture, clip_norm, edit_gradients, first_bad, grad_cam, gradient_health
from labs.train import cross_entropy
from tests.models import TwoConvs


def network():
    torch.manual_seed(0)
    return TwoConvs()


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, 1, 8, 8, generator=generator), torch.arange(4) % 3


def mine(rank):
    images, labels = batch()
    return images[rank::2], labels[rank::2]


def words(call):
    """Return what a call raised, in words, or what it returned."""
    try:
        return call()
    except (TypeError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"


def edited_gradient(model, edits, forward, rank):
    """Return the largest gradient that is left after an edited pass, over all parameters."""
    with edit_gradients(model, edits):
        cross_entropy(forward, mine(rank)).backward()
    return max(p.grad.abs().max().item() for p in model.parameters())


def edit_averaged(rank):
    """Edit a network in DistributedDataParallel, by each of its ways in, and one beside it."""
    inner, beside = network(), network()
    ddp = DistributedDataParallel(inner)
    ways = {"wrapper": (ddp, "0"), "module": (inner, "0"), "layer": (inner[0], "")}
    said = {
        name: [
            words(lambda at=at, key=key, edit=edit: edited_gradient(at, {key: edit}, ddp, rank))
            for edit in (0.0, 0.5, clip_norm(1.0))
        ]
        for name, (at, key) in ways.items()
    }
    said["left"] = [p.grad is None for p in inner.parameters()]
    said["beside"] = edited_gradient(beside, {"": 0.5}, beside, rank)
    plain = network()
    cross_entropy(plain, mine(rank)).backward()
    said["expected"] = max(0.5 * p.grad.abs().max().item() for p in plain.parameters())
    return said


def divided(rank):
    """Ask each instrument about a network in fully_shard, whose rows lie on two ranks."""
    model, (images, labels) = network(), mine(rank)
    fully_shard(model)
    cross_entropy(model, (images, labels)).backward()
    health = gradient_health(model).table()
    said = {"apart": refusals(model, images, rank)}
    with capture(model, "2") as maps:
        model.train()(images)
    said["together"] = refusals(model, images, rank)  # until the pass is over
    said["inner"] = refusals(model[0], images, rank)
    return said | {
        "health": health,
        "captured": maps["2"],
        "distributed map": described_map(rank),
    }


def refusals(model, images, rank):
    """Return what those instruments say that need whole parameters."""
    model.eval()
    return [
        words(lambda: first_bad(model, images)),
        words(lambda: grad_cam(model, images, "", lambda out: out[:, 0])),
        words(lambda: edited_gradient(model, {"": 0.5}, model, rank)),
    ]


def described_map(rank):
    """Describe a map of which each rank holds half the rows."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    whole = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    model = nn.Sequential(nn.Identity(), nn.Identity())
    with capture(model, "0") as maps:
        model(distribute_tensor(whole, mesh, [Shard(0)]))
    spoilt = distribute_tensor(torch.tensor([[1.0], [float("nan")]]), mesh, [Shard(0)])
    return maps.table().drop(columns="layer").iloc[0].to_dict(), first_bad(model, spoilt).nan


def flattened(rank):
    """Ask each instrument about a network in FullyShardedDataParallel, and about what is in it."""
    said = []
    for own_names in (True, False):
        inner = network()
        cpu = torch.device("cpu")
        model = FullyShardedDataParallel(inner, use_orig_params=own_names, device_id=cpu)
        for at in (model, inner):
            said += [
                words(lambda at=at: gradient_health(at)),
                words(lambda at=at: first_bad(at, mine(rank)[0])),
                words(lambda at=at: edited_gradient(at, {"": 0.5}, at, rank)),
            ]
    return said


def everything(rank):
    """Run all of the above in one group, as its start takes longest."""
    return edit_averaged(rank), divided(rank), flattened(rank)
