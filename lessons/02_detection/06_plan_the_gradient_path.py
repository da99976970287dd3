# %% [markdown]
# # Plan the gradient path
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** count and measure the ways by which a gradient reaches a layer · say what residual, CSP and ELAN blocks do to it, and what they do not do ·
# turn three parallel branches into one convolution with the same answer, and prove it · draw which predictions answer for which object, and say why the choice changes.
#
# **You need** [Feel the residual](../01_foundations/07_feel_the_residual) for gradients by layer; anchors and the loss of YOLOv5 from
# [Fit anchors and read the source](05_fit_anchors_and_read_source).
#
# **Time** read 25 min · debug 30 min · experiment 20 min · reproduce 15 min · hunt 20 min · exercises 25 min
# :::

# %% [markdown]
# ## The symptom
#
# You build two small detectors. They have the same stem, the same head, the same loss and equally many parameters, and both have 24 convolutions of 3x3 in a row. They differ
# in the wiring of these 24. The scenes are small and easy, so that a training takes seconds: 48 by 48 pixels, one or two digits, only 0 and 1.

# %%
from labs.data.scenes import Rendered, Scenes

WORLD = {
    "canvas": (48, 48),
    "objects": (1, 2),
    "size": (20, 32),
    "weights": {str(digit): 0 for digit in range(2, 10)},
}

# %%
train = Rendered(Scenes("train", 800, **WORLD))
val = Rendered(Scenes("val", 100, **WORLD))
train

# %% [markdown]
# The first is a *chain*: one layer after the other. The second is ELAN, the block of YOLOv7 {cite:p}`wang2023yolov7`: the same kind of row, but the last layer takes what *every second* layer of
# the row made. Hidden channels are chosen so that the parameters match. Nobody builds an ELAN of 24 layers; the published one has four. You stretch the row until its wiring matters, and come back to four later.

# %%
from functools import cache

import torch
from torch import nn

from labs.models.blocks import Bottleneck, Conv
from labs.models.yolo_v7 import ELAN

CHANNELS, LAYERS = 32, 24


# %%
def chain(hidden, n):
    row = (Conv(hidden, hidden, 3) for _ in range(n))
    return nn.Sequential(Conv(CHANNELS, hidden), *row, Conv(hidden, CHANNELS))


# %%
def elan(hidden, n):
    return ELAN(CHANNELS, CHANNELS, hidden, pairs=n // 2)


# %%
def count(module):
    return sum(p.numel() for p in module.parameters())


@cache
def hidden_of(build, n):
    """Return the channels with which a block is nearest to an ELAN of 16 in size."""
    with torch.device("meta"):  # counts without drawing a weight
        target = count(elan(16, n))
        return min(range(12, 25), key=lambda h: abs(count(build(h, n)) - target))


# %%
def matched(build, n):
    return build(hidden_of(build, n), n)


{build.__name__: count(matched(build, LAYERS)) for build in (chain, elan)}

# %% tags=["hide-cell"]
from itertools import islice

from torch.optim.lr_scheduler import OneCycleLR

from labs.criteria import YOLOv7Criterion
from labs.detection import Detector
from labs.models.anchored import start_at_prior
from labs.postprocess import YOLOv5Postprocess
from labs.repro import budget, device, seed_everything
from labs.train import fit

ANCHORS, STRIDES = (((8, 24), (16, 24), (24, 26)),), (8,)
STEPS, BATCH = budget(cpu=120, gpu=400), 16


class Net(nn.Module):
    """Map images [N,3,H,W] to one map of raw outputs [N,3*(5+10),H/8,W/8]."""

    def __init__(self, block):
        super().__init__()
        sizes = [(3, 12), (12, 24), (24, CHANNELS)]
        self.stem = nn.Sequential(*(Conv(a, b, 3, stride=2) for a, b in sizes))
        self.block = block
        self.head = nn.Conv2d(CHANNELS, 3 * 15, 1)
        start_at_prior([self.head.bias], STRIDES, 3, 10, 48)

    def forward(self, images):
        return (self.head(self.block(self.stem(images))),)


def batches(seed, steps):
    source = train.batches(BATCH, seed)
    endless = (batch for _ in iter(int, 1) for batch in source)
    for images, targets in islice(endless, steps):
        yield images.contiguous(memory_format=torch.channels_last), targets


# %%
def train_detector(build, seed=0, layers=LAYERS, steps=STEPS, watch=None):
    net = Net(matched(build, layers)).to(device(), memory_format=torch.channels_last)
    criterion = YOLOv7Criterion(ANCHORS, STRIDES, balance=(1.0,))
    detector = Detector(
        net, criterion, YOLOv5Postprocess(ANCHORS, STRIDES).to(device())
    )
    adam = torch.optim.AdamW(net.parameters(), 5e-3, weight_decay=1e-2, fused=True)
    cycle = OneCycleLR(adam, 5e-3, total_steps=steps, pct_start=0.15)
    data = batches(seed, steps)
    history = fit(net, data, adam, loss=detector.loss, scheduler=cycle, watch=watch)
    return detector, history.table()["loss"]


# %% [markdown]
# `YOLOv7Criterion` is the loss of YOLOv7. `OneCycleLR` raises the learning rate at first and lowers it to almost zero at the end. Train both.
#
# :::{admonition} Predict
# :class: predict
# Same depth, same size, same data. Do the two losses fall alike?
# :::

# %%
seed_everything(0)
chained, chain_loss = train_detector(chain)
seed_everything(0)
stacked, elan_loss = train_detector(elan)

# %%
from labs import plot

INK = dict(zip(["residual", "chain", "CSP"], plot.COLOURS, strict=False))
INK["ELAN"] = plot.COLOURS[4]
figure, ax = plot.new()
for name, losses in [("chain", chain_loss), ("ELAN", elan_loss)]:
    smooth = losses.rolling(10, min_periods=1).mean()
    ax.plot(smooth, color=INK[name], label=name)
ax.set(xlabel="training step", ylabel="training loss", ylim=(0, 0.25))
ax.legend()
plot.show(
    figure,
    "With as many layers and as many parameters, the loss of the chain stays above "
    "that of ELAN.",
    alt="Training loss by step: both curves fall at first, then the chain's stays "
    "nearly flat and ELAN's goes on falling below it.",
)

# %%
from labs.metrics import coco_map


def ap50_of(detector):
    found = detector.detect(val.images.float() / 255)
    return coco_map(found, val.targets, ious=[0.5]).AP


scores = {"chain": ap50_of(chained), "ELAN": ap50_of(stacked)}
{name: round(score, 3) for name, score in scores.items()}

# %% [markdown]
# AP50 on unseen scenes says it more plainly than the loss: after these few seconds ELAN finds some digits, and the chain finds almost none. Neither is a good detector yet; a trained one comes at the end of *Debug*.
# But something in the chain costs it its start. What?

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "24 layers, a short training: ELAN's AP50 is at least 0.05 above the chain's, "
    "and over 0.1",
    scores["ELAN"] > max(0.1, 0.05 + scores["chain"]),
    measured=scores,
)

