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
# the first question of this lesson. `rule` says what happens to the learning rate; you will need the other rules later.

# %%
from labs.evaluate import predict
from labs.train import fit

PER_DEVICE, EPOCHS = 16, 4


def batches(size):
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x_train)).split(size):
            yield x_train[rows], train.labels[rows]


# %%
def train_and_score(devices=1, rule="unchanged", lr=0.02):
    net = make_net().to(device())
    peak = lr if rule == "unchanged" else lr * devices
    sgd = torch.optim.SGD(net.parameters(), lr=peak, momentum=0.9)
    steps = EPOCHS * len(x_train) // (PER_DEVICE * devices)
    warm = steps // 4 if rule == "linear + warm-up" else 0

    def share(step):  # of the peak: a line up, and a line down to zero
        return min((step + 1) / (warm + 1), (steps - step) / (steps - warm))

    schedule = torch.optim.lr_scheduler.LambdaLR(sgd, share)
    fit(net, batches(PER_DEVICE * devices), sgd, scheduler=schedule)
    right = predict(net, x_test).argmax(1) == test.labels
    return {"accuracy": right.float().mean().item()}


# %%
import pandas as pd

accuracy = {}
for devices in (1, 8):
    seed_everything(0)
    accuracy[devices] = train_and_score(devices)["accuracy"]
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
from labs import plot

RANKS = 4
counts = torch.ones(RANKS, RANKS)
states = [counts.clone()] + [counts.clone() for _ in ring_all_reduce(counts)]


# %%
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
# complete chunk, and three steps later all own all. No device ever sent more than one chunk at a time. Count what one of them sends in all.

# %%
values = torch.randn(RANKS, RANKS, 5, dtype=torch.float64)
total = values.sum(0)
sent_by_each = sum(message[0].numel() for message in ring_all_reduce(values))
print(f"sent by each device: {sent_by_each}, values in a gradient: {total.numel()}")

# %% tags=["nbval-check-output"]
claim(
    "after a ring of four every device holds the sum over all",
    torch.allclose(values, total.expand_as(values)),
    measured=(values - total).abs().max().item(),
)

# %% [markdown]
# A device of the ring sends $2(n-1)/n$ gradients in a step; compare the printed numbers with this for $n = 4$. The traffic of `DataParallel` grows
# with the number of devices; that of the ring never reaches two. That is half of the reason. The other half is Python: one interpreter
# drives all devices, so they wait for its lock, and one process cannot reach a second machine. `DistributedDataParallel` (DDP,
# {cite:t}`li2020ddp`) has one process per device, and exchanges only gradients. The next figure shows three ways in which two processes, the *ranks*,
# work together; you will build the first, look into the second, and run the third at the end.

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
# Data parallelism by hand is two functions: one to start alike, and one to average. The number of ranks is the *world size*.


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
    home = current_place().device
    torch.manual_seed(rank)  # on purpose: only the broadcast makes the ranks alike
    net, images, labels = make_net().to(home), images.to(home), labels.to(home)
    start_alike(net)
    whole = copy.deepcopy(net)
    mine = list(shard(len(images), rank, dist.get_world_size()))
    cross_entropy(net(images[mine]), labels[mine]).backward()
    found = {"alone": flat(net)}
    average_gradients(net)
    wrapper = DistributedDataParallel(copy.deepcopy(whole))
    cross_entropy(wrapper(images[mine]), labels[mine]).backward()
    cross_entropy(whole(images), labels).backward()
    nets = {"by hand": net, "wrapper": wrapper, "one process": whole}
    return found | {name: flat(net) for name, net in nets.items()}


def flat(net):
    return torch.cat([p.grad.flatten().cpu() for p in net.parameters()])


# %% [markdown]
# Now start two real processes. Each is a fresh Python that *imports* what it is to run, and a notebook cannot be imported. So write these
# functions into a module. (In a project of your own they are in a file already. When you edit one of them, run its cell and the `launch`
# again.)

