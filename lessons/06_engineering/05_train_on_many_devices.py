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
# **Time** read 25 min · debug 35 min · experiment 35 min · reproduce 15 min
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
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 3 * 3, 10),
    )


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
        return (step + 1) / (warm + 1) if step < warm else (steps - step) / (steps - warm)

    schedule = torch.optim.lr_scheduler.LambdaLR(sgd, share)
    fit(net, batches(PER_DEVICE * devices), sgd, scheduler=schedule)
    return (predict(net, x_test).argmax(1) == test.labels).float().mean().item()


# %%
import pandas as pd

accuracy = {}
for devices in (1, 8):
    seed_everything(0)
    accuracy[devices] = train_and_score(devices)
pd.Series(accuracy, name="accuracy").rename_axis("devices").round(3).to_frame()

# %% [markdown]
# Same data, same epochs, no error, no warning, and a much worse network. There are two suspects. Either the eight devices together do not
# compute the gradient that one device would. Or they do, and the gradient is not to blame. Acquit or convict the first suspect with a
# proof; then turn to the second.

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "eight devices, nothing else changed: at least 10 points lost", accuracy[1] > accuracy[8] + 0.1
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
by_two = torch.stack([gradient[[0, 2]].mean(), gradient[[1, 3]].mean()]).mean()
by_three_and_one = torch.stack([gradient[:3].mean(), gradient[3:].mean()]).mean()
gradient.tolist(), gradient.mean().item(), by_two.item(), round(by_three_and_one.item(), 2)

# %% [markdown]
# Two and two samples give the mean of all four. Three and one do not: the lonely sample counts as much as the three others together. So
# with uneven shards, each device has to weight its mean loss by the size of its shard. A mean of means is the first silent bug of
# distributed training, in the loss as well as in the accuracy that you report.
#
# ### The retired way: one process, many devices
#
# `nn.DataParallel` does this inside one process, in every step: copy the weights from device 0 to all others, deal out the batch, run one
# thread per device, collect the outputs on device 0, and send the gradients back there. It needs one line, and PyTorch's own
# documentation advises against it.
#
# %%
net = make_net().to(device())
wrapped = nn.DataParallel(net)
images = x_train[:64].to(device())
apart = (wrapped(images) - net(images)).abs().max().item()
list(wrapped.state_dict())[:2], len(wrapped.device_ids)

# %% [markdown]
# The list of devices is empty on a CPU and has one entry with one GPU, and then the wrapper only passes the call through: with fewer than
# two GPUs you can see its *cost* only on paper. One thing you can see anywhere: the names of the weights now begin with `module.`, which
# is why so many checkpoints need their keys renamed.

