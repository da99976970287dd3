# %% [markdown]
# # Train on many devices
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** write data-parallel training from one `all_reduce`, and prove that its gradient is the one a single process
# computes · find out why a distributed run is wrong, or hangs, with hooks on the gradients and a list of who saw which sample · start a
# program with `torchrun`, choose its learning rate, and predict how far it scales.
#
# **You need** the chain rule, a training loop, and the lesson [Intercept with hooks](01_intercept_with_hooks). No GPU: two processes of
# your CPU make the same mistakes as a thousand GPUs.
#
# **Time** read 45 min · debug 45 min · experiment 45 min · reproduce 15 min · hunt 25 min · exercises 30 min
# :::

# %% [markdown]
# ## The symptom
#
# A small network learns handwritten digits, shrunk to 14 by 14 pixels, in four epochs. Then you get eight devices. Each of them takes an
# eighth of the images, so an epoch takes an eighth of the steps. You change nothing else.

# %%
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from labs.data import digits
from labs.repro import budget, device, seed_everything

train, test = digits("train", 4096), digits("test", 2000)
x_train, x_test = avg_pool2d(train.images, 2), avg_pool2d(test.images, 2)


# %%
def make_net():
    first = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU()
    second = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(16 * 4 * 4, 10))


# %% [markdown]
# For now, *simulate* the devices: eight devices with 16 images each make a step from 128 images. Whether that is what real devices do is
# the first question of this lesson. `rule` says what happens to the learning rate. Here it stays unchanged; you will need the other rules
# later.

# %%
from labs.evaluate import predict
from labs.train import fit

PER_DEVICE, EPOCHS = 16, 4


def batches(size):
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x_train)).split(size):
            yield x_train[rows], train.labels[rows]


# %%
def train_on(devices=1, rule="unchanged", lr=0.02):
    """Train a network; return which test images it gets right."""
    net = make_net().to(device())
    peak = lr * {"unchanged": 1, "twice linear": 2 * devices}.get(rule, devices)
    sgd = torch.optim.SGD(net.parameters(), lr=peak, momentum=0.9, fused=True)
    steps = EPOCHS * len(x_train) // (PER_DEVICE * devices)
    warm = steps // 4 if rule == "linear + warm-up" else 0

    def share(step):  # of the peak: a line up, and a line down to zero
        return min((step + 1) / (warm + 1), (steps - step) / (steps - warm))

    schedule = torch.optim.lr_scheduler.LambdaLR(sgd, share)
    fit(net, batches(PER_DEVICE * devices), sgd, scheduler=schedule)
    return predict(net, x_test).argmax(1) == test.labels


# %%
import pandas as pd

right = {}
for devices in (1, 8):
    seed_everything(0)
    right[devices] = train_on(devices).float()
accuracy = {devices: hits.mean().item() for devices, hits in right.items()}
pd.Series(accuracy, name="accuracy").rename_axis("devices").round(3).to_frame()

# %% [markdown]
# Same data, same epochs, no error, no warning, and a much worse network. There are two possible causes. Either the eight devices together do not
# compute the gradient that one device would, or the gradient is right and a setting is wrong. Test the first one with a
# proof; then turn to the second.

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "eight devices with the learning rate of one: at least 10 points of accuracy "
    "are lost",
    accuracy[1] > accuracy[8] + 0.1,
    measured=accuracy,
)

# %% [markdown]
# ## The idea
#
# A loss is a mean over samples, so its gradient is a mean over samples too. Deal $N$ samples out to $n$ devices, equally many to each.
# Then the mean over devices of their mean gradients is the gradient of the whole batch:
#
# $$\frac1N \sum_{i=1}^{N} \nabla \ell_i \;=\; \frac1n \sum_{r=1}^{n} \Big( \frac{n}{N} \sum_{i \in \text{shard } r} \nabla \ell_i \Big).$$
#
# Check it by hand: one weight $w = 1$, the loss $(wx - y)^2$, four samples. Per sample the gradient is $2x(wx - y)$.

# %%
x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, 4.0, 6.0, 9.0])
gradient = 2 * x * (x - y)
means = {
    "all four": gradient.mean(),
    "two and two": (gradient[[0, 2]].mean() + gradient[[1, 3]].mean()) / 2,
    "three and one": (gradient[:3].mean() + gradient[3:].mean()) / 2,
}
pd.Series({dealt: v.item() for dealt, v in means.items()}, name="mean").to_frame()

# %% [markdown]
# Two and two samples give the mean of all four. Three and one do not: the single sample counts as much as the three others together. So
# with shards of different sizes, each device has to weight its mean loss by the size of its shard. A mean of means is the first silent bug of
# distributed training, in the loss as well as in the accuracy that you report.
#
# ### The retired way: one process, many devices
#
# `nn.DataParallel` does this inside one process, in every step: copy the weights from device 0 to all others, deal out the batch, run one
# thread per device, collect the outputs on device 0, and send the gradients back there. It needs one line, and PyTorch's own
# documentation advises against it.

# %%
net = make_net().to(device())
wrapped = nn.DataParallel(net)
list(wrapped.state_dict())[:2], len(wrapped.device_ids)

# %% [markdown]
# The list of devices is empty on a CPU and has one entry with one GPU, and then the wrapper only passes the call through: with fewer than
# two GPUs you can see its *cost* only on paper. One thing you can see anywhere: the names of the weights now begin with `module.`, which
# is why so many checkpoints need their keys renamed.

# %% tags=["nbval-check-output"]
claim(
    "the checkpoint of a DataParallel does not load into the bare network: every "
    "key differs",
    not set(wrapped.state_dict()) & set(net.state_dict()),
    measured=list(wrapped.state_dict()),
)

# %% [markdown]
# ### The ring
#
# Why is it retired? Count what the busiest device has to send. Done plainly, device 0 sends the weights to $n - 1$ others, and receives
# as many gradients: twice the devices, twice the traffic at one spot. The *ring* spreads it. Cut the gradient into $n$ chunks. In each
# step every device sends one chunk to its right neighbour, which adds it to its own. After $n - 1$ steps each chunk is complete on one
# device; after another $n - 1$ steps of plain copying, everywhere.


# %%
def ring_all_reduce(x):
    """Sum x [devices, chunks, ...] over devices in place; yield what each sends."""
    n = len(x)
    me = torch.arange(n)
    for step in range(2 * (n - 1)):
        chunk = (me - step) % n
        sent, right = x[me, chunk].clone(), (me + 1) % n
        x[right, chunk] = sent + (x[right, chunk] if step < n - 1 else 0)
        yield sent


# %%
values = torch.randn(4, 4, 5, dtype=torch.float64)
total = values.sum(0)
sent_by_each = sum(message[0].numel() for message in ring_all_reduce(values))
print(f"sent by each device: {sent_by_each}, values in a gradient: {total.numel()}")

# %% [markdown]
# Each of four devices sent more than one whole gradient, and less than two. The figure shows on which way.

# %%
from labs import plot

RANKS = 4
counts = torch.ones(RANKS, RANKS)
states = [counts.clone()] + [counts.clone() for _ in ring_all_reduce(counts)]


def draw_state(state):
    figure, ax = plot.new(4, 2.4)
    for row in range(RANKS):
        for chunk in range(RANKS):
            here = state[row, chunk].item()
            place = {"ha": "center", "va": "center", "fontsize": 12}
            ax.text(chunk, row, f"{here:.0f}", color=INK[here < 3], **place)
    ax.imshow(state, vmin=0, vmax=RANKS, cmap="viridis", aspect="auto")
    ax.set(xticks=range(RANKS), yticks=range(RANKS), xlabel="chunk", ylabel="device")
    ax.grid(False)
    return figure