# %% [markdown]
# ## The idea
#
# ### Ways for the gradient
#
# Here is an ELAN with four layers in its row, as it is published.

# %%
from labs import diagram

PARTS = {"input": "input", "start": "start", "around": "around", "mix": "mix"}
PARTS |= {f"conv {k + 1}": f"row.{k}" for k in range(4)}
wiring = diagram.trace(elan(16, 4), torch.randn(1, CHANNELS, 6, 6), PARTS)
ROW = [f"conv {k}" for k in range(1, 5)]
stack = [(part, "mix") for part in ("around", "start", "conv 2", "conv 4")]
plot.show(
    diagram.draw(
        wiring,
        [["start", *ROW], ["input", "around", None, None, "mix"]],
        accent=stack,
    ),
    "The last layer of ELAN stacks four inputs; each of them is a way that begins "
    "at the end of the block.",
    alt="A row of boxes from start through four convolutions. Coloured arrows lead "
    "to the box mix from around, start, conv 2 and conv 4.",
)

# %% [markdown]
# A gradient walks against the arrows, from the loss back to a layer. In a chain there is one way, through all later layers. A stack opens more: each coloured arrow is a way that starts right at the end. Take layers that
# multiply by $w$, four in a row. ELAN stacks what came in and what the second and the fourth made; let the last layer simply add them:
#
# $$\text{chain: } w^4 \qquad\qquad \text{ELAN: } 1 + w^2 + w^4.$$


# %%
def slope(w, taken):
    x = start = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    made = [x]
    for _ in range(4):
        made.append(w * made[-1])
    return torch.autograd.grad(sum(made[i] for i in taken), start)[0].item()


for w in (0.1, 0.5, 1.5):
    print(f"w = {w}: chain {slope(w, [4]):.4f}, ELAN {slope(w, [0, 2, 4]):.4f}")

# %% [markdown]
# With $w = 0.1$ one ten-thousandth is left in the chain, and all of it in the stack. With $w = 1.5$ both grow, the stack more: several ways *add*.
#
# {cite:t}`wang2022gradientpath` design networks by counting such ways. For each layer, how many layers does the gradient meet on its *shortest* way? The largest of these numbers should stay small.
# `gradient_paths` counts it on the graph of a block. Two blocks that you know join in: the residual row, and CSP (the C3 of YOLOv5), which sends half of the channels around a residual row.