# %% tags=["nbval-check-output"]
claim("DataParallel returns what the network returns, to 1e-5", apart < 1e-5)
claim(
    "every key of its checkpoint begins with module.",
    all(k.startswith("module.") for k in wrapped.state_dict()),
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
    """Sum x [devices, chunks, ...] over the devices in place; yield the chunk that each sends."""
    n = len(x)
    me = torch.arange(n)
    for step in range(2 * (n - 1)):
        chunk = (me - step) % n
        sent, right = x[me, chunk].clone(), (me + 1) % n
        x[right, chunk] = sent + (x[right, chunk] if step < n - 1 else 0)
        yield sent


# %%
from labs import plot

n = 4
counts = torch.ones(n, n)
states = [counts.clone()] + [counts.clone() for _ in ring_all_reduce(counts)]
figure, axes = plot.new(8, 2.1, columns=len(states))
for step, (ax, state) in enumerate(zip(axes, states, strict=True)):
    ax.imshow(state, vmin=0, vmax=n, cmap="viridis")
    ax.set(title=f"step {step}", xticks=range(n), yticks=range(n))
    ax.grid(False)
axes[0].set(xlabel="chunk", ylabel="device")
figure.suptitle("Each chunk is completed on its way round, then copied", x=0.01, ha="left")
plot.show(
    figure, alt="A ring of four: each chunk collects contributions on its way round, then spreads."
)

# %% [markdown]
# The colour is how many devices have contributed to a chunk, from one (dark) to all four (bright). After three steps each device owns one
# complete chunk, and three steps later all own all. Nobody ever sent more than one chunk at a time.

# %%
values = torch.randn(n, n, 5, dtype=torch.float64)
total = values.sum(0)
messages = list(ring_all_reduce(values))
sent_by_each = sum(message[0].numel() for message in messages)
sent_by_each, total.numel(), tuple(values.shape)

# %% tags=["nbval-check-output"]
claim("after the ring every device holds the sum", torch.allclose(values, total.expand_as(values)))
claim("each device sent 2(n-1)/n of its gradient", sent_by_each * n == 2 * (n - 1) * total.numel())

# %%
devices = [2, 8, 64, 1024]
traffic = pd.DataFrame(
    {"DataParallel": [k - 1 for k in devices], "ring": [2 * (k - 1) / k for k in devices]},
    index=pd.Index(devices, name="devices"),
)
traffic.round(3)

# %% [markdown]
# In units of one gradient, this is what the busiest device has to send in each step (and to receive). The traffic of `DataParallel` grows
# with the number of devices; that of the ring never reaches two. That is half of the reason. The other half is Python: one interpreter
# drives all devices, so they wait for its lock, and one process cannot reach a second machine. `DistributedDataParallel` (DDP,
# {cite:t}`li2020ddp`) has one process per device, and exchanges only gradients.

# %% [markdown]
# ## The block
#
# Data parallelism by hand is two functions: one to start alike, and one to average. A process is called a *rank*, and their number is the
# *world size*.


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
    """Return four flat gradients: before and after our exchange, of DDP, and of one process."""
    home = current_place().device
    torch.manual_seed(rank)  # on purpose: only the broadcast makes the ranks start alike
    net, images, labels = make_net().to(home), images.to(home), labels.to(home)
    start_alike(net)
    whole = copy.deepcopy(net)
    mine = list(shard(len(images), rank, dist.get_world_size()))
    cross_entropy(net(images[mine]), labels[mine]).backward()
    alone = flat(net)
    average_gradients(net)
    wrapper = DistributedDataParallel(copy.deepcopy(whole))
    cross_entropy(wrapper(images[mine]), labels[mine]).backward()
    cross_entropy(whole(images), labels).backward()
    names = "alone", "by hand", "wrapper", "one process"
    return dict(zip(names, (alone, flat(net), flat(wrapper), flat(whole)), strict=True))


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
pd.DataFrame(
    {k: ((r[k] - whole).norm() / whole.norm()).item() for k in ("alone", "by hand", "wrapper")}
    for r in ranks
).rename_axis("rank").map("{:.1e}".format)

# %% [markdown]
# Alone, each rank is far off: it has seen half of the images. After the exchange both hold the gradient of all of them, up to the
# rounding of float32, and so does `DistributedDataParallel`, which wraps the network and exchanges by itself during `backward`. For a
# network and a loss of your own, `labs.ddp.gradient_parity(make_net, loss, batch)` makes this comparison in one line, parameter by
# parameter.

# %% tags=["nbval-check-output"]
off = {k: max((r[k] - whole).abs().max().item() for r in ranks) for k in ("by hand", "wrapper")}
claim("by hand: the averaged gradient is that of one process to 1e-6", off["by hand"] < 1e-6)
claim("the wrapper: the gradient is that of one process to 1e-6", off["wrapper"] < 1e-6)
claim(
    "by hand: both ranks hold the same gradient, bit for bit",
    torch.equal(ranks[0]["by hand"], ranks[1]["by hand"]),
)

# %% [markdown]
# The first suspect is acquitted: many devices *can* compute exactly what one computes, and the simulation of the symptom was a fair one.
# But only when nobody makes one of the mistakes below.

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
    """Log what happens to the gradients in three steps; the third is inside no_sync."""
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
    x, steps = torch.randn(8, 30, generator=torch.Generator().manual_seed(rank)).to(home), []
    for step in range(3):
        net.zero_grad()
        with ddp.no_sync() if step == 2 else nullcontext():
            ddp(x).square().mean().backward()
        steps.append((list(log), {n: p.grad.cpu().clone() for n, p in net.named_parameters()}))
        log.clear()
    return steps


# %% [markdown]
# A second experiment for the same two processes, since starting them takes longer than running it. Rank 0 has three batches, rank 1 has
# two: the last batch of an epoch that did not divide. The group gives up after five seconds; the default is ten minutes with nccl and
# half an hour with gloo.


# %%
def uneven(rank):
    """Train three steps on rank 0, and two on rank 1; return how many were done, and the error."""
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
# The third one is for later: how long does it take to add up a vector, and how long is a step with and without the exchange?


# %%
def clock(rank, images, labels):
    """Return seconds: of all_reduce by bytes, and of a step without and with the exchange."""
    home = current_place().device
    net = DistributedDataParallel(make_net().to(home))
    images, labels = images.to(home), labels.to(home)

    def step(exchange):
        with nullcontext() if exchange else net.no_sync():
            cross_entropy(net(images), labels).backward()

    by_bytes = {}
    for n in [4**k for k in range(4, 11)]:
        vector = torch.ones(n, device=home)
        by_bytes[4 * n] = best_time(lambda v=vector: dist.all_reduce(v))
    return by_bytes, {on: best_time(lambda on=on: step(on), 25) for on in (False, True)}


# %%
def best_time(act, repeats=10):
    times = []
    for _ in range(repeats):
        dist.barrier()
        start = time.perf_counter()
        act()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)  # the others also measure what else the machine was doing


