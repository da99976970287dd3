# %% [markdown]
# # Predict on a grid
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** say which cell and which box answer for an object, and write the loss of YOLO v1 term by term · see through hooks which cells a term
# moves · predict when a detector with a grid loses an object, and prove that the grid did it · weigh the many empty cells against the few full ones.
#
# **You need** the lesson [Measure boxes and mAP](01_measure_boxes_and_map) for IoU, suppression and AP50, and
# [Watch a network see digits](../01_foundations/02_watch_a_network_see_digits) for `capture`.
#
# **Time** read 20 min · debug 25 min · experiment 20 min · reproduce 15 min
# :::

# %% [markdown]
# ## The symptom
#
# YOLO v1 {cite:p}`redmon2016yolo` was the first detector that looks at a picture once: one network, one pass, all boxes. Train a small one, and see what it can and cannot do. Its scenes are easy ones, so that it
# learns in half a minute: three kinds of digits, one to four in a picture, at least a quarter of it high or wide.

# %%
from labs.data.scenes import Rendered, Scenes

EASY = {"size": (32, 56), "weights": dict.fromkeys("1235689", 0)}  # leaves 0, 4 and 7
train = Rendered(Scenes("train", n=1600, **EASY))
test = Rendered(Scenes("test", n=200, **EASY))
train, test

# %% [markdown]
# The network is the class of `labs.models`, an eighth as wide as the paper's and with fewer convolutions. An image of 128 x 128 pixels becomes a map of 4 x 4 *cells* of 32 x 32 pixels.

# %%
import torch

from labs.models import YOLOv1
from labs.repro import device, seed_everything

STRIDE, BOXES = 32, 2
seed_everything(0)
network = YOLOv1(
    10,
    image_size=(128, 128),
    stride=STRIDE,
    reduction=STRIDE,
    width=0.125,
    hidden=None,
    pairs=(0, 0),
    norm=True,
).to(device(), memory_format=torch.channels_last)
tuple(network(torch.rand(5, 3, 128, 128, device=device()))[0].shape)

# %% [markdown]
# Two boxes with five numbers each and ten classes make 20 channels. The paper does not start from nothing: its first twenty convolutions learn to *classify* ImageNet, and only then to detect. Do the same in small: all but the last four
# learn to name one digit on a patch of background.

# %%
from torch import nn

from labs.train import fit

patches = {"canvas": (64, 64), "objects": (1, 1), **EASY}
singles = Rendered(Scenes("train", n=2400, seed=1, **patches))
classifier = nn.Sequential(
    network.features[:-4], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)
).to(device())


def naming_loss(model, batch):
    images, targets = batch
    labels = torch.cat([target["labels"] for target in targets]).to(device())
    return nn.functional.cross_entropy(model(images.to(device())), labels)


# %%
def learn(model, data, batch, epochs, rate, loss, seed=0):
    batches = data.batches(batch, seed=seed)
    adam = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        adam, rate, total_steps=len(batches) * epochs, pct_start=0.15
    )

    def clip(model, step):
        nn.utils.clip_grad_norm_(model.parameters(), 10)

    return fit(model.train(), batches, adam, epochs, loss, cycle, watch=clip)


# %%
learn(classifier, singles, batch=32, epochs=3, rate=0.01, loss=naming_loss)

# %% [markdown]
# Now detect, with the paper's loss, which you will write yourself below.

# %%
from labs.criteria import YOLOv1Criterion
from labs.detection import Detector
from labs.postprocess import YOLOv1Postprocess

detector = Detector(
    network, YOLOv1Criterion(STRIDE, BOXES), YOLOv1Postprocess(STRIDE, BOXES, iou_threshold=0.5)
)
# %%
learn(network, train, batch=16, epochs=5, rate=0.005, loss=detector.loss)

# %%
from labs import plot
from labs.data.scenes import preview


def above(prediction, score):
    keep = prediction["scores"] > score
    return {name: values[keep] for name, values in prediction.items()}


images = test.images.float() / 255
found = detector.detect(images)
figure, axes = plot.new(5, 1.05, columns=5)
for ax, row in zip(axes, range(5), strict=True):
    preview(ax, images[row], above(found[row], 0.25), test.classes)