# %%
class CSP(nn.Module):
    def __init__(self, hidden, n):
        super().__init__()
        self.around = Conv(CHANNELS, hidden)
        pairs = (Bottleneck(hidden, hidden, kernels=(3, 3)) for _ in range(n // 2))
        self.row = nn.Sequential(Conv(CHANNELS, hidden), *pairs)
        self.mix = Conv(2 * hidden, CHANNELS)

    def forward(self, x):
        return self.mix(torch.cat([self.around(x), self.row(x)], 1))


def residual(hidden, n):
    pairs = (Bottleneck(hidden, hidden, kernels=(3, 3)) for _ in range(n // 2))
    return nn.Sequential(Conv(CHANNELS, hidden), *pairs, Conv(hidden, CHANNELS))


BLOCKS = {"chain": chain, "residual": residual, "CSP": CSP, "ELAN": elan}

# %%
import pandas as pd

from labs.models.paths import gradient_paths

blocks = {name: matched(build, LAYERS) for name, build in BLOCKS.items()}
ways = {name: gradient_paths(block) for name, block in blocks.items()}
columns = {
    "longest shortest way": {name: max(way.shortest) for name, way in ways.items()},
    "longest way": {name: max(way.longest) for name, way in ways.items()},
    "parameters": {name: count(block) for name, block in blocks.items()},
}
pd.DataFrame(columns)

# %% [markdown]
# All four are equally deep, as the second column says, and nearly equally large. In the chain the first layer is as far from the loss as it can be. In the other three *no* layer is more than two convolutions away. By this number the
# three are equal. Remember that; you measure soon whether they are.

# %% tags=["nbval-check-output"]
short = {name: max(way.shortest) for name, way in ways.items()}
claim(
    "counted by shortest ways, residual, CSP and ELAN are equal, at two; the chain "
    "has all 25",
    short == {"chain": LAYERS + 1, "residual": 2, "CSP": 2, "ELAN": 2},
    measured=short,
)

# %% [markdown]
# ### Three layers that are one
#
# The second plan of YOLOv7 is about layers, not blocks. A convolution is linear; so is a batch norm in eval mode; so is doing nothing. A sum of linear maps is one linear map. So you may *train* a 3x3, a 1x1 and an identity side by side,
# and *run* one 3x3. This is re-parameterisation {cite:p}`ding2021repvgg`, and the layer is called RepConv.

# %%
from labs.models.fusion import RepConv

BRANCHES = {"3x3, norm": "wide", "1x1, norm": "narrow", "norm": "identity"}
ENDS = {"input": "input", "sum, SiLU": "output"}
branched = diagram.trace(RepConv(16, 16), torch.randn(1, 16, 12, 20), BRANCHES | ENDS)
three = [
    [None, "3x3, norm", None],
    ["input", "1x1, norm", "sum, SiLU"],
    [None, "norm", None],
]
plot.show(
    diagram.draw(branched, three),
    "A RepConv has three linear branches between its input and one sum, as long as "
    "it is trained.",
    alt="From the box input three arrows lead through a 3x3 layer, a 1x1 layer and "
    "a norm to the box of the sum and SiLU.",
)

# %% [markdown]
# With one channel and without norms you can add the branches by hand. The 1x1 and the identity both land in the middle of the kernel, since the identity is a 1x1 kernel that holds a 1:

# %%
from torch.nn.functional import conv2d

wide, narrow = torch.arange(9.0).view(1, 1, 3, 3), torch.tensor([[[[10.0]]]])
one = wide.clone()
one[..., 1, 1] += narrow[0, 0, 0, 0] + 1
x = torch.arange(25.0).view(1, 1, 5, 5)
three_branches = conv2d(x, wide, padding=1) + conv2d(x, narrow) + x
same = torch.equal(conv2d(x, one, padding=1), three_branches)
one[0, 0], same

# %% [markdown]
# The middle was 4, and became 15. One kernel now gives the same answer as the three branches.

# %% [markdown]
# ## The block
#
# Here is the layer by hand, with batch norms, and its fusion. In eval mode a batch norm multiplies by $\gamma / \sqrt{\sigma^2 + \epsilon}$ and shifts. So the scale goes into the kernel, and the rest into a bias.


# %%
class Rep(nn.Module):
    def __init__(self, c):
        super().__init__()
        wide = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.kernels = nn.ModuleList([wide, nn.Conv2d(c, c, 1, bias=False)])
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, eps=1e-3) for _ in range(3))

    def forward(self, x):
        branches = [kernel(x) for kernel in self.kernels] + [x]  # [N,c,H,W] each
        pairs = zip(self.norms, branches, strict=True)
        return nn.functional.silu(sum(norm(y) for norm, y in pairs))

    def fused(self):
        wide, narrow = (kernel.weight for kernel in self.kernels)
        same = torch.eye(len(wide))[:, :, None, None]  # each channel: itself
        # A 1x1 kernel is a 3x3 kernel with zeros around.
        padded = [nn.functional.pad(k, [1, 1, 1, 1]) for k in (narrow, same)]
        scales = [bn.weight / (bn.running_var + bn.eps).sqrt() for bn in self.norms]
        parts = list(zip(self.norms, scales, [wide, *padded], strict=True))
        one = nn.Conv2d(len(wide), len(wide), 3, padding=1)
        with torch.no_grad():
            one.weight.copy_(sum(s[:, None, None, None] * k for _, s, k in parts))
            one.bias.copy_(sum(bn.bias - bn.running_mean * s for bn, s, _ in parts))
        return nn.Sequential(one, nn.SiLU())


# %%
rep = Rep(16).eval()
with torch.no_grad():
    for norm in rep.norms:  # as some training would leave it
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.2, 3)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
x = torch.randn(4, 16, 12, 20)
tuple(rep(x).shape), tuple(rep.fused()(x).shape), count(rep), count(rep.fused())

# %% [markdown]
# The same shape, and fewer parameters. Hold it to its unfused self, and to `RepConv` of `labs.models` with the same weights.

# %%
twin = RepConv(16, 16).eval()
theirs = [*twin.wide, *twin.narrow, twin.identity]
ours = [rep.kernels[0], rep.norms[0], rep.kernels[1], rep.norms[1], rep.norms[2]]
for copy, layer in zip(theirs, ours, strict=True):
    copy.load_state_dict(layer.state_dict())
forms = {"by hand": rep.fused(), "labs": twin, "labs, fused": twin.fused()}
with torch.no_grad():
    away = {n: (form(x) - rep(x)).abs().max().item() for n, form in forms.items()}

# %% tags=["nbval-check-output"]
claim(
    "one convolution gives what three branches of a RepConv gave, to 1e-5",
    away["by hand"] < 1e-5,
    measured=away,
)
claim(
    "the block written here and its fusion equal labs.models.RepConv and its "
    "fusion, to 1e-5",
    max(away["labs"], away["labs, fused"]) < 1e-5,
    measured=away,
)

# %% [markdown]
# ## Debug: what arrives, and what answers
#
# ### The gradient that arrives
#
# First the size of the gradient, for each of the four blocks, untrained: `capture` keeps what each 3x3 layer returned and the gradient that came back to it. Noise goes in, and a random gradient comes from above.

# %%
from labs.hooks import capture

C_IN = (8, CHANNELS, 16, 16)


def gradient_by_layer(block):
    names = [n for n, m in block.named_modules() if isinstance(m, Conv)]
    names = [n for n in names if block.get_submodule(n).conv.kernel_size == (3, 3)]
    with capture(block, *names, gradients=True, reduce=torch.Tensor.norm) as maps:
        block(torch.randn(C_IN)).mul(torch.randn(C_IN)).sum().backward()
    return [maps.gradient(name).item() for name in names]


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Layer 1 is next to the input. In which blocks is the gradient there smaller than at layer 24? In which larger?
# :::

# %%
seed_everything(0)
sizes = {n: gradient_by_layer(matched(build, LAYERS)) for n, build in BLOCKS.items()}

# %%
figure, ax = plot.new()
for name, norms in sizes.items():
    ax.semilogy(range(1, LAYERS + 1), norms, color=INK[name], label=name)
ax.set(xlabel="3x3 layer, from the input on", ylabel="norm of the gradient")
ax.legend()
plot.show(
    figure,
    "In all four blocks the gradient at layer 1 is larger than at layer 24: nothing "
    "vanishes.",
    alt="Norm of the gradient by layer, on a logarithmic axis, for chain, residual, "
    "CSP and ELAN; every curve is highest near layer 1.",
)

# %% [markdown]
# Nothing vanishes: with batch norm, each of them arrives at layer 1 *larger* than it left layer 24. So the size is not what is wrong with the chain, as you saw in
# [Feel the residual](../01_foundations/07_feel_the_residual).
#
# Ask instead whether the gradient *means* something. Add a little noise to the input, and compare the two gradients there. If a gradient is to be followed, a nearly equal picture must give a nearly equal gradient.
# {cite:t}`balduzzi2017shattered` call a gradient that does not do so *shattered*.

# %%
from torch.nn.functional import cosine_similarity


def agreement(build, n, seed, noise=0.1):
    """Return the cosine of the gradients at an input, without and with noise."""
    seed_everything(seed)
    block, x, above = matched(build, n), torch.randn(C_IN), torch.randn(C_IN)
    gradients = []
    for y in (x, x + noise * torch.randn(C_IN)):
        y.requires_grad_()
        gradients += torch.autograd.grad((block(y) * above).sum(), y)
    return cosine_similarity(*(g.flatten(1) for g in gradients)).mean().item()


# %%
DEPTHS = [4, 12, 24, 32]
agreed = {
    name: [[agreement(build, n, seed) for n in DEPTHS] for seed in range(3)]
    for name, build in BLOCKS.items()
}

# %%
import numpy as np

figure, ax = plot.new()
for name, runs in agreed.items():
    low, high = np.min(runs, 0), np.max(runs, 0)
    ax.fill_between(DEPTHS, low, high, color=INK[name], alpha=0.25, linewidth=0)
    ax.plot(DEPTHS, np.mean(runs, 0), "o-", color=INK[name], label=name)
ax.set(xlabel="3x3 layers in a row", ylabel="agreement (cosine)", xticks=DEPTHS)
ax.legend()
plot.show(
    figure,
    "With depth the gradient of the chain loses its meaning, that of ELAN loses "
    "part of it, and residual and CSP keep theirs.",
    alt="Agreement of two gradients by depth, with bands over three seeds: residual "
    "and CSP stay near 1, ELAN falls late, the chain falls to nearly 0.",
)

# %% [markdown]
# That is what the chain suffers from. At 32 layers two nearly equal pictures give gradients that have nothing to do with each other. Residual and CSP blocks keep their agreement; their two curves lie on each other. ELAN lies between:
# it is better than the chain, but it too declines. Its row *is* a chain, and the deep ways through it bring their noise to the same sum.
#
# Three blocks had the same number of shortest ways, and here they differ. A short way promises that a clean gradient arrives; it does not silence the others.
#
# The published YOLOv7 has four layers in such a row, where all curves begin close to 1. Nothing can be told apart up there, so make the question harder: half noise instead of a tenth.

# %%
four = {
    n: [agreement(b, 4, seed, 0.5) for seed in range(3)] for n, b in BLOCKS.items()
}
pd.DataFrame(four).agg(["mean", "min", "max"]).round(2)

# %% [markdown]
# With four layers ELAN is as good as the residual row, and the chain is behind even here.

# %% tags=["nbval-check-output"]
mean = {n: dict(zip(DEPTHS, np.mean(r, 0), strict=True)) for n, r in agreed.items()}
fall = {name: m[4] - m[32] for name, m in mean.items()}
claim(
    "from 4 to 32 layers, the chain's gradient loses over 0.8 of its agreement, "
    "residual and CSP under 0.1",
    fall["chain"] > 0.8 and max(fall["residual"], fall["CSP"]) < 0.1,
    measured=fall,
)
claim(
    "at 24 layers, the gradient of ELAN agrees better than the chain's by 0.1, and "
    "worse than that of residual and CSP",
    mean["chain"][24] + 0.1
    < mean["ELAN"][24]
    < min(mean["residual"][24], mean["CSP"][24]) - 0.1,
    measured={name: m[24] for name, m in mean.items()},
)
short_row = {name: np.mean(runs) for name, runs in four.items()}
claim(
    "at 4 layers, half noise: ELAN agrees within 0.03 of the residual row, the "
    "chain 0.05 below both",
    abs(short_row["ELAN"] - short_row["residual"]) < 0.03
    and short_row["chain"] < min(short_row["ELAN"], short_row["residual"]) - 0.05,
    measured=short_row,
)
claim(
    "in chain, residual, CSP and ELAN of 24 layers, layer 1 gets a larger gradient "
    "than layer 24",
    all(s[0] > s[-1] for s in sizes.values()),
    measured={name: s[0] / s[-1] for name, s in sizes.items()},
)

# %% [markdown]
# ### The predictions that answer
#
# Now to the other end of the network. Which predictions learn from which object? YOLOv5 decides by shape: every anchor of about the right shape, in the object's cell and its two nearest neighbours (`MultiAnchor`). The network has no say.
# YOLOv7 takes these as *candidates*, and lets them compete. The rule is `SimOTA`, from {cite:t}`ge2021yolox`, after the optimal transport of {cite:t}`ge2021ota`:
#
# - The cost of a pair is the classification loss plus 3 · (-log IoU), for the prediction *as it is now*.
# - An object gets $k$ places: the sum of its ten highest IoUs, rounded down, at least one.
# - It takes its $k$ cheapest. If two objects want a place, the cheaper pair has it.
#
# To watch it, train ELAN as it is published, with four layers in a row, for longer, and keep copies on the way.

# %%
from copy import deepcopy

LONGER, snapshots = budget(cpu=240, gpu=1200), {}


def keep(model, step):
    if step in (0, LONGER // 3, LONGER - 1):
        snapshots[step] = deepcopy(model).eval().cpu()


seed_everything(0)
short, _ = train_detector(elan, layers=4, steps=LONGER, watch=keep)
print(f"AP50 on unseen scenes: {ap50_of(short):.2f}")

# %%
from labs.assigners import Truths
from labs.boxes.anchored import split_anchors

pictures, targets = next(iter(train.batches(100)))
assigner = short.criterion.assigner()


def assign(step):
    """Return candidates and winners of 100 scenes, as the network is at this step."""
    with torch.no_grad():
        maps = [split_anchors(level, 3) for level in snapshots[step](pictures)]
    truths = Truths.of(targets, like=maps[0])
    return assigner.candidates(maps, truths), assigner(maps, truths)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# As the network learns, its boxes fit better. Does an object then get more places, or fewer? And how many candidates are there?
# :::

# %%
pairs = {step: assign(step) for step in sorted(snapshots)}
objects = sum(len(target["labels"]) for target in targets)
shares = {
    f"step {step}": [len(found) / objects for found in both]
    for step, both in pairs.items()
}
of_object = pd.DataFrame(shares, index=["candidate pairs", "places it has"])
of_object.rename_axis("of an object, mean").round(2)

# %% [markdown]
# The candidates stay, since they depend on shapes alone. The places grow: the better the boxes, the larger the sum of their IoUs, and the more places an object gets. Now look at the scene of two digits whose places grow most.


# %% tags=["hide-input"]
def draw(ax, image, target, chosen, title):
    plot.images(ax, image[None], [title])
    for k, (x1, y1, x2, y2) in enumerate((target["boxes"] - 0.5).tolist()):
        colour = plot.COLOURS[(3, 5)[k]]
        ax.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=colour, lw=1.5)
        mine = chosen[chosen.truth == chosen.truth.min() + k]
        # The three anchors of a cell stand side by side.
        x, y = mine.column * 8 + 3.5 + (mine.anchor - 1) * 2, mine.row * 8 + 3.5
        ax.plot(x, y, "o", color=colour, ms=6, markeredgecolor="k")


# %%
start, end = (pairs[step][1] for step in (0, LONGER - 1))
of_scene = [winners.image.bincount(minlength=100) for winners in (start, end)]
two = torch.tensor([len(target["labels"]) == 2 for target in targets])
row = int(torch.where(two, of_scene[1] - of_scene[0], -100).argmax())

# %%
figure, axes = plot.new(height=2.9, columns=3)
panels = {"candidates": pairs[0][0], "step 0": start, f"step {LONGER - 1}": end}
for ax, (name, chosen) in zip(axes, panels.items(), strict=True):
    here = chosen[chosen.image == row]
    draw(ax, pictures[row], targets[row], here, f"{name}: {len(here)}")
plot.show(
    figure,
    "Of the candidates of two digits SimOTA lets some learn at first, and more at "
    "the end of the training.",
    alt="One scene with two digits, three times. A dot is an anchor of a cell, in "
    "the colour of its digit: all candidates, the winners at the first step, and "
    "the winners at the last step, of which there are more.",
)

# %% [markdown]
# Each dot is one anchor of one cell; its colour says for which object it answers. In the first picture every candidate learns, as in YOLOv5. SimOTA begins with some of them, and lets more in later. Here is the competition itself, at the last step: what each pair would
# cost, and which pairs won. Note that $k$ says how many places an object gets, and not how good they have to be.

# %%
from labs.assigners.sim_ota import class_cost
from labs.boxes import overlap

with torch.no_grad():
    raw = snapshots[LONGER - 1](pictures[row : row + 1])
boxes, _ = short.postprocess.cpu().candidates(raw)  # by anchor, row, column
answers = split_anchors(raw[0], 3)[..., 4:].flatten(0, 3)  # the same order


def place(chosen):
    here = chosen[chosen.image == row]
    return (here.anchor * 6 + here.row) * 6 + here.column  # a map of 6 x 6


spots, won, truth = place(pairs[0][0]).unique(), place(end), targets[row]
iou = overlap(truth["boxes"][:, None], boxes[0, spots][None])
cost = class_cost(answers[spots], truth["labels"]) - 3 * iou.clamp(min=1e-8).log()

# %%
order = cost.min(0).values.argsort()
figure, ax = plot.new(height=2.2)
drawn = ax.imshow(cost[:, order].clamp(max=15), cmap="viridis_r", aspect="auto")
owner = end[end.image == row].truth
for spot, whose in zip(won.tolist(), (owner - owner.min()).tolist(), strict=True):
    at = (spots[order] == spot).nonzero()[0]
    ax.plot(at, whose, "o", color="white", markeredgecolor="k")
ax.set(xlabel="candidate, cheapest first", yticks=[0, 1], ylabel="object")
ax.grid(visible=False)
figure.colorbar(drawn, label="cost, at most 15")
plot.show(
    figure,
    "Each object takes its cheapest candidates: the white dots stand in the cells "
    "of low cost.",
    alt="A matrix of two objects and their candidates, coloured by cost. White dots "
    "mark the pairs that won; they stand at the cheap end.",
)

# %% tags=["nbval-check-output"]
places = of_object.loc["places it has"]
share = places.iloc[-1] / of_object.iloc[0, 0]
claim(
    "SimOTA: an object has at least half a place more after training than before",
    places.iloc[-1] > places.iloc[0] + 0.5,
    measured=places.to_dict(),
)
claim(
    "SimOTA: after training, between half and two thirds of the candidate pairs "
    "have a place",
    1 / 2 < share < 2 / 3,
    measured=share,
)

# %% [markdown]
# ### A detector that was trained long enough
#
# What runs in the end is the fused network. The book ships a YOLOv7 that learned the default scenes (128 by 128, all ten digits) for much longer than a lesson may take. Fuse it, and ask both forms about scenes that neither has seen.
#
# :::{admonition} Predict
# :class: predict
# The fused network has fewer layers and fewer parameters. What becomes of its AP50?
# :::

# %%
from labs.models.fusion import fuse
from labs.recipes import load

shipped = load("yolo_v7")
unseen = Rendered(Scenes("test", 60))
running = Detector(fuse(shipped.network), shipped.criterion, shipped.postprocess)
both = {"as trained": shipped, "fused": running}
ap = {name: found.score(unseen.batches(60)).AP50 for name, found in both.items()}
many = {name: count(found.network) for name, found in both.items()}
pd.DataFrame({"AP50": ap, "parameters": many}).round(3)

# %%
from labs.data.scenes import preview

figure, axes = plot.new(height=2.8, columns=3)
for ax, k in zip(axes, [0, 5, 9], strict=True):
    image = unseen[k][0]
    (found,) = running.detect(image[None])
    sure = {key: value[found["scores"] > 0.4] for key, value in found.items()}
    preview(ax, image, sure, unseen.classes)
plot.show(
    figure,
    "The fused detector frames the digits of unseen scenes and names most of them.",
    alt="Three unseen scenes with the boxes and names that the fused detector gives "
    "them.",
)

# %% [markdown]
# Same detections, fewer parameters. And the speed? Time the mini YOLOv7 as it is trained and as it runs, round by round. Seconds belong to a machine; the column `ratio`, against the first row in the same round, travels better.

# %%
from labs.export import benchmark
from labs.recipes import mini_yolo_v7

v7 = mini_yolo_v7(10).network.eval()
picture = torch.rand(1, 3, 128, 128)
times = benchmark({"as trained": v7, "fused": v7.fuse()}, picture, rounds=10)
times.table()

# %% tags=["nbval-check-output"]
scenes = unseen.images.float() / 255
with torch.no_grad():
    said = zip(shipped.network.eval()(scenes), running.network(scenes), strict=True)
    worst = max(((a - b).abs().max() / a.abs().max()).item() for a, b in said)
claim(
    "the shipped YOLOv7 answers the same when it is fused, to 1e-4 of its largest "
    "output",
    worst < 1e-4,
    measured=worst,
)
claim(
    "the shipped YOLOv7, fused, has the same AP50 to 0.005, and above 0.8",
    abs(ap["fused"] - ap["as trained"]) < 0.005 and ap["fused"] > 0.8,
    measured=ap,
)

# %% [markdown]
# ## Experiment: three wirings of one row
#
# Was the symptom luck? And is agreement worth anything, measured as it is before the first step? At 24 layers it ranks the chain below ELAN, and ELAN below the residual row and CSP, which lie together. One variable changes, the block. The residual row is left out, because agreement does not tell it from CSP. Take four seeds, and measure the mean loss of the last 20 steps and AP50 on unseen
# scenes. The symptom was seed 0 of two of the blocks, so these two runs are there already.
#
# :::{admonition} Predict
# :class: predict
# Will training rank them in the same order?
# :::

# %%
from labs.ablation import ablate

done = {("chain", 0): (chained, chain_loss), ("ELAN", 0): (stacked, elan_loss)}


def run(block):
    seed = torch.initial_seed() % 1000
    detector, losses = done.get((block, seed)) or train_detector(BLOCKS[block], seed)
    return {"loss": losses.tail(20).mean(), "AP50": ap50_of(detector)}


ARMS = ["chain", "CSP", "ELAN"]
study = ablate(run, {"block": "ELAN"}, "block", ARMS, seeds=range(4))
study.table("AP50").drop(columns="failed").round(3)

# %%
frame = study.frame()
figure, axes = plot.new(columns=2)
for ax, metric in zip(axes, ("loss", "AP50"), strict=True):
    for name in ARMS:
        reached = frame.loc[frame["block"] == name, metric]
        x = [mean[name][LAYERS]] * len(reached)
        ax.plot(x, reached, "o", color=INK[name], label=name)
    ax.set(xlabel="agreement before training", ylabel=metric)
    ax.legend()
plot.show(
    figure,
    "The better the gradients of a block agree before training, the lower its loss "
    "and the higher its AP50.",
    alt="Loss and AP50 of three blocks, four seeds each, against agreement: the "
    "chain is worst, ELAN next, CSP is best.",
)

# %%
print(study.verdict("AP50"))
print(f"would find a difference of {study.detectable('AP50'):.2f}")

# %% [markdown]
# Each dot is one training. The order is that of the agreement, and the verdicts say which steps of it are more than luck: each block is compared with ELAN. The last line says which difference four studies of five would find.
#
# In a row as long as this one ELAN helps, and CSP, with a shortcut around every second layer, helps far more. This is no verdict on YOLOv7: its ELAN has four layers, where you saw no such gap.

# %% tags=["nbval-check-output"]
rows = study.table("AP50")
told = dict(line.split(": ", 1) for line in study.verdict("AP50").splitlines())
claim(
    "detectors with 24 layers in a row, four seeds: the mean AP50 of the chain is "
    "below that of ELAN by more than 0.07",
    rows["delta"]["chain"] < -0.07,
    measured=(rows["delta"]["chain"], told["chain"]),
)
claim(
    "detectors with 24 layers in a row, four seeds: the AP50 of CSP is higher than "
    "that of ELAN, told apart",
    told["CSP"].startswith("higher"),
    measured=told,
)

# %% [markdown]
# ## Reproduce: 36.9 million parameters, and a planned identity
#
# **The papers say** three things. {cite:t}`wang2023yolov7` list YOLOv7 with 36.9 million parameters. {cite:t}`ding2021repvgg` find that a plain row of 3x3 layers learns better with an identity beside each of them. And {cite:t}`wang2023yolov7` warn of that identity where a stack or a residual already carries the input
# around: there RepConv should do without it (*planned* re-parameterisation).
#
# **We measure** the count at the paper's scale, on the `meta` device, which allocates nothing.

# %%
from labs.models import YOLOv7

with torch.device("meta"):
    full = YOLOv7(num_classes=80)
    sizes_of = {"to train": count(full), "to run": count(full.fuse())}
sizes_of

# %% [markdown]
# You find the published number only in the network *to run*. The rest is branches and batch norms that exist for training alone.
#
# Then the identity: measure the agreement of a plain row of RepConv, and of ELAN with RepConv for its 3x3 layers, with and without it.
# As before, four layers get half noise: with a tenth, all of them sit close to 1 and nothing could change.


# %%
@cache  # one builder each, so that its channels are searched once
def rep_row(identity):
    def build(hidden, n):
        row = (RepConv(hidden, hidden, identity) for _ in range(n))
        return nn.Sequential(Conv(CHANNELS, hidden), *row, Conv(hidden, CHANNELS))

    return build


# %%
@cache  # one builder each, so that its channels are searched once
def rep_elan(identity):
    def build(hidden, n):
        block = elan(hidden, n)
        row = (RepConv(hidden, hidden, identity) for _ in block.row)
        block.row = nn.ModuleList(row)
        return block

    return build


# %%
WIRINGS = {"plain row": rep_row, "ELAN": rep_elan}
planned = {
    (wiring, f"{n} layers", identity): [
        agreement(make(identity), n, seed, noise) for seed in range(3)
    ]
    for wiring, make in WIRINGS.items()
    for n, noise in [(4, 0.5), (24, 0.1)]
    for identity in (False, True)
}
means = pd.Series({key: np.mean(runs) for key, runs in planned.items()}).unstack()
means.rename(columns={False: "without identity", True: "with identity"}).round(2)

# %% [markdown]
# In the long rows the identity moves the number up, in both wirings. In the short ones it moves little. For the ELAN of four layers, the published one, look closer, with more seeds:


# %%
def with_identity(identity):
    return agreement(rep_elan(identity), 4, torch.initial_seed() % 1000, noise=0.5)


# %%
closer = ablate(
    with_identity, {"identity": False}, "identity", [False, True], seeds=range(8)
)
print(closer.verdict())
print(f"would find a difference of {closer.detectable():.3f}")

# %% tags=["nbval-check-output"]
row_of = {key: planned["plain row", "24 layers", key] for key in (False, True)}
claim(
    "YOLOv7 has 36.9 million parameters in the network to run, and more in the one "
    "to train",
    round(sizes_of["to run"] / 1e6, 1) == 36.9 < round(sizes_of["to train"] / 1e6, 1),
    measured=sizes_of,
)
claim(
    "a plain row of 24 RepConv: every seed agrees better with the identity than any "
    "without",
    min(row_of[True]) > max(row_of[False]),
    measured=row_of,
)
claim(
    "ELAN of 4 RepConv: eight seeds do not tell the identity from none, 0.03 would "
    "have been found",
    "not told apart" in closer.verdict() and closer.detectable() < 0.03,
    measured=(closer.verdict(), closer.detectable()),
)

# %% [markdown]
# **Why they differ.** The count is exact. Of the other two, the first shows up at once: in a long plain row the identity is a residual connection, one that costs nothing when training is over.
#
# Of the warning we see only a part. In an ELAN as short as the published one, the identity changes
# nothing that these seeds could find, and the line above says how small a change they would have found. So it may go. In a row of 24 it helps there too. That it *hurts* is a finding about accuracy after a full training on COCO, which no measurement before the first step can confirm or refute. A rule for planning is empirical: measure it in your own network, at your own depth.

# %% [markdown]
# ## Bug hunt: the fusion that passed its tests
#
# **Difficulty** 1 of 3 · **Importance** 2 of 3 · **Time** 20 min
#
# A function fuses a convolution with its batch norm. It served a well-known detector for a long time, and its tests passed. Then somebody read the formula
# ([ultralytics/yolov3#807](https://github.com/ultralytics/yolov3/issues/807), mended in [PR#818](https://github.com/ultralytics/yolov3/pull/818)). No answer had been wrong until then, and the thread says why. The code here is ours; the slip is theirs. Edit the function in this cell until the check below it passes.

# %% tags=["hunt-bug"]
import torch
from torch import nn


def fuse_conv_bn(conv, bn):
    """Return one convolution that computes bn(conv(x)) in eval mode."""
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    one = nn.Conv2d(conv.in_channels, conv.out_channels, *geometry)
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    old = torch.zeros_like(scale) if conv.bias is None else conv.bias
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[:, None, None, None])
        one.bias.copy_(old + bn.bias - bn.running_mean * scale)
    return one


