# %% [markdown]
# # Watch a network see digits
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** see what every filter of a network answers, with `capture` · find out which filters see edges, which see lines
# and which see texture, and prove it with stripes · turn a guess about a network into an intervention that confirms or kills it.
#
# **You need** matrix multiplication, and a first acquaintance with PyTorch: a module, a loss, an optimiser.
#
# **Time** read 20 min · debug 30 min · experiment 25 min · reproduce 15 min
# :::

# %% [markdown]
# ## The symptom
#
# Here is a small network that reads handwritten digits: two convolutions and one linear layer. Train it, and test it on
# all ten thousand test digits.

# %%
from labs.data import digits

train, test = digits("train"), digits("test")
[train, test]

# %%
import torch

from labs.models import DigitNet
from labs.repro import budget, device, seed_everything
from labs.train import fit


# %%
def batches(n, size, epochs):
    for _ in range(epochs):
        for rows in torch.randperm(n).split(size):
            yield train.images[rows], train.labels[rows]


# %%
def train_net(net, n, size=64, epochs=3):
    net.to(device())
    adam = torch.optim.AdamW(net.parameters(), lr=0.01)
    steps = epochs * -(-n // size)  # the last batch of an epoch may be smaller
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=0.01, total_steps=steps)
    fit(net, batches(n, size, epochs), adam, scheduler=cycle)
    return net.cpu().eval()


# %%
seed_everything(0)
reader = train_net(DigitNet(), n=budget(cpu=12_000, gpu=20_000))

# %% tags=["nbval-check-output"]
from labs.claims import claim
from labs.evaluate import accuracy

score = accuracy(reader, test)
claim(
    "at least 98 % of the 10,000 test digits are read right",
    score >= 0.98,
    measured=score,
)

# %%
print(f"{score:.2%} right")

# %% [markdown]
# That looks finished. Now lay stripes over the digits, all of the same strength, and change only their width. The mean of the
# stripes is zero, so they make no picture brighter or darker. Direction and position are drawn at random for each digit.
# (Some pixels become darker than black or lighter than white; to a network they are just numbers.)

# %%
from math import pi


def stripes(period, angle, phase):
    """Return stripes [N,1,28,28] between -1 and 1: period in pixels, angle and phase in radians."""
    period, angle, phase = (
        torch.as_tensor(v)[..., None, None] for v in (period, angle, phase)
    )
    x = torch.arange(28) - 14.0
    across = x * angle.cos() + x[:, None] * angle.sin()
    return torch.cos(2 * pi * across / period + phase)[:, None]


# %%
def with_stripes(images, period):
    chance = torch.Generator().manual_seed(0)
    angle, phase = 2 * pi * torch.rand(2, len(images), generator=chance)
    return images + 0.3 * stripes(period, angle, phase)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Below are the same four digits with stripes of 2.5, of 6 and of 24 pixels from crest to crest. You can read all of them.
# Which width does the network stumble over?
# :::

# %%
from labs import plot

some = test.take([2, 1, 18, 61])
rows = [some.images, *(with_stripes(some.images, period) for period in (2.5, 6, 24))]
figure, axes = plot.new(6, 6, rows=4, columns=4)
plot.images(axes, torch.cat(rows), limits=(-0.3, 1.3))
for ax, name in zip(
    axes[:, 0], ["no stripes", "2.5 px", "6 px", "24 px"], strict=True
):
    ax.set_title(name, fontsize=9)
plot.show(
    figure,
    "Four digits without stripes, and with stripes 2.5, 6 and 24 pixels wide. All "
    "can be read.",
)

# %%
from labs.evaluate import predict


def score_with_stripes(net, period, n=1000):
    guesses = predict(net, with_stripes(test.images[:n], period)).argmax(1)
    return (guesses == test.labels[:n]).float().mean().item()


widths = [2.2, 2.5, 3, 3.6, 4.2, 5, 6, 7, 8, 10, 14, 24]
scores = {period: score_with_stripes(reader, period) for period in widths}

# %%
figure, ax = plot.new(7, 3)
ax.semilogx(list(scores), list(scores.values()), "o-")
ax.axhline(score, color="0.4", linestyle=":", label="no stripes")
ax.set(
    xlabel="period of the stripes (pixels)",
    ylabel="share read right",
    title="One width of stripes blinds the reader",
)
ticks = [2.2, 3, 4.2, 6, 8, 14, 24]
ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
ax.minorticks_off()
ax.legend()
plot.show(
    figure,
    "Share of digits read right against the period of the stripes: near the dotted "
    "line for fine stripes, a deep dip around five to eight pixels, and a rise for "
    "wide ones.",
)

# %% [markdown]
# Fine stripes cost next to nothing. Stripes of a middle width, as faint as the others, take away a large part of the digits. The
# test accuracy told you nothing of this. **What does this network look at?** By the end of the lesson you can say it, and you
# will make the dip vanish without training anything.

# %% tags=["nbval-check-output"]
claim(
    "stripes of 2.5 pixels over the digits cost the reader less than 6 points",
    score - scores[2.5] < 0.06,
    measured=scores,
)
claim(
    "stripes of 6 pixels over the digits cost the reader more than 15 points",
    score - scores[6] > 0.15,
    measured=scores,
)

# %% [markdown]
# ## The idea
#
# A convolution slides a small filter $w$ over the picture $x$ and takes the weighted sum at each place:
#
# $$y_{i,j} = \sum_{a,b} w_{a,b}\; x_{i+a,\,j+b}.$$
#
# (Strictly this is a *cross-correlation*: a convolution would flip the filter. Every deep learning library leaves the flip out.)
# The answer is large where the picture looks like the filter. Take one row of a picture, and filters of three weights, so that you can
# check each number in your head.

