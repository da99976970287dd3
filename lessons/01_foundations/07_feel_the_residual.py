# %% [markdown]
# # Feel the residual
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** tell a network that is too deep to train from one that is too weak · measure how a gradient
# and a signal travel through depth with `torch.autograd.grad` and hooks · say what the residual connection does,
# and what it does not do.
#
# **You need** convolutions, batch normalisation and the chain rule; the lesson
# [Watch a network see digits](05_watch_a_network_see_digits) for `capture`, and
# [Classify flowers with dirty labels](06_classify_flowers_with_dirty_labels) for `ablate`.
#
# **Time** read 15 min · debug 25 min · experiment 30 min · reproduce 10 min · hunt 20 min · exercises 30 min
# :::

# %% [markdown]
# ## The symptom
#
# You have a network with 20 layers. You make it deeper: 56 layers, with the same width, data and recipe. A deeper
# network can do everything that the shallow one can, because the extra layers only have to copy their input. So its
# **training** loss should be the same or better.
#
# Use small pictures of clothes, 14 by 14 pixels, so that many trainings fit into one lesson.

# %%
import torch
from torch.nn.functional import avg_pool2d

from labs.data import clothes

train, test = clothes("train", n=4000), clothes("test", n=1000)
x_train, x_test = avg_pool2d(train.images, 2), avg_pool2d(test.images, 2)
x_train.shape, train.classes

# %% [markdown]
# One function trains one network: a *plain* one (`shortcut=False`) or a *residual* one. Both have exactly the same
# layers and the same number of parameters. The only difference is an addition.
#
# `fit` draws a batch, computes the cross entropy, calls `backward()` and lets the optimiser step, once per batch.
# `OneCycleLR` raises the learning rate at first and lowers it to almost zero at the end.

# %%
from labs.models import resnet_cifar
from labs.repro import budget, device, seed_everything
from labs.train import fit

STEPS, BATCH, WIDTH = budget(cpu=110, gpu=400), 32, budget(cpu=4, gpu=16)


def batches(steps):
    for _ in range(steps):
        rows = torch.randint(len(train), (BATCH,))
        yield x_train[rows], train.labels[rows]


# %%
def train_net(depth, shortcut):
    net = resnet_cifar(depth, WIDTH, shortcut, in_channels=1).to(device())
    adam = torch.optim.AdamW(net.parameters(), lr=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=0.01, total_steps=STEPS)
    return net, fit(net, batches(STEPS), adam, scheduler=cycle)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Which of the two plain networks ends with the lower training loss: 20 layers or 56?
# :::

# %%
seed_everything(0)
plain_20, history_20 = train_net(20, shortcut=False)
seed_everything(0)
plain_56, history_56 = train_net(56, shortcut=False)

# %%
from labs import plot

figure, ax = plot.new()
for name, history in [("20 layers", history_20), ("56 layers", history_56)]:
    smooth = history.table()["loss"].rolling(10, min_periods=1).mean()
    ax.plot(smooth, label=name)
ax.set(xlabel="training step", ylabel="training loss (nats)", title="plain networks")
ax.legend()
plot.show(
    figure,
    "The deeper plain network has the higher loss on its own training data.",
    alt="Training loss against steps: the curve of 20 layers falls, that of 56 "
    "layers stays far above it.",
)

# %% [markdown]
# The deeper network is worse on the very data it is trained on. (The loss is a cross entropy, measured in *nats*:
# guessing among ten classes costs log 10, about 2.3 of them.) So this is not overfitting, and it is not a lack
# of power either: in these steps the optimiser does not find a solution that exists. {cite:t}`he2016deep` call it the
# *degradation problem*. By the end of this lesson you will know where to look for its cause.

# %% [markdown]
# ## The idea
#
# Let each block compute a *change*, and add it to what came in. Here is one block of ResNet-18, drawn from a real run:
# the shapes were captured, and an arrow stands where a change of one part's output changed another part's input.

# %%
from labs import diagram
from labs.models.resnet import BasicBlock

LAYERS = {"input": "input", "conv 1": "conv1", "conv 2": "conv2", "output": "output"}
block = BasicBlock(64, 64, stride=1)
wiring = diagram.trace(block, torch.randn(2, 64, 56, 56), LAYERS)

# %%
drawing = diagram.draw(wiring, [list(LAYERS)], accent=[("input", "output")])
plot.show(
    drawing,
    "The input of a residual block reaches its output by two paths: through both "
    "convolutions, and directly.",
)