# %%
from labs.hunts.detection import check_fused_conv

check_fused_conv(fuse_conv_bn)

# %% [markdown]
# The verdict lists what was probed, and what it saw. Go back to the function, change it, and run both cells again.
#
# :::{dropdown} Hint 1
# Which layers come out right, and which do not? What do the wrong ones have that no convolution of a YOLO has in front of a batch norm?
# :::
#
# :::{dropdown} Hint 2
# Write `bn(conv(x))` down as a formula, with $W x + b$ for the convolution, and collect what does not depend on $x$.
# :::
#
# :::{dropdown} Hint 3
# The batch norm cannot tell $W x$ from $b$. Whatever it does to one, it does to the other.
# :::

# %% tags=["hunt-solution", "hide-cell"]
import torch
from torch import nn


def fuse_with_norm(conv, bn):
    """Return one convolution that computes bn(conv(x)) in eval mode."""
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    one = nn.Conv2d(conv.in_channels, conv.out_channels, *geometry)
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    old = torch.zeros_like(scale) if conv.bias is None else conv.bias
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[:, None, None, None])
        # The old bias passes the norm, so it is scaled too.
        one.bias.copy_((old - bn.running_mean) * scale + bn.bias)
    return one


# %% tags=["nbval-check-output"]
verdict = check_fused_conv(fuse_with_norm)
claim(
    "the repaired fusion of convolution and batch norm passes every probe",
    verdict.passed,
    measured=verdict,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** YOLOv7-E6E uses `ExtendedELAN`: twice the channels in two groups, shuffled, added. The paper says that it leaves the gradient paths as they are. Check it with `gradient_paths`, and count parameters.
#
# :::{dropdown} Solution 1
# Shortest and longest ways are the same, layer by layer: groups and sums are no layers. The parameters about double, because the block equals two ELANs side by side. The next cell shows it.
# :::

# %% tags=["hide-cell"]
from labs.models.yolo_v7 import ExtendedELAN

rivals = {"ELAN": ELAN(32, 32, 16), "E-ELAN": ExtendedELAN(32, 32, 16)}
paths = {name: gradient_paths(block) for name, block in rivals.items()}
columns = {
    "shortest": {name: path.shortest for name, path in paths.items()},
    "longest": {name: path.longest for name, path in paths.items()},
    "parameters": {name: count(block) for name, block in rivals.items()},
}
pd.DataFrame(columns)

# %% [markdown]
# **Exercise 2.** Fuse a `Rep` that is still in train mode, and compare. Users of RepVGG ask about this again and again ([RepVGG#9](https://github.com/DingXiaoH/RepVGG/issues/9)). Which of the two outputs is "wrong"?
#
# :::{dropdown} Solution 2
# Neither. In train mode the unfused layer normalises by the statistics of the batch; the fused one always uses the running ones, as eval mode does. Call `.eval()` first. `labs.models.fusion.fuse` does it on a copy.
# :::
#
# **Exercise 3.** Set `top=1` in `SimOTA`. How many places can an object have? And with `box_cost=0`?
#
# :::{dropdown} Solution 3
# One: an IoU is at most 1, so the sum of one rounds down to at most 1, and the clamp lifts it to 1. With `box_cost=0` the number of places stays the same, but the cheapest are now those that name the class best, wherever their boxes lie.
# :::

# %% [markdown]
# ## In practice
#
# - Fuse in eval mode, on a copy, and compare outputs on real images before you ship. `torch.nn.utils.fusion.fuse_conv_bn_eval` does the single step; ONNX Runtime and TensorRT fuse batch norms by themselves, but not parallel branches.
# - Read `eps` from the layer: 1e-3 in the YOLO line, 1e-5 in PyTorch's default. A fusion with a constant is wrong for one of them.
# - Do not fuse what you want to train on: the fused network has no batch norm any more. And do not quantise before you have compared the ranges: a sum of branches may have wider weights than each of them.
# - "The gradient arrives" is a statement about size. Measure agreement too; it takes ten lines.
# - Dynamic assignment changes the loss while you train: a lower number of positives is not a better network. Compare runs by mAP.

# %% [markdown]
# ## You can now
#
# - count the gradient paths of a block, and measure what arrives by them;
# - train three branches and run one, exactly, and say how you know;
# - draw who answers for an object, and explain why the answer changes while the network learns.
