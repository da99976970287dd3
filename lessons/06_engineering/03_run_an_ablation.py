# %% [markdown]
# # Run an ablation
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** tell an effect from luck with seeds and Welch's test · write the table of a paper, one removed part per row,
# so that its last column is true · prove with hooks that a switch removes one thing, and only that · say how many runs a question costs, and
# report a score that holds on new data.
#
# **You need** mean and standard deviation, a training loop, and the lesson
# [Feel the residual](../01_foundations/07_feel_the_residual) for the network that is taken apart here.
#
# **Time** read 30 min · debug 20 min · experiment 60 min · reproduce 20 min · hunt 20 min · exercises 30 min
# :::

# %% [markdown]
# ## The symptom
#
# A colleague has an idea. Their small network has a linear layer without a bias, followed by batch normalisation. "The poor layer has no bias! Give it
# one." The task: tell apart clothes of ten kinds, in pictures of 14 by 14 pixels.

# %%
from dataclasses import replace

from torch.nn.functional import avg_pool2d

from labs.data import clothes


def smaller(data):
    return replace(data, images=avg_pool2d(data.images, 2))  # [N,1,14,14]


everything, test = smaller(clothes("train")), smaller(clothes("test"))
train, valid = everything.take(slice(4000)), everything.take(slice(4000, 6000))
train, valid, test

# %% [markdown]
# The first 4,000 pictures train, the next 2,000 are for validation, and 2,000 for the test. The other 4,000 are put aside for later.

# %%
import torch
from torch import nn

from labs.evaluate import accuracy
from labs.repro import budget, device
from labs.train import fit


def batches(steps, size=32, data=train):
    for _ in range(steps):
        rows = torch.randint(len(data), (size,))
        yield data.images[rows], data.labels[rows]


# %%
def small_net(bias=True):
    first, last = nn.Linear(196, 32, bias=bias), nn.Linear(32, 10)
    layers = nn.Flatten(), first, nn.BatchNorm1d(32), nn.ReLU(), last
    return nn.Sequential(*layers).to(device())


def train_small(bias):
    """Train the small network; return its accuracy on validation, in percent."""
    net = small_net(bias)
    fit(net, batches(100), torch.optim.Adam(net.parameters(), lr=0.01))
    return 100 * accuracy(net, valid)


# %% tags=["hide-cell"]
from labs.ablation import ablate

SEEDS = range(16)
bias_study = ablate(train_small, {"bias": False}, "bias", [False, True], SEEDS)
by_seed = bias_study.frame().pivot_table(index="seed", columns="bias", values="score")
gain = by_seed[True] - by_seed[False]
submitted = by_seed.loc[gain.idxmax()].rename(
    {False: "without bias", True: "with bias (ours)"}
)

# %% [markdown]
# The colleague sends you this table. Each row is one complete training, with the same seed, the same data and the same number of steps.

# %%
submitted.rename("accuracy (%)").to_frame().round(1)

# %% [markdown]
# A clear gain, from one line of code. Do you merge it?
#
# Now unfold the cell above the table. The two networks were trained with sixteen seeds, and this is the seed at which "ours" looks best. Nobody
# has to be dishonest for that: you try, it does not work, you change something, you try again, it works, you stop. Here are all sixteen.

# %%
from labs import plot

figure, ax = plot.new(height=2.8)
ax.bar(gain.index, gain, color=[plot.COLOURS[0 if g > 0 else 1] for g in gain])
ax.axhline(gain.mean(), color="0.4", linestyle="--", label="mean of all seeds")
ax.set(xlabel="seed", ylabel="with bias - without (points)")
ax.legend()
plot.show(
    figure,
    "The same change helps with one seed and harms with another; the mean over all "
    "seeds is far below the best of them.",
    alt="Bars of the gain in accuracy by seed: some well above zero, some well "
    "below; their mean is near zero.",
)

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "a bias before batch norm: over half a point better by one seed, worse by "
    "another",
    gain.max() > 0.5 and gain.min() < -0.5,
    measured=gain.round(2).to_dict(),
)
claim(
    "a bias before batch norm: its mean gain is less than half of what its best "
    "seed says",
    abs(gain.mean()) < gain.max() / 2,
    measured=(gain.mean(), gain.max()),
)

# %% [markdown]
# The mean is not zero either, and is it more than luck? You will ask that below. In fact the bias *cannot* do anything: batch normalisation
# subtracts the mean of its input, and with it every constant that was added. You will see this in the gradients. What looked like an improvement is the difference between two draws of the same lottery.

# %% [markdown]
# ## The idea
#
# A training run is a draw: the seed decides the initial weights and the order of the pictures, and the score comes out as
#
# $$\text{score} = \mu_\text{method} + \text{luck}.$$
#
# You want to know whether $\mu$ differs. The means of two arms differ by luck too, and **Welch's t** measures the difference in units of that luck:
#
# $$t = \frac{\bar a - \bar b}{\sqrt{s_a^2 / n_a + s_b^2 / n_b}}.$$
#
# {cite:t}`welch1947student` gave the distribution of $t$ when the two arms need not spread equally. From it comes **p**: the probability that luck alone, between two
# arms that do not differ, gives a $t$ at least as far from zero. A small p speaks against luck. Compute it once by hand, on five real scores of
# each arm. They are from a project for lane detection: the F1 score before and after somebody repaired a real bug in how lanes are assigned
# ([hirotomusiker/CLRerNet PR#78](https://github.com/hirotomusiker/CLRerNet/pull/78)).

# %%
import numpy as np
import pandas as pd

before = 100 * np.array([0.8093, 0.8085, 0.8116, 0.8120, 0.8106])
after = 100 * np.array([0.8098, 0.8087, 0.8115, 0.8108, 0.8123])
arms = {"before": before, "after": after}
pd.DataFrame(
    {k: {"mean": a.mean(), "std": a.std(ddof=1)} for k, a in arms.items()}
).T.round(2)

# %%
figure, ax = plot.new(height=1.9)
for y, (name, scores) in enumerate(arms.items()):
    ax.plot(scores, [y] * 5, "o", color=plot.COLOURS[2 + y], alpha=0.8)
    ax.plot([scores.mean()] * 2, [y - 0.25, y + 0.25], color="black", linewidth=2)