# %%
def three_experiments(rank, images, labels):
    seen = follow(rank), clock(rank, images, labels), uneven(rank)
    dist.barrier()  # so that rank 1 does not leave while rank 0 still waits for it
    return seen


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# DDP fills its buckets in the *reverse* order of `net.parameters()`, since the last layers get their gradients first. Here `head` is
# listed first. Which gradients travel first in step 1? And in step 2? Does rank 0 notice that rank 1 has finished?
# :::

# %%
workers = to_module(make_net, out_of_order, follow, uneven, clock, best_time, three_experiments)
ranks = launch(workers.three_experiments, 2, (x_train[:128], train.labels[:128]))
steps = [r[0] for r in ranks]

# %%
for number, (log, _) in enumerate(steps[0], 1):
    print(f"step {number}")
    for what, names, *_ in log:
        print(f"  {names} ready" if what == "ready" else f"  --> sent: {', '.join(names)}")

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


# %%
rows = []
for (log_0, end_0), (log_1, end_1) in zip(*steps, strict=True):
    ready_0, ready_1 = ({e[1]: e[2] for e in log if e[0] == "ready"} for log in (log_0, log_1))
    rows.append({"ready": gap(ready_0, ready_1), "end of backward": gap(end_0, end_1)})
gaps = pd.DataFrame(rows, index=pd.Index([1, 2, 3], name="step"))
gaps.map("{:.1e}".format)

# %% [markdown]
# When a gradient is ready, the ranks still disagree. At the end of `backward` the difference is exactly zero, in the steps that exchange.
# So `backward` itself is the moment, and a hook that reads `.grad` *inside* it reads the gradient of one rank. Clip, log and compare only
# after it.

# %% tags=["nbval-check-output"]
order = [[e[1] for e in log if e[0] == "sent"] for log, _ in steps[0]]
kinds = [[e[0] for e in log] for log, _ in steps[0]]
claim("step 1: one bucket, after the last gradient", len(order[0]) == 1 and kinds[0][-1] == "sent")
claim(
    "step 2: the head travels before the stem is ready",
    "stem.bias" not in order[1][0] and kinds[1][-1] == "sent",
)
claim(
    "step 3, no_sync: nothing is sent, and the ranks stay apart",
    not order[2] and gaps.iloc[2, 1] > 0,
)
claim("after backward with exchange the ranks are equal, bit for bit", gaps.iloc[:2, 1].max() == 0)
claim("while it is computed, a gradient is the rank's own", gaps["ready"].min() > 0)

# %% [markdown]
# ### Small batches, added up
#
# When the batch that a recipe wants does not fit, add up the gradients of several backward passes before one step. It is the same mean,
# in time instead of in space, with the same trap: micro-batches of different sizes. `labs.ddp.accumulate` gives each its weight, enters
# `no_sync` for all but the last, and works without a group too.

# %%
from labs.ddp import accumulate
from labs.train import cross_entropy as mean_loss

