# %% [markdown]
# # Debug a training run
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** ask a training run eight questions in a fixed order, each with an instrument that answers
# yes or no · find the first NaN, a cut in the graph, a dead layer and a wrong learning rate · unmask a run whose loss
# curve looks fine although the run is wrong.
#
# **You need** the training loop and `cross_entropy`; `capture` from
# [Watch a network see digits](../01_foundations/05_watch_a_network_see_digits).
#
# **Time** read 40 min · debug 40 min · experiment 30 min · reproduce 15 min · hunt 20 min · exercises 40 min
# :::

# %% [markdown]
# ## The symptom
#
# Four people train a reader of digits, 14 by 14 pixels. Each chose a learning rate until the curve looked right, and each
# kept some pictures aside to measure accuracy. One of the four runs is sound. Each of the other three has a bug that was met in real code.

# %%
import torch
from torch.nn.functional import avg_pool2d

from labs.data import digits
from labs.repro import device, seed_everything

HERE = device()
train, test = digits("train", n=4000), digits("test", n=1000)
x_train, y_train = avg_pool2d(train.images, 2).to(HERE), train.labels.to(HERE)
x_test, y_test = avg_pool2d(test.images, 2).to(HERE), test.labels.to(HERE)

# %% [markdown]
# The next two cells build the four runs. They are folded, because they hold the answer: leave them closed until you have asked all the
# questions. A run knows how to `make` its network, its pictures and labels, how it takes one `step`, and its learning rate.

# %% tags=["hide-cell"]
from functools import partial
from typing import Any, NamedTuple

from torch import nn
from torch.nn.functional import cross_entropy


def stage(c_in, c_out, stride):
    conv = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


class Reader(nn.Module):
    def __init__(self, container=nn.ModuleList, width=16):
        super().__init__()
        self.stem = stage(1, width, 1)
        self.body = container([stage(width, width, 2), stage(width, 2 * width, 2)])
        self.head = nn.Linear(2 * width * 16, 10)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.body:
            x = layer(x)
        return self.head(x.flatten(1))