INK = "black", "white"
plot.slide(
    {f"step {k}": draw_state(state) for k, state in enumerate(states)},
    "step of the ring",
    "In a ring of four each chunk is completed on its way round, one device a step, "
    "and then copied.",
    alt="A table of four devices by four chunks, with the number of contributions "
    "in each cell. All begin at one; after three steps each device holds one chunk "
    "with four, and after six steps all cells are four.",
)

# %% [markdown]
# The numbers say how many devices have contributed to a chunk. After three steps each device owns one
# complete chunk, and three steps later all own all. To add up over all devices, and to leave the sum on each of them, is called
# *all-reduce*. No device ever sends more than one chunk at a time.

# %% tags=["nbval-check-output"]
claim(
    "after a ring of four every device holds the sum over all",
    torch.allclose(values, total.expand_as(values)),
    measured=(values - total).abs().max().item(),
)

# %% [markdown]
# A device of the ring sends $2(n-1)/n$ gradients in a step; compare the numbers printed above with this for $n = 4$. The traffic of `DataParallel` grows
# with the number of devices; that of the ring never reaches two. That is half of the reason. The other half is Python: one interpreter
# drives all devices, so they wait for its lock, and one process cannot reach a second machine. `DistributedDataParallel` (DDP,
# {cite:t}`li2020ddp`) has one process per device, and exchanges only gradients. The next figure shows three ways in which two processes, the *ranks*,
# work together. You will build the first. The second is DDP, which sends gradients in a few groups, the *buckets*. The third,
# fully sharded data parallelism (FSDP), also divides what a rank keeps; you will run it at the end.

# %% tags=["hide-input"]
from matplotlib.patches import Rectangle

KEPT = {"weights": "#CFE3F1", "gradients": "#F6D9C6", "Adam": "#CDE8DF"}


def draw_ranks(ax, arrows, parts=1, gradient_parts=1):
    """Draw what two ranks keep, and an arrow for each exchange."""
    for rank in range(2):
        x = 2.4 * rank
        ax.text(
            x + 0.75, 3.1, f"rank {rank}", ha="center", fontsize=10, weight="bold"
        )
        for y, (name, fill) in zip((2.1, 1.05, 0), KEPT.items(), strict=True):
            for part in range(parts):
                colour = fill if parts == 1 or part == rank else "white"
                box = (x + 1.5 * part / parts, y), 1.5 / parts, 0.8
                ax.add_patch(Rectangle(*box, fc=colour, ec="#5A5A58"))
            if name == "gradients":
                for cut in range(1, gradient_parts):
                    height = y + 0.8 * cut / gradient_parts
                    ax.plot([x, x + 1.5], [height] * 2, color="#5A5A58", linewidth=1)
            style = {"ha": "center", "va": "center", "fontsize": 10}
            back = (
                {"fc": fill, "ec": "none", "pad": 1} if gradient_parts > 1 else None
            )
            ax.text(x + 0.75, y + 0.4, name, bbox=back, **style)
    style = {"arrowstyle": "<|-|>", "color": "#222222", "shrinkA": 1, "shrinkB": 1}
    for y in arrows:
        ax.annotate("", (2.4, y), (1.5, y), arrowprops=style)
    ax.set(xlim=(-0.1, 4), ylim=(-0.1, 3.5))
    ax.axis("off")


# %%
figure, axes = plot.new(height=2.3, columns=3)
draw_ranks(axes[0], [1.45])
draw_ranks(axes[1], [1.18, 1.45, 1.72], gradient_parts=3)
draw_ranks(axes[2], [1.45, 2.5], parts=2)
for ax, title in zip(axes, ("all-reduce", "DDP", "FSDP"), strict=True):
    ax.set_title(title)
plot.show(
    figure,
    "By hand, gradients are exchanged after the backward pass, with DDP bucket by "
    "bucket during it; with FSDP each rank keeps half of everything, and weights "
    "travel too.",
    alt="Three drawings of two ranks with weights, gradients and the state of Adam. "
    "First: one arrow between the gradients. Second: the gradients in three "
    "buckets, an arrow for each. Third: each rank keeps half of everything, with "
    "arrows between the gradients and between the weights.",
)

# %% [markdown]
# ## The block
#
# Data parallelism by hand is two functions: one to start alike, and one to average. `broadcast` gives all ranks the value of rank 0,
# `all_reduce` gives them the sum over all. The number of ranks is the *world size*.


# %%
import copy

import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from labs.ddp import shard
from labs.ddp.group import current_place


def start_alike(net):
    for tensor in net.state_dict().values():
        dist.broadcast(tensor, src=0)


def average_gradients(net):
    for parameter in net.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


# %%
def by_hand(rank, images, labels):
    """Return gradients: before and after our exchange, of DDP, of one process."""
    home, world = current_place().device, dist.get_world_size()
    torch.manual_seed(rank)  # on purpose: only the broadcast makes the ranks alike
    net, images, labels = make_net().to(home), images.to(home), labels.to(home)
    start_alike(net)
    wrapper, whole = DistributedDataParallel(copy.deepcopy(net)), copy.deepcopy(net)
    mine = list(shard(len(images), rank, world))
    weight, found = world * len(mine) / len(images), {}  # shards differ in size
    for each in net, wrapper:
        (weight * cross_entropy(each(images[mine]), labels[mine])).backward()
    found["alone"] = flat(net)
    average_gradients(net)
    cross_entropy(whole(images), labels).backward()
    nets = {"by hand": net, "wrapper": wrapper, "one process": whole}
    return found | {name: flat(net) for name, net in nets.items()}


def flat(net):
    return torch.cat([p.grad.flatten().cpu() for p in net.parameters()])


# %% [markdown]
# Now start two real processes. Each is a fresh Python that *imports* what it is to run, and a notebook cannot be imported. So the folded
# `to_module` writes these functions into a module. (In a project of your own they are in a file already. When you edit one of them, run
# its cell and the `launch` again.)

# %% tags=["hide-input"]
import importlib
import inspect
import sys
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

folder = TemporaryDirectory(prefix="lesson-")
sys.path.insert(0, folder.name)  # the ranks search where we search
HEADER = """
import copy
import time
from contextlib import nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from labs.ddp import shard
from labs.ddp.group import current_place
from labs.train import fit
"""


# %% tags=["hide-input"]
def to_module(*functions):
    """Write the functions into a new module, and return the module."""
    source = "\n\n".join([HEADER, *(inspect.getsource(f) for f in functions)])
    name = f"workers_{sha256(source.encode()).hexdigest()[:8]}"
    Path(folder.name, f"{name}.py").write_text(source)
    importlib.invalidate_caches()
    return importlib.import_module(name)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Two ranks, 63 images, so that the shards differ by one. Each rank weights its mean loss by the size of its shard. By how much, relative
# to its size, does the gradient of one rank differ from that of all images: before the exchange, and after it?
# :::

# %%
from labs.ddp import launch

workers = to_module(make_net, start_alike, average_gradients, flat, by_hand)
ranks = launch(workers.by_hand, 2, (x_train[:63], train.labels[:63]))
whole = ranks[0]["one process"]
ways = "alone", "by hand", "wrapper"
pd.DataFrame(
    {k: ((r[k] - whole).norm() / whole.norm()).item() for k in ways} for r in ranks
).rename_axis("rank").map("{:.1e}".format)

# %% [markdown]
# Alone, each rank is far off: it has seen half of the images. After the exchange both hold the gradient of all of them, up to the
# rounding of float32, and so does `DistributedDataParallel`, which wraps the network and exchanges by itself during `backward`. For a
# network and a loss of your own, `labs.ddp.gradient_parity(make_net, loss, batch)` starts the two processes, weights the shards, and
# makes this comparison in one line. Make that call once for each network and loss, before you rent the second device.