ax.set(xlabel="F1 score (%)", ylim=(1.6, -0.6), yticks=[0, 1], yticklabels=list(arms))
plot.show(
    figure,
    "The five scores before and after the fix lie in the same range, and the means "
    "almost on one line.",
    alt="Two rows of five dots, before and after, over the same range. A black bar "
    "marks the mean of each row.",
)

# %% [markdown]
# The bug is gone, and the score does not move. With $s^2 / n$ of about $0.14^2 / 5 \approx 0.004$ in each arm, the root is about 0.09, and the means differ by a fifth
# of it. Now suppose that the author had trained once before and once after. What would each of the 25 pairs have said?

# %%
pairs = after[None, :] - before[:, None]  # [before, after]
print(f"the fix gains in {(pairs > 0).sum()} pairs, up to {pairs.max():.2f} points")
print(f"and loses in {(pairs < 0).sum()}, up to {-pairs.min():.2f} points")

# %% [markdown]
# About half of the pairs say that the fix helps, up to more than a third of a point, and the others say that it harms. The author ran five seeds, and wrote that nothing
# changed. The fix is right all the same: **a bug is repaired because it is a bug, not because the score rises.**

# %% tags=["nbval-check-output"]
from scipy import stats

t_by_hand = (after.mean() - before.mean()) / np.sqrt(
    before.var(ddof=1) / 5 + after.var(ddof=1) / 5
)
welch = stats.ttest_ind(after, before, equal_var=False)
claim(
    "Welch's t computed by hand equals scipy's to 1e-9",
    abs(t_by_hand - welch.statistic) < 1e-9,
    measured=(t_by_hand, welch.statistic),
)
claim(
    "five scores before and after CLRerNet's fix: p of Welch's test is over 0.7",
    welch.pvalue > 0.7,
    measured=welch.pvalue,
)

# %% [markdown]
# (The pull request says ±0.13 and ±0.12: it divided by n. Divide by n - 1 when you *estimate* a spread from few runs, or you
# believe that you are more certain than you are.)

# %% [markdown]
# ## The block
#
# An ablation is two loops and a rule: **one** setting changes, the seeds repeat, everything else stays. The rule is in the signature: `vary`
# is one name. The seed is set before the function is called, so that the weights are drawn from it too.

# %%
from labs.repro import random_state_kept, seed_everything


def ablate_by_hand(fn, base, vary, values, seeds):
    rows = []
    for value in values:
        for seed in seeds:
            with random_state_kept():
                seed_everything(seed)
                score = fn(**{**base, vary: value})
            rows.append({vary: value, "seed": seed, "score": score})
    return pd.DataFrame(rows)


# %%
def welch_test(a, b):
    """Return the difference of the means, t, its freedom and p, two-sided."""
    # Squared standard error of each mean.
    ea, eb = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    delta = np.mean(a) - np.mean(b)
    t = delta / np.sqrt(ea + eb)
    freedom = (ea + eb) ** 2 / (ea**2 / (len(a) - 1) + eb**2 / (len(b) - 1))
    p = 2 * stats.t.sf(abs(t), freedom)
    return {"delta": delta, "t": t, "freedom": freedom, "p": p}


# %%
by_hand = ablate_by_hand(
    train_small, {"bias": False}, "bias", [False, True], range(3)
)
scores = {bias: runs["score"].to_numpy() for bias, runs in by_hand.groupby("bias")}
pd.Series(welch_test(scores[True], scores[False])).round(3)

# %% [markdown]
# Six runs, three in each arm: far too few to tell anything, as p says. Hold both functions against the library, and the library against scipy.

# %%
from labs.ablation import ablate

question = {"base": {"bias": False}, "vary": "bias", "values": [False, True]}
study = ablate(train_small, **question, seeds=range(3))
study.table().round(3)

# %% [markdown]
# `ci95` is half the width of the 95 % interval of a mean, `delta` the difference from the first row, and `failed` counts the runs that gave no score. `delta` and p
# are those that you computed.

# %% tags=["nbval-check-output"]
ours = welch_test(after, before)
theirs = stats.ttest_ind(after, before, equal_var=False)
claim(
    "an ablation in a dozen lines gives every score that labs.ablation gives",
    study.frame().equals(by_hand),
    measured=(study.frame().to_dict(), by_hand.to_dict()),
)
p_values = study.table()["p"][True], welch_test(scores[True], scores[False])["p"]
claim(
    "the p written by hand is the p of labs.ablation to 1e-9",
    abs(p_values[0] - p_values[1]) < 1e-9,
    measured=p_values,
)
claim(
    "p and degrees of freedom of Welch's test written by hand are scipy's to 1e-9",
    max(abs(ours["p"] - theirs.pvalue), abs(ours["freedom"] - theirs.df)) < 1e-9,
    measured=(ours, theirs.pvalue, theirs.df),
)

# %% [markdown]
# And the colleague's sixteen seeds, asked the same way?

# %%
print("with bias =", bias_study.verdict())

# %% [markdown]
# Not even sixteen seeds find a difference, and there is none to be found.
#
# Real studies run for days. The library adds what days need. **They are killed.** With `store`, each finished run is on disk before the next
# one starts. Pull the plug in the fourth run, and make the same call again:

# %%
from tempfile import TemporaryDirectory

started = []


def train_until_power_cut(bias):
    started.append(bias)
    if len(started) == 4:
        raise KeyboardInterrupt  # as Ctrl-C does; a `kill -9` leaves the same file
    return train_small(bias)


# %%
with TemporaryDirectory() as folder:
    killed = ablate(train_until_power_cut, **question, store=folder)
    resumed = ablate(train_until_power_cut, **question, store=folder)
killed, resumed, len(started)

# %% [markdown]
# Three runs were finished when the power went. The second call starts with the one that was cut off; it makes three runs, not six.

# %% tags=["nbval-check-output"]
claim(
    "a study that was killed says that runs are missing",
    "interrupted" in killed.warning,
    measured=killed.warning,
)
claim(
    "a killed study of six runs goes on with the one that was cut, and repeats no "
    "other",
    len(started) == 7,
    measured=len(started),
)
claim(
    "a study killed and resumed has the scores of one that nobody killed",
    resumed.frame().equals(study.frame()),
    measured=(resumed.frame().to_dict(), study.frame().to_dict()),
)

# %% [markdown]
# **They are slow.** `executor=processes(2)` makes two runs at a time. A new process imports the function from its file, so a function
# of this notebook is refused before any run starts. In your project it is in a file; here a function of torchvision, which draws an angle, stands for it.

