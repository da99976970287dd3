# %% [markdown]
# # Watch a network see digits
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** record how strongly every filter of a network responds, with `capture` · find out which filters respond to
# edges, which to lines and which to texture · turn a guess about a network into an intervention that confirms or refutes it.
#
# **You need** matrix multiplication, and PyTorch as far as a module, a loss and an optimiser. One formula uses complex
# numbers; you can follow the lesson without it.
#
# **Time** read 25 min · debug 35 min · experiment 25 min · reproduce 10 min · hunt 20 min · exercises 40 min
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

# %% [markdown]
# Most lessons train with `fit`, which does what the loop of [Write the training loop](01_write_the_training_loop) does. Its heart:
#
# ```python
# for images, labels in batches:
#     optimizer.zero_grad()                         # forget the last gradient
#     loss = cross_entropy(net(images), labels)     # how wrong is the network?
#     loss.backward()                               # the gradient of every weight
#     optimizer.step()                              # one small step downhill
#     scheduler.step()                              # the next learning rate
# ```
#
# The scheduler here is `OneCycleLR`. It raises the learning rate at first and lowers it to almost zero at the end.

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
    steps = epochs * len(range(0, n, size))
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=0.01, total_steps=steps)
    fit(net, batches(n, size, epochs), adam, scheduler=cycle)
    return net.cpu().eval()


# %%
from labs.evaluate import predict


def share_right(net, images):
    """Return the share of the first test digits, as shown, that are read right."""
    guesses = predict(net, images).argmax(1)
    return (guesses == test.labels[: len(images)]).float().mean().item()


# %%
seed_everything(0)
reader = train_net(DigitNet(), n=budget(cpu=12_000, gpu=20_000))
plain_score = share_right(reader, test.images)
print(f"{plain_score:.2%} right")

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "at least 98 % of the 10,000 test digits are read right",
    plain_score >= 0.98,
    measured=plain_score,
)

# %% [markdown]
# The task looks solved. Now lay stripes over the digits, all of the same strength, and change only their width. The mean of the
# stripes is close to zero, so they make no picture much brighter or darker. Direction and position are drawn at random for each digit.
# (Some pixels become darker than black or lighter than white; to a network they are just numbers.)

# %%
from math import pi


def stripes(period, angle, phase):
    """Return stripes [N,1,28,28] from -1 to 1: pixels and radians."""
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


# %%
from labs import plot

some = test.images[[2, 18, 61]]
frames = {}
for period in (None, 2.5, 3.6, 6, 10, 24):
    figure, axes = plot.new(height=2.7, columns=3)
    shown = some if period is None else with_stripes(some, period)
    plot.images(axes, shown, limits=(-0.3, 1.3))
    frames["no stripes" if period is None else f"{period:g}"] = figure
plot.slide(
    frames,
    "pixels from crest to crest",
    "A person can still read the three digits under stripes of every width.",
    alt="Three handwritten digits, alone and under faint stripes that get wider "
    "from frame to frame.",
)

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Move through the widths. You can read the digits under all of them. Which width gives the network the most trouble: fine,
# middle or wide stripes?
# :::

# %%
widths = [2.2, 2.5, 3, 3.6, 4.2, 5, 6, 7, 8, 10, 14, 24]
scores = {
    period: share_right(reader, with_stripes(test.images[:1000], period))
    for period in widths
}

# %%
figure, ax = plot.new()
ax.semilogx(list(scores), list(scores.values()), "o-", label="with stripes")
ax.axhline(plain_score, color="0.4", linestyle=":", label="no stripes")
ax.set(xlabel="pixels from crest to crest", ylabel="share read right")
ticks = [2.2, 3, 4.2, 6, 8, 14, 24]
ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
ax.minorticks_off()
ax.legend()
plot.show(
    figure,
    "Stripes of a middle width do far more harm to the reader than fine or wide "
    "ones.",
    alt="Share of digits read right against the width of the stripes: near the "
    "dotted line for fine stripes, a deep dip around six pixels, and higher again "
    "for wide stripes.",
)

# %% [markdown]
# Fine stripes cost little. Stripes of a middle width, equally strong, take away a large part of the digits. The
# test accuracy did not tell you this. **What does this network look at?** By the end of the lesson you will be able to say, and you will have removed the harm of one kind of stripes without any training.

# %% tags=["nbval-check-output"]
costs = {period: plain_score - share for period, share in scores.items()}
claim(
    "of a reader of 95 % or more of the digits, stripes of 2.5 pixels cost less than "
    "6 points",
    plain_score > 0.95 and costs[2.5] < 0.06,
    measured=(plain_score, costs[2.5]),
)
claim(
    "stripes of 6 pixels over the digits cost the reader more than 15 points",
    costs[6] > 0.15,
    measured=costs[6],
)

# %% [markdown]
# ## The idea
#
# This is the network, drawn from a real run: the shapes were captured, and an arrow stands where a change of one part's output
# changed another part's input. (Behind each convolution lies a batch norm, which the drawing leaves out: it shifts and scales each map. `relu` sets negative numbers to zero; `pool` keeps the largest of each 2 by 2 pixels.)

# %%
from labs import diagram

FIRST, THEN = ["input", "conv1", "relu1", "pool1"], ["conv2", "relu2", "pool2"]
PARTS = [*FIRST, *THEN, "fc", "output"]
wiring = diagram.trace(reader, test.images[:2], PARTS)

# %%
drawing = diagram.draw(
    wiring,
    [PARTS[:4], PARTS[:3:-1]],
    groups={"filters": ["conv1", "conv2"], "weights for the ten digits": ["fc"]},
)
plot.show(
    drawing,
    "Two convolutions turn a digit into many small maps, and one linear layer turns "
    "the maps into ten scores.",
)