def step(net, optimizer, images, labels, clear=True):
    if clear:
        optimizer.zero_grad()
    loss = cross_entropy(net(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


# %% tags=["hide-cell"]
class Run(NamedTuple):
    make: Any = Reader
    images: Any = x_train
    labels: Any = y_train
    step: Any = step
    lr: float = 0.1

    def build(self):
        with HERE:  # parameters are created on the device
            net = self.make()
        return net, torch.optim.SGD(net.parameters(), self.lr)


RUNS = {
    "A": Run(step=partial(step, clear=False), lr=0.003),
    "B": Run(),
    "C": Run(images=x_train.mT),
    "D": Run(make=partial(Reader, container=list)),
}

# %% [markdown]
# Train each for the same number of steps, and measure it as its author did: on pictures of its own source that it did not train on.

# %%
import pandas as pd

from labs.evaluate import predict

STEPS, BATCH, KEPT = 120, 32, 1000


def share_right(net, images, labels):
    return (predict(net, images).argmax(1) == labels.cpu()).float().mean().item()


# %%
def batches(steps, images=x_train, labels=y_train):
    for _ in range(steps):
        rows = torch.randint(len(images) - KEPT, (BATCH,), device=HERE)
        yield images[rows], labels[rows]


def train_run(run):
    seed_everything(0)
    net, optimizer = run.build()
    drawn = batches(STEPS, run.images, run.labels)
    return net, [run.step(net, optimizer, *batch) for batch in drawn]


trained = {name: train_run(run) for name, run in RUNS.items()}

# %%
from labs import plot

figure, ax = plot.new(height=2.8)
for (name, (_, losses)), colour in zip(trained.items(), plot.COLOURS, strict=False):
    smooth = pd.Series(losses).rolling(10, min_periods=1).mean()
    ax.plot(smooth, color=colour, label=f"run {name}")
ax.set(
    xlabel="training step",
    ylabel="training loss",
    ylim=(0, None),
    title="mean of ten steps",
)
ax.legend()
plot.show(
    figure,
    "All four losses fall; the curves do not tell you which three runs are wrong.",
)

# %%
own = {
    name: share_right(net, RUNS[name].images[-KEPT:], RUNS[name].labels[-KEPT:])
    for name, (net, _) in trained.items()
}
pd.Series(own, name="accuracy on pictures kept aside").round(2)

# %% tags=["nbval-check-output"]
from labs.claims import claim

ends = {name: sum(losses[-20:]) / 20 for name, (_, losses) in trained.items()}
claim(
    "four runs, three of them wrong: each ends with a loss below 0.9 (guessing "
    "costs 2.3)",
    max(ends.values()) < 0.9,
    measured=ends,
)
claim(
    "four runs, three of them wrong: each reads over 75 % of the pictures its "
    "author kept aside",
    min(own.values()) > 0.75,
    measured=own,
)

# %% [markdown]
# All four learn. Nothing in these numbers tells you which one to trust: some are a few points behind, but a healthy run can be, too. You need
# better questions than "does the loss go down?".

# %% [markdown]
# ## The idea
#
# This is the network that all four runs want to train, drawn from a real run of the sound one: two stages of convolution between a stem and a
# linear head. Shapes were captured, and an arrow stands where one part feeds another.

# %%
from labs import diagram

PARTS = {"input": "input", "stem": "stem", "stage 1": "body.0", "stage 2": "body.1"}
PARTS |= {"head": "head"}
wiring = diagram.trace(Reader(), x_train[:2].cpu(), PARTS)
plot.show(
    diagram.draw(wiring, [list(PARTS)]),
    "The reader that is debugged: one chain from 14 by 14 pixels to ten scores; "
    "most of its numbers to learn lie in the two last parts.",
)

# %% [markdown]
# The drawing shows the **model**. A training run has two parts more: the **data**, and the **loop** with its loss and its optimiser. A good question clears
# one of the three, and **its answer is known before you look**. Then a surprise is a bug, and not a matter of taste. Three such answers
# can be checked by hand:
#
# - Before the first step a reader of ten classes knows nothing, so each class gets about one tenth, and the loss is $-\ln 0.1$.
# - The same picture and the same weights give the same gradient. With $L = \frac12 (wx)^2$, $w = 3$ and $x = 2$ it is $wx^2 = 12$,
#   the second time too.
# - A ReLU whose input is negative passes no gradient. With $L = \max(0, wx)$, $w = -1$ and $x = 2$ the gradient is 0, and no step can ever change it.

# %%
from math import log

w = torch.tensor(3.0, requires_grad=True)
deposits = []
for _ in range(3):  # nobody clears w.grad
    (0.5 * (w * 2.0) ** 2).backward()
    deposits.append(w.grad.item())

# %%
v = torch.tensor(-1.0, requires_grad=True)
torch.relu(v * 2.0).backward()
uniform = cross_entropy(torch.zeros(1, 10), torch.tensor([7])).item()
print(f"-ln 0.1: {uniform:.3f} · w.grad: {deposits} · v.grad: {v.grad.item()}")

# %% [markdown]
# The first and the last number are as promised. The middle one is not: 12, then 24, then 36. `backward()` does not *set* `.grad`, it *adds* to it.
# You knew the answer, so you can see that something is off. That is the method of this lesson; {cite:t}`karpathy2019recipe` describes
# it in a short text.

# %% tags=["nbval-check-output"]
claim(
    "backward() adds to .grad: three passes with a gradient of 12 leave 12, 24 and "
    "36",
    deposits == [12, 24, 36],
    measured=deposits,
)

# %% [markdown]
# ## The block
#
# The first question clears model, loss and optimiser at once, in a second: **can it learn one batch by heart?** Sixteen pictures, always the
# same, no augmentation. A network with thousands of weights must bring their loss close to zero. If it does not, do not start the long run.


# %%
def overfit_one_batch(net, images, labels, loss=cross_entropy, steps=100, goal=0.05):
    """Train on one batch until its loss is below the goal; return every loss."""
    adam, losses = torch.optim.Adam(net.parameters(), 0.01), []
    for _ in range(steps):
        adam.zero_grad()
        value = loss(net(images), labels)
        value.backward()
        adam.step()
        losses.append(value.item())
        if losses[-1] < goal:
            break
    return losses


# %%
def fresh():
    seed_everything(0)
    return Run().build()[0]


images, labels = x_train[:16], y_train[:16]
print(tuple(images.shape), tuple(fresh()(images).shape))
sound = overfit_one_batch(fresh(), images, labels)
print(f"loss {sound[0]:.2f} at first, {sound[-1]:.3f} after {len(sound)} steps")

# %% [markdown]
# Sixteen pictures, sixteen rows of ten scores, and after a few steps nothing left to learn. Now a loss that you met in
# [Watch a network see digits](../01_foundations/05_watch_a_network_see_digits): softmax in front of the cross entropy.


# %%
def softmax_twice(scores, labels):
    return cross_entropy(scores.softmax(1), labels)


stuck = overfit_one_batch(fresh(), images, labels, loss=softmax_twice)
print(f"loss {stuck[0]:.2f} at first, {stuck[-1]:.3f} after {len(stuck)} steps")
print(f"the least that this loss can be: {log(torch.e + 9) - 1:.3f}")

# %% [markdown]
# It is stuck, and the second line says where: after the first softmax a score is at most 1, so even a perfect answer, 1 for the right class and 0 for the nine others, costs that much. The
# network has learnt its batch, and this loss cannot say so. The question shows it in a second; a long run would have spent hours on a loss whose gradients fade. Does the loop written here do what `labs.train.fit` does? Give
# both the same weights and the same batch.

# %%
from labs.train import fit

by_hand = overfit_one_batch(fresh(), images, labels, steps=20, goal=0.0)
net = fresh()
history = fit(net, [(images, labels)] * 20, torch.optim.Adam(net.parameters(), 0.01))

# %% tags=["nbval-check-output"]
difference = (history.table()["loss"] - pd.Series(by_hand)).abs().max()
claim(
    "the loop written here and labs.train.fit cut a loss by ten in 20 steps, alike "
    "to 1e-4",
    difference < 1e-4 and by_hand[-1] < by_hand[0] / 10,
    measured=(by_hand[0], by_hand[-1], difference),
)
claim(
    "sixteen pictures, 100 steps: cross entropy gets below 0.05, with a softmax "
    "before it above 1.4",
    sound[-1] < 0.05 and stuck[-1] > 1.4,
    measured=(sound[-1], stuck[-1]),
)

# %% [markdown]
# ## Debug: eight questions in a fixed order
#
# The order goes from cheap to expensive, and each answer makes the next one worth asking.
#
# 1. Does it learn one batch by heart? (You have just asked.)
# 2. Is the graph in one piece?
# 3. Does a gradient of a sane size reach every weight?
# 4. Where is the first value that is not finite?
# 5. Does the loss survive extreme inputs?
# 6. Are the units alive?
# 7. Is the step the right length?
# 8. Is it the data or the model?
#
# ### Question 2: is the graph in one piece?
#
# An encoder for laser scans sent its skip connections through `detach()`, and one convolution served a skip only
# ([PRBonn/lidar-bonnetal#99](https://github.com/PRBonn/lidar-bonnetal/issues/99)). Here is the same wiring in small.


# %%
class WithSkip(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.conv1a, self.conv1b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 1)
        self.head, self.cut = nn.Linear(8 * 14 * 14, 10), cut

    def forward(self, x):
        skip = self.conv1b(x)
        skip = skip.detach() if self.cut else skip
        return self.head((torch.relu(self.conv1a(x)) + skip).flatten(1))


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# `conv1b` gets no gradient at all. Can this network still learn sixteen pictures by heart?
# :::

# %%
seed_everything(0)
by_heart = overfit_one_batch(WithSkip(cut=True).to(HERE), images, labels)
f"loss {by_heart[-1]:.3f} after {len(by_heart)} steps"

# %% [markdown]
# It can. The head alone has enough weights. So the first question did not see the cut, and you need the second: draw the graph that `backward()` will walk.
# `torchviz.make_dot` draws one box per operation, and one with a name per parameter. The picture is made by Graphviz; without it, look at
# which names are in the graph.

# %%
import torchviz

graphs = {}
for title, net in {"whole": WithSkip(cut=False), "cut": WithSkip(cut=True)}.items():
    loss = cross_entropy(net.to(HERE)(images), labels)
    graphs[title] = torchviz.make_dot(loss, params=dict(net.named_parameters()))

# %%
from io import BytesIO
from shutil import which

from matplotlib import image

if which("dot"):
    figure, axes = plot.new(height=3.6, columns=2)
    for ax, (title, graph) in zip(axes, graphs.items(), strict=True):
        graph.graph_attr.update(ranksep="0.12", nodesep="0.06")  # close together
        ax.imshow(image.imread(BytesIO(graph.pipe("png"))))
        ax.set_axis_off()
        ax.set_title(title, fontsize=9)
    plot.show(
        figure,
        "After detach() the two boxes of conv1b are missing from the graph; the "
        "rest is the same.",
        alt="Two autograd graphs. Left: three layers lead to the loss. Right: the "
        "branch of conv1b is missing.",
    )
else:
    print("Graphviz (the program dot) is not installed, so there is no picture.")

# %%
every = list(dict(net.named_parameters()))
named = {title: [n in graph.source for n in every] for title, graph in graphs.items()}
pd.DataFrame(named, index=every).replace({True: "in the graph", False: "MISSING"})

# %% [markdown]
# On the left, six named boxes flow into the loss. On the right the two boxes of `conv1b` are gone, and nothing in the loss tells of it. The
# table says the same without a picture: its names were looked up in the graph.

# %% [markdown]
# ### Question 3: does a gradient of a sane size reach every weight?
#
# A drawing is good for ten boxes. For a real network ask `gradient_health`, after one `backward()`. Compare three networks of eight convolutions: one sound, one with
# sigmoids, and one cut in the middle, by a hook that detaches what a layer returns.


# %%
def chain(widths, strides, activation=nn.ReLU):
    net, channels = nn.Sequential(), [1, *widths]
    for n, stride in enumerate(strides, 1):
        conv = nn.Conv2d(channels[n - 1], channels[n], 3, stride, padding=1)
        if activation is nn.ReLU:
            nn.init.kaiming_normal_(conv.weight)
        net.add_module(f"conv{n}", conv)
        net.add_module(f"act{n}", activation())
    net.add_module("flat", nn.Flatten())
    net.add_module("fc", nn.LazyLinear(10))
    net(x_train[:1].cpu())  # now the last layer knows its size
    return net.to(HERE)


# %%
from labs.hooks import gradient_health

seed_everything(0)
deep_nets = {"sound": chain(8 * [8], 8 * [1]), "cut": chain(8 * [8], 8 * [1])}
deep_nets["cut"].act4.register_forward_hook(lambda *call: call[-1].detach())
deep_nets["sigmoids"] = chain(8 * [8], 8 * [1], activation=nn.Sigmoid)
health = {}
for name, net in deep_nets.items():
    cross_entropy(net(x_train[:64]), y_train[:64]).backward()
    health[name] = gradient_health(net)
health

# %% [markdown]
# Each report counts its verdicts: the network that was cut has *missing* gradients, the one with sigmoids *vanishing* ones. The plot of the gradient's size by layer,
# relative to the weights, is the **gradient-flow plot**.

# %%
flow = {}
for name, report in health.items():
    table = report.table().set_index("parameter")
    flow[name] = table.loc[table.index.str.endswith("weight"), "ratio"]
figure, ax = plot.new(height=2.8)
for name, colour in zip(flow, plot.COLOURS, strict=False):
    ax.semilogy(flow[name].to_numpy(), "o-", color=colour, label=name)
ax.set_xticks(range(9), [*map(str, range(1, 9)), "fc"])
ax.set(
    xlabel="layer, from input to output",
    ylabel="gradient norm / weight norm",
    title="after one backward()",
)
ax.legend()
plot.show(
    figure,
    "A gradient can vanish, layer by layer, as with sigmoids; or it never arrives, "
    "as below the cut.",
    alt="Relative gradient by layer: level when sound, falling by orders of "
    "magnitude with sigmoids, absent below the cut.",
)

# %% [markdown]
# Read it from right to left, as the gradient travels. The sound network is level. With sigmoids each layer takes away a factor, because the slope of a sigmoid is at
# most one quarter. In the network that was cut, the line stops: there are no points for the layers in front.

# %% tags=["nbval-check-output"]
lost = {name for name, found in zip(every, named["cut"], strict=True) if not found}
claim(
    "the graph that torchviz draws lacks the weights behind a detach(), and no "
    "others",
    all(named["whole"]) and lost == {"conv1b.weight", "conv1b.bias"},
    measured=named,
)
claim(
    "a network with a layer cut off by detach() still learns sixteen pictures by "
    "heart",
    by_heart[-1] < 0.05,
    measured=by_heart[-1],
)

# %% tags=["nbval-check-output"]
first, last = flow["sigmoids"].iloc[[0, -1]]
claim(
    "eight convolutions with sigmoids: the gradient shrinks over 1,000 times from "
    "output to input",
    first < last / 1000,
    measured=flow["sigmoids"].to_dict(),
)
claim(
    "eight convolutions with ReLUs: the gradients of all layers lie within a factor "
    "of 100",
    flow["sound"].max() < 100 * flow["sound"].min(),
    measured=flow["sound"].to_dict(),
)
front = {f"conv{n}.{kind}" for n in (1, 2, 3, 4) for kind in ("weight", "bias")}
claim(
    "gradient_health names as missing exactly the weights in front of a detach()",
    set(health["cut"].missing) == front,
    measured=health["cut"].missing,
)

# %% [markdown]
# ### Question 4: where is the first value that is not finite?
#
# A well-known image distance divides each pixel's features by their length, and adds a small number so that nothing is divided by zero. Users
# met NaN all the same ([richzhang/PerceptualSimilarity#69](https://github.com/richzhang/PerceptualSimilarity/issues/69)).


# %%
class Unit(nn.Module):
    def forward(self, x, eps=1e-10):
        length = x.square().sum(1, keepdim=True).sqrt()  # [N,1,H,W]
        return x / (length + eps)


def with_unit():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, padding=1, bias=False), Unit(), nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    ).to(HERE)  # fmt: skip