# %%
from torchvision.transforms import RandomRotation

from labs.ablation import processes

draw = RandomRotation.get_params, {"degrees": (0, 9)}, "degrees", [(0, 9), (0, 90)]
with processes(2) as pool:
    there = ablate(*draw, executor=pool)
here = ablate(*draw)
there.frame().equals(here.frame())

# %% [markdown]
# Two processes give what one gives, to the last digit: each run sets its own seed.

# %% tags=["nbval-check-output"]
claim(
    "an ablation in two processes gives the numbers of one",
    there.frame().equals(here.frame()),
    measured=(there.frame().to_dict(), here.frame().to_dict()),
)

# %% [markdown]
# ## Debug: was it removed, and nothing else?
#
# Statistics cannot tell you whether the experiment was the one that you meant. First the bias. If it could do anything, it would get a
# gradient.

# %%
from labs.hooks import gradient_health

seed_everything(0)
net = small_net(bias=True)
nn.functional.cross_entropy(net(train.images[:256]), train.labels[:256]).backward()
health = gradient_health(net)
seen = health.table()[["parameter", "grad_norm", "verdict"]]
seen.assign(grad_norm=seen["grad_norm"].map("{:.1e}".format))

# %% [markdown]
# `1.bias` is the colleague's. Its gradient is rounding error, many orders of magnitude below that of its neighbours. The bias stays where its initial draw put it, and batch norm
# subtracts it. (Its draws shift all later random numbers, so the two networks of "the same seed" started from other
# weights and saw other batches. That is all it did.)

# %% tags=["nbval-check-output"]
norms = health.table().set_index("parameter")["grad_norm"]
claim(
    "a bias before batch norm has a gradient 10,000 times below that of its weights",
    norms["1.bias"] < norms["1.weight"] / 1e4,
    measured=(norms["1.bias"], norms["1.weight"]),
)

# %% [markdown]
# Now a larger network, a residual network of 14 layers, and a question for the rest of this lesson: what do its parts contribute? Here is one of its blocks.

# %%
from labs import diagram
from labs.models import resnet_cifar

seed_everything(0)
block = resnet_cifar(14, 8, in_channels=1).layer1[0]
LAYERS = ["input", "conv1", "bn1", "conv2", "bn2", "output"]
wiring = diagram.trace(block, torch.rand(1, 8, 14, 14), LAYERS)
groups = {"convolution": ["conv1", "conv2"], "batch norm": ["bn1", "bn2"]}
shortcut = [("input", "output")]
plot.show(
    diagram.draw(wiring, [LAYERS[:3], LAYERS[:2:-1]], groups, shortcut),
    "A block has three things to remove: convolutions, batch norms, and the "
    "shortcut from its input to its output.",
    alt="A chain from the input through conv1, bn1, conv2 and bn2 to the output, "
    "and in another colour an arrow from the input straight to the output.",
)

# %% [markdown]
# To ask what batch normalisation contributes, somebody writes a switch that
# removes it. Here are three.