# %% [markdown]
# The coloured arrow is the shortcut. In formulas, with $F_l$ for the branch, that is the two convolutions, their batch norms and the ReLU between them (the ReLU behind the sum is left out here, so that the derivative stays short; read $x$ as one number):
#
# $$\begin{aligned} x_{l+1} &= x_l + F_l(x_l), \\ \frac{\partial x_{l+1}}{\partial x_l} &= 1 + F_l'(x_l). \end{aligned}$$
#
# The plain block is $x_{l+1} = F_l(x_l)$ with derivative $F_l'$. A chain of $L$ blocks multiplies these derivatives. Try
# it on numbers that you can check by hand: ten blocks $F(x) = w x$, so the gradient is $w^{10}$ without the shortcut,
# and $(1 + w)^{10}$ with it.

# %%
import pandas as pd


def gradient_of_chain(w, shortcut, length=10):
    x = start = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    for _ in range(length):
        x = x + w * x if shortcut else w * x
    return torch.autograd.grad(x, start)[0].item()


# %%
slopes = [-0.1, 0.1, 0.5, 1.0, 1.5]
chains = pd.DataFrame(
    {
        name: [gradient_of_chain(w, s) for w in slopes]
        for name, s in [("plain", False), ("residual", True)]
    },
    index=pd.Index(slopes, name="w"),
)
chains.map("{:.2e}".format)

# %% [markdown]
# With a small slope the plain gradient is almost zero after ten blocks, and the residual one has kept its order of
# magnitude. Read the last two rows too: there the plain gradient was not small, and the shortcut makes it a hundred to a thousand times *larger*. The residual
# connection cures the vanishing factor. It does not promise a gradient of the right size: that is the task of
# initialisation and normalisation.

# %% [markdown]
# ## The block
#
# Here is the block of ResNet-18 by hand. The change is two convolutions; the shortcut carries the input around them,
# through a 1x1 convolution where the shape changes.


# %%
from torch import nn


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = nn.Identity()
        if stride != 1 or c_in != c_out:
            projection = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(c_out))

    def forward(self, x):
        change = torch.relu(self.bn1(self.conv1(x)))  # [N,c_out,H/stride,W/stride]
        change = self.bn2(
            self.conv2(change)
        )  # may be negative: no ReLU before the addition
        return torch.relu(self.downsample(x) + change)


# %%
block, x = Block(8, 16, stride=2), torch.randn(3, 8, 14, 10)
tuple(x.shape), tuple(block(x).shape)

# %% [markdown]
# The block halved height and width, and doubled the channels. Now load its weights into the block of `labs.models`, from which later lessons import their networks, and load the weights of torchvision's networks into ours.

# %%
import torchvision

from labs.models import resnet18, resnet50

twin = BasicBlock(8, 16, stride=2)
twin.load_state_dict(block.state_dict())
difference = {"block": (block.eval()(x) - twin.eval()(x)).abs().max().item()}

# %%
images = torch.rand(1, 3, 96, 64)
for ours, theirs in [
    (resnet18, torchvision.models.resnet18),
    (resnet50, torchvision.models.resnet50),
]:
    reference, net = theirs().eval(), ours().eval()
    net.load_state_dict(reference.state_dict())
    with torch.no_grad():
        difference[ours.__name__] = (
            (net(images) - reference(images)).abs().max().item()
        )

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "the residual block written here equals that of labs.models to 1e-6",
    difference["block"] < 1e-6,
    measured=difference["block"],
)
claim(
    "ResNet-18 with copied weights equals torchvision's to 1e-5",
    difference["resnet18"] < 1e-5,
    measured=difference["resnet18"],
)
claim(
    "ResNet-50 with copied weights equals torchvision's to 1e-5",
    difference["resnet50"] < 1e-5,
    measured=difference["resnet50"],
)

# %% [markdown]
# The number of parameters must be the one that torchvision publishes for each network. On the `meta` device, parameters can be counted without any memory being allocated.


# %%
def count(net):
    return sum(p.numel() for p in net.parameters())


with torch.device("meta"):
    counts = {
        "ResNet-18": count(resnet18()),
        "ResNet-50": count(resnet50()),
        "56 layers, plain": count(resnet_cifar(56, shortcut=False)),
        "56 layers, residual": count(resnet_cifar(56)),
    }
