# %% [markdown]
# # Drop the suppression
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** give a trained detector a head that is taught to say each object once, and measure how much suppression it still needs · say for any assigner
# what becomes of an object that covers no point, and of the background that fills the rest · read what v7, v9, v10 and RT-DETR changed as answers to one question: which cells are taught, and by whom.
#
# **You need** the assignment and the two branches of [Drop the anchors](07_drop_the_anchors), NMS and AP from [Measure boxes and mAP](01_measure_boxes_and_map).
#
# **Time** read 30 min · debug 35 min · experiment 20 min · reproduce 15 min · hunt 20 min · exercises 20 min
# :::

# %% [markdown]
# ## The symptom
#
# Non-maximum suppression (NMS) throws away the weaker of two boxes of one class that overlap a lot. It stands behind every detector of this stage. Take it away from the YOLOv8 that ships with this book, and look.

# %%
import torch

from labs.data.scenes import Rendered, Scenes
from labs.recipes import trained

train = Rendered(Scenes("train", 320, seed=5))
val = Rendered(Scenes("val", 150))
images = val.images.float() / 255
shipped = trained("yolo_v8")
network = shipped.detector.network.eval()
many = network.head  # the branches for sides and for classes

# %% [markdown]
# Two settings of the same postprocess: with an overlap of 0.6 it suppresses, with 1.0 nothing is suppressed. `network` splits in two: what looks (backbone and neck) and what answers (the head).

# %%
from labs.metrics import coco_map
from labs.postprocess import YOLOv8Postprocess

STRIDES, BINS, CLASSES = (8, 16), 16, len(shipped.classes)
SETTINGS = CLASSES, STRIDES, BINS
as_is = YOLOv8Postprocess(*SETTINGS, iou_threshold=1.0, max_detections=300)
with_nms = YOLOv8Postprocess(*SETTINGS)


# %%
@torch.no_grad()
def look(data):
    parts = data.images.split(80)
    seen = [network.neck(network.backbone(part.float() / 255)) for part in parts]
    return [torch.cat(level) for level in zip(*seen, strict=True)]  # [N,K,H,W] each


seen = {"train": look(train), "val": look(val)}
with torch.no_grad():
    raw = many(seen["val"])
found = {"without NMS": as_is(raw), "with NMS": with_nms(raw)}

# %% tags=["hide-input"]
from labs import plot
from labs.boxes.grid import cell_centres
from labs.data.scenes import preview