net, weights = make_net(), []
parts = [(x_train[a:b], train.labels[a:b]) for a, b in [(0, 32), (32, 56), (56, 64)]]
for micro in accumulate(net, parts, steps=3):
    (micro.weight * mean_loss(net, micro.batch)).backward()
    weights.append(micro.weight)
added_up = flat(net)
weights

# %% tags=["nbval-check-output"]
net.zero_grad()
mean_loss(net, (x_train[:64], train.labels[:64])).backward()
claim(
    "three uneven micro-batches give the gradient of the whole to 1e-6",
    (added_up - flat(net)).abs().max() < 1e-6,
)

# %% [markdown]
# ### Ranks with different numbers of batches
#
# And rank 0 in its third step?

# %%
[(done, error.split("]")[-1].strip()) for _, _, (done, error) in ranks]

# %% [markdown]
# It waited for a partner that had gone home. It did not notice; it timed out. With the default timeout, this is the job that "hangs at
# the end of the epoch". `all_reduce` has no idea who takes part: every rank has to make the same calls in the same order. The same
# happens when a call stands inside `if rank == 0:`. Give every rank equally many batches, or let `labs.ddp.accumulate` compare the counts
# before each step, so that every rank stops with a sentence instead. PyTorch's `Join` context lets early ranks shadow the calls of the
# others.

# %% tags=["nbval-check-output"]
claim("rank 1 finished without an error", ranks[1][2] == (2, ""))
claim(
    "rank 0 did two steps, then waited until the timeout",
    ranks[0][2][0] == 2 and ranks[0][2][1] != "",
)

# %% [markdown]
# ### Who sees which sample
#
# For the rest no process is needed: a `DistributedSampler` only wants to be told the world size and the rank. Deal ten samples to four
# ranks.

# %%
from torch.utils.data import DistributedSampler

dealt = [list(DistributedSampler(range(10), 4, rank, shuffle=False)) for rank in range(4)]
pd.DataFrame(dealt).rename_axis("rank")

# %% [markdown]
# Twelve places, ten samples: the first two were dealt twice, so that all ranks get equally many. In training that is harmless (or pass
# `drop_last=True`). In *evaluation* those two count twice, and the accuracy depends on how many devices measured it. The bug was met in
# [pytorch/vision#4559](https://github.com/pytorch/vision/issues/4559). `labs.ddp.shard` deals unevenly, each sample once, and
# `gather_exact` puts the answers together again.

# %%
seed_everything(0)
net = make_net()
fit(net, [(x_train[:512], train.labels[:512])], torch.optim.Adam(net.parameters(), 0.01), epochs=12)
hits = (predict(net, x_test[:101]).argmax(1) == test.labels[:101]).double()


# %%
def accuracy_by(deal, world):
    seen = torch.cat(
        [torch.tensor(list(deal(rank, world)), dtype=torch.int64) for rank in range(world)]
    )
    return {"counted": len(seen), "accuracy": hits[seen].mean().item()}


def padded(rank, world):
    return DistributedSampler(range(101), world, rank, shuffle=False)


worlds = [1, 4, 16, 64]
padded_scores = pd.DataFrame([accuracy_by(padded, w) for w in worlds], index=worlds)
exact_scores = pd.DataFrame(
    [accuracy_by(lambda r, w: shard(101, r, w), w) for w in worlds], index=worlds
)
pd.concat({"padded": padded_scores, "exact": exact_scores}, axis=1).rename_axis("ranks").round(4)