# %% tags=["nbval-check-output"]
off = {
    k: max((r[k] - whole).abs().max().item() for r in ranks)
    for k in ("by hand", "wrapper")
}
claim(
    "63 images on two ranks, weighted by shard, all_reduce by hand: the gradient is "
    "that of one process to 1e-6",
    off["by hand"] < 1e-6,
    measured=off["by hand"],
)

# %% tags=["nbval-check-output"]
claim(
    "63 images on two ranks, weighted by shard, in DistributedDataParallel: the "
    "gradient is that of one process to 1e-6",
    off["wrapper"] < 1e-6,
    measured=off["wrapper"],
)

# %% tags=["nbval-check-output"]
claim(
    "two ranks, all_reduce by hand: both hold the same gradient, bit for bit",
    torch.equal(ranks[0]["by hand"], ranks[1]["by hand"]),
    measured=(ranks[0]["by hand"] - ranks[1]["by hand"]).abs().max().item(),
)

# %% [markdown]
# The first cause is ruled out: many devices *can* compute the gradient of one, up to rounding, so the simulation of the symptom was a fair one.
# This holds only for a loss that is a mean over samples, and without the mistakes below.

# %% [markdown]
# ## Debug: the moment at which gradients become equal
#
# When does the exchange happen? Not after the backward pass: that would leave the network idle while the devices compute, and the devices
# idle while it sends. Watch with two hooks. A hook on each parameter fires when its gradient is ready; DDP's *communication hook* fires
# when it sends a bucket. The folded network `out_of_order` lists its layers as `head`, `stem`, `body`, and uses them as `stem`, `body`,
# `head`, on purpose.


# %% tags=["hide-input"]
def out_of_order():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(40, 10)
            self.stem = nn.Linear(30, 40)
            self.body = nn.Linear(40, 40)

        def forward(self, x):
            return self.head(torch.relu(self.body(torch.relu(self.stem(x)))))

    return Net()


def wide():
    torch.manual_seed(0)
    first = nn.Flatten(), nn.Linear(14 * 14, 256), nn.ReLU()
    return nn.Sequential(*first, nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


# %%
from contextlib import nullcontext


def follow(rank):
    """Take three steps, the third in no_sync; return of each what happened."""
    home = current_place().device
    net = out_of_order().to(home)
    ddp = DistributedDataParallel(net, bucket_cap_mb=0.005)
    names, steps = {p: name for name, p in net.named_parameters()}, []

    def send(state, bucket):
        log.append(("--> sent:", [names[p] for p in bucket.parameters()]))
        future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return future.then(lambda done: done.value()[0] / dist.get_world_size())

    def note(p):
        log.append(("ready:", names[p]))
        ready[names[p]] = p.grad.cpu().clone()

    ddp.register_comm_hook(None, send)
    for p in net.parameters():
        p.register_post_accumulate_grad_hook(note)
    x = torch.randn(8, 30, generator=torch.Generator().manual_seed(rank)).to(home)
    for step in range(3):
        log, ready = [], {}
        net.zero_grad()
        with ddp.no_sync() if step == 2 else nullcontext():
            ddp(x).square().mean().backward()
        steps.append((log, ready, {names[p]: p.grad.cpu().clone() for p in names}))
    return steps


# %% [markdown]
# Starting two processes takes longer than running them, so give the same two three more experiments. In the first of them rank 0 has
# three batches and rank 1 has two: the last batch of an epoch that did not divide. This group of processes gives up after five seconds.
# The default depends on who carries the messages: ten minutes with nccl, between GPUs, and half an hour with gloo, between CPUs.


# %%
from datetime import timedelta


def uneven(rank):
    """Train 3 steps on rank 0, 2 on rank 1; return their number and the error."""
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=5))
    net, done = DistributedDataParallel(nn.Linear(3, 2), process_group=group), 0
    try:
        for _ in range(3 - rank):
            net(torch.ones(4, 3)).sum().backward()
            done += 1
    except RuntimeError as error:
        return done, str(error)
    return done, ""


# %% [markdown]
# The other two are for later. `fully_shard` leaves each rank only its part of the weights; train the folded network `wide` with it.
# `clock`, which is folded too, measures how long it takes to add up a vector, and whether six gradients travel faster one by one or as
# one vector. `kept_bytes` counts what a rank keeps between two steps.

# %%
from torch.distributed.fsdp import fully_shard


def descend(net, images, labels):
    """Take six steps of Adam; return the losses, and the bytes kept here."""
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    history = fit(net, [(images, labels)], adam, epochs=6)
    return history.table()["loss"].tolist(), kept_bytes(net, adam)


# %%
def divided(rank, images, labels):
    """Train with a part of the network, and of the images, on each rank."""
    home = current_place().device
    net = wide().to(home)
    for layer in [net[1], net[3], net[5], net]:
        fully_shard(layer)  # gathered for its own passes, then dropped
    mine = list(shard(len(images), rank, dist.get_world_size()))
    return descend(net, images[mine].to(home), labels[mine].to(home))


# %% tags=["hide-input"]
import time


def kept_bytes(net, adam):
    """Count the bytes of weights, gradients and moments that this rank keeps."""
    moments = [v for state in adam.state.values() for v in state.values()]
    kept = [*net.parameters(), *(p.grad for p in net.parameters()), *moments]
    mine = [t.to_local() if hasattr(t, "to_local") else t for t in kept]
    return sum(t.numel() * t.element_size() for t in mine)


def clock(rank):
    """Return seconds: of all_reduce by bytes, of six gradients apart and in one."""
    home, by_bytes = current_place().device, {}
    for n in [4**k for k in range(4, 11)]:
        vector = torch.ones(n, device=home)
        by_bytes[4 * n] = best_time([vector])
    apart = [torch.ones(p.numel(), device=home) for p in make_net().parameters()]
    return by_bytes, best_time(apart, 25), best_time([torch.cat(apart)], 25)


def best_time(vectors, repeats=10):
    times = []
    for _ in range(repeats):
        dist.barrier()
        start = time.perf_counter()
        for vector in vectors:
            dist.all_reduce(vector)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)  # the others also measure what else the machine was doing


# %%
def four_experiments(rank, images, labels):
    seen = follow(rank), clock(rank), uneven(rank), divided(rank, images, labels)
    dist.barrier()  # so that rank 1 does not leave while rank 0 still waits for it
    return seen


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# DDP fills its buckets in the *reverse* order of `net.parameters()`, since the last layers get their gradients first. Here `head` is
# listed first. Which gradients travel first in step 1? And in step 2?
# :::

# %%
needed = follow, uneven, kept_bytes, clock, best_time, wide, descend, divided
workers = to_module(make_net, out_of_order, *needed, four_experiments)
ranks = launch(workers.four_experiments, 2, (x_train[:128], train.labels[:128]))
steps = [r[0] for r in ranks]

# %%
for number, (log, _, _) in enumerate(steps[0], 1):
    print(f"step {number}", *(f"{what} {which}" for what, which in log), sep="\n  ")

# %% [markdown]
# In step 1 DDP does not know the order yet, so it waits for the last gradient, and sends one bucket. It has noted the order in which the
# gradients *arrived*, and from step 2 on the buckets follow it: the first one, with `head`, leaves while `stem` is still being computed.
# That is how the exchange hides behind the computation. In step 3, nothing is sent: `no_sync` is for accumulation, where only the last of
# several backward passes should exchange.
#
# Compare the two ranks: each gradient at the moment it was ready, and at the end of `backward`.


