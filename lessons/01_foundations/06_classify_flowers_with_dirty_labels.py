# %% [markdown]
# # Classify flowers with dirty labels
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** find out whether a classifier looks at the object or at what lies behind it · use a pretrained
# network as a feature extractor, and know what it does and does not save you from · measure what wrong labels cost, and
# find them.
#
# **You need** convolutions, cross entropy, and from
# [Watch a network see digits](05_watch_a_network_see_digits) hooks, `fit` and `ablate`.
#
# **Time** read 25 min · debug 30 min · experiment 40 min · reproduce 15 min · hunt 20 min · exercises 40 min
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
    """Return which pictures show one of a random quarter of each class's objects."""
    random, held = torch.Generator().manual_seed(seed), []
    for label in range(len(data.classes)):
        objects = data.sources[data.labels == label].unique()
        order = torch.randperm(len(objects), generator=random)
        held.append(objects[order[: len(objects) // 4]])
    return torch.isin(data.sources, torch.cat(held))  # [N] of bool


held = hold_out_objects(home.data, seed=0)
{"train on": (~held).sum().item(), "validate on": held.sum().item()}

# %% [markdown]
# Train a small residual network from scratch. It reads the pictures at a third of their size, 32 by 32 pixels.

# %%
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
from dataclasses import replace

from torch.nn.functional import avg_pool2d

from labs.evaluate import accuracy

EPOCHS = budget(cpu=12, gpu=30)


def shrunk(data, factor):
    return replace(data, images=avg_pool2d(data.images, factor))


home_small = shrunk(home.data, 3)
seed_everything(0)
home_net = train_from_scratch(home_small.take(~held), EPOCHS)
round(accuracy(home_net, home_small.take(held)), 2)

# %% [markdown]
# Nearly all are right, on objects that the network has never seen. You ship it. Then somebody sends you the same
# objects, photographed elsewhere: flowers indoors, a bird on the grass. With the same seed, the book puts the same
# objects into the same pixels, and changes only what is behind them.
#
# :::{admonition} Predict
# :class: predict
# Guessing gets half of the pictures right. What share will the network get right away from home?
# :::

# %%
AWAY = {"flower": ELSEWHERE, "other": {"green": 1}}
away = flowers_with_masks("train", N, SIZE, backgrounds=AWAY)
away_small = shrunk(away.data, 3)

places = {"at home": home_small.take(held), "away": away_small.take(held)}
swap = {place: accuracy(home_net, data) for place, data in places.items()}
{place: round(share, 2) for place, share in swap.items()}

# %% [markdown]
# The share is far below one half. So the network is not merely unsure about pictures taken away from home, it is
# reliably wrong.

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "trained with one background a class: at least 85 % of new objects are right on "
    "it",
    swap["at home"] >= 0.85,
    measured=swap["at home"],
)
claim(
    "trained with one background a class: under 35 % are right on swapped "
    "backgrounds",
    swap["away"] < 0.35,
    measured=swap["away"],
)

# %% [markdown]
# How many pictures lose the right answer when only the background changes?

# %%
from labs.evaluate import predict

right = {
    place: predict(home_net, data.images).argmax(1) == data.labels
    for place, data in places.items()
}
changed = (right["at home"] & ~right["away"]).nonzero()[:, 0]
flowers = places["away"].labels[changed] == 0
chosen = torch.cat([changed[flowers][:2], changed[~flowers][:1]])
print(f"{len(changed)} of {held.sum()} pictures")

# %%
from labs import plot

figure, axes = plot.new(height=5.3, rows=2, columns=3)
scenes = {"at home": home.data.take(held), "away": away.data.take(held)}
for line, (place, data) in zip(axes, scenes.items(), strict=True):
    said = predict(home_net, places[place].images[chosen]).argmax(1)
    plot.images(line, data.images[chosen], [f"“{data.classes[k]}”" for k in said])
    for ax in line:
        ax.title.set_fontsize(10)
plot.show(
    figure,
    "Three of these pictures at home (above) and away (below), with the answer of "
    "the network: only the background differs, and the answer follows it.",
)

# %% [markdown]
# Most pictures lose their right answer. What you see is called
# *shortcut learning* {cite:p}`geirhos2020shortcut`: a rule that is right on your data, validation included, and has
# nothing to do with your question. You held out objects, but you did not hold out places.

# %% [markdown]
# ## The idea
#
# Suspicion is not enough; find out where the network looks. Here it is, drawn from a real run.

# %%
from labs import diagram

PARTS = ["input", "conv1", "layer1", "layer2", "layer3", "fc", "output"]
wiring = diagram.trace(home_net.cpu(), home_small.images[:2], PARTS)

# %%
drawing = diagram.draw(
    wiring,
    [PARTS[:4], [*PARTS[:3:-1], None]],
    groups={"its maps become the heat map": ["layer2"]},
)
plot.show(
    drawing,
    "From the picture to the last maps the channels grow and the pixels get fewer; "
    "the last layer turns the maps into two scores.",
)

# %% [markdown]
# *Grad-CAM* {cite:p}`selvaraju2017gradcam` takes the feature
# maps $A^k$ of a late layer, here `layer2`, and asks by how much the score $s$ of a class would grow with each of them. That is the
# mean gradient of the map, and it becomes the weight of the map in a sum; what is negative is cut off:
#
# $$\alpha_k = \frac{1}{hw}\sum_{ij} \frac{\partial s}{\partial A^k_{ij}}, \qquad
#   \text{heat}_{ij} = \max\Bigl(0, \sum_k \alpha_k A^k_{ij}\Bigr).$$
#
# Two maps of two by two pixels are enough to do it by hand. The first is active at the top left and speaks for the class
# with weight 2; the second is active at the bottom right and speaks against it with weight 1.

# %%
maps = torch.zeros(2, 2, 2)
maps[0, 0, 0], maps[1, 1, 1] = 4.0, 2.0
maps.requires_grad_()
weights = torch.tensor([2.0, -1.0])

score = (weights * maps.mean((1, 2))).sum()  # 2 * 1 - 1 * 0.5
(gradient,) = torch.autograd.grad(score, maps)
alpha = gradient.mean((1, 2))  # a quarter of each weight: the mean had four pixels
(alpha[:, None, None] * maps).sum(0).relu().detach()

# %% [markdown]
# The weights $\alpha$ are 0.5 and -0.25. At the top left the heat is 0.5 times 4; at the bottom right it would be -0.25 times
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


home_net.to(device())
x = away_small.images[held].to(device())
by_hand = heat_by_hand(home_net, x, "layer2", best_score)
tuple(x.shape), tuple(by_hand.shape)

# %% [markdown]
# One heat map per picture. The score is that of the class that the network chose, so the map answers: what made you
# say this? The version in `labs.hooks` does the same, and also refuses a network in train mode, a layer that runs
# twice and a score that does not depend on the layer.

# %% tags=["nbval-check-output"]
from labs.hooks import grad_cam

difference = (
    (by_hand - grad_cam(home_net, x, "layer2", best_score)).abs().max().item()
)
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
nets = {"trained at home": home_net, "mixed": mixed_net}

# %% [markdown]
# The book knows the true mask of every object, so you can count which share of the heat falls on the object. A map that
# prefers no place gets the share of the picture that the object covers.


# %%
from labs.hooks import grad_cam


def shares_on_object(heat, masks):
    """Return for each picture with any heat the share that lies on the object."""
    total = heat.sum((1, 2))  # [N]
    return ((heat * masks).sum((1, 2)) / total)[total > 0]


# how much of each pixel is object: [N,32,32]
masks = avg_pool2d(away.masks[held].float(), 3)

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Both networks look at the same pictures: flowers away from the green, other things on the green. What share of its heat
# will the first network have on the object, compared with the share that the object covers? And the second network?
# :::

# %%
import pandas as pd

heats = {
    name: grad_cam(net, x, "layer2", best_score).cpu() for name, net in nets.items()
}
on_object = {k: shares_on_object(h, masks).mean().item() for k, h in heats.items()}
on_object["the object covers"] = masks.mean().item()
pd.Series(on_object, name="heat on the object").round(2)

# %% [markdown]
# The network that was trained at home gives the object about as much heat as its area deserves: the object may as well
# not be there. The other one prefers the object, though most of its heat lies elsewhere too. The next figure shows the three pictures of the first one; three pictures may well differ from the mean.

# %%
figure, axes = plot.new(height=5.3, rows=2, columns=3)
for line, heat in zip(axes, heats.values(), strict=True):
    for ax, spot in zip(line, chosen.tolist(), strict=True):
        plot.overlay(ax, x[spot].cpu(), heat[spot])
        share = shares_on_object(heat[[spot]], masks[[spot]]).mean().item()
        ax.set_title(f"{share:.0%} on the object", fontsize=10)
plot.show(
    figure,
    "The heat of both networks, trained at home (above) and mixed (below), lies on "
    "the background as well as on the object.",
    alt="The three objects of the first figure, away from home, under the heat maps "
    "of both networks, with the share of the heat that lies on the object.",
)

# %% [markdown]
# Single pictures persuade, and they can be chosen to persuade. The mean over all held-out pictures is the better witness, and even that
# moves by a third from one training to the next. The bounds of the claims are wide for this reason.

# %% tags=["nbval-check-output"]
shares = on_object["trained at home"] / on_object["the object covers"]
claim(
    "one background a class, 85 % right on it: the share of heat on the object is "
    "under 1.25 times its share of the picture",
    swap["at home"] >= 0.85 and shares < 1.25,
    measured=(swap["at home"], shares),
)
gain = on_object["mixed"] / on_object["trained at home"]
claim(
    "mixed backgrounds put 1.1 times as much heat on the object as one background a "
    "class",
    gain > 1.1,
    measured=gain,
)

# %% [markdown]
# A heat map is a hint, not a proof. (Some of its relatives draw convincing pictures even for networks with random
# weights; Grad-CAM passed that test of {cite:t}`adebayo2018sanity`.) The experiment that *proves* the shortcut changes
# the suspected cause and nothing else. You did it already in the symptom: swap the background.

# %%
swapped = pd.DataFrame(
    {
        name: {place: accuracy(net, data) for place, data in places.items()}
        for name, net in nets.items()
    }
).T
swapped.round(2)

# %% [markdown]
# For the mixed network the swap costs nothing, though it is not good anywhere yet. But compare the first column: it looks *worse* in the validation that you did at the beginning. Whoever
# chooses the network by that number ships the wrong one. The cure was not a better network, it was better data.

# %% tags=["nbval-check-output"]
fall = swapped["at home"] - swapped["away"]
claim(
    "swapping backgrounds costs 40 points more after training with one background a "
    "class than with mixed ones",
    fall["trained at home"] - fall["mixed"] > 0.4,
    measured=fall["trained at home"] - fall["mixed"],
)

# %% [markdown]
# ### Does a pretrained network cure it?
#
# MobileNetV2 {cite:p}`sandler2018mobilenetv2` has seen a million photographs. Freeze it, cut its classifier off, and
# let every picture pass through it once: what comes out, 1,280 numbers, is all that you need to train one linear layer,
# the *head*, in a moment. (The drawing leaves out most blocks of the backbone.)

# %%
from torch import nn

from labs.models import mobilenet_v2

backbone = mobilenet_v2().to(device())
backbone.classifier = nn.Identity()
backbone = backbone.eval().requires_grad_(False)

# %%
STAGES = {f"block {k}": f"0.features.{k}" for k in (3, 6, 13)}
STAGES |= {"last maps": "0.features.18", "features": "0.classifier", "head": "1"}
whole = nn.Sequential(backbone, nn.Linear(1280, 2).to(device()))
wiring = diagram.trace(
    whole,
    home.data.images[:2].to(device()),
    {"input": "input", **STAGES, "output": "output"},
)

# %%
kept = list(STAGES)
drawing = diagram.draw(
    wiring,
    [["input", *kept[:3]], ["output", *kept[:2:-1]]],
    groups={"frozen": kept[:5], "trained": ["head"]},
)
plot.show(
    drawing,
    "Everything up to the 1,280 features is frozen; only the head is trained.",
)

# %% [markdown]
# For the head, subtract the mean of the features and scale each picture's features to length one.

# %%
features = [
    predict(backbone, scene.data.images, batch_size=60)
    for scene in (home, away, mixed)
]
center = features[0].mean(0)


def directions(z):
    return nn.functional.normalize(z - center.to(z.device))


z_home, z_away, z_mixed = map(directions, features)
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
# Ask a little more at once: if a share of the training pictures is replaced by the same objects in any place, how large must
# this share be? Each seed holds out other objects.


# %%
from labs.ablation import ablate

y = home.data.labels


def train_with_mixed(share):
    held, count = hold_out_objects(home.data, torch.initial_seed()), int(share * N)
    z = torch.cat([z_mixed[:count], z_home[count:]])
    head = train_head(z[~held], y[~held])
    return {
        "at home": hits(head, z_home[held], y[held]),
        "away": hits(head, z_away[held], y[held]),
    }


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# The backbone is frozen, so it cannot learn a shortcut. Only the last, linear layer is trained on the pictures taken
# at home. Will it fall for the background?
# :::

# %%
SHARES = [0.0, 0.1, 0.25, 0.5, 1.0]
cure = ablate(
    train_with_mixed, {"share": 0.0}, vary="share", values=SHARES, seeds=range(5)
)
mean = cure.frame().groupby("share")[["at home", "away"]].mean()
mean.round(2)

# %%
runs = cure.frame().drop(columns="seed")
runs = runs.melt("share", var_name="photographed", value_name="accuracy")
figure, ax = plot.new()
plot.curves(ax, runs, x="share", y="accuracy", group="photographed")
ax.set_xlabel("share of training pictures with any background")
plot.show(
    figure,
    "The more training pictures have mixed backgrounds, the higher is the accuracy "
    "away from home, until it meets that at home.",
    alt="Accuracy against the share of mixed pictures, with bands over five seeds: "
    "away climbs, at home falls a little, and they meet at the right end.",
)

# %% [markdown]
# The band is the range over five choices of held-out objects. At the left end, without any mixed picture, the head on the frozen
# network does not fall as far as the network that was trained from scratch, but it falls: the features describe the place as well as the
# object, and the linear layer uses whatever separates
# the classes. Every mixed picture helps away from home. At home it costs a little: the shortcut was useful there.

# %% tags=["nbval-check-output"]
cost = mean["at home"] - mean["away"]
claim(
    "transfer, one background a class: swapped backgrounds cost more than 10 points",
    cost[0.0] > 0.10,
    measured=cost[0.0],
)
claim(
    "transfer, all backgrounds mixed: swapped backgrounds cost less than 5 points",
    cost[1.0] < 0.05,
    measured=cost[1.0],
)
claim(
    "on swapped backgrounds transfer beats the network from scratch by 20 points",
    mean["away"][0.0] - swap["away"] > 0.2,
    measured=mean["away"][0.0] - swap["away"],
)

# %% [markdown]
# And what does Grad-CAM say about the two heads at the ends of that curve? The last maps of MobileNetV2 have
# three by three pixels here. The target may be any function of the model's output, so the head goes in there.

# %%
heads = {
    "trained at home": train_head(z_home[~held], y[~held]),
    "mixed": train_head(z_mixed[~held], y[~held]),
}


def heat_of_head(head):
    def target(z):
        return head.to(z.device)(directions(z)).amax(1)

    images = away.data.images[held].to(device())
    return grad_cam(backbone, images, "features.18", target).cpu()


# %%
coarse = {
    name: shares_on_object(heat_of_head(head), away.masks[held]).mean().item()
    for name, head in heads.items()
}
correct = {k: hits(head.cpu(), z_away[held], y[held]) for k, head in heads.items()}
pd.DataFrame({"heat on the object": coarse, "accuracy away": correct}).round(2)

# %% [markdown]
# The accuracies differ widely, and the heat hardly differs, perhaps because a grid of three by three is too coarse to separate object and
# background. A heat map without a warning is no proof of innocence. Use Grad-CAM to find a suspect, and a swap to prove its guilt.

# %% tags=["nbval-check-output"]
gap = abs(coarse["mixed"] - coarse["trained at home"])
apart = correct["mixed"] - correct["trained at home"]
claim(
    "two heads, accuracies over 10 points apart on swapped backgrounds: the heat of "
    "Grad-CAM on 3 by 3 maps differs by under 8 points on the object",
    apart > 0.1 and gap < 0.08,
    measured=(apart, gap),
)

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

# %%
KINDS = [faults.truncated, faults.empty, faults.html, faults.zeroed, faults.grey_band]
faults.damage(root, share=0.1, kinds=KINDS)

# %% [markdown]
# The lesson [Survive bad data](03_survive_bad_data) tells what each of them does to a training run. Here, scan once before
# training, and go on with the files that decode without a warning.

# %%
from labs.data.scan import scan_images

scan = scan_images(root, workers=0)
scan

# %%
from labs.data.robust import RobustImageDataset

doubtful = {path for path, _ in scan.suspicious}
files = [path for path in scan.good if path not in doubtful]
survivors = RobustImageDataset(files, classes=train.classes, on_error="stop")
images, labels = zip(*survivors, strict=True)
rows = torch.tensor([int(path.stem) for path in files])
clean = replace(
    train.take(rows), images=torch.stack(images), labels=torch.tensor(labels)
)
clean

# %% [markdown]
# The scan reports as many files as were damaged, and the rest is sound. Wrong *labels* leave no trace in a file, so nothing has been found yet. How much do they
# cost? Compare three learners: a network trained from scratch, and two linear heads on the frozen features,
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


# %%
def train_on_noisy(share, learner):
    noisy = faults.mislabel(clean.labels, share, seed=torch.initial_seed()).labels
    if learner in DECAYS:
        head = train_head(z_train, noisy, len(clean.classes), DECAYS[learner])
        fits = hits(head, z_train, noisy)
        return {"accuracy": hits(head, z_test, test.labels), "fits": fits}
    given = replace(tiny, labels=noisy)
    net = train_from_scratch(given, EPOCHS_TINY, width=8)
    return {"accuracy": accuracy(net, tiny_test), "fits": accuracy(net, given)}


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Four of ten labels are wrong, each replaced by another class at random. What share of its test
# accuracy does each head keep? And does the weight decay help or hurt?
# :::

# %%
NOISE = [0.0, 0.2, 0.4, 0.6]
parts = []
for learner in ["from scratch", *DECAYS]:
    base = {"share": 0.0, "learner": learner}
    part = ablate(train_on_noisy, base, vary="share", values=NOISE)
    parts.append(part.frame().assign(learner=learner))
noise = pd.concat(parts)

# %%
figure, ax = plot.new()
ax.set_prop_cycle(color=plot.COLOURS[2:5])
plot.curves(ax, noise, x="share", y="accuracy", group="learner")
ax.axhline(1 / len(clean.classes), color="0.5", linestyle=":")
ax.set(xlabel="share of wrong labels", ylabel="test accuracy", ylim=(0, 0.9))
plot.show(
    figure,
    "Wrong labels cost the head without weight decay far more than the head with it.",
    alt="Test accuracy against the share of wrong labels: with weight decay the "
    "curve falls slowly, without it steeply; the network from scratch stays low "
    "everywhere.",
)

# %%
table = noise.groupby(["learner", "share"], sort=False)[["accuracy", "fits"]].mean()
table.round(2)

# %% [markdown]
# The test objects and places are new to all three; the dotted line is guessing. With clean labels the two heads are close to each other.
# With wrong ones, the head without decay falls steeply, and the other far less. The table tells why: `fits` is the share of the *given* labels that the head
# reproduces on its training pictures. Without decay it
# learns all of them by heart, the wrong ones too: 1,280 features leave enough freedom for any labels of so few
# pictures. With decay it does not. The network from scratch has too
# few pictures, and here too few epochs, to get far at all.

# %% tags=["nbval-check-output"]
cost = table["accuracy"].xs(0.0, level="share") - table["accuracy"].xs(
    0.4, level="share"
)
fits = table["fits"].xs(0.4, level="share")
claim(
    "40 % wrong labels cost the head without decay more than 15 points",
    cost["transfer"] > 0.15,
    measured=cost["transfer"],
)
claim(
    "40 % wrong labels cost the head with weight decay less than half of what they "
    "cost the one without",
    cost["transfer, weight decay"] < cost["transfer"] / 2 > 0.05,
    measured=cost.to_dict(),
)
claim(
    "without weight decay over 95 % of the given labels, 40 % of them wrong, are "
    "learnt by heart",
    fits["transfer"] > 0.95,
    measured=fits["transfer"],
)
claim(
    "with weight decay 20 points less of the given labels, 40 % of them wrong, are "
    "learnt by heart than without",
    fits["transfer"] - fits["transfer, weight decay"] > 0.2,
    measured=fits.to_dict(),
)

# %% [markdown]
# {cite:t}`rolnick2017noise` found the same on large sets: networks withstand a great many random mistakes. But do not
# conclude that wrong labels are harmless. These mistakes were drawn for each *picture*, and every object comes
# several times: its other pictures outvote the wrong one. People make another kind of mistake. A person who takes a lemon for
# a vegetable does it every time. Give the same share of *objects* a wrong label, in all their pictures.

# %%
SHARE = 0.4


def train_on_mistakes(per):
    named = clean.sources if per == "object" else torch.arange(len(clean))
    things, which = named.unique(return_inverse=True)
    truth = torch.zeros_like(things).scatter(0, which, clean.labels)
    noisy = faults.mislabel(truth, SHARE, seed=torch.initial_seed()).labels[which]
    head = train_head(z_train, noisy, len(clean.classes))
    return hits(head, z_test, test.labels)


# %%
ways = ["picture", "object"]
mistakes = ablate(
    train_on_mistakes, {"per": "picture"}, vary="per", values=ways, seeds=range(5)
)
mistakes.table().round(3)

# %% [markdown]
# The column `delta` shows the extra cost of consistent mistakes. Random mistakes average out; a consistent one is, for the network, simply
# another truth. Ask of any result on label noise which of the two it was measured with.

# %% tags=["nbval-check-output"]
delta = mistakes.table().loc["object", "delta"]
claim(
    "label errors per object cost at least 3 points more than as many per picture",
    delta < -0.03,
    measured=delta,
)

# %% [markdown]
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
    confident = judged.where(judged >= bar, 0)  # [N,K]: 0 below the bar
    return (confident.argmax(1) != noisy) & confident.any(1)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Try both rules on labels without any mistake, and on labels of which a fifth is wrong. How many correct labels will the obvious
# rule suspect, of those in the set above?
# :::

# %%
rates = {}
for share in (0.0, 0.2):
    given = faults.mislabel(clean.labels, share)
    judged = probabilities_from_folds(given.labels)
    top, sure = judged.argmax(1) != given.labels, suspects(judged, given.labels)
    for rule, found in {"top prediction": top, "confident": sure}.items():
        right, count = (found & given.wrong).sum().item(), found.sum().item()
        recall = right / max(1, given.wrong.sum().item())
        rates[share, rule] = [count, right / count, recall]
finding = pd.DataFrame(rates, index=["suspects", "precision", "recall"]).T
finding.round(2)

# %% [markdown]
# Read the first two rows first: with no wrong label at all, the obvious rule still suspects a large number of
# pictures, because it takes every mistake of the head for one of yours. With a fifth of the labels wrong it finds nearly all of them,
# among many false alarms. Confident learning finds fewer, and is right more often. Which one you want
# depends on who looks at the suspects.

# %% tags=["nbval-check-output"]
alarms = finding.loc[(0.0, "confident"), "suspects"] / len(clean)
claim(
    "clean labels: confident learning suspects less than 5 % of them",
    alarms < 0.05,
    measured=alarms,
)
precision = finding.loc[0.2]["precision"]
claim(
    "20 % wrong labels: confident learning is 10 points more precise than the top "
    "prediction",
    precision["confident"] - precision["top prediction"] > 0.10,
    measured=precision["confident"] - precision["top prediction"],
)
recall = finding.loc[(0.2, "top prediction"), "recall"]
claim(
    "20 % wrong labels: disagreeing with the top prediction finds 90 % of them",
    recall > 0.9,
    measured=recall,
)

# %%
ranked = (judged.amax(1) * sure).argsort(descending=True)[:3]
figure, axes = plot.new(height=2.9, columns=3)
titles = [
    f"labelled {clean.classes[given.labels[i]]}\n"
    f"looks like {clean.classes[judged[i].argmax()]}"
    for i in ranked
]
plot.images(axes, clean.images[ranked], titles)
for ax in axes:
    ax.title.set_fontsize(9)
plot.show(
    figure,
    "The three labels that the head doubts most contradict what the pictures show.",
)

# %% [markdown]
# Look at suspects before you throw anything away. What do you gain by throwing away all suspects of confident learning? Each head
# is trained from three seeds.

# %%
kept = {"all": slice(None), "without suspects": ~sure}
worth = {}
for name, decay in DECAYS.items():
    for what, rows in kept.items():
        worth[name, what] = 0.0
        for seed in range(3):
            seed_everything(seed)
            head = train_head(z_train[rows], given.labels[rows], 8, decay)
            worth[name, what] += hits(head, z_test, test.labels) / 3
worth = pd.Series(worth).unstack()
worth.round(2)

# %% [markdown]
# Cleaning helps where the labels would have been learnt by heart. The head with weight decay had ignored most of
# the wrong ones anyway, and some of the pictures thrown away were good ones.

# %% tags=["nbval-check-output"]
gains = worth["without suspects"] - worth["all"]
claim(
    "cleaning by cross-validation gains a head without decay at least 4 points, and "
    "then over 45 % are right",
    gains["transfer"] > 0.04 and worth.loc["transfer", "without suspects"] > 0.45,
    measured=worth.to_dict(),
)
more = gains["transfer"] - gains["transfer, weight decay"]
claim(
    "cleaning gains the head without decay at least 3 points more than the head "
    "with it",
    more > 0.03,
    measured=more,
)

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
SMALL, random = 128, torch.Generator().manual_seed(0)
few = tiny.take(torch.randperm(len(tiny), generator=random)[:SMALL])
drawn = torch.randint(len(few.classes), (SMALL,), generator=random)
shuffled = replace(few, labels=drawn)
static = replace(shuffled, images=torch.randn(few.images.shape, generator=random))
arms = {"true labels": few, "random labels": shuffled, "random pixels": static}


# %%
def learn_by_heart(data):
    seed_everything(0)
    net = resnet_cifar(8, 16, num_classes=len(data.classes)).to(device())
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    batches = DataLoader(data, batch_size=16, shuffle=True)
    score = {"score": lambda net: {"train": accuracy(net, data)}}
    history = fit(net, batches, adam, epochs=20, **score)
    return history.score_table()["train"], accuracy(net, tiny_test)


# %%
curves, tested = {}, {}
for name, data in arms.items():
    curves[name], tested[name] = learn_by_heart(data)
fitted = {name: int((curve >= 0.95).idxmax()) + 1 for name, curve in curves.items()}
pd.DataFrame({"epochs to 95 %": fitted, "test accuracy": tested}).round(2)

# %%
figure, ax = plot.new()
looks = {
    "true labels": ("o-", plot.COLOURS[5]),
    "random labels": ("o-", plot.COLOURS[6]),
    "random pixels": ("o--", plot.COLOURS[6]),
}
for name, (style, colour) in looks.items():
    curve = curves[name]
    ax.plot(curve.index + 1, curve, style, color=colour, ms=4, label=name)
ax.set(xlabel="epoch", ylabel="training accuracy")
ax.legend()
plot.show(
    figure,
    "True labels, random labels and random labels of pure noise are all learnt by "
    "heart.",
    alt="Training accuracy by epoch: the three curves rise to about one, that of "
    "random pixels first.",
)

# %% [markdown]
# All three curves reach the top, and random pixels get there first. Only the test accuracy shows that something was learnt from the true labels.

# %% tags=["nbval-check-output"]
lowest = min(curve.max() for curve in curves.values())
claim(
    "true labels, random labels and random pixels are all learnt to at least 90 %",
    lowest >= 0.9,
    measured=lowest,
)
claim(
    "random pixels are learnt by heart in fewer epochs than labels of pictures, as "
    "in the paper",
    fitted["random pixels"] < min(fitted["true labels"], fitted["random labels"]),
    measured=fitted,
)
claim(
    "random labels are learnt by heart too, in less than twice the epochs of true "
    "ones",
    lowest >= 0.9 and fitted["random labels"] < 2 * fitted["true labels"],
    measured=(lowest, fitted),
)
gap = tested["true labels"] - tested["random labels"]
claim(
    "128 pictures with true labels: test accuracy is 8 points above that of random "
    "labels",
    gap > 0.08,
    measured=gap,
)

# %% [markdown]
# **Why they differ.** The paper finds random labels slower than true ones, on tens of thousands of pictures. Here they
# are about equally fast: with so few pictures nothing general helps, and the true labels have to be learnt by heart as well.
# The main point is the paper's as well: a training accuracy of 100 % says nothing about whether the labels are right.

# %% [markdown]
# ## Bug hunt: the pretrained network that was not
#
# **Difficulty** 1 of 3 · **Importance** 3 of 3 · **Time** 20 min
#
# A team saves its network from a training run on several GPUs, where it is wrapped in `nn.DataParallel`, and
# loads it for transfer. Nothing is raised, but the features are worth no more than those of a random network.
# It was met in [pytorch/examples#1029](https://github.com/pytorch/examples/issues/1029) and
# [pytorch/pytorch#141256](https://github.com/pytorch/pytorch/issues/141256); in
# [mosaicml/composer PR#2216](https://github.com/mosaicml/composer/pull/2216) a default was changed for that reason.
# Edit the function in this cell until the check below it passes. A checkpoint must arrive completely or not at all: one that does not fit has to
# raise an error.


# %% tags=["hunt-bug"]
def load_pretrained(model, state):
    """Copy a checkpoint into the model, wrapped or not."""
    model.load_state_dict(state, strict=False)
    return model


# %%
checkpoint = nn.DataParallel(mobilenet_v2()).state_dict()
loaded = load_pretrained(mobilenet_v2(pretrained=False), checkpoint).state_dict()
names = [name for name in loaded if name.endswith(".weight")]
true = mobilenet_v2().state_dict()
arrived = sum(torch.equal(loaded[name], true[name]) for name in names)
f"{arrived} of {len(names)} weights arrived"

# %% [markdown]
# Not one arrived, and there is no error. Ask the checker what else is wrong.

# %%
from labs.hunts.foundations import check_checkpoint

check_checkpoint(load_pretrained)

# %% [markdown]
# Only the checkpoint without a wrapper arrives, and nothing is ever refused. Go back to the planted cell, change it, and run the check again.
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
def load_complete(model, state):
    """Copy a checkpoint into the model, wrapped or not."""
    bare = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    # strict: a name that is missing or left over is an error
    model.load_state_dict(bare)
    return model


# %% tags=["nbval-check-output"]
verdict = check_checkpoint(load_complete)
claim(
    "the repaired loader of pretrained weights passes every probe",
    verdict.passed,
    measured=verdict,
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
    head = train_head(z_mixed[~held], noisy[~held])
    binary[share] = hits(head, z_mixed[held], y[held])
pd.Series(binary, name="accuracy").rename_axis("wrong").round(2)

# %% [markdown]
# **Exercise 2.** After the last maps, our networks do nothing but average each map and apply a linear layer. Then Grad-CAM needs no gradient:
# show that $\alpha_k$ is the weight of the linear layer divided by the number of pixels of a map. (Weighting the maps by it is the older *CAM* of
# {cite:t}`zhou2016cam`.) Compare with `grad_cam` on `home_net`, at `layer3`.
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
# A much lower accuracy than in the validation: the network had learnt a few places by heart, not gardens in general. {cite:t}`beery2018terra` find
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
# - Keep a small test set that breaks the habits of your training set on purpose. It costs an afternoon, and shows a shortcut that your validation set cannot show.
# - `captum` and `pytorch-grad-cam` have many more attribution methods. Compare two networks, not one network with your hopes.
# - For wrong labels in earnest, `cleanlab` implements confident learning with ranking, duplicates and multi-label tasks. Let a person look at what it
#   finds.
# - Freeze a backbone with `eval()` as well as `requires_grad_(False)`: batch norms in train mode keep moving their statistics.
# - Read weights with `torch.load(..., weights_only=True)`, and look at what `load_state_dict` returns.

# %% [markdown]
# ## You can now
#
# - show that a classifier uses the background, with a heat map for the suspicion and a swap for the proof;
# - train a linear head on frozen features, and choose its weight decay with wrong labels in mind;
# - measure the cost of wrong labels over seeds, find many of them, and load a checkpoint that really arrives.