# %% tags=["nbval-check-output"]
drawn = [sample for samples in dealt for sample in samples]
claim(
    "10 samples on 4 ranks: 12 are drawn, 10 are different",
    (len(drawn), len(set(drawn))) == (12, 10),
)
claim(
    "padded: more than 101 images are counted on every world size but 1",
    (padded_scores["counted"][1:] > 101).all(),
)
claim(
    "sharded: each image counts once, so the accuracy is one number",
    exact_scores["accuracy"].nunique() == 1,
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
pd.DataFrame({"without set_epoch": forgotten, "with set_epoch": remembered}).rename_axis("epoch")

# %% [markdown]
# Without `set_epoch` every epoch has the same order, for ever ([pytorch/pytorch#31771](https://github.com/pytorch/pytorch/issues/31771)):
# each rank sees only *its* half of the data, in the same batches. The sampler cannot draw from the random state of its process, as a
# normal one does, because then the ranks would draw different orders, and their shards would overlap. It needs a number that all ranks
# agree on.

# %% tags=["nbval-check-output"]
claim("without set_epoch three epochs are the same", forgotten[0] == forgotten[1] == forgotten[2])
claim("with set_epoch all three differ", len({tuple(ids) for ids in remembered}) == 3)

# %% [markdown]
# ### A layer that looks at its whole batch
#
# The proof above needs a loss in which samples do not see each other. Batch normalisation breaks that: it normalises by the mean and
# variance of the batch *it sees*, which is the shard. Simulate devices with fewer and fewer images each, always 64 in all, and compare
# the averaged gradient with that of the whole batch.


# %%
def with_norm(make_norm):
    seed_everything(0)
    net = make_net()
    return nn.Sequential(net[0], make_norm(8), *net[1:])


def shard_gap(make_norm, size):
    net = with_norm(make_norm)
    parts = [(x_train[i : i + size], train.labels[i : i + size]) for i in range(0, 64, size)]
    losses = [mean_loss(net, (x_train[:64], train.labels[:64]))]
    losses.append(torch.stack([mean_loss(net, part) for part in parts]).mean())
    one, many = (
        torch.cat([g.flatten() for g in torch.autograd.grad(v, net.parameters())]) for v in losses
    )
    return ((many - one).norm() / one.norm()).item()


# %%
sizes = [32, 16, 8, 4, 2]
norms = {"batch norm": nn.BatchNorm2d, "group norm": lambda c: nn.GroupNorm(2, c)}
distance = pd.DataFrame(
    {name: [shard_gap(make, s) for s in sizes] for name, make in norms.items()}, index=sizes
)

# %%
figure, ax = plot.new(6, 2.8)
for name, colour in zip(norms, plot.COLOURS, strict=False):
    ax.loglog(distance[name], "o-", color=colour, label=name)
ax.set(
    xlabel="images per device",
    ylabel="relative gradient difference",
    xticks=sizes,
    xticklabels=sizes,
    title="Batch norm: another gradient, the more devices the worse",
)
ax.minorticks_off()
ax.invert_xaxis()
ax.legend()
plot.show(
    figure,
    alt="Relative gradient difference: group norm at rounding error, batch norm rises as shards shrink.",
)

# %% [markdown]
# Group norm stays at rounding error: it looks at one image at a time. With one batch norm the gradient is another one, far beyond
# rounding, and it moves away as the shards shrink. Detectors often train with two images per device. `nn.SyncBatchNorm` repairs it: the
# ranks add up three numbers per channel, the count, the sum and the sum of squares. Here are two ranks with very different shards.

# %%
zeros, ones = (x_train[train.labels == k][:20] for k in (0, 1))
shards = [zeros, ones]
count, total, squares = (
    sum(f(part) for part in shards)
    for f in (torch.numel, torch.sum, lambda part: part.square().sum())
)
mean = total / count
synced = mean, squares / count - mean**2
pd.DataFrame(
    [[p.mean().item(), p.var(correction=0).item()] for p in shards] + [[v.item() for v in synced]],
    index=["rank 0, zeros", "rank 1, ones", "synchronised"],
    columns=["mean", "variance"],
).round(4)

# %% [markdown]
# The same digit is a different input to the next layer, depending on who shares its device. PyTorch's `SyncBatchNorm` works on GPUs only;
# call `nn.SyncBatchNorm.convert_sync_batchnorm(net)` before you wrap the network. On a CPU, `labs.ddp_train --sync-bn` refuses with a
# sentence.

# %% tags=["nbval-check-output"]
both = torch.cat(shards)
exact = torch.stack([both.mean(), both.var(correction=0)])
claim(
    "three sums per channel give the statistics of the whole batch",
    torch.allclose(torch.stack(synced), exact, atol=1e-5),
)
claim(
    "group norm: shards give the gradient of the whole batch, to 1e-4",
    distance["group norm"].max() < 1e-4,
)
claim("batch norm, 2 images per device: more than 5 % off", distance["batch norm"].iloc[-1] > 0.05)

# %% [markdown]
# ## Experiment
#
# ### Start it with `torchrun`
#
# `labs.ddp_train` is a whole trainer built from these pieces. `torchrun` starts one process per device, tells each its rank in
# environment variables, and, with `--max-restarts`, starts all of them again when one dies. It is the same as `python -m
# torch.distributed.run`. Run it for real: two ranks, each step accumulated from two micro-batches.

# %%
import subprocess

options = ["--epochs", "1", "--limit", "2048", "--accumulate", "2"]
torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
done = subprocess.run(
    [*torchrun, "-m", "labs.ddp_train", *options], capture_output=True, text=True, timeout=300
)
print(done.stdout if done.returncode == 0 else done.stderr[-2000:])

# %% [markdown]
# Only rank 0 prints. The same trainer in this process, without a group: the global batch is a setting, and does not depend on who shares
# it.

# %%
from labs.ddp import Place
from labs.ddp_train import Settings, train as train_digits

alone = train_digits(Settings(epochs=1, limit=2048, accumulate=2), Place(0, 1, 0, device()))

# %% tags=["nbval-check-output"]
words = done.stdout.split()
together = {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}
claim(
    "torchrun ended well, and one rank printed",
    done.returncode == 0 and done.stdout.count("epoch") == 1,
)
claim("two ranks take as many steps as one", together["step"] == alone.step)
claim(
    "accuracies agree to 10 points", abs(together["accuracy"] - alone.scores[-1]["accuracy"]) < 0.1
)

# %% [markdown]
# The numbers are close, and not equal: the network has batch norms, and each rank normalised by its own micro-batches. On two machines
# with eight GPUs each, the line becomes
#
# ```text
# torchrun --nnodes=2 --node-rank=0 --nproc-per-node=8 --master-addr=HOST --master-port=29500 -m labs.ddp_train
# ```
#
# with `--node-rank=1` on the other machine. Add `--max-restarts=3` outside and `--checkpoint FOLDER --save-every 50 --resume` inside, and
# a rank that dies costs at most 50 steps.
#
# ### The second suspect: the learning rate
#
# The gradient is right, so back to the symptom. Eight times as many images per step make an eighth of the steps. The gradient is less
# noisy, but a step is not longer. Change one variable, the `rule` for the learning rate: unchanged; *linear*, that is, times the number
# of devices; and linear with a warm-up from near zero during the first quarter.

# %%
from labs.ablation import ablate

study = ablate(
    train_and_score,
    base={"devices": 8, "rule": "unchanged", "lr": 0.02},
    vary="rule",
    values=["unchanged", "linear", "linear + warm-up"],
    seeds=range(budget(cpu=3, gpu=5)),
)
study.table().round(3)

# %%
figure, ax = plot.new(6, 2.8)
study.plot(ax)
ax.axhline(accuracy[1], color=plot.COLOURS[2], linestyle=":", label="one device")
ax.set(
    ylabel="test accuracy",
    xlabel="rule for the learning rate",
    title="Eight devices need a larger step",
    ylim=(0.4, 1.05),
)
ax.legend(loc="lower center")
plot.show(
    figure,
    alt="Accuracy of eight devices: poor with the old rate, near one device with the scaled one.",
)

# %% [markdown]
# Each dot is one seed. With a rate eight times as large, eight devices come close to one device in an eighth of the steps. The bug of the
# symptom was no bug of the communication at all; it was a setting that silently meant something else. The warm-up adds nothing here;
# remember that for the section on the paper.

# %% tags=["nbval-check-output"]
scores = study.frame().groupby("rule")["score"]
claim(
    "every run with the scaled rate beats every run with the old one by 5 points",
    scores.min()["linear"] > scores.max()["unchanged"] + 0.05,
)
claim(
    "on average, eight devices come within 6 points of one",
    scores.mean()["linear"] > accuracy[1] - 0.06,
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

by_bytes, step_time = ranks[0][1]
sizes, times = np.array(list(by_bytes)), np.array(list(by_bytes.values()))
columns = np.stack([np.full(len(sizes), 2.0), sizes], axis=1) / times[:, None]
(alpha, per_byte), *_ = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)


# %%
def ring_time(n, size, latency, seconds_per_byte):
    return 2 * (n - 1) * latency + 2 * (n - 1) / n * size * seconds_per_byte


# %%
figure, ax = plot.new(6, 2.8)
ax.loglog(sizes, times * 1e3, "o", color=plot.COLOURS[0], label="measured")
ax.loglog(
    sizes,
    ring_time(2, sizes, alpha, per_byte) * 1e3,
    color=plot.COLOURS[1],
    label="alpha-beta model",
)
ax.set(
    xlabel="bytes",
    ylabel="time of one all_reduce (ms)",
    title="Small messages cost latency, large ones bandwidth",
)
ax.legend()
plot.show(
    figure,
    alt="Time of all_reduce against bytes: flat for small vectors, then proportional to size.",
)

# %% [markdown]
# Flat on the left, a straight line on the right: below some size, a message costs the same however small it is. That is why DDP packs
# gradients into buckets. Does the model predict what a whole step of the little network pays for its exchange?

# %%
gradient_bytes = 4 * sum(p.numel() for p in make_net().parameters())
pd.Series(
    {
        "step without exchange": step_time[False],
        "step with exchange": step_time[True],
        "exchange, predicted": ring_time(2, gradient_bytes, alpha, per_byte),
    },
    name="ms",
).mul(1e3).round(2).to_frame()

# %% [markdown]
# Read this table with care: it comes from two processes on one machine, perhaps with other work on it, and on yours it will differ. The
# model knows the wire, and nothing else. A real step also pays for copying gradients into buckets, and every rank waits for the slowest
# one: where the measured difference is larger than the prediction, that is where to look first.
#
# The model travels better than the table. Take ResNet-50, and devices that compute a step in 40 ms. Each adds its own batch (*weak
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

# %%
n = 2 ** np.arange(1, 13)
figure, ax = plot.new(7, 3.2)
for (name, link), colour in zip(LINKS.items(), plot.COLOURS, strict=False):
    exchange = ring_time(n, size, *link)
    serial, hidden = COMPUTE / (COMPUTE + exchange), COMPUTE / np.maximum(COMPUTE, exchange)
    ax.fill_between(n, serial, hidden, color=colour, alpha=0.3, label=name)
ax.set_xscale("log", base=2)
ax.set(
    xlabel="devices",
    ylabel="efficiency",
    ylim=(0, 1.05),
    title="The link decides, then the latency of the ring",
)
ax.legend(loc="center")
plot.show(
    figure, alt="Efficiency by devices for three links; bands from no overlap to full overlap."
)

# %% [markdown]
# The lower edge of a band is an exchange after the computation, the upper edge one that hides behind it, as the buckets do. From four
# devices to some dozens the curves are almost flat: the volume per device stays below two gradients. On the right the other term wins:
# the ring has $2(n-1)$ steps in a row, so latency grows with the number of devices however small the chunks become. Real libraries switch
# to trees there (exercise 1).

# %% tags=["nbval-check-output"]
slow, fast = (ring_time(n, size, *LINKS[name]) for name in ("10 Gbit/s", "400 Gbit/s"))
sent = {k: sum(message[0].numel() for message in ring_all_reduce(torch.ones(k, k))) for k in n[:8]}
claim(
    "counted in the ring above: up to 256 devices, each sends less than two gradients",
    len(sent) == 8 and all(numbers < 2 * k for k, numbers in sent.items()),
)
claim(
    "10 Gbit/s: exchanging ResNet-50 takes longer than computing it, even for two",
    slow[0] > COMPUTE,
)
claim(
    "400 Gbit/s: up to 64 devices it takes less than a quarter", fast[n <= 64].max() < COMPUTE / 4
)
waiting = ring_time(n[-1], 0, *LINKS["400 Gbit/s"])  # what an empty message takes
claim("with 4096 devices the latency is the larger part", waiting > fast[-1] / 2)

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
    base={"devices": 4, "rule": "linear", "lr": 0.02},
    vary="devices",
    values=[4, 16, 64],
    seeds=range(budget(cpu=2, gpu=5)),
)
growing.table()[["mean", "std", "n", "delta"]].round(3)