# %%
import pandas as pd

filters = {"edge": [-1, 0, 1], "texture": [-1, 2, -1]}
signals = {"step": [0, 0, 0, 1, 1, 1], "fine stripes": [0, 1, 0, 1, 0, 1]}


# %%
def slide(w, x):
    return [sum(w[a] * x[i + a] for a in range(3)) for i in range(len(x) - 2)]


# %%
answers_by_hand = {
    f"{name} filter": {key: slide(w, x) for key, x in signals.items()}
    for name, w in filters.items()
}
pd.DataFrame(answers_by_hand)

# %% [markdown]
# The edge filter compares left with right. It answers to the step, and to fine stripes it is **stone deaf**: left and right are
# always equal there. The texture filter compares the middle with its sides. It answers to both, and most loudly to the stripes.

# %% tags=["nbval-check-output"]
claim(
    "the edge filter answers stripes of two pixels with zero",
    not any(slide(filters["edge"], signals["fine stripes"])),
)
claim(
    "the texture filter answers stripes of two pixels twice as strongly as a step",
    max(map(abs, slide(filters["texture"], signals["fine stripes"])))
    == 2 * max(map(abs, slide(filters["texture"], signals["step"]))),
    measured=(
        max(map(abs, slide(filters["texture"], signals["fine stripes"]))),
        2 * max(map(abs, slide(filters["texture"], signals["step"]))),
    ),
)

# %% [markdown]
# There is a law behind this. Show a filter stripes of any period, and its answer is again stripes, with the *same* period. Only
# their strength changes, by the factor
#
# $$|H(k)| = \Bigl|\sum_{a,b} w_{a,b}\; e^{\,i\,(k_x b + k_y a)}\Bigr|, \qquad |k| = 2\pi/\text{period},$$
#
# the Fourier transform of the filter. So stripes are the perfect question to a filter, and one number is the whole
# reply. Physiologists ask the cells of the visual cortex in the same way, with bars and edges first
# {cite:p}`hubel1962receptive`, with stripes, called *gratings*, later.

# %% [markdown]
# ## The block
#
# Write the convolution yourself: one multiplication per place in the filter, for all pixels at once.


# %%
from torch import nn