# %% [markdown]
# Each of the 16 maps of `conv1` comes from one *filter*. A convolution slides a small filter $w$ over the picture $x$ and takes the
# weighted sum at each place:
#
# $$y_{i,j} = \sum_{a,b} w_{a,b}\; x_{i+a,\,j+b}.$$
#
# (Strictly this is a *cross-correlation*: a convolution would flip the filter. Every deep learning library leaves the flip out.)
# The sum is the *response* of the filter. It is large where the picture looks like the filter. Take one row of a picture, and
# filters of three weights, so that you can check each number without a computer.

# %%
import pandas as pd

filters = {"edge": [-1, 0, 1], "texture": [-1, 2, -1]}
signals = {"step": [0, 0, 0, 1, 1, 1], "fine stripes": [0, 1, 0, 1, 0, 1]}


def slide(w, x):
    return [sum(w[a] * x[i + a] for a in range(3)) for i in range(len(x) - 2)]


# %%
pd.DataFrame(
    {
        f"{name} filter": {key: slide(w, x) for key, x in signals.items()}
        for name, w in filters.items()
    }
)

# %% [markdown]
# The edge filter compares left with right. It responds to the step. To fine stripes its response is zero everywhere, because left and right
# are equal there. The texture filter compares the middle with its sides. It responds to both, and more strongly to the stripes.
#
# There is a law behind this. Show a filter stripes of any width, and its response is again stripes of the *same* width. Only
# their strength changes, by the factor
#
# $$|H(k)| = \Bigl|\sum_{a,b} w_{a,b}\; e^{\,i\,(k_x b + k_y a)}\Bigr|, \qquad |k| = 2\pi/\text{period},$$
#
# the Fourier transform of the filter. (The *period* is the distance from crest to crest.) So one number says how a filter responds
# to one kind of stripes. Physiologists test the cells of the visual cortex in the same way: first with bars and edges
# {cite:p}`hubel1962receptive`, later with stripes, called *gratings*.

# %% [markdown]
# ## The block
#
# Write the convolution yourself: one multiplication per place in the filter, for all pixels at once.


# %%
from torch import nn