# %%
figure, ax = plot.new(6, 2.8)
growing.plot(ax)
ax.axhline(accuracy[1], color=plot.COLOURS[2], linestyle=":", label="one device")
ax.legend(loc="lower left")
ax.set(
    ylabel="test accuracy",
    ylim=(0, 1.05),
    title="The rule holds for a while, then there are too few steps",
)
plot.show(
    figure, alt="Accuracy by devices: with four as with one, then falling towards chance at 64."
)

# %% [markdown]
# Up to four devices nothing is lost. With sixteen some accuracy is, and with 64 every run is far behind.

# %% tags=["nbval-check-output"]
mean = growing.table()["mean"]
claim("four devices come within 4 points of one", mean[4] > accuracy[1] - 0.04)
claim("sixty-four lose at least 20 points: the rule has a limit", mean[64] < accuracy[1] - 0.2)
warmed = scores.mean()["linear + warm-up"] - scores.mean()["linear"]
claim("at eight devices the warm-up gains at most 3 points on average", warmed < 0.03)

# %% [markdown]
# **Why they differ.** The first finding appears: a flat part, then a fall. But our flat part is short. With 64 devices, four epochs are
# only a few dozen steps, and no rate makes up for steps that are not taken; the paper's largest batch still has thousands. The second
# does not appear: at eight devices there is nothing left that a warm-up could gain, and in a short run it takes away steps at full rate.
# Where runs do die, at 16 devices or with a higher `lr`, some die with the warm-up too: their rate is too high for this network at any
# time, not only at the start. A recipe holds for the network that it was written for, so measure it on yours.