# %%
seed_everything(0)
net = with_unit()
try:
    fit(net, batches(50), torch.optim.SGD(net.parameters(), 0.1))
except FloatingPointError as error:
    crash = error
    print(error)

# %% [markdown]
# The run is dead, but its last moment is not lost. An exception carries the frames in which it was raised, with all their variables. In a notebook,
# type `%debug` in the next cell; in a script, call `pdb.post_mortem()`. Both wait for you to type, and this book has to run on its own. So
# `ask_debugger`, folded below, types for you: it gives the debugger a script instead of a keyboard.

# %% tags=["hide-input"]
import io
import pdb
import re


def ask_debugger(error, *commands):
    script, transcript = io.StringIO("\n".join([*commands, "q"])), io.StringIO()
    debugger = pdb.Pdb(stdin=script, stdout=transcript, nosigint=True, readrc=False)
    debugger.prompt = "(Pdb) "  # inside IPython it would be "ipdb> "
    debugger.reset()
    debugger.interaction(None, error.__traceback__)  # what pdb.post_mortem does
    plain_text = re.sub(r"\x1b\[[\d;]*m", "", transcript.getvalue())  # no colours
    _, *replies = plain_text.split("(Pdb) ")
    for command, reply in zip(commands, replies, strict=False):
        first_line = reply.partition("\n")[0]
        print(f"(Pdb) {command}\n{re.sub(r'> .*/', '> ', first_line)}")


