# %% [markdown]
# # Cover the image with default boxes
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** draw the default boxes of every map to scale, and say which objects they cover · match objects and boxes with SSD's two
# rules, and choose the background that counts · measure what the choice of background does to finds and false alarms.
#
# **You need** IoU from [Measure boxes and mAP](01_measure_boxes_and_map), and anchors and levels from [See at three scales](03_see_at_three_scales).
#
# **Time** read 20 min · debug 30 min · experiment 15 min · reproduce 15 min · hunt 15 min · exercises 25 min
# :::

# %% [markdown]
# ## The symptom
#
# SSD {cite:p}`liu2016ssd` looks at a picture once, as YOLO does, but at many more places. Its smaller version, for pictures of 300 by 300 pixels, lays
# thousands of boxes over the picture and asks the same question at each: what is here, and how should this box move to fit it? Count how many of these
# *default boxes* have anything to answer. The scenes are photographic cut-outs on photographs, so the truth is known.

# %%
import torch

from labs.data.scenes import Rendered, Scenes
from labs.models.ssd import SSD300_BOXES

SIDES = (38, 19, 10, 5, 3, 1)  # cells a side of the six maps, at 300 pixels
KNOBS = {"canvas": (300, 300), "size": (30, 150), "objects": (2, 4)}
photos = Rendered(Scenes("val", 40, things=("photos",), **KNOBS))
maps = [torch.empty(1, 1, side, side) for side in SIDES]
default = SSD300_BOXES(maps, (300, 300))  # [P,4], xyxy in pixels

# %%
tuple(default.shape)

# %%
from labs.boxes import overlap

answering = [
    (overlap(target["boxes"][:, None], default) > 0.5).any(0)
    for target in photos.targets
]
busy = torch.stack(answering).float().mean().item()
per_image = torch.stack(answering).sum(1).float().median().item()
f"{busy:.2%} of the default boxes; {per_image:.0f} of them in the median scene"


# %% tags=["hide-input"]
from matplotlib.patches import Rectangle

from labs import plot


def outline(ax, boxes, colour, width=1.0):
    """Draw boxes, xyxy [n,4], over a picture."""
    for x1, y1, x2, y2 in (boxes - 0.5).tolist():
        box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False)
        box.set(edgecolor=colour, linewidth=width)
        ax.add_patch(box)


# %%
figure, axes = plot.new(4.8, 2.5, columns=2)
for ax, row in zip(axes, (0, 1), strict=True):
    plot.images(ax, photos.images[row][None].float() / 255)
    outline(ax, default[answering[row]], plot.COLOURS[1], 0.6)
    outline(ax, photos.targets[row]["boxes"], plot.COLOURS[0], 2)
plot.show(
    figure,
    "The few default boxes that overlap an object by more than a half, orange, crowd "
    "around the objects, blue.",
    alt="Two scenes of cut-out photographs. Thin orange boxes lie in bundles around "
    "the thick blue boxes of the objects.",
)

# %% [markdown]
# All other boxes should say "background". A network that says so everywhere is right at nearly every place, and finds nothing. If each
# place had one vote in the loss, nearly all votes would be for silence. YOLO of version 1 had the same trouble with far fewer cells. SSD has an answer of its own, and you will watch what it chooses.

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "SSD300 on scenes of two to four photographs: less than 1 % of its default boxes "
    "overlap an object by more than a half",
    busy < 0.01,
    measured=busy,
)

# %% [markdown]
# ## The idea
#
# ### Six maps, and boxes of their size
#
# A map of a convolutional network is a grid of cells. On each cell SSD lays a square of the map's own scale, a somewhat larger square, and for each of the map's ratios
# one box that lies and one that stands. Coarse maps have large boxes. Here are all six maps of the paper's SSD300.

# %%
import pandas as pd

rows = []
for level, side in enumerate(SIDES):
    shapes = torch.tensor(SSD300_BOXES.shapes(level)) * 300
    small, large = shapes[:2, 0]
    count = [side, len(shapes), side**2 * len(shapes)]
    rows.append([*count, small.item(), large.item()])
columns = ["cells a side", "boxes of a cell", "boxes", "square", "larger square"]
levels = pd.DataFrame(rows, columns=columns).rename_axis("map")
print(f"{levels['boxes'].sum()} default boxes")
levels.round(0).astype(int)

# %%
from labs import diagram