# %% [markdown]
# ## Bug hunt: the clipping that shrank every step
#
# Mixed precision computes in 16 bits, where small gradients round to zero. So a `GradScaler` multiplies the loss by a large number before
# `backward`, and divides the gradients by it before the step. This function trains with it, accumulates, and clips the gradient. It
# raises nothing, the loss goes down, only slowly. It was met in
# [milesial/Pytorch-UNet#468](https://github.com/milesial/Pytorch-UNet/issues/468), and in PyTorch's own examples,
# [pytorch/examples#1196](https://github.com/pytorch/examples/issues/1196).

# %% tags=["hunt-bug"]
from torch import nn


def train_step(model, optimizer, scaler, micro_batches, loss_fn, max_norm):
    """Take one step on all micro-batches; return the norm of the gradient before clipping."""
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
# The accumulation is right, and what overflows is skipped. Repair the rest in a copy of the cell, until every probe passes.
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


def train_step(model, optimizer, scaler, micro_batches, loss_fn, max_norm):
    """Take one step on all micro-batches; return the norm of the gradient before clipping."""
    optimizer.zero_grad()
    samples = sum(len(labels) for _, labels in micro_batches)
    for images, labels in micro_batches:
        loss = loss_fn(model(images), labels) * len(labels) / samples
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)  # once, when all micro-batches are in: now max_norm is in true units
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    return norm.item()