# %%
ask_debugger(
    crash,
    "up",
    "p len(steps)",
    "p bool(batch[0].isfinite().all())",
    "p [name for name, w in model.named_parameters() if w.isnan().any()]",
)

# %% [markdown]
# `up` went from the function that raised to `fit`, which holds the evidence: one step had been taken; the batch at hand is finite, so it is innocent; but the weights of
# layer 0, the first convolution, *already were* NaN. The loss shows it last. The damage was done in the step before, by a gradient.
#
# `first_bad` runs a fresh network once, forwards and backwards, and names the first module that spoils a value.

# %%
from labs.hooks import first_bad


seed_everything(0)
pictures, truth = x_train[:BATCH], y_train[:BATCH]
culprit = first_bad(with_unit(), pictures, loss=lambda y: cross_entropy(y, truth))
culprit

# %% [markdown]
# The forward pass is clean. The gradient is not, and layer 1, the `Unit`, spoils it: where all features of a pixel are zero, as on black paper, the square root has
# an infinite slope, and infinity times zero is NaN. The small number stands in the wrong place: it protects the division, not the root.
#
# To stop in the middle of a run, write `breakpoint()` into the loop, behind a condition: `if images.amax() == 0: breakpoint()`. The condition is what
# makes it useful in a run of a million steps.
#
# ### Question 5: does the loss survive extreme inputs?
#
# Do not wait for the one batch in a thousand. `stress` drives a function over extreme inputs and reports value *and* gradient. Try the bad normalisation and a mended one; then a
# cross entropy as one writes it from the formula, and PyTorch's.


# %%
from textwrap import fill

from labs.numerics import stress


def mended(x, eps=1e-10):
    return x / (x.square().sum(1, keepdim=True) + eps).sqrt()


def from_the_formula(scores, labels):
    return -scores.softmax(1).log().gather(1, labels[:, None]).mean()


# %%
TRIED = {
    "Unit": (lambda x: Unit()(x[None]), "elementwise"),
    "mended": (lambda x: mended(x[None]), "elementwise"),
    "from_the_formula": (from_the_formula, "logits"),
    "cross_entropy": (cross_entropy, "logits"),
}
reports = {k: stress(*how, dtypes=[torch.float32]) for k, how in TRIED.items()}

# %%
for name, report in reports.items():
    cases = ", ".join(dict.fromkeys(o.case for o in report.failures))
    print(f"{name}: {len(report.failures)} of {len(report.outcomes)} fail")
    print(fill(cases, 80, initial_indent="  ", subsequent_indent="  ") or "  none")

# %% [markdown]
# `stress` names the zero vector at once, and the mended version passes. The formula fails where a score is far from the others, which is where a network that learns will
# end up. Even PyTorch's cross entropy has two cases in which it returns NaN, and they are the mean of nothing: no samples, or all of them ignored. Remember them, because a batch of crops can be empty.
#
# `check_gradients` asks the other question: is the gradient the slope? A loss that once passed through `.item()`, `.detach()` or NumPy is finite everywhere and wrong.

# %%
from labs.numerics import check_gradients


def scaled(x):
    length = x.norm().item()  # a constant to autograd
    return (x / length).square().sum() + x.sum()


checked = check_gradients(scaled, torch.tensor([1.0, 2.0, 2.0]))
checked

# %% [markdown]
# The check fails: the gradient of autograd and the measured slope are not the same.

# %% tags=["nbval-check-output"]
who, what = (culprit.name, culprit.kind) if culprit else ("nobody", "nothing")
claim(
    "first_bad traces the NaN of a distance to the gradient of its normalisation",
    (who, what) == ("1", "gradient"),
    measured=culprit,
)
claim(
    "check_gradients rejects a loss whose norm passed through .item()",
    not checked.ok,
    measured=checked,
)

# %% tags=["nbval-check-output"]
failed = {name: {o.case for o in report.failures} for name, report in reports.items()}
claim(
    "eps outside the root: stress finds the zero vector; eps inside: every float32 "
    "case passes",
    "zeros" in failed["Unit"] and not failed["mended"],
    measured=failed,
)
claim(
    "PyTorch's cross_entropy fails on the mean of nothing only, the formula on more "
    "cases",
    failed["cross_entropy"] == {"no samples", "all ignored"}
    and failed["from_the_formula"] > failed["cross_entropy"],
    measured=failed,
)

# %% [markdown]
# ### Question 6: are the units alive?
#
# A ReLU unit that is negative on *every* picture is dead: you know from the idea above that it gets no gradient, so it stays dead. Watch a network die. `capture` with `reduce`
# keeps one number per unit, its largest output, so that you can afford it at every step.


# %%
from labs.hooks import capture

plain = partial(chain, [16, 16, 32], [1, 2, 2])


def dead_share(net, probe=x_train[:256]):
    """Return the share of dead units in the worst layer."""
    largest = capture(net, "act*", reduce=lambda m: m.amax((0, 2, 3)))
    with torch.no_grad(), largest as maps:
        net(probe)
    return max((maps[name] == 0).float().mean().item() for name in maps)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Two runs, the same network and data; the second has a learning rate ten times as large. Its loss does not become NaN. What will
# you see in the loss, and what in the units?
# :::

# %%
SLOW, FAST = 0.04, 0.4


def live(lr):
    seed_everything(0)
    net, dead = plain(), []
    sgd = torch.optim.SGD(net.parameters(), lr, momentum=0.9)
    history = fit(
        net, batches(60), sgd, watch=lambda *_: dead.append(dead_share(net))
    )
    return net, pd.DataFrame({"loss": history.table()["loss"], "dead": dead})


nets, lives = zip(*(live(lr) for lr in (SLOW, FAST)), strict=True)

# %%
figure, axes = plot.new(height=2.8, columns=2)
for lr, life, colour in zip((SLOW, FAST), lives, plot.COLOURS, strict=False):
    axes[0].plot(life["loss"], color=colour)
    axes[1].plot(100 * life["dead"], color=colour, label=f"{lr:g}")