pd.Series(counts, name="parameters")

# %% tags=["nbval-check-output"]
claim(
    "ResNet-18 has the 11,689,512 parameters of torchvision's",
    counts["ResNet-18"] == 11_689_512,
    measured=counts["ResNet-18"],
)
claim(
    "ResNet-50 has the 25,557,032 parameters of torchvision's",
    counts["ResNet-50"] == 25_557_032,
    measured=counts["ResNet-50"],
)

# %% [markdown]
# The plain network of 56 layers and its residual twin have equally many: where the number of channels grows, the shortcuts of `resnet_cifar` fill up with zeros, which needs no parameters.

# %% [markdown]
# ## Debug: follow the gradient, then the signal
#
# The usual story is that gradients vanish in a deep network, and that the shortcut keeps them alive. Check it. Ask
# `torch.autograd.grad` for the gradient of the loss with respect to each convolution's weights at initialisation, and divide its
# norm by the norm of the weights. The quotient is the fraction by which plain gradient descent with a learning rate of one would
# change the layer's weights.


# %%
def gradient_by_layer(net):
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]
    loss = nn.functional.cross_entropy(net(x_train[:128]), train.labels[:128])
    gradients = torch.autograd.grad(loss, weights)
    return [
        (g.norm() / w.norm()).item() for g, w in zip(gradients, weights, strict=True)
    ]


# %% [markdown]
# Look at three ways to build the 56-layer network: with PyTorch's default initialisation and no normalisation; with
# He initialisation, which scales the random weights so that ReLU layers keep the variance of the signal; and with He
# initialisation and batch normalisation, as in the paper. (`reset_parameters()` draws PyTorch's default weights again.)


# %%
def without_norms(net, default_init):
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
            if isinstance(child, nn.Conv2d) and default_init:
                child.reset_parameters()
    return net


BUILDS = {
    "default initialisation": lambda net: without_norms(net, default_init=True),
    "He initialisation": lambda net: without_norms(net, default_init=False),
    "He initialisation + batch norm": lambda net: net,
}

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# For the *plain* network: in which of the three builds does the gradient vanish on its way to the first layer? In which
# does it do something else?
# :::

# %%
gradients = {}
for build, change in BUILDS.items():
    for shortcut in (False, True):
        seed_everything(0)
        net = change(resnet_cifar(56, WIDTH, shortcut, in_channels=1))
        gradients[build, shortcut] = gradient_by_layer(net)

# %%
positive = [value for values in gradients.values() for value in values if value > 0]
limits = (min(positive) / 2, max(positive) * 2)
figure, axes = plot.new(height=2.9, columns=3)
for ax, build in zip(axes, BUILDS, strict=True):
    for shortcut, name, colour in [
        (False, "plain", plot.COLOURS[1]),
        (True, "residual", plot.COLOURS[0]),
    ]:
        ax.semilogy(gradients[build, shortcut], color=colour, label=name)
    ax.set(xlabel="layer, from input to output", ylim=limits)
    ax.set_title(build.replace(" + ", "\n+ "))
axes[0].set_ylabel("gradient norm / weight norm")
axes[0].text(
    27, 2 * limits[0], "plain: exactly 0", ha="center", color=plot.COLOURS[1]
)
axes[1].legend()
plot.show(
    figure,
    "Only default initialisation kills the plain gradient; with batch norm it grows "
    "towards the input.",
    alt="Relative gradient norm by layer, in three panels of one scale. Left: the "
    "plain curve is missing. Middle: the plain curve is low and level, the residual "
    "one far above it. Right: the plain curve rises steeply towards the input, the "
    "residual one little.",
)

# %% [markdown]
# Left: without normalisation and with the default initialisation, the plain gradient is exactly zero, because the signal itself
# has died before the last layer. Middle: with He initialisation the plain gradient is tiny in all layers, because almost nothing of the difference between pictures reaches the output of so narrow a network; it does not shrink on its way to the input; the
# residual one is far too large, since without normalisation every shortcut adds to the signal. Right, the case of the paper: the plain
# gradient does not vanish at all. It **grows** on its way from the output to the input. So in none of the three does it vanish on its way to the first layer: left it is zero everywhere. On the right it grows most, and the residual one grows far less. The next table
# compares the first block with the last layer. (The very first convolution is left out: both curves jump there.)