class Convolution(nn.Module):
    """Slide K filters of C channels over [N,C,H,W], with a frame of zeros that keeps the size."""

    def __init__(self, channels, filters, size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(filters, channels, size, size) / size)

    def forward(self, x):
        size, (height, width) = self.weight.shape[-1], x.shape[-2:]
        framed = nn.functional.pad(x, [size // 2] * 4)
        total = 0
        for a in range(size):
            for b in range(size):
                shifted = framed[:, :, a : a + height, b : b + width]  # [N,C,H,W]
                total = total + torch.einsum(
                    "nchw,kc->nkhw", shifted, self.weight[:, :, a, b]
                )
        return total


# %%
convolution, x = Convolution(channels=3, filters=5, size=7), torch.randn(2, 3, 28, 20)
theirs = nn.functional.conv2d(x, convolution.weight, padding=3)
difference = {"convolution": (convolution(x) - theirs).abs().max().item()}
tuple(x.shape), tuple(convolution(x).shape)

# %% [markdown]
# Five filters gave five maps of the same size. The whole network is two of these, each followed by a batch norm, a ReLU that
# keeps only positive answers, and a pooling that keeps the loudest of each four. With the same names of layers, the weights of
# `labs.models.DigitNet` load into it.


# %%
class ByHand(nn.Module):
    def __init__(self, filters=16):
        super().__init__()
        self.conv1, self.bn1 = Convolution(1, filters, 7), nn.BatchNorm2d(filters)
        self.conv2, self.bn2 = (
            Convolution(filters, 2 * filters, 3),
            nn.BatchNorm2d(2 * filters),
        )
        self.fc = nn.Linear(2 * filters * 7 * 7, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(
            torch.relu(self.bn1(self.conv1(x))), 2
        )  # [N,16,14,14]
        x = nn.functional.max_pool2d(
            torch.relu(self.bn2(self.conv2(x))), 2
        )  # [N,32,7,7]
        return self.fc(x.flatten(1))


# %%
by_hand = ByHand().eval()
by_hand.load_state_dict(reader.state_dict())
with torch.no_grad():
    logits = by_hand(test.images[:100])
    difference["network"] = (logits - reader(test.images[:100])).abs().max().item()
tuple(logits.shape), logits[0].argmax().item(), test.labels[0].item()

# %% [markdown]
# Ten scores for each of a hundred digits, and the largest score of the first one names the right digit.

# %% tags=["nbval-check-output"]
claim(
    "the convolution written here equals PyTorch's to 1e-4",
    difference["convolution"] < 1e-4,
    measured=difference,
)
claim(
    "the network written here gives the scores of labs.models to 1e-3",
    difference["network"] < 1e-3,
    measured=difference,
)

# %% [markdown]
# ## Debug: ask every filter what it answers to
#
# `capture` puts a hook on a layer, keeps what the layer returns, and takes the hook away. Look at the first convolution: its 16
# filters, and what each of them answers to one digit.

# %%
from labs.hooks import capture

digit = test.images[[18]]
with torch.no_grad(), capture(reader, "conv1", "relu1") as maps:
    reader(digit)
maps.table().round(2)

# %%
weights = reader.conv1.weight.detach()[:, 0]  # [16,7,7]
figure, axes = plot.new(7, 4, rows=4, columns=8)
for k in range(16):
    above, below = axes[2 * (k // 8) : 2 * (k // 8) + 2, k % 8]
    top = weights[k].abs().max().item()
    plot.images(
        above, weights[[k]], [f"filter {k}"], limits=(-top, top), cmap="RdBu_r"
    )
    plot.images(below, maps["relu1"][0, [k]], limits=None)
figure.suptitle(
    "The maps show borders and strokes; the weights show little",
    x=0.01,
    ha="left",
    fontsize=10,
)
plot.show(
    figure,
    "Sixteen filters of 7 by 7 weights that look noisy, and below each its answer "
    "to a digit, which marks some borders or strokes.",
)

# %% [markdown]
# Some maps light up on one side of the strokes, some on the strokes themselves, some on strokes of one direction only. But one
# digit cannot tell you *why* a filter answers, and the weights above
# each map look like noise.
#
# :::{admonition} Predict
# :class: predict
# Look at the weights once more. How many of the 16 filters answer best to edges or lines, and how many to fine texture?
# Write both numbers down.
# :::
#
# ### Show it stripes
#
# Show the network stripes of 14 periods and 12 directions, each in two positions: once with a light stripe in the
# middle of the picture (phase 0), once with a border between dark and light there (a quarter turn). Then read the one pixel in the
# middle of each map of `conv1`.

# %%
from labs.evaluate import evaluating

PERIODS = torch.tensor([2.2, 2.5, 2.8, 3.2, 3.6, 4.2, 5, 6, 7, 8, 10, 12, 16, 24])
ANGLES = torch.arange(12) * pi / 12
PHASES = torch.tensor([0, -pi / 2])


# %%
def answers(net):
    """Return what each filter says to each grating: [periods, angles, phases, filters]."""
    period, angle, phase = torch.cartesian_prod(PERIODS, ANGLES, PHASES).T
    with evaluating(net), capture(net, "conv1") as maps:
        net(stripes(period, angle, phase))
    return maps["conv1"][:, :, 14, 14].reshape(
        len(PERIODS), len(ANGLES), len(PHASES), -1
    )


tuning = answers(reader).norm(
    dim=2
)  # [periods, angles, filters], wherever the stripes lie
tuple(tuning.shape)

# %%
chosen = tuning.flatten(0, 1).max(0).values.argsort(descending=True)[:5]
figure, axes = plot.new(10, 3.6, rows=2, columns=5)
for column, k in zip(axes.T, chosen, strict=True):
    top = weights[k].abs().max().item()
    plot.images(
        column[0],
        weights[k][None],
        [f"filter {k}"],
        limits=(-top, top),
        cmap="RdBu_r",
    )
    column[1].pcolormesh(
        torch.arange(12) * 15, torch.arange(14), tuning[:, :, k], cmap="viridis"
    )
    column[1].set(xlabel="direction (degrees)", xticks=[0, 90], yticks=[])
    column[1].grid(False)
axes[1, 0].set(
    ylabel="period (pixels)",
    yticks=[0, 5, 8, 13],
    yticklabels=["2.2", "4.2", "7", "24"],
)
figure.suptitle(
    "The five loudest filters: each prefers one width and one direction",
    x=0.01,
    ha="left",
    fontsize=10,
)
plot.show(
    figure,
    "Five filters, and below each how loudly it answers to stripes by direction and "
    "period. Each has one bright spot at a middle period.",
)

# %% [markdown]
# What looked like noise has one bright spot. Each of these filters prefers one width and one direction, and hears the rest far less. The
# theory of the last section says that you could have known this without a single picture: the table of answers is the Fourier
# transform of the filter. Test it with all gratings that fit a whole number of times into 28 pixels, and one line of `torch.fft`.

# %%
k_x, k_y, phase = torch.cartesian_prod(
    torch.arange(28.0), torch.arange(15.0), PHASES
).T
gratings = stripes(28 / torch.hypot(k_x, k_y), torch.atan2(k_y, k_x), phase)
with torch.no_grad(), capture(reader, "conv1") as maps:
    reader(gratings)
heard = (
    maps["conv1"][:, :, 14, 14].reshape(28, 15, 2, 16).norm(dim=2)
)  # [k_x,k_y,filter]
predicted = torch.fft.fft2(weights, s=(28, 28)).abs().permute(2, 1, 0)[:, :15]

# %% tags=["nbval-check-output"]
worst = (heard - predicted).abs().max() / predicted.max()
claim(
    "a filter's answer to 840 pictures, by hook and by one line of FFT, agrees to "
    "0.1 %",
    worst < 1e-3,
    measured=worst,
)

# %% [markdown]
# ### Edge, line or texture
#
# Now give each filter three numbers: the period that it prefers, how *selective* it is for direction (0: it answers to all
# alike, 1: to one only), and whether its answer is louder with a border or with a stripe in the middle. The last one tells edge
# filters from line filters. A filter that prefers stripes below four pixels, so two light and two dark, sees texture.


# %%
def describe(net):
    seen = answers(net)
    size = seen.norm(dim=2)
    best = size.flatten(0, 1).argmax(0)  # [filters]
    row, column, k = best // len(ANGLES), best % len(ANGLES), torch.arange(len(best))
    around = size[row, :, k]  # [filters, angles], at the preferred period
    turn = torch.exp(
        2j * ANGLES
    )  # twice the angle: after half a turn the stripes are the same
    stripe, border = seen[row, column, :, k].abs().T
    shape = ["edge" if b > s else "line" for s, b in zip(stripe, border, strict=True)]
    period = PERIODS[row]
    return pd.DataFrame(
        {
            "period": period,
            "selectivity": (around * turn).sum(1).abs() / around.sum(1),
            "kind": [
                "texture" if p < 4 else s for p, s in zip(period, shape, strict=True)
            ],
        }
    )


# %% [markdown]
# Are these numbers the work of training? Ask three networks that were never trained as well.

# %%
untrained = []
for seed in range(3):
    seed_everything(seed)
    untrained.append(describe(DigitNet()))
trained, untrained = describe(reader), pd.concat(untrained)

# %%
figure, ax = plot.new(7, 3.2)
for table, name, marker in [
    (untrained, "untrained (three networks)", "x"),
    (trained, "trained", "o"),
]:
    jitter = torch.linspace(0.98, 1.02, len(table)).numpy()
    ax.semilogx(table["period"] * jitter, table["selectivity"], marker, label=name)
ax.set(
    xlabel="preferred period (pixels)",
    ylabel="selectivity for direction",
    title="Training moves filters to strokes, and gives them a direction",
)
ax.set_xticks([2.2, 3.2, 4.2, 6, 10, 24], ["2.2", "3.2", "4.2", "6", "10", "24"])
ax.minorticks_off()
ax.legend()
plot.show(
    figure,
    "Each filter by preferred period and selectivity. Untrained filters crowd at "
    "fine periods with low selectivity, trained ones at four to ten pixels with "
    "higher selectivity.",
)

# %% [markdown]
# Random weights prefer the finest stripes: there are simply more fine patterns than coarse ones. Training moves most filters to middle periods,
# where one light stripe is about as wide as a pen stroke in the digits above, and makes them choosy about direction.

# %%
kinds = pd.DataFrame(
    {
        "trained": trained["kind"].value_counts(),
        "untrained, mean of 3": untrained["kind"].value_counts() / 3,
    }
)
kinds.fillna(0).round(1)

# %% [markdown]
# Compare with the numbers you wrote down. This is the honest answer to "which filters see edges and which see texture": to read
# digits, the network made itself detectors of edges and of lines, and gave up nearly all of the texture filters that it was born
# with. Digits have no texture.

# %% tags=["nbval-check-output"]
claim(
    "of the 16 trained filters of the first layer at most 4 prefer texture",
    (trained["kind"] == "texture").sum() <= 4,
    measured=kinds,
)
claim(
    "of untrained filters of the first layer more than half prefer texture",
    (untrained["kind"] == "texture").mean() > 0.5,
    measured=kinds,
)
ratio = trained["selectivity"].mean() / untrained["selectivity"].mean()
claim(
    "trained filters are at least 1.3 times as selective for direction as untrained "
    "ones",
    ratio > 1.3,
    measured=ratio,
)

# %% [markdown]
# ### Prove it with pictures that are not stripes
#
# A label such as "edge filter" is worth something only if it predicts what the filter does with *other* pictures. Make three: a step, a line of
# three pixels, and a fine weave. They have only the values -0.5 and 0.5, so none is stronger than another. Each comes in 12 directions; the weave also in
# two positions, since it has no middle.

# %%
x = torch.arange(28) - 14.0
turned = ANGLES[
    :, None, None, None
]  # so that each picture comes in 12 directions, [12,1,28,28]
across = x * turned.cos() + x[:, None] * turned.sin()
along = x[:, None] * turned.cos() - x * turned.sin()


def weave(shift):
    warp, weft = (torch.cos(2 * pi * way / 2.8 + shift) for way in (across, along))
    return (warp * weft).sign() / 2


pictures = {
    "edge": (across.round(decimals=4)).sign() / 2,
    "line": torch.where(across.abs() <= 1.5, 0.5, -0.5),
    "texture": torch.cat([weave(0.3), weave(1.9)]),
}

# %%
figure, axes = plot.new(5, 1.9, columns=3)
plot.images(
    axes,
    torch.cat([p[[1]] for p in pictures.values()]),
    list(pictures),
    limits=(-0.5, 0.5),
)
plot.show(
    figure,
    "Three pictures: a step from dark to light, a light line, and a fine weave.",
)


# %%
def loudest(net):
    """Return, for each filter and kind of picture, its loudest answer: [filters, 3]."""
    with evaluating(net), capture(net, "conv1") as maps:
        for batch in pictures.values():
            net(batch)
    return torch.stack(
        [call[:, :, 14, 14].abs().amax(0) for call in maps.calls("conv1")], 1
    )


# %%
names = list(pictures)


def called_and_found(net):
    found = [names[i] for i in loudest(net).argmax(1)]
    return pd.DataFrame(
        {"called by stripes": describe(net)["kind"], "loudest answer to": found}
    )


# %% [markdown]
# Ask the 16 trained filters, and the 48 of the three untrained networks, so that there are enough of each kind.

# %%
newborn = []
for seed in range(3):
    seed_everything(seed)
    newborn.append(called_and_found(DigitNet()))
ours = called_and_found(reader)
every = pd.concat([ours, *newborn])
pd.crosstab(every["called by stripes"], every["loudest answer to"])

# %% [markdown]
# Read along a row: the largest number is on the diagonal. What stripes called an edge filter answers most to steps, a line filter
# to lines, a texture filter to the weave. There are exceptions: a filter may lie between two kinds, and one word for a filter is
# a summary. How often would the names agree by chance, if the columns were shuffled?

# %% tags=["nbval-check-output"]
agree = (every["called by stripes"] == every["loudest answer to"]).mean()
shares = [every[column].value_counts(normalize=True) for column in every]
by_chance = (shares[0] * shares[1]).sum()
claim(
    "64 filters: names by response and by look agree 20 points more often than by "
    "chance",
    agree - by_chance > 0.2,
    measured=(agree, by_chance),
)
hits = (ours["called by stripes"] == ours["loudest answer to"]).sum()
claim(
    "the names by response and by look agree for at least 8 of the 16 trained "
    "filters",
    hits >= 8,
    measured=hits,
)

# %%
print(
    f"agreement {agree:.0%}, by chance {by_chance:.0%}; {hits} of 16 trained filters"
)

# %% [markdown]
# ### Prove that this is the cause of the dip
#
# If the reader stumbles over stripes because its filters hear them, then the stripes that the filters hear best must be the worst for
# it. How loud a filter is for the rest of the network also depends on its batch norm, which multiplies every map by a factor.
# Take the mean over the filters, and compare it with the accuracy under eight periods and four directions.


# %%
def hears(net):
    """Return the mean loudness of the filters after their batch norm: [periods, angles]."""
    factor = net.bn1.weight / (net.bn1.running_var + net.bn1.eps).sqrt()
    return (answers(net).norm(dim=2) * factor.detach().abs()).square().mean(2).sqrt()


def score_under(net, period, angle, n=500):
    phase = 2 * pi * torch.rand(n, generator=torch.Generator().manual_seed(1))
    shown = test.images[:n] + 0.3 * stripes(period, angle, phase)
    return (predict(net, shown).argmax(1) == test.labels[:n]).float().mean().item()


loudness = hears(reader)
tried = [(p, a) for p in (0, 2, 4, 6, 8, 10, 12, 13) for a in (0, 3, 6, 9)]
under = pd.DataFrame(
    {
        "period": [f"{PERIODS[p]:g}" for p, _ in tried],
        "loudness": [loudness[p, a].item() for p, a in tried],
        "score": [score_under(reader, PERIODS[p], ANGLES[a]) for p, a in tried],
    }
)

# %%
from scipy.stats import spearmanr

figure, ax = plot.new(6, 3.4)
points = ax.scatter(
    under["loudness"],
    under["score"],
    c=[PERIODS[p].log() for p, _ in tried],
    cmap="viridis",
)
bar = figure.colorbar(points, label="period (pixels)")
bar.set_ticks(
    [PERIODS[p].log().item() for p in (0, 4, 8, 13)], labels=["2.2", "3.6", "7", "24"]
)
ax.set(
    xlabel="how loudly conv1 hears the stripes",
    ylabel="share read right",
    title="What the filters hear best harms the reader most",
)
plot.show(
    figure,
    "Accuracy against loudness for 32 kinds of stripes: it falls as the filters "
    "hear them more loudly.",
)

# %% [markdown]
# The louder the filters hear them, the fewer digits survive. But a correlation is no proof: something else about stripes of this
# width might do the harm.
#
# ### Make the network blind to one pattern
#
# So intervene. Take the direction and the period that do the most harm. Seen through a 7x7 window, such stripes are made of
# two patterns only, a cosine and a sine: two of the 49 dimensions of a filter. Remove them from all filters, and leave everything else as it
# is. No training.
#
# :::{admonition} Predict
# :class: predict
# The blind network reads the digits without stripes, and with them. What will the two scores be, compared with the reader's?
# :::

# %%
from copy import deepcopy


def blind(net, period, angle):
    """Return a copy of the net whose first filters cannot hear these stripes."""
    window = stripes(period, angle, PHASES)[
        :, 0, 11:18, 11:18
    ]  # as the filter in the middle sees it
    basis, _ = torch.linalg.qr(window.flatten(1).T)  # [49,2], orthonormal
    copy = deepcopy(net)
    flat = copy.conv1.weight.detach().flatten(
        1
    )  # [16,49], a view: it shares the memory
    flat -= flat @ basis @ basis.T
    return copy


worst_p, worst_a = tried[under["score"].idxmin()]
period, angle = PERIODS[worst_p], ANGLES[worst_a]
crossed = ANGLES[(worst_a + 6) % 12]
nets = {
    "reader": reader,
    "blind to them": blind(reader, period, angle),
    "blind to others": blind(reader, period, crossed),
}

# %%
clean = {
    name: (predict(net, test.images[:500]).argmax(1) == test.labels[:500])
    .float()
    .mean()
    .item()
    for name, net in nets.items()
}
striped = {name: score_under(net, period, angle) for name, net in nets.items()}
print(f"stripes of {period:g} pixels at {angle / pi * 180:.0f} degrees")
pd.DataFrame({"no stripes": clean, "stripes": striped}).round(3)

# %% [markdown]
# To the blind network the stripes are not there: it reads as well with as without them. The control, blind to the same
# stripes turned by a right angle, is not helped at all. So the harm went through these two dimensions of 49. Read the other column too: without stripes, the blind network is worse than the reader. What disturbs the
# reader is exactly what it reads with. It looks at strokes, and stripes of that width *are* strokes.

# %% tags=["nbval-check-output"]
claim(
    "a network made blind to stripes of 6 pixels loses less than 6 points to them",
    abs(clean["blind to them"] - striped["blind to them"]) < 0.06,
    measured=striped,
)
claim(
    "a network made blind to stripes reads 15 points more striped digits than "
    "the reader",
    striped["blind to them"] - striped["reader"] > 0.15,
    measured=striped,
)
claim(
    "a network made blind to the crossed stripes gains under 5 points on the others",
    striped["blind to others"] < striped["reader"] + 0.05,
    measured=striped,
)
rho = spearmanr(under["loudness"], under["score"]).statistic
claim(
    "over 32 kinds of stripes, response and accuracy have a rank correlation below "
    "-0.5",
    rho < -0.5,
    measured=rho,
)

# %% [markdown]
# ### Silence one filter at a time
#
# A hook can also change what a layer returns. Silence each filter in turn and count what is lost. Which kind is the most important?


# %%
def score_without(net, k, n=1000):
    def silence(module, inputs, output):
        output = output.clone()
        output[:, k] = 0
        return output

    handle = net.relu1.register_forward_hook(silence)
    try:
        guesses = predict(net, test.images[:n]).argmax(1)
    finally:
        handle.remove()  # a forgotten hook would stay in the network for good
    return (guesses == test.labels[:n]).float().mean().item()


# %%
everything = score_without(reader, [])
trained["points lost"] = [
    100 * (everything - score_without(reader, k)) for k in range(16)
]
trained.groupby("kind")["points lost"].agg(["count", "mean", "max"]).round(2)

# %% [markdown]
# None of them is. Whichever filter you take away, nearly all digits are still read: the knowledge is spread over many filters. A
# filter with a beautiful tuning is not thereby an important one.

# %% tags=["nbval-check-output"]
claim(
    "without any single first-layer filter the reader loses at most 6 points",
    trained["points lost"].max() < 6,
    measured=trained["points lost"].max(),
)

# %% [markdown]
# ## Experiment: does the network have to learn its filters?
#
# Training turned random filters into detectors of edges and lines. Was it worth the trouble? One variable changes: which
# convolutions are *frozen* at their random start, while all other layers learn. To afford three seeds each, take 8 filters and
# 4,000 digits. Each network is tested on clean digits, on digits with fine and with middle stripes, and on digits with
# random noise in each pixel.

# %%
from labs.ablation import ablate

exam = test.take(slice(3000))
noise = 0.3 * torch.randn(
    exam.images.shape, generator=torch.Generator().manual_seed(0)
)
tests = {
    "clean": exam.images,
    "fine stripes": with_stripes(exam.images, 2.8),
    "middle stripes": with_stripes(exam.images, 6),
    "noise": exam.images + noise,
}


LAYERS = {"nothing": [], "conv1": ["conv1"], "both": ["conv1", "conv2"]}


def train_and_score(frozen, linear=False):
    net = DigitNet(filters=8)
    for name in LAYERS[frozen]:
        net.get_submodule(name).requires_grad_(False)
    if linear:
        without_nonlinearity(net)
    train_net(net, n=4000, size=32, epochs=2)
    return {
        name: (predict(net, x).argmax(1) == exam.labels).float().mean().item()
        for name, x in tests.items()
    }


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# How many points on clean digits will it cost to freeze the first convolution at random numbers? And both?
# :::

# %%
study = ablate(
    train_and_score, base={"frozen": "nothing"}, vary="frozen", values=LAYERS
)
study.table("clean").round(4)

# %%
study.table("noise").round(3)

# %%
figure, axes = plot.new(10, 3, columns=4)
for ax, name in zip(axes, tests, strict=True):
    for place, value in enumerate(LAYERS):
        runs = study.frame().query("frozen == @value")[name]
        ax.plot([place] * len(runs), runs, "o", color=plot.COLOURS[place], alpha=0.6)
        ax.plot(place, runs.mean(), "_", color=plot.COLOURS[place], markersize=24)
    ax.set(title=name, ylim=(0.3, 1.01), xlim=(-0.5, 2.5), xlabel="frozen at random")
    ax.set_xticks(range(3), LAYERS)
axes[0].set_ylabel("share read right")
figure.suptitle(
    "Learned filters hardly matter for clean digits; for noise they do",
    x=0.01,
    ha="left",
    fontsize=10,
)
plot.show(
    figure,
    "Four panels, three dots for each setting. On clean digits the three settings "
    "are close; with noise and fine stripes frozen filters are far worse; with "
    "middle stripes there is no clear difference.",
)

# %% [markdown]
# Read the panels from left to right. On clean digits, random filters are nearly as good as learned ones. Under fine stripes and noise
# they fall far behind: noise is mostly fine texture, random filters hear it, and learned ones have become deaf to it. Under stripes
# of a middle width that advantage is gone, since there the learned filters listen too. So learning the filters bought less accuracy
# than it bought deafness to what does not matter for digits. The clean test set could not show you that.

# %% tags=["nbval-check-output"]
mean = study.frame().groupby("frozen")[list(tests)].mean()
gain = (
    mean.loc["nothing"] - mean.loc[["conv1", "both"]]
)  # what learning the filters brings
claim(
    "clean digits: learning the first filters brings less than 2 points",
    gain["clean"]["conv1"] < 0.02,
    measured=gain,
)
claim(
    "noisy digits: learning the first filters brings more than 5 points",
    gain["noise"]["conv1"] > 0.05,
    measured=gain,
)
claim(
    "noisy digits: learning both layers brings more than 15 points",
    gain["noise"]["both"] > 0.15,
    measured=gain,
)
claim(
    "learning both layers brings 8 points more under fine stripes than under middle "
    "ones",
    gain["fine stripes"]["both"] - gain["middle stripes"]["both"] > 0.08,
    measured=gain,
)

# %% [markdown]
# ## Reproduce: random filters, if something rectifies them
#
# **The paper says.** {cite:t}`jarrett2009best` asked what makes a two-stage recogniser good. Two findings of theirs: with random filters
# and a trained classifier it reaches almost 63 % on Caltech-101, where the best trained one of theirs has a little over 65 %; and this holds only with the right
# non-linearity and pooling, of which rectification is the single most important ingredient.
#
# **We measure** both on digits. The first is the last row of the study above. For the second, take the ReLUs out, and let the
# pooling average instead of choosing the loudest. What is left is linear from the first pixel to the last score.


# %%
def without_nonlinearity(net):
    net.relu1, net.relu2 = nn.Identity(), nn.Identity()
    net.pool1, net.pool2 = nn.AvgPool2d(2), nn.AvgPool2d(2)


linear = []
for seed in range(3):
    seed_everything(seed)
    linear.append(train_and_score("both", linear=True)["clean"])
clean_runs = {
    value: study.frame().query("frozen == @value")["clean"] for value in LAYERS
}
reached = pd.DataFrame(
    {
        "learned filters": clean_runs["nothing"].to_numpy(),
        "random filters": clean_runs["both"].to_numpy(),
        "random filters, linear": linear,
    }
).T.agg(["mean", "std"], axis=1)
reached.round(4)

# %% tags=["nbval-check-output"]
cost = reached["mean"]["learned filters"] - reached["mean"]
claim(
    "random filters in both layers of the reader cost less than 4 points on clean "
    "digits",
    cost["random filters"] < 0.04,
    measured=cost,
)
claim(
    "with random filters, ReLU and max pooling are worth more than learning the "
    "filters",
    cost["random filters, linear"] - cost["random filters"] > cost["random filters"],
    measured=cost,
)

# %% [markdown]
# **Why they differ.** The order is the paper's: what follows the filters matters more than the filters. The sizes differ. Digits are
# easier than 101 kinds of photographed objects, so all numbers are higher and the gaps smaller. Our rectification is a
# ReLU with max pooling, theirs an absolute value with local contrast normalisation and average pooling, and batch norms still learn
# a scale for each random filter here. {cite:t}`saxe2011random` say why random filters do so well: a convolution with pooling prefers
# stripes of some frequency *whatever* its weights are. You saw it: the untrained filters had preferred periods too.

# %% [markdown]
# ## Bug hunt: every digit right, and the loss stays high
#
# A user watched a validation loss stick at about one, while the answers were good
# ([ariecattan/SciCo#2](https://github.com/ariecattan/SciCo/issues/2)). The same mistake was met in
# [amdegroot/ssd.pytorch#218](https://github.com/amdegroot/ssd.pytorch/issues/218) and in
# [NaJaeMin92/pytorch-DANN#7](https://github.com/NaJaeMin92/pytorch-DANN/issues/7). Nothing crashes, nothing warns.

# %% tags=["hunt-bug"]
import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 7, stride=4, padding=3)
        self.fc = nn.Linear(8 * 7 * 7, classes)
        self.softmax = nn.Softmax(dim=1)

    def forward(self, images):
        maps = torch.relu(self.conv(images))  # [N,8,7,7]
        return self.softmax(self.fc(maps.flatten(1)))


def loss(net, batch):
    images, labels = batch
    return nn.functional.cross_entropy(net(images), labels)


# %% [markdown]
# Let it learn 16 digits by heart, which any network of this size can.

# %%
sixteen = (train.images[:16], train.labels[:16])


def learn_by_heart(net, loss, steps=300):
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    return fit(net, [sixteen] * steps, adam, loss=loss)


# %%
seed_everything(0)
suspect = Reader()
history = learn_by_heart(suspect, loss)
right = (predict(suspect, sixteen[0]).argmax(1) == sixteen[1]).sum().item()
plateau = history.steps[-1]["loss"]
print(f"{right} of 16 right, and the loss ends at {plateau:.4f}")

# %% [markdown]
# All sixteen are right, and the loss is nowhere near zero. More steps or a larger learning rate do not help. What does the checker say?

# %%
from labs.hunts.foundations import check_digit_loss

check_digit_loss(Reader, loss)

# %% [markdown]
# Repair the network or the loss in a copy of the cell, and check again until all probes pass.
#
# :::{dropdown} Hint 1
# `capture` the output of each layer for a few digits, and look at `maps.table()`. In which range do the numbers lie that `cross_entropy` gets?
# What is the sum of each row?
# :::
#
# :::{dropdown} Hint 2
# Read what `cross_entropy` does with its input before it takes a logarithm. Then compute by hand what it makes of the best output
# that this network can ever give: a one and nine zeros.
# :::
#
# :::{dropdown} Hint 3
# Something is done twice. There are two places where you can leave it out, and each needs another loss function. The result must also stay
# finite for scores of 200.
# :::

# %% tags=["hunt-solution", "hide-cell"]
import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 7, stride=4, padding=3)
        self.fc = nn.Linear(8 * 7 * 7, classes)

    def forward(self, images):
        maps = torch.relu(self.conv(images))  # [N,8,7,7]
        return self.fc(
            maps.flatten(1)
        )  # scores: cross_entropy applies the softmax itself


def loss(net, batch):
    images, labels = batch
    return nn.functional.cross_entropy(net(images), labels)


# %% tags=["nbval-check-output"]
claim(
    "the repaired reader and its loss pass every probe of softmax and cross entropy",
    check_digit_loss(Reader, loss).passed,
    measured=check_digit_loss(Reader, loss),
)

# %% [markdown]
# Where does the number come from at which the loss got stuck? The softmax gives at best a one and nine zeros. `cross_entropy` takes these
# for scores, and applies a softmax again. So with $C$ classes the loss can never fall below
#
# $$-\log\frac{e^1}{e^1 + (C-1)\,e^0} = \log\Bigl(1 + \frac{C-1}{e}\Bigr).$$

# %%
from math import e, log

floor = {classes: log(1 + (classes - 1) / e) for classes in (2, 4, 10, 1000)}
pd.Series(floor, name="lowest loss").rename_axis("classes").round(3)

# %% [markdown]
# The row for four classes is the number that the user in the first link had worked out for his own network.

# %% tags=["nbval-check-output"]
claim(
    "softmax twice ends within 0.01 of its floor, log(1 + 9 / e)",
    abs(plateau - floor[10]) < 0.01,
    measured=plateau,
)

# %% [markdown]
# The high loss is only the visible part. The harm is in the gradient. The suspect is now sure of its sixteen answers. Tell it that
# all of them are wrong, and let `gradient_health` compare what the two versions send back to the very same weights.

# %%
from labs.hooks import gradient_health

corrected = (sixteen[0], (sixteen[1] + 1) % 10)
norms = {}
for name, last in [
    ("softmax twice", nn.Softmax(dim=1)),
    ("softmax once", nn.Identity()),
]:
    scores_of = Reader()
    scores_of.load_state_dict(suspect.state_dict())
    loss(nn.Sequential(scores_of, last), corrected).backward()
    norms[name] = (
        gradient_health(scores_of).table().set_index("parameter")["grad_norm"]
    )
pd.DataFrame(norms).map("{:.1e}".format)

# %% [markdown]
# With one softmax, a sure mistake sends back a strong gradient. With two, it sends back next to nothing: the inner softmax is flat
# where the network is sure. A network trained this way cannot unlearn.

# %% tags=["nbval-check-output"]
claim(
    "softmax twice: a sure mistake sends back less than a twentieth of the gradient",
    norms["softmax twice"]["fc.weight"] < 0.05 * norms["softmax once"]["fc.weight"],
    measured=norms,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Show the reader black digits on white, `1 - images`. You read them as easily as before; it does not. Repair it without any training,
# with one forward hook on `conv1`, so that it gives the *same* scores as for the original digits. (A convolution is linear.)
#
# :::{dropdown} Solution 1
# Write $b$ for the all-white picture. Then $w * (b - x) = w * b - w * x$, so $w * x = w * b - w * (b - x)$: subtract what the layer returns from
# its answer to white. The sign is what broke the reader: a ReLU passes the light side of a border and cuts the dark side off, so each edge filter knows
# one polarity only.
# :::

# %% tags=["hide-cell"]
digits_500, white = test.take(slice(500)), torch.ones(1, 1, 28, 28)
with torch.no_grad():
    answer_to_white = reader.conv1(white)
inverted = (
    accuracy(reader, digits_500),
    (predict(reader, 1 - digits_500.images).argmax(1) == digits_500.labels)
    .float()
    .mean()
    .item(),
)
handle = reader.conv1.register_forward_hook(
    lambda module, inputs, output: answer_to_white - output
)
repaired = predict(reader, 1 - digits_500.images)
handle.remove()
gap = (repaired - predict(reader, digits_500.images)).abs().max().item()
print(
    f"white on black {inverted[0]:.1%}, black on white {inverted[1]:.1%}; with the hook the scores differ by {gap:.0e}"
)

# %% [markdown]
# **Exercise 2.** Which of all pictures of length one does a *random* filter answer to most, in the sum of squares over its map?
# Find it by power iteration: apply the filter, apply it backwards (`conv_transpose2d`), divide by the length, repeat. Look at it.
#
# :::{dropdown} Solution 2
# Regular stripes whatever the weights are, or checks where the finest diagonal is loudest, fading towards the border. This is the result of {cite:t}`saxe2011random` in one picture: the best input
# of a convolution with pooling has the frequency at which the Fourier transform of the filter is largest.
# :::

# %% tags=["hide-cell"]
seed_everything(0)
w = DigitNet().conv1.weight.detach()[:4]  # [4,1,7,7]
best = torch.randn(1, 4, 28, 28)
for _ in range(300):
    best = nn.functional.conv_transpose2d(
        nn.functional.conv2d(best, w, padding=3, groups=4), w, padding=3, groups=4
    )
    best = best / best.norm(dim=(2, 3), keepdim=True)
figure, axes = plot.new(6, 3.2, rows=2, columns=4)
for k, column in enumerate(axes.T):
    for ax, picture in zip(column, (w[k, 0], best[0, k]), strict=True):
        top = picture.abs().max().item()
        plot.images(ax, picture[None], limits=(-top, top), cmap="RdBu_r")
plot.show(
    figure,
    "Upper row: four random filters. Lower row: the picture that each answers to "
    "most, which is a pattern of regular stripes.",
)

# %% [markdown]
# **Exercise 3.** Some repositories have `log_softmax` in the network and `cross_entropy` as the loss: a *logarithm* of a softmax, and then
# a softmax again. Does the checker accept it? Should it?
#
# :::{dropdown} Solution 3
# It accepts it, and it should: $\operatorname{softmax}(\log p) = p$, since the exponential undoes the logarithm and $p$ already sums to one. Applied twice,
# `log_softmax` gives the same as once. It is a waste and a trap for the next reader, but not a bug.
# :::


# %% tags=["hide-cell"]
class WithLogSoftmax(Reader):
    def forward(self, images):
        return super().forward(images).log_softmax(1)


check_digit_loss(WithLogSoftmax, loss)

# %% [markdown]
# ## In practice
#
# - A hook that is not removed stays in the model, and in every copy that you make of it. Use `capture`, which takes its hooks away also when the
#   model raises; with bare `register_forward_hook`, use `try ... finally`.
# - A hook sees a module, not a function: `torch.relu(x)` in `forward` cannot be captured, `nn.ReLU` can. In your own networks, make
#   modules of what you will want to look at, and use each one once.
# - The loudest answer or the prettiest map proves nothing. Predict an accuracy from it, then intervene and measure.
# - Probing with stripes works on the first layer of any network, because it is linear. Deeper layers are not; there, use attribution
#   (`labs.hooks.grad_cam`), or the methods of Captum.
# - Train with logits: `nn.CrossEntropyLoss` and `nn.BCEWithLogitsLoss` take scores. Apply the softmax only when you show probabilities to someone.
# - Before any long training, learn one small batch by heart. A loss that will not go to zero there is a bug.

# %% [markdown]
# ## You can now
#
# - capture what any layer of a network returns, and tell edge, line and texture filters apart by the stripes they answer to;
# - prove a claim about a network with an intervention and a control, where a correlation is not enough;
# - recognise a loss that is stuck at a floor, compute the floor, and find the second softmax.