axes[0].axhline(log(10), color="0.5", linestyle=":")
axes[0].set(xlabel="training step", ylabel="training loss", title="loss")
axes[1].legend(title="learning rate", loc="center right")
axes[1].set(
    xlabel="training step",
    ylabel="dead units in the worst layer (%)",
    ylim=(-3, 103),
    title="units",
)
plot.show(
    figure,
    "At ten times the learning rate the units of one layer die, and from then on "
    "the loss stays near that of guessing.",
    alt="Left: training losses; that of the slow run falls, that of the fast run "
    "stays near the dotted line at ln 10. Right: dead units; most of a layer in the "
    "fast run, few in the slow one.",
)

# %% [markdown]
# The dotted line is $\ln 10$. The fast run did not diverge to infinity. After a few jumps its units lie on the far side of zero, for every picture, and from then on the loss stays near that of guessing. A flat
# loss at $\ln C$ says *nothing reaches the head*; the activation statistics say in which layer.

# %%
with torch.no_grad(), capture(nets[1], "conv*", "act*") as maps:
    nets[1](x_train[:256])  # the network of the fast run
maps.table()[["layer", "mean", "std", "max", "zeros"]].round(2)

# %% [markdown]
# Look for a layer with `max` or `std` at zero, and at `zeros`, the share of exact zeros: about one half is normal behind a ReLU, all of them is death. In a sound network, the `std` neither
# grows nor shrinks much from layer to layer.

# %% tags=["nbval-check-output"]
ends = {
    lr: (life["dead"].iloc[-1], life["loss"].tail(10).mean())
    for lr, life in zip((SLOW, FAST), lives, strict=True)
}
claim(
    "ten times the rate kills over half of the units of a layer; the rate itself "
    "under a quarter",
    ends[FAST][0] > 0.5 and ends[SLOW][0] < 0.25,
    measured=ends,
)
claim(
    "ten times the rate leaves the loss above 1.8, the rate itself brings it below "
    "1.2",
    ends[FAST][1] > 1.8 and ends[SLOW][1] < 1.2,
    measured=ends,
)

# %% [markdown]
# Question 7, the length of the step, is the experiment below. Take the last question first, and then the four runs.
#
# ### Question 8: is it the data or the model?
#
# Bisect. Swap one part at a time for one that you *know* to be good: your model on known good data, and a known good model on your data. Judge each on the same
# known good pictures. Here the known good data are the digits of `labs.data`, and the known good model is a residual network of `labs.models`. The suspect is run C.

# %%
from labs.models import resnet_cifar


def bisect(run):
    makers = {"my model": run.make}
    makers["known good model"] = partial(resnet_cifar, 8, 16, in_channels=1)
    right = {}
    for data, images in [("my data", run.images), ("known good data", x_train)]:
        for model, make in makers.items():
            net, _ = train_run(run._replace(images=images, make=make))
            right[data, model] = share_right(net, x_test, y_test)
    return pd.Series(right).unstack()


bisection = bisect(RUNS["C"])
bisection.round(2)

# %% [markdown]
# Both models fail on one row and are good on the other: the *row* decides, so the data are guilty. Look at them, which you should have done first.

# %%
figure, axes = plot.new(height=2.3, columns=2)
for ax, pictures in zip(axes, (RUNS["C"].images, x_test), strict=True):
    tiles = torch.cat([torch.cat(list(row), 2) for row in pictures[:8].split(4)], 1)
    plot.images(ax, tiles[None].cpu())
axes[0].set_title("run C", fontsize=9)
axes[1].set_title("known good", fontsize=9)
plot.show(
    figure,
    "The pictures of run C are digits mirrored about the diagonal; the known good "
    "ones stand upright.",
)

# %% [markdown]
# Every picture of run C is transposed, as in the files of EMNIST, which are stored column by column
# ([tensorflow/datasets#812](https://github.com/tensorflow/datasets/issues/812), [pytorch/vision#8783](https://github.com/pytorch/vision/issues/8783)). Its own pictures kept aside
# are transposed as well, so its accuracy was right for such pictures, and says nothing about upright ones.

# %% tags=["nbval-check-output"]
mine, good = bisection.loc["my data"], bisection.loc["known good data"]
claim(
    "transposed training data cost each of two models over 30 points on known good "
    "digits",
    (good - mine).min() > 0.3,
    measured=bisection.to_dict(),
)
claim(
    "trained on known good data, each of two models reads over 60 % of the known "
    "good digits",
    good.min() > 0.6,
    measured=good.to_dict(),
)

# %% [markdown]
# ### Which question unmasks which run?
#
# Put to all four runs what a function can answer with yes or no: questions 1, 3, 4 and 8, and three more that come from the idea. The first loss must be near $\ln 10$; a gradient must not depend on
# what was asked before; and a step must move every weight that the loss depends on. For the last, walk the graph yourself, as torchviz does, and collect its leaves.


# %%
def leaves(node):
    if hasattr(node, "variable"):
        return {node.variable}
    return set().union(*(leaves(n) for n, _ in node.next_functions if n))


# %%
def moves_every_leaf(run, net, optimizer):
    loss = cross_entropy(net(run.images[:16]), run.labels[:16])
    before = {w: w.detach().clone() for w in leaves(loss.grad_fn)}
    run.step(net, optimizer, run.images[:16], run.labels[:16])
    return all(not torch.equal(w, old) for w, old in before.items())


def same_gradient_twice(run, net, optimizer):
    optimizer.param_groups[0]["lr"], norms = 0.0, []
    for _ in range(2):
        run.step(net, optimizer, run.images[:16], run.labels[:16])
        norms.append(gradient_health(net).table()["grad_norm"].sum())
    return bool(abs(norms[1] / norms[0] - 1) < 0.01)


# %%
def starts_at_ln10(run, net, optimizer):
    loss = cross_entropy(net(run.images[:256]), run.labels[:256]).item()
    return abs(loss - log(10)) < 0.5


def learns_by_heart(run, net, optimizer):
    return overfit_one_batch(net, run.images[:16], run.labels[:16])[-1] < 0.05


def gradients_are_healthy(run, net, optimizer):
    run.step(net, optimizer, run.images[:64], run.labels[:64])
    return {row.verdict for row in gradient_health(net).parameters} == {"ok"}


def nothing_is_nan(run, net, optimizer):
    return first_bad(net, run.images[:16]) is None


def reads_known_good_digits(run, net, optimizer):
    return share_right(train_run(run)[0], x_test, y_test) > 0.75


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Which of the seven answers will be "no", and for which run?
# :::

# %%
QUESTIONS = [starts_at_ln10, learns_by_heart, gradients_are_healthy, nothing_is_nan,
    same_gradient_twice, moves_every_leaf, reads_known_good_digits]  # fmt: skip
answers = {}
for name, run in RUNS.items():
    seed_everything(0)
    answers[name] = {ask.__name__: ask(run, *run.build()) for ask in QUESTIONS}