plot.show(figure, alt="Five unseen scenes with the boxes and names that the network predicts.")

# %% [markdown]
# Pictures that it never saw, after half a minute on one core. It is no champion: some boxes sit loosely, some digits are missed. But it plainly finds and names digits. Its score:

# %%
score = detector.score(test.batches(64), test.classes)
score

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim("unseen scenes: AP50 over the three classes is above 0.4", score.AP50 > 0.4)

# %% [markdown]
# Now the failure. Take two digits, and push them together, once around x = 64 and once around x = 48, half a cell to the left. Everything else stays: the same digits, the same distance, backgrounds of the same kind.

# %%
from labs.data import digits

glyphs = digits("test", n=1000)
pool = {name: glyphs.images[glyphs.labels == name] for name in (0, 4, 7)}
places = Rendered(Scenes("test", n=40, seed=3, objects=(0, 0))).images.float() / 255


def pair(number, distance, middle, height=46):
    """Return a scene with a 0 and a 4, and the boxes around them [2,4]."""
    picture, boxes = places[number].clone(), []
    for name, x in ((0, middle - distance / 2), (4, middle + distance / 2)):
        glyph = pool[name][number][0]
        rows, columns = (glyph > 0.5).nonzero().T
        glyph = glyph[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        width = round(height * glyph.shape[1] / glyph.shape[0])
        ink = nn.functional.interpolate(glyph[None, None], (height, width), mode="bilinear")[0]
        left, top = min(max(0, round(x - width / 2)), 128 - width), 48 - height // 2
        window = picture[:, top : top + height, left : left + width]
        window.copy_(torch.maximum(window, ink))
        boxes.append([left, top, left + width, top + height])
    return picture, torch.tensor(boxes).float()


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# In which of the two rows will a digit vanish, if any? At which distance?
# :::

# %%
DISTANCES = (52, 44, 36, 28, 22)
figure, axes = plot.new(4.8, 3.6, rows=2, columns=3)
for row, middle in zip(axes, (64, 48), strict=True):
    for ax, distance in zip(row, DISTANCES[::2], strict=True):
        picture, _ = pair(5, distance, middle)
        preview(ax, picture, above(detector.detect(picture[None])[0], 0.2), test.classes)
        ax.axvline(31.5, color="w", lw=0.5)
        ax.axvline(63.5, color="w", lw=0.5)
        ax.set_title(f"{middle}: {distance} px", fontsize=7)
plot.show(figure, alt="Two digits at three distances, around x = 64 above and x = 48 below.")

# %% [markdown]
# The white lines are the borders of the cells. Compare the rows where the digits are closest: above, a border runs between the two; below, one cell holds both centres. But one picture is an anecdote, and this one was chosen to show it. Count over 40 pairs: how many of the digits have a box with IoU of at least 0.5 and a score above 0.1, whatever its name?

# %%
import pandas as pd
from torchvision.ops import box_iou


def recall_of_pairs(distance, middle, score=0.1):
    pictures, truths = zip(*(pair(k, distance, middle) for k in range(len(places))), strict=True)
    hits = []
    for truth, prediction in zip(truths, detector.detect(torch.stack(pictures)), strict=True):
        boxes = torch.cat([above(prediction, score)["boxes"], torch.zeros(1, 4)])
        hits.append(box_iou(truth, boxes).amax(1) >= 0.5)
    return torch.stack(hits).float().mean().item()


recalls = pd.DataFrame(
    {middle: [recall_of_pairs(d, middle) for d in DISTANCES] for middle in (64, 48)},
    index=pd.Index(DISTANCES, name="distance"),
)
recalls.rename(columns="around x = {}".format).round(2)

# %%
figure, ax = plot.new(4.4, 2.1)
for middle, colour in zip((64, 48), plot.COLOURS, strict=False):
    ax.plot(recalls[middle], "o-", color=colour, label=f"around x = {middle}")
ax.axvline(32, color="0.4", linestyle=":")
ax.set(
    xlabel="distance of the two centres (pixels)",
    ylabel="recall",
    ylim=(0, 1),
    title="Two centres in one cell: one vanishes",
)
ax.invert_xaxis()
ax.legend()
plot.show(figure, alt="Recall by distance: around x = 48 it drops once the centres are close.")

# %% tags=["nbval-check-output"]
close = recalls.loc[22]
claim(
    "22 pixels apart: half a cell to the left costs at least 0.1 of recall",
    close[64] - close[48] > 0.1,
)

# %% [markdown]
# Around x = 64 the curve stays nearly level, although the digits end up touching. Around x = 48 it falls, and fastest once the distance is below the 32 pixels of a cell: the same digits, as far apart, and far more of them are gone. A picture has no seams there. The *grid* has one: x = 64 is the border of two cells, and x = 48 is the middle of one.

# %% [markdown]
# ## The idea
#
# Lay a grid over the image. **The cell that holds the centre of an object is responsible for it**, and all other cells are told that there is nothing, however much of the object they cover.

# %%
figure, axes = plot.new(2.6, 1.3, columns=2)
for ax, row in zip(axes, (0, 2), strict=True):
    image, target = test[row]
    preview(ax, image, target, test.classes)
    ax.hlines(range(32, 128, 32), 0, 127, color="w", lw=0.7)
    ax.vlines(range(32, 128, 32), 0, 127, color="w", lw=0.7)
    centres = (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2
    for x, y in (centres // STRIDE * STRIDE).tolist():
        ax.fill_between([x, x + 31], y, y + 31, color=plot.COLOURS[4], alpha=0.35)
    ax.plot(*centres.T, "o", color="w", markeredgecolor="k", markersize=4)
plot.show(figure, alt="Two scenes under a grid of 4 x 4; the cells with a centre are marked.")

# %% [markdown]
# A cell says two boxes and one set of classes. A box is five numbers: the centre in cells from the cell's corner, the *roots* of width and height in sides of the image, and a confidence. One object by hand: a box from (40, 70) to (72, 106) in an image of 128.

# %%
box = torch.tensor([40.0, 70.0, 72.0, 106.0])
centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
column, row = (centre // STRIDE).int().tolist()
offset = centre / STRIDE - torch.tensor([column, row])
print(
    f"row {row}, column {column}; x, y = {offset.tolist()}; roots = {(sides / 128).sqrt().tolist()}"
)

# %% [markdown]
# Row 2, column 1, and the centre (56, 88) is three quarters of a cell to the right and three quarters down. **Which of the two boxes answers?** The one that fits best at the moment, so that two boxes may specialise. Its confidence should be its
# IoU with the object; that of every other box, zero. The loss is a sum of squares (equation 3 of the paper):
#
# $$\underbrace{5\sum (x-\hat x)^2 + (y-\hat y)^2}_{\text{centre}} + \underbrace{5\sum (\sqrt w-\sqrt{\hat w})^2 + (\sqrt h-\sqrt{\hat h})^2}_{\text{size}} + \underbrace{\sum (c-\mathrm{IoU})^2}_{\text{objectness}}
# + \underbrace{\lambda_{\text{noobj}} \sum_{\text{others}} c^2}_{\text{no object}} + \underbrace{\sum_{\text{classes}} (p-\hat p)^2}_{\text{classes}}$$
#
# Why roots? Four pixels are nothing in a wide box and much in a narrow one:

# %%
widths = torch.tensor([8.0, 16.0, 32.0, 64.0])
wrong = ((widths + 4) / 128).sqrt() - (widths / 128).sqrt()
pd.DataFrame({"with roots": wrong**2, "without": (4 / 128) ** 2}, index=widths.int().tolist()).map(
    "{:.5f}".format
)

# %% [markdown]
# Four pixels too many cost eight times as much in a box of 8 pixels as in one of 64 pixels. Without roots they cost the same.

# %% [markdown]
# ## The block
#
# The targets and the loss by hand, object by object. A cell has one set of classes, so it can have one object. `setdefault` keeps the largest, and the others are dropped in silence.


# %%
def grid_loss(raw, targets, stride=STRIDE, boxes=BOXES, coord=5.0, noobj=0.5):
    terms = dict.fromkeys(("centre", "size", "objectness", "no_object", "classes"), 0.0)
    canvas = torch.tensor(raw.shape[:1:-1]) * stride  # width and height
    for cells, target in zip(raw, targets, strict=True):
        owner = {}
        area = (target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(1)
        for k in area.argsort(descending=True, stable=True).tolist():
            truth, label = target["boxes"][k], target["labels"][k]
            column, row = ((truth[:2] + truth[2:]) / 2 / stride).int().tolist()
            owner.setdefault((row, column), (truth, label))
        silent = torch.ones(boxes, *cells.shape[1:])  # 1 where a box must say: nothing here
        for (row, column), (truth, label) in owner.items():
            said = cells[: boxes * 5, row, column].view(boxes, 5)
            corner = torch.tensor([column, row])
            middle, half = (said[:, :2] + corner) * stride, said[:, 2:4] ** 2 * canvas / 2
            drawn = torch.cat([middle - half, middle + half], 1).detach()
            fit = box_iou(drawn, truth[None])[:, 0]
            apart = (drawn - truth).square().sum(1)  # decides where no box overlaps
            best = torch.where(fit.max() > 0, fit, -apart).argmax()
            silent[best, row, column] = 0
            x_y = (truth[:2] + truth[2:]) / 2 / stride - corner
            roots = ((truth[2:] - truth[:2]) / canvas).sqrt()
            wanted = nn.functional.one_hot(label, cells.shape[0] - boxes * 5)
            terms["centre"] += coord * (said[best, :2] - x_y).square().sum()
            terms["size"] += coord * (said[best, 2:4] - roots).square().sum()
            terms["objectness"] += (said[best, 4] - fit[best]) ** 2
            terms["classes"] += (cells[boxes * 5 :, row, column] - wanted).square().sum()
        terms["no_object"] += noobj * (silent * cells[4 : boxes * 5 : 5] ** 2).sum()
    return {name: term / len(raw) for name, term in terms.items()}


# %%
network.eval()
batch, truths = images[:32], test.targets[:32]
with torch.no_grad():
    raw = network(batch.to(device()))[0].cpu()
mine, theirs = grid_loss(raw, truths), detector.criterion((raw,), truths)
pd.DataFrame({"by hand": mine, "labs": theirs}).astype(float).round(4)

# %% tags=["nbval-check-output"]
noise = torch.randn(32, 20, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
slopes = [
    torch.autograd.grad(sum(terms.values()), noise)[0]
    for terms in (grid_loss(noise, truths), detector.criterion((noise,), truths))
]
equal = [abs(mine[name] - theirs[name]) < 1e-5 * (1 + theirs[name]) for name in theirs]
claim("every term by hand equals labs.criteria.YOLOv1Criterion to 1e-5", all(equal))
claim("and on random maps so does the gradient", torch.allclose(*slopes, rtol=1e-4, atol=1e-6))

# %% [markdown]
# ## Debug: which cells hear which term
#
# The head is one 1x1 convolution, and what it returns is the map. `capture` with `gradients=True` keeps the gradient that comes back to it: ask each term, cell by cell, how hard it pulls.

# %%
from labs.hooks import capture


def pull(picture, target, chosen):
    """Return the norm of the gradient of the chosen terms at each cell, [rows,columns]."""
    with capture(network, "head", gradients=True) as maps:
        terms = detector.criterion(
            network(picture[None].to(device())),
            [{name: value.to(device()) for name, value in target.items()}],
        )
        sum(terms[name] for name in chosen).backward()
    network.zero_grad(set_to_none=True)
    return maps.gradient("head")[0].norm(dim=0).cpu()


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# The scene has 16 cells. In how many does the term `classes` have a gradient? In how many the term `no_object`?
# :::

# %%
CHOICES = [("centre", "size"), ("classes",), ("objectness",), ("no_object",)]
row = max(range(40), key=lambda k: len(test.targets[k]["labels"]))
image, target = test[row]
pulls = [pull(image, target, chosen) for chosen in CHOICES]
alive = pd.Series([int((p > 0).sum()) for p in pulls], index=[" + ".join(c) for c in CHOICES])
alive.rename("cells with a gradient")


# %%
def spread(cells):
    """Blow a map of cells [rows,columns] up to pixels, from 0 to 1."""
    return (cells / cells.max().clamp(min=1e-9)).kron(torch.ones(STRIDE, STRIDE))


figure, axes = plot.new(5.2, 1.25, columns=5)
preview(axes[0], image, target, test.classes)
for ax, chosen, cells in zip(axes[1:], CHOICES, pulls, strict=True):
    plot.overlay(ax, image, spread(cells))
    ax.set_title(" + ".join(chosen), fontsize=8)
plot.show(
    figure, alt="One scene, and where each term has a gradient; only no_object is everywhere."
)

# %% tags=["nbval-check-output"]
centres = (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2
cells = {tuple(cell) for cell in (centres // STRIDE).int().tolist()}
claim(
    "boxes, classes and objectness have a gradient only where an object has its centre",
    all(count == len(cells) for count in alive[:3]),
)
claim("the term no_object has one in all 16 cells", alive.iloc[3] == 16)

# %% [markdown]
# A cell without a centre hears one thing: *say nothing*. That includes cells in the middle of a large digit. And it is said often. Take a network that knows nothing and says the same confidence $c$ everywhere. With $m$ objects whose boxes fit
# with IoU $q$ and $k$ other boxes, the loss is $m(c-q)^2 + \lambda k c^2$, and its lowest point is
#
# $$c = \frac{m\,q}{m + \lambda k}.$$

# %%
lambdas = [0.005, 0.05, 0.5, 5.0]
grids = {"here, 4 x 4 x 2": 32, "paper, 7 x 7 x 2": 98}
best = {
    name: [2.5 * 0.6 / (2.5 + weight * (boxes - 2.5)) for weight in lambdas]
    for name, boxes in grids.items()
}
pd.DataFrame(best, index=pd.Index(lambdas, name="noobj")).round(3)

# %% [markdown]
# So the easiest way down is to believe in nothing, and the more so the larger $\lambda$ is. The paper's authors saw it: many cells hold no object, and together they overpower the few that do; hence their $\lambda_{\text{noobj}} = 0.5$
# and $\lambda_{\text{coord}} = 5$. Has the trained network got beyond the constant? Draw what it says over unseen scenes.


# %%
def confidence(pictures):
    """Return the larger confidence of each cell, [N,rows,columns]."""
    with torch.no_grad(), capture(network, "head") as maps:
        network(pictures.to(device()))
    return maps["head"][:, 4 : BOXES * 5 : 5].amax(1).clamp(0, 1).cpu()


heat = confidence(images)
scaled = heat / heat.max()

# %%
figure, axes = plot.new(3.8, 1, columns=4)
for ax, row in zip(axes, range(4), strict=True):
    plot.overlay(ax, images[row], scaled[row].kron(torch.ones(STRIDE, STRIDE)))
    boxes = test.targets[row]["boxes"]
    ax.plot(*((boxes[:, :2] + boxes[:, 2:]) / 2).T, "+", color=plot.COLOURS[5], markersize=8)
plot.show(figure, alt="Confidence by cell over four scenes: high at the cells with centres.")


# %%
def full_cells(targets):
    """Return which cells have a centre, [N,4,4] of bool."""
    full = torch.zeros(len(targets), 4, 4, dtype=torch.bool)
    for number, target in enumerate(targets):
        middle = (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2
        column, row = (middle / STRIDE).long().clamp(max=3).T
        full[number, row, column] = True
    return full


full = full_cells(test.targets)
print(
    f"mean confidence: cells with a centre {heat[full].mean():.2f}, others {heat[~full].mean():.2f}"
)

# %% tags=["nbval-check-output"]
claim(
    "cells with a centre are at least 4 times as confident as the others",
    heat[full].mean() > 4 * heat[~full].mean(),
)

# %% [markdown]
# The crosses are the true centres; full colour is the highest confidence of all scenes. The network looks at all 16 cells through the same weights, and has learnt to ask not *is there a digit?* but *is the middle of one here?*

# %% [markdown]
# ## Experiment: how loud may the empty cells be?
#
# One variable: `noobj`. Start from the trained network, go on for a few steps with another weight, and look at the confidences. An error of two kinds is possible, so report both: *recall*, the share of objects with a box of IoU 0.5, and *alarms*, the boxes in a scene
# that have no object, both above a score of 0.25.

# %%
import copy

from labs.ablation import ablate

short = Rendered(Scenes("train", n=640, seed=2, **EASY))


def go_on(noobj):
    seed = int(torch.randint(10_000, ()))  # ablate has seeded the generator
    twin = copy.deepcopy(network)
    changed = Detector(twin, YOLOv1Criterion(STRIDE, BOXES, noobj=noobj), detector.postprocess)
    learn(twin, short, batch=16, epochs=1, rate=0.001, loss=changed.loss, seed=seed)
    hits = objects = alarms = 0
    for prediction, target in zip(changed.detect(images[:100]), test.targets[:100], strict=True):
        overlap = box_iou(target["boxes"], above(prediction, 0.25)["boxes"]) >= 0.5
        hits += int(overlap.any(1).sum())
        objects += len(overlap)
        alarms += int((~overlap.any(0)).sum())
    return {"recall": hits / objects, "alarms": alarms / 100}


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Which way does recall go when `noobj` is 5? Which way do the alarms go when it is 0.05?
# :::

# %%
study = ablate(go_on, base={"noobj": 0.5}, vary="noobj", values=[0.05, 0.5, 5.0], seeds=range(2))
study.table("recall").round(3)

# %%
runs = study.frame()
figure, axes = plot.new(5.6, 2.1, columns=2)
for ax, name in zip(axes, ("recall", "alarms"), strict=True):
    plot.curves(ax, runs, "noobj", name)
    ax.plot(runs["noobj"], runs[name], "o", color=plot.COLOURS[0], markersize=4)
    ax.set(xscale="log", xlabel="weight of the empty cells")
axes[0].set_ylabel("recall")
axes[1].set_ylabel("alarms in a scene")
axes[0].set_title("Too loud: objects fall silent")
axes[1].set_title("Too soft: false alarms")
plot.show(figure, alt="Recall falls and alarms fall as the weight of the empty cells rises.")

# %% tags=["nbval-check-output"]
by = runs.groupby("noobj")[["recall", "alarms"]]
mean = by.mean()
claim(
    "noobj 5: recall is at least 0.15 lower than at 0.5",
    mean.loc[0.5, "recall"] - mean.loc[5, "recall"] > 0.15,
)
claim(
    "noobj 0.05: at least twice as many alarms as at 0.5",
    mean.loc[0.05, "alarms"] > 2 * mean.loc[0.5, "alarms"],
)
claim(
    "and both hold for every seed",
    by.max().loc[5, "recall"] < by.min().loc[0.5, "recall"]
    and by.min().loc[0.05, "alarms"] > by.max().loc[0.5, "alarms"],
)

# %%
mean.round(3)

# %% [markdown]
# At 5 the network has fallen silent: its confidences are near the constant of the formula, and no box reaches the threshold. At 0.05 it finds more, and cries wolf. The weight mostly moves all confidences up or down, and with a fixed threshold that trades recall for alarms. The paper's 0.5 is a
# compromise, and no magic number: change the grid, and the number of empty cells changes with it.

# %% [markdown]
# ## Reproduce: small objects in groups
#
# **The paper says.** {cite:t}`redmon2016yolo` write that each cell predicts two boxes and can have one class, that this limits how many nearby objects the model can predict, and that it struggles with small objects that come in groups, such as flocks of birds.
#
# **We measure** recall in crowds, for objects with a neighbour less than 32 pixels away. *Alone* in its cell: that neighbour has its centre in another cell. Two centres in one cell: the larger object is *kept* by the assigner, and the smaller one is *lost*. All have about the same size, and
# the two in a cell are equally far from each other, so that closeness cannot explain a difference between them.

# %%
CROWD = {"objects": (5, 7), "size": (32, 40), "weights": EASY["weights"]}
crowd = Rendered(Scenes("test", n=200, seed=5, **CROWD))
# %%
predicted = detector.detect(crowd.images.float() / 255)
rows = []
for prediction, target in zip(predicted, crowd.targets, strict=True):
    boxes = target["boxes"]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = torch.cdist(centre, centre).fill_diagonal_(torch.inf).amin(1)
    cell, area = (centre // STRIDE).int(), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    same = (cell[:, None] == cell).all(-1).fill_diagonal_(False)
    lost = (same & (area > area[:, None])).any(1)  # a larger object has the cell
    kind = torch.where(lost, 2, same.any(1).int())
    seen = torch.cat([above(prediction, 0.1)["boxes"], torch.zeros(1, 4)])
    hit = box_iou(boxes, seen).amax(1) >= 0.5
    rows += torch.stack([nearest, kind, hit], 1).tolist()

# %%
crowded = pd.DataFrame(rows, columns=["nearest", "kind", "found"])
crowded["kind"] = crowded["kind"].map({0: "alone", 1: "kept", 2: "lost"})
table = crowded[crowded["nearest"] < 32].groupby("kind")["found"].agg(["mean", "count"])
table.rename(columns={"mean": "recall", "count": "objects"}).round(2)

# %% tags=["nbval-check-output"]
recall = table["mean"]
claim(
    "of two in a cell, the lost one is found at least 0.15 less often than the kept one",
    recall["kept"] - recall["lost"] > 0.15,
)
claim(
    "and at least 0.1 less often than an object alone in its cell",
    recall["alone"] - recall["lost"] > 0.1,
)

# %% [markdown]
# A near neighbour alone costs little: the object that was kept is found about as often as one with a cell of its own. The one that lost its cell is found far less often. That it is found at all has a reason: the other box of the cell, or the cell next door, sometimes speaks for it, though nobody taught them to.
# Could a better training mend the rest? Ask the assigner alone, without any network: how many objects of a crowd get a cell at all?

# %%
from labs.assigners import GridCell

boxes = torch.cat([target["boxes"] for target in crowd.targets])
number = torch.cat([torch.full((len(t["boxes"]),), k) for k, t in enumerate(crowd.targets)])
share = {}
for stride in (64, 32, 16, 8):
    said = torch.zeros(len(crowd), 128 // stride, 128 // stride, 1, 4)
    share[stride] = 1 - len(GridCell(stride)(said, boxes, number).target) / len(boxes)
pd.Series(share, name="share of objects without a cell").rename_axis("stride").round(3)

# %% tags=["nbval-check-output"]
claim("cells of 32 pixels: at least 5 % of the crowd has no cell", share[32] > 0.05)
claim("cells of 64 pixels: at least 30 %", share[64] > 0.3)
claim("cells of 8 pixels: at most a fifth of what it is at 32", share[8] < share[32] / 5)

# %% [markdown]
# **Why they differ.** They agree: what has no cell is never trained to be found, and no optimiser can change that. Two things are ours. The digits are not small in pixels; what counts is their distance in *cells*. And the paper leaves open which of two objects a cell keeps;
# we keep the larger one. Finer cells mend the crowd and make more empty ones, with the imbalance that you have just seen. Later versions take both ways: several anchors in a cell, and several grids.

# %% [markdown]
# ## Bug hunt: the object in the other corner
#
# Somebody writes the targets of the grid. The network overfits two centred pictures within minutes. On real pictures it predicts objects where there are none. The question which index comes first was asked in
# [DeepBaksuVision/You_Only_Look_Once#8](https://github.com/DeepBaksuVision/You_Only_Look_Once/issues/8), and in [BobLiu20/YOLOv3_PyTorch#15](https://github.com/BobLiu20/YOLOv3_PyTorch/issues/15) a user had the two reversed.

# %% tags=["hunt-bug"]
import torch


def cell_targets(boxes, stride, rows, columns):
    """Return [5,rows,columns]: x, y, roots of width and height, and 1 in cells with an object."""
    target = torch.zeros(5, rows, columns)
    size = torch.tensor([columns, rows]) * stride
    for box in boxes:
        centre = (box[:2] + box[2:]) / 2 / stride
        i, j = centre.long().tolist()
        target[:2, i, j] = centre - torch.tensor([i, j])
        target[2:4, i, j] = ((box[2:] - box[:2]) / size).sqrt()
        target[4, i, j] = 1
    return target


# %%
from labs.hunts.detection import check_cell_targets

check_cell_targets(cell_targets)

# %% [markdown]
# Centred objects pass. Repair the function in a copy of the cell, and check again until all probes pass.
#
# :::{dropdown} Hint 1
# Put one box into the upper right corner of an image. Print `target[4]`. Where is the 1?
# :::
#
# :::{dropdown} Hint 2
# Take an image that is twice as wide as high. Which of the two indices may be as large as `columns`?
# :::
#
# :::{dropdown} Hint 3
# A box says x first. A tensor is indexed by row first. Only the index is wrong: what is written there must stay.
# :::

# %% tags=["hunt-solution", "hide-cell"]
import torch


def cell_targets(boxes, stride, rows, columns):
    """Return [5,rows,columns]: x, y, roots of width and height, and 1 in cells with an object."""
    target = torch.zeros(5, rows, columns)
    size = torch.tensor([columns, rows]) * stride
    for box in boxes:
        centre = (box[:2] + box[2:]) / 2 / stride
        column, row = centre.long().tolist()  # x counts columns, y counts rows
        target[:2, row, column] = centre - torch.tensor([column, row])
        target[2:4, row, column] = ((box[2:] - box[:2]) / size).sqrt()
        target[4, row, column] = 1
    return target


# %% tags=["nbval-check-output"]
claim("the repaired targets pass every probe", check_cell_targets(cell_targets).passed)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Give each cell four boxes instead of two. Does the vanished digit come back?
#
# :::{dropdown} Solution 1
# No. `GridCell` keeps one object for a cell, however many boxes the cell has, because there is one set of classes. More boxes only give the one object more candidates to choose from. Two digits in a cell need classes *per box*: that is what anchors bring in the next lesson.
# :::
#
# **Exercise 2.** The target of the confidence is the IoU, not 1. Why not 1? And why must no gradient flow through this IoU?
#
# :::{dropdown} Solution 2
# With the IoU as target, the score says how well a box fits as well as whether there is something, and suppression keeps the better box. If the gradient flowed through the target, the network could lower the loss by making its boxes *worse* until they fit the confidence. The next cell shows that
# the objectness term moves channel 4 of the responsible box and nothing else.
# :::

# %% tags=["hide-cell"]
leaf = raw[:1].clone().requires_grad_()
term = detector.criterion((leaf,), truths[:1])["objectness"]
(slope,) = torch.autograd.grad(term, leaf)
print("channels with a gradient:", slope[0].flatten(1).any(1).nonzero()[:, 0].tolist())

# %% [markdown]
# **Exercise 3.** The network of the paper ends in two fully connected layers; ours in a 1x1 convolution. Shift a scene by exactly one cell. What does our network say, compared with before? What would fully connected layers say that saw digits only on the left?
#
# :::{dropdown} Solution 3
# Away from the borders our map shifts by one cell, since all cells share their weights: what is learnt in one cell holds in all. A fully connected layer has other weights for each cell, and must see digits everywhere. That costs data, which a minute of training does not have. It is the reason for `hidden=None`.
# :::

# %% [markdown]
# ## In practice
#
# - Nobody needs v1 today; everybody needs its ideas. For work take a maintained detector, such as torchvision's `fcos_resnet50_fpn`, or a later lesson's network.
# - Before training, count the objects that get no cell in *your* data set, as you did with `GridCell`. It bounds recall, and costs a second.
# - Test targets on an image that is wider than high, with one object off the diagonal. Square pictures with centred objects hide a swapped index.
# - Log the terms of the loss apart. A sum that falls may hide a confidence that dies.
# - Confidences of two trainings with different weights cannot be compared at one threshold. Compare curves.
# - Encode the truth as a map, decode it, and ask for mAP 1. That one test finds most bugs in targets and decoders.

# %% [markdown]
# ## You can now
#
# - draw which cell and which box answer for an object, and write the five terms from memory;
# - read from a gradient map which cells learn what, and why empty cells drown the others;
# - tell an object that the network missed from one that the grid could not hold.
