# %% [markdown]
# # Classify flowers with dirty labels
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** find out whether a classifier looks at the object or at what lies behind it · use a pretrained
# network as a feature extractor, and know what it saves you from and what not · measure what wrong labels cost, and
# find them.
#
# **You need** convolutions, cross entropy, and the hooks of
# [Watch a network see digits](02_watch_a_network_see_digits).
#
# **Time** read 20 min · debug 30 min · experiment 40 min · reproduce 15 min
# :::

# %% [markdown]
# ## The symptom
#
# You want a classifier that tells flowers from everything else. So you photograph things where you find them: flowers
# in the green, all other things on the street, at the water, indoors and on bare ground. The book composes such
# photographs from real objects and real backgrounds, so that you can decide what stands where.

# %%
import torch

from labs.data import flowers_with_masks

SIZE, N = 96, 480
ELSEWHERE = {"bare": 1, "water": 1, "street": 1, "indoors": 1}
HOME = {"flower": {"green": 1}, "other": ELSEWHERE}

home = flowers_with_masks("train", N, SIZE, backgrounds=HOME)
home

# %% [markdown]
# You are careful. Two pictures of one flower must not end up on both sides of the split, so you hold out a quarter of
# the *objects* with all their pictures, not a quarter of the pictures.


# %%
def hold_out_objects(data, seed):
    """Return which pictures show one of a random quarter of each class's objects, [N] of bool."""
    random, held = torch.Generator().manual_seed(seed), []
    for label in range(len(data.classes)):
        objects = data.sources[data.labels == label].unique()
        order = torch.randperm(len(objects), generator=random)
        held.append(objects[order[: len(objects) // 4]])
    return torch.isin(data.sources, torch.cat(held))


held = hold_out_objects(home.data, seed=0)
{"train on": (~held).sum().item(), "validate on": held.sum().item()}

# %% [markdown]
# Train a small residual network from scratch. It reads the pictures at a third of their size, 32 by 32 pixels.

# %%
from dataclasses import replace

from torch.nn.functional import avg_pool2d
from torch.utils.data import DataLoader

from labs.models import resnet_cifar
from labs.repro import budget, device, seed_everything
from labs.train import fit


def train_from_scratch(data, epochs, width=10):
    net = resnet_cifar(8, width, num_classes=len(data.classes)).to(device())
    batches = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    steps = epochs * len(batches)
    cycle = torch.optim.lr_scheduler.OneCycleLR(sgd, max_lr=0.1, total_steps=steps)
    fit(net, batches, sgd, epochs, scheduler=cycle)
    return net.eval()


# %%
from labs.evaluate import accuracy

EPOCHS = budget(cpu=12, gpu=30)


def shrunk(data, factor):
    return replace(data, images=avg_pool2d(data.images, factor))


home_small = shrunk(home.data, 3)
seed_everything(0)
home_net = train_from_scratch(home_small.take(~held), EPOCHS)
round(accuracy(home_net, home_small.take(held)), 2)

# %% [markdown]
# Objects that the network has never seen, and nearly all are right. You ship it. Then somebody sends you the same
# objects, photographed elsewhere: flowers indoors, a bird on the grass. With the same seed, the book puts the same
# objects into the same pixels, and changes only what is behind them.

# %%
AWAY = {"flower": ELSEWHERE, "other": {"green": 1}}
away = flowers_with_masks("train", N, SIZE, backgrounds=AWAY)
away_small = shrunk(away.data, 3)

places = {"at home": home_small.take(held), "away": away_small.take(held)}
swap = {place: accuracy(home_net, data) for place, data in places.items()}
{place: round(share, 2) for place, share in swap.items()}

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "the scenes at home and away show the same objects in the same pixels",
    torch.equal(home.masks, away.masks),
)
claim(
    "on backgrounds seen in training, at least 85 % of new objects are right",
    swap["at home"] >= 0.85,
    measured=swap["at home"],
)
claim(
    "the same objects on swapped backgrounds: under 35 % are right",
    swap["away"] < 0.35,
    measured=swap["away"],
)

# %% [markdown]
# Guessing would get half of them. The network is not merely unsure about pictures taken away from home, it is
# reliably wrong. Look at some pairs: the first two held-out pictures of both classes, flowers on the left, as small as the
# network sees them.

# %%
from labs import plot
from labs.evaluate import predict

chosen = [
    held.logical_and(home.data.labels == label).nonzero()[:2, 0] for label in (0, 1)
]
chosen = torch.cat(chosen)
figure, axes = plot.new(4.6, 2.7, rows=2, columns=4)
for row, data in zip(axes, (home_small, away_small), strict=True):
    guesses = predict(home_net, data.images[chosen]).argmax(1)
    titles = [f"says {data.classes[guess]}" for guess in guesses]
    plot.images(row, data.images[chosen], titles)
figure.suptitle(
    "Same objects, other places: the answer follows the place", fontsize=9
)
plot.show(
    figure,
    "Four objects, above at home and below away. At home each gets its class; away "
    "most answers follow the place.",
)

# %% [markdown]
# In the upper row, at home, read what the network says, then read the same column below. What you see is called
# *shortcut learning* {cite:p}`geirhos2020shortcut`: a rule that is right on your data, validation included, and has
# nothing to do with your question. You held out objects, but you did not hold out places.

# %% [markdown]
# ## The idea
#
# Suspicion is not enough; ask the network where it looks. *Grad-CAM* {cite:p}`selvaraju2017gradcam` takes the feature
# maps $A^k$ of a late layer, and asks by how much the score $s$ of a class would grow with each of them. That is the
# mean gradient of the map, and it becomes the weight of the map in a sum; what is negative is cut off:
#
# $$\alpha_k = \frac{1}{hw}\sum_{ij} \frac{\partial s}{\partial A^k_{ij}}, \qquad
#   \text{heat}_{ij} = \max\Bigl(0, \sum_k \alpha_k A^k_{ij}\Bigr).$$
#
# Two maps of two by two pixels are enough to do it by hand. The first fires at the top left and speaks for the class
# with weight 2; the second fires at the bottom right and speaks against it with weight 1.

# %%
maps = torch.tensor(
    [[[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]], requires_grad=True
)
weights = torch.tensor([2.0, -1.0])

score = (weights * maps.mean((1, 2))).sum()  # 2 * 1 - 1 * 0.5
(gradient,) = torch.autograd.grad(score, maps)
alpha = gradient.mean((1, 2))  # a quarter of each weight: the mean had four pixels
(alpha[:, None, None] * maps).sum(0).relu().detach()

# %% [markdown]
# The weights are 0.5 and -0.25. At the top left the heat is 0.5 times 4; at the bottom right it would be -0.25 times
# 2, and is cut off.

# %% [markdown]
# ## The block
#
# For a real network, a forward hook keeps the maps of the layer, and `autograd.grad` brings the gradient back to them
# without touching anybody's `.grad`. The heat map is as coarse as the layer, so it is enlarged to the picture.

# %%
from torch.nn.functional import interpolate


def heat_by_hand(model, images, layer, target):
    kept = []

    def keep(module, inputs, output):
        kept.append(output)

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        scores = target(model(images))  # [N]: one number per picture
    finally:
        handle.remove()
    maps = kept[0]  # [N,K,h,w]
    (gradient,) = torch.autograd.grad(scores.sum(), maps)
    alpha = gradient.mean((2, 3), keepdim=True)  # [N,K,1,1]
    heat = (alpha * maps).sum(1, keepdim=True).relu().detach()  # [N,1,h,w]
    heat = interpolate(heat, images.shape[-2:], mode="bilinear")[:, 0]  # [N,H,W]
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)


# %%
def best_score(logits):
    return logits.amax(1)


x = away_small.images[held].to(device())
by_hand = heat_by_hand(home_net, x, "layer2", best_score)
tuple(x.shape), tuple(by_hand.shape)

# %% [markdown]
# One heat map per picture. The score is that of the class that the network chose, so the map answers: what made you
# say this? The version in `labs.hooks` does the same, and also refuses a network in train mode, a layer that runs
# twice and a score that does not depend on the layer.

# %% tags=["nbval-check-output"]
from labs.hooks import grad_cam

difference = (by_hand - grad_cam(home_net, x, "layer2", best_score)).abs().max()
claim(
    "Grad-CAM by hand equals labs.hooks.grad_cam to 1e-5",
    difference < 1e-5,
    measured=difference,
)

# %% [markdown]
# ## Debug: where does it look?
#
# A heat map of one network tells you little, because you do not know what a healthy one looks like. So train a second
# network with the same recipe, on the same objects in the same pixels, but let every object stand anywhere.

# %%
mixed = flowers_with_masks("train", N, SIZE)
mixed_small = shrunk(mixed.data, 3)
seed_everything(0)
mixed_net = train_from_scratch(mixed_small.take(~held), EPOCHS)

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Both networks look at the same pictures: flowers away from the green, other things on the green. Where will the
# first network be hot, and where the second?
# :::

# %%
pictures = away_small.images[chosen].to(device())
figure, axes = plot.new(4.6, 2.7, rows=2, columns=4)
for row, net in zip(axes, (home_net, mixed_net), strict=True):
    heat = grad_cam(net, pictures, "layer2", best_score)
    for ax, image, hot in zip(row, pictures, heat, strict=True):
        plot.overlay(ax, image, hot)
figure.suptitle(
    "Heat for the chosen class: trained at home (above), mixed (below)", fontsize=9
)
plot.show(
    figure,
    "Heat of two networks over four pictures. Above much of it lies beside the "
    "objects, below more of it on them.",
)

# %% [markdown]
# In the upper row much of the heat lies beside the objects; below, more of it lies on them, though not in every picture.
# Pictures persuade, and they can be chosen to persuade. So count. The book knows the true mask of every object: which
# share of the heat falls on the object? A map that cares for nothing would get the share of the picture that the
# object covers.


# %%
import pandas as pd


def share_on_object(heat, masks):
    """Return the mean share of the heat that lies on the object, over pictures with any heat."""
    total = heat.sum((1, 2))  # [N]
    return ((heat * masks).sum((1, 2)) / total)[total > 0].mean().item()


masks = avg_pool2d(
    away.masks[held].float(), 3
)  # [N,32,32]: how much of each pixel is object
on_object = {
    name: share_on_object(grad_cam(net, x, "layer2", best_score).cpu(), masks)
    for name, net in {"trained at home": home_net, "mixed": mixed_net}.items()
}
area = masks.mean().item()
pd.Series({"an indifferent map": area, **on_object}, name="heat on the object").round(
    2
)

# %% tags=["nbval-check-output"]
gain = on_object["mixed"] / on_object["trained at home"]
claim(
    "trained with one background a class: the object gets under 1.25 times its area "
    "of heat",
    on_object["trained at home"] < 1.25 * area,
    measured=(on_object["trained at home"], 1.25 * area),
)
claim(
    "mixed backgrounds put 1.1 times as much heat on the object as one background a "
    "class",
    gain > 1.1,
    measured=gain,
)

# %% [markdown]
# The network that was trained at home gives the object about as much attention as its area deserves: it may as well
# not be there. The other one leans towards the object, though far from all of its heat lies there. The bounds of these
# claims are wide on purpose: from one training to the next such shares move by a third.
#
# A heat map is a hint, not a proof. (Some of its relatives draw convincing pictures even for networks with random
# weights; Grad-CAM passed that test of {cite:t}`adebayo2018sanity`.) The experiment that *proves* the shortcut changes
# the suspected cause and nothing else. You did it already in the symptom: swap the background.


# %%
def home_and_away(net):
    return {place: accuracy(net, data) for place, data in places.items()}


swapped = pd.DataFrame(
    {"trained at home": home_and_away(home_net), "mixed": home_and_away(mixed_net)}
).T
swapped.round(2)

# %% tags=["nbval-check-output"]
fall = swapped["at home"] - swapped["away"]
claim(
    "trained with one background a class: swapping backgrounds costs more than 50 "
    "points",
    fall["trained at home"] > 0.5,
    measured=fall["trained at home"],
)
claim(
    "trained with mixed backgrounds: swapping them costs less than 25 points",
    fall["mixed"] < 0.25,
    measured=fall["mixed"],
)

# %% [markdown]
# Compare the first column: the mixed network looks *worse* in the validation that you did at the beginning. Whoever
# chooses the network by that number ships the wrong one. The cure was not a better network, it was better data.
#
# ### Does a pretrained network cure it?
#
# MobileNetV2 {cite:p}`sandler2018mobilenetv2` has seen a million photographs. Freeze it, cut its classifier off, and
# let every picture pass through it once: what comes out, 1,280 numbers, is all that you need to train one linear layer
# in a moment. For that layer, subtract the mean picture and scale each to length one.

# %%
from torch import nn

from labs.models import mobilenet_v2

backbone = mobilenet_v2().to(device())
backbone.classifier = nn.Identity()
backbone.eval().requires_grad_(False)
features = {name: predict(backbone, composed.data.images, batch_size=60)
            for name, composed in {"home": home, "away": away, "mixed": mixed}.items()}  # fmt: skip
center = features["home"].mean(0)


def directions(z):
    return nn.functional.normalize(z - center.to(z.device))


z_home, z_away, z_mixed = (directions(z) for z in features.values())
tuple(z_home.shape)


# %%
def train_head(z, labels, classes=2, decay=2e-3):
    head = nn.Linear(z.shape[1], classes)
    adam = torch.optim.Adam(head.parameters(), lr=0.05, weight_decay=decay)
    fit(head, [(z, labels)], adam, epochs=100)  # one batch: all of them
    return head


def hits(head, z, labels):
    return (head(z).argmax(1) == labels).float().mean().item()


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# The backbone is frozen, so it cannot learn a shortcut. Only the last, linear layer is trained on the pictures taken
# at home. Will it fall for the background?
# :::
#
# Ask a little more at once: if a share of the pictures is replaced by the same objects in any place, how large must
# this share be? Each seed holds out other objects.


# %%
from labs.ablation import ablate


def train_with_mixed(share):
    held, y = hold_out_objects(home.data, torch.initial_seed()), home.data.labels
    count = int(share * N)
    z = torch.cat([z_mixed[:count], z_home[count:]])
    head = train_head(z[~held], y[~held])
    return {
        "at home": hits(head, z_home[held], y[held]),
        "away": hits(head, z_away[held], y[held]),
    }


SHARES = [0.0, 0.1, 0.25, 0.5, 1.0]
cure = ablate(
    train_with_mixed, {"share": 0.0}, vary="share", values=SHARES, seeds=range(5)
)
cure.frame().groupby("share")[["at home", "away"]].mean().round(2)

# %%
runs = cure.frame().drop(columns="seed")
runs = runs.melt("share", var_name="photographed", value_name="accuracy")
figure, ax = plot.new(6, 2.8)
plot.curves(ax, runs, x="share", y="accuracy", group="photographed")
ax.set(
    xlabel="share of training pictures with any background",
    title="Exceptions to the habit break the shortcut",
)
plot.show(
    figure,
    "Accuracy away climbs with the share of mixed pictures and meets accuracy at "
    "home, which falls a little.",
)

# %% [markdown]
# The band is the range over five choices of held-out objects. At the left end, without any exception, the frozen network falls far less deep than the one trained from scratch, and
# still it falls: its features describe the place as well as the object, and the linear layer uses whatever separates
# the classes. Every exception helps away from home. At home it costs a little: the shortcut was useful there.

# %% tags=["nbval-check-output"]
mean = cure.frame().groupby("share")[["at home", "away"]].mean()
claim(
    "transfer, one background a class: swapped backgrounds cost more than 10 points",
    mean.diff(axis=1)["away"][0.0] < -0.10,
    measured=mean.diff(axis=1)["away"][0.0],
)
claim(
    "transfer, all backgrounds mixed: swapped backgrounds cost less than 5 points",
    mean.diff(axis=1)["away"][1.0] > -0.05,
    measured=mean.diff(axis=1)["away"][1.0],
)
claim(
    "on swapped backgrounds transfer beats the network from scratch by 20 points",
    mean["away"][0.0] > swap["away"] + 0.2,
    measured=(mean["away"][0.0], swap["away"] + 0.2),
)

# %% [markdown]
# And what does Grad-CAM say about the two linear layers at the ends of that curve? The last maps of MobileNetV2 have
# three by three pixels here. The target may be any function of the model's output, so the head goes in there.

# %%
y = home.data.labels
heads = {
    "trained at home": train_head(z_home[~held], y[~held]),
    "mixed": train_head(z_mixed[~held], y[~held]),
}


def heat_of_head(head):
    head.to(device())
    images = away.data.images[held].to(device())
    return grad_cam(
        backbone, images, "features.18", lambda z: head(directions(z)).amax(1)
    ).cpu()


coarse = {
    name: share_on_object(heat_of_head(h), away.masks[held])
    for name, h in heads.items()
}
correct = {
    name: hits(head.cpu(), z_away[held], y[held]) for name, head in heads.items()
}
pd.DataFrame({"heat on the object": coarse, "accuracy away": correct}).round(2)

# %% tags=["nbval-check-output"]
gap = correct["mixed"] - correct["trained at home"]
claim(
    "two heads on one backbone differ by more than 10 points on swapped backgrounds",
    gap > 0.10,
    measured=gap,
)
gap = abs(coarse["mixed"] - coarse["trained at home"])
claim(
    "two heads that differ by 10 points put their heat on the object alike, to 5 "
    "points",
    gap < 0.05,
    measured=gap,
)

# %% [markdown]
# The heat maps do not see the difference that the swap makes plain: on a grid of three by three there is no room beside
# the object. A quiet heat map is no proof of innocence. Use Grad-CAM to find a suspect, and a swap to convict it.

# %% [markdown]
# ## Experiment: dirty files, then dirty labels
#
# From here on there are eight classes, every object may stand anywhere, and the data are dirty. First the files. Write
# the training pictures into class folders, and damage every tenth in one of five ways.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

from torchvision.utils import save_image

from labs.data import faults, photos

train, test = photos("train", 720, SIZE), photos("test", 400, SIZE)
folder = TemporaryDirectory()
root = Path(folder.name) / "photos"
for number, (image, label) in enumerate(train):
    file = root / train.classes[label] / f"{number:04}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_image(image, file)

KINDS = [faults.truncated, faults.empty, faults.html, faults.zeroed, faults.grey_band]
answer_key = faults.damage(root, share=0.1, kinds=KINDS)
answer_key

# %% [markdown]
# The lesson [Survive bad data](01_survive_bad_data) tells what each of them does to a training run. Here, scan once before
# training, and go on with the files that decode without a warning.

# %%
from labs.data.robust import RobustImageDataset
from labs.data.scan import scan_images

scan = scan_images(root, workers=0)
scan

# %%
reported = {path for path, _ in [*scan.bad, *scan.suspicious]}
files = [path for path in scan.good if path not in reported]
survivors = RobustImageDataset(files, classes=train.classes, on_error="stop")

images, labels = zip(*survivors, strict=True)
rows = torch.tensor([int(path.stem) for path in files])
clean = replace(
    train.take(rows), images=torch.stack(images), labels=torch.tensor(labels)
)
clean

# %% tags=["nbval-check-output"]
damaged = {fault.path for fault in answer_key.faults}
claim(
    "the scan of the folder reports every damaged file",
    damaged <= reported,
    measured=(damaged, reported),
)
claim(
    "the scan of the folder reports no sound file",
    reported <= damaged,
    measured=(reported, damaged),
)
claim(
    "the files that survive the scan keep the labels that were written",
    torch.equal(clean.labels, train.labels[rows]),
)

# %% [markdown]
# The files are sound now. Wrong *labels* leave no trace in a file, so nothing has been found yet. How much do they
# cost? Three learners are to answer: a network trained from scratch, and two linear heads on the frozen features,
# which differ in one number: the weight decay.

# %%
z_train, z_test = (
    predict(backbone, data.images, batch_size=60) for data in (clean, test)
)
center = z_train.mean(0)
z_train, z_test = directions(z_train), directions(z_test)

tiny, tiny_test = shrunk(clean, 4), shrunk(test, 4)
EPOCHS_TINY = budget(cpu=3, gpu=30)
DECAYS = {"transfer": 0.0, "transfer, weight decay": 2e-3}


def train_on_noisy(share, learner):
    noisy = faults.mislabel(clean.labels, share, seed=torch.initial_seed()).labels
    if learner in DECAYS:
        head = train_head(z_train, noisy, len(clean.classes), DECAYS[learner])
        return {
            "accuracy": hits(head, z_test, test.labels),
            "fits": hits(head, z_train, noisy),
        }
    given = replace(tiny, labels=noisy)
    net = train_from_scratch(given, EPOCHS_TINY, width=8)
    return {"accuracy": accuracy(net, tiny_test), "fits": accuracy(net, given)}


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Four of ten labels are wrong, each replaced by another class at random. Out of 100 test pictures that the head got right
# before, how many does it get right now? And does the weight decay help or hurt?
# :::

# %%
NOISE = [0.0, 0.2, 0.4, 0.6]
studies = {
    learner: ablate(
        train_on_noisy, {"share": 0.0, "learner": learner}, "share", NOISE
    )
    for learner in ["from scratch", *DECAYS]
}
noise = pd.concat(
    [study.frame().assign(learner=name) for name, study in studies.items()]
)

# %%
figure, ax = plot.new(6, 3)
plot.curves(ax, noise, x="share", y="accuracy", group="learner")
ax.axhline(1 / len(clean.classes), color="0.5", linestyle=":")
ax.set(xlabel="share of wrong labels", ylabel="test accuracy", ylim=(0, 0.9))
ax.set_title("One number decides what wrong labels cost")
plot.show(
    figure,
    "Test accuracy against wrong labels: with weight decay the curve falls slowly, "
    "without it steeply.",
)

# %%
noise.groupby(["learner", "share"], sort=False)[["accuracy", "fits"]].agg(
    ["mean", "std"]
).round(2)

# %% [markdown]
# The test objects and places are new to all three; the dotted line is guessing. With clean labels the two heads are close to each other.
# With wrong ones, the head without decay falls steeply, and the other hardly. The table tells why: `fits` is the share of the *given* labels that the head reproduces on its training pictures. Without decay it
# learns all of them by heart, the wrong ones too: 1,280 features leave enough freedom for any labels of so few
# pictures. With decay it refuses, and agrees with about as many labels as are right. The network from scratch has too
# few pictures, and here too few epochs, to get far at all.

# %% tags=["nbval-check-output"]
at = noise.groupby(["learner", "share"])[["accuracy", "fits"]].mean()
cost = {
    name: at.loc[(name, 0.0), "accuracy"] - at.loc[(name, 0.4), "accuracy"]
    for name in DECAYS
}
claim(
    "40 % wrong labels cost the head without decay more than 15 points",
    cost["transfer"] > 0.15,
    measured=cost["transfer"],
)
claim(
    "40 % wrong labels cost the head with weight decay less than 12 points",
    cost["transfer, weight decay"] < 0.12,
    measured=cost["transfer, weight decay"],
)
claim(
    "without weight decay over 95 % of the given labels, 40 % of them wrong, are "
    "learnt by heart",
    at.loc[("transfer", 0.4), "fits"] > 0.95,
    measured=at.loc[("transfer", 0.4), "fits"],
)
claim(
    "with weight decay under 75 % of the given labels, 40 % of them wrong, are "
    "learnt by heart",
    at.loc[("transfer, weight decay", 0.4), "fits"] < 0.75,
    measured=at.loc[("transfer, weight decay", 0.4), "fits"],
)
claim("transfer with 60 % wrong labels beats clean labels from scratch by 5 points", at.loc[("transfer, weight decay", 0.6), "accuracy"] > at.loc[("from scratch", 0.0), "accuracy"] + 0.05, measured=(at.loc[('transfer, weight decay', 0.6), 'accuracy'], at.loc[('from scratch', 0.0), 'accuracy'] + 0.05))  # fmt: skip

# %% [markdown]
# {cite:t}`rolnick2017noise` found the same on large sets: networks withstand a great many random mistakes. But do not
# conclude that wrong labels are harmless. These mistakes were drawn for each *picture*, and every object comes
# several times: its other pictures outvote the wrong one. People make another kind of mistake. Who takes a tomato for
# a fruit does so every time. Give the same share of *objects* a wrong label, in all their pictures.

# %%
SHARE = 0.4


def train_on_mistakes(per):
    if per == "picture":
        noisy = faults.mislabel(clean.labels, SHARE, seed=torch.initial_seed()).labels
    else:
        objects, which = clean.sources.unique(return_inverse=True)
        truth = torch.zeros_like(objects).scatter(0, which, clean.labels)
        noisy = faults.mislabel(truth, SHARE, seed=torch.initial_seed()).labels[which]
    head = train_head(z_train, noisy, len(clean.classes))
    return hits(head, z_test, test.labels)


mistakes = ablate(
    train_on_mistakes,
    {"per": "picture"},
    "per",
    ["picture", "object"],
    seeds=range(5),
)
mistakes.table().round(3)

# %% tags=["nbval-check-output"]
delta = mistakes.table().loc["object", "delta"]
claim(
    "label errors per object cost at least 3 points more than as many per picture",
    delta < -0.03,
    measured=delta,
)

# %% [markdown]
# The column `delta` is what consistency costs. Random slips average out; a consistent mistake is, for the network, simply
# another truth. Ask of any result on label noise which of the two it was measured with.
#
# ### Find them
#
# Let a head judge pictures that it was not trained on: split the pictures into five folds, train on four, predict the
# fifth. The obvious rule suspects every label that is not the top prediction. *Confident learning*
# {cite:p}`northcutt2021confident` asks for more: the probability of another class must reach what this class gets, on average,
# where it is the given label. A class that the head is never sure of thus has a low bar.


# %%
def probabilities_from_folds(noisy, folds=5):
    order = torch.randperm(len(noisy), generator=torch.Generator().manual_seed(0))
    judged = torch.empty(len(noisy), len(clean.classes))
    for fold in order.chunk(folds):
        others = torch.ones(len(noisy), dtype=torch.bool).index_fill(0, fold, False)
        head = train_head(z_train[others], noisy[others], len(clean.classes))
        judged[fold] = head(z_train[fold]).softmax(1).detach()
    return judged


def suspects(judged, noisy):
    classes = range(judged.shape[1])
    bar = torch.stack([judged[noisy == label, label].mean() for label in classes])
    confident = judged.where(
        judged >= bar, 0
    )  # [N,K]: 0 where the bar is not reached
    return (confident.argmax(1) != noisy) & confident.any(1)


# %%
rates = {}
for share in (0.0, 0.2):
    answers = faults.mislabel(clean.labels, share)
    judged = probabilities_from_folds(answers.labels)
    rules = {
        "top prediction": judged.argmax(1) != answers.labels,
        "confident": suspects(judged, answers.labels),
    }
    for rule, found in rules.items():
        right = (found & answers.wrong).sum().item()
        rates[share, rule] = {"suspects": found.sum().item(), "precision": right / max(1, found.sum().item()),
                              "recall": right / max(1, answers.wrong.sum().item())}  # fmt: skip
finding = pd.DataFrame(rates).T.rename_axis(["wrong", "rule"])
finding.round(2)

# %% [markdown]
# Read the first two rows first: with no wrong label at all, the obvious rule still suspects a large part of the
# pictures, because it takes every mistake of the head for one of yours. With a fifth of the labels wrong it finds nearly all of them,
# among many false alarms. Confident learning finds fewer, and is right far more often. Which one you want
# depends on who looks at the suspects.

# %% tags=["nbval-check-output"]
claim(
    "clean labels: confident learning suspects less than 5 % of them",
    finding.loc[(0.0, "confident"), "suspects"] < 0.05 * len(clean),
    measured=(finding.loc[(0.0, "confident"), "suspects"], 0.05 * len(clean)),
)
claim("20 % wrong labels: confident learning is 10 points more precise than the top prediction", finding.loc[(0.2, "confident"), "precision"] > finding.loc[(0.2, "top prediction"), "precision"] + 0.10, measured=(finding.loc[(0.2, 'confident'), 'precision'], finding.loc[(0.2, 'top prediction'), 'precision'] + 0.1))  # fmt: skip
claim(
    "20 % wrong labels: disagreeing with the top prediction finds 90 % of them",
    finding.loc[(0.2, "top prediction"), "recall"] > 0.9,
    measured=finding.loc[(0.2, "top prediction"), "recall"],
)

# %%
ranked = (judged.amax(1) * rules["confident"]).argsort(descending=True)[:5]
figure, axes = plot.new(5.6, 1.6, columns=5)
titles = [
    f"labelled {clean.classes[answers.labels[i]]}\nlooks like {clean.classes[judged[i].argmax()]}"
    for i in ranked
]
plot.images(axes, shrunk(clean, 3).images[ranked], titles)
plot.show(
    figure,
    "Five pictures whose given label contradicts what they show, the most confident "
    "suspects first.",
)

# %% [markdown]
# These are the five that the head is surest about. Look at them before you throw anything away. What is it worth to throw all suspects away?

# %%
kept = ~rules["confident"]
worth = {
    name: {"all": hits(train_head(z_train, answers.labels, 8, decay), z_test, test.labels),
           "without suspects": hits(train_head(z_train[kept], answers.labels[kept], 8, decay), z_test, test.labels)}
    for name, decay in DECAYS.items()
}  # fmt: skip
worth = pd.DataFrame(worth).T
worth.round(2)

# %% tags=["nbval-check-output"]
gains = worth["without suspects"] - worth["all"]
claim(
    "cleaning by cross-validation gains the head without decay at least 4 points",
    gains["transfer"] > 0.04,
    measured=gains["transfer"],
)
claim(
    "cleaning gains the head without decay more than the head with it",
    gains["transfer"] > gains["transfer, weight decay"],
    measured=(gains["transfer"], gains["transfer, weight decay"]),
)

# %% [markdown]
# Cleaning helps most where the labels would have been learnt by heart. The head with weight decay had ignored most of
# them anyway, and some of the pictures thrown away were good ones.

# %% [markdown]
# ## Reproduce: networks can learn any labels
#
# **The paper says.** {cite:t}`zhang2017rethinking` replace all labels of a training set by random ones. The same
# networks that generalise well on true labels still reach a training error of zero, with the same settings, and it takes
# only a small factor more time. They do so on pictures of pure noise too, and even faster than on real
# pictures with random labels. Test accuracy is then that of guessing.
#
# **We measure** a small residual network on 128 of our pictures: with true labels, with random labels, and with noise
# for pixels and random labels.

# %%
ROUNDS, SMALL = 16, 128
random = torch.Generator().manual_seed(0)
few = tiny.take(torch.randperm(len(tiny), generator=random)[:SMALL])
shuffled = replace(
    few, labels=torch.randint(len(few.classes), (SMALL,), generator=random)
)
static = replace(shuffled, images=torch.randn(few.images.shape, generator=random))
arms = {"true labels": few, "random labels": shuffled, "random pixels": static}


def learn_by_heart(data):
    seed_everything(0)
    net = resnet_cifar(8, 16, num_classes=len(data.classes)).to(device())
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    batches = DataLoader(data, batch_size=16, shuffle=True)
    history = fit(
        net, batches, adam, ROUNDS, score=lambda n: {"train": accuracy(n, data)}
    )
    return history.score_table()["train"], accuracy(net, tiny_test)


curves, tested = {}, {}
for name, data in arms.items():
    curves[name], tested[name] = learn_by_heart(data)

# %%
figure, ax = plot.new(6, 2.8)
for name, curve in curves.items():
    ax.plot(curve.index + 1, curve, marker="o", ms=4, label=name)
ax.set(
    xlabel="epoch",
    ylabel="training accuracy",
    title="Any labels can be learnt by heart",
)
ax.legend()
plot.show(
    figure,
    "Training accuracy by epoch: true labels, random labels and random pixels all "
    "reach one.",
)

# %%
fitted = {name: int((curve >= 0.95).idxmax()) + 1 for name, curve in curves.items()}
pd.DataFrame(
    {
        "epochs to 95 %": fitted,
        "best training accuracy": {k: c.max() for k, c in curves.items()},
        "test": tested,
    }
).round(2)

# %% tags=["nbval-check-output"]
claim(
    "true labels, random labels and random pixels are all learnt to at least 95 %",
    all(curve.max() >= 0.95 for curve in curves.values()),
    measured={name: curve.max() for name, curve in curves.items()},
)
claim(
    "random pixels are learnt by heart in fewer epochs than labels of pictures, as "
    "in the paper",
    fitted["random pixels"] < min(fitted["true labels"], fitted["random labels"]),
    measured=(
        fitted["random pixels"],
        min(fitted["true labels"], fitted["random labels"]),
    ),
)
claim(
    "random labels take less than twice the epochs of true ones to learn by heart",
    fitted["random labels"] < 2 * fitted["true labels"],
    measured=(fitted["random labels"], 2 * fitted["true labels"]),
)
claim(
    "trained on random labels, the test accuracy is below 22 %",
    tested["random labels"] < 0.22,
    measured=tested["random labels"],
)
claim(
    "trained on true labels, the test accuracy is above that of random labels",
    tested["true labels"] > tested["random labels"],
    measured=(tested["true labels"], tested["random labels"]),
)

# %% [markdown]
# **Why they differ.** The paper finds random labels slower than true ones, on tens of thousands of pictures. Here they
# are about equally fast: with so few pictures nothing general helps, and the true labels have to be learnt by heart as well.
# The main point survives any scale: a training accuracy of 100 % says nothing about whether the labels are right.

# %% [markdown]
# ## Bug hunt: the pretrained network that was not
#
# A team saves its network from a training run on several GPUs, where it is wrapped in `nn.DataParallel`, and
# loads it for transfer. Nothing is raised. The features are worth as much as those of a random network, because that is what they are.
# It was met in [pytorch/examples#1029](https://github.com/pytorch/examples/issues/1029) and
# [pytorch/pytorch#141256](https://github.com/pytorch/pytorch/issues/141256); in
# [mosaicml/composer PR#2216](https://github.com/mosaicml/composer/pull/2216) a default was changed for that reason.


# %% tags=["hunt-bug"]
def load_pretrained(model, state):
    """Copy a checkpoint into the model, saved with or without a DataParallel wrapper around it."""
    model.load_state_dict(state, strict=False)
    return model


# %%
checkpoint = nn.DataParallel(mobilenet_v2()).state_dict()
loaded = load_pretrained(mobilenet_v2(pretrained=False), checkpoint).state_dict()
weights = [name for name in loaded if name.endswith(".weight")]
true = mobilenet_v2().state_dict()
arrived = sum(torch.equal(loaded[name], true[name]) for name in weights)
f"{arrived} of {len(weights)} weights arrived"

# %% [markdown]
# Not one, and no error. Ask the checker what else is wrong.

# %%
from labs.hunts.foundations import check_checkpoint

check_checkpoint(load_pretrained)

# %% [markdown]
# Only the checkpoint without a wrapper arrives, and nothing is ever refused. Repair the function in a copy of the cell.
# A checkpoint must arrive completely or not at all: one that does not fit has to be
# an error.
#
# :::{dropdown} Hint 1
# `load_state_dict` returns something. Print it.
# :::
#
# :::{dropdown} Hint 2
# Put the first names of `checkpoint` and of `loaded` side by side. Which argument turned the difference into silence?
# :::
#
# :::{dropdown} Hint 3
# Take the wrapper's part from the *beginning* of each name, once, and only where it is. Then let PyTorch be strict again. Beware:
# `str.lstrip` takes a set of letters, not a word.
# :::


# %% tags=["hunt-solution", "hide-cell"]
def load_pretrained(model, state):
    """Copy a checkpoint into the model, saved with or without a DataParallel wrapper around it."""
    bare = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    model.load_state_dict(
        bare
    )  # strict: a name that is missing or left over is an error
    return model


# %% tags=["nbval-check-output"]
claim(
    "the repaired loader of pretrained weights passes every probe",
    check_checkpoint(load_pretrained).passed,
    measured=check_checkpoint(load_pretrained),
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** With eight classes, the right label was still the most frequent one at 60 % noise. What happens with two classes, flower
# or other, at 30, 50 and 70 % wrong labels? Write your guess down, then measure it with `z_mixed` and `train_head`.
#
# :::{dropdown} Solution 1
# With two classes a wrong label is always the same other class. At one half nothing is left to learn; beyond it, the labels
# describe the opposite task, and the head learns that one. The next cell measures it.
# :::

# %% tags=["hide-cell"]
binary = {}
for share in (0.0, 0.3, 0.5, 0.7):
    noisy = faults.mislabel(y, share).labels
    binary[share] = hits(
        train_head(z_mixed[~held], noisy[~held]), z_mixed[held], y[held]
    )
pd.Series(binary, name="accuracy").rename_axis("wrong").round(2)

# %% [markdown]
# **Exercise 2.** After the last maps, our networks do nothing but average each map and apply a linear layer. Then Grad-CAM needs no gradient:
# show that $\alpha_k$ is the weight of the linear layer divided by the number of pixels of a map. (Weighting the maps by it is the older *CAM* of
# {cite:t}`zhou2016cam`.) Compare with `grad_cam` on `home_net`.
#
# :::{dropdown} Solution 2
# The score is $\sum_k w_k \frac{1}{hw} \sum_{ij} A^k_{ij} + b$, so its derivative by every pixel of map $k$ is $w_k / (hw)$, and so is the mean.
# The factor $1/(hw)$ is the same for all maps and vanishes when the heat is divided by its maximum.
# :::

# %% tags=["hide-cell"]
from labs.hooks import capture

with torch.no_grad(), capture(home_net, "layer3") as kept_maps:
    best = home_net(x).argmax(1)
cam = torch.einsum(
    "nk,nkhw->nhw", home_net.fc.weight[best].detach(), kept_maps["layer3"]
).relu()
cam = interpolate(cam[:, None], x.shape[-2:], mode="bilinear")[:, 0]
cam = cam / cam.amax((1, 2), keepdim=True).clamp(min=1e-12)
bool((cam - grad_cam(home_net, x, "layer3", best_score)).abs().max() < 1e-5)

# %% [markdown]
# **Exercise 3.** You validated on new objects in known places. What would you have seen with new objects in *new* places, at home? Use
# `flowers_with_masks("test", ..., backgrounds=HOME)`, whose backgrounds no training picture has.
#
# :::{dropdown} Solution 3
# Much less than in the validation: the network had learnt a few places by heart, not gardens in general. {cite:t}`beery2018terra` find
# the same for animals in front of camera traps: new places are harder than new pictures from old ones.
# :::

# %% tags=["hide-cell"]
new_places = flowers_with_masks("test", 200, SIZE, backgrounds=HOME)
round(accuracy(home_net, shrunk(new_places.data, 3)), 2)

# %% [markdown]
# ## In practice
#
# - Split by whatever could be learnt instead of your classes: object, place, camera, patient, day. `sklearn.model_selection.GroupKFold`
#   does it for a list of groups.
# - Keep a small test set that breaks the habits of your training set on purpose. It costs an afternoon, and nothing else shows a shortcut.
# - `captum` and `pytorch-grad-cam` have many more attribution methods. Compare two networks, not one network with your hopes.
# - For wrong labels in earnest, `cleanlab` implements confident learning with ranking, duplicates and multi-label tasks. Let a person look at what it
#   finds.
# - Freeze a backbone with `eval()` as well as `requires_grad_(False)`: batch norms in train mode keep moving their statistics.
# - Read weights with `torch.load(..., weights_only=True)`, and look at what `load_state_dict` returns.

# %% [markdown]
# ## You can now
#
# - prove that a classifier uses the background, with a heat map for the suspicion and a swap for the proof;
# - train a linear head on frozen features, and choose its weight decay with wrong labels in mind;
# - measure the cost of wrong labels over seeds, find many of them, and load a checkpoint that really arrives.