answers = pd.DataFrame(answers)
answers.replace({True: "yes", False: "NO"})

# %% [markdown]
# One run passes everything: B is the sound one. Each of the others is unmasked by one question, and by one only. The popular ones, from the first loss to the health of the gradients, find nothing.
#
# - **A** gives another gradient for the same batch: nobody calls `optimizer.zero_grad()`. Each step uses the sum of all gradients so far, which works like a
#   momentum that never decays; a tiny learning rate hides it ([yastrebksv/TennisCourtDetector#7](https://github.com/yastrebksv/TennisCourtDetector/issues/7)).
# - **C** has transposed pictures.
# - **D** has weights in its graph that no step moves: its layers sit in a Python list, where `parameters()` does not find them. The optimiser does not train them, and `gradient_health`
#   does not report them ([pytorch/pytorch#59925](https://github.com/pytorch/pytorch/issues/59925)). The head learns to read random features, quite well.

# %% tags=["nbval-check-output"]
no = {name: set(answers.index[~answers[name].astype(bool)]) for name in RUNS}
claim(
    "a sound training run of a digit reader gets a yes from all seven debugging "
    "questions",
    not no["B"],
    measured=no,
)
claim(
    "a run without zero_grad gives another gradient when asked twice; six questions "
    "pass it",
    no["A"] == {"same_gradient_twice"},
    measured=no,
)
claim(
    "a run on transposed pictures fails on known good digits; six questions pass it",
    no["C"] == {"reads_known_good_digits"},
    measured=no,
)
claim(
    "a run with layers in a list has weights that no step moves; six questions pass "
    "it",
    no["D"] == {"moves_every_leaf"},
    measured=no,
)

# %% [markdown]
# ### The chart to keep
#
# Your symptom is on the left, the questions are in the middle, and on the right is the part to open first when the answer is *no*.

# %% tags=["hide-input"]
CHART = [  # question, instrument, guilty when the answer is no
    ("1  one batch by heart", "overfit_one_batch", "loop"),
    ("2  graph in one piece", "torchviz.make_dot", "model"),
    ("3  gradient at every weight", "gradient_health", "model"),
    ("4  all values finite", "first_bad, %debug", "model"),
    ("5  loss at extremes", "stress, check_gradients", "loop"),
    ("6  units alive", "capture(reduce=...)", "model"),
    ("7  length of a step", "find_lr", "loop"),
    ("8  known good data", "bisect", "data"),
]
ENTRIES = {"flat loss": 0, "NaN": 3, "slow": 6, "fine, but wrong": 7}
SUSPECT = dict(zip(["data", "model", "loop"], plot.COLOURS, strict=False))


def box(ax, x, y, text, colour, face="white", ink="#222222"):
    style = {"boxstyle": "round,pad=0.35", "facecolor": face, "edgecolor": colour}
    ax.text(x, y, text, ha="center", va="center", fontsize=8.5, color=ink, bbox=style)


def arrow(ax, start, end):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "0.4"})


# %%
figure, ax = plot.new(height=4.4)
for row, (question, instrument, suspect) in enumerate(CHART):
    box(ax, 0.44, -row, question, SUSPECT[suspect])
    ax.text(
        0.78, -row + 0.14, instrument, ha="center", fontsize=7.5, family="monospace"
    )
    arrow(ax, (0.60, -row), (0.93, -row))
    box(ax, 0.98, -row, suspect, SUSPECT[suspect], SUSPECT[suspect], "white")
    if row:
        arrow(ax, (0.44, -row + 0.7), (0.44, -row + 0.3))
for entry, row in ENTRIES.items():
    box(ax, 0.08, -row, entry, "#222222", "#EEEEEA")
    arrow(ax, (0.19, -row), (0.26, -row))
ax.set(xlim=(-0.02, 1.04), ylim=(-7.6, 0.6))
ax.set_axis_off()
plot.show(
    figure,
    "Enter at your symptom and go down; the first question answered with no leads "
    "to data, model or loop.",
    alt="Decision chart: four symptoms lead to eight numbered questions; each no "
    "leads to data, model or loop.",
)

# %% [markdown]
# The three new questions belong to it as well: *first loss* and *same gradient twice* next to 1, for the loop; *every leaf moves* next to 3, for the model.

# %% [markdown]
# ## Experiment: how long may a step be?
#
# Question 7. {cite:t}`smith2017cyclical` lets the learning rate grow during one short run and watches the loss: the **range test**. Too short a step, and nothing happens; then the loss falls; then it
# breaks. A common rule takes a tenth of the rate at which the loss was lowest: a margin, because that rate was survived for a few steps only.


# %%
def find_lr(net, batches, low=1e-4, high=10.0, steps=100):
    sgd = torch.optim.SGD(net.parameters(), low, momentum=0.9)
    growth = (high / low) ** (1 / (steps - 1))
    schedule, rows = torch.optim.lr_scheduler.ExponentialLR(sgd, growth), []
    for images, labels in batches:
        sgd.zero_grad()
        value = cross_entropy(net(images), labels)
        value.backward()
        sgd.step()
        rows.append({"lr": schedule.get_last_lr()[0], "loss": value.item()})
        schedule.step()
        if not value < 10:
            break  # it has broken, or it is NaN
    curve = pd.DataFrame(rows).set_index("lr")["loss"].ewm(alpha=0.1).mean()
    return curve, curve.idxmin() / 10


seed_everything(0)
curve, found = find_lr(plain(), batches(100))

# %%
figure, ax = plot.new(height=2.8)
ax.semilogx(curve, color=plot.COLOURS[0])
ax.axvline(
    found, color=plot.COLOURS[1], linestyle="--", label="a tenth of the lowest"
)
ax.set(
    xlabel="learning rate",
    ylabel="smoothed loss",
    ylim=(0, 4),
    title="range test",
)
ax.legend()
plot.show(
    figure,
    "The loss is flat, then falls, then shoots up; the rate to use lies well to the "
    "left of the lowest point.",
)

# %% [markdown]
# One short run drew the whole range, from no learning to divergence. Is its advice good? Make it an ablation: train for 100 steps with the rate that was found times a hundredth, a tenth, one, and thirty, which is three times the rate of
# the lowest loss. Everything else stays; five seeds.
#
# :::{admonition} Predict
# :class: predict
# Which of the four factors is the most accurate? For which will the units die?
# :::

# %%
from labs.ablation import ablate