# %%
class Affine(nn.Module):
    """Scale and shift each channel, as batch norm does, without normalising."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return x * self.weight[:, None, None] + self.bias[:, None, None]  # [N,C,H,W]


Affine(8)(torch.rand(2, 8, 7, 7)).shape


# %%
def loop_over_modules(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module = nn.Identity()


# %%
def replace_norms(net, make):
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, make(child.num_features))


# %%
SWITCHES = {
    "none": lambda net: None,
    "A: assign in a loop": loop_over_modules,
    "B: Identity": lambda net: replace_norms(net, lambda channels: nn.Identity()),
    "C: Affine": lambda net: replace_norms(net, Affine),
}

# %% [markdown]
# `evidence` looks with `capture`: a normalised channel has a standard deviation of one over the batch. And it counts the parameters.

# %%
from labs.hooks import capture


def evidence(switch):
    seed_everything(0)
    net = resnet_cifar(14, 8, in_channels=1)
    switch(net)
    with capture(net, "*bn*") as maps:
        net(train.images[:128])
    # One number for each channel.
    spread = torch.cat([maps[name].std((0, 2, 3)) for name in maps])
    return {
        "channels with std 1": f"{((spread - 1).abs() < 0.01).float().mean():.0%}",
        "parameters": sum(p.numel() for p in net.parameters()),
    }


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# All three run without an error, and train. Which of them removes the normalisation? Which of them removes the normalisation, *and
# nothing else*?
# :::

# %%
found = pd.DataFrame({name: evidence(switch) for name, switch in SWITCHES.items()}).T
found

# %% [markdown]
# **A** removed nothing: it gave a new meaning to the name `module`, and the network never knew. **B** removed the normalisation, and with it two numbers per channel: the learned
# scale and shift. The convolutions of this network have no bias of their own, since batch norm brings one. So B takes away two things at once. **C** keeps what is to
# be trained, and takes away the normalisation alone. This is the switch for the experiment.

# %% tags=["nbval-check-output"]
claim(
    "assigning Identity to a loop variable leaves every channel normalised",
    found.loc["A: assign in a loop"].equals(found.loc["none"]),
    measured=found.to_dict(),
)
gone = found.loc[["B: Identity", "C: Affine"], "channels with std 1"]
claim(
    "replacing batch norm in its parent removes the normalisation, by Identity or "
    "Affine",
    (gone != "100%").all(),
    measured=gone.to_dict(),
)
lost = found["parameters"]["none"] - found["parameters"]
claim(
    "Identity in place of batch norm removes parameters as well, Affine removes none",
    lost["B: Identity"] > lost["C: Affine"] == 0,
    measured=lost.to_dict(),
)

# %% [markdown]
# Would the scores have shown that A does nothing? Put a switch of its kind into the small network. The verdict will not tell; look at the scores seed by seed.


# %%
def train_switched(norm):
    net = small_net()
    for layer in net:
        if not norm and isinstance(layer, nn.BatchNorm1d):
            layer = nn.Identity()
    fit(net, batches(60), torch.optim.Adam(net.parameters(), lr=0.01))
    return 100 * accuracy(net, valid)


idle = ablate(train_switched, base={"norm": True}, vary="norm", values=[True, False])
print("verdict:", idle.verdict())
same = idle.frame().pivot_table(index="seed", columns="norm", values="score")
same.round(2)

# %% [markdown]
# The same score at every seed, to the last digit, is the mark of an experiment that did not happen. A real change, however useless, moves
# something: the useless bias above moved single scores by points. In a paper such a row reads "robust to the removal of batch norm".

# %% tags=["nbval-check-output"]
claim(
    "a switch that does nothing gives the same score at every seed, a useless bias "
    "does not",
    same[True].equals(same[False]) and (gain != 0).any(),
    measured=(same.to_dict(), gain.to_dict()),
)

# %% [markdown]
# ## Experiment: remove one part at a time
#
# The question of a paper: our network has convolutions (A), batch norm (B) and shortcuts (C), and is trained with mirrored pictures. What does
# each part contribute? One row per removed part, one column per metric. The second metric looks at what is hard: the four kinds of tops, which even people confuse.

# %%
from labs.evaluate import predict

STEPS, WIDTH, REPEATS = 60, 8, budget(cpu=4, gpu=8)
tops = "T-shirt/top", "pullover", "coat", "shirt"
TOPS = torch.tensor([train.classes.index(name) for name in tops])


def mirrored(some):
    for images, labels in some:
        turn = torch.rand(len(images), 1, 1, 1) < 0.5
        yield torch.where(turn, images.flip(3), images), labels


# %%
def train_and_score(removed):
    net = resnet_cifar(14, WIDTH, shortcut="shortcut" not in removed, in_channels=1)
    if "batch norm" in removed:
        replace_norms(net, Affine)
    some = batches(STEPS) if removed == "mirroring" else mirrored(batches(STEPS))
    adam = torch.optim.AdamW(net.to(device()).parameters(), lr=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=0.01, total_steps=STEPS)
    history = fit(net, some, adam, scheduler=cycle)
    hits = (predict(net, valid.images).argmax(1) == valid.labels).float()
    return {
        "accuracy": 100 * hits.mean().item(),
        "on tops": 100 * hits[torch.isin(valid.labels, TOPS)].mean().item(),
        "training loss": history.table()["loss"].tail(15).mean(),
    }


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Order the rows by what they cost: mirroring, the shortcuts, batch norm, both of the latter. For which will four seeds not suffice?
# :::


# %%
def as_paper(study):
    lines = [
        line.strip("| ").split(" | ") for line in study.to_markdown().splitlines()
    ]
    return pd.DataFrame(lines[2:], columns=lines[0]).set_index(study.vary)


parts = ["nothing", "mirroring", "shortcut", "batch norm", "shortcut and batch norm"]
study = ablate(
    train_and_score, {"removed": "nothing"}, "removed", parts, seeds=range(REPEATS)
)
pd.set_option("display.max_colwidth", None)  # whole conclusions
as_paper(study)

# %%
figure, ax = plot.new(height=3)
study.plot(ax, "accuracy")
ax.set_xticks(range(len(parts)), [part.replace(" and ", "\nand ") for part in parts])
ax.set_ylabel("validation accuracy (%)")
plot.show(
    figure,
    "Without batch norm the accuracy is far lower; without mirroring the runs lie "
    "among those of the whole network.",
    alt="Accuracy by removed part, one dot per seed: mirroring like the reference, "
    "shortcut lower and scattered, batch norm lower still, both lowest.",
)

# %% [markdown]
# (`to_markdown()` writes the table for a README; here it is laid out by pandas.) An arrow means that the difference counts: p, times the number of rows compared, is below 0.05.
# A cell without one says *we do not know*; it does not say *no effect*. Look at the shortcut, on tops: the mean is far lower, and still there is no arrow, because single runs
# scatter as far.
#
# Read the last row as a paper does: "without both, the score collapses, so both contribute". It does not follow. A row that changes **two** things
# tells you what the pair is worth, and nothing about either; the whole drop could belong to one of them. Only the rows with one change can tell.

# %% tags=["nbval-check-output"]
change = study.table("accuracy")["delta"]
claim(
    "without batch norm, alone or with the shortcuts, accuracy falls by over 15 "
    "points "
    "on average",
    max(change[part] for part in parts[3:]) < -15,
    measured=change.to_dict(),
)
intact = study.table("accuracy")["mean"]["nothing"]
claim(
    "the network with all its parts is right on at least 60 % of unseen clothes",
    intact > 60,
    measured=intact,
)

# %% [markdown]
# ### On a detector
#
# The same table for a detector, where one number is not enough: AP50 asks whether an object is found, AP75 whether its box is tight, and APs is
# the AP of small objects alone. The parts are three of a small YOLOv8: the *fine map* of stride 8, the *distribution loss* on the sides of a box,
# and the moving *average* of the weights. Each arm needs minutes of training, so this is a recorded study: it was run once, and every seed was
# kept. This is the code of one run, from its first setting on.

# %%
import inspect

from labs.studies.detection.parts import EXPERIMENT, SMALL, train_without

print("    strides =" + inspect.getsource(train_without).partition("strides =")[2])

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Which part matters most for small objects? Which one for tight boxes? Is there one that matters for neither?
# :::

# %%
from labs.studies import read_record

detector = read_record("parts")
print(f"{detector.label}; small: at most {SMALL:.0f} pixels")
METRICS = ["AP50", "AP75", "AP", "APs"]
as_paper(detector.study)[METRICS]

# %% [markdown]
# Read it row by row. Without the fine map AP, AP75 and APs fall, and small objects are hardly found at all. AP50 has no arrow, although its mean is far lower: its
# three runs scatter too widely. The other two rows have no arrow anywhere. Before you believe the first row, ask the two questions of this lesson. Was the map removed, and nothing else? And how many
# questions does the table ask?

# %%
from labs.models import YOLOv8


def weights(strides):
    network = YOLOv8(10, strides=strides, image_size=128)
    parts = network.named_children()
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts}


counts = {"with the fine map": weights((8, 16)), "without": weights((16,))}
pd.DataFrame(counts).map("{:,}".format)

# %%
p_of_map = pd.Series({m: detector.study.table(m)["p"]["fine map"] for m in METRICS})
pd.DataFrame({f"p times {times}": times * p_of_map for times in (3, 12)}).round(3)

# %% [markdown]
# With the fine map goes the whole neck, since there is no second map to exchange anything with, and the head gets other widths. So the row says what map and neck are worth *together*. And the arrows correct for
# the three rows of each column: p times 3. Over all twelve cells of the table, with p times 12, only the fall of APs stays below 0.05.
#
# Now the two rows without an arrow. A difference that a study finds with a probability of 80 % depends on how far the runs scatter, and the runs without the fine map scatter most. So leave that row out, and ask again.


# %%
def table_of(study, *parts):
    runs = tuple(run for run in study.runs if run.value in parts)
    return replace(study, values=parts, runs=runs)


calm = table_of(detector.study, "nothing", "distribution loss", "average")
for metric in METRICS:
    bars = [f"{one.detectable(metric):.3f}" for one in (detector.study, calm)]
    print(f"{metric}: would find {bars[0]} with all rows, {bars[1]} with these")
    print(calm.verdict(metric))

# %% [markdown]
# For AP the second number is a few hundredths. An effect of that size would probably have been found; a smaller one is left open. For the average the record knows more, because its training is that of the whole detector: only what is
# scored differs, the last weights or their average. So the two share their luck, and can be compared seed by seed, at the end and on the way there.

# %%
runs = detector.curves().set_index(["part", "seed", "step"])
whole, bare = runs.loc["nothing"], runs.loc["average"]
print("the same losses:", whole["loss"].equals(bare["loss"]))
gains = (whole["AP"] - bare["AP"]).dropna().unstack().rename(columns=int)
gains.rename_axis(columns="gain in AP by step").round(3) + 0.0  # no -0.0

# %%
figure, (left, right) = plot.new(height=3.4, columns=2)
points = detector.curves().dropna(subset=["AP"])
for part, group in points.groupby("part", sort=False):
    for ax, metric in [(left, "AP"), (right, "APs")]:
        along = group.groupby("step")[metric]
        (line,) = ax.plot(along.mean(), "o-", label=part)
        ax.fill_between(
            along.mean().index,
            along.min(),
            along.max(),
            color=line.get_color(),
            alpha=0.2,
        )
left.set(xlabel="step", ylabel="AP", ylim=(0, None), title="all objects")
right.set(xlabel="step", ylabel="APs", ylim=(0, None), title="small objects")
left.legend(title="without")
plot.show(
    figure,
    "Without the fine map AP stays low, for small objects near zero; without the "
    f"average AP is lower on the way and equal at the end ({detector.label}).",
    alt="AP and AP of small objects by step, mean and range of the seeds, for the "
    "whole detector and without one part at a time.",
)

# %% [markdown]
# Early the average is worth several hundredths of AP, for every seed. At the end it is worth nothing: the cycle has brought the learning rate close to zero, the weights hardly move any more, and the average of weights that stand still is
# those weights. "The average contributes nothing" is true of this recipe, at its last step. An ablation tells you what a part adds *to the rest of the recipe*, and when. Look at the curves too: those of the fine map are far from flat when the
# training ends, so its row is about a training of this length.
#
# You do not have to believe the record: the first points of one run are made again here, and must be equal.

# %%
from labs.studies import replay

again = replay(EXPERIMENT, detector, "fine map", seed=0)
again.table().round(3)

# %% tags=["nbval-check-output"]
claim(
    "the first steps of a recorded run of the small YOLOv8, made again, agree with "
    "the record",
    again.agrees,
    measured=again,
)
claim(
    "recorded: without fine map and neck a small YOLOv8 has lower APs, told apart "
    "among 12 cells",
    detector.study.verdict("APs").startswith("fine map: lower")
    and 12 * p_of_map["APs"] < 0.05,
    measured=(detector.study.verdict("APs"), p_of_map["APs"]),
)
aps = detector.study.table("APs")["mean"]
claim(
    "recorded: without fine map and neck a small YOLOv8 keeps under a tenth of its "
    "small objects' AP",
    aps["fine map"] < 0.1 * aps["nothing"],
    measured=aps.to_dict(),
)

# %% tags=["nbval-check-output"]
verdicts = {metric: calm.verdict(metric).splitlines()[0] for metric in METRICS}
claim(
    "recorded: no metric tells the distribution loss from luck; 0.04 of AP would "
    "have been found",
    all("not told apart" in line for line in verdicts.values())
    and calm.detectable("AP") < 0.04,
    measured=(verdicts, calm.detectable("AP")),
)
claim(
    "recorded: averaged weights gain over 0.03 of AP halfway, under 0.01 after the "
    "cycle, by every seed",
    gains[500].min() > 0.03 and gains[1000].abs().max() < 0.01,
    measured=gains.to_dict(),
)

# %% [markdown]
# So the conclusions of this table would read: map and neck find the small objects; the average helps on the way, and its place is taken by the cycle at the end; the distribution loss could not be shown to help with these seeds. "Our module
# improves small objects" in a paper is a sentence of the same kind, and deserves the same questions.

# %% [markdown]
# ### How many seeds does a question cost?
#
# Take the luck as you measured it: the standard deviation of the small network over sixteen seeds. Invent two methods that truly differ by $d$, draw $n$ seeds for each, and
# count how often Welch's test sees it ($p < 0.05$). This share is the **power**.

# %%
luck = np.sqrt(by_seed.var().mean())


def power(n, difference, trials=2000):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (trials, n)), rng.normal(difference, 1, (trials, n))
    return (stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue < 0.05).mean()


counts, sizes = [2, 3, 5, 10, 20, 40, 80], [0.5, 1.0, 2.0, 4.0]
powers = pd.DataFrame(
    {d: [power(n, d / luck) for n in counts] for d in sizes}, index=counts
)

# %%
figure, ax = plot.new(height=3)
for size in sizes:
    ax.semilogx(counts, 100 * powers[size], "o-", label=f"{size:g}")
ax.axhline(80, color="0.4", linestyle=":")
ax.set_xticks(counts, counts)
ax.minorticks_off()
ax.legend(
    title="true difference\n(points)", loc="center left", bbox_to_anchor=(1, 0.5)
)
ax.set(xlabel="seeds per arm", ylabel="seen (% of studies)")
plot.show(
    figure,
    "Small differences need many seeds: four points are seen with a few, one point "
    "only with dozens, and half a point not even with eighty.",
    alt="Share of studies that see a true difference, against the seeds of an arm, "
    "a curve for each of four differences. The dotted line is 80 %.",
)

# %% [markdown]
# With three seeds, a true gain of one point is missed most of the time. As a rule of thumb, 80 % power costs $n \approx 16 (s/d)^2$ seeds per arm: **half the difference, four
# times the runs**. Ask this before the study: if you cannot pay for it, do not begin.


# %%
def seeds_for(d):
    return next((n for n in range(2, 200) if power(n, d / luck) > 0.8), 200)


by_rule = [int(np.ceil(16 * (luck / d) ** 2)) for d in sizes]
rule = {"by the rule": by_rule, "by simulation": [seeds_for(d) for d in sizes]}
print(f"luck: {luck:.2f} points")
pd.DataFrame(rule, index=pd.Index(sizes, name="difference (points)"))

# %% tags=["nbval-check-output"]


def exact_power(n, d):
    """Return the power of the t-test of equal spreads, from the noncentral t."""
    freedom, shift = 2 * n - 2, d * np.sqrt(n / 2)
    limit = stats.t.ppf(0.975, freedom)
    tails = stats.nct.sf(limit, freedom, shift), stats.nct.cdf(-limit, freedom, shift)
    return sum(tails)


off = max(abs(power(n, 1.0) - exact_power(n, 1.0)) for n in (10, 20, 40))
claim(
    "power of Welch's test by simulation: the noncentral t, to 5 points",
    off < 0.05,
    measured=off,
)
claim(
    "a difference of one standard deviation: 16 seeds an arm have 75 to 85 % power",
    0.75 < exact_power(16, 1) < 0.85,
    measured=exact_power(16, 1),
)

# %% [markdown]
# ### Twenty rows, one star
#
# A table with many rows asks many questions. Let *no* row have any effect, and count the tables that show at least one "significant" row.


# %%
def tables_with_a_star(rows, level, seeds=5, tables=2000):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(tables, 1, seeds))
    arms = rng.normal(size=(tables, rows, seeds))
    p = stats.ttest_ind(arms, base, axis=2, equal_var=False).pvalue  # [tables,rows]
    return (p < level).any(axis=1).mean()


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Twenty rows, and none has an effect. In how many of a hundred tables does at least one row have p < 0.05?
# :::

# %%
rows = [1, 2, 5, 10, 20]
stars = {
    "p < 0.05": [tables_with_a_star(r, 0.05) for r in rows],
    "p < 0.05 / rows": [tables_with_a_star(r, 0.05 / r) for r in rows],
}
stars = pd.DataFrame(stars, index=pd.Index(rows, name="rows"))
(100 * stars).round(1)

# %% [markdown]
# These are percentages of tables. The more rows, the more tables have a star, and every one of these stars means nothing. Divide the level by the
# number of rows (Bonferroni), and the share stays below the 5 % that you asked for. `labs.ablation` does so in its verdicts and arrows.

# %% tags=["nbval-check-output"]
claim(
    "ablation tables of twenty rows without effect: at p < 0.05 over a quarter have "
    "a star",
    stars["p < 0.05"][20] > 1 / 4,
    measured=stars["p < 0.05"].to_dict(),
)
claim(
    "ablation tables without effect, the level divided by the rows: under one in "
    "twelve has a star",
    stars["p < 0.05 / rows"].max() < 1 / 12,
    measured=stars["p < 0.05 / rows"].to_dict(),
)

# %% [markdown]
# ### The best epoch, chosen by the test set
#
# The last way to be fooled needs no second method. Score your network on the test set after each epoch, and report the best. To see what this does, take networks that
# *guess*: a coin for each of 200 test pictures with two classes, in each of 100 epochs.

# %%
rng = np.random.default_rng(0)
coins = {n: rng.binomial(n, 0.5, (2000, 100)) / n for n in (200, 1000, 10_000)}

# %%
epochs = [1, 2, 5, 10, 20, 50, 100]
figure, ax = plot.new(height=3)
for n, guesses in coins.items():
    best = [100 * guesses[:, :e].max(axis=1).mean() for e in epochs]
    ax.semilogx(epochs, best, "o-", label=f"{n:,}")
ax.axhline(50, color="0.4", linestyle=":")
ax.set_xticks(epochs, epochs)
ax.minorticks_off()
ax.legend(title="test pictures")
ax.set(xlabel="epochs tried", ylabel="best accuracy (%)")
plot.show(
    figure,
    "The best of many guesses looks good: with 200 test pictures it climbs far "
    "above 50 %, with 10,000 hardly.",
    alt="Best accuracy of coin flips against the epochs tried, a curve for each of "
    "three sizes of the test set.",
)

# %% [markdown]
# A hundred epochs of guessing on 200 pictures report eight to ten points more than there is to know. Real epochs are not independent coins. So train for real: one small
# network, a hundred short epochs. Keep which of 6,000 unseen pictures each epoch gets right, and cut them into thirty test sets of 200.

# %%
world = torch.cat([everything.images[6000:], test.images])
labels = torch.cat([everything.labels[6000:], test.labels])

seed_everything(0)
net = small_net()
adam = torch.optim.Adam(net.parameters(), lr=0.01)
hits, valid_scores = [], []
for _ in range(100):
    fit(net, batches(10), adam)
    hits.append(predict(net, world, 6000).argmax(1) == labels)
    valid_scores.append(accuracy(net, valid))
hits = torch.stack(hits).double()  # [epochs,6000]

# %%
sets = hits.reshape(100, 30, 200).mean(2)  # accuracy by epoch and test set
fresh = (hits.sum(1, keepdim=True) - 200 * sets) / 5800  # on all other pictures
choices = {
    "its own test set": sets.argmax(0),  # one epoch for each of the thirty
    "the validation set": torch.full((30,), int(np.argmax(valid_scores))),
    "nobody: the last epoch": torch.full((30,), 99),
}
scored = {"reported": sets, "on new pictures": fresh}
rows = {
    who: {name: 100 * s[epoch, range(30)].mean().item() for name, s in scored.items()}
    for who, epoch in choices.items()
}
report = pd.DataFrame(rows).T.rename_axis("the epoch is chosen by")
report["optimism"] = report["reported"] - report["on new pictures"]
report.round(1) + 0.0  # no -0.0

# %% [markdown]
# Chosen by its own test set, the score is points too high: no network of this run is that good on new pictures. Chosen by other pictures, the optimism is gone: the choice
# knows nothing of the test set, so a set reports too much as often as too little, and the thirty sets, which together are all the pictures, report the truth on
# average. (That zero is arithmetic, not a finding. What you can find is in the middle column: how good the chosen epoch is.) The price of honesty is a validation set.

# %% tags=["nbval-check-output"]
best_guess = coins[200].max(axis=1).mean()
claim(
    "the best of 100 coin-flip epochs on 200 pictures is between 58 and 60 %",
    0.58 < best_guess < 0.60,
    measured=best_guess,
)
optimism = report["optimism"].tolist()
claim(
    "the best epoch chosen by a small test set is reported over a point too well",
    optimism[0] > 1,
    measured=optimism,
)
fresh_scores = report["on new pictures"].tolist()
claim(
    "on new pictures an epoch chosen by 2,000 others is as good as one chosen by "
    "200, "
    "or better, to 0.5 points",
    fresh_scores[1] > fresh_scores[0] - 0.5,
    measured=fresh_scores,
)
best_of_all = 100 * hits.mean(1).max().item()
claim(
    "the report of the best test epoch is above what any epoch reaches on all "
    "pictures",
    report["reported"].iloc[0] > best_of_all,
    measured=(report["reported"].iloc[0], best_of_all),
)

# %% [markdown]
# ## Reproduce: the better model depends on the budget
#
# **The paper says.** {cite:t}`dodge2019show` search hyperparameters at random for two classifiers of sentences. They plot the
# *expected best* validation score against the number of trials. With up to 10 trials, logistic regression beats the convolutional
# network; with more, the network wins. So "A is better than B" is a sentence without meaning, unless the search budget stands beside it.
#
# **We measure** the same with logistic regression and a network with one hidden layer, on handwritten digits. The only hyperparameter is the learning rate of Adam, drawn log-uniformly from
# $10^{-4}$ to $10$.

# %%
from labs.data import digits

TRIALS = budget(cpu=24, gpu=60)
numbers = smaller(digits("train", n=6000))
written, unseen = numbers.take(slice(4000)), numbers.take(slice(4000, 6000))


# %%
def train_trial(hidden):
    # From the global generator, since the seed of the study governs it.
    power_of_ten = np.random.uniform(-4, 1)  # noqa: NPY002
    layers = [nn.Linear(196, hidden or 10)]
    if hidden:
        layers += [nn.ReLU(), nn.Linear(hidden, 10)]
    net = nn.Sequential(nn.Flatten(), *layers).to(device())
    adam = torch.optim.Adam(net.parameters(), lr=10**power_of_ten)
    fit(net, batches(250, 64, written), adam)
    return {"accuracy": 100 * accuracy(net, unseen), "rate": 10**power_of_ten}


# %%
search = ablate(train_trial, {"hidden": 0}, "hidden", [0, 128], seeds=range(TRIALS))
by_model = dict(list(search.frame().groupby("hidden")))
trials = {hidden: np.sort(rows["accuracy"]) for hidden, rows in by_model.items()}

# %% [markdown]
# With $N$ sorted scores $v_1 \le \dots \le v_N$, the best of $n$ draws is at most $v_i$ with probability $(i/N)^n$. So its mean is
# $\sum_i v_i \left[(i/N)^n - ((i-1)/N)^n\right]$: no further training is needed.


# %%
def expected_best(v, n):
    share = np.arange(len(v) + 1) / len(v)
    return (v * (share[1:] ** n - share[:-1] ** n)).sum()


spent = np.arange(1, TRIALS + 1)
curves = {
    h: np.array([expected_best(v, n) for n in spent]) for h, v in trials.items()
}

# %%
NAMES = {0: "logistic regression", 128: "one hidden layer"}
figure, (left, right) = plot.new(height=3, columns=2)
for hidden, name in NAMES.items():
    left.semilogx(
        by_model[hidden]["rate"],
        by_model[hidden]["accuracy"],
        "o",
        alpha=0.7,
        label=name,
    )
    right.semilogx(spent, curves[hidden], "o-", markersize=3, label=name)
left.set(xlabel="learning rate", ylabel="accuracy (%)", title="each trial")
right.set(
    xlabel="trials", ylabel="expected best (%)", title="the best of some trials"
)
right.set_xticks([1, 2, 5, 10, 20], [1, 2, 5, 10, 20])
right.minorticks_off()
right.legend(loc="lower right")
plot.show(
    figure,
    "Which model wins depends on the budget: with few trials logistic regression, "
    "with many the hidden layer.",
    alt="Left: accuracy by learning rate; the hidden layer is higher at the peak "
    "and fails at large rates. Right: expected best by trials; the curves cross.",
)

# %% [markdown]
# Left: each dot is one training. At its best rates the hidden layer is ahead, and at large rates it learns nothing, while logistic regression
# learns at almost any rate. Right: so with one trial you had better take logistic regression, and with many the other.

# %% tags=["nbval-check-output"]
drawn = rng.choice(trials[128], (20_000, 5)).max(axis=1).mean()
claim(
    "the expected best of five trials, by formula and by drawing, agree to half a "
    "point",
    abs(drawn - expected_best(trials[128], 5)) < 0.5,
    measured=(drawn, expected_best(trials[128], 5)),
)
ends = {size: (curves[size][0], curves[size][-1]) for size in (0, 128)}
claim(
    "with one trial of its settings, logistic regression beats a hidden layer by 5 "
    "points",
    ends[0][0] > ends[128][0] + 5,
    measured=ends,
)
claim(
    "with all trials of its settings, a hidden layer beats logistic regression by a "
    "point",
    ends[128][1] > ends[0][1] + 1,
    measured=ends,
)

# %%
print(f"the order turns at {spent[curves[128] > curves[0]][0]} trials")

# %% [markdown]
# **Why they differ.** The finding reproduces: the order turns. *Where* it turns is ours alone, as 10 was theirs: it depends on the range
# that is searched. Narrow it around the good rates, and the hidden layer is ahead from the start, as Exercise 3 shows. Note also that `ablate` ran this
# search, one seed per trial, and that its p-value would be no use here: the question was not about the mean.

# %% [markdown]
# ## Bug hunt: a report that is too good
#
# **Difficulty** 2 of 3 · **Importance** 3 of 3 · **Time** 20 min
#
# This function trains, keeps the best epoch, and reports it. It was met in many repositories:
# [titu1994/LSTM-FCN#7](https://github.com/titu1994/LSTM-FCN/issues/7) (repaired),
# [xuanmay2701/shapeformer#2](https://github.com/xuanmay2701/shapeformer/issues/2),
# [xiwenc1/TimeMIL#4](https://github.com/xiwenc1/TimeMIL/issues/4). What it should do: choose the epoch with the best *validation* accuracy; leave `net` with the
# weights of that epoch; then, and only then, measure it on the test set. Edit the function in this cell until the check below it passes.

# %% tags=["hunt-bug"]
from labs.evaluate import accuracy


def train_and_report(net, train_one_epoch, valid, test, epochs):
    best = {"epoch": -1, "valid": 0.0, "test": 0.0}
    for epoch in range(epochs):
        train_one_epoch(net)
        score = accuracy(net, test)
        if score > best["test"]:
            best = {"epoch": epoch, "valid": accuracy(net, valid), "test": score}
    return best


# %%
from labs.hunts.engineering import check_report

check_report(train_and_report)

# %% [markdown]
# The verdict lists what was probed, and what it saw. The first probe gives labels drawn by coin, as above. Go back to the function, change it, and run both cells again.
#
# :::{dropdown} Hint 1
# Which set decides in the line that begins with `if`?
# :::
#
# :::{dropdown} Hint 2
# When the loop is over, which epoch's weights are in `net`? You need those of another epoch: keep them when you see that they are the best.
# :::
#
# :::{dropdown} Hint 3
# `net.state_dict()` holds no numbers of its own: its tensors are the parameters themselves, and the next step of the optimiser changes them.
# :::

# %% tags=["hunt-solution", "hide-cell"]
from copy import deepcopy

from labs.evaluate import accuracy


def train_choose_report(net, train_one_epoch, valid, test, epochs):
    best = {"epoch": -1, "valid": -1.0}
    for epoch in range(epochs):
        train_one_epoch(net)
        score = accuracy(net, valid)
        if score > best["valid"]:
            best = {"epoch": epoch, "valid": score}
            # The dict alone would follow the training.
            weights = deepcopy(net.state_dict())
    net.load_state_dict(weights)
    return {**best, "test": accuracy(net, test)}


# %% tags=["nbval-check-output"]
verdict = check_report(train_choose_report)
claim(
    "the repaired report of a training passes every probe",
    verdict.passed,
    measured=verdict,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** "I add seeds until p is below 0.05, and then I stop." Let two arms be equal, start with 3 seeds each, add one at a time up to 30, and count how often
# such a study finds a difference. What should the colleague do instead?
#
# :::{dropdown} Solution 1
# Far more often than in 5 % of the studies: each look is another chance for luck. Fix the number of seeds before you start (from the power table), or divide the
# level among the looks that you plan. The next cell counts.
# :::

# %% tags=["hide-cell"]
arms = rng.normal(size=(2, 1000, 30))
looks = [
    stats.ttest_ind(*arms[..., :n], axis=1, equal_var=False).pvalue
    for n in range(3, 31)
]
stopped = (np.array(looks) < 0.05).any(axis=0).mean()
print(f"{stopped:.0%} of studies without any effect stop with p < 0.05")

# %% [markdown]
# **Exercise 2.** The two networks of the symptom had "the same seed", but neither the same weights nor the same batches. Draw the batches from a generator of their own, copy
# the weights of one network into the other, and train both. How large is the gap now?
#
# :::{dropdown} Solution 2
# Almost none: what is left is rounding. Where two arms can share their luck, let them, and test the *differences* by seed
# (`scipy.stats.ttest_rel`): the luck that they share cancels. Networks of different shape share little, and then pairing gains nothing.
# :::

# %% tags=["hide-cell"]
twins = {}
for bias in (False, True):
    seed_everything(0)
    first, last = nn.Linear(196, 32, bias=False), nn.Linear(32, 10)
    if bias:
        weight, first = first.weight, nn.Linear(196, 32)
        first.weight = weight
    layers = first, nn.BatchNorm1d(32), nn.ReLU(), last
    net = nn.Sequential(nn.Flatten(), *layers).to(device())
    torch.manual_seed(1)  # both see the same batches
    fit(net, batches(100), torch.optim.SGD(net.parameters(), lr=0.1))
    twins[bias] = 100 * accuracy(net, valid)
gap = abs(twins[True] - twins[False])
print(f"gap: {gap:.2f} points; by seed above: up to {gain.abs().max():.1f}")

# %% [markdown]
# **Exercise 3.** Keep only the trials of the search with a rate between $10^{-3}$ and $10^{-1}$. Where do the curves cross now? What does this say about a paper
# that searches a narrow range, known to be good, for its own model, and a wide one for the baseline?
#
# :::{dropdown} Solution 3
# The hidden layer is ahead from the first trial, or nearly so. A range holds knowledge, and knowledge is budget that was spent before. Give both models the
# same number of trials, and ranges chosen with the same care; write both into the paper. The next cell shows the expected best of one, two and five trials.
# :::

# %% tags=["hide-cell"]
narrow = {
    NAMES[hidden]: np.sort(rows["accuracy"][rows["rate"].between(1e-3, 1e-1)])
    for hidden, rows in by_model.items()
}
pd.DataFrame(
    {k: [expected_best(v, n) for n in (1, 2, 5)] for k, v in narrow.items()},
    index=[1, 2, 5],
).rename_axis("trials").round(1)

# %% [markdown]
# ## In practice
#
# - Decide before the first run: the metric, the number of seeds, the rows. What you decide after you have seen scores is a new question, and needs new seeds.
# - A seed makes a run repeatable on one machine. On another GPU, or another version, "seed 0" is another draw. So report mean, spread and n, never a seed.
# - Seeds cover the luck of the *training*. A test set is a draw as well: the standard error of 80 % on 2,000 pictures is 0.9 points. Other splits show it.
# - No arrow does not mean no effect. Say "we could not tell, with this many seeds", and give the interval.
# - Train each arm to its end, and tune each arm: a part that needs another learning rate looks useless at the rate of the others.
# - `scipy.stats` has the tests: `ttest_ind(equal_var=False)`, `ttest_rel`, `permutation_test`, `bootstrap`; `statsmodels` has power and corrections for many rows.
# - `labs.ablation.ablate` takes any `concurrent.futures` executor: processes here, Dask or SLURM there. Keep the function in a file.

# %% [markdown]
# ## You can now
#
# - tell, from a table and its seeds, an effect from luck, and say what it would cost to know;
# - remove one part of a network, and prove that nothing else went with it;
# - write a report whose score holds on data that nobody has seen.