figure, axes = plot.new(height=5.2, rows=2, columns=3)
pale = 0.4 + 0.6 * photos.images[2].float().mean(0, keepdim=True) / 255  # [1,H,W]
pale = torch.nn.functional.avg_pool2d(pale, 7, 1, 3, count_include_pad=False)
for level, (ax, side) in enumerate(zip(axes.ravel(), SIDES, strict=True)):
    plot.images(ax, pale, [f"map of {side} x {side}"])
    shapes = torch.tensor(SSD300_BOXES.shapes(level)) * 300
    cell = SSD300_BOXES.strides[level]
    centre = ((side // 2) + 0.5) * cell
    diagram.draw_anchors(ax, shapes, (centre, centre), plot.COLOURS[1])
plot.show(
    figure,
    "From the first map to the last the default boxes of one cell grow from the size "
    "of a detail to that of the picture.",
    alt="One scene six times, with the default boxes of one cell: tiny on the map of "
    "38 cells a side, as large as the picture on the last.",
)

# %% [markdown]
# All six are drawn to scale on the same scene. The first map has a scale of its own, below that of a regular ladder, and most of the boxes are on that map. Remember this for *Debug*. These are
# the scales that the paper uses on COCO, and torchvision with it. On PASCAL VOC, where the objects are larger, its first square has a side of a tenth of the picture.
#
# The network has one 3x3 convolution on each map for the classes, and one for the corrections of the boxes. SSD300 needs VGG-16 and pictures of at least 268 pixels. The book has a
# small one, of the same class, for scenes of 128 pixels. It has four maps and a shipped file of weights.

# %%
from labs.recipes import trained

shipped = trained("ssd")
network = shipped.detector.network.eval()
print(shipped)

# %%
PARTS = {"image": "input"}
PARTS |= {f"map {8 << k}": f"backbone.stages.{k}" for k in range(4)}
PARTS |= {f"class {8 << k}": f"classes.{k}" for k in range(4)}
PARTS |= {f"box {8 << k}": f"boxes.{k}" for k in range(4)}
wiring = diagram.trace(network, torch.rand(1, 3, 128, 128), PARTS)
NAMES = ["8", "16", "32", "64"]
ROWS = [
    [None, *(f"class {n}" for n in NAMES)],
    ["image", *(f"map {n}" for n in NAMES)],
    [None, *(f"box {n}" for n in NAMES)],
]
GROUPS = {
    "backbone": [f"map {n}" for n in NAMES],
    "what": [f"class {n}" for n in NAMES],
    "where": [f"box {n}" for n in NAMES],
}
plot.show(
    diagram.draw(wiring, ROWS, GROUPS),
    "Each map of SSD answers for itself: no arrow leads from a coarse map back to a "
    "finer one.",
    alt="From the image arrows lead through maps of stride 8, 16, 32 and 64. From "
    "each map one arrow leads to its classes and one to its boxes.",
)

# %% [markdown]
# The number behind a name is the stride of the map. A cell of the first map has six boxes, so its classes take 6 · (10 + 1) channels: ten digits, and one more for the background. There is no neck.
#
# ### Two rules decide who answers
#
# The first rule gives every object one box of its own: take the best pair of object and box of all, then the best of what is left, until every object has one. The second
# adds every other box that overlaps an object by at least 0.5. Three boxes and two objects to do by hand; the numbers are overlaps.

# %%
table = torch.tensor([[0.6, 0.55, 0.1], [0.45, 0.30, 0.2]])
pd.DataFrame(table, ["object 0", "object 1"], ["box 0", "box 1", "box 2"]).round(2)

# %% [markdown]
# The best pair is object 0 and box 0. Box 0 is taken, so object 1 gets box 1, with an overlap of only 0.3. By the second rule alone, boxes 0 and 1 would
# both answer for object 0, and object 1 would teach nothing.
#
# ### The background that counts
#
# The loss of a class is a cross entropy. Of the boxes of background, SSD counts only those whose loss is highest: three for each box that answers for an object, in the same image. All others are left out of this
# step. This is **hard negative mining**: hard, because these are the boxes that are most wrong.
#
# The boxes that answer for an object have a second loss, for how far their correction is from the right one; background has none. Both sums are divided by the number of boxes that answer for an object. How a
# correction is written, you will do by hand in the next lesson.

# %% [markdown]
# ## The block
#
# Both rules, and the choice of the background:


# %%
def match(overlaps, threshold=0.5):
    """Return the object that each box answers for, -1 for none: [n,P] to [P]."""
    best, found = overlaps.max(0)
    found[best < threshold] = -1
    left = overlaps.clone()
    while left.max() > 0:  # until every object has one, or no box touches the rest
        one, box = divmod(left.argmax().item(), left.shape[1])
        found[box] = one
        left[one], left[:, box] = 0, 0  # both are taken
    return found


# %%
def hard_background(loss, found, ratio=3):
    """Return which boxes of background count: loss [P], found [P] to bool [P]."""
    positive = found >= 0
    wanted = min(ratio * positive.sum().item(), (~positive).sum().item())
    order = loss.masked_fill(positive, -torch.inf).argsort(descending=True)
    chosen = torch.zeros_like(positive)
    chosen[order[:wanted]] = True
    return chosen


# %%
losses = torch.tensor([0.2, 2.0, 0.1, 0.9, 0.4, 0.3])
given = torch.tensor([-1, 0, -1, -1, -1, -1])
match(table).tolist(), hard_background(losses, given).tolist()

# %% [markdown]
# The matching is the one that you did by hand. In the second list one box answers for an object, so the three worst of the others count. Are both what the library does, on real scenes with all boxes of SSD300? Each scene gets one more object, outside the picture, which no box touches.

# %%
from labs.assigners import Bipartite
from labs.criteria.ssd import hardest

torch.manual_seed(0)
others, chosen_else = 0, 0
away = torch.tensor([[-90.0, -90.0, -60.0, -60.0]])
for target in photos.targets:
    boxes = torch.cat([away, target["boxes"]])
    found = match(overlap(boxes[:, None], default))
    others += (found != Bipartite()(boxes, default)).sum().item()
    loss = torch.rand(len(default))
    theirs = hardest(loss[None], (found >= 0)[None], 3.0)[0]
    chosen_else += (theirs != hard_background(loss, found)).sum().item()

# %% tags=["nbval-check-output"]
claim(
    "SSD's matching: by hand and in labs every default box of 40 scenes answers for "
    "the same object, also where no box touches one of the objects",
    others == 0,
    measured=others,
)
claim(
    "hard negative mining: by hand and in labs the same background of 40 scenes is "
    "chosen",
    chosen_else == 0,
    measured=chosen_else,
)

# %% [markdown]
# ## Debug: which objects do the boxes cover?
#
# Before anything is trained, you can ask the default boxes alone. Draw objects of one size and shape at random places, and take for each the best overlap with any of the 8,732 boxes.
#
# :::{admonition} Predict
# :class: predict
# Squares of 8, 32, 96 and 256 pixels: for which is the best box good, and for which is it poor? And what happens when an object is five times as high as wide?
# :::

# %%
import math

SIZES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 180, 256)
RATIOS = {"square": 1.0, "twice as high": 2.0, "five times as high": 5.0}


def best_overlap(size, ratio, n=60):
    """Return the best IoU of n objects, of this size and shape, at random places."""
    high = size * ratio**0.5
    if high > 290:  # does not fit into the picture
        return torch.tensor([math.nan])
    sides = torch.tensor([high / ratio, high])
    corner = torch.rand(n, 2) * (300 - sides)
    objects = torch.cat([corner, corner + sides], 1)
    return overlap(objects[:, None], default).amax(1)


# %%
torch.manual_seed(0)
cover = {
    name: {size: best_overlap(size, r).median().item() for size in SIZES}
    for name, r in RATIOS.items()
}
cover = pd.DataFrame(cover).rename_axis("side of a square of the same area")
cover.round(2)

# %%
figure, ax = plot.new(height=3)
for name, colour in zip(cover, plot.COLOURS, strict=False):
    ax.plot(cover.index, cover[name], "o-", color=colour, label=name)
ax.axhline(0.5, color="0.4", linestyle=":")
ax.set(xscale="log", xlabel="size of the object (pixels)", ylim=(0, 1))
ax.set_xticks([8, 16, 32, 64, 128, 256], ["8", "16", "32", "64", "128", "256"])
ax.set_ylabel("best overlap (median)")
ax.legend()
plot.show(
    figure,
    "The default boxes of SSD300 cover the smallest objects poorly, whatever their "
    "shape, and long objects worse than squares from 16 pixels on.",
    alt="Best overlap against size. All three lines start far below one half; that "
    "of squares crosses it before 24 pixels, that of long objects stays near it.",
)

# %% [markdown]
# Objects below the dotted line are left to the first rule: one box each, and that one fits badly. The lines rise and fall because the scales of the maps are steps: an object between two of them fits neither well. A line ends where such an object would no longer fit into the picture. No training changes what the boxes cover; only other scales or ratios, a finer map or a larger picture do.

# %% tags=["nbval-check-output"]
claim(
    "SSD300: the best default box for a square of 8 pixels overlaps it by less than "
    "0.25 in the median, for squares of 32 to 128 pixels by more than 0.6",
    cover["square"][8] < 0.25 and cover["square"].loc[32:128].min() > 0.6,
    measured=cover["square"].round(2).to_dict(),
)
claim(
    "SSD300: at 96 pixels, objects five times as high as wide are covered worse than "
    "squares, by over 0.1 of overlap",
    cover["square"][96] - cover["five times as high"][96] > 0.1,
    measured=cover.loc[96].to_dict(),
)

# %% [markdown]
# ### Who needs the first rule
#
# Now real shapes: digits of 8 to 48 pixels in scenes of 128 pixels, and the default boxes of the small SSD. How many boxes does an object get by the second rule, and how many objects get `none`?

# %%
digits = Rendered(Scenes("val", 150, size=(8, 48), objects=(2, 4)))
mini_maps = [torch.empty(1, 1, 128 // s, 128 // s) for s in (8, 16, 32, 64)]
mini = network.default_boxes(mini_maps, (128, 128))
boxes = torch.cat([target["boxes"] for target in digits.targets])
per_object = pd.DataFrame({"side": (boxes[:, 2:] - boxes[:, :2]).amax(1)})
fits = overlap(boxes[:, None], mini)
per_object["boxes by the second rule"] = (fits >= 0.5).sum(1).float()
per_object["none"] = (fits.amax(1) < 0.5).float()
sizes = pd.cut(per_object["side"], [0, 16, 24, 32, 48])
by_side = per_object.groupby(sizes, observed=True).mean().drop(columns="side")
by_side.round(2)

# %% [markdown]
# No digit up to 16 pixels has a box by its overlap, and none can have one: the smallest default box has more than twice its area. Of those of 16 to 24 pixels many have none, above that nearly all have several. The first rule keeps the small ones in the training, with one box each.

# %% tags=["nbval-check-output"]
lonely = by_side["none"]
claim(
    "small SSD: without the first rule over 30 % of the digits of 16 to 24 pixels "
    "would have no default box, and under 15 % of those above 24",
    lonely.iloc[1] > 0.3 and lonely.iloc[2:].max() < 0.15,
    measured=lonely.round(2).to_list(),
)

# %% [markdown]
# ### Watch the hard background
#
# Take the shipped network, throw its class heads away, and teach new ones. In this way the classes learn within seconds, and you can watch them. To save time the scenes have 64 by 64 pixels; the default boxes keep their size in pixels. At some
# steps ask the scenes which boxes of background would count. For comparison a second network learns with as many boxes of background, drawn at random (`random 3`).

# %%
from dataclasses import replace

from labs.recipes import mini_ssd
from labs.recipes.single_shot import MINI_SSD_BOXES
from labs.repro import budget, device, seed_everything

SMALL = {"canvas": (64, 64), "objects": (1, 2)}
train = Rendered(Scenes("train", budget(cpu=384, gpu=2000), **SMALL))
val = Rendered(Scenes("val", 100, **SMALL))
pictures = val.images.float() / 255
half = replace(MINI_SSD_BOXES, scales=[2 * s for s in MINI_SSD_BOXES.scales])
learnt, usual = network.state_dict(), shipped.detector.criterion


# %%
def at_random(raw, targets):
    """Count three boxes of background, drawn by chance, for each that answers."""
    at = raw.references
    found = torch.stack([Bipartite()(t["boxes"].to(at), at) for t in targets])
    drawn = hardest(torch.rand_like(raw.logits[..., 0]), found >= 0, 3.0)
    sure = torch.zeros_like(raw.logits[0, 0])
    sure[0] = 1e4  # certainly background: no loss, and no gradient
    logits = raw.logits.where((drawn | (found >= 0))[..., None], sure)
    return replace(usual, ratio=1e4)(raw._replace(logits=logits), targets)


# %%
COUNTED = {"hardest 1": replace(usual, ratio=1.0), "hardest 3": usual}
COUNTED |= {"random 3": at_random, "all": replace(usual, ratio=1e4)}


def fresh_classes(background):
    detector = mini_ssd(10, half)
    own = detector.network.state_dict()
    rest = {k: v for k, v in learnt.items() if not k.startswith("classes")}
    detector.network.load_state_dict(own | rest)
    return replace(detector, criterion=COUNTED[background])


# %%
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import OneCycleLR

from labs.train import fit


def learn(detector, batches, epochs, rate=4e-3, watch=None):
    net = detector.network.to(device(), memory_format=torch.channels_last)
    adam = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    total = epochs * len(batches)
    cycle = OneCycleLR(adam, rate, total_steps=total, pct_start=0.15)

    def clip(net, step):
        clip_grad_norm_(net.parameters(), 10.0)
        if watch is not None:
            watch(net, step)

    fit(net.train(), batches, adam, epochs, detector.loss, cycle, watch=clip)
    return detector


# %%
import copy

AT = (0, 8, 16, 32, 47)


def watch(background):
    """Return the network at some steps of its training."""
    kept = {}

    def keep(net, step):
        if step in AT:
            kept[step] = copy.deepcopy(net).cpu()

    seed_everything(0)
    learn(fresh_classes(background), train.batches(16, 0), epochs=2, watch=keep)
    return kept


kept, by_chance = watch("hardest 3"), watch("random 3")


# %%
@torch.no_grad()
def look(net, rows):
    """Return the default boxes, and of each scene who answers and what counts."""
    raw = net.train()(pictures[rows])  # in train mode, as when it learnt
    found = torch.stack(
        [Bipartite()(val.targets[row]["boxes"], raw.references) for row in rows]
    )
    loss = -raw.logits.log_softmax(-1)[..., 0]  # of saying "background"
    return raw.references, found, hardest(loss, found >= 0, 3.0)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Which boxes of background have the highest loss before the first step? And at the end: anywhere in the picture, or where?
# :::

# %%
rows, near = list(range(60)), {}
truths = [val.targets[row]["boxes"][:, None] for row in rows]
for step in AT:
    references, found, chosen = look(copy.deepcopy(kept[step]), rows)
    some = {"chosen": chosen, "all background": found < 0}
    some["chosen, learnt at random"] = look(copy.deepcopy(by_chance[step]), rows)[2]
    close = torch.stack([overlap(t, references).amax(0) > 0.2 for t in truths])
    near[step] = {
        name: close[one].float().mean().item() for name, one in some.items()
    }
near = pd.DataFrame(near).T.rename_axis("step")
near.round(2)

# %% [markdown]
# Here is one scene. Green are the middles of the boxes that answer for the digit, orange those of the background that counts; a larger dot stands for more boxes with the same middle. Orange in the middle of the digit is a box of the wrong size or shape.

# %%
frames = {}
lone = [r for r in rows if len(val.targets[r]["labels"]) == 1]
row = min(lone, key=lambda r: val.targets[r]["boxes"].diff().abs().max().item())
for step, net in kept.items():
    references, found, chosen = look(copy.deepcopy(net), rows)
    frames[str(step)], ax = plot.new(3.8, 3.8)
    plot.images(ax, pictures[row][None].mean(1))
    outline(ax, val.targets[row]["boxes"], plot.COLOURS[0], 2.5)
    for some, colour, shift in [(chosen[row], 1, -1.0), (found[row] >= 0, 2, 1.0)]:
        middles = (references[some][:, :2] + references[some][:, 2:]) / 2
        spots, counts = middles.unique(dim=0, return_counts=True)
        x, y = spots.T - 0.5
        dots = {"color": plot.COLOURS[colour], "edgecolor": "white"}
        ax.scatter(x + shift, y, s=40 * counts, clip_on=False, **dots)
plot.slide(
    frames,
    "training step",
    "The middles of the background that counts, orange, are scattered at first; "
    "later more of them lie on and around the digit.",
    alt="A scene with one digit in a blue box. Green dots are the middles of the "
    "boxes that answer for it. Orange dots, the background that counts, move there.",
)

# %% [markdown]
# The table gives the share of boxes that overlap an object by more than 0.2. Before the first step the chosen boxes are like all others: a fresh head is wrong anywhere. Then the share grows among the chosen ones only. What is left to get wrong are boxes that
# nearly fit an object, and the mining puts the loss there.
#
# It does not make them hard. In the last column the mining is only asked: that network learnt from background drawn at random, and its hardest boxes lie next to the digits just as well. Whether it helps to count these is the question of the experiment.

# %% tags=["nbval-check-output"]
first, last = near["chosen"].iloc[0], near["chosen"].iloc[-1]
claim(
    "fresh class heads of a small SSD, one run: after 48 steps the chosen background "
    "overlaps a digit by more than 0.2 at least twice as often as all background",
    last > 2 * near["all background"].iloc[-1],
    measured=near.iloc[-1].to_dict(),
)
claim(
    "fresh class heads of a small SSD, one run: after 48 steps more of the chosen "
    "background lies near digits than before the first",
    last > first,
    measured=(first, last),
)
claim(
    "fresh class heads of a small SSD, one run with background drawn at random: "
    "after 48 steps the hardest background overlaps a digit by more than 0.2 at "
    "least twice as often as all background",
    near.iloc[-1, 2] > 2 * near.iloc[-1, 1],
    measured=near.iloc[-1].to_dict(),
)

# %% [markdown]
# ## Experiment: which background, and how much?
#
# One setting changes: which boxes of background count for each box that answers for an object. It is the hardest one, the hardest three as in the paper, three drawn at random, or all. Everything else stays: the learnt maps and box heads, the scenes, the steps. The seed decides the fresh class heads and the order of the scenes.
# Above a score of 0.3, *found* is the share of digits that a box overlaps by a half, and a *false alarm* is a box that overlaps none; neither looks at the class. AP50 does.
#
# :::{admonition} Predict
# :class: predict
# What happens to the digits found above 0.3, to the false alarms, and to AP50 when more background counts? And when it is not the hardest?
# :::

# %%
from labs.ablation import ablate
from labs.metrics import coco_map


# %%
def found_and_alarms(predictions, at=0.3):
    hits = alarms = objects = 0
    for said, target in zip(predictions, val.targets, strict=True):
        sure = said["boxes"][said["scores"] > at]
        touching = overlap(target["boxes"][:, None], sure) > 0.5  # [n,m]
        hits += touching.any(1).sum().item()
        alarms += (~touching.any(0)).sum().item()
        objects += len(target["labels"])
    return {"found": hits / objects, "false alarms": alarms / len(predictions)}


# %%
def teach(background):
    order = torch.initial_seed()
    detector = learn(fresh_classes(background), train.batches(16, order), epochs=2)
    said = detector.detect(pictures)
    ap50 = coco_map(said, val.targets, val.classes, ious=[0.5]).AP
    return {"AP50": ap50, **found_and_alarms(said)}


# %%
how = {"base": {"background": "hardest 3"}, "vary": "background"}
study = ablate(teach, **how, values=list(COUNTED), seeds=range(4))
runs = study.frame()
runs.groupby("background", sort=False)[list(study.metrics)].mean().round(2)

# %%
for metric in study.metrics:
    least = study.detectable(metric)
    print(f"{metric}, against the hardest 3 (would find {least:.2f}):")
    print(study.verdict(metric))

# %%
figure, axes = plot.new(height=2.8, columns=3)
ARMS = [name.replace(" ", "\n") for name in COUNTED]
for ax, metric in zip(axes, study.metrics, strict=True):
    for seed, part in runs.groupby("seed"):
        ax.plot(ARMS, part[metric], "o-", color="0.6")
    means = runs.groupby("background", sort=False)[metric].mean()
    ax.plot(ARMS, means, "o-", color=plot.COLOURS[0], linewidth=2.5)
    ax.set(xlabel="background that counts", title=metric, ylim=(0, None))
plot.show(
    figure,
    "AP50 is lower at every seed when all of the background counts. With three boxes "
    "at random it is not told apart from the hardest three, but far more is found "
    "above the fixed score.",
    alt="AP50, share found and false alarms for four choices of background; grey "
    "lines are seeds, the blue one their mean. AP50 is lowest where all background "
    "counts; found and false alarms are highest where it is drawn at random.",
)

# %% [markdown]
# AP50 is lower when all of the background counts, and the verdict tells it apart. One box and three are not told apart, and neither are the hardest three and three at random, though at random the mean is lower; the number in brackets says how large a difference these seeds would have shown.
#
# What does change is how high the *scores* are. With the hardest three, or with all, no false alarm passes 0.3 at any seed, because few scores pass it at all; with three at random many more digits are found, and more false alarms come with them. A fixed score
# measures how high the scores are, AP50 only their order: hard background in the loss lowers the scores, and that alone changes both counts.
#
# Is it the easy background that costs AP50 in the last arm? Look at its first step.

# %%
images, targets = next(iter(train.batches(16, 0)))
pull = {}
for name, criterion in COUNTED.items():
    seed_everything(0)
    net = fresh_classes(name).network.train()
    for term, loss in criterion(net(images), targets).items():
        ways = torch.autograd.grad(
            loss, [*net.parameters()], retain_graph=True, materialize_grads=True
        )
        length = torch.cat([way.flatten() for way in ways]).norm().item()
        pull[name, term] = {"loss": loss.item(), "length of its gradient": length}
pd.DataFrame(pull).T.round(1)

# %% [markdown]
# With all background the loss of the classes is many times that of the other arms, and so is its gradient, while those of the boxes stay the same. It is also far above the length of ten to which the training cuts every gradient. Too much
# easy background, classes that outweigh the boxes, a gradient that is cut: what each of them does was not taken apart. The claims are no wider than the runs: fresh class heads on a learnt network, and few steps. They do not show that hard background is better than any, nor what a long training makes of it.

# %% tags=["nbval-check-output"]
told = {
    metric: dict(line.split(": ", 1) for line in study.verdict(metric).splitlines())
    for metric in study.metrics
}
found_gap = study.detectable("AP50")
claim(
    "fresh class heads, 48 steps: AP50 with one hard box of background for each "
    "positive is not told apart from three; a difference of 0.15 would be found",
    told["AP50"]["hardest 1"].startswith("not told") and found_gap < 0.15,
    measured=(told["AP50"]["hardest 1"], found_gap),
)
claim(
    "fresh class heads, 48 steps: with all background in the loss AP50 is lower than "
    "with the hardest three boxes for each positive, told apart",
    told["AP50"]["all"].startswith("lower"),
    measured=told["AP50"],
)
claim(
    "fresh class heads, 48 steps: with three boxes of background at random more "
    "digits are found above a score of 0.3 than with the hardest three, told apart",
    told["found"]["random 3"].startswith("higher"),
    measured=told["found"],
)

# %% [markdown]
# ## Reproduce: zoom out, and small objects
#
# **The paper says.** Of the augmentations of {cite:t}`liu2016ssd`, the last one is "zoom out": lay the picture on a larger canvas of one colour, and shrink the whole. They report that it raises the mAP of SSD300 on VOC2007 from 74.3 to 77.2 %, needs twice the steps,
# and that small objects gain most. They explain it with more small examples to learn from.
#
# **We measure** that explanation at its sharpest. The training scenes hold no digit below 22 pixels; the scenes that judge have digits from 8 to 34. Half of the training pictures are zoomed out, or none is. All start from the shipped weights,
# with the default boxes that these were trained with; the first line of the table is this network before any step. Its training had no smaller digits either. An object counts as found when a box with its name overlaps it by a half.

# %%
import numpy as np
from torch.nn.functional import interpolate


def zoom_out(image, target, rng):
    side = round(64 * rng.uniform(1, 3))
    x, y = rng.integers(0, side - 63, 2)
    room = image.mean((1, 2))[:, None, None].repeat(1, side, side)
    room[:, y : y + 64, x : x + 64] = image
    boxes = (target["boxes"] + torch.tensor([x, y, x, y])) * 64 / side
    small = interpolate(room[None], 64, mode="bilinear", antialias=True)[0]
    return small, {**target, "boxes": boxes}


# %%
class Zoomed:
    """Zoom out a share of the pictures of each batch, each time by another factor."""

    def __init__(self, data, seed, share):
        self.plain, self.share = data.batches(16, seed), share
        self.rng = np.random.default_rng(seed)

    def __len__(self):
        return len(self.plain)

    def __iter__(self):
        for images, targets in self.plain:
            pairs = [
                zoom_out(*one, self.rng) if self.rng.random() < self.share else one
                for one in zip(images, targets, strict=True)
            ]
            yield torch.stack([p[0] for p in pairs]), [p[1] for p in pairs]


# %%
LARGE = {"canvas": (64, 64), "size": (22, 34), "objects": (1, 2)}
large_only = Rendered(Scenes("train", budget(cpu=160, gpu=1000), **LARGE))
ALL_SIZES = {"canvas": (64, 64), "size": (8, 34), "objects": (1, 3)}
all_sizes = Rendered(Scenes("val", 120, **ALL_SIZES))
judged = all_sizes.images.float() / 255
BINS = {"8-15 px": (0, 15), "16-22 px": (15, 22), "23-34 px": (22, 64)}

# %%
from labs.data.scenes import preview

figure, axes = plot.new(height=2.7, columns=3)
rng = np.random.default_rng(1)
for ax in axes:
    image, target = zoom_out(*large_only[0], rng)
    preview(ax, image, target, large_only.classes)
plot.show(
    figure,
    "Zooming out makes small examples of large ones, on a canvas without texture.",
    alt="One scene three times, shrunk by different factors on a plain canvas, with "
    "the boxes of its digits.",
)


# %%
def recall_by_size(said):
    shares = {}
    for name, (low, high) in BINS.items():
        targets = []
        for target in all_sizes.targets:
            side = (target["boxes"][:, 2:] - target["boxes"][:, :2]).amax(1)
            targets.append({**target, "ignore": (side <= low) | (side > high)})
        seen = coco_map(said, targets, ious=[0.5], max_detections=[10])
        shares[name] = seen.average_recall()
    return shares


# %%
def teach_sizes(zoomed):
    batches = Zoomed(large_only, torch.initial_seed(), zoomed)
    detector = mini_ssd(10, half)
    detector.network.load_state_dict(learnt)
    learn(detector, batches, epochs=4, rate=3e-3)
    return recall_by_size(detector.detect(judged))


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Which sizes gain from zooming out? Does any lose?
# :::

# %%
zoom = ablate(teach_sizes, {"zoomed": 0.0}, "zoomed", [0.0, 0.5], seeds=range(4))
by_share = zoom.frame().groupby("zoomed")[list(BINS)].mean()
untaught = mini_ssd(10, half)
untaught.network.load_state_dict(learnt)
before = recall_by_size(untaught.detect(judged))
pd.concat([pd.DataFrame(before, index=["as shipped"]), by_share]).round(2)

# %%
for metric in zoom.metrics:
    print(f"{metric} (would find {zoom.detectable(metric):.2f}):")
    print(zoom.verdict(metric))

# %% tags=["nbval-check-output"]
gains = by_share.loc[0.5] - by_share.loc[0.0]
told_zoom = {name: zoom.verdict(name).split("0.5: ")[1] for name in BINS}
claim(
    "trained on digits of 22 to 34 pixels: with zooming out, recall of those up to "
    "15 pixels and of those of 16 to 22 is higher by over 0.08, told apart",
    all(
        told_zoom[n].startswith("higher") and gains[n] > 0.08 for n in list(BINS)[:2]
    ),
    measured=told_zoom,
)
claim(
    "trained on digits of 22 to 34 pixels: zooming out changes the recall of those "
    "sizes by less than 0.05",
    abs(gains["23-34 px"]) < 0.05,
    measured=gains.round(3).to_dict(),
)

# %% [markdown]
# The two sizes that the training lacked gain, and the sizes that it had do not change by an amount that these runs can measure. Without zooming out the network stays about where it was, so the gain does not come from the further training. It finds many digits of 16 to 22 pixels without having
# seen one; of the smallest, for which it has no box that fits, hardly any, and with zooming out still only a minority.
#
# **Why they differ.** The paper compares AP of whole trainings, on photographs in which every size occurs, and finds a gain for all, with the most for small objects. Here the smaller digits were left out on purpose, and recall after a fine-tuning of 40 steps is compared. The paper’s canvas has up to
# four times the side and the mean colour of the data set, and a random crop follows; here it has up to three times the side and the colour of the picture. So this shows that small examples made from large ones do teach small objects, as the paper explains it. How much there is to gain where small objects do
# occur in the training, these runs do not say.

# %% [markdown]
# ## Bug hunt: the loss that turns into NaN on some days
#
# **Difficulty** 1 of 3 · **Importance** 3 of 3 · **Time** 15 min
#
# The training of an SSD runs for an hour. Then the loss is NaN, and so is every weight; the next run ends at another step. Somebody met it in
# [kuangliu/torchcv#35](https://github.com/kuangliu/torchcv/issues/35), and asked what the loss should be then; others put a made-up box into some pictures
# ([amdegroot/ssd.pytorch#247](https://github.com/amdegroot/ssd.pytorch/issues/247)). The function adds up the loss of a batch. Edit it in this cell until the check below it passes.

# %% tags=["hunt-bug"]
import torch
from torch.nn import functional as F


def multibox_loss(logits, wanted, off, ratio=3):
    """Return the loss of a batch: what counts, divided by the boxes with an object.

    ``logits`` [N,P,C+1], background first; ``wanted`` [N,P] is the class that each
    box should say, 0 for background; ``off`` [N,P] is how wrong its place is.
    """
    positive = wanted > 0
    loss = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")  # [N,P]
    hidden = loss.detach().masked_fill(positive, -torch.inf)
    rank = hidden.argsort(1, descending=True).argsort(1)
    counted = positive | (rank < ratio * positive.sum(1, keepdim=True))
    return (loss * counted + off * positive).sum() / positive.sum()


# %%
from labs.hunts.detection import check_multibox_loss

check_multibox_loss(multibox_loss)

# %% [markdown]
# The verdict lists what was probed, and what it saw. Go back to the function, change it, and run both cells again.
#
# :::{dropdown} Hint 1
# The probes that fail have something in common: what is in their pictures?
# :::
#
# :::{dropdown} Hint 2
# For such a batch, print the two sums of the last line. How much background counts?
# :::
#
# :::{dropdown} Hint 3
# To replace a NaN after it was made is too late: walk back through the line that made it, and print the gradient.
# :::

# %% tags=["hunt-solution", "hide-cell"]
import torch
from torch.nn import functional as F


def loss_of_batch(logits, wanted, off, ratio=3):
    """Return the loss of a batch, which may hold no object at all."""
    positive = wanted > 0
    loss = F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")  # [N,P]
    hidden = loss.detach().masked_fill(positive, -torch.inf)
    rank = hidden.argsort(1, descending=True).argsort(1)
    counted = positive | (rank < ratio * positive.sum(1, keepdim=True))
    total = positive.sum().clamp(min=1)  # zero by zero is NaN, and so is its gradient
    return (loss * counted + off * positive).sum() / total


# %% tags=["nbval-check-output"]
verdict = check_multibox_loss(loss_of_batch)
claim(
    "the repaired loss of SSD passes every probe, with objects and without",
    verdict.passed,
    measured=verdict,
)

# %% [markdown]
# The paper says that the loss is zero when no box answers for an object. Then a picture of nothing teaches nothing, and false alarms on such pictures are never corrected. Exercise 3 looks at what else one can do.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** How many default boxes does SSD300 have if its first map has six boxes to a cell instead of four? By what factor does the work of its two heads on that map grow?
#
# :::{dropdown} Solution 1
# The first map has 38 by 38 cells, so two boxes more each make 2,888 more boxes; the next cell adds them up. Both heads have channels in proportion to the boxes of a cell: half as much again.
# :::

# %% tags=["hide-cell"]
levels["boxes"].sum() + 2 * 38**2, 6 / 4

# %% [markdown]
# **Exercise 2.** Halve the scale of the first map of SSD300; there are as many boxes as before. How much better are squares of 8 pixels covered, and which squares pay for it?
#
# :::{dropdown} Solution 2
# The next cell compares the best overlap before and after. Squares of 8 and 12 pixels gain; those of 16 lose a little and those of 32 much: the larger square of the first map shrinks too, and leaves a gap below the second map. Squares of 8 pixels still stay below one half: their best box is somewhat larger than they are, and its centre may be several pixels away, because the cells are as far apart as these squares are wide. A finer map would be needed.
# :::

# %% tags=["hide-cell"]
scales = (0.035, *SSD300_BOXES.scales[1:])
finer = replace(SSD300_BOXES, scales=scales)(maps, (300, 300))
torch.manual_seed(0)
rows = {}
for size in (8, 12, 16, 24, 32):
    corner = torch.rand(200, 2) * (300 - size)
    squares = torch.cat([corner, corner + size], 1)
    best = [overlap(squares[:, None], some).amax(1) for some in (default, finer)]
    rows[size] = [one.median().item() for one in best]
pd.DataFrame(rows, index=["before", "after"]).T.rename_axis("square").round(2)

# %% [markdown]
# **Exercise 3.** `SSDCriterion` has an argument `least`. What is the loss of a batch without objects at 0, and at 10? Which of the two would you use for a camera that sees an empty road most of the day?
#
# :::{dropdown} Solution 3
# At 0 the loss is zero and no weight moves. At 10 the ten worst boxes of each picture are pushed towards "background". For the road you want that, because its false alarms come from empty pictures.
# :::

# %% tags=["hide-cell"]
empty = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
raw = network(torch.rand(1, 3, 128, 128))
for least in (0, 10):
    criterion = replace(shipped.detector.criterion, least=least)
    print(least, round(criterion(raw, empty)["class"].item(), 2))

# %% [markdown]
# ## In practice
#
# - Lay the default boxes over your own objects before you train, and count those that no box overlaps by a half. `labs.assigners.Bipartite` with `labs.boxes.DefaultBoxes` does it in a few lines.
# - Decide what pictures without objects should teach, and test the loss on a batch of them. Data loaders that drop such pictures hide the question
#   ([lufficc/SSD#150](https://github.com/lufficc/SSD/issues/150)).
# - The corrections are multiplied by 10 and 5 before they are learnt; the original program calls the inverses variances. Encode and decode with the same ones.
# - torchvision has `ssd300_vgg16` and `ssdlite320_mobilenet_v3_large`, with weights; `DefaultBoxGenerator` takes scales as fractions of the picture.
# - Many detectors without a second stage weigh the easy background down instead of choosing some of it: focal loss {cite:p}`lin2017focal`. The YOLO of this stage do neither.

# %% [markdown]
# ## You can now
#
# - draw the default boxes of every map, and find the objects that they do not cover;
# - match by the two rules of SSD, and say what each of them is for;
# - choose the background that counts, and measure what the choice does.