class Convolution(nn.Module):
    """Slide filters over [N,C,H,W], with a frame of zeros that keeps the size."""

    def __init__(self, channels, filters, size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(filters, channels, size, size) / size)

    def forward(self, x):
        size, (height, width) = self.weight.shape[-1], x.shape[-2:]
        framed, total = nn.functional.pad(x, [size // 2] * 4), 0
        for a in range(size):
            for b in range(size):
                shifted = framed[:, :, a : a + height, b : b + width]  # [N,C,H,W]
                w = self.weight[:, :, a, b]  # [K,C]
                total = total + torch.einsum("nchw,kc->nkhw", shifted, w)
        return total


# %%
convolution, x = Convolution(channels=3, filters=5, size=7), torch.randn(2, 3, 28, 20)
tuple(x.shape), tuple(convolution(x).shape)

# %% [markdown]
# Five filters gave five maps of the same size. Now put this convolution into a copy of the trained reader, in both places,
# and load the reader's weights into the copy.

# %%
from copy import deepcopy

by_hand = deepcopy(reader)
by_hand.conv1, by_hand.conv2 = Convolution(1, 16, 7), Convolution(16, 32, 3)
by_hand.load_state_dict(reader.state_dict())
logits = predict(by_hand, test.images[:100])
tuple(logits.shape), logits[0].argmax().item(), test.labels[0].item()

# %% [markdown]
# Ten scores for each of a hundred digits, and the largest score of the first one names the right digit.

# %% tags=["nbval-check-output"]
theirs = nn.functional.conv2d(x, convolution.weight, padding=3)
apart = (convolution(x) - theirs).abs().max().item()
claim(
    "the convolution written here equals PyTorch's to 1e-4",
    apart < 1e-4,
    measured=apart,
)
apart = (logits - predict(reader, test.images[:100])).abs().max().item()
claim(
    "a digit reader with the convolution written here gives the same scores, to 1e-3",
    apart < 1e-3,
    measured=apart,
)

# %% [markdown]
# ## Debug: test every filter with stripes
#
# A *hook* is a function that PyTorch calls whenever a layer has run. `capture` puts a hook on a layer, keeps what the layer returns, and
# takes the hook away. Look at the first convolution: its 16 filters, and the map that each of them makes of one digit.

# %%
from labs.hooks import capture

digit = test.images[[18]]
with torch.no_grad(), capture(reader, "conv1", "relu1") as maps:
    reader(digit)
weights = reader.conv1.weight.detach()[:, 0]  # [16,7,7]
maps.table().round(2)

# %% [markdown]
# Each row is one layer, with the range of its numbers; `zeros` is the share of exact zeros. `conv1` returns exactly zero at half of all places: where the picture is black all around. The batch
# norm behind it moves these zeros up or down, and `relu1` sets to zero what is negative then.


# %%
def mosaic(ax, tiles, low, cmap, colour):
    """Draw 16 tiles in four rows, each divided by its own largest value."""
    tiles = tiles / tiles.abs().amax((1, 2), keepdim=True)
    side = tiles.shape[1] + 1
    tiles = nn.functional.pad(tiles, (0, 1, 0, 1), value=torch.nan).unflatten(
        0, (4, 4)
    )
    whole = tiles.permute(0, 2, 1, 3).reshape(4 * side, 4 * side)[:-1, :-1]
    ax.imshow(whole, cmap=cmap, vmin=low, vmax=1)
    ax.set(xticks=[], yticks=[], facecolor="0.6")
    ax.grid(False)
    for k in range(16):
        spot = (k % 4 + 0.04) * side - 0.5, (k // 4 + 0.05) * side - 0.5
        ax.text(*spot, str(k), va="top", fontsize=9, color=colour)


figure, axes = plot.new(height=4, columns=2)
mosaic(axes[0], weights, -1, "RdBu_r", "black")
mosaic(axes[1], maps["relu1"][0], 0, "gray", "white")
axes[0].set_title("weights of the filters")
axes[1].set_title("their maps of one digit")
plot.show(
    figure,
    "The maps show borders and strokes of the digit, while most of the weights look "
    "like noise.",
    alt="Left, 16 filters of 7 by 7 weights, red for positive and blue for "
    "negative, with little order. Right, the 16 maps of one digit, which light up "
    "along its borders or strokes.",
)

# %% [markdown]
# Some maps light up on one side of the strokes, some on the strokes themselves, some on strokes of one direction only. But one
# digit cannot tell you *why* a filter responds, and most of the weights look like noise.
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
def responses(net):
    """Return all responses to stripes: [periods, angles, phases, filters]."""
    period, angle, phase = torch.cartesian_prod(PERIODS, ANGLES, PHASES).T
    with evaluating(net), capture(net, "conv1") as maps:
        net(stripes(period, angle, phase))
    return maps["conv1"][:, :, 14, 14].reshape(14, 12, 2, -1)


# [periods, angles, filters]: the norm is the same wherever the stripes lie
tuning = responses(reader).norm(dim=2)
tuple(tuning.shape)

# %%
strongest = tuning.flatten(0, 1).max(0).values.argsort(descending=True)[:3]
figure, axes = plot.new(height=3, columns=3)
for ax, k in zip(axes, strongest, strict=True):
    ax.pcolormesh(
        torch.arange(12) * 15, torch.arange(14), tuning[:, :, k], cmap="viridis"
    )
    ax.set(xlabel="direction (degrees)", xticks=[0, 45, 90, 135])
    ax.set(ylabel="period (pixels)", title=f"filter {k}")
    ax.set_yticks([0, 5, 8, 13], ["2.2", "4.2", "7", "24"])
    ax.grid(False)
plot.show(
    figure,
    "Each of the three filters with the strongest responses prefers one width and "
    "one direction of stripes.",
    alt="Three maps of a filter's response by direction and period: each has one "
    "bright spot at a middle period.",
)

# %% [markdown]
# The weights looked like noise, but each of these filters has one bright spot (direction 180 is direction 0 again, so a spot may continue at the other side): it prefers one width and one direction, and responds far less to most others. The law in *The idea* says that you could have known this without a single picture: the table of responses is the Fourier
# transform of the filter. Test it with all gratings that fit a whole number of times into 28 pixels, and one line of `torch.fft`.

# %%
waves = torch.cartesian_prod(torch.arange(28.0), torch.arange(15.0), PHASES)
k_x, k_y, phase = waves.T
with torch.no_grad(), capture(reader, "conv1") as maps:
    reader(stripes(28 / torch.hypot(k_x, k_y), torch.atan2(k_y, k_x), phase))
# [k_x, k_y, filter]
seen = maps["conv1"][:, :, 14, 14].reshape(28, 15, 2, 16).norm(dim=2)
predicted = torch.fft.fft2(weights, s=(28, 28)).abs().permute(2, 1, 0)[:, :15]
largest_gap = ((seen - predicted).abs().max() / predicted.max()).item()
print(f"largest difference: {largest_gap:.0e} of the strongest response")

# %% [markdown]
# Hook and formula agree up to the rounding of 32-bit numbers.

# %% tags=["nbval-check-output"]
claim(
    "the responses of 16 filters to 840 gratings equal their Fourier transforms to "
    "0.1 %",
    largest_gap < 1e-3,
    measured=largest_gap,
)

# %% [markdown]
# ### Edge, line or texture
#
# Now describe each filter by three properties: the period that it prefers, how *selective* it is for direction (0: it responds to all
# alike, 1: to one only), and whether it responds more to a border or to a stripe in the middle. The last one tells edge
# filters from line filters. A filter that prefers a period below four pixels (less than two light and two dark ones) is called a texture filter.

# %%
import numpy as np


def describe(net):
    seen = responses(net)
    size = seen.norm(dim=2)
    best = size.flatten(0, 1).argmax(0)  # [filters]
    row, column, k = best // 12, best % 12, torch.arange(len(best))
    around = size[row, :, k]  # [filters, angles], at the preferred period
    turn = torch.exp(2j * ANGLES)  # after half a turn the stripes are the same
    stripe, border = seen[row, column, :, k].abs().T
    kind = np.where(border > stripe, "edge", "line")
    table = pd.DataFrame({"period": PERIODS[row]})
    table["selectivity"] = (around * turn).sum(1).abs() / around.sum(1)
    table["kind"] = np.where(table["period"] < 4, "texture", kind)
    return table


# %% [markdown]
# Are these numbers the work of training? Describe three networks that were never trained as well.
#
# :::{admonition} Predict
# :class: predict
# Look at the 16 filters once more. How many of them prefer edges or lines, and how many fine texture? And how many of 16
# random filters prefer texture? Write the numbers down.
# :::

# %%
newborn = []
for seed in range(3):
    seed_everything(seed)
    newborn.append(DigitNet())
trained, untrained = describe(reader), pd.concat(map(describe, newborn))
kinds = pd.DataFrame({"trained": trained["kind"].value_counts()})
kinds["untrained, mean of 3"] = untrained["kind"].value_counts() / 3
kinds.round(1)

# %% [markdown]
# Most random filters prefer texture, and most trained ones do not. To read digits, the network made itself
# detectors of edges and lines. Digits have no fine texture. The next figure shows the same filters with their two other numbers.

# %%
figure, ax = plot.new()
for table, name, marker, colour in [
    (untrained, "untrained (three networks)", "x", plot.COLOURS[1]),
    (trained, "trained", "o", plot.COLOURS[0]),
]:
    jitter = torch.linspace(0.98, 1.02, len(table)).numpy()
    period = table["period"] * jitter
    ax.semilogx(period, table["selectivity"], marker, label=name, color=colour)
ax.set(xlabel="preferred period (pixels)", ylabel="selectivity for direction")
ax.set_xticks([2.2, 3.2, 4.2, 6, 10, 24], ["2.2", "3.2", "4.2", "6", "10", "24"])
ax.minorticks_off()
ax.legend()
plot.show(
    figure,
    "Most untrained filters prefer fine stripes of almost any direction; most "
    "trained ones prefer wider stripes of few directions.",
    alt="Each filter by preferred period and selectivity. Untrained filters crowd "
    "at fine periods with low selectivity; trained ones lie at middle periods with "
    "higher selectivity.",
)

# %% [markdown]
# Random weights prefer fine stripes because there are more fine patterns than coarse ones. Training moves most filters to middle periods,
# where one light stripe is about as wide as a pen stroke, and makes them more selective for direction.

# %% tags=["nbval-check-output"]
texture = {
    "trained": int((trained["kind"] == "texture").sum()),
    "untrained": float((untrained["kind"] == "texture").mean()),
}
claim(
    "of the 16 trained filters of the first layer at most 4 prefer texture",
    texture["trained"] <= 4,
    measured=texture["trained"],
)
claim(
    "of untrained filters of the first layer more than half prefer texture",
    texture["untrained"] > 0.5,
    measured=texture["untrained"],
)
ratio = trained["selectivity"].mean() / untrained["selectivity"].mean()
claim(
    "trained filters are at least 1.3 times as selective for direction as untrained "
    "ones",
    ratio > 1.3,
    measured=ratio,
)

# %% [markdown]
# ### Test the names with pictures that are not stripes
#
# A name such as "edge filter" is worth something only if it predicts what the filter does with *other* pictures. Make three: a step, a line of
# three pixels, and a fine weave. They have the values -0.5 and 0.5 (and 0 where an edge runs exactly through a pixel), so none is much stronger than another. Each comes in 12 directions; the weave also in
# two positions, since it has no middle.

# %%
axis = torch.arange(28) - 14.0
turned = ANGLES[:, None, None, None]  # 12 directions of each picture: [12,1,28,28]
across = axis * turned.cos() + axis[:, None] * turned.sin()
along = axis[:, None] * turned.cos() - axis * turned.sin()


def weave(shift):
    warp, weft = (torch.cos(2 * pi * way / 2.8 + shift) for way in (across, along))
    return (warp * weft).sign() / 2


# %%
pictures = {
    "edge": across.round(decimals=4).sign() / 2,
    "line": torch.where(across.abs() <= 1.5, 0.5, -0.5),
    "texture": torch.cat([weave(0.3), weave(1.9)]),
}

# %%
figure, axes = plot.new(height=2.7, columns=3)
one_each = torch.cat([p[[1]] for p in pictures.values()])
plot.images(axes, one_each, list(pictures), limits=(-0.5, 0.5))
for ax in axes:
    ax.title.set_fontsize(9)
plot.show(
    figure,
    "The edge is one step, the line is three pixels wide, and the texture is a fine "
    "weave.",
)


# %%
def called_and_found(net):
    """Name each filter twice: by stripes, and by the picture that it prefers."""
    with evaluating(net), capture(net, "conv1") as maps:
        for batch in pictures.values():
            net(batch)
    middles = [call[:, :, 14, 14].abs().amax(0) for call in maps.calls("conv1")]
    found = np.array(list(pictures))[torch.stack(middles).argmax(0)]
    return pd.DataFrame({"called by stripes": describe(net)["kind"], "found": found})


# %% [markdown]
# Name the 16 trained filters, and the 48 of the three untrained networks, so that there are enough of each kind.

# %%
ours = called_and_found(reader)
every = pd.concat([ours, *map(called_and_found, newborn)])
pd.crosstab(every["called by stripes"], every["found"])

# %% [markdown]
# Read along a row: the largest number is on the diagonal. Most filters that the stripes call edge filters respond most strongly to steps, most line filters to lines, and most texture filters to the weave. There are exceptions: a filter may lie between two kinds, and one word for a filter is
# a summary. How often would the two names agree by chance, if one column were shuffled?

# %%
agree = (every["called by stripes"] == every["found"]).mean()
shares = [every[column].value_counts(normalize=True) for column in every]
by_chance = (shares[0] * shares[1]).sum()
print(
    f"the names agree for {agree:.0%} of the filters, by chance for {by_chance:.0%}"
)

# %% tags=["nbval-check-output"]
claim(
    "64 filters: the kind found with stripes agrees with the kind found with "
    "pictures 20 points more often than by chance",
    agree - by_chance > 0.2,
    measured=agree - by_chance,
)

# %% [markdown]
# The names predict far more than chance does, though not everything.
#
# ### Does this cause the dip?
#
# If the reader fails under stripes because its filters respond to them, then the stripes with the strongest responses must do the most
# harm. How much a filter counts for the rest of the network also depends on its batch norm, which multiplies every map by a factor.
# Take the root mean square over the filters, and compare it with the accuracy under eight periods and four directions.


# %%
def mean_response(net):
    """Return the mean response of conv1 after its batch norm: [periods, angles]."""
    factor = net.bn1.weight / (net.bn1.running_var + net.bn1.eps).sqrt()
    scaled = responses(net).norm(dim=2) * factor.detach().abs()
    return scaled.square().mean(2).sqrt()


def score_under(net, period, angle, n=500):
    phase = 2 * pi * torch.rand(n, generator=torch.Generator().manual_seed(1))
    return share_right(net, test.images[:n] + 0.3 * stripes(period, angle, phase))


# %%
tried = [(p, a) for p in (0, 2, 4, 6, 8, 10, 12, 13) for a in (0, 3, 6, 9)]
response = mean_response(reader)
under = pd.DataFrame(
    {
        "response": [response[p, a].item() for p, a in tried],
        "score": [score_under(reader, PERIODS[p], ANGLES[a]) for p, a in tried],
    }
)

# %%
figure, ax = plot.new()
colours = [PERIODS[p].log() for p, _ in tried]
points = ax.scatter(under["response"], under["score"], c=colours, cmap="viridis")
bar = figure.colorbar(points, label="period (pixels)")
shown = (0, 4, 8, 13)
bar.set_ticks(
    [PERIODS[p].log().item() for p in shown],
    labels=[f"{PERIODS[p]:g}" for p in shown],
)
ax.set(xlabel="mean response of conv1 to the stripes", ylabel="share read right")
plot.show(
    figure,
    "The more strongly the first filters respond to stripes, the more digits the "
    "stripes cost.",
    alt="Accuracy against mean response for 32 kinds of stripes, coloured by "
    "period: it falls as the response grows.",
)

# %% [markdown]
# The stronger the response, the fewer digits are read right. But a correlation is no proof: something else about stripes of this
# width might do the harm.

# %% tags=["nbval-check-output"]
rho = under["response"].corr(under["score"], method="spearman")
claim(
    "over 32 kinds of stripes, response and accuracy have a rank correlation below "
    "-0.5",
    rho < -0.5,
    measured=rho,
)

# %% [markdown]
# ### Make the network blind to one pattern
#
# So intervene. Take the direction and the period that do the most harm. Seen through a 7x7 window, such stripes are made of
# two patterns only, a cosine and a sine: two of the 49 dimensions of a filter. Remove them from all filters, and leave everything else as it
# is. Train nothing.


# %%
def blind(net, period, angle):
    """Return a copy whose first filters do not respond to these stripes."""
    window = stripes(period, angle, PHASES)[:, 0, 11:18, 11:18]  # around the middle
    basis, _ = torch.linalg.qr(window.flatten(1).T)  # [49,2], orthonormal
    copy = deepcopy(net)
    flat = copy.conv1.weight.detach().flatten(1)  # [16,49], shares the memory
    flat -= flat @ basis @ basis.T
    return copy


# %%
p, a = tried[under["score"].idxmin()]
period, angle, crossed = PERIODS[p], ANGLES[a], ANGLES[(a + 6) % 12]
nets = {
    "reader": reader,
    "blind to these stripes": blind(reader, period, angle),
    "blind to crossed stripes": blind(reader, period, crossed),
}
print(f"the worst stripes: {period:g} pixels at {angle / pi * 180:.0f} degrees")

# %% [markdown]
# The third network is the control: its filters lose two dimensions as well, those of the same stripes turned by a right angle.
#
# :::{admonition} Predict
# :class: predict
# Each of the three networks reads the digits without stripes and with the worst ones. Which of the six scores are high?
# :::

# %%
outcome = pd.DataFrame(
    {
        "no stripes": {k: share_right(n, test.images[:500]) for k, n in nets.items()},
        "worst stripes": {k: score_under(n, period, angle) for k, n in nets.items()},
    }
)
outcome.round(3)

# %% [markdown]
# The network that is blind to the stripes reads almost as well with them as without them. That the stripes no longer reach it follows from the
# construction, because a convolution is linear. That it can still read does not follow: the other 47 dimensions turn out to be enough. The control is not
# helped. So the harm went through these two dimensions of the 49, and not through just any two. The first column shows the price: without stripes, the network that is blind to them reads fewer
# digits than the reader, though it loses far less than it gains. Probably the filters use these dimensions for strokes: a stripe of that width looks like one.

# %% tags=["nbval-check-output"]
striped = outcome["worst stripes"]
gain = striped - striped["reader"]
claim(
    "a reader made blind to the worst stripes reads 15 points more digits under them",
    gain["blind to these stripes"] > 0.15,
    measured=gain["blind to these stripes"],
)
claim(
    "under the worst stripes blindness to the crossed ones brings less than a third "
    "of the 15 points or more that blindness to the worst ones brings",
    0.15 < gain["blind to these stripes"] > 3 * gain["blind to crossed stripes"],
    measured=gain.to_dict(),
)
price = (
    outcome["no stripes"]["reader"] - outcome["no stripes"]["blind to these stripes"]
)
claim(
    "blindness to the worst stripes costs less than half of the 15 points or more "
    "that it brings under them",
    0.15 < gain["blind to these stripes"] > 2 * price,
    measured=(price, gain["blind to these stripes"]),
)

# %% [markdown]
# ### Silence one filter at a time
#
# A hook can also change what a layer returns. Silence each filter in turn, and count what is lost.


# %%
def score_without(net, k):
    def silence(module, inputs, output):
        output = output.clone()
        output[:, k] = 0
        return output

    handle = net.relu1.register_forward_hook(silence)
    try:
        return share_right(net, test.images[:1000])
    finally:
        handle.remove()  # a forgotten hook would stay in the network for good


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Which kind of filter costs the most points when one of them is silent: edge, line or texture? How many points?
# :::

# %%
everything = share_right(reader, test.images[:1000])
trained["points lost"] = [
    100 * (everything - score_without(reader, k)) for k in range(16)
]
trained.groupby("kind")["points lost"].agg(["count", "mean", "max"]).round(2)

# %% [markdown]
# No single filter matters much. Whichever you silence, nearly all digits are still read: the work is spread over many filters. The means of the kinds differ by less than one point, and there are only two texture filters: do not read a ranking into them. A
# filter that is easy to describe is not for that reason an important one.

# %% tags=["nbval-check-output"]
most = trained["points lost"].max()
claim(
    "a reader of 95 % or more of the digits loses at most 6 points without any "
    "single first-layer filter",
    plain_score > 0.95 and most < 6,
    measured=(plain_score, most),
)

# %% [markdown]
# ## Experiment: does the network have to learn its filters?
#
# Training turned random filters into detectors of edges and lines. How much is that worth? One variable changes: which
# convolutions are *frozen* at their random start, while all other layers learn. To afford three seeds each, take 8 filters and
# 4,000 digits. Each network is tested on clean digits, on digits with fine and with middle stripes, and on digits with
# random noise in each pixel. `ablate` trains every setting with every seed.

# %%
from labs.ablation import ablate

exam = test.images[:3000]
chance = torch.Generator().manual_seed(0)
tests = {
    "clean": exam,
    "fine stripes": with_stripes(exam, 2.8),
    "middle stripes": with_stripes(exam, 6),
    "noise": exam + 0.3 * torch.randn(exam.shape, generator=chance),
}
LAYERS = {"nothing": [], "conv1": ["conv1"], "both": ["conv1", "conv2"]}


# %%
def train_and_score(frozen, change=None):
    net = DigitNet(filters=8)
    for name in LAYERS[frozen]:
        net.get_submodule(name).requires_grad_(False)
    if change is not None:
        change(net)
    train_net(net, n=4000, size=32, epochs=2)
    return {name: share_right(net, images) for name, images in tests.items()}


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# How many points on clean digits will it cost to freeze the first convolution at random numbers? And both? And how many on
# noisy digits?
# :::

# %%
study = ablate(
    train_and_score, base={"frozen": "nothing"}, vary="frozen", values=LAYERS
)
study.table("clean").round(4)

# %% [markdown]
# On clean digits, random filters are nearly as good as learned ones: the column `delta` is what freezing changes, against the first
# row. (`ci95` is the half-width of the 95 % interval of the mean; `p` says how likely a gap at least as large would be by chance; `failed` counts runs that
# broke off.) The other tests tell another story.

# %%
figure, ax = plot.new()
for shift, value, colour in [(-0.2, "nothing", 0), (0, "conv1", 2), (0.2, "both", 1)]:
    runs = study.frame().query("frozen == @value")
    for place, name in enumerate(tests):
        label = f"frozen: {value}" if place == 0 else None
        spots = [place + shift] * len(runs)
        ax.plot(spots, runs[name], "o", color=plot.COLOURS[colour], label=label)
ax.set_xticks(range(len(tests)), tests)
ax.set_ylabel("share read right")
ax.grid(axis="x", visible=False)
ax.legend()
plot.show(
    figure,
    "Frozen filters hardly matter on clean digits; under fine stripes and noise, "
    "networks with frozen filters read far fewer digits.",
    alt="Four groups of dots, three dots for each of three settings. On clean "
    "digits the settings are close; under fine stripes and noise frozen filters are "
    "far worse; under middle stripes there is no clear order.",
)

# %% [markdown]
# Each dot is one seed. Noise is mostly fine texture: random filters respond to it, and learned ones respond less. Under stripes
# of a middle width the learned filters show no advantage: there they respond too. So learning the filters hardly raised the accuracy on
# clean digits, but made the network ignore fine patterns that do not matter for digits. A clean test set cannot show that.

# %% tags=["nbval-check-output"]
mean = study.frame().groupby("frozen")[list(tests)].mean()
learned = mean.loc["nothing"] - mean.loc[["conv1", "both"]]
claim(
    "clean digits: with random first filters over 90 % are read, within 2 points of "
    "learnt ones",
    mean["clean"]["conv1"] > 0.9 and learned["clean"]["conv1"] < 0.02,
    measured=mean["clean"].to_dict(),
)
claim(
    "noisy digits: learning the first filters brings more than 5 points",
    learned["noise"]["conv1"] > 0.05,
    measured=learned["noise"]["conv1"],
)
claim(
    "noisy digits: learning both layers of filters brings more than 15 points",
    learned["noise"]["both"] > 0.15,
    measured=learned["noise"]["both"],
)
more = learned["fine stripes"]["both"] - learned["middle stripes"]["both"]
claim(
    "learning both layers of filters brings 8 points more under fine stripes than "
    "under middle ones",
    more > 0.08,
    measured=more,
)

# %% [markdown]
# ## Reproduce: random filters, if something rectifies them
#
# **The paper says.** {cite:t}`jarrett2009best` asked what makes a two-stage recogniser good. Two findings of theirs: with random filters
# and a trained classifier it reaches almost 63 % on Caltech-101, where the best trained one of theirs has a little over 65 %; and this holds only with the right
# non-linearity and pooling, of which rectification is the single most important ingredient.
#
# **We measure** both on digits. The first is the last row of the study above. For the second, take the ReLUs out, and let the
# pooling average instead of choosing the largest. What is left is linear from the first pixel to the last score.


# %%
def without_nonlinearity(net):
    net.relu1, net.relu2 = nn.Identity(), nn.Identity()
    net.pool1, net.pool2 = nn.AvgPool2d(2), nn.AvgPool2d(2)


linear = []
for seed in range(3):
    seed_everything(seed)
    linear.append(train_and_score("both", without_nonlinearity)["clean"])

# %%
runs = study.frame().groupby("frozen")["clean"]
columns = {
    "learned filters": runs.get_group("nothing").tolist(),
    "random filters": runs.get_group("both").tolist(),
    "random filters, linear": linear,
}
reached = pd.DataFrame(columns).agg(["mean", "std"]).T
reached.round(4)

# %% [markdown]
# The step from the second row to the third is larger than that from the first to the second.

# %% tags=["nbval-check-output"]
cost = reached["mean"]["learned filters"] - reached["mean"]
claim(
    "with random filters in both layers over 90 % of clean digits are read, less "
    "than 4 points below learnt ones",
    reached["mean"]["random filters"] > 0.9 and cost["random filters"] < 0.04,
    measured=reached["mean"].to_dict(),
)
claim(
    "with random filters, ReLU and max pooling are worth more on clean digits than "
    "learning the filters",
    cost["random filters, linear"] - cost["random filters"] > cost["random filters"],
    measured=(
        cost["random filters, linear"] - cost["random filters"],
        cost["random filters"],
    ),
)

# %% [markdown]
# **Why they differ.** The order is the paper's: what follows the filters matters more than the filters. The sizes differ. Digits are
# easier than 101 kinds of photographed objects, so all numbers are higher and the gaps smaller. Our rectification is a
# ReLU with max pooling, theirs an absolute value with local contrast normalisation and average pooling, and batch norms still learn
# a scale for each random filter here. {cite:t}`saxe2011random` say why random filters do so well: a convolution with pooling prefers
# stripes of some frequency *whatever* its weights are. You saw it: the untrained filters have preferred periods too.

# %% [markdown]
# ## Bug hunt: every digit right, and the loss stays high
#
# **Difficulty** 1 of 3 · **Importance** 3 of 3 · **Time** 20 min
#
# A user watched a validation loss stick at about one, while the answers were good
# ([ariecattan/SciCo#2](https://github.com/ariecattan/SciCo/issues/2)). The same mistake was met in
# [amdegroot/ssd.pytorch#218](https://github.com/amdegroot/ssd.pytorch/issues/218) and in
# [NaJaeMin92/pytorch-DANN#7](https://github.com/NaJaeMin92/pytorch-DANN/issues/7). Nothing crashes, nothing warns.
# Edit the network or the loss in this cell until the check below it passes.

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


def learn_by_heart(net, loss):
    adam = torch.optim.Adam(net.parameters(), lr=0.01)
    return fit(net, [sixteen] * 300, adam, loss=loss)


# %%
seed_everything(0)
suspect = Reader()
history = learn_by_heart(suspect, loss)
right = (predict(suspect, sixteen[0]).argmax(1) == sixteen[1]).sum().item()
print(f"{right} of 16 right, and the loss ends at {history.steps[-1]['loss']:.4f}")

# %% [markdown]
# All sixteen are right, and the loss is nowhere near zero. With scores 200 and 0, a sure and wrong answer should cost 200. What does the checker say?

# %%
from labs.hunts.foundations import check_digit_loss

check_digit_loss(Reader, loss)

# %% [markdown]
# The verdict lists what was probed, and what it saw. Go back to the cell with the bug, change it, and run both cells again.
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
# One operation is done twice: once in the network, once inside the loss. If you take it out of the network, the loss can stay as it is. If you keep
# it there, you need another loss function, and the result must stay finite for scores of 200.
# :::

# %% tags=["hunt-solution", "hide-cell"]
import torch
from torch import nn


class ScoreReader(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 7, stride=4, padding=3)
        self.fc = nn.Linear(8 * 7 * 7, classes)

    def forward(self, images):
        maps = torch.relu(self.conv(images))  # [N,8,7,7]
        return self.fc(maps.flatten(1))  # scores: the softmax is in cross_entropy


def score_loss(net, batch):
    images, labels = batch
    return nn.functional.cross_entropy(net(images), labels)


# %% tags=["nbval-check-output"]
verdict = check_digit_loss(ScoreReader, score_loss)
claim(
    "the repaired digit reader passes every probe of its loss",
    verdict.passed,
    measured=verdict,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Show the reader black digits on white, `1 - images`. You read them as easily as before; it does not. Repair it without any training,
# with one forward hook on `conv1`, so that it gives the *same* scores as for the original digits. (A convolution is linear.)
#
# :::{dropdown} Solution 1
# Write $b$ for the all-white picture. Then $w * (b - x) = w * b - w * x$, so $w * x = w * b - w * (b - x)$: subtract what the layer returns from
# its response to white. The sign is what made the reader fail: a ReLU passes the light side of a border and cuts the dark side off, so each edge filter
# responds to one polarity only.
# :::

# %% tags=["hide-cell"]
with torch.no_grad():
    response_to_white = reader.conv1(torch.ones(1, 1, 28, 28))
black_on_white = 1 - test.images[:500]
without_hook = share_right(reader, black_on_white)
handle = reader.conv1.register_forward_hook(
    lambda module, inputs, output: response_to_white - output
)
repaired = predict(reader, black_on_white)
handle.remove()
gap = (repaired - predict(reader, test.images[:500])).abs().max().item()
print(f"black on white: {without_hook:.1%} right without the hook")
print(f"with the hook, no score differs from the original by more than {gap:.0e}")

# %% [markdown]
# **Exercise 2.** Which of all pictures of length one gives a *random* filter the largest response, in the sum of squares over its map?
# Find it by power iteration: apply the filter, apply it backwards (`conv_transpose2d`), divide by the length, repeat. Look at it.
#
# :::{dropdown} Solution 2
# Regular stripes whatever the weights are, or checks where the strongest frequency lies on a diagonal, fading towards the border. This is the result of
# {cite:t}`saxe2011random` in one picture: the best input of a convolution with pooling has the frequency at which the Fourier transform of the filter is largest.
# :::

# %% tags=["hide-cell"]
seed_everything(0)
w = DigitNet().conv1.weight.detach()[:3]  # [3,1,7,7]
best = torch.randn(1, 3, 28, 28)
for _ in range(300):
    forwards = nn.functional.conv2d(best, w, padding=3, groups=3)
    best = nn.functional.conv_transpose2d(forwards, w, padding=3, groups=3)
    best = best / best.norm(dim=(2, 3), keepdim=True)
figure, axes = plot.new(height=2.7, columns=3)
for k, ax in enumerate(axes):
    top = best[0, k].abs().max().item()
    plot.images(ax, best[:, k], limits=(-top, top), cmap="RdBu_r")
plot.show(
    figure,
    "The picture that a random filter responds to most is a regular pattern.",
    alt="Three pictures of 28 by 28 pixels, each with a regular pattern of stripes "
    "or checks that fades towards the border.",
)

# %% [markdown]
# **Exercise 3.** (After the hunt.) The loss of the planted network stopped at one number. Derive it for $C$ classes. Then let the network that
# has learnt the sixteen digits see wrong labels for all of them, once with the bug and once repaired. How large are the two gradients?
#
# :::{dropdown} Solution 3
# The softmax gives at best a one and zeros. `cross_entropy` takes these for scores, and applies a softmax again. So the loss can never fall below
#
# $$-\log\frac{e^1}{e^1 + (C-1)\,e^0} = \log\Bigl(1 + \frac{C-1}{e}\Bigr).$$
#
# The harm is in the gradient. With one softmax, a sure mistake sends back a strong gradient. With two it sends back next to nothing, because the inner
# softmax is flat where the network is sure. A network trained this way can hardly correct a sure mistake.
# :::

# %% tags=["hide-cell"]
from math import e, log

from labs.hooks import gradient_health

seed_everything(0)
scores_of = ScoreReader()
twice, once = nn.Sequential(scores_of, nn.Softmax(1)), nn.Sequential(scores_of)
plateau = learn_by_heart(twice, score_loss).steps[-1]["loss"]
floor = log(1 + 9 / e)
corrected = (sixteen[0], (sixteen[1] + 1) % 10)
norms = {}
for name, net in {"softmax twice": twice, "softmax once": once}.items():
    net.zero_grad()
    score_loss(net, corrected).backward()
    table = gradient_health(scores_of).table().set_index("parameter")
    norms[name] = table["grad_norm"]
print(f"the loss ends at {plateau:.4f}, its floor is {floor:.4f}")
pd.DataFrame(norms).map("{:.1e}".format)

# %% tags=["nbval-check-output", "hide-cell"]
claim(
    "a digit reader with softmax twice ends within 0.01 of its floor, log(1 + 9 / e)",
    abs(plateau - floor) < 0.01,
    measured=plateau - floor,
)
ratio = norms["softmax twice"]["fc.weight"] / norms["softmax once"]["fc.weight"]
claim(
    "softmax twice: a sure mistake sends back less than a twentieth of the gradient",
    ratio < 0.05,
    measured=ratio,
)

# %% [markdown]
# **Exercise 4.** (After the hunt.) Some repositories have `log_softmax` in the network and `cross_entropy` as the loss. Does the checker accept it? Should it?
#
# :::{dropdown} Solution 4
# It accepts it, and it should: $\operatorname{softmax}(\log p) = p$, since the exponential undoes the logarithm and $p$ already sums to one. Applied twice,
# `log_softmax` gives the same as once. It is a waste and a trap for the next reader, but not a bug.
# :::


# %% tags=["hide-cell"]
class WithLogSoftmax(ScoreReader):
    def forward(self, images):
        return super().forward(images).log_softmax(1)


check_digit_loss(WithLogSoftmax, score_loss)

# %% [markdown]
# ## In practice
#
# - A hook that is not removed stays in the model, and in every copy that you make of it. Use `capture`, which takes its hooks away also when the
#   model raises; with bare `register_forward_hook`, use `try ... finally`.
# - A hook sees a module, not a function: `torch.relu(x)` in `forward` cannot be captured, `nn.ReLU` can. In your own networks, make
#   modules of what you will want to look at, and use each one once.
# - The strongest response or the clearest map proves nothing. Predict an accuracy from it, then intervene and measure.
# - A test with stripes describes the first convolution of any network completely, because it is linear and the same at every place. Deeper layers are not linear; there, use attribution
#   (`labs.hooks.grad_cam`), or the methods of Captum.
# - Train with logits: `nn.CrossEntropyLoss` and `nn.BCEWithLogitsLoss` take scores. Apply the softmax only when you show probabilities to someone.
# - Before any long training, learn one small batch by heart. A loss that will not go to zero there is a bug.

# %% [markdown]
# ## You can now
#
# - capture what any layer of a network returns, and tell edge, line and texture filters apart by the stripes they respond to;
# - test a claim about a network with an intervention and a control, where a correlation is not enough;
# - recognise a loss that is stuck at a floor, compute the floor, and find its cause.