# %%
normed = gradients["He initialisation + batch norm", False]
residual = gradients["He initialisation + batch norm", True]
growth = {
    name: values[1] / values[-1]
    for name, values in [("plain", normed), ("residual", residual)]
}
pd.Series(growth, name="first block / last layer").round(1)

# %% tags=["nbval-check-output"]
dead = max(gradients["default initialisation", False])
claim(
    "56 plain layers with PyTorch's initialisation and no norm: every gradient is "
    "zero",
    dead == 0,
    measured=dead,
)
claim(
    "56 plain layers with batch norm: the gradient grows over 200 times towards the "
    "input",
    growth["plain"] > 200,
    measured=growth,
)
claim(
    "56 layers with batch norm: with shortcuts the gradient grows less than a tenth "
    "as much",
    growth["residual"] < growth["plain"] / 10,
    measured=growth,
)

# %% [markdown]
# So "residuals cure vanishing gradients" is not the whole story. {cite:t}`he2016deep` say themselves that batch
# normalisation keeps the gradients of their plain networks healthy, and that vanishing gradients are unlikely to be the reason.
# In our narrow network the gradient is less healthy than that, since it grows towards the input; it does not vanish, and that much agrees with the paper.
# Then what goes wrong in the plain network? Follow the *signal*. `capture` keeps what every block returns. From each
# block's output, guess the class of a picture by the nearest class mean. This is a crude probe, but it needs no training. (Batch norm uses
# the statistics of these very pictures: an untrained network has no others.)

# %%
from labs.hooks import capture

BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(9)]


def probe(net, n=600):
    """Return the share of pictures that a nearest-mean guess gets right, by block."""
    with torch.no_grad(), capture(net, *BLOCKS) as maps:
        net(x_train[: 2 * n])
    labels, scores = train.labels, []
    for name in BLOCKS:
        z = nn.functional.adaptive_avg_pool2d(maps[name], 3).flatten(1)  # [2n,C*9]
        z = (z - z.mean(0)) / (z.std(0) + 1e-6)
        means = torch.stack([z[:n][labels[:n] == k].mean(0) for k in range(10)])
        guess = torch.cdist(z[n:], means).argmin(1)
        scores.append((guess == labels[n : 2 * n]).float().mean().item())
    return scores


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Neither network has been trained. Of the 56 layers, 54 form 27 blocks of two convolutions, nine in each of three stages. After how many blocks
# is nothing left of the picture in the plain network? And in the residual one?
# :::

# %%
signal = {}
for shortcut in (False, True):
    seed_everything(0)
    signal[shortcut] = probe(resnet_cifar(56, WIDTH, shortcut, in_channels=1))

# %%
figure, ax = plot.new()
ax.plot(signal[True], label="residual")
ax.plot(signal[False], label="plain")
ax.axhline(0.1, color="0.5", linestyle=":", label="guessing")
ax.set(xlabel="block", ylabel="nearest-mean accuracy", ylim=(0, 0.8))
ax.set_title("untrained networks of 56 layers")
ax.legend()
plot.show(
    figure,
    "Before training, a simple probe finds no class any more after about half of "
    "the plain network's blocks; in the residual one it still does after the last.",
    alt="Accuracy of a guess by block: plain falls to chance, residual declines "
    "slowly.",
)

# %% [markdown]
# Before the first step of training, the output of the last plain blocks tells the probe almost nothing about the picture: its guess is
# about as good as chance. The gradient that comes back through them is uneven, and it is computed from features in which this probe
# hardly finds the class. The residual network passes the picture on to the last block, so that every layer starts with something to work on.
# The shortcut mends both at once, gradient and signal, so these measurements cannot say which of them matters more.

# %% tags=["nbval-check-output"]
claim(
    "untrained, 56 plain layers: the last block is within 6 points of guessing",
    abs(signal[False][-1] - 0.1) < 0.06,
    measured=signal[False][-1],
)
claim(
    "untrained, 56 residual layers: from the last block the probe guesses at least "
    "10 points better than chance",
    signal[True][-1] > 0.2,
    measured=signal[True][-1],
)

# %% [markdown]
# ## Experiment: take the shortcut away
#
# Now train. One variable changes: the shortcut. Depth, width, data, recipe and number of steps stay. Three seeds show how much
# of a difference is luck: `ablate` runs every setting with every seed, and keeps the settings of all other variables equal.
# Each run reports the mean loss of its last 20 steps and its accuracy on unseen pictures.