# %% tags=["nbval-check-output"]
claim("the repaired step passes every probe", check_clipped_step(train_step).passed)

# %% [markdown]
# In DDP the place is the same: after the last `backward`, when the exchange is over and all ranks hold the same gradient, so that all
# clip alike. `labs.ddp_train.take_step` does it in this order.

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
# - Accumulate within `no_sync`, weighted by size. With mixed precision: scale, `backward`, unscale, clip, step. Prefer bf16 where the
#   hardware has it: it needs no scale at all.
# - Say with each learning rate for which global batch it was tuned. Multiply both, try a warm-up, and expect a limit.
# - A job that hangs: send it a signal for its stack (`faulthandler`, `py-spy dump`), and look for the rank that is *not* in a collective
#   call. `labs.ddp.launch` names it.
# - A model that does not fit into one device needs its weights sharded as well: FSDP (`torch.distributed.fsdp`) or DeepSpeed. The
#   gradient is still the same average.

# %% [markdown]
# ## You can now
#
# - write data-parallel training from `all_reduce`, and prove it equal to one process, to rounding;
# - see with hooks when gradients are exchanged, and find the sample counted twice, the order that repeats and the rank that waits;
# - start a run with `torchrun` on one machine or many, choose its learning rate, and estimate what its network link allows.