# %%
def gap(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


rows = [
    {"ready": gap(a[1], b[1]), "end of backward": gap(a[2], b[2])}
    for a, b in zip(*steps, strict=True)
]
gaps = pd.DataFrame(rows, index=pd.RangeIndex(1, 4, name="step"))
gaps.map("{:.1e}".format)

# %% [markdown]
# When a gradient is ready, the ranks still disagree. At the end of `backward` the difference is exactly zero, in the steps that exchange.
# So `backward` itself is the moment, and a hook that reads `.grad` *inside* it reads the gradient of one rank. Clip, log and compare only
# after it.

# %% tags=["nbval-check-output"]
order = [[e[1] for e in log if "sent" in e[0]] for log, _, _ in steps[0]]
kinds = [[e[0].strip("-> :") for e in log] for log, _, _ in steps[0]]
claim(
    "DDP sends nothing in its first step before the last gradient is ready",
    len(order[0]) == 1 and kinds[0][-1] == "sent",
    measured=order[0],
)

# %% tags=["nbval-check-output"]
claim(
    "from the second step on DDP sends the first bucket before the last gradient is "
    "ready",
    kinds[1].index("sent") < len(kinds[1]) - 1 - kinds[1][::-1].index("ready"),
    measured=kinds[1],
)

# %% tags=["nbval-check-output"]
claim(
    "inside no_sync DDP sends nothing, and the gradients of the ranks stay apart",
    not order[2] and gaps["end of backward"][3] > 0,
    measured=gaps["end of backward"][3],
)

# %% tags=["nbval-check-output"]
claim(
    "after a backward pass with exchange the gradients of the ranks are equal, bit "
    "for bit",
    gaps["end of backward"][:2].max() == 0,
    measured=gaps["end of backward"][:2].max(),
)

# %% tags=["nbval-check-output"]
claim(
    "a hook that reads a gradient inside backward reads that of one rank, not the "
    "mean",
    gaps["ready"].min() > 0,
    measured=gaps["ready"].min(),
)

# %% [markdown]
# ### Small batches, added up
#
# When the batch that a recipe wants does not fit, add up the gradients of several backward passes before one step. It is the same mean,
# in time instead of in space, with the same trap: micro-batches of different sizes. `labs.ddp.accumulate` gives each its weight, enters
# `no_sync` for all but the last, and works without a group too.

# %%
from labs.ddp import accumulate
from labs.train import cross_entropy as mean_loss

net, weights, first = make_net(), [], (x_train[:64], train.labels[:64])
parts = zip(*(tensor.split([32, 24, 8]) for tensor in first), strict=True)
for micro in accumulate(net, parts, steps=3):
    (micro.weight * mean_loss(net, micro.batch)).backward()
    weights.append(micro.weight)
added_up = flat(net)
print("weights", weights)

# %% [markdown]
# The weights are the shares of the images. The sum is the gradient of all images at once:

# %% tags=["nbval-check-output"]
at_once = torch.autograd.grad(mean_loss(net, first), list(net.parameters()))
apart = (added_up - torch.cat([g.flatten() for g in at_once])).abs().max().item()
claim(
    "micro-batches of 32, 24 and 8, weighted by size: the gradient of all 64 to 1e-6",
    apart < 1e-6,
    measured=apart,
)

# %% [markdown]
# ### Ranks with different numbers of batches
#
# Back to the two processes with three batches and two.
#
# :::{admonition} Predict
# :class: predict
# Rank 1 has finished its two steps. What does rank 0 do in its third? And what does rank 1 report?
# :::

# %%
[(done, error.split("]")[-1].strip()) for _, _, (done, error), _ in ranks]

# %% [markdown]
# Each pair is the number of steps and the error. Rank 0 waited for a partner that had already finished. It did not notice; it timed out,
# and rank 1 reports nothing at all. With the default timeout, this is the job that "hangs at
# the end of the epoch". `all_reduce` has no idea who takes part: every rank has to make the same calls in the same order. The same
# happens when a call stands inside `if rank == 0:`. Give every rank equally many batches, or let `labs.ddp.accumulate` compare the counts
# before each step, so that every rank stops with a sentence instead. PyTorch's `Join` context lets early ranks shadow the calls of the
# others.

# %% tags=["nbval-check-output"]
claim(
    "a rank that runs out of batches first ends without an error",
    ranks[1][2] == (2, ""),
    measured=ranks[1][2],
)
claim(
    "a rank with one batch more than its partner waits until the timeout",
    ranks[0][2][0] == 2 and ranks[0][2][1] != "",
    measured=ranks[0][2],
)

# %% [markdown]
# ### Who sees which sample
#
# For the rest no process is needed: a `DistributedSampler` only wants to be told the world size and the rank. Deal ten samples to four
# ranks.

# %%
from torch.utils.data import DistributedSampler


def padded(rank, world, n):
    return DistributedSampler(range(n), world, rank, shuffle=False)


dealt = [list(padded(rank, 4, 10)) for rank in range(4)]
pd.DataFrame(dealt).rename_axis("rank")

# %% [markdown]
# Twelve places, ten samples: the first two were dealt twice, so that all ranks get equally many. In training that is harmless (or pass
# `drop_last=True`). In *evaluation* those two count twice, and the accuracy depends on how many devices measured it. The bug was met in
# [pytorch/vision#4559](https://github.com/pytorch/vision/issues/4559). `labs.ddp.shard` deals unevenly, each sample once, and
# `gather_exact` puts the answers together again.

# %%
hits, worlds = right[8][:101], pd.Index([1, 4, 16, 64], name="ranks")


def accuracy_by(deal):
    """Deal 101 images to more and more ranks; return the accuracy over all places."""
    dealt = [[i for rank in range(n) for i in deal(rank, n, 101)] for n in worlds]
    return [hits[places].mean().item() for places in dealt]


deals = {"padded": padded, "exact": lambda rank, world, n: shard(n, rank, world)}
scores = pd.DataFrame({k: accuracy_by(d) for k, d in deals.items()}, index=worlds)
scores.round(4)

# %% [markdown]
# The network is that of the symptom, the same in every row. With padding its accuracy on 101 images changes with the number of ranks; dealt exactly, it does not.

# %% tags=["nbval-check-output"]
drawn = [sample for samples in dealt for sample in samples]
claim(
    "DistributedSampler deals 10 samples to 4 ranks as 12: two are dealt twice",
    (len(drawn), len(set(drawn))) == (12, 10),
    measured=drawn,
)

# %% tags=["nbval-check-output"]
claim(
    "DistributedSampler: the accuracy on the same 101 images depends on the number "
    "of ranks",
    scores["padded"].nunique() > 1,
    measured=scores["padded"].tolist(),
)

# %% tags=["nbval-check-output"]
claim(
    "labs.ddp.shard: the accuracy on 101 images is the same for 1, 4, 16 and 64 "
    "ranks",
    scores["exact"].nunique() == 1,
    measured=scores["exact"].tolist(),
)

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# A shuffling sampler draws its order from its seed. Which samples does rank 0 get in the first three epochs?
# :::

# %%
sampler = DistributedSampler(range(1000), 2, 0, seed=0)
firsts = {"without set_epoch": [], "with set_epoch": []}
for name, seen in firsts.items():
    for epoch in range(3):
        if name == "with set_epoch":
            sampler.set_epoch(epoch)
        seen.append(list(sampler)[:6])
pd.DataFrame(firsts).rename_axis("epoch")

# %% [markdown]
# Without `set_epoch` every epoch has the same order ([pytorch/pytorch#31771](https://github.com/pytorch/pytorch/issues/31771)):
# each rank sees only *its* half of the data, in the same batches. The sampler cannot draw from the random state of its process, as a
# normal one does, because then the ranks would draw different orders, and their shards would overlap. It needs a number that all ranks
# agree on.

# %% tags=["nbval-check-output"]
claim(
    "a shuffling DistributedSampler repeats its order in every epoch without "
    "set_epoch",
    len({tuple(ids) for ids in firsts["without set_epoch"]}) == 1,
    measured=firsts["without set_epoch"],
)
claim(
    "a shuffling DistributedSampler has another order in each of three epochs with "
    "set_epoch",
    len({tuple(ids) for ids in firsts["with set_epoch"]}) == 3,
    measured=firsts["with set_epoch"],
)

# %% [markdown]
# ### A layer that looks at its whole batch
#
# The proof above needs a loss in which samples do not see each other. Batch normalisation breaks that: it normalises by the mean and
# variance of the batch *it sees*, which is the shard. Simulate devices with fewer and fewer images each, always 64 in all, and compare
# the averaged gradient with that of the whole batch, for five networks and batches.


# %%
def gradient_of(loss, net):
    found = torch.autograd.grad(loss, list(net.parameters()))
    return torch.cat([g.flatten() for g in found])


def shard_gap(make_norm, size, seed):
    seed_everything(seed)
    net, rows = make_net(), torch.randperm(len(x_train))[:64]
    net.insert(1, make_norm(8))
    parts = [(x_train[mine], train.labels[mine]) for mine in rows.split(size)]
    averaged = sum(gradient_of(mean_loss(net, p), net) for p in parts) / len(parts)
    whole = gradient_of(mean_loss(net, (x_train[rows], train.labels[rows])), net)
    return ((averaged - whole).norm() / whole.norm()).item()


# %%
sizes, seeds = [32, 16, 8, 4, 2], range(5)
norms = {"batch norm": nn.BatchNorm2d, "group norm": lambda c: nn.GroupNorm(2, c)}
gaps_of = {
    name: pd.DataFrame([[shard_gap(make, n, s) for s in seeds] for n in sizes])
    for name, make in norms.items()
}
distance = pd.DataFrame({name: table.mean(axis=1) for name, table in gaps_of.items()})

# %%
figure, ax = plot.new(height=3)
for name, colour in zip(norms, plot.COLOURS, strict=False):
    ax.loglog(sizes, distance[name], "o-", color=colour, label=name)
ax.set(
    xlabel="images per device",
    ylabel="relative gradient difference",
    xticks=sizes,
    xticklabels=sizes,
)
ax.minorticks_off()
ax.invert_xaxis()
ax.legend()
plot.show(
    figure,
    "On average over five seeds the averaged gradient moves away from that of the "
    "whole batch with batch norm, as devices hold fewer images; with group norm it "
    "stays at rounding error.",
)

# %% [markdown]
# Group norm stays at rounding error: it looks at one image at a time. With one batch norm the gradient is another one, far beyond
# rounding, and it moves away as the shards shrink. Detectors often train with two images per device. `nn.SyncBatchNorm` repairs it: the
# ranks add up three numbers per channel, the count, the sum and the sum of squares, and have the mean and variance of the whole batch from them.
# PyTorch's `SyncBatchNorm` works on GPUs only; call `nn.SyncBatchNorm.convert_sync_batchnorm(net)` before you wrap the network. On a CPU,
# `labs.ddp_train --sync-bn` refuses with a sentence.

# %% tags=["nbval-check-output"]
claim(
    "with group norm, shards of 2 to 32 images give the gradient of the whole "
    "batch, to 1e-4, on average over five seeds",
    distance["group norm"].max() < 1e-4,
    measured=distance["group norm"].max(),
)

# %% tags=["nbval-check-output"]
least = gaps_of["batch norm"].iloc[-1].min()
claim(
    "with one batch norm and 2 images per device, the gradient is more than 5 % off "
    "in each of five seeds",
    least > 0.05,
    measured=least,
)

# %% [markdown]
# ## Experiment
#
# ### Start it with `torchrun`
#
# `labs.ddp_train` is a whole trainer built from these pieces. `torchrun` starts one process per device, tells each its rank in
# environment variables, and, with `--max-restarts`, starts all of them again when one dies. It is the same as `python -m
# torch.distributed.run`. On one machine, `torchrun --standalone --nproc-per-node=2 -m labs.ddp_train` is all. For two machines you start
# it once on each, and tell both where the first one is. Do that for real, with both "machines" on this one: the address is the loopback
# interface. Each step is accumulated from two micro-batches. `free_port` and `run_all` are folded: they find a free port, and start both
# programs at once.

# %% tags=["hide-input"]
import socket
import subprocess


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_all(commands):
    """Start all programs, wait for all, and return them with what each printed."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    programs = [subprocess.Popen(command, **pipes) for command in commands]
    try:
        said = [program.communicate(timeout=300) for program in programs]
    finally:
        for program in programs:
            program.kill()
    for program, (_, trouble) in zip(programs, said, strict=True):
        assert program.returncode == 0, trouble[-2000:]
    return [out.strip() for out, _ in said]


# %%
torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
meet = f"--nproc-per-node=1 --master-addr=127.0.0.1 --master-port={free_port()}"
program = "-m labs.ddp_train --epochs 1 --limit 1024 --accumulate 2"
nodes = [f"{meet} --node-rank={node} {program}".split() for node in range(2)]
said = run_all([*torchrun, *node] for node in nodes)
print(*(out or "(nothing)" for out in said), sep="\n")

# %% [markdown]
# Only rank 0 prints, so the second machine is silent. Now the same trainer in this process, without a group: the global batch is a
# setting, and does not depend on who shares it. To know which difference would mean something, train with two other seeds as well.

# %%
from labs.ddp import Place
from labs.ddp_train import Settings, train as train_digits


def alone(seed):
    settings = Settings(epochs=1, limit=1024, accumulate=2, seed=seed)
    return train_digits(settings, Place(0, 1, 0, device()))


runs = [alone(seed) for seed in range(3)]

# %% tags=["nbval-check-output"]
words = said[0].split()
together = dict(zip(words[::2], map(float, words[1::2]), strict=True))
claim(
    "two torchrun nodes on loopback: both end well, and only the first prints",
    said[0].count("epoch") == 1 and not said[1],
    measured=said,
)

# %% tags=["nbval-check-output"]
claim(
    "two torchrun nodes take as many steps as one process",
    together["step"] == runs[0].step,
    measured=(together["step"], runs[0].step),
)

# %% [markdown]
# The two machines took as many steps as one process. Compare their accuracy with that of seed 0. They need not be equal: the network has
# batch norms, and each rank normalised by its own micro-batches. A difference smaller than those between the three seeds says nothing.
# On two machines with eight GPUs each, the line becomes
#
# ```text
# torchrun --nnodes=2 --node-rank=0 --nproc-per-node=8 --master-addr=HOST --master-port=29500 -m labs.ddp_train
# ```
#
# with `--node-rank=1` on the other machine. Add `--max-restarts=3` outside and `--checkpoint FOLDER --save-every 50 --resume` inside, and
# a rank that dies costs at most 50 steps.
#
# ### The second cause: the learning rate
#
# The gradient is right, so back to the symptom. Eight times as many images per step make an eighth of the steps. The gradient is less
# noisy, but a step is not longer. Change one variable, the `rule` for the learning rate: unchanged; *linear*, that is, times the number
# of devices; twice that, as a control; and linear with a *warm-up* from near zero during the first quarter.

# %%
from labs.ablation import ablate


def train_and_score(devices, rule, lr):
    return {"accuracy": train_on(devices, rule, lr).float().mean().item()}


study = ablate(
    train_and_score,
    base={"devices": 8, "rule": "linear", "lr": 0.02},
    vary="rule",
    values=["unchanged", "linear", "twice linear", "linear + warm-up"],
    seeds=range(budget(cpu=5, gpu=8)),
)
study.table("accuracy").drop(columns="failed").round(3)

# %%
figure, ax = plot.new(height=3)
study.plot(ax, "accuracy")
ax.axhline(accuracy[1], color=plot.COLOURS[2], linestyle=":", label="one device")
ax.set(ylabel="test accuracy", xlabel="rule for the learning rate")
ax.legend(loc="lower center")
plot.show(
    figure,
    "Eight devices lose much accuracy with the rate of one device, and come near one "
    "device with eight times the rate or more, with a warm-up or without.",
)

# %%
print(study.verdict("accuracy"))
print(f"it would find, with 80 % power, {study.detectable('accuracy'):.3f}")

# %% [markdown]
# Each dot is one seed; the verdict compares each rule with the linear one. With a rate eight times as large, eight devices come close to
# one device in an eighth of the steps. The bug of the symptom was no bug of the communication; it was a setting that silently meant
# something else. But the control does better still than the linear rule. The rule carries a rate over to more devices; it does not find
# the best one, and nobody had tuned the rate of one device here. With a warm-up nothing more is gained that these seeds could show. Read the last line before you say "it does nothing": the study is likely to miss a difference smaller than
# that one, which pools the spread of all arms.

# %% tags=["nbval-check-output"]
table, arms = study.table("accuracy"), 3
gain = table["mean"]["linear"] - table["mean"]["unchanged"]
claim(
    "eight devices: the scaled rate gains at least 10 points on the unscaled one",
    gain > 0.1 and arms * table["p"]["unchanged"] < 0.05,
    measured=(gain, table["p"]["unchanged"]),
)
claim(
    "eight devices, rate of one device not tuned: twice the linear rate is better "
    "than the linear rate",
    table["delta"]["twice linear"] > 0,
    measured=table["delta"].to_dict(),
)
warmed = table.loc["linear + warm-up"]
claim(
    "eight devices, scaled rate, four epochs: a warm-up moves a mean accuracy over "
    "80 % by under 3 points",
    table.loc["linear", "mean"] > 0.8 and abs(warmed["delta"]) < 0.03,
    measured=(table.loc["linear", "mean"], warmed["delta"], warmed["p"]),
)

# %% [markdown]
# ### How far does it scale?
#
# The two processes also measured their exchange. The *alpha-beta model* says: a message of $b$ bytes takes $\alpha + b/\beta$, with the
# latency $\alpha$ and the bandwidth $\beta$. A ring of $n$ devices makes $2(n-1)$ steps with $b/n$ bytes each:
#
# $$T_\text{ring} = 2(n-1)\,\alpha + \frac{2(n-1)}{n}\,\frac{b}{\beta}.$$
#
# Fit $\alpha$ and $\beta$ to what the two ranks measured ($n = 2$), by relative error, so that small messages count as much as large
# ones.

# %%
import numpy as np

by_bytes, one_by_one, in_one = ranks[0][1]
sizes, times = np.array(list(by_bytes)), np.array(list(by_bytes.values()))
columns = np.stack([np.full(len(sizes), 2.0), sizes], axis=1) / times[:, None]
(alpha, per_byte), *_ = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)


# %%
def ring_time(n, size, latency, seconds_per_byte):
    return 2 * (n - 1) * latency + 2 * (n - 1) / n * size * seconds_per_byte


# %%
figure, ax = plot.new(height=3)
ax.loglog(sizes, times * 1e3, "o", color=plot.COLOURS[0], label="measured")
ax.loglog(
    sizes,
    ring_time(2, sizes, alpha, per_byte) * 1e3,
    color=plot.COLOURS[1],
    label="alpha-beta model",
)
ax.set(xlabel="bytes", ylabel="time of one all_reduce (ms)")
ax.legend()
plot.show(
    figure,
    "The time of an all_reduce hardly changes for small vectors, and grows with the "
    "bytes of large ones.",
)

# %% [markdown]
# Nearly flat on the left, a rising line on the right: below some size, a message costs about the same however small it is. That is why DDP packs
# gradients into buckets. The two ranks measured that as well.

# %%
print(f"six gradients, one by one: {1e3 * one_by_one:.2f} ms")
print(f"as one vector: {1e3 * in_one:.2f} ms")

# %% [markdown]
# The same bytes, and a multiple of the time.

# %% tags=["nbval-check-output"]
claim(
    "six small gradients sent one by one take at least 1.5 times as long as in one "
    "vector",
    one_by_one > 1.5 * in_one,
    measured=(one_by_one, in_one),
)
dearer = (times[0] / sizes[0]) / (times[-1] / sizes[-1])
claim(
    "between two processes a byte of the smallest message costs at least ten times "
    "one of the largest",
    dearer > 10,
    measured=dearer,
)

# %% [markdown]
# Take ResNet-50, and devices that compute a step in 40 ms. Each adds its own batch (*weak
# scaling*), so perfect efficiency would be 1: the time of computing, divided by the time of computing and exchanging. Compare the link you
# just measured with a common office network, and with what data centres put between GPUs (nominal values).

# %%
from labs.models import resnet50

with torch.device("meta"):
    size = 4 * sum(p.numel() for p in resnet50().parameters())
COMPUTE = 0.040  # seconds per step
LINKS = {  # seconds per message, seconds per byte
    "this machine, gloo": (alpha, per_byte),
    "10 Gbit/s": (30e-6, 8 / 10e9),
    "400 Gbit/s": (5e-6, 8 / 400e9),
}
n = 2 ** np.arange(1, 13)
figure, ax = plot.new(height=3.2)
for (name, link), colour in zip(LINKS.items(), plot.COLOURS, strict=False):
    exchange = ring_time(n, size, *link)
    serial = COMPUTE / (COMPUTE + exchange)
    hidden = COMPUTE / np.maximum(COMPUTE, exchange)
    ax.fill_between(n, serial, hidden, color=colour, alpha=0.3, label=name)
ax.set_xscale("log", base=2)
ax.set(xlabel="devices", ylabel="efficiency", ylim=(0, 1.05))
ax.legend(loc="center")
plot.show(
    figure,
    "By the alpha-beta model the link decides how far ResNet-50 scales, and with "
    "many devices the latency of the ring.",
    alt="Efficiency by the number of devices for three links, each a band from no "
    "overlap of computation and exchange to full overlap.",
)

# %% [markdown]
# The lower edge of a band is an exchange after the computation, the upper edge one that hides behind it, as the buckets do. From four
# devices to some dozens the curves are almost flat: the volume per device stays below two gradients. On the right the other term wins:
# the ring has $2(n-1)$ steps in a row, so latency grows with the number of devices however small the chunks become. Real libraries switch
# to trees there (exercise 1).

# %% [markdown]
# These are curves of a formula, and the office network and the data centre are nominal values: no claim is made of them. Put in what you
# measure on your own link.
#
# ### When the network does not fit: shard the weights
#
# DDP keeps all weights, all gradients and all of Adam's moments on every device. `fully_shard` (FSDP) keeps a part of each, gathers the
# weights of a layer just before it is used, and sends each part of the gradient to the rank that keeps it. The two ranks trained that
# way too, half of the 128 images each. Train the same network here, in one process, on all of them.
#
# :::{admonition} Predict
# :class: predict
# By how much will the losses differ? And what will a rank keep, of the weights, the gradients and the moments?
# :::

# %%
halves = [r[3] for r in ranks]
losses, kept = descend(wide(), x_train[:128], train.labels[:128])
sharded = np.mean([half[0] for half in halves], axis=0)
print(f"one process keeps {kept:,} bytes, the ranks", [half[1] for half in halves])
pd.DataFrame({"one process": losses, "two ranks, sharded": sharded})

# %% [markdown]
# A rank keeps half of the bytes, and the losses of all six steps agree to rounding: it is the same average of the same gradients,
# only stored elsewhere. The price is traffic: weights travel as well, twice in a step.

# %% tags=["nbval-check-output"]
apart = np.abs(sharded - losses)
claim(
    "fully_shard on two ranks: six steps of Adam have the losses of one process, to "
    "1e-5",
    apart.max() < 1e-5,
    measured=apart.max(),
)
most = max(half[1] for half in halves) / kept
claim(
    "fully_shard on two ranks: no rank keeps more than 55 % of weights, gradients "
    "and moments",
    most < 0.55,
    measured=most,
)

# %% [markdown]
# ### Half the bits: autocast, and why the loss is scaled
#
# The other way to make room is to compute in 16 bits. `torch.autocast` runs matrix products and convolutions in 16 bits and keeps the
# weights, their gradients and the loss in 32. There are two kinds of 16 bits.

# %%
kinds = "float32", "float16", "bfloat16"
infos = {kind: torch.finfo(getattr(torch, kind)) for kind in kinds}
facts = {k: [f.smallest_normal * f.eps, f.max, f.eps] for k, f in infos.items()}
pd.DataFrame(facts, ["smallest", "largest", "step at 1"]).T.map("{:.0e}".format)

# %% [markdown]
# `float16` has fine steps and a short range; `bfloat16` has the range of `float32` and coarse steps. The range is what gradients need. A
# mean over many pixels gives each of them a tiny gradient. Here is such a loss: which pixels are ink? It is an auxiliary term, with a
# weight of 0.01. At one output of the network, its gradient is at most that weight, divided by the number of pixels.

# %%
pixels = train.images[:400].to(device())
ink = (pixels[:, 0] > 0.5).long()  # [400,28,28]
seed_everything(0)
layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)
painter = nn.Sequential(*layers).to(device())


def ink_loss(kind):
    with torch.autocast(device().type, dtype=kind, enabled=kind != torch.float32):
        return 0.01 * cross_entropy(painter(pixels), ink)


print(f"at most {0.01 / ink.numel():.0e}")

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Compare this number with the table. The loss, and so its gradient, may be multiplied first, and the result divided again. In which of the
# four ways is the gradient lost: bf16, fp16, fp16 with the loss times 65,536, fp16 with the loss times a billion?
# :::

# %%
half = torch.float16
ways = {"float32": (torch.float32, 1), "bf16": (torch.bfloat16, 1), "fp16": (half, 1)}
ways |= {f"fp16, loss times 2**{k}": (half, 2.0**k) for k in (16, 30)}
got = {k: gradient_of(by * ink_loss(t), painter) / by for k, (t, by) in ways.items()}
exact = got.pop("float32")
off = {name: ((g - exact).norm() / exact.norm()).item() for name, g in got.items()}
zero = {name: (g == 0).float().mean().item() for name, g in got.items()}
pd.DataFrame({"relative error": off, "share of zeros": zero}).map("{:.2g}".format)

# %% [markdown]
# In fp16 every value of the gradient is zero, and nothing says so: the network would simply not learn this term. A larger loss lifts the
# gradients into the range, until they overflow. bf16 needs no scale at all; how near it comes depends on how your processor adds up its
# coarse steps. Which scale is right changes during training, so `GradScaler`
# searches. Its `step` divides the gradients by the scale, and skips a step whose gradient is not finite; then its `update` halves the
# scale. After many good steps it doubles the scale. Start it far too high.

# %%
scaler = torch.amp.GradScaler(device().type, init_scale=2.0**30)
sgd = torch.optim.SGD(painter.parameters(), lr=0.1)
steps = []
for _ in range(10):
    before, scale = painter[0].weight.detach().clone(), scaler.get_scale()
    sgd.zero_grad()
    scaler.scale(ink_loss(torch.float16)).backward()
    scaler.step(sgd)
    scaler.update()
    moved = not torch.equal(before, painter[0].weight)
    steps.append({"scale": f"2**{np.log2(scale):.0f}", "weights moved": moved})
pd.DataFrame(steps).rename_axis("step")

# %% [markdown]
# The first steps are lost, and the weights stay as they were. Then the scale fits, and training goes on.

# %% tags=["nbval-check-output"]
claim(
    "a loss over 300,000 pixels, weight 0.01: in fp16 its whole gradient rounds to "
    "zero",
    zero["fp16"] == 1,
    measured=zero["fp16"],
)

# %% tags=["nbval-check-output"]
claim(
    "the same gradient is within 2 % of float32 in fp16 with the loss scaled up",
    off["fp16, loss times 2**16"] < 0.02,
    measured=off,
)
claim(
    "the same gradient is within 15 % of float32 in bf16, with no scale",
    off["bf16"] < 0.15,
    measured=off,
)

# %% tags=["nbval-check-output"]
went = [step["weights moved"] for step in steps]
claim(
    "GradScaler leaves the weights alone while gradients overflow, and then trains "
    "on",
    not went[0] and went[-1] and went == sorted(went),
    measured=steps,
)

# %% [markdown]
# ## Reproduce: large batches, linear scaling and warm-up
#
# **The paper says.** {cite:t}`goyal2017accurate` train ResNet-50 on ImageNet with a learning rate proportional to the batch, and a
# warm-up of five epochs. The error stays the same from batches of 64 to 8,192, and then rises. Without the warm-up, the large batch ends
# clearly worse.
#
# **We measure** the linear rule on more and more devices, with the same four epochs. The warm-up you have seen in the ablation.

# %%
growing = ablate(
    train_and_score,
    base={"devices": 1, "rule": "linear", "lr": 0.02},
    vary="devices",
    values=[1, 4, 16, 64],
    seeds=range(budget(cpu=3, gpu=6)),
)
print(growing.verdict("accuracy"))
by_seed = growing.frame().pivot(index="seed", columns="devices", values="accuracy")
by_seed.round(3)

# %%
figure, ax = plot.new(height=3)
growing.plot(ax, "accuracy")
ax.axhline(0.1, color="0.5", linestyle=":", label="guessing")
ax.legend(loc="lower left")
ax.set(ylabel="test accuracy")
plot.show(
    figure,
    "With the linear rule four devices stay close to one, sixteen lose a few "
    "points, and sixty-four lose most of the accuracy.",
)

# %% [markdown]
# The verdict compares each arm with one device; the table shows the runs. With four devices little is lost, with sixteen a few points in
# every run, and with 64 every run is far behind. But 64 devices differ from one in two ways: they take fewer steps, and each step has a
# much larger rate. A control takes the two apart: keep the 64 devices and their few steps, and lower the rate.
#
# :::{admonition} Predict
# :class: predict
# Which rate is best for 64 devices: the linear one, or a fraction of it? And does the best one reach the accuracy of one device?
# :::

# %%
rates = ablate(
    train_and_score,
    base={"devices": 64, "rule": "linear", "lr": 0.02},
    vary="lr",
    values=[0.02, 0.01, 0.005],
    seeds=range(budget(cpu=3, gpu=6)),
)
print(rates.verdict("accuracy"))
rates.table("accuracy")[["mean", "std", "n"]].round(3)

# %% [markdown]
# The rates are those of one device; all arms multiply them by 64. Half of the linear rate does far better than the linear rate, so a good
# part of what was lost was lost by the rule: the rate is too large to train with. A quarter does worse again, because so few steps of that
# length do not go far. None of the three comes near one device: what is left is the price of few steps, or of a rate that these three did
# not hit.

# %% tags=["nbval-check-output"]
mean = growing.table("accuracy")["mean"]
lost = (by_seed[1] - by_seed[4]).abs().max()
claim(
    "four devices, scaled rate: no seed is more than 3 points from one device, whose "
    "mean is over 90 %",
    mean[1] > 0.9 and lost < 0.03,
    measured=(mean[1], lost),
)

# %% tags=["nbval-check-output"]
eight = mean[1] - study.table("accuracy")["mean"]["linear"]
claim(
    "eight devices, scaled rate: within 4 points of one device on average, which is "
    "over 90 %",
    mean[1] > 0.9 and abs(eight) < 0.04,
    measured=(mean[1], eight),
)

# %% tags=["nbval-check-output"]
claim(
    "sixteen devices, scaled rate: 1 to 12 points lost on average in the same epochs",
    0.01 < mean[1] - mean[16] < 0.12,
    measured=mean[1] - mean[16],
)
claim(
    "sixty-four devices, scaled rate: at least 20 points lost in the same epochs, "
    "with each seed",
    (by_seed[1] - by_seed[64]).min() > 0.2,
    measured=(by_seed[1] - by_seed[64]).tolist(),
)
slower = rates.table("accuracy")["mean"]
claim(
    "sixty-four devices, four epochs: half of the linear rate gains at least 10 "
    "points on the linear rate",
    slower[0.01] > slower[0.02] + 0.1,
    measured=slower.to_dict(),
)
claim(
    "sixty-four devices, four epochs: the best of three rates is at least 5 points "
    "behind one device",
    slower.max() < mean[1] - 0.05,
    measured=(mean[1], slower.to_dict()),
)

# %% [markdown]
# **Why they differ.** The first finding appears: near one device for a while, then a fall. But here the fall begins early. With 64 devices,
# four epochs are not even twenty steps, and the control shows that the linear rate itself is too large by then; the largest batch of the
# paper still takes well over a thousand steps. The second does not appear: at eight devices next to nothing is left that a warm-up could
# gain, and in so short a run it takes a quarter of the steps. In the paper, the warm-up is a small part of the training. A recipe holds
# for the network that it was written for, so measure it on yours.

# %% [markdown]
# ## Bug hunt: the clipping that shrank every step
#
# **Difficulty** 2 of 3 · **Importance** 3 of 3 · **Time** 25 min
#
# You have seen why a `GradScaler` multiplies the loss by a large number before `backward`, and divides the gradients by it before the
# step. The function below trains with it, accumulates, and *clips* the gradient: if it is longer than `max_norm`, it is shortened to that
# length. It raises nothing, and the loss goes down, but slowly. The bug was met in
# [milesial/Pytorch-UNet#468](https://github.com/milesial/Pytorch-UNet/issues/468), and in PyTorch's own examples,
# [pytorch/examples#1196](https://github.com/pytorch/examples/issues/1196).

# %% tags=["hunt-bug"]
from torch import nn


def train_step(model, optimizer, scaler, micro_batches, loss_fn, max_norm):
    """Step on all micro-batches; return the gradient's norm before clipping."""
    optimizer.zero_grad()
    samples = sum(len(labels) for _, labels in micro_batches)
    for images, labels in micro_batches:
        loss = loss_fn(model(images), labels) * len(labels) / samples
        scaler.scale(loss).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    return norm.item()


# %%
from labs.hunts.engineering import check_clipped_step

check_clipped_step(train_step)

# %% [markdown]
# The accumulation is right, and what overflows is skipped. Repair the rest in the cell of the function, and run both cells until every probe passes.
#
# :::{dropdown} Hint 1
# Print what the function returns, for two scalers with different `init_scale`. Which number should it not depend on?
# :::
#
# :::{dropdown} Hint 2
# In which units are the gradients when they are compared with `max_norm`? And when the optimizer uses them?
# :::
#
# :::{dropdown} Hint 3
# The scaler can divide earlier, once per step, and remembers that it did. Dividing yourself would make it divide twice, and calling the
# optimizer yourself would lose the check for infinities.
# :::

# %% tags=["hunt-solution", "hide-cell"]
from torch import nn


def step_in_true_units(model, optimizer, scaler, micro_batches, loss_fn, max_norm):
    """Step on all micro-batches; return the gradient's norm before clipping."""
    optimizer.zero_grad()
    samples = sum(len(labels) for _, labels in micro_batches)
    for images, labels in micro_batches:
        loss = loss_fn(model(images), labels) * len(labels) / samples
        scaler.scale(loss).backward()
    # Once, when all micro-batches are in: now max_norm is in true units.
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    return norm.item()


# %% tags=["nbval-check-output"]
verdict = check_clipped_step(step_in_true_units)
claim(
    "unscale once, then clip: the step does not depend on the scale of the loss",
    verdict.passed,
    measured=verdict,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** A tree adds up in $2 \log_2 n$ messages in a row. Put a tree of latency $2 \log_2 n \, \alpha$ and the volume of the
# ring into the model. From how many devices on does it take half the time of the ring, on the fast link?
#
# :::{dropdown} Solution 1
# The volume costs both the same, so the tree wins as soon as the latency matters. The next cell prints the first such number among the
# powers of two.
# :::

# %% tags=["hide-cell"]
latency, seconds_per_byte = LINKS["400 Gbit/s"]
tree = 2 * np.log2(n) * latency + 2 * (n - 1) / n * size * seconds_per_byte
n[np.argmax(tree < ring_time(n, size, latency, seconds_per_byte) / 2)].item()

# %% [markdown]
# **Exercise 2.** Every rank of a program calls `seed_everything(0)`, builds the network, and trains with dropout and random crops. What
# is wrong with it? Show it with two generators, and say in which order to seed.
#
# :::{dropdown} Solution 2
# All ranks draw the same crops and drop the same units, so that the noise does not average out: `torch.rand(3,
# generator=torch.Generator().manual_seed(0))` is the same wherever you call it. Seed alike, build the network, then seed with `seed +
# rank`. DDP copies the weights of rank 0 anyway, so a different seed per rank would not spoil them; it is the noise after it that has to
# differ. (`labs.ddp_train` seeds each step from the step and the rank, so that a resumed run draws what it would have drawn.)
# :::
#
# **Exercise 3.** A feature pyramid has five levels, and the loss uses four. One process trains. With DDP, the second step raises
# *Expected to have finished reduction in the prior iteration*. Why the second? Find the guilty layer in one process.
#
# :::{dropdown} Solution 3
# The gradient of the fifth level is never ready, so its bucket is never sent; DDP notices when the next forward pass begins. After one
# backward pass, list `[name for name, p in model.named_parameters() if p.grad is None]`. Remove or freeze those layers;
# `find_unused_parameters=True` searches the graph in every step. `gradient_parity` raises with their names.
# :::

# %% [markdown]
# ## In practice
#
# - Prove it once: `gradient_parity` on your network and loss, before you rent the second GPU. A loss that is a mean over boxes or pixels
#   is not a mean of means; divide by the count over *all* ranks.
# - `set_epoch` in every epoch; `drop_last=True` in training; shards without padding in evaluation; save, log and draw progress on rank 0,
#   and never put a collective call there.
# - Accumulate within `no_sync`, weighted by size. With mixed precision: scale, `backward`, unscale, clip, step. In DDP the place of clipping is the same: after the last `backward`, when
#   all ranks hold the same gradient. `labs.ddp_train.take_step` does it in this order. Prefer bf16 where the
#   hardware has it: it needs no scale at all.
# - Say with each learning rate for which global batch it was tuned. Multiply both, try a warm-up, and expect a limit.
# - A job that hangs: send it a signal for its stack (`faulthandler`, `py-spy dump`), and look for the rank that is *not* in a collective
#   call. `labs.ddp.launch` names it.
# - A model that does not fit into one device needs its weights sharded as well: `fully_shard`, layer by layer and then the whole, or
#   DeepSpeed. The gradient is still the same average.

# %% [markdown]
# ## You can now
#
# - write data-parallel training from `all_reduce`, and prove it equal to one process, to rounding;
# - see with hooks when gradients are exchanged, and find the sample counted twice, the order that repeats and the rank that waits;
# - start a run with `torchrun` on one machine or many, choose its learning rate, and estimate what its network link allows.