# %%
from labs.ablation import ablate
from labs.evaluate import predict

nets = {}


def train_and_score(depth, shortcut):
    net, history = train_net(depth, shortcut)
    nets[depth, shortcut] = net  # the last seed's stays, to look at later
    hits = predict(net, x_test).argmax(1) == test.labels
    return {
        "train_loss": history.table()["loss"].tail(20).mean(),
        "accuracy": hits.float().mean().item(),
    }


deep = ablate(
    train_and_score,
    base={"depth": 56, "shortcut": True},
    vary="shortcut",
    values=[True, False],
)
COLUMNS = ["mean", "ci95", "delta", "p"]
deep.table("train_loss")[COLUMNS].round(3)

# %% [markdown]
# The column `ci95` is the half-width of the 95 % interval of the mean. `delta` is what removing the shortcut costs in
# training loss, and `p` says how likely a gap at least as large would be if the shortcut did nothing. Is it the same for a
# shallow network?

# %%
shallow = ablate(
    train_and_score,
    base={"depth": 20, "shortcut": True},
    vary="shortcut",
    values=[True, False],
)
shallow.table("train_loss")[COLUMNS].round(3)

# %%
runs = pd.concat([deep.frame().assign(depth=56), shallow.frame().assign(depth=20)])
runs["network"] = runs["shortcut"].map({True: "residual", False: "plain"})

# %%
figure, ax = plot.new()
for name, group in runs.groupby("network", sort=False):
    (dots,) = ax.plot(group["depth"], group["train_loss"], "o", alpha=0.7)
    mean = group.groupby("depth")["train_loss"].mean()
    ax.plot(mean, color=dots.get_color(), label=name)
ax.set(xlabel="layers", ylabel="training loss (nats)", xticks=[20, 56])
ax.legend()
plot.show(
    figure,
    "Without the shortcut, depth costs much training loss; with it, depth costs "
    "less.",
    alt="Training loss of three seeds at 20 and 56 layers: the plain line rises "
    "steeply, the residual line stays low.",
)

# %% [markdown]
# Each dot is one seed. The loss of the plain networks rises steeply with depth; that of the residual ones rises by about as much as the seeds
# scatter. The shortcut helps the shallow network too, but less. At 56 layers it decides whether these few steps train the network at all.

# %% tags=["nbval-check-output"]
loss_of = {
    key: part["train_loss"] for key, part in runs.groupby(["depth", "network"])
}
hits_of = {key: part["accuracy"] for key, part in runs.groupby(["depth", "network"])}
claim(
    "56 layers with shortcuts: the training loss ends below 1.5 nats in every run",
    loss_of[56, "residual"].max() < 1.5,
    measured=loss_of[56, "residual"].tolist(),
)
claim(
    "56 layers: every run with shortcuts ends with a lower training loss than any "
    "without",
    loss_of[56, "residual"].max() < loss_of[56, "plain"].min(),
    measured={k: v.tolist() for k, v in loss_of.items()},
)
claim(
    "removing the shortcuts costs more training loss at 56 layers than at 20",
    deep.table()["delta"].iloc[1] > shallow.table()["delta"].iloc[1],
    measured=(deep.table()["delta"].iloc[1], shallow.table()["delta"].iloc[1]),
)
claim(
    "56 layers: with shortcuts the test accuracy is at least 10 points higher",
    hits_of[56, "residual"].mean() - hits_of[56, "plain"].mean() > 0.10,
    measured={k: v.tolist() for k, v in hits_of.items()},
)

# %%
runs.groupby(["depth", "network"])[["train_loss", "accuracy"]].mean().round(3)

# %% [markdown]
# What did training do to the signal? Probe the plain and the residual network of the last seed again, on the same pictures. (They are training pictures, and batch norm again uses their own statistics: compare the two networks, and do not read the numbers as test accuracy.)

# %%
trained = {
    name: probe(nets[56, shortcut].cpu())
    for name, shortcut in [("plain", False), ("residual", True)]
}
pd.DataFrame(trained, index=BLOCKS).iloc[[0, 8, 17, 26]].round(2)

# %% [markdown]
# The features of the residual network still tell the classes apart in the last block, at least as well as in the first. The
# plain network still loses the picture on the way. It would have to learn, layer by layer, what the shortcut provides: to
# pass on what it was given.