def train_and_score(factor):
    net = plain()
    sgd = torch.optim.SGD(net.parameters(), found * factor, momentum=0.9)
    fit(net, batches(100), sgd)
    return {
        "accuracy": share_right(net, x_test, y_test),
        "dead units": dead_share(net),
    }


FACTORS = [0.01, 0.1, 1.0, 30.0]
study = ablate(train_and_score, {"factor": 1.0}, "factor", FACTORS, range(5))
study.table("accuracy").round(3)

# %%
figure, axes = plot.new(height=2.8, columns=2)
for ax, metric in zip(axes, study.metrics, strict=True):
    study.plot(ax, metric)
    ax.set(xlabel="factor on the rate that was found", ylim=(-0.05, 1.05))
axes[0].set_title("accuracy")
axes[1].set(title="dead units", ylabel="dead units in the worst layer")
plot.show(
    figure,
    "Accuracy is best at the rate that was found; at thirty times that rate it is "
    "near chance, and most units of a layer are dead.",
)

# %% [markdown]
# The rate that was found is the best of the four. At a tenth of it the network is still on its way, and at a hundredth it has hardly begun; more steps may bring both further. At thirty times the rate no number of steps
# helps: the right panel shows that the units are dead, and a dead unit gets no gradient. (Where a few units are dead at every rate, they were born so: next section.) So when you are in doubt, choose the smaller rate. Which of the differences do five seeds prove?

# %%
print(study.verdict("accuracy"))
print(study.verdict("dead units"))

# %% [markdown]
# The first three lines are about accuracy, the last three about dead units. A hundredth of the rate and thirty times the rate cost most of the accuracy. A tenth costs the least, and its p is the largest of the three: of these differences it is the one that other seeds may not confirm. Only thirty times the rate kills units.

# %% tags=["nbval-check-output"]
told, accuracies = (
    study.verdict("accuracy").split("\n"),
    study.table("accuracy")["mean"],
)
claim(
    "100 steps: a hundredth and thirty times the rate found read less than it, n = 5",
    ": lower by" in told[0] and ": lower by" in told[2],
    measured=told,
)
claim(
    "thirty times the rate found costs more than 40 points of accuracy",
    accuracies[1.0] - accuracies[30.0] > 0.4,
    measured=accuracies.to_dict(),
)

# %% tags=["nbval-check-output"]
dead = study.frame().groupby("factor")["dead units"].agg(["min", "max"])
claim(
    "thirty times the rate found: over half of a layer dies in every run, at the "
    "rate in none",
    dead.loc[30.0, "min"] > 0.5 > dead.loc[1.0, "max"],
    measured=dead.to_dict(),
)
claim(
    "a range test brings the loss of digits below 2 before a larger rate breaks it",
    curve.min() < 2 < curve.iloc[-1],
    measured=(curve.min(), curve.iloc[-1]),
)

# %% [markdown]
# ## Reproduce: networks that are born dead
#
# **The paper says.** {cite:t}`lu2020dying` prove that a ReLU network with weights drawn symmetrically around zero can be dead *before the first step*, and that it is, with a probability
# that tends to one, when depth grows and width does not. Their upper bound for $L$ hidden layers of width $N$ comes from one line of thought that you can check: a unit is negative for a given input
# with probability one half; all $N$ units of a layer with probability $2^{-N}$; so the signal survives $L$ layers with probability $(1 - 2^{-N})^L$. For the network to be dead,
# it must be so for *every* input, which is rarer:
#
# $$P(\text{born dead}) \le 1 - (1 - 2^{-N})^L.$$
#
# **We measure** it on real pictures: hundreds of networks at once, four widths, up to thirty layers. A network is dead when its last hidden layer is zero for each of 100 digits.

# %%
import numpy as np

from labs.repro import budget

NETS, DEPTH, WIDTHS = budget(cpu=400, gpu=4000), 30, [2, 3, 4, 8]
probe = x_train[:100].flatten(1)


# %%
def born_dead(width):
    signal, shares = probe.expand(NETS, -1, -1), []  # [NETS,100,196]
    for _ in range(DEPTH):
        weights = torch.randn(NETS, signal.shape[2], width, device=HERE)
        signal = torch.relu(signal @ weights)  # [NETS,100,width]
        largest = signal.amax((1, 2), keepdim=True)
        signal = signal / largest.clamp(min=1e-30)  # only its sign matters
        shares.append((largest == 0).float().mean().item())
    return shares


# %%
seed_everything(0)
layers = np.arange(1, DEPTH + 1)
measured = pd.DataFrame({n: born_dead(n) for n in WIDTHS}, index=layers)
bound = pd.DataFrame({n: 1 - (1 - 0.5**n) ** layers for n in WIDTHS}, index=layers)

# %%
figure, ax = plot.new(height=3)
for width, colour in zip(WIDTHS, plot.COLOURS, strict=False):
    ax.plot(
        layers,
        measured[width],
        "o",
        markersize=3,
        color=colour,
        label=f"width {width}",
    )
    ax.plot(layers, bound[width], color=colour, linewidth=1)
ax.set(
    xlabel="hidden layers",
    ylabel="share of networks born dead",
    title="dots: measured, lines: bound",
)
ax.legend()
plot.show(
    figure,
    "The deeper and the narrower a ReLU network, the more often it is born dead; "
    "the measured shares stay below the bound.",
)

# %% tags=["nbval-check-output"]
excess, at_10 = (measured - bound).to_numpy().max(), measured.loc[10]
claim(
    "ReLU networks born dead: at all widths and depths at most 0.06 above the bound "
    "of the paper",
    excess < 0.06,
    measured=excess,
)
claim(
    "ReLU networks of 30 layers: over 97 % are born dead at width 2, under 20 % at "
    "width 8",
    measured.loc[30, 2] > 0.97 and measured.loc[30, 8] < 0.20,
    measured=measured.loc[30].to_dict(),
)
claim(
    "ReLU networks of 10 layers: the narrower, the more of them are born dead",
    at_10.is_monotonic_decreasing,
    measured=at_10.to_dict(),
)

# %% [markdown]
# **Why they differ.** The dots (measured) stay below the lines (the bound), as they must, and meet them where it is deep and narrow. The bound looks at one input; a network has to fail on a hundred digits at
# once, and in the first layers they still differ. Each layer squeezes them closer to one direction, and then one input is as good as all. At width 8 few networks are born dead, and the bound falls
# further with every unit more. Above you saw what does kill a wide network: the learning rate.