grids = [cell_centres(128 // s, 128 // s, images) * s for s in STRIDES]  # [H,W,2]
points = torch.cat([grid.view(-1, 2) for grid in grids])  # [P,2], in pixels


def draw_found(ax, row, prediction, least):
    """Draw the boxes with this score or more, and the cells that said them."""
    keep = prediction["scores"] >= least
    shown = {key: prediction[key][keep] for key in ("boxes", "labels")}
    shown["track_ids"] = shown["labels"]  # a colour for each class
    preview(ax, images[row], shown, [""] * CLASSES)
    ax.autoscale(False)  # or a box beyond the rim would shrink the picture
    x, y = (points[prediction["places"][keep]] - 0.5).T
    ax.scatter(x, y, s=18, color="white", edgecolor="black", linewidth=0.8)


def score_of_as_many(predictions):
    """Return the score at which there are as many boxes as objects."""
    scores = torch.cat([one["scores"] for one in predictions]).sort(descending=True)
    return scores.values[sum(len(t["boxes"]) for t in val.targets) - 1]


# %%
figure, axes = plot.new(5.2, 2.8, columns=2)
for ax, (name, predictions) in zip(axes, found.items(), strict=True):
    draw_found(ax, 0, predictions[0], score_of_as_many(found["with NMS"]))
    ax.set_title(name)
plot.show(
    figure,
    "Without suppression many cells (white) say the same digit, with nearly the same "
    "box; suppression leaves few of them.",
    alt="One scene twice, with the boxes of high score and the cells that said them. "
    "On the left each digit holds many white dots, on the right one or two.",
)

# %% [markdown]
# One digit keeps two boxes even on the right, one behind the other: they name two classes, and suppression compares boxes of one class only.
#
# How many boxes does an object get? A fixed score would favour one detector or another, so choose it the same way for all: the score at which suppression leaves as many boxes as there are objects. Then count the boxes above it before suppression, per object of the data. One is the least that this can be: then suppression removed nothing above that score. It counts all boxes, also those that lie on nothing. `said once` counts objects: of those that are found, the share that has a single box of the right class.

# %%
import pandas as pd

from labs.boxes import overlap
from labs.studies.detection.one_to_one import boxes_per_object


def said_once(predictions, least):
    """Return which share of the found objects has one box with this score or more."""
    times = []
    for one, target in zip(predictions, val.targets, strict=True):
        right = overlap(target["boxes"][:, None], one["boxes"]) > 0.5
        right &= target["labels"][:, None] == one["labels"]
        times.append((right & (one["scores"] >= least)).sum(1))
    times = torch.cat(times)
    return (times[times > 0] == 1).float().mean().item()


# %%
def judge(raw):
    raw_boxes, clean = as_is(raw), with_nms(raw)
    scores = [coco_map(f, val.targets, val.classes).AP for f in (raw_boxes, clean)]
    row = {"AP": scores[0], "AP with NMS": scores[1]}
    row["boxes per object"] = boxes_per_object(raw_boxes, clean, val.targets)
    return row | {"said once": said_once(raw_boxes, score_of_as_many(clean))}


before = judge(raw)
pd.Series(before).to_frame("shipped head").T.round(2)

# %% [markdown]
# The same network, the same answers: without suppression most of the AP is gone, because every further box of an object counts as a false alarm. So NMS is part of the detector. It costs time that depends on the scene, it must be exported with it, and its threshold is wrong somewhere: too low and it deletes the second of two digits that lie on each other, too high and it leaves doubles.

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "the shipped YOLOv8 loses over 0.3 of AP when suppression is taken away",
    before["AP with NMS"] - before["AP"] > 0.3,
    measured=before,
)
claim(
    "the shipped YOLOv8 has over 4 boxes per object before suppression, above the "
    "score at which suppression leaves one",
    before["boxes per object"] > 4,
    measured=before["boxes per object"],
)

# %% [markdown]
# ## The idea
#
# The doubles were taught. Task-aligned assignment lets the ten best cells of an object learn it: ten cells are told to say "this is a seven, here are its sides". They do as they are told.
#
# Why not teach one cell? Because it is a poor teacher: nine of ten good examples become background, and a network that starts from nothing gets little to learn from. A. {cite:t}`wang2024yolov10` keep both (YOLOv10). Two heads stand on one trunk. The *one-to-many* head is taught ten cells of an object and makes the trunk learn. The *one-to-one* head is taught one, and is the one that answers. After training the first head is thrown away.

# %% [markdown]
# ### Ten cells or one, by hand
#
# Five cells inside one object. $t = s^{\alpha} u^{\beta}$ is the metric of [Drop the anchors](07_drop_the_anchors): $s$ the score for the right class, $u$ the overlap. The wanted score is $t$, scaled so that the best cell gets the best overlap.

# %%
cells = pd.DataFrame({"score": [0.9, 0.6, 0.8, 0.3, 0.2]})
cells["overlap"] = [0.80, 0.85, 0.70, 0.88, 0.50]
t = cells["score"] ** 0.5 * cells["overlap"] ** 6
for k in (3, 1):
    top = t.where(t.rank(ascending=False) <= k, 0)
    cells[f"wanted, best {k}"] = top / top.max() * cells["overlap"][top > 0].max()
cells.assign(t=t).round(2)

# %% [markdown]
# With $k = 3$ three cells should say yes with similar scores: three boxes. With $k = 1$ one cell should, and its neighbours, which see almost the same pixels, should say no. That is a harder thing to learn, because the neighbours have to agree who speaks. So both heads use the *same* metric, which the paper calls a consistent match. Each head is assigned by what it says itself. As long as both say much the same, the one cell is the best of the ten, and the trunk was taught to see what that cell needs. The experiment below counts how often the one is among the ten.

# %% [markdown]
# ## The block
#
# A second head on the same trunk. `detach` stops its gradients in front of the trunk: only the one-to-many head teaches what to see. In eval mode the one-to-one head alone runs, so the network costs what it cost before.

# %%
import copy

from torch import nn


class TwoHeads(nn.Module):
    def __init__(self, plain):
        super().__init__()
        self.plain = plain  # its own head becomes the one-to-many head
        self.one = copy.deepcopy(plain.head)

    def forward(self, images):  # [N,3,H,W]
        maps = self.plain.neck(self.plain.backbone(images))
        one = self.one([x.detach() for x in maps])
        if not self.training:
            return one
        return *one, *self.plain.head(maps)  # level by level, head by head


# %%
from labs.assigners import TaskAligned
from labs.criteria import YOLOv8Criterion

CRITERIA = {k: YOLOv8Criterion(*SETTINGS, TaskAligned(topk=k)) for k in (1, 10)}


def both_losses(raw, targets):
    half = len(raw) // 2
    one, ten = CRITERIA[1](raw[:half], targets), CRITERIA[10](raw[half:], targets)
    return sum(one.values()) + sum(ten.values())


# %%
two = TwoHeads(copy.deepcopy(network)).train()
answers = two(images[:4])
loss = both_losses(answers, val.targets[:4])
[tuple(level.shape) for level in answers]

# %% [markdown]
# Four maps: two levels of the one-to-one head, two of the other. After training the second two go. Does the one-to-one loss really leave the trunk alone? Ask the gradients, and compare with the version that the recorded study of this lesson uses.

# %%
one_only = sum(CRITERIA[1](answers[:2], val.targets[:4]).values())
weights = dict(two.named_parameters())
slopes = torch.autograd.grad(one_only, weights.values(), allow_unused=True)
reached = {
    n.split(".")[0] for n, s in zip(weights, slopes, strict=True) if s is not None
}
reached

# %% tags=["nbval-check-output"]
from labs.studies.detection import one_to_one

library = one_to_one.TwoHeads(copy.deepcopy(network)).train()
library.load_state_dict(two.state_dict())
judges = one_to_one.Both(CRITERIA[10], CRITERIA[1])
theirs = library.eval()(images[:4])
away = max(
    (a - b).abs().max().item()
    for a, b in zip(two.eval()(images[:4]), theirs, strict=True)
)
terms = judges(answers, val.targets[:4])
apart = abs(sum(terms.values()).item() / loss.item() - 1)
claim(
    "two heads, by hand and in labs: maps and losses agree to 1e-5",
    max(away, apart) < 1e-5,
    measured=(away, apart),
)
claim(
    "two heads: the one-to-one loss reaches no weight outside the one-to-one head",
    reached == {"one"},
    measured=reached,
)

# %% [markdown]
# `labs.diagram` draws the network from a run.


# %%
class Drawn(nn.Module):
    def __init__(self, two):
        super().__init__()
        self.plain, self.one = two.plain, two.one

    def forward(self, images):  # both heads, also in eval mode
        maps = self.plain.neck(self.plain.backbone(images))
        return *self.one(maps), *self.plain.head(maps)


# %%
from labs import diagram

PARTS = {"image": "input", "backbone": "plain.backbone", "neck": "plain.neck"}
PARTS |= {f"one {8 << k}": f"one.classes.{k}" for k in range(2)}
PARTS |= {f"many {8 << k}": f"plain.head.classes.{k}" for k in range(2)}
wiring = diagram.trace(Drawn(two), torch.rand(1, 3, 64, 64), PARTS)
ROWS = [["image", "backbone", "neck", None], ["one 8", "one 16", "many 8", "many 16"]]
GROUPS = {"trunk": ["backbone", "neck"], "one-to-one": ["one 8", "one 16"]}
GROUPS["one-to-many"] = ["many 8", "many 16"]
plot.show(
    diagram.draw(wiring, ROWS, GROUPS),
    "YOLOv10 puts two heads of one form on one trunk: the one-to-many head teaches "
    "the trunk and is thrown away, the one-to-one head stays and answers.",
    alt="From the image arrows lead through backbone and neck to four branches of "
    "classes: two levels of the one-to-one head, two of the one-to-many head.",
)

# %% [markdown]
# The branches for the sides are left out of the drawing. In the forward pass both heads hang on the neck in the same way; the difference is in the gradients, which the drawing does not show.

# %% [markdown]
# ## Debug: who is taught, and who is not
#
# ### The cells of an object
#
# On the shipped network, look at the cells that each rule would teach.

# %%
from labs.criteria.yolo_v8 import stack_objects
from labs.postprocess.yolo_v8 import decode

truth = stack_objects(val.targets)  # boxes [N,G,4], labels [N,G], exists [N,G]
said = decode(raw, *SETTINGS)


def assigned(rule, said=said, truth=truth):
    return rule(said.classes.sigmoid(), said.boxes, said.points, *truth)


ten, one = assigned(TaskAligned(topk=10)), assigned(TaskAligned(topk=1))

# %%
figure, axes = plot.new(height=2.7, columns=3)
for row, ax in enumerate(axes):
    preview(ax, images[row], val.targets[row], [""] * CLASSES)
    for which, size, colour in ((ten, 12, "white"), (one, 45, plot.COLOURS[1])):
        x, y = (said.points[which.objects[row] >= 0] - 0.5).T
        ax.scatter(x, y, s=size, color=colour, edgecolor="black", linewidth=0.6)
plot.show(
    figure,
    "Up to ten cells of each digit are taught by one rule (white), one of them by "
    "the other (orange).",
    alt="Three scenes. In each box lie up to ten white dots, and one larger orange "
    "dot.",
)

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Of 320 cells and 10 classes, how many numbers of an image should be near zero? Which share of the slope (the gradient, all numbers added without their signs) of the class loss comes from the few that should not: with cross entropy, and with the focal loss (here $\alpha = 0.25$ and $\gamma = 2$)? Think of three networks: one that says 0.5 everywhere, one that starts low as detectors do, and one that is trained. And what changes if the same objects lie among the hundred thousand anchors and 80 classes of RetinaNet?
# :::

# %%
import math

from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torchvision.ops import sigmoid_focal_loss

from labs.models import YOLOv8
from labs.repro import seed_everything

seed_everything(0)
fresh = YOLOv8(CLASSES, strides=STRIDES, image_size=128).train()
with torch.no_grad():
    started = decode(fresh(images[:50]), *SETTINGS).classes
low = torch.full_like(started, math.log(0.01 / 0.99))
more = 100_000 * 80 / started[0].numel()  # RetinaNet has so many times the numbers
NETS = {
    "0.5 everywhere": (torch.zeros_like(low), 1),
    "starts low, as YOLOv8": (started, 1),
    "starts at 0.01, as RetinaNet": (low, 1),
    "starts at 0.01, among 100,000 anchors": (low, more),
    "trained": (said.classes[:50], 1),
}

# %%
place = (ten.objects[:50] >= 0).nonzero(as_tuple=True)
label = truth[1][place[0], ten.objects[:50][place]]
hard, soft = torch.zeros_like(started), torch.zeros_like(started)
hard[(*place, label)] = 1.0
soft[(*place, label)] = ten.quality[:50][place]
RULES = {
    "cross entropy": lambda x: cross_entropy(x, hard, reduction="sum"),
    "focal loss": lambda x: sigmoid_focal_loss(x, hard, 0.25, 2.0, "sum"),
    "wanted = quality (v8)": lambda x: cross_entropy(x, soft, reduction="sum"),
}


# %%
def share_of_objects(rule, logits, times):
    """Return the share of the slope about objects, each "no" counted many times."""
    leaf = logits.clone().requires_grad_()
    slope = torch.autograd.grad(rule(leaf), leaf)[0].abs()
    about = slope[hard == 1].sum()
    return (about / (about + times * slope[hard == 0].sum())).item()


shares = {
    name: {rule: share_of_objects(f, *net) for rule, f in RULES.items()}
    for name, net in NETS.items()
}
pd.DataFrame(shares).T.round(4)

# %% [markdown]
# At 0.5 every number pulls equally hard, so in the first row cross entropy gives objects just their share of the numbers, which is under one in a hundred; the weight $\alpha$ of the focal loss makes it smaller still. Almost the whole slope says "no".
#
# {cite:t}`lin2017focal` (RetinaNet) give two cures. They start the last bias so that every score is low, as v5 to v8 do too. Among 320 cells that is nearly enough: with the start of YOLOv8 most of the slope is about objects. Among a hundred thousand anchors it is not: the low start alone leaves objects less than a thousandth of the slope. So there is a second cure. The *focal loss* multiplies the cross entropy by $(1 - p_t)^{\gamma}$, where $p_t$ is the probability given to the truth, so that background that is already sure hardly counts; together the two give objects a good part of the slope again. {cite:t}`tian2019fcos` (FCOS) use it for a detector without anchors, in which every point inside a box answers for it, on the one level that is meant for its size.
#
# Task-aligned assignment in v8 has the low bias, and plain cross entropy. It picks few cells and asks for their overlap instead of 1; its share stays below that of a hard 1, because less is asked of the objects. In the last row, of a trained network, cross entropy and focal loss give objects about the same share. This network learnt with cross entropy, so the row says what the focal loss would do to it, and not what a training with the focal loss becomes.

# %% tags=["nbval-check-output"]
claim(
    "classes, 320 cells: at the start of YOLOv8 over half of the slope of the cross "
    "entropy is about objects, and over 95 % of that of the focal loss",
    shares["starts low, as YOLOv8"]["cross entropy"] > 0.5
    and shares["starts low, as YOLOv8"]["focal loss"] > 0.95,
    measured=shares["starts low, as YOLOv8"],
)

# %% [markdown]
# ### Is the middle a good place?
#
# FCOS says by geometry which points are good: those in the middle of the box. Its centre-ness is $\sqrt{\frac{\min(l,r)}{\max(l,r)} \cdot \frac{\min(t,b)}{\max(t,b)}}$, from the four distances to the sides. Task-aligned assignment asks the network. FCOS learns it in a third branch, and multiplies the score by it. Which of the two orders the cells of an object better by how well their boxes lie: the centre-ness, computed from the true box, or the score of the shipped network?

# %%
from scipy.stats import spearmanr

from labs.ablation import resample
from labs.assigners.task_aligned import inside
from labs.boxes import to_sides

boxes, labels, exists = truth
allowed = inside(said.points, boxes) & exists[..., None]  # [N,G,P]
image, mine, spot = allowed.nonzero(as_tuple=True)
table = pd.DataFrame({"object": (image * boxes.shape[1] + mine).numpy()})
table["overlap"] = overlap(boxes[image, mine], said.boxes[image, spot]).numpy()
table["score"] = said.classes.sigmoid()[image, spot, labels[image, mine]].numpy()
left, top, right, bottom = to_sides(boxes[image, mine], said.points[spot]).T
across = torch.minimum(left, right) / torch.maximum(left, right)
down = torch.minimum(top, bottom) / torch.maximum(top, bottom)
table["centre-ness"] = (across * down).sqrt().numpy()

# %%
groups = [g for _, g in table.groupby("object") if len(g) > 5]
ranks = {
    name: [spearmanr(g[name], g["overlap"]).statistic for g in groups]
    for name in ("centre-ness", "score")
}
ranks = pd.DataFrame(ranks).dropna()
ranks["score minus centre-ness"] = ranks["score"] - ranks["centre-ness"]
order = {
    name: resample(lambda rows, n=name: ranks[n].to_numpy()[rows].mean(), len(ranks))
    for name in ranks
}
pd.Series(order, name="rank correlation with the overlap").to_frame()

# %% [markdown]
# Within an object, both say something about which cells have good boxes; geometry does so without a single number from the network. The score orders them better, and the interval, which draws objects again, leaves out zero. Read it with care: this network was *taught* so that its scores follow its overlaps, and no centre-ness was in its loss; so the comparison is about this network, not about two trainings.

# %% tags=["nbval-check-output"]
claim(
    "cells of a digit: centre-ness and score both order them by overlap, and the "
    "score does it better (95 % over objects)",
    min(o.low for o in order.values()) > 0,
    measured=order,
)

# %% [markdown]
# ### The object that covers no point
#
# Both FCOS and task-aligned assignment ask for points *inside* the box. Take two objects that are thin, and one that is not, on an image of 128 by 128 pixels with cells of 8 and of 16 pixels.

# %%
THIN = {"110 x 3": [9.0, 62.2, 119, 65.2], "2 x 117": [48.8, 6, 50.8, 123]}
OBJECTS = THIN | {"30 x 40": [40.0, 40, 70, 80]}
shapes = torch.tensor(list(OBJECTS.values()))

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# You have met most of these rules: the cell of the centre and the best anchor (v3), v5's neighbours and shapes, the threshold of Faster R-CNN (with its rescue: the anchors that fit an object best answer for it, even below the threshold), SSD's bipartite rule, the points inside of FCOS, and task-aligned assignment. Which of them give the two thin objects no cell at all, even if all predictions are perfect?
# :::

# %%
from labs.assigners import BestAnchor, Bipartite, MultiAnchor, Thresholds
from labs.assigners.truths import Truths
from labs.boxes.references import lay
from labs.recipes.detectors import ANCHORS

one_label = [{"boxes": box[None], "labels": torch.zeros(1).long()} for box in shapes]
maps = [torch.zeros(1, 3, 128 // s, 128 // s, 15) for s in STRIDES]
laid = [lay(g, torch.tensor(a).float()) for g, a in zip(grids, ANCHORS, strict=True)]
anchors = torch.cat(laid)
by_shape = MultiAnchor(ANCHORS, STRIDES)


# %%
def near_centre(box, radius=1.5):
    """Tell which points lie within so many cells of the centre of a box."""
    return ((points - (box[:2] + box[2:]) / 2).abs() < radius * said.cells).all(1)


def perfect(box, least_side):
    """Ask task-aligned assignment, where every cell has the right class and box."""
    rule = TaskAligned(topk=10, least_side=least_side)
    scores = torch.ones(1, len(points), 1)
    args = box.expand(1, len(points), 4), points, box[None, None]
    return rule(scores, *args, torch.zeros(1, 1).long(), torch.ones(1, 1).bool())


# %%
def counts(target):
    box = target["boxes"][0]
    truths, ours = Truths.of([target], box), target["boxes"]
    within = inside(points, ours[None])[0, 0]
    best = BestAnchor(ANCHORS, STRIDES)(ours, truths.image, [(16, 16), (8, 8)])
    near = near_centre(box)
    far = to_sides(box, points).amax(1) > 64  # FCOS: then the coarse level answers
    answers = {
        "best anchor, cell of the centre (v3)": torch.ones(len(best.target)),
        "shapes and neighbours (v5)": torch.ones(len(by_shape(maps, truths))),
        "IoU 0.7, with rescue": Thresholds()(ours, anchors) >= 0,
        "IoU 0.7, without": Thresholds(rescue=False)(ours, anchors) >= 0,
        "bipartite (SSD)": Bipartite()(ours, anchors) >= 0,
        "points inside, both levels": within,
        "points inside, level by size (FCOS)": within
        & (far == (said.cells[:, 0] == 16)),
        "inside and near the centre": within & near,
        "inside or near the centre (candidates of YOLOX)": within | near,
        "task-aligned (v8)": perfect(box, 0).objects >= 0,
        "task-aligned, least side 16": perfect(box, 16).objects >= 0,
    }
    return {rule: int(cells.sum()) for rule, cells in answers.items()}


gets = pd.DataFrame({n: counts(t) for n, t in zip(OBJECTS, one_label, strict=True)})
gets

# %% [markdown]
# Read which entries are zero, and not which is the largest: YOLOX chooses among its candidates later, by SimOTA, and task-aligned assignment has already chosen. The thin objects lie between the centres of cells, and every rule of the table that asks for a point inside gives them none. A centre prior that *narrows* the candidates, as later versions of FCOS have it, does not help; one that *adds* points near the centre, as in YOLOX {cite:p}`ge2021yolox`, does. Rules that start from the object and take its best reference, as the first, the third and the fifth do, leave none out. Rules that compare with a bar may: in v5 no anchor is of about the shape of the wide one, and no anchor overlaps either by 0.7. With `least_side=16` task-aligned assignment enlarges short sides while it looks for points.
#
# What does the network learn from a scene with such an object? Ask the loss: once with the object in the truth, once with an empty truth.

# %%
NOBODY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
answer = [level[:1].clone().requires_grad_() for level in raw]
thin = {"boxes": shapes[:2], "labels": torch.tensor([1, 7])}


def slopes_of(target):
    total = sum(CRITERIA[10](answer, [target]).values())
    return torch.cat([s.flatten() for s in torch.autograd.grad(total, answer)])


silent = (slopes_of(thin) - slopes_of(NOBODY)).abs().max().item()
silent

# %% [markdown]
# No difference in any slope: for the loss there is no object. That is worse than a missing lesson, because every cell near it is taught to say no. Enlarging makes candidates only: a candidate whose predicted box does not overlap the object has a metric of zero and is not chosen.
#
# How often does it happen? Lay squares and strips at random places, and count those that cover no centre of a cell of 8 or of 16 pixels.


# %%
def uncovered(width, height, draws=1500):
    seed_everything(0)
    corner = torch.rand(draws, 2) * (128 - torch.tensor([width, height]))
    laid = torch.cat([corner, corner + torch.tensor([width, height])], 1)
    return 1 - inside(points, laid[None])[0].any(1).float().mean().item()


# %%
SIDES = list(range(2, 17))
squares = [uncovered(s, s) for s in SIDES]
strips = [uncovered(100, s) for s in SIDES]
figure, ax = plot.new(height=2.8)
ax.plot(SIDES, squares, "o-", label="squares")
ax.plot(SIDES, strips, "s-", label="strips of 100 pixels")
ax.set(xlabel="shorter side (px)", ylabel="covers no point", ylim=(0, 1))
ax.legend()
plot.show(
    figure,
    "Most squares of 4 pixels cover no point of cells of 8 and 16 pixels; long "
    "strips do better, but only from 8 pixels on is every object safe.",
    alt="Two falling curves of the share of objects without a point, against their "
    "shorter side.",
)

# %% tags=["nbval-check-output"]
claim(
    "an object of 110 x 3 or 2 x 117 pixels that covers no point changes no slope of "
    "the loss of YOLOv8",
    silent == 0,
    measured=silent,
)
claim(
    "with least_side 16 task-aligned assignment gives both thin objects a cell, if "
    "the predictions fit",
    bool((gets.loc["task-aligned, least side 16", list(THIN)] > 0).all()),
    measured=gets.loc["task-aligned, least side 16"].to_dict(),
)
claim(
    "with cells of 8 pixels over half of the squares of 4 pixels cover no point",
    squares[SIDES.index(4)] > 0.5,
    measured=squares[SIDES.index(4)],
)

# %% [markdown]
# ### A head that only teaches
#
# A head that is thrown away after training is older than v10. YOLOv7 {cite:p}`wang2023yolov7` hangs an *auxiliary* head on an earlier layer of its large models, and has to say which cells that head learns. Its own predictions are poor when the training begins. So the *lead* head, the one that stays, chooses for both: lead-guided labels. Count what that changes: let the shipped YOLOv7 be the lead and a fresh one the auxiliary head, and let each choose by SimOTA.

# %%
from labs.boxes.anchored import split_anchors
from labs.criteria import YOLOv7Criterion
from labs.recipes.detectors import mini_yolo_v7

lead = trained("yolo_v7").detector
seed_everything(0)
young = mini_yolo_v7(CLASSES).network.train()

# %%
SimOTA = YOLOv7Criterion(ANCHORS, STRIDES, balance=(4.0, 1.0)).assigner()
objects = Truths.of(val.targets[:60], images)


def places(net):
    """Return the pairs that SimOTA chooses, as a set of tuples."""
    with torch.no_grad():
        maps = [split_anchors(level, 3) for level in net(images[:60])]
    columns = SimOTA(maps, objects).columns
    return set(zip(*(column.tolist() for column in columns), strict=True))


by = {"itself": places(young), "the lead head": places(lead.network.train())}
cells_each = {who: len(pairs) / len(objects) for who, pairs in by.items()}
shared = {w: len(pairs & by["the lead head"]) / len(pairs) for w, pairs in by.items()}
pd.DataFrame({"cells per object": cells_each, "also the lead's": shared}).round(2)

# %% [markdown]
# SimOTA sums the ten best overlaps of an object to decide how many cells it may have. A fresh head overlaps poorly, so it grants itself few; the lead head grants it about twice as many. The few are not chosen blindly: the lead would choose over half of them too. In YOLOv7 the auxiliary head also gets *coarse* labels, with more cells allowed than for the lead head. The book has no YOLOv7 with an auxiliary head, so cells were counted here, and nothing says how well a head learns from them.
#
# Now look at YOLOv10 again: its one-to-many head is an auxiliary head on the same layer, with many cells for an object. Only that it chooses them itself: there no head guides the other.

# %% tags=["nbval-check-output"]
claim(
    "SimOTA: guided by a trained lead head, an object gets over 1.5 times as many "
    "cells as by a fresh head",
    cells_each["the lead head"] > 1.5 * cells_each["itself"],
    measured=cells_each,
)

# %% [markdown]
# ## Experiment: teach the shipped detector to say it once
#
# The shipped trunk was taught by a one-to-many head for long. `detach` means that a one-to-one head changes nothing in it. So keep the trunk frozen, keep its maps in memory, and train a second head.
#
# The first arm starts as a copy of the shipped head, and the best cell by the metric is taught. Each other arm differs from it in one thing: the best *ten* cells are taught, as a control, because training on changes a head in any case; the cell is chosen by its *overlap* alone, whatever the class branch says ($\alpha = 0$); the *old sides* are kept, and only the class branch learns; or the head starts *fresh*, with random weights.

# %%
from torch.optim.lr_scheduler import OneCycleLR

from labs.repro import budget

ARMS = {"one": (1, 0.5), "ten": (10, 0.5), "overlap": (1, 0.0)}
ARMS |= {"old sides": (1, 0.5), "fresh": (1, 0.5)}
STEPS = budget(cpu=50, gpu=300)


def start(arm):
    if arm == "fresh":
        return YOLOv8(CLASSES, strides=STRIDES, image_size=128).head.train()
    head = copy.deepcopy(many).train()
    if arm == "old sides":
        head.sides.requires_grad_(False).eval()
    return head


# %%
def train_head(arm, steps=STEPS):
    criterion = YOLOv8Criterion(*SETTINGS, TaskAligned(*ARMS[arm]))
    head = start(arm)
    adam = torch.optim.AdamW(head.parameters(), 2e-3, weight_decay=0.02)
    cycle = OneCycleLR(adam, 2e-3, total_steps=steps, pct_start=0.15)
    for _ in range(steps):
        rows = torch.randint(len(train), (8,))
        maps = [level[rows] for level in seen["train"]]
        terms = criterion(head(maps), [train.targets[k] for k in rows])
        adam.zero_grad()
        sum(terms.values()).backward()
        adam.step()
        cycle.step()
    with torch.no_grad():
        return head.eval()(seen["val"])  # what it says on new scenes


# %% [markdown]
# Who is taught in the end? `loudest is taught` is the share of objects whose cell of the highest score is one that the rule would teach. `among the ten` is the share of the taught cells that the shipped head would teach too, if it chose ten.


# %%
def who_is_taught(arm, raw):
    answers = decode(raw, *SETTINGS)
    would = assigned(TaskAligned(*ARMS[arm]), answers).objects
    scores = answers.classes.transpose(1, 2)  # [N,C,P]
    of_object = scores[torch.arange(len(scores))[:, None], labels]  # [N,G,P]
    loudest = of_object.masked_fill(~allowed, -torch.inf).argmax(2)  # [N,G]
    heard = (would.gather(1, loudest) == torch.arange(labels.shape[1]))[exists]
    shared = (would == ten.objects)[would >= 0]
    shares = {"loudest is taught": heard, "among the ten": shared}
    return {name: share.float().mean().item() for name, share in shares.items()}


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# How much AP does each of the five heads have without suppression, and how much with it? Does one of them reach without suppression what the shipped head has *with* it?
# :::

# %%
from labs.ablation import ablate

answers_of = {}


def train_and_score(arm):
    answers_of[arm] = train_head(arm)  # of the last seed
    return judge(answers_of[arm]) | who_is_taught(arm, answers_of[arm])


study = ablate(train_and_score, {"arm": "one"}, "arm", list(ARMS))
grouped = study.frame().groupby("arm", sort=False)
means = grouped[list(study.metrics)].mean()
counted = grouped["boxes per object"].agg(["min", "max"]).T.to_dict()
pd.concat([means[list(before)], pd.Series(before).to_frame("shipped").T]).round(2)

# %%
figure, axes = plot.new(height=2.8, columns=2)
for ax, metric in zip(axes, ("AP", "AP with NMS"), strict=True):
    study.plot(ax, metric)
    ax.axhline(before[metric], color="black", ls=":")
    ax.set(title=metric, ylim=(0.2, 0.9))
plot.show(
    figure,
    "Without suppression the copies that were taught one cell by score and overlap "
    "have by far the highest AP; the dotted line is the shipped head.",
)

# %%
for metric in ("AP", "AP with NMS", "boxes per object"):
    print(f"{metric}\n{study.verdict(metric)}")
    print(f"    would find a difference of {study.detectable(metric):.3f}")

# %%
bars = {arm: score_of_as_many(with_nms(answers_of[arm])) for arm in ("one", "ten")}
figure, axes = plot.new(5.2, 2.8, columns=2)
for ax, (arm, least) in zip(axes, bars.items(), strict=True):
    draw_found(ax, 0, as_is(answers_of[arm])[0], least)
    ax.set_title(f"{arm} taught")
plot.show(
    figure,
    "The scene of the beginning without suppression, and two heads trained for the "
    "same steps: taught one cell, a head still has doubles, but fewer than taught "
    "ten. Each is cut where suppression leaves it as many boxes as objects.",
    alt="One scene twice. On the left two digits hold a few white dots each, on the "
    "right one digit holds many.",
)

# %% [markdown]
# A head of the same form, on maps that nobody changed, now has far fewer boxes per object than the control, so it is the rule and not the training. The number is a mean: `said once`, the share of digits without a double, is still small after these steps.
#
# And the choice of the one cell matters. Chosen by overlap alone, the cell need not be the one that speaks. Ask both rules before any training, on what the shipped head says, and after it.

# %%
first = pd.DataFrame({arm: who_is_taught(arm, raw) for arm in ("one", "overlap")}).T
last = means.loc[first.index, first.columns]
taught = pd.concat({"before training": first, "after": last}, axis=1)
taught.round(2)

# %% [markdown]
# Before any training the rule with $\alpha = 0.5$ agrees more often with the loudest cell, because it looks at the score: so much is the rule itself. Training then raises its share a lot, and leaves that of the other rule where it was. A cell that speaks is taught again, and speaks louder; chosen by overlap, the cell that is taught and the cell that speaks stay two. Nearly every cell that the first rule teaches is among the ten of the shipped head, although both heads choose by what they say themselves: the match stays consistent.
#
# No head reaches without suppression what the shipped head has *with* it. Is that the short training, and where do the doubles come from? Give the copy and the fresh head more steps, once each: single runs show a direction and get no verdict.

# %%
runs = {f"one, {STEPS} steps": means.loc["one", list(before)]}
runs[f"fresh, {STEPS} steps"] = means.loc["fresh", list(before)]
for arm in ("one", "fresh"):
    seed_everything(0)
    runs[f"{arm}, {3 * STEPS} steps"] = pd.Series(judge(train_head(arm, 3 * STEPS)))
longer = pd.DataFrame(runs).T
longer["gain of NMS"] = longer["AP with NMS"] - longer["AP"]
longer.assign(runs=[3, 3, 1, 1]).round(3)

# %% [markdown]
# After the short training the fresh head has far fewer doubles than the copy, so most of the copy's doubles are left from what it learnt as a one-to-many head. The fresh head pays with AP, because it has everything else to learn as well. With three times the steps the doubles of the copy are nearly as few as those of the fresh head, and little is left for suppression to gain.
#
# After these steps a gap to the shipped head with suppression is left, and doubles are only a part of it: with suppression the copies stay behind the control too. The sides are another part. Where the old branch for the sides is kept, AP with suppression is higher at every seed than where it goes on learning, from one cell of an object instead of ten.

# %% tags=["nbval-check-output"]
kept = grouped["AP with NMS"].agg(["min", "max"]).T.to_dict()
told = dict(line.split(": ", 1) for line in study.verdict("AP").splitlines())
claim(
    "one-to-one head on the shipped trunk: AP without suppression is higher than "
    "with ten cells taught, and than with the cell chosen by overlap, told apart",
    all(told[arm].startswith("lower") for arm in ("ten", "overlap")),
    measured=told,
)
claim(
    "one-to-one head on the shipped trunk: under 2.5 boxes per object without "
    "suppression in each of three seeds, where the control has over 5",
    counted["one"]["max"] < 2.5 and counted["ten"]["min"] > 5,
    measured=counted,
)
claim(
    "one-to-one head on the shipped trunk: with suppression the lowest AP of three "
    "seeds where only classes learn is above the highest where the sides learn too",
    kept["old sides"]["min"] > kept["one"]["max"],
    measured=kept,
)
claim(
    "one-to-one head on the shipped trunk: after the same steps a fresh head has, at "
    "each of three seeds, fewer boxes per object than a copy at any of them",
    counted["fresh"]["max"] < counted["one"]["min"],
    measured=counted,
)
claim(
    "one-to-one head on the shipped trunk: after the same steps the AP of a fresh "
    "head is lower than that of a copy, told apart",
    told["fresh"].startswith("lower"),
    measured=told,
)

# %% tags=["nbval-check-output"]
gained = (last - first)["loudest is taught"]
claim(
    "training a one-to-one head raises the share of objects whose loudest cell is "
    "taught by over 0.2 if the score takes part in the choice, by under 0.1 if not",
    gained["one"] > 0.2 and gained["overlap"] < 0.1,
    measured=gained.to_dict(),
)
short, long = (longer.loc[f"one, {steps} steps"] for steps in (STEPS, 3 * STEPS))
claim(
    "one-to-one head on the shipped trunk: three times the steps lower the gain of "
    "suppression by over a quarter (one run)",
    long["gain of NMS"] < 0.75 * short["gain of NMS"],
    measured=longer["gain of NMS"].to_dict(),
)
claim(
    f"one-to-one head on the shipped trunk: after {3 * STEPS} steps (one run) it is, "
    "without suppression, over 0.03 of AP behind the shipped head with suppression",
    before["AP with NMS"] - long["AP"] > 0.03,
    measured=before["AP with NMS"] - long["AP"],
)

# %% [markdown]
# ## Reproduce: a head for the trunk, a head for the answer
#
# **The paper says.** A. {cite:t}`wang2024yolov10` report that a network with both heads detects without suppression about as well as one with a one-to-many head and suppression, and that a one-to-one head alone is worse, because the trunk gets too little to learn from.
#
# **We measure** it from nothing, in a recorded study: a small YOLOv8 on scenes of 64 by 64 pixels with four kinds of digits. Three arms: both heads, the one-to-one head alone, the one-to-many head alone. `AP` is without suppression. The first points of one run are made again here.

# %%
from labs.studies import read_record, replay

record = read_record("one_to_one")
again = replay(one_to_one.EXPERIMENT, record, "both", seed=0)
again.table().round(3)

# %% tags=["nbval-check-output"]
claim(
    "two heads: the first steps of a recorded run, made again, agree with the record",
    again.agrees,
    measured=again,
)

# %%
recorded = record.study.frame().groupby("heads", sort=False)
print(record.label)
recorded[list(record.study.metrics)].mean().round(3)

# %%
figure, axes = plot.new(height=2.8, columns=2)
for ax, metric in zip(axes, ("AP", "AP with NMS"), strict=True):
    record.study.plot(ax, metric)
    ax.set(title=metric)
plot.show(
    figure,
    "From nothing: without suppression two heads have the highest AP; with "
    "suppression these seeds do not tell them from the one-to-many head "
    f"({record.label}).",
)

# %%
for metric in ("AP", "AP with NMS", "boxes per object"):
    print(f"{metric}\n{record.study.verdict(metric)}")
    print(f"    would find a difference of {record.study.detectable(metric):.3f}")

# %% [markdown]
# Read `AP` first. Taught many cells, a network needs suppression; taught one, it hardly does, and the same holds for the one-to-one head beside a one-to-many head. Then compare the two that need none. With the same steps, scenes and seeds the head with a teacher beside it is ahead of the head alone, told apart: as the paper says, one cell per object is a poor teacher for the trunk. With suppression the one-to-many head has the highest mean of all; these seeds do not tell it from two heads, and the line below the verdict says how large a difference they would have found.
#
# **Why they differ.** The paper's networks train for hundreds of epochs on COCO, and the one with two heads there comes close to one-to-many with suppression. These stop after a few hundred steps with a low AP, so what you see is who learns faster, and not who wins in the end. And they find little: with an AP this low many of the boxes that are counted per object are no hits, and the least that the count can be is one. The few doubles agree with the fresh head of the experiment above, which had nothing to unlearn either.

# %% tags=["nbval-check-output"]
short = record.study.verdict("AP").splitlines()
behind = dict(line.split(": ", 1) for line in short)
extra = recorded["boxes per object"].mean()
claim(
    "recorded: without suppression a one-to-one head alone has a lower AP than one "
    "beside a one-to-many head, and so has a one-to-many head, told apart",
    behind["one"].startswith("lower") and behind["many"].startswith("lower"),
    measured=behind,
)
claim(
    "recorded: one-to-one heads have at most 1.3 boxes per object without "
    "suppression, a one-to-many head over two",
    max(extra["one"], extra["both"]) < 1.3 and extra["many"] > 2,
    measured=extra.to_dict(),
)
claim(
    "recorded: suppression gains under 0.02 of AP for a one-to-one head beside a "
    "one-to-many head",
    recorded["gain of NMS"].max()["both"] < 0.02,
    measured=recorded["gain of NMS"].max().to_dict(),
)

# %% [markdown]
# ### After v8
#
# What follows was read in the papers, and not run here.
#
# - **v9** by C.-Y. {cite:t}`wang2024yolov9` asks what the gradient still knows. A deep network loses part of its input on the way, so the gradient of the early layers is computed from an incomplete picture. Its *programmable gradient information* is a second branch, built so that nothing is lost on the way, which only exists in training: it has heads and losses of its own, and sends gradients into the main branch. That is an auxiliary head with its own way down. The main branch is built of GELAN, which generalises the blocks of [Plan the gradient path](06_plan_the_gradient_path). Suppression stays.
# - **v10** by A. {cite:t}`wang2024yolov10` is what you built, and more: a lighter branch for classes, a cheaper way to halve the side, and attention on the coarsest map. The first two save time, and the attention is there for accuracy; none of them has to do with suppression. In the programs that train it the maps are detached in front of the one-to-one head, as here.
# - **RT-DETR** by {cite:t}`zhao2024rtdetr` comes from the other side. DETR {cite:p}`carion2020detr` has no cells: a fixed number of queries look at the picture, a matching gives each object one of them, and the queries see *each other*, so they can agree who speaks. That needs no suppression from the start, but it was slow to run and to train. RT-DETR makes the encoder cheap, by attention on the coarsest map alone and convolutions between the levels, and starts its queries from the encoder's own best answers. The stage on transformers is to come.
#
# So the line of this lesson is one question. One cell per object is enough to answer, and too little to teach. v7 and v9 add teachers that do not answer, v10 makes the old head the teacher, and RT-DETR lets the answers talk to each other.

# %% [markdown]
# ## Bug hunt: the loss that taught silence
#
# **Difficulty** 1 of 3 · **Importance** 3 of 3 · **Time** 20 min
#
# A focal loss for a detector that is trained on every cell. The loss starts tiny and stays so, nothing is not finite, and after a night of training every score is near zero, on every picture. Its owner turned $\alpha$ up to make objects count more, and the loss only grew as a whole. Both halves of the story were met: one in [qubvel/segmentation_models#187](https://github.com/qubvel/segmentation_models/issues/187) and [mkocabas/focal-loss-keras#6](https://github.com/mkocabas/focal-loss-keras/issues/6), the other in [yhenon/pytorch-retinanet#98](https://github.com/yhenon/pytorch-retinanet/issues/98). Edit the function in this cell until the check below it passes.

# %% tags=["hunt-bug"]
from torch.nn.functional import binary_cross_entropy_with_logits


def focal_loss(logits, wanted, alpha, gamma):  # [N,P,C] both; wanted is 0 or 1
    cost = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    p = logits.sigmoid()
    p_true = p * wanted + (1 - p) * (1 - wanted)
    return (alpha * (1 - p_true) ** gamma * cost).mean()


# %%
from labs.hunts.detection import check_focal_loss

check_focal_loss(focal_loss)

# %% [markdown]
# The verdict lists what was probed, and what it saw. Go back to the function, change it, and run both cells again.
#
# :::{dropdown} Hint 1
# Ask for the loss of one cell alone: once an object with the logit 0.7, once background with the logit -0.7. Both are equally easy. Should they cost the same?
# :::
#
# :::{dropdown} Hint 2
# Add a hundred times as many cells of background, all with a logit of -6. What should the loss do, and what does it do?
# :::
#
# :::{dropdown} Hint 3
# Read in section 3 and section 4 of the paper what the weight is called for each of the two kinds of cells, and by what the sum over all anchors is divided. What then about a picture without objects?
# :::

# %% tags=["hunt-solution", "hide-cell"]
from torch.nn.functional import binary_cross_entropy_with_logits


def mended_focal_loss(logits, wanted, alpha, gamma):
    cost = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    p = logits.sigmoid()
    p_true = p * wanted + (1 - p) * (1 - wanted)
    weight = alpha * wanted + (1 - alpha) * (1 - wanted)
    total = (weight * (1 - p_true) ** gamma * cost).sum()
    return total / wanted.sum().clamp(min=1)  # an empty picture divides by 1


# %% tags=["nbval-check-output"]
verdict = check_focal_loss(mended_focal_loss)
claim(
    "the repaired focal loss passes every probe of weights, counts and gradients",
    verdict.passed,
    measured=verdict,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Could you train the one-to-one head with `topk=2` and suppress nothing? What would the AP without suppression be, roughly, if each object has two boxes of about the same score, both right?
#
# :::{dropdown} Solution 1
# The second box of each object is a false alarm with about the score of a hit. Along the curve half of the boxes are then wrong, so the precision is near one half at every recall, and AP near 0.5 times what it was. In the experiment doubles cost less, because there a double mostly scores lower than the hit and stands further down the list, behind other hits: only the false alarms above a hit lower its precision.
# :::
#
# **Exercise 2.** The one-to-one loss of this lesson is divided by the sum of the wanted scores, as the other one is. How many cells share that sum for an object in each head, and what would change if you divided both losses by the number of cells of the image instead?
#
# :::{dropdown} Solution 2
# Up to ten cells in one head, one in the other. Dividing by what is wanted keeps the slope of an object the same size whether one cell or ten learn it. Divided by the number of cells, the one-to-one head would get about a tenth of the slope of the other from objects, and the same from background: it would learn to be silent first.
# :::
#
# **Exercise 3.** Your data are cracks in concrete, horizontal, 200 pixels long and 2 to 4 wide, under strides of 8, 16 and 32. Name two changes that let a YOLOv8 learn them without touching its loss, and what each costs. Then compute how well the best box that a candidate can say fits: no side is negative, and none is longer than `reg_max - 1` cells.
#
# :::{dropdown} Solution 3
# A point inside is not enough. A side reaches 15 cells, and a crack is 100 pixels long to either end of its middle: only the levels of stride 8 and up reach so far. Enlarging the images gives more cracks a point, but their ends move away as well, so that even fewer get a box that fits; the points of a level of stride 4 do not reach the ends either. Raise `reg_max` to 32 with either, and the boxes fit. Enlarging twice costs about four times the time; the new level has four times the cells of the finest one so far; and a larger `reg_max` makes every cell say twice the numbers for its sides. `least_side=16` costs nothing and gives every crack a candidate, but a point beside the crack can only say a box that reaches from the crack to itself: the thinnest cracks get boxes that are too thick. The next cell computes all of it.
# :::

# %% tags=["hide-cell"]
from labs.boxes import from_sides


def best_boxes(strides=(8, 16, 32), zoom=1, reg_max=16, least=0.0, cracks=200):
    """Return how many cracks have a candidate, and how many a box that fits."""
    seed_everything(0)
    size = torch.stack([torch.full((cracks,), 200.0), 2 + 2 * torch.rand(cracks)], 1)
    low = torch.rand(cracks, 2) * (256 - size)
    boxes = torch.cat([low, low + size], 1) * zoom
    middle, half = (low + size / 2) * zoom, (size / 2 * zoom).clamp(min=least / 2)
    area, best = torch.cat([middle - half, middle + half], 1), torch.zeros(cracks)
    for s in strides:
        at = cell_centres(256 * zoom // s, 256 * zoom // s, low).view(-1, 2) * s
        crack, point = inside(at, area[None])[0].nonzero(as_tuple=True)
        sides = to_sides(boxes[crack], at[point]).clamp(0, (reg_max - 1) * s)
        fit = overlap(boxes[crack], from_sides(sides, at[point]))
        best = best.scatter_reduce(0, crack, fit, "amax")
    shares = {"has a candidate": best > 0, "best overlap over 0.75": best > 0.75}
    return {name: share.float().mean().item() for name, share in shares.items()}


# %% tags=["hide-cell"]
cures = {
    "as it is": best_boxes(),
    "enlarged twice": best_boxes(zoom=2),
    "enlarged twice, reg_max 32": best_boxes(zoom=2, reg_max=32),
    "stride 4 too": best_boxes((4, 8, 16, 32)),
    "stride 4 too, reg_max 32": best_boxes((4, 8, 16, 32), reg_max=32),
    "least_side 16": best_boxes(least=16),
}
pd.DataFrame(cures).T.round(2)

# %% [markdown]
# ## In practice
#
# - Before you train, count the cells that each object of *your* data gets, by size. An object without a cell is taught as background, and no warning comes.
# - Without suppression, duplicates are a symptom of training: if a one-to-one head says objects twice, look at which cells its assigner chose at different steps.
# - Score a head without suppression as it will be used. An evaluation that suppresses in passing hides all doubles.
# - A head that only teaches belongs into the checkpoint for training on, and not into the exported file. Count the parameters of what you ship.
# - Focal loss: `torchvision.ops.sigmoid_focal_loss` does not divide by anything that knows about objects; sum, and divide by their cells.
# - Libraries: `torchvision.models.detection.fcos_resnet50_fpn` and `retinanet_resnet50_fpn_v2` under BSD, RT-DETR in `transformers` under Apache 2.0. The authors' programs of YOLOv9 and v10 carry GPL-3.0 and AGPL-3.0: read the licence before you build on one.

# %% [markdown]
# ## You can now
#
# - put a one-to-one head on a trunk, choose who it is taught by, and show by AP and by boxes per object whether it needs suppression;
# - tell for an assigner which objects it leaves without a cell, and what the loss then teaches;
# - explain focal loss, centre-ness, auxiliary heads and one-to-one assignment as answers to who is taught, and by whom.