# %% tags=["nbval-check-output"]
claim(
    "56 layers: training lifts what the probe guesses from the last residual block "
    "by 10 points, to at least 15 above the last plain one",
    trained["residual"][-1]
    > max(signal[True][-1] + 0.1, trained["plain"][-1] + 0.15),
    measured=(signal[True][-1], trained["residual"][-1], trained["plain"][-1]),
)
claim(
    "56 plain layers: training does not mend them, from the last block the probe "
    "still guesses worse than from the first",
    trained["plain"][-1] < trained["plain"][0],
    measured=(trained["plain"][0], trained["plain"][-1]),
)

# %% [markdown]
# Look at the maps themselves. For one picture, move through the blocks of both trained networks: each panel is the mean over
# the channels of what a block returned.

# %%
steps = BLOCKS[:9:2]  # of the first stage, whose maps have all pixels
seen = {}
for name, shortcut in [("plain", False), ("residual", True)]:
    with torch.no_grad(), capture(nets[56, shortcut], *steps) as maps:
        nets[56, shortcut](x_train[:64])
    seen[name] = {block: maps[block][3].mean(0) for block in steps}

# %%
frames = {}
for block in steps:
    figure, axes = plot.new(height=2.8, columns=3)
    shown = [x_train[3, 0], seen["plain"][block], seen["residual"][block]]
    for ax, picture, title in zip(
        axes, shown, ["input", "plain", "residual"], strict=True
    ):
        plot.images(ax, picture[None], [title], limits=None, cmap="viridis")
        ax.title.set_fontsize(9)
    frames[block] = figure
plot.slide(
    frames,
    "after block",
    "In the residual network something of the garment stays in its place through "
    "the first stage; the plain maps are mostly noise.",
    alt="One garment, and the mean feature map of the plain and of the residual "
    "network, each with a colour scale of its own",
)

# %% [markdown]
# Every panel has its own colour scale. The eye is not a good judge of such maps, and in the later stages they have a quarter, then about a twelfth
# of the pixels. Trust the probe.

# %% [markdown]
# ## Reproduce: the degradation of plain networks
#
# **The paper says.** {cite:t}`he2016deep` report two facts. On ImageNet, a plain network of 34 layers has a higher training error than
# one of 18, and with shortcuts the order is reversed: 34 layers are better than 18. On CIFAR-10 the same holds from 20 to
# 56 layers.
#
# **We measure** the same four networks (20 and 56 layers, plain and residual) on small pictures of clothes, on a CPU with a quarter of the width and a few hundred
# times fewer steps. (The paper's CIFAR networks start with 16 channels and train for 64,000 steps.) They are the runs of the experiment above,
# not new ones.

# %%
table = runs.pivot_table(index="depth", columns="network", values="train_loss")
table.round(3)

# %% tags=["nbval-check-output"]
cost = table.loc[56] - table.loc[20]
claim(
    "plain networks: 56 layers train worse than 20, by at least 0.2 nats, as in the "
    "paper",
    cost["plain"] > 0.2,
    measured=cost.to_dict(),
)
claim(
    "residual networks: going from 20 to 56 layers costs less than half of what it "
    "costs plain ones",
    cost["residual"] < 0.5 * cost["plain"],
    measured=cost.to_dict(),
)

# %% [markdown]
# **Why they differ.** The order of the plain networks is the paper's; the losses at which they end are not. After so few steps the deep plain network has hardly left
# guessing, while the paper's networks do learn, and end higher all the same. So what you see here is that depth makes the start harder; that long training does not make up for it is the paper's result. For the second fact, read the residual column: in the paper the deeper
# residual network is *better*; here, after so few steps, it is not. These runs cannot say whether longer training would
# reverse the order, as it did in the paper.

# %% [markdown]
# ## Bug hunt: the skip that lost half of its values
#
# **Difficulty** 1 of 3 · **Importance** 3 of 3 · **Time** 20 min
#
# A later design, *pre-activation*, puts the ReLU before the convolution: `x + conv(relu(conv(relu(x))))`. This block trains,
# raises no error, and its loss goes down. Yet a user who opened the exported graph saw a ReLU on the main path, where this design has none. The bug was met in [rosinality/vq-vae-2-pytorch#60](https://github.com/rosinality/vq-vae-2-pytorch/issues/60) and in
# [iduta/iresnet PR#2](https://github.com/iduta/iresnet/pull/2). Edit the block in this cell until the check below it passes.