# %%
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
"""


# %%
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
# Two ranks, 64 images. By how much, relative to its size, does the gradient of one rank differ from that of all images: before the
# exchange, and after it?
# :::

# %%
from labs.ddp import launch

workers = to_module(make_net, start_alike, average_gradients, flat, by_hand)
ranks = launch(workers.by_hand, 2, (x_train[:64], train.labels[:64]))
whole = ranks[0]["one process"]
ways = "alone", "by hand", "wrapper"
pd.DataFrame(
    {k: ((r[k] - whole).norm() / whole.norm()).item() for k in ways} for r in ranks
).rename_axis("rank").map("{:.1e}".format)

# %% [markdown]
# Alone, each rank is far off: it has seen half of the images. After the exchange both hold the gradient of all of them, up to the
# rounding of float32, and so does `DistributedDataParallel`, which wraps the network and exchanges by itself during `backward`. For a
# network and a loss of your own, `labs.ddp.gradient_parity(make_net, loss, batch)` makes this comparison in one line. Give it 63 images, which do not divide by two: it weights the shards by their sizes.

# %%
from labs.ddp import gradient_parity
from labs.train import cross_entropy as mean_loss

proof = gradient_parity(
    workers.make_net, mean_loss, (x_train[:63], train.labels[:63])
)
print(f"largest difference {proof.max_abs_diff:.1e}")

# %% [markdown]
# The largest difference of one value is rounding. Make this call once for each network and loss, before you rent the second device.

# %% tags=["nbval-check-output"]
off = {
    k: max((r[k] - whole).abs().max().item() for r in ranks)
    for k in ("by hand", "wrapper")
}
claim(
    "two ranks, all_reduce by hand: the gradient is that of one process to 1e-6",
    off["by hand"] < 1e-6,
    measured=off["by hand"],
)

# %% tags=["nbval-check-output"]
claim(
    "two ranks in DistributedDataParallel: the gradient is that of one process to "
    "1e-6",
    off["wrapper"] < 1e-6,
    measured=off["wrapper"],
)

# %% tags=["nbval-check-output"]
claim(
    "two ranks, all_reduce by hand: both hold the same gradient, bit for bit",
    torch.equal(ranks[0]["by hand"], ranks[1]["by hand"]),
    measured=(ranks[0]["by hand"] - ranks[1]["by hand"]).abs().max().item(),
)

# %% tags=["nbval-check-output"]
claim(
    "63 images on two ranks, weighted by shard: the gradient of one process to 1e-6",
    proof.max_abs_diff < 1e-6,
    measured=proof.max_abs_diff,
)

# %% [markdown]
# The first cause is ruled out: many devices *can* compute the gradient of one, up to rounding, so the simulation of the symptom was a fair one.
# This holds only without the mistakes below.

# %% [markdown]
# ## Debug: the moment at which gradients become equal
#
# When does the exchange happen? Not after the backward pass: that would leave the network idle while the devices compute, and the devices
# idle while it sends. Watch with two hooks. A hook on each parameter fires when its gradient is ready; DDP's *communication hook* fires
# when it sends a *bucket* of gradients. This network lists its layers in another order than it uses them, on purpose.


# %%
import time
from contextlib import nullcontext
from datetime import timedelta


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


# %%
def follow(rank):
    """Log what happens to the gradients in three steps, the third in no_sync."""
    home = current_place().device
    net = out_of_order().to(home)
    ddp = DistributedDataParallel(net, bucket_cap_mb=0.005)
    names, log = {id(p): name for name, p in net.named_parameters()}, []

    def sent(state, bucket):
        log.append(("sent", [names[id(p)] for p in bucket.parameters()]))
        future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
        return future.then(lambda done: done.value()[0] / dist.get_world_size())

    ddp.register_comm_hook(None, sent)
    for p in net.parameters():
        p.register_post_accumulate_grad_hook(
            lambda p: log.append(("ready", names[id(p)], p.grad.cpu().clone()))
        )
    chance, steps = torch.Generator().manual_seed(rank), []
    x = torch.randn(8, 30, generator=chance).to(home)
    for step in range(3):
        net.zero_grad()
        with ddp.no_sync() if step == 2 else nullcontext():
            ddp(x).square().mean().backward()
        ended = {n: p.grad.cpu().clone() for n, p in net.named_parameters()}
        steps.append((list(log), ended))
        log.clear()
    return steps


# %% [markdown]
# A second experiment for the same two processes, since starting them takes longer than running it. Rank 0 has three batches, rank 1 has
# two: the last batch of an epoch that did not divide. The group gives up after five seconds; the default is ten minutes with nccl and
# half an hour with gloo.


# %%
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
# The third one is for later: how long does it take to add up a vector, and does it
# matter whether six gradients travel one by one or as one vector?


# %%
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


# %% [markdown]
# The fourth one is for later too. `fully_shard` leaves each rank only its part of the weights. Train with it, and count the bytes that
# this rank keeps between two steps.


# %%
from torch.distributed.fsdp import fully_shard


def wide():
    torch.manual_seed(0)
    first = nn.Flatten(), nn.Linear(14 * 14, 256), nn.ReLU()
    return nn.Sequential(*first, nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def descend(net, images, labels):
    """Take six steps of Adam; return the losses, and the bytes kept here."""
    adam, losses = torch.optim.Adam(net.parameters(), lr=1e-3), []
    for _ in range(6):
        adam.zero_grad()
        loss = cross_entropy(net(images), labels)
        loss.backward()
        adam.step()
        losses.append(loss.item())
    moments = [v for state in adam.state.values() for v in state.values()]
    kept = [*net.parameters(), *(p.grad for p in net.parameters()), *moments]
    mine = [t.to_local() if hasattr(t, "to_local") else t for t in kept]
    return losses, sum(t.numel() * t.element_size() for t in mine)


# %%
def divided(rank, images, labels):
    """Train with a part of the network, and of the images, on each rank."""
    home = current_place().device
    net = wide().to(home)
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)  # gathered for its own passes, then dropped
    fully_shard(net)
    mine = list(shard(len(images), rank, dist.get_world_size()))
    return descend(net, images[mine].to(home), labels[mine].to(home))


# %%
def four_experiments(rank, images, labels):
    seen = follow(rank), clock(rank), uneven(rank), divided(rank, images, labels)
    dist.barrier()  # so that rank 1 does not leave while rank 0 still waits for it
    return seen


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# DDP fills its buckets in the *reverse* order of `net.parameters()`, since the last layers get their gradients first. Here `head` is
# listed first. Which gradients travel first in step 1? And in step 2? Does rank 0 notice that rank 1 has finished?
# :::

# %%
needed = follow, uneven, clock, best_time, wide, descend, divided
workers = to_module(make_net, out_of_order, *needed, four_experiments)
ranks = launch(workers.four_experiments, 2, (x_train[:128], train.labels[:128]))
steps = [r[0] for r in ranks]

# %%
for number, (log, _) in enumerate(steps[0], 1):
    print(f"step {number}")
    for what, names, *_ in log:
        print(f"  {names} ready" if what == "ready" else f"  --> sent: {names}")

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


def ready(log):
    return {entry[1]: entry[2] for entry in log if entry[0] == "ready"}


both = list(zip(*steps, strict=True))
gaps = pd.DataFrame(
    {"ready": gap(ready(a), ready(b)), "end of backward": gap(end_a, end_b)}
    for (a, end_a), (b, end_b) in both
)
gaps.index += 1
gaps.rename_axis("step").map("{:.1e}".format)

# %% [markdown]
# When a gradient is ready, the ranks still disagree. At the end of `backward` the difference is exactly zero, in the steps that exchange.
# So `backward` itself is the moment, and a hook that reads `.grad` *inside* it reads the gradient of one rank. Clip, log and compare only
# after it.

# %% tags=["nbval-check-output"]
order = [[e[1] for e in log if e[0] == "sent"] for log, _ in steps[0]]
kinds = [[e[0] for e in log] for log, _ in steps[0]]
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

net, weights = make_net(), []
parts = [(x_train[a:b], train.labels[a:b]) for a, b in [(0, 32), (32, 56), (56, 64)]]
for micro in accumulate(net, parts, steps=3):
    (micro.weight * mean_loss(net, micro.batch)).backward()
    weights.append(micro.weight)
added_up = flat(net)
net.zero_grad()
mean_loss(net, (x_train[:64], train.labels[:64])).backward()
at_once = flat(net)
print("weights", weights)

# %% [markdown]
# The weights are the shares of the images. The sum is the gradient of all images at once:

# %% tags=["nbval-check-output"]
apart = (added_up - at_once).abs().max().item()
claim(
    "micro-batches of 32, 24 and 8, weighted by size: the gradient of all 64 to 1e-6",
    apart < 1e-6,
    measured=apart,
)

# %% [markdown]
# ### Ranks with different numbers of batches
#
# And rank 0 in its third step?

# %%
[(done, error.split("]")[-1].strip()) for _, _, (done, error), _ in ranks]

# %% [markdown]
# It waited for a partner that had already finished. It did not notice; it timed out. With the default timeout, this is the job that "hangs at
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
seed_everything(0)
net, part = make_net(), [(x_train[:512], train.labels[:512])]
fit(net, part, torch.optim.Adam(net.parameters(), 0.01), epochs=12)
hits = (predict(net, x_test[:101]).argmax(1) == test.labels[:101]).double()


# %%
def accuracy_by(deal, world):
    seen = [i for rank in range(world) for i in deal(rank, world)]
    return hits[seen].mean().item()


deals = {"padded": lambda r, w: padded(r, w, 101)}
deals["exact"] = lambda r, w: shard(101, r, w)
worlds = pd.Index([1, 4, 16, 64], name="ranks")
columns = {k: [accuracy_by(deal, w) for w in worlds] for k, deal in deals.items()}
scores = pd.DataFrame(columns, index=worlds)
scores.round(4)

# %% [markdown]
# The network is the same in every row. With padding its accuracy on 101 images changes with the number of ranks; dealt exactly, it does not.

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
forgotten = [list(sampler)[:6] for epoch in range(3)]
remembered = []
for epoch in range(3):
    sampler.set_epoch(epoch)
    remembered.append(list(sampler)[:6])
pd.DataFrame(
    {"without set_epoch": forgotten, "with set_epoch": remembered}
).rename_axis("epoch")

# %% [markdown]
# Without `set_epoch` every epoch has the same order ([pytorch/pytorch#31771](https://github.com/pytorch/pytorch/issues/31771)):
# each rank sees only *its* half of the data, in the same batches. The sampler cannot draw from the random state of its process, as a
# normal one does, because then the ranks would draw different orders, and their shards would overlap. It needs a number that all ranks
# agree on.

# %% tags=["nbval-check-output"]
claim(
    "a shuffling DistributedSampler repeats its order in every epoch without "
    "set_epoch",
    forgotten[0] == forgotten[1] == forgotten[2],
    measured=forgotten,
)
claim(
    "a shuffling DistributedSampler has another order in each of three epochs with "
    "set_epoch",
    len({tuple(ids) for ids in remembered}) == 3,
    measured=remembered,
)

# %% [markdown]
# ### A layer that looks at its whole batch
#
# The proof above needs a loss in which samples do not see each other. Batch normalisation breaks that: it normalises by the mean and
# variance of the batch *it sees*, which is the shard. Simulate devices with fewer and fewer images each, always 64 in all, and compare
# the averaged gradient with that of the whole batch.


# %%
def shard_gap(make_norm, size):
    seed_everything(0)
    net = make_net()
    net = nn.Sequential(net[0], make_norm(8), *net[1:])
    images, labels = x_train[:64].split(size), train.labels[:64].split(size)
    parts = [mean_loss(net, part) for part in zip(images, labels, strict=True)]
    whole = mean_loss(net, (x_train[:64], train.labels[:64]))
    one, many = (
        torch.cat([g.flatten() for g in torch.autograd.grad(v, net.parameters())])
        for v in (whole, torch.stack(parts).mean())
    )
    return ((many - one).norm() / one.norm()).item()


# %%
sizes = [32, 16, 8, 4, 2]
norms = {"batch norm": nn.BatchNorm2d, "group norm": lambda c: nn.GroupNorm(2, c)}
distance = pd.DataFrame(
    {name: [shard_gap(make, s) for s in sizes] for name, make in norms.items()}
)

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
    "With batch norm the averaged gradient moves away from that of the whole batch "
    "as devices hold fewer images; with group norm it stays at rounding error.",
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
    "batch, to 1e-4",
    distance["group norm"].max() < 1e-4,
    measured=distance["group norm"].max(),
)

# %% tags=["nbval-check-output"]
claim(
    "with one batch norm and 2 images per device, the gradient is more than 5 % off",
    distance["batch norm"].iloc[-1] > 0.05,
    measured=distance["batch norm"].iloc[-1],
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
# interface. Each step is accumulated from two micro-batches.

# %%
import socket
import subprocess

with socket.socket() as probe:  # a port that is free now
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
meet = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
options = ["--epochs", "1", "--limit", "2048", "--accumulate", "2"]


def start(node):
    torchrun = [sys.executable, "-m", "torch.distributed.run", *meet]
    where = [f"--master-port={port}", f"--node-rank={node}", "-m", "labs.ddp_train"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*torchrun, *where, *options], text=True, **pipes)


# %%
machines = [start(node) for node in range(2)]
try:
    said = [machine.communicate(timeout=300) for machine in machines]
finally:
    for machine in machines:
        machine.kill()
for machine, (out, trouble) in zip(machines, said, strict=True):
    print(out.strip() or "(nothing)" if machine.returncode == 0 else trouble[-2000:])

# %% [markdown]
# Only rank 0 prints, so the second machine is silent. Now the same trainer in this process, without a group: the global batch is a
# setting, and does not depend on who shares it. To know which difference would mean something, train with two other seeds as well.

# %%
from labs.ddp import Place
from labs.ddp_train import Settings, train as train_digits


def alone(seed):
    settings = Settings(epochs=1, limit=2048, accumulate=2, seed=seed)
    run = train_digits(settings, Place(0, 1, 0, device()))
    return {"steps": run.step, "accuracy": run.scores[-1]["accuracy"]}


by_seed = pd.DataFrame([alone(seed) for seed in range(3)])
by_seed.rename_axis("seed, one process").round(4)

# %% tags=["nbval-check-output"]
words = said[0][0].split()
together = dict(zip(words[::2], map(float, words[1::2]), strict=True))
claim(
    "two torchrun nodes on loopback: both end well, and only the first prints",
    all(m.returncode == 0 for m in machines)
    and said[0][0].count("epoch") == 1
    and not said[1][0],
    measured=said,
)

# %% tags=["nbval-check-output"]
claim(
    "two torchrun nodes take as many steps as one process",
    together["step"] == by_seed["steps"][0],
    measured=(together["step"], by_seed["steps"][0]),
)

# %% [markdown]
# Compare the accuracy that the first machine printed with that of seed 0. They need not be equal: the network has batch norms, and each rank normalised by its own micro-batches. The three seeds show how far accuracy moves without any second machine. On two
# machines with eight GPUs each, the line becomes
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
# of devices; and linear with a warm-up from near zero during the first quarter.

# %%
from labs.ablation import ablate

study = ablate(
    train_and_score,
    base={"devices": 8, "rule": "linear", "lr": 0.02},
    vary="rule",
    values=["unchanged", "linear", "linear + warm-up"],
    seeds=range(budget(cpu=6, gpu=8)),
)
study.table("accuracy").round(3)

# %%
figure, ax = plot.new(height=3)
study.plot(ax, "accuracy")
ax.axhline(accuracy[1], color=plot.COLOURS[2], linestyle=":", label="one device")
ax.set(ylabel="test accuracy", xlabel="rule for the learning rate")
ax.legend(loc="lower center")
plot.show(
    figure,
    "Eight devices lose much accuracy with the rate of one device, and come near "
    "one device with a rate eight times as large, with a warm-up or without.",
)

# %%
print(study.verdict("accuracy"))
found = study.detectable("accuracy")
print(f"it would find, with 80 % power: a difference of {found:.3f}")

# %% [markdown]
# Each dot is one seed. With a rate eight times as large, eight devices come close to one device in an eighth of the steps. The bug of the
# symptom was no bug of the communication; it was a setting that silently meant something else. With a warm-up nothing more is gained
# that these seeds could show. Read the last line before you say "it does nothing": a smaller difference than that one would not be found.

# %% tags=["nbval-check-output"]
table, arms = study.table("accuracy"), 2
gain = table["mean"]["linear"] - table["mean"]["unchanged"]
claim(
    "eight devices: the scaled rate gains at least 10 points on the unscaled one",
    gain > 0.1 and arms * table["p"]["unchanged"] < 0.05,
    measured=(gain, table["p"]["unchanged"]),
)
warmed = table.loc["linear + warm-up"]
claim(
    "eight devices, scaled rate, four epochs: a warm-up moves the mean accuracy by "
    "under 3 points",
    abs(warmed["delta"]) < 0.03,
    measured=(warmed["delta"], warmed["p"]),
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
# scaling*), so perfect efficiency would be 1. Compare the link you just measured with a common office network, and with what data centres
# put between GPUs (nominal values).

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
kinds = torch.float32, torch.float16, torch.bfloat16
facts = {kind: torch.finfo(kind) for kind in kinds}
pd.DataFrame(
    {"smallest": f.smallest_normal * f.eps, "largest": f.max, "step at 1": f.eps}
    for f in facts.values()
).set_axis(map(str, facts)).map("{:.0e}".format)

# %% [markdown]
# `float16` has fine steps and a short range; `bfloat16` has the range of `float32` and coarse steps. The range is what gradients need. A
# mean over many pixels gives each of them a tiny gradient. Here is such a loss: which pixels are ink? It is an auxiliary term, with a
# weight of 0.01.

# %%
pixels = train.images[:400].to(device())
ink = (pixels[:, 0] > 0.5).long()  # [400,28,28]
seed_everything(0)
layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)
painter = nn.Sequential(*layers).to(device())


def gradient_in(kind, scale=1.0):
    painter.zero_grad()
    with torch.autocast(device().type, dtype=kind, enabled=kind != torch.float32):
        loss = 0.01 * cross_entropy(painter(pixels), ink)
    (scale * loss).backward()
    return flat(painter) / scale


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# In which of the four ways is the gradient lost: bf16, fp16, fp16 with the loss times 65,536, fp16 with the loss times a billion?
# :::

# %%
exact = gradient_in(torch.float32)
ways = {
    "bf16": gradient_in(torch.bfloat16),
    "fp16": gradient_in(torch.float16),
    "fp16, loss times 2**16": gradient_in(torch.float16, 2.0**16),
    "fp16, loss times 2**30": gradient_in(torch.float16, 2.0**30),
}
off = {name: ((g - exact).norm() / exact.norm()).item() for name, g in ways.items()}
zero = {name: (g == 0).float().mean().item() for name, g in ways.items()}
pd.DataFrame({"relative error": off, "share of zeros": zero}).map("{:.2g}".format)

# %% [markdown]
# In fp16 every value of the gradient is zero, and nothing says so: the network would simply not learn this term. A larger loss lifts the
# gradients into the range, until they overflow. bf16 needs no scale at all; how near it comes depends on how your processor adds up its
# coarse steps. Which scale is right changes during training, so `GradScaler`
# searches: it skips a step whose gradient is not finite and halves the scale, and doubles it after many good steps. Start it far too high.

# %%
scaler = torch.amp.GradScaler(device().type, init_scale=2.0**30)
sgd = torch.optim.SGD(painter.parameters(), lr=0.1)
steps = []
for _ in range(10):
    before, scale = painter[0].weight.detach().clone(), scaler.get_scale()
    sgd.zero_grad()
    with torch.autocast(device().type, dtype=torch.float16):
        loss = 0.01 * cross_entropy(painter(pixels), ink)
    scaler.scale(loss).backward()
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
    seeds=range(budget(cpu=4, gpu=6)),
)
growing.table("accuracy")[["mean", "std", "n", "delta", "p"]].round(4)

# %%
figure, ax = plot.new(height=3)
growing.plot(ax, "accuracy")
ax.axhline(0.1, color="0.5", linestyle=":", label="guessing")
ax.legend(loc="lower left")
ax.set(ylabel="test accuracy")
plot.show(
    figure,
    "With the linear rule four devices are as accurate as one, sixteen lose a few "
    "points, and sixty-four lose most of the accuracy.",
)

# %%
print(growing.verdict("accuracy"))
found = growing.detectable("accuracy")
print(f"it would find, with 80 % power: a difference of {found:.3f}")
by_seed = growing.frame().pivot(index="seed", columns="devices", values="accuracy")
by_seed.round(3)

# %% [markdown]
# The verdict compares each arm with one device. The smallest difference that it would find is large, because it pools the spread of all
# arms, and the runs of 64 devices scatter most. So look at the last table too, seed by seed. With four devices next to nothing is lost, with
# sixteen a few points in every run, and with 64 every run is far behind.

# %% tags=["nbval-check-output"]
mean, p = growing.table("accuracy")["mean"], growing.table("accuracy")["p"]
lost = (by_seed[1] - by_seed[4]).abs().max()
claim(
    "four devices, scaled rate: no seed is more than 3 points from one device",
    lost < 0.03,
    measured=lost,
)

# %% tags=["nbval-check-output"]
eight = mean[1] - study.table("accuracy")["mean"]["linear"]
claim(
    "eight devices, scaled rate: within 4 points of one device on average",
    abs(eight) < 0.04,
    measured=eight,
)

# %% tags=["nbval-check-output"]
claim(
    "sixteen devices, scaled rate: 1 to 12 points lost on average in the same epochs",
    0.01 < mean[1] - mean[16] < 0.12,
    measured=mean[1] - mean[16],
)
claim(
    "sixty-four devices, scaled rate: at least 20 points lost in the same epochs",
    mean[64] < mean[1] - 0.2 and 3 * p[64] < 0.05,
    measured=(mean[1] - mean[64], p[64]),
)

# %% [markdown]
# **Why they differ.** The first finding appears: a flat part, then a fall. But our flat part is short. With 64 devices, four epochs are
# not even twenty steps, and no rate makes up for steps that are not taken; the paper's largest batch still has thousands. The second
# does not appear: at eight devices next to nothing is left that a warm-up could gain, and in so short a run it takes a quarter of the
# steps. In the paper, the warm-up is a small part of the training. A
# recipe holds for the network that it was written for, so measure it on yours.

# %% [markdown]
# ## Bug hunt: the clipping that shrank every step
#
# **Difficulty** 2 of 3 · **Importance** 3 of 3 · **Time** 25 min
#
# You have seen why a `GradScaler` multiplies the loss by a large number before `backward`, and divides the gradients by it before the
# step. The function below trains with it, accumulates, and clips the gradient. It
# raises nothing, and the loss goes down, but slowly. The bug was met in
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