# %% [markdown]
# ## Bug hunt: the loss that stops too early
#
# **Difficulty** 2 of 3 · **Importance** 3 of 3 · **Time** 20 min
#
# A small network should say where a digit stands: one number per picture, its shift to the right. The loss falls, and then it stays where it is. There is no NaN, no unit is dead,
# and every gradient is healthy. The bug was met in [pytorch/pytorch#16045](https://github.com/pytorch/pytorch/issues/16045) and in
# [deepset-ai/FARM#229](https://github.com/deepset-ai/FARM/issues/229). Edit the network or the loss in this cell until the check below it passes.

# %% tags=["hunt-bug"]
import torch
from torch import nn


class Locator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8 * 7 * 7, 1)

    def forward(self, images):  # [N,1,14,14]
        return self.fc(torch.relu(self.conv(images)).flatten(1))


def loss(net, batch):
    images, shifts = batch  # [N,1,14,14], [N]
    return (net(images) - shifts).square().mean()


# %% [markdown]
# Train it, and compare the variance of its answers with the variance of the truth.

# %%
seed_everything(0)
shifts = torch.randint(-3, 4, (512,), device=HERE)
rolled = zip(x_train[:512], shifts.tolist(), strict=True)
moved = torch.stack([picture.roll(shift, -1) for picture, shift in rolled])

# %%
locator, batch = Locator().to(HERE), (moved, shifts.float())
adam = torch.optim.Adam(locator.parameters(), 0.01)
history = fit(locator, [batch] * 60, adam, loss=loss)
print(f"last loss {history.steps[-1]['loss']:.2f}")
print(f"variance of the truth {batch[1].var():.2f}", end=", ")
print(f"of the answers {predict(locator, moved).var():.2f}")

# %%
from labs.hunts.engineering import check_regression_loss

check_regression_loss(Locator, loss)

# %% [markdown]
# The loss stops at the variance of the truth, and the answers have almost none: the network says the same for every picture. Go back to the cell, change it, and run the
# cells below it again.
#
# :::{dropdown} Hint 1
# Which question of the chart would have seen it? Ask it: sixteen pictures, by heart.
# :::
#
# :::{dropdown} Hint 2
# The smallest possible value of a mean square is zero. Which constant answer makes it as small as the variance? And why would the best answer be a constant?
# :::
#
# :::{dropdown} Hint 3
# Put a `breakpoint()` in front of the `return`, or print: the shape of the prediction, the shape of the truth, and the shape of their difference.
# :::

# %% tags=["hunt-solution", "hide-cell"]
import torch
from torch import nn


class FlatLocator(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8 * 7 * 7, 1)

    def forward(self, images):  # [N,1,14,14]
        features = torch.relu(self.conv(images)).flatten(1)
        return self.fc(features).squeeze(1)  # [N], not [N,1]


def loss_of_pairs(net, batch):
    images, shifts = batch  # [N,1,14,14], [N]
    predicted = net(images)
    assert predicted.shape == shifts.shape  # [N,1] - [N] would be [N,N]
    return (predicted - shifts).square().mean()


# %% tags=["nbval-check-output"]
verdict = check_regression_loss(FlatLocator, loss_of_pairs)
claim(
    "a regression loss that asserts equal shapes passes every probe",
    verdict.passed,
    measured=verdict,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Let runs A and B go on for four times as many steps. Does the loss tell them apart in the end? Which one number, recorded at each step, would have told you early?
#
# :::{dropdown} Solution 1
# The loss hardly tells: batch norm forgives steps of almost any size, so A goes on learning. (Take the batch norms out, and it does not.) The largest gradient tells within a few steps. In a sound
# run it shrinks as the loss falls; in A it grows, and then stays large however small the loss. Run the next cell.
# :::

# %% tags=["hide-cell"]
long = {}
for name in "AB":
    seed_everything(0)
    net, optimizer = RUNS[name].build()
    for number, batch in enumerate(batches(4 * STEPS)):
        long[name, "loss", number] = RUNS[name].step(net, optimizer, *batch)
        if number % STEPS == STEPS - 1 or number == 0:
            norm = gradient_health(net).table()["grad_norm"].max()
            long[name, "largest gradient", number] = norm
pd.Series(long).unstack([0, 1]).dropna().round(2)

# %% [markdown]
# **Exercise 2.** The mended normalisation passed `stress` in float32. Run it in float16, as mixed precision would. Why does it fail, and which `eps` repairs it?
#
# :::{dropdown} Solution 2
# The smallest positive number of float16 is about $6 \cdot 10^{-8}$, so `1e-10` becomes zero, and you are back at the square root of zero. Take `eps=1e-6`, or compute the length in float32, as
# `autocast` does for many norms. The next cell tries both constants.
# :::

# %% tags=["hide-cell"]
half = [torch.float16]
{
    eps: "zeros"
    in {
        o.case
        for o in stress(
            lambda x, e=eps: mended(x[None], e), "elementwise", dtypes=half
        ).failures
    }
    for eps in (1e-10, 1e-6)
}

# %% [markdown]
# **Exercise 3.** Add batch normalisation behind each convolution of `chain`, and repeat the range test. What happens to the rate that is found, and to the one that ruins? Why does the network no longer die so easily?
#
# :::{dropdown} Solution 3
# The loss keeps falling up to larger rates. A batch norm centres the input of each ReLU, so that about half of the batch is positive whatever the step did to the weights; a unit can be killed only through the norm's own
# shift. Try it: insert `nn.BatchNorm2d(channels[n])` before the activation.
# :::

# %% [markdown]
# ## In practice
#
# - Look at a batch as the network gets it, pictures *with* labels, before anything else. No instrument replaces it.
# - Overfit one batch in every pull request that touches model, loss or loop. It takes a second and catches broken losses and loops. You saw what it cannot see: bad data, a cut, layers that are not trained, a sum of gradients.
# - Keep a known good data set and a known good model at hand, small enough to train in seconds: you cannot bisect without them.
# - `torch.autograd.set_detect_anomaly(True)` names the operation whose gradient is NaN, and the line that called it; it is slow, so switch it on for the step that fails. `first_bad` names the layer.
# - `%debug` after an exception, `breakpoint()` behind a condition, `pdb.post_mortem(error.__traceback__)` in a test. In a job without a keyboard, save the batch and the weights when the loss is not finite.
# - `nn.functional.mse_loss` warns when shapes differ; a loss written by hand does not. Assert the shapes.
# - For the range test there are `torch-lr-finder` and the tuner of Lightning. Run it again when model, batch size or optimiser change.

# %% [markdown]
# ## You can now
#
# - ask eight questions in order, and know which part of a run each of them clears;
# - follow a NaN from the dead run back to the layer, its gradient, and the input that does it;
# - unmask a run that trains and is wrong, by questions whose answers you knew before.