# %% tags=["hunt-bug"]
from torch import nn


class PreActBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x):
        return x + self.branch(x)


# %%
from labs.hunts.foundations import check_skip_connection

check_skip_connection(PreActBlock)

# %% [markdown]
# The verdict lists what was probed, and what it saw. Go back to the block, change it, and run both cells again.
#
# :::{dropdown} Hint 1
# Which tensor does the caller hold after the call? Compare it with a clone made before.
# :::
#
# :::{dropdown} Hint 2
# Python evaluates `x` first, but what it holds is a reference, not a copy. Which of the layers writes into memory that
# the skip still needs?
# :::
#
# :::{dropdown} Hint 3
# Only one of the two `inplace=True` is harmful. What does the second one overwrite?
# :::


# %% tags=["hunt-solution", "hide-cell"]
from torch import nn


class CleanBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.branch = nn.Sequential(
            nn.ReLU(),  # a copy: the input belongs to the skip
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),  # harmless: this tensor is the branch's own
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x):
        return x + self.branch(x)


# %% tags=["nbval-check-output"]
verdict = check_skip_connection(CleanBlock)
claim(
    "the repaired pre-activation block passes every probe of its skip connection",
    verdict.passed,
    measured=verdict,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Many recipes set the scale of the last batch norm of every block to zero at the start, so that each block begins as the
# identity. Do it to a 56-layer residual network, and look at `gradient_by_layer`. Almost all gradients are exactly zero. Is that a bug?
#
# :::{dropdown} Solution 1
# It is by design. With a scale of zero the branch returns zero, so no gradient enters its convolutions in the first step; the
# scale itself gets one. After one step it is no longer zero, and the convolutions wake up. Check it with the next cell.
# :::

# %% tags=["hide-cell"]
seed_everything(0)
net = resnet_cifar(56, 8, in_channels=1)
for module in net.modules():
    if isinstance(module, BasicBlock):
        nn.init.zeros_(module.bn2.weight)
step_0 = gradient_by_layer(net)
fit(net, batches(1), torch.optim.SGD(net.parameters(), lr=0.1))
step_1 = gradient_by_layer(net)
pd.Series(
    {
        "zero at step 0": step_0.count(0.0),
        "zero at step 1": step_1.count(0.0),
        "convolutions": len(step_0),
    }
)

# %% [markdown]
# **Exercise 2.** Put a ReLU after the second batch norm, *before* the addition, as a well-known repository once did
# ([kuangliu/pytorch-cifar#4](https://github.com/kuangliu/pytorch-cifar/issues/4)). What can such a block no longer do? Which hook shows it?
#
# :::{dropdown} Solution 2
# Its change can never be negative, so activations can only grow from block to block. `capture` the output of `layer1.0.bn2` and the output of
# your ReLU: the minimum of the first is negative, that of the second is zero, in every block. It still trains, which is why nobody saw it.
# :::
#
# **Exercise 3.** The plain and the residual network of this lesson have the same number of parameters, but `resnet18(shortcut=False)` has fewer than
# `resnet18()`. Where are the others? Count them on the `meta` device.
#
# :::{dropdown} Solution 3
# In the three 1x1 projections (with their batch norms) where the number of channels doubles: `resnet_cifar` pads with zeros there, which costs
# nothing (option A of the paper); `resnet18` projects (option B). `count(resnet18()) - count(resnet18(shortcut=False))` is the sum of
# `p.numel()` over the parameters with `downsample` in their name.
# :::

# %% [markdown]
# ## In practice
#
# - Use `torchvision.models` or `timm` for a backbone. Write your own block only when the block is what you study, and then hold it to a
#   reference with copied weights, as you did here.
# - A gradient norm tells you that a gradient *arrives*. It does not tell you that it *means* something. Probe the signal as well.
# - Compare **training** losses to tell an optimisation problem from overfitting. A worse test accuracy alone cannot tell you.
# - Never put `inplace=True` on the first layer of a branch. The memory it saves is one tensor; the bug it makes is silent.
# - `torch.autograd.grad` returns gradients and leaves `.grad` alone, so that you can look in the middle of a training run.

# %% [markdown]
# ## You can now
#
# - show with one table that a deeper plain network is worse on its own training data, and rule out overfitting;
# - measure gradient and signal by depth, and say what each of them shows, and what it does not;
# - build a residual block, prove it equal to a reference, and find a skip connection that is not an identity.
