# %% [markdown]
# # Drop the anchors
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** draw which cells answer for which object, and watch that change while a network learns · read a side of a box
# as a distribution, and say what it cannot express · average weights, train in two processes and export to 8 bits without losing the detector on the way.
#
# **You need** IoU, NMS and mAP from [Measure boxes and mAP](01_measure_boxes_and_map);
# [Export to ONNX](../06_engineering/04_export_to_onnx_and_run_anywhere) and
# [Train on many devices](../06_engineering/05_train_on_many_devices) help.
#
# **Time** read 30 min · debug 60 min · experiment 20 min · reproduce 25 min · hunt 15 min · exercises 25 min
# :::

# %% [markdown]
# ## The symptom
#
# From v2 to v5, YOLO decides by geometry which cells learn an object: those at or next to the *centre* of its box, with the anchors of about
# its shape. In v7 the network has a say, but only among the cells around the centre. So look at what lies at the centre of a box.

# %%
import torch

from labs.data.scenes import Rendered, Scenes

CROWD = {"seed": 3, "objects": (3, 4), "size": (32, 60), "occlusion": 0.5}
crowd = Rendered(Scenes("train", 80, **CROWD), ("boxes", "labels", "masks"))


def centre_is_object(target):
    x, y = ((target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2).long().T
    return target["masks"][torch.arange(len(x)), y, x]  # [n] bool


# %% tags=["hide-input"]
from matplotlib.patches import Rectangle

from labs import plot


def outline(ax, boxes, colours):
    """Draw boxes, xyxy [n,4], over a picture, without names."""
    for (x1, y1, x2, y2), colour in zip((boxes - 0.5).tolist(), colours, strict=True):
        size = x2 - x1, y2 - y1
        ax.add_patch(Rectangle((x1, y1), *size, fill=False, edgecolor=colour))


# %%
figure, axes = plot.new(height=2.7, columns=3)
for ax, row in zip(axes, [0, 2, 4], strict=True):
    image, target = crowd[row]
    plot.images(ax, image[None])
    outline(ax, target["boxes"], ["0.75"] * len(target["boxes"]))
    for box, inside in zip(target["boxes"], centre_is_object(target), strict=True):
        centre = (box[:2] + box[2:]) / 2 - 0.5
        colour = plot.COLOURS[0 if inside else 1]
        ax.plot(*centre, "o", color=colour, markeredgecolor="white", markersize=8)
plot.show(
    figure,
    "The centre of a box is often no pixel of its digit: blue dots lie on the "
    "digit, orange ones do not.",
    alt="Three scenes of overlapping digits in grey boxes, with a dot at the centre "
    "of each box. Several dots are orange.",
)

# %%
on_object = torch.cat([centre_is_object(target) for target in crowd.targets])
missed = 1 - on_object.float().mean().item()
f"{missed:.0%} of {len(on_object)} centres are not on their object"

# %% [markdown]
# The middle of a zero is a hole, that of a two is often empty, and another digit may lie on top. The cell that is *told* to find the
# object has something else at its middle. It sees far around itself, so this need not hurt; but nobody asked the network. Anchors have the
# same trouble with shapes: somebody chose them before the first image was seen. In this lesson the network
# itself says which cells are good at an object, and those cells learn it. You will see whether it then prefers cells on the object. YOLOv8 {cite:p}`jocher2023yolov8` does so, and has no anchors left.

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "in crowded scenes, at least a quarter of the box centres are not on their digit",
    missed > 0.25,
    measured=missed,
)

# %% [markdown]
# ## The idea
#
# Without anchors, a cell says how far the four sides of the object are from its centre: left, top, right, bottom {cite:p}`tian2019fcos`. Here is the
# whole of a YOLOv8, the one that ships with this book. It has two levels, where the original has three, with cells of 8 and of 16 pixels. Each side is not one number but sixteen *bins*, and
# what counts is their mean; you will see below why. Two short modules turn what the network says into boxes and scores.

# %%
from torch import nn

from labs.boxes.levels import flatten_levels
from labs.boxes.sides import expected_side, from_sides
from labs.recipes import trained

shipped = trained("yolo_v8")
good = shipped.detector
network = good.network.eval()


# %%
class Mean(nn.Module):
    def forward(self, bins):  # [N,P,4,16], logits
        return expected_side(bins)  # [N,P,4], in cells


# %%
class Decode(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = Mean()

    def forward(self, raw):
        values, points, cells = flatten_levels(raw, (8, 16))  # [N,P,64+10]
        distances = self.mean(values[..., :64].unflatten(-1, (4, 16))) * cells
        return from_sides(distances, points), values[..., 64:].sigmoid()


# %%
candidates = nn.Sequential()
candidates.add_module("network", network)
candidates.add_module("decode", Decode())

# %%
from labs import diagram

PARTS = {"image": "input", "stem": "network.backbone.stem"}
PARTS |= {f"stage {4 << k}": f"network.backbone.stages.{k}" for k in range(3)}
PARTS |= {"pool": "network.backbone.pool", "up": "network.neck.up.0"}
PARTS |= {"down": "network.neck.down.0", "merge": "network.neck.merge.0"}
PARTS |= {f"sides {8 << k}": f"network.head.sides.{k}" for k in range(2)}
PARTS |= {f"classes {8 << k}": f"network.head.classes.{k}" for k in range(2)}
PARTS |= {"mean": "decode.mean", "boxes": "output[0]", "scores": "output[1]"}
wiring = diagram.trace(candidates, torch.rand(1, 3, 64, 64), PARTS)
ROWS = [
    ["image", "stem", "stage 4", None, None],
    ["pool", "stage 16", "stage 8", None, None],
    [None, "up", "down", "merge", None],
    ["classes 8", "sides 8", None, "sides 16", "classes 16"],
    ["scores", None, "mean", "boxes", None],
]
GROUPS = {
    "backbone": ["stem", "stage 4", "stage 8", "stage 16", "pool"],
    "neck": ["up", "down", "merge"],
    "head: where": ["sides 8", "sides 16", "mean"],
    "head: what": ["classes 8", "classes 16"],
}
plot.show(
    diagram.draw(wiring, ROWS, GROUPS),
    "In the neck of YOLOv8 the coarse map joins the fine one, then the fine one the "
    "coarse; each level ends in a branch for sides and a branch for classes.",
    alt="From the image arrows lead through stem and stages to pool, then up to the "
    "finer level and down to the coarser one. From each level arrows lead to a "
    "branch of sides and a branch of classes. The sides go through mean to boxes, "
    "the classes to scores.",
)

# %% [markdown]
# The shapes are those of an image of 64 by 64 pixels. Follow the two levels. `pool` is the coarsest map; `up` brings it to the finer level, `down` and `merge` bring that one back to
# the coarser. The head is *decoupled*: no arrow leads from a branch of sides to the scores, and none from a branch of classes to the boxes. Each
# branch of sides returns 64 numbers for a cell, four sides with 16 bins each.
#
# ### Who learns an object
#
# Any cell inside a box can say where its sides are. Which of them should? {cite:t}`feng2021tood` let the predictions compete. A prediction with the score $s$ for the right class and the
# overlap $u$ with the object (the CIoU, an IoU that also counts how far apart the centres are and how the shapes differ) is worth
#
# $$t = s^{\alpha} \, u^{\beta},$$
#
# and the $k$ best of an object learn it. Four cells to check by hand, with $\alpha = 0.5$ and $\beta = 6$, as in v8:

# %%
import pandas as pd

cells = pd.DataFrame({"score": [0.9, 0.5, 0.3, 0.0]})
cells["overlap"] = [0.6, 0.8, 0.9, 0.95]
cells["t"] = cells["score"] ** 0.5 * cells["overlap"] ** 6
cells["beta = 1"] = cells["score"] ** 0.5 * cells["overlap"]
cells.round(3)

# %% [markdown]
# With $\beta = 6$ the overlap decides: the third cell wins, although it gives the right class only 0.3. With $\beta = 1$ the first one does. The
# last cell has the best box of all and a score of zero, so it never wins. The winner is told more than "yes": its score should become the best
# *overlap*, so that a confident prediction is also a well-placed one.

# %% [markdown]
# ## The block
#
# The assignment for one image, by hand: the metric, the best $k$ of each object, the conflict (a cell that two objects chose
# goes to the one that it overlaps more), and what the score should be.

# %%
from labs.boxes import overlap


def assign(scores, boxes, points, objects, labels, topk=10, alpha=0.5, beta=6.0):
    """Return the object of each cell, -1 for none, [P], and its wanted score, [P]."""
    x, y = points.T
    x1, y1, x2, y2 = objects.T[..., None]  # [G,1] each
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)  # [G,P]
    u = overlap(objects[:, None], boxes[None], "ciou").clamp(min=0) * inside
    t = scores[:, labels].T ** alpha * u**beta * inside  # [G,P]
    best = t.topk(min(topk, t.shape[1])).indices
    chosen = torch.zeros_like(inside).scatter(1, best, True) & (t > 0)
    owner = u.where(chosen, -1).argmax(0)  # of the objects that chose a cell
    chosen &= torch.arange(len(objects))[:, None] == owner
    t, u = t * chosen, u * chosen
    top = t.amax(1, keepdim=True)
    wanted = t / top.where(top > 0, 1) * u.amax(1, keepdim=True)
    return owner.where(chosen.any(0), -1), wanted.amax(0)


# %%
from labs.assigners import TaskAligned
from labs.boxes.grid import cell_centres
from labs.repro import seed_everything

seed_everything(0)
points = cell_centres(8, 8, torch.zeros(1)).view(-1, 2) * 8  # 64 cells of 8 pixels
objects = torch.tensor([[4.0, 4, 40, 44], [20, 10, 60, 50], [50, 2, 62, 20]])
labels = torch.tensor([3, 1, 3])
boxes = torch.cat([points - 16, points + 16], 1) + 6 * torch.randn(64, 4)
scores = torch.rand(64, 5)
owner, wanted = assign(scores, boxes, points, objects, labels)
tuple(owner.shape), [(owner == k).sum().item() for k in range(3)]

# %% [markdown]
# Three objects share 64 cells. The third is small: fewer than ten points lie inside it, and it has to live with those. Does the library, which takes a
# batch at a time, say the same?

# %% tags=["nbval-check-output"]
exist = torch.ones(1, 3, dtype=torch.bool)
library = TaskAligned()(
    scores[None], boxes[None], points, objects[None], labels[None], exist
)
other = (owner != library.objects[0]).sum().item()
away = (wanted - library.quality[0]).abs().max().item()
claim(
    "task-aligned assignment: by hand and in labs the same cells are chosen",
    other == 0,
    measured=other,
)
claim(
    "task-aligned assignment: by hand and in labs the wanted scores agree to 1e-6",
    away < 1e-6,
    measured=away,
)

# %% [markdown]
# ## Debug: watch the assignment move
#
# Train a small one from scratch: 64 by 64 pixels, four kinds of digits, one level with cells of 8 pixels, and `reg_max` bins for a side. It is the class that has 3.2 million parameters as YOLOv8n; here it has about fifty thousand, so that it learns in seconds.

# %%
from labs.criteria import YOLOv8Criterion
from labs.detection import Detector
from labs.models import YOLOv8
from labs.postprocess import YOLOv8Postprocess
from labs.repro import budget, device

KNOBS = {"canvas": (64, 64), "size": (20, 44), "objects": (1, 2)}
KNOBS["weights"] = dict.fromkeys("345689", 0.0)
train = Rendered(Scenes("train", budget(cpu=1000, gpu=4000), **KNOBS))
val = Rendered(Scenes("val", 100, **KNOBS))


# %%
def make_detector(assigner=None):
    network = YOLOv8(10, width=0.125, strides=(8,), reg_max=8, image_size=64)
    criterion = YOLOv8Criterion(10, (8,), 8, assigner or TaskAligned())
    return Detector(network, criterion, YOLOv8Postprocess(10, (8,), 8))


# %%
from itertools import chain, islice, repeat

from torch.optim.lr_scheduler import OneCycleLR

from labs.train import fit


def train_detector(detector, steps, watch=None, data=train):
    net = detector.network.to(device(), memory_format=torch.channels_last)
    how = {"betas": (0.9, 0.99), "weight_decay": 0.02, "fused": True}
    adam = torch.optim.AdamW(net.parameters(), 8e-3, **how)
    cycle = OneCycleLR(adam, 8e-3, total_steps=steps, pct_start=0.15)
    seed = torch.initial_seed() % 2**32
    batches = islice(chain.from_iterable(repeat(data.batches(16, seed))), steps)
    return fit(net, batches, adam, loss=detector.loss, scheduler=cycle, watch=watch)


# %% [markdown]
# Keep a copy of the network on the way, and two moving averages of its weights. You need the averages only at the end of this section; what
# `warming` does is explained there.

# %%
import copy
from functools import partial

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

DECAY, STEPS = 0.98, 200
AT = (0, 25, 50, 100, 125, 150, 199)


def warming(averaged, current, count):
    now = min(DECAY, (1 + int(count)) / (10 + int(count)))
    get_ema_multi_avg_fn(now)(averaged, current, count)


# %%
seed_everything(0)
detector = make_detector()
start = detector.network.to(device())
average = partial(AveragedModel, start, use_buffers=True)
averages = {"average": average(multi_avg_fn=get_ema_multi_avg_fn(DECAY))}
averages["average, warmed up"] = average(multi_avg_fn=warming)

# %%
kept = {}


def watch(net, step):
    for average in averages.values():
        average.update_parameters(net)
    if step in AT:
        nets = {"network": net} | {name: a.module for name, a in averages.items()}
        kept[step] = {name: copy.deepcopy(n).cpu() for name, n in nets.items()}


train_detector(detector, STEPS, watch)

# %% [markdown]
# Now ask the copies which cells they would have taught, on scenes that they never saw. `decode` reads the raw output as the criterion does.

# %%
from labs.criteria.yolo_v8 import stack_objects
from labs.postprocess.yolo_v8 import decode

images = val.images.float() / 255


# %%
@torch.no_grad()
def assignment(net):
    # In train mode, where batch norms use the batch, as they did when it learnt.
    said = decode(copy.deepcopy(net).train()(images), 10, (8,), 8)
    truth = stack_objects(val.targets)
    return TaskAligned()(said.classes.sigmoid(), said.boxes, said.points, *truth)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Before the first step, all scores are about equal, and all boxes are about the same size. Which cells of an object are chosen then? And what happens to their wanted score later?
# :::

# %%
seen = {s: assignment(kept[s]["network"]) for s in (0, 25, 50, 100, 199)}


# %% tags=["hide-input"]
def draw_chosen(ax, row, found):
    plot.images(ax, images[row : row + 1].mean(1))
    outline(ax, val.targets[row]["boxes"], plot.COLOURS[2:4])
    for k, colour in enumerate(plot.COLOURS[2:4]):
        mine = found.objects[row] == k
        x, y = (points[mine] - 0.5).T
        area = 220 * found.quality[row][mine].clamp(0.02, 1)
        ax.scatter(x, y, s=area, color=colour, edgecolor="white", linewidth=0.6)


# %%
pair = [i for i, t in enumerate(val.targets) if len(t["labels"]) == 2][1]
frames = {}
for step, found in seen.items():
    frames[str(step)], ax = plot.new(3.8, 3.8)
    draw_chosen(ax, pair, found)
plot.slide(
    frames,
    "training step",
    "In this scene the wanted scores grow while the network learns, and a few cells "
    "of each digit come to stand out.",
    alt="A scene with two digits. The dots of the chosen cells are tiny at first; "
    "later one or two of each digit are large.",
)

# %% [markdown]
# A dot is a chosen cell, in the colour of its object; its area is the score that is wanted of it. At first geometry decides: all boxes have one size, so the cells in the
# middle overlap best, and little is wanted of them, because no box is good. Later much is wanted of one or two cells, and they need not be the middle ones. Measure it over
# all scenes: the wanted score of each object's best cell, and how often that cell is the best one at the end.


# %%
def best_cells(found):
    """Return the best cell of each object, and the score that is wanted of it."""
    picked = []
    for i, target in enumerate(val.targets):
        for k in range(len(target["labels"])):
            quality = found.quality[i] * (found.objects[i] == k)
            picked.append((quality.argmax().item(), quality.max().item()))
    return torch.tensor(picked).T


# %%
final, rows = best_cells(seen[199])[0], {}
for step, found in seen.items():
    cell, quality = best_cells(found)
    same = (cell == final).float().mean().item()
    count = (found.objects >= 0).sum().item() / len(final)
    rows[step] = [count, quality.mean().item(), same]
columns = ["cells per object", "best wanted score", "best cell is the final one"]
moved = pd.DataFrame(rows, index=columns).T.rename_axis("step")
moved.round(2)

# %% [markdown]
# The *number* of cells hardly changes: it is set by how many points of an 8-pixel grid lie inside, by the limit of ten, and by conflicts. What moves is how much is wanted of each, and which is first.

# %% tags=["nbval-check-output"]
grown = moved["best wanted score"].iloc[-1] / moved["best wanted score"].iloc[0]
stayed = moved["best cell is the final one"].iloc[0]
claim(
    "a small YOLOv8 in training: the best wanted score of an object grows by half",
    grown > 1.5,
    measured=grown,
)
claim(
    "a small YOLOv8 in training: at least a quarter of the objects change their "
    "best cell",
    stayed < 0.75,
    measured=stayed,
)

# %% [markdown]
# Back to the crowded scenes, and to the network that ships with this book, which has learnt for much longer. It may choose any cell inside a
# box. Does it choose cells that lie on the digit? The folded `where_on_digit` looks up the pixel at the middle of a cell in the mask of the
# object.


# %% tags=["hide-input"]
def where_on_digit(found, points, targets):
    """Return for each object whether its best cell, and others, lie on its mask."""
    rows, (x, y) = [], points.T
    for i, target in enumerate(targets):
        for k, (x1, y1, x2, y2) in enumerate(target["boxes"]):
            on = target["masks"][k, y, x].float()  # [P], of each cell
            inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
            off_centre = (x - (x1 + x2) / 2) ** 2 + (y - (y1 + y2) / 2) ** 2
            best = (found.quality[i] * (found.objects[i] == k)).argmax()
            row = {"best": on[best], "nearest to the centre": on[off_centre.argmin()]}
            row["any inside"] = on[inside].mean()
            rows.append({name: share.item() for name, share in row.items()})
    return rows


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Which lies on its digit most often: the best cell of the trained network, the cell nearest to the centre of the box, or any cell inside it?
# :::

# %%
with torch.no_grad():
    said = decode(network(crowd.images.float() / 255), 10, (8, 16), 16)
truth = stack_objects(crowd.targets)
best = TaskAligned()(said.classes.sigmoid(), said.boxes, said.points, *truth)
on_digit = pd.DataFrame(where_on_digit(best, said.points.long(), crowd.targets))
on_digit.mean().round(2).to_frame("share on the digit")

# %% [markdown]
# The three shares are close together: the network does not choose cells that lie on the digit. So the symptom looks worse than it is. A cell
# sees far around itself, and what makes it good at an object is not what lies under its middle. What is gained by a free choice, this table
# does not say.

# %% tags=["nbval-check-output"]
shares = on_digit.mean()
claim(
    "shipped YOLOv8, crowded scenes: its best cells lie on their digit at most 10 "
    "points more often than any cell of the box",
    shares["best"] < shares["any inside"] + 0.1,
    measured=shares.to_dict(),
)

# %% [markdown]
# ### A side is a distribution
#
# The small network is a poor detector. From here on take the shipped one: the same class, larger and trained for much longer. `shipped` says how.

# %%
print(shipped)
test = Rendered(Scenes("test", 100))
pictures = test.images.float() / 255
found = good.detect(pictures)

# %%
from labs.data.scenes import preview

figure, axes = plot.new(height=2.7, columns=3)
for ax, row in zip(axes, range(3), strict=True):
    sure = found[row]["scores"] > 0.4
    kept_boxes = {k: found[row][k][sure] for k in ("boxes", "labels")}
    preview(ax, pictures[row], kept_boxes, test.classes)
plot.show(
    figure,
    "On unseen scenes the shipped YOLOv8 puts tight boxes around digits, and names "
    "them.",
)

# %% [markdown]
# These are predictions on scenes that it never saw. Each side of each box is a probability for 0, 1, … 15 cells {cite:p}`li2020gfl`. The distance is
# their mean, and the *distribution focal loss* pulls up the two whole numbers beside the truth:
#
# $$\hat d = \sum_i i\, S_i, \qquad \text{DFL} = -\big((i+1-d) \log S_i + (d-i) \log S_{i+1}\big), \quad i \le d \le i+1.$$
#
# Try it with a truth of 2.3 cells.

# %%
from labs.boxes.sides import distribution_focal_loss

both = torch.full((2, 16), -30.0)
both[0, 2:4] = torch.tensor([0.7, 0.3]).log()
both[1, [0, 5]] = torch.tensor([0.54, 0.46]).log()
loss = distribution_focal_loss(both, torch.tensor([2.3, 2.3]))
names = ["0.7 at 2, 0.3 at 3", "0.54 at 0, 0.46 at 5"]
pd.DataFrame({"mean": expected_side(both), "loss": loss}, index=names).round(2)

# %% [markdown]
# Both have the mean 2.3, so the boxes are equal; the loss is not. DFL asks for the *two* numbers beside the truth, and for nothing else. Does the shape then say
# how sure the network is? The obvious measure is the width: the standard deviation.
#
# :::{admonition} Predict
# :class: predict
# A network is perfectly sure that a side is 2.5 cells away. It answers with 0.5 at 2 and 0.5 at 3. What is the standard deviation? And if it is perfectly sure of 2.0?
# :::

# %%
CELLS = torch.arange(16.0)


def mean_and_variance(share):
    """Take distributions [..., 16] over whole numbers of cells."""
    mean = share @ CELLS
    return mean, (share * CELLS**2).sum(-1) - mean**2


sure = torch.zeros(2, 16)
sure[0, 2:4], sure[1, 2] = 0.5, 1.0
mean_and_variance(sure)[1].sqrt().tolist()

# %% [markdown]
# Half a cell in the first case and zero in the second, though the network is as sure. No distribution over whole numbers whose mean has the fraction $f$ can have a smaller variance than $f(1-f)$,
# and the two bins beside the mean reach it. How much of the real widths is just that? Read every side of every good detection on 300 unseen scenes. `by_score` chooses the boxes that a user would see. `read_sides` turns the raw output into a table: a row for each side, with the mean and variance of its distribution, its error, and the score of its box. Both are folded.

# %% tags=["hide-cell"]
from torchvision.ops import box_iou

from labs.boxes import suppress


def by_score(said, i, objects):
    """Choose the cells whose boxes a user would see."""
    one = slice(i, i + 1)
    return suppress(said.boxes[one], said.classes[one].sigmoid(), 0.4)[0]["places"]


# %% tags=["hide-cell"]
@torch.no_grad()
def read_sides(data, choose):
    """Return a row for each side of the chosen boxes that find an object."""
    rows, raw = [], []
    for some, _ in data.batches(50):
        said = decode(good.network(some), 10, (8, 16), 16)
        raw += [(said, i) for i in range(len(some))]
    for scene, ((said, i), target) in enumerate(zip(raw, data.targets, strict=True)):
        places = choose(said, i, target["boxes"])
        u, which = box_iou(said.boxes[i, places], target["boxes"]).max(1)
        places, which = places[u > 0.5], which[u > 0.5]
        box, share = said.boxes[i, places], said.bins[i, places].softmax(-1)
        mean, variance = mean_and_variance(share)  # [n,4]
        four = {
            "cell": said.cells[places].expand(-1, 4),
            "mean": mean,
            "variance": variance.clamp(min=0),
            "error": (box - target["boxes"][which]).abs(),
            "score": said.classes[i, places].sigmoid().amax(1)[:, None].expand(-1, 4),
            "side": torch.arange(4).expand(len(box), 4),
        }
        one = pd.DataFrame({name: v.flatten().numpy() for name, v in four.items()})
        shown = {"share": list(share.flatten(0, 1)), "box": list(box[one.index // 4])}
        rows.append(one.assign(scene=scene, **shown))
    return pd.concat(rows, ignore_index=True)


# %%
more = Rendered(Scenes("test", 300))
sides = read_sides(more, by_score)
fraction = sides["mean"] % 1
sides["width"] = sides["variance"] ** 0.5 * sides["cell"]
sides["rounding"] = (fraction * (1 - fraction)) ** 0.5 * sides["cell"]
in_cells = sides[["width", "rounding"]].div(sides["cell"], axis=0)
of_rounding = in_cells["width"].corr(in_cells["rounding"], method="spearman")
print(f"{len(sides)} sides; rank correlation with the smallest: {of_rounding:.2f}")

# %%
import numpy as np

figure, ax = plot.new(height=3)
dots = {"color": plot.COLOURS[0], "ms": 2.5, "alpha": 0.4, "rasterized": True}
ax.plot(fraction, sides["width"] / sides["cell"], ".", zorder=1, **dots)
at = np.linspace(0, 1, 101)
ax.plot(at, (at * (1 - at)) ** 0.5, color="black", label="smallest possible")
ax.set(
    xlabel="place of the mean between two whole numbers of cells",
    ylabel="width (cells)",
    ylim=(0, 1.2),
)
ax.legend()
plot.show(
    figure,
    "Most dots lie on or just above the arc, the smallest width that a mean at this "
    "place allows.",
    alt="Width of each side against the fraction of its mean. Most dots lie on or "
    "just above an arc that is 0 at whole numbers and 0.5 half-way.",
)

# %% tags=["nbval-check-output"]
claim(
    "shipped YOLOv8: the width of a side, in cells, follows its place in the cell, "
    "rank correlation over 0.8",
    of_rounding > 0.8,
    measured=of_rounding,
)

# %% [markdown]
# So a wide distribution need not be a doubtful one, and a narrow one is mostly a side that happens to fall on a whole number. What can speak of doubt is the rest, the *excess*: $\sqrt{\sigma^2 - f(1-f)}$.
# It is zero for every answer in two neighbouring bins, and grows with what lies outside the two bins. Let code choose two sides by it: among those whose mean lies half-way between two bins, where the width cannot be small, the one with the least; and of all, the one with the most cells.


# %%
def excess_of(sides):
    """Return what a width holds beyond rounding to whole cells, in pixels."""
    f = sides["mean"] % 1
    rest = (sides["variance"] - f * (1 - f)).clip(lower=0)
    return rest**0.5 * sides["cell"]


# %%
sides["excess"] = excess_of(sides)
in_cells = sides["excess"] / sides["cell"]
half_way = (fraction - 0.5).abs() < 0.05
chosen = {"sure": in_cells[half_way].idxmin(), "doubtful": in_cells.idxmax()}
two = sides.loc[list(chosen.values()), ["width", "excess", "error"]]
two.set_axis(list(chosen)).round(2)


# %% tags=["hide-input"]
def draw_side(left, right, side, image, name):
    """Draw one side of a box on its scene, and its distribution beside it."""
    plot.images(left, image[None].float() / 255, [name])
    outline(left, side["box"][None], ["0.75"])
    x1, y1, x2, y2 = (side["box"] - 0.5).tolist()
    xs = [(x1, x1), (x1, x2), (x2, x2), (x1, x2)][side["side"]]
    ys = [(y1, y2), (y1, y1), (y1, y2), (y2, y2)][side["side"]]
    left.plot(xs, ys, color=plot.COLOURS[4], linewidth=4)
    right.bar(CELLS, side["share"], color=plot.COLOURS[4])
    right.set(xlabel="distance (cells)", ylabel="probability", ylim=(0, 1))


# %%
figure, axes = plot.new(6, 5.4, rows=2, columns=2)
for (name, at), (left, right) in zip(chosen.items(), axes, strict=True):
    draw_side(left, right, sides.loc[at], more.images[sides.loc[at, "scene"]], name)
plot.show(
    figure,
    "A sure side has two bars side by side; a doubtful one spreads over many "
    "distances.",
)

# %% [markdown]
# The thick line is the side in question; the bars are its distribution. The sure one has no excess, and yet its width is nearly half a cell. The doubtful one spreads over many distances, and its error is large. Two sides prove nothing: in *Reproduce* you measure all of them.
#
# ### Sides of photographs
#
# The detector learnt digits. Show it scenes with cut-outs of photographs instead: animals, fruit, vehicles, of the same sizes. It has no name for them, but its boxes have sides all the same. To see them even where its score is low, take for
# each object the cell whose box overlaps it best, here and on the digits. The truth chooses, so this asks only: *if* a box is about right, what do its sides look like?
#
# The cells that answer on photographs will have scores near zero, and those on digits will not. So a difference may come from the photographs, or from cells that are not sure. A control takes them apart: choose only among cells whose score is at most 0.01, on both.
#
# :::{admonition} Predict
# :class: predict
# Will the distributions of the sides be as sharp on photographs as on digits? And on digits, if you ask only cells that are not sure?
# :::


# %%
def by_overlap(most):
    """Choose for each object the cell whose box overlaps it most, up to a score."""

    def choose(said, i, objects):
        allowed = said.classes[i].sigmoid().amax(1) <= most
        return (box_iou(said.boxes[i], objects) * allowed[:, None]).argmax(0)

    return choose


# %%
kinds, read, rows = ("digits", "photos"), {}, {}
scenes_of = {kind: Rendered(Scenes("test", 100, things=(kind,))) for kind in kinds}
for most, cells in [(1, "all cells"), (0.01, "unsure cells")]:
    for kind, data in scenes_of.items():
        one = read[kind, cells] = read_sides(data, by_overlap(most))
        one["excess"] = excess_of(one)
        in_cells = one["excess"] / one["cell"]
        rows[kind, cells] = {
            "boxes with IoU > 0.5": len(one) // 4,
            "score": one["score"].median(),
            "error (px)": one["error"].median(),
            "excess (cells)": in_cells.median(),
            "where the error is < 1 px": in_cells[one["error"] < 1].median(),
        }
photo_table = pd.DataFrame(rows).T
photo_table.map("{:.3g}".format)

# %%
figure, axes = plot.new(6, 5.4, rows=2, columns=2)
for kind, (left, right) in zip(kinds, axes, strict=True):
    some = read[kind, "all cells"]
    order = (some["excess"] / some["cell"]).sort_values(kind="stable").index
    side = some.loc[order[len(order) // 2]]
    image = scenes_of[kind].images[side["scene"]]
    draw_side(left, right, side, image, f"{kind}: the side of median excess")
plot.show(
    figure,
    "The side of median excess: on a digit nearly all of it is in one bin, on a "
    "photograph three bins share it.",
)

# %% tags=["nbval-check-output"]
excesses = photo_table["excess (cells)"]
claim(
    "boxes by a YOLOv8 that learnt digits: cells with scores up to 0.01 give the "
    "sides of digits at least twice the median excess of the best cells",
    excesses["digits", "unsure cells"] > 2 * excesses["digits", "all cells"],
    measured=excesses.to_dict(),
)
claim(
    "boxes by a YOLOv8 that learnt digits, cells with scores up to 0.01: the median "
    "excess on photographs is at least 2.5 times that on digits",
    excesses["photos", "unsure cells"] > 2.5 * excesses["digits", "unsure cells"],
    measured=excesses.to_dict(),
)

# %% [markdown]
# All columns after the count are medians. There are as many photographs in the scenes as digits. Nearly all digits have a box that is about right, and most photographs do, though with scores next to nothing. How many would by chance, was not measured.
#
# Read the excess. On digits the best cells leave next to none, and the unsure ones more than twice as much: a part of what you see on photographs comes from cells that are not sure. It is the smaller part, because among unsure cells alone photographs still have several times the excess of digits. Nor is it only that boxes on photographs fit worse: the last column keeps the sides that are off by less than a pixel, and the order is the same. The control is not perfect: below the limit the scores of the two need not be alike; compare their medians. So the shape of a side can hint that the thing is unlike what the network has learnt. A side given as a single number could not, but the score of the box says so too. The boxes here were chosen with the truth in hand: this does not make the detector one of photographs.

# %% [markdown]
# ### What no distribution can say
#
# There is something that no distribution over 0 to 15 can say: a side farther than 15 cells. What is decoded is at most $2 \cdot 15$ cells wide. On a level with cells of 8
# pixels, take one object of 400 by 400 pixels, and fit the four distributions to this object alone, until the loss falls no more:

# %%
from labs.boxes.sides import to_sides

large, middle = torch.tensor([[100.0, 100, 500, 500]]), torch.tensor([[300.0, 300]])


# %%
def fit_sides(reg_max, steps=300):
    bins = torch.zeros(1, 4, reg_max, requires_grad=True)
    adam = torch.optim.Adam([bins], lr=0.2)
    for _ in range(steps):
        adam.zero_grad()
        loss = distribution_focal_loss(bins, to_sides(large, middle) / 8).mean()
        loss.backward()
        adam.step()
    told = from_sides(expected_side(bins.detach()) * 8, middle)
    return {"DFL at the end": loss.item(), "IoU": box_iou(told, large).item()}


# %%
told = pd.DataFrame({bins: fit_sides(bins) for bins in (8, 16, 32)}).T
told.rename_axis("reg_max").round(2)

# %% [markdown]
# `reg_max` is the number of bins. All three losses go to zero, and only 32 bins tell the box. With 16 it ends at 240 pixels. The DFL clamps its target silently, so its own curve looks fine; the other term for boxes would stay high for this object, and drowns in the mean over all others. Users reported boxes that are cut off
# ([ultralytics/ultralytics#11634](https://github.com/ultralytics/ultralytics/issues/11634)). A coarser level can tell larger boxes; make sure that one exists, or raise `reg_max`.

# %% tags=["nbval-check-output"]
cut, whole = told.loc[16], told.loc[32]
claim(
    "an object of 400 pixels, cells of 8, 16 bins: the DFL ends below 0.05, the IoU "
    "below 0.4",
    cut["DFL at the end"] < 0.05 and cut["IoU"] < 0.4,
    measured=cut.to_dict(),
)
claim(
    "an object of 400 pixels, cells of 8, 32 bins: the IoU ends above 0.95",
    whole["IoU"] > 0.95,
    measured=whole["IoU"],
)

# %% [markdown]
# ### An average that remembers its first day
#
# What is shipped is rarely the last network, but the *exponential moving average* (EMA) of all: $\bar\theta \leftarrow 0.98\, \bar\theta + 0.02\, \theta$. It is meant to be less noisy. The
# averages that you kept above averaged *everything*, weights and running statistics of the norms. Score them on unseen scenes. A fourth curve has the averaged weights, and the running statistics of the network itself.
#
# :::{admonition} Predict
# :class: predict
# After 150 steps the average has forgotten 95 % of its start ($0.98^{150} \approx 0.05$). Is it better or worse than the network itself?
# :::

# %%
from dataclasses import replace


def ap50(net):
    return replace(detector, network=net).score([(images, val.targets)]).AP50


# %%
curves = {}
for step in AT[3:]:
    nets = kept[step]
    mixed = copy.deepcopy(nets["average"])
    for mine, new in zip(mixed.buffers(), nets["network"].buffers(), strict=True):
        mine.copy_(new)
    nets = nets | {"its weights, the network's statistics": mixed}
    curves[step] = {name: ap50(net) for name, net in nets.items()}
curves = pd.DataFrame(curves).T.rename_axis("step")
curves.round(3)

# %%
figure, ax = plot.new(height=3)
for colour, name in zip(plot.COLOURS, curves, strict=False):
    ax.plot(curves[name], "o-", color=colour, label=name)
ax.set(xlabel="step", ylabel="AP50 on unseen scenes", ylim=(-0.02, 0.6))
ax.legend(loc="upper left")
plot.show(
    figure,
    "The plain average stays near zero long after the network has learnt; warmed "
    "up, it follows the network.",
)

# %% [markdown]
# The plain average finds next to nothing at steps at which the network finds much. With the network's running statistics, the same averaged
# weights recover a good part at once, and more of it the later it is: at first the weights are too old as well. Warmed up, the average
# comes near the network, and in so short a run it is not better. So look at those statistics: the smallest running variances, of the network and of its averages.

# %%
smallest = {
    name: min(v.min().item() for k, v in net.named_buffers() if "running_var" in k)
    for name, net in kept[150].items()
}
pd.Series(smallest, name="smallest running variance").map("{:.1e}".format).to_frame()

# %% [markdown]
# Every running variance starts at 1. Five per cent of that is 0.05, and that is more than some of the true variances: there, a good part of the average is still its first day. A norm divides by the root of it, so that the
# signal is too small after the first layer, and smaller after each layer that follows.
# With the usual decay of 0.999 the same lasts for some thousands of steps. The cure is one line, `warming` above: average over a tenth of the steps so far, until that is what the decay averages over. `labs.ddp_train` does so.

# %% tags=["nbval-check-output"]
late = curves.loc[[125, 150]].mean()
claim(
    "a small YOLOv8, steps 125 and 150: its plain average has at most a third of "
    "its AP50, which is over 0.1",
    0.1 < late["network"] > 3 * late["average"],
    measured=late.to_dict(),
)
claim(
    "a small YOLOv8, steps 125 and 150: its warmed average has over 70 % of its "
    "AP50, and over 0.1",
    late["average, warmed up"] > max(0.1, 0.7 * late["network"]),
    measured=late.to_dict(),
)
claim(
    "a small YOLOv8, step 150: the smallest running variance of its plain average "
    "is at least thrice its own",
    smallest["average"] > 3 * smallest["network"],
    measured=smallest,
)

# %% [markdown]
# ### Two processes, one loss
#
# Now train in two processes for real. A detection loss has a trap of its own: it is divided by the sum of wanted scores, and two ranks have different objects. A mean of two quotients is
# not the quotient of the sums. So `labs.criteria` divides by the mean over all ranks. The function below trains four steps with `labs.ddp_train`, once as it should be, and once with `shared` false: then each rank divides by its own sum. The norms are frozen,
# because each rank sees only half of the batch; what helps there is in [Train on many devices](../06_engineering/05_train_on_many_devices).


# %%
def worker(rank, knobs, world=2):
    """Train four steps of 8 images in each way; return the losses seen here."""
    from contextlib import nullcontext
    from unittest.mock import patch

    import torch

    from labs.criteria import YOLOv8Criterion
    from labs.data.scenes import Rendered, Scenes, collate
    from labs.ddp import Place
    from labs.ddp_train import Settings, Task, train
    from labs.models import YOLOv8
    from labs.repro import seed_everything

    data, losses = Rendered(Scenes(**knobs)), {True: [], False: []}
    place = Place(rank, world, rank, torch.device("cpu"))
    criterion = YOLOv8Criterion(10, (8,), 8)
    for shared, seen in losses.items():
        seed_everything(0)
        net = YOLOv8(10, width=0.125, strides=(8,), reg_max=8, image_size=64)
        for norm in net.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.eval()

        def loss(model, batch, seen=seen):
            value = sum(criterion(model(batch[0]), batch[1]).values())
            seen.append(value.item())
            return value

        task = Task(net, lambda epoch: data, loss, lambda net, place: {}, collate)
        own = patch("labs.criteria.yolo_v8.mean_over_ranks", torch.Tensor.detach)
        with nullcontext() if shared else own:
            train(Settings(epochs=1, batch_size=8, lr=0.002), place, task=task)
    return losses


# %% [markdown]
# Fresh processes cannot import from a notebook, so the folded cell writes the function into a module of its own, `two_ranks`.

# %% tags=["hide-cell"]
import contextlib
import importlib
import inspect
import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from labs.ddp import launch

folder = TemporaryDirectory(prefix="lesson-")
Path(folder.name, "two_ranks.py").write_text(inspect.getsource(worker))
sys.path.insert(0, folder.name)
two_ranks = importlib.import_module("two_ranks")

# %%
DATA = {"split": "train", "n": 32, "seed": 0, **KNOBS}
ranks = launch(two_ranks.worker, 2, (DATA,))
with contextlib.redirect_stdout(io.StringIO()):
    alone = worker(0, DATA, world=1)[True]
apart = {}
for shared, name in [(True, "one divisor for both"), (False, "each rank its own")]:
    mean = [sum(pair) / 2 for pair in zip(*(r[shared] for r in ranks), strict=True)]
    apart[name] = [abs(m / w - 1) for m, w in zip(mean, alone, strict=True)]
pd.DataFrame(apart).rename_axis("step").T.map("{:.1e}".format)

# %% [markdown]
# The numbers are relative differences from one process. With the shared divisor, two processes follow one, step after step. With a divisor for each rank, already the first loss is another one, without any error.

# %% tags=["nbval-check-output"]
claim(
    "YOLOv8 in two processes, norms frozen, one divisor: the losses of one process "
    "to 0.1 %",
    max(apart["one divisor for both"]) < 1e-3,
    measured=apart["one divisor for both"],
)
claim(
    "YOLOv8 in two processes, a divisor for each rank: a loss is off by more than "
    "0.1 %",
    max(apart["each rank its own"]) > 1e-3,
    measured=apart["each rank its own"],
)

# %% [markdown]
# ### Debug the export precision of YOLOv8
#
# Last stop: the ONNX file. Export `candidates` of the diagram, the network and the decoding: all boxes and scores, before NMS. A second file joins both into one tensor, as many exports do: one more node at the end of the graph.

# %%
from labs.export import parity, quantize, session, to_onnx

out, CPU, ANY = Path(folder.name), ["CPUExecutionProvider"], {0: "batch"}
some, both = pictures[:2], ["boxes", "scores"]
plain = to_onnx(candidates.eval(), some, out / "plain.onnx", ANY, outputs=both)
parity(candidates, plain, [pictures[:1], pictures[:7]]).table()[
    ["output", "shape", "max_abs"]
]

# %% [markdown]
# The file agrees with PyTorch at batch sizes that the exporter never saw. It ends before NMS: *how many* boxes survive is not known before, so `labs.boxes.suppress` decides that in Python.
#
# Then the precision: PyTorch, ONNX Runtime in float32, and 8 bits, with activations calibrated on training scenes.
#
# :::{admonition} Predict
# :class: predict
# A joined tensor has *one* scale for 8 bits. Boxes go up to some hundreds of pixels, scores up to 1. What becomes of the scores? And is a file with two outputs free of trouble?
# :::

# %%
import onnx
from onnx import TensorProto, helper

one, joining = onnx.load(plain), helper.make_node("Concat", both, ["found"], axis=-1)
shape = ["batch", 320, 14]  # [N,P,4+10]
found_at = helper.make_tensor_value_info("found", TensorProto.FLOAT, shape)
one.graph.node.append(joining)
one.graph.output.pop()
one.graph.output[0].CopyFrom(found_at)
onnx.save(one, out / "one.onnx")

# %%
from labs.metrics import coco_map

calibration = (Rendered(Scenes("train", 64, seed=1)).images.float() / 255).split(16)
joined = quantize(out / "one.onnx", out / "one8.onnx", calibration)
divided = quantize(plain, out / "plain8.onnx", calibration)
mixed = quantize(plain, out / "mixed8.onnx", calibration, keep=["decode"])


# %%
def score(run):
    guesses = []
    for part in pictures.split(40):
        values = run(part)
        if len(values) == 1:
            values = values[0][..., :4], values[0][..., 4:].clamp(0, 1)
        guesses += suppress(*values)
    result = coco_map(guesses, test.targets)
    return {name: getattr(result, name) for name in ("AP50", "AP75", "AP")}


# %%
files = {"ONNX Runtime, float32": plain, "8 bits, joined": joined}
files |= {"8 bits, apart": divided, "8 bits, decoding in float": mixed}
with torch.no_grad():
    precision = {"PyTorch": score(candidates)}
precision |= {name: score(session(path, CPU)) for name, path in files.items()}
precision = pd.DataFrame(precision).T
precision.round(3)

# %% [markdown]
# Float32 loses nothing. The joined file loses much, in every column. The file with two outputs looks fine by AP50, and loses a tenth of its AP: boxes are a little off, everywhere. Look at the values themselves.

# %%
values = session(joined, CPU)(pictures[:40])[0]
boxes8 = session(divided, CPU)(pictures[:40])[0]
print("different scores in the joined file:", values[..., 4:].unique().numel())
print(f"pixels between two coordinates: {boxes8.unique().diff().min().item():.2f}")
print(f"least and largest coordinate: {boxes8.min():.0f} and {boxes8.max():.0f}")

# %% [markdown]
# In the joined file only a few scores are left, since one step of the scale is larger than 1: there is no ranking any more. In the other one, coordinates move in steps of more than a pixel, because *background* cells dream up boxes far outside the picture and stretch
# the range that 256 levels must cover. The network is innocent; the *decoding* lost the precision. Keep that in float (`keep=["decode"]`, a few small operations), and nearly all comes back. That is the last row of the table.

# %% tags=["nbval-check-output"]
lost = (precision.iloc[0] - precision).round(3)  # against PyTorch
claim(
    "a shipped YOLOv8: ONNX Runtime in float32 has the AP of PyTorch to 0.002",
    abs(lost["AP"].iloc[1]) < 0.002,
    measured=lost["AP"].iloc[1],
)
claim(
    "YOLOv8 in 8 bits, boxes and scores joined, loses at least 10 points of AP",
    lost["AP"].iloc[2] > 0.1,
    measured=lost["AP"].iloc[2],
)
claim(
    "YOLOv8 in 8 bits, boxes and scores apart, loses over 4 points of AP, under 3 "
    "of AP50",
    lost["AP"].iloc[3] > 0.04 and lost["AP50"].iloc[3] < 0.03,
    measured=lost.iloc[3].to_dict(),
)
claim(
    "YOLOv8 in 8 bits with the decoding in float loses less than 3 points of AP",
    lost["AP"].iloc[4] < 0.03,
    measured=lost["AP"].iloc[4],
)

# %% [markdown]
# ## Experiment: what the power of the overlap is for
#
# One variable: $\beta$. With $\beta = 6$ the overlap decides which cells learn; with $\beta = 0$ only the score does, so a cell that is already confident is taught more. Besides AP, measure what the assigner promises, *alignment*:
# let the highest score among the cells inside an object choose a box. How much of the best overlap on offer does it get?
#
# Take the best three cells instead of ten: as you saw, ten is most of the points inside here, and would leave the metric nothing to choose. And make the scenes easier, 56 pixels and only the digits 0 and 1: two detectors that find nothing would look alike whatever $\beta$ does.

# %%
EASY = KNOBS | {"canvas": (56, 56), "size": (24, 40)}
EASY["weights"] = dict.fromkeys("23456789", 0.0)
easy = Rendered(Scenes("train", budget(cpu=600, gpu=4000), **EASY))
easy_val = Rendered(Scenes("val", 100, **EASY))

# %%
from labs.ablation import ablate
from labs.assigners.task_aligned import inside


@torch.no_grad()
def alignment(net, data):
    net = copy.deepcopy(net).cpu().eval()
    said = decode(net(data.images.float() / 255), 10, (8,), 8)
    boxes, labels, exists = stack_objects(data.targets)
    allowed = inside(said.points, boxes)
    u = overlap(boxes[:, :, None], said.boxes[:, None], "iou") * allowed
    index = labels[..., None].expand(-1, -1, u.shape[2])
    s = said.classes.sigmoid().transpose(1, 2).gather(1, index) * allowed
    picked = u.gather(2, s.argmax(2, keepdim=True))[..., 0]
    return (picked / u.amax(2).clamp(min=1e-6))[exists].mean().item()


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Which of the two has the higher alignment? And which the higher AP50?
# :::


# %%
def train_and_score(beta):
    detector = make_detector(TaskAligned(topk=3, beta=beta))
    train_detector(detector, budget(cpu=120, gpu=400), data=easy)
    result = detector.score(easy_val.batches(100))
    aligned = alignment(detector.network, easy_val)
    return {"alignment": aligned, "AP50": result.AP50, "AP75": result.AP75}


study = ablate(train_and_score, base={"beta": 6.0}, vary="beta", values=[6.0, 0.0])
pd.concat({m: study.table(m).drop(columns="failed") for m in study.metrics}).round(3)

# %%
figure, axes = plot.new(height=2.7, columns=2)
for ax, metric in zip(axes, ("alignment", "AP50"), strict=True):
    study.plot(ax, metric)
    ax.set(title=metric)
plot.show(
    figure,
    "Three seeds do not tell beta 6 from beta 0: the dots of the two overlap, in "
    "alignment and in AP50.",
)

# %%
for metric in study.metrics:
    print(f"{metric}, beta {study.verdict(metric)}")
    print(f"    would find a difference of {study.detectable(metric):.2f}")

# %% [markdown]
# The dots are seeds. Both arms find digits, with loose boxes, and the verdicts say: not told apart, neither in alignment nor in AP. The line below each says what that is worth. A difference of that size would have been found in four studies of five;
# a smaller one may be there, and the benchmark of {cite:t}`feng2021tood`, who chose their powers on COCO, sees much smaller ones. So this table does not say that $\beta = 6$ is useless, nor that $\beta$ does not matter: it only makes large effects unlikely here, where boxes tight enough to show what $\beta$ is for hardly occur.

# %% tags=["nbval-check-output"]
lowest = study.table("AP50")["mean"].min()
claim(
    "YOLOv8, beta 6 and beta 0: both find digits (mean AP50 over 0.4), three seeds "
    "do not tell them apart",
    lowest > 0.4 and "not told apart" in study.verdict("AP50"),
    measured=study.table("AP50")[["mean", "p"]].to_dict(),
)
claim(
    "YOLOv8, beta 6 and beta 0, three seeds: a difference of 0.25 in AP50 would have "
    "been found in four studies of five",
    study.detectable("AP50") < 0.25,
    measured=study.detectable("AP50"),
)

# %% [markdown]
# ## Reproduce: a flat distribution admits that it does not know
#
# **The paper says.** {cite:t}`li2020gfl` learn sides as general distributions, and show that their shape tells how ambiguous a boundary is: sharp where the edge is plain, flat where it is not.
#
# **We measure** it on the sides of the shipped detector, on the 300 unseen scenes of digits, where the generator knows the true side. Two readings of the shape compete: the *width*, and the *excess* of the width over what rounding to whole cells explains. A third needs no distribution at all: one minus the score of the box.
# Sort the sides by each, cut them into four quarters, and see where the errors are.
# A side that is off by more than 2 pixels is visibly wrong. If the shape said nothing, each quarter would hold 25 % of these.


# %%
def quarters(measure):
    names = ["lowest", "second", "third", "highest"]
    error = sides["error"].groupby(pd.qcut(sides[measure], 4, names), observed=True)
    wrong = error.apply(lambda some: (some > 2).sum())
    table = error.mean().to_frame("mean error (px)")
    return table.assign(**{"share of errors > 2 px": wrong / wrong.sum()})


# %%
sides["1 - score"] = 1 - sides["score"]
MEASURES = ("width", "excess", "1 - score")
by_quarter = {measure: quarters(measure) for measure in MEASURES}
pd.concat(by_quarter, axis=1).rename_axis("quarter").round(2)

# %%
figure, axes = plot.new(height=3, columns=2)
for ax, measure in zip(axes, ("width", "excess"), strict=True):
    ax.loglog(sides[measure], sides["error"], ".", **dots)
    quarter = pd.qcut(sides[measure], 4, labels=False)
    middle_of = sides[measure].groupby(quarter).median()
    means = by_quarter[measure]["mean error (px)"]
    ax.plot(middle_of, means, "D-", color="black", label="mean of a quarter")
    ax.set(xlabel=f"{measure} (px)", xlim=(0.1, 30), ylim=(0.01, 30), title=measure)
axes[0].set(ylabel="error of the side (px)")
axes[0].legend()
plot.show(
    figure,
    "By width the sides pile up at half a cell; by excess the large errors are on "
    "the right.",
    alt="Error of each side, on log axes, against width and against excess. By "
    "width the dots form a column near 4 pixels; by excess they spread.",
)

# %% [markdown]
# By excess the errors sit together: nearly all sides that are visibly wrong are in the highest quarter, and nearly none in the lower half. By width more than a quarter of them hide in the other three quarters, and by the score about a third do. The mean of the highest quarter is large because of a few; most sides in it are fine.
#
# Is the difference more than these scenes' luck? Sides of one scene share their clutter, so draw *scenes* again, not sides. The rank correlation with the error says how well a reading orders all sides. `over_scenes` and `correlation` are folded.

# %% tags=["hide-cell"]
from scipy.stats import rankdata

from labs.ablation import resample

of_scene = [np.flatnonzero(sides["scene"] == i) for i in sides["scene"].unique()]


# %% tags=["hide-cell"]
def over_scenes(statistic):
    """Resample scenes; the statistic takes the rows of the sides that were drawn."""

    def of_rows(places):
        return statistic(np.concatenate([of_scene[i] for i in places]))

    return resample(of_rows, len(of_scene), resamples=300)


def correlation(measure, rows):
    pair = (rankdata(sides[name].to_numpy()[rows]) for name in (measure, "error"))
    return np.corrcoef(*pair)[0, 1]


# %%
ranks_of = {m: over_scenes(partial(correlation, m)) for m in MEASURES}
better = over_scenes(
    lambda rows: correlation("excess", rows) - correlation("width", rows)
)
ranks_of["excess minus width"] = better
pd.Series(ranks_of, name="with the error").to_frame()

# %% [markdown]
# The excess orders the sides better than the width, and the interval of the difference leaves out zero. But all three correlations are weak, and the interval of the plain score overlaps with that of the excess. A coarse cell makes both width and excess larger in pixels, so some of each correlation is the size of the cell. What the score cannot do is to tell the four sides of one box apart.
# Ask for each box which side is the worst, and let the shape answer. A pure guess is right in one of four. But one side is the worst more often than the others, so a rule that looks at nothing can do better: always name the commonest. That is the rate to beat.


# %%
columns = ("error", "width", "excess")
of_box = {name: sides[name].to_numpy().reshape(-1, 4).argmax(1) for name in columns}
worst = of_box.pop("error")
commonest = np.bincount(worst).argmax()
always = "always " + ["left", "top", "right", "bottom"][commonest]
of_box[always] = commonest
hits = {name: np.repeat(told == worst, 4) * 1.0 for name, told in of_box.items()}
hits["excess minus " + always] = hits["excess"] - hits[always]
named = {n: over_scenes(lambda rows, n=n: hits[n][rows].mean()) for n in hits}
pd.Series(named, name="names the worst side").to_frame()

# %% tags=["nbval-check-output"]
shares = by_quarter["excess"]["share of errors > 2 px"]
claim(
    "sides of a YOLOv8: the quarter with the most excess holds over 80 % of the "
    "errors above 2 pixels",
    shares.iloc[-1] > 0.8,
    measured=shares.to_dict(),
)
claim(
    "sides of a YOLOv8: excess orders them by error better than width (95 % over "
    "scenes)",
    better.low > 0,
    measured=better,
)
claim(
    "sides of a YOLOv8: the excess names the worst of four sides more often than "
    "always naming the commonest does, by over 4 points (95 % over scenes)",
    named["excess minus " + always].low > 0.04,
    measured=named,
)

# %% [markdown]
# The excess beats the fixed answer by more than chance, and is still wrong for more than half of the boxes.
#
# **Why they differ.** The paper's pictures show that a flat shape goes with an unclear edge, and that holds here, once the shape is read right. What does not follow is that a shape is an error bar. Its width is mostly arithmetic: the place of the side in its cell. Its excess is a good *alarm*:
# a side with little of it is rarely far off, and nearly all sides that are far off have much. Among the many with small errors it says little about which is smaller. If you need pixels you can trust, calibrate the excess against true sides of your own data, as you would calibrate any score.

# %% [markdown]
# ## Bug hunt: the average that forgot a half
#
# **Difficulty** 1 of 3 · **Importance** 3 of 3 · **Time** 15 min
#
# A moving average of a network, written in eight lines. Its owner compared the weights of the copy, and they are right. Yet in evaluation the copy is far worse than the network. It was met in
# [CuriousAI/mean-teacher#9](https://github.com/CuriousAI/mean-teacher/issues/9) and in [pytorch/ignite#2590](https://github.com/pytorch/ignite/issues/2590). Edit the class in this cell until the check below it passes.

# %% tags=["hunt-bug"]
import copy

import torch


class MovingAverage:
    def __init__(self, net, decay):
        self.net = copy.deepcopy(net).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, net):
        for mine, new in zip(self.net.parameters(), net.parameters(), strict=True):
            mine.lerp_(new, 1 - self.decay)


# %%
from labs.hunts.detection import check_moving_average

check_moving_average(MovingAverage)

# %% [markdown]
# The verdict lists what was probed, and what it saw. Go back to the class, change it, and run both cells again.
#
# :::{dropdown} Hint 1
# Compare the `state_dict()` of the two networks, key by key. Which entries never moved?
# :::
#
# :::{dropdown} Hint 2
# What a batch norm learns by *looking* is not a parameter. Where does PyTorch keep it?
# :::
#
# :::{dropdown} Hint 3
# One of those entries counts batches, as a whole number. It cannot be averaged; what should the copy say?
# :::

# %% tags=["hunt-solution", "hide-cell"]
import copy

import torch


class WholeAverage:
    def __init__(self, net, decay):
        self.net = copy.deepcopy(net).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, net):
        mine, new = self.net.state_dict().values(), net.state_dict().values()
        for one, other in zip(mine, new, strict=True):
            if one.is_floating_point():
                one.lerp_(other, 1 - self.decay)
            else:
                one.copy_(other)  # a counter


# %% tags=["nbval-check-output"]
verdict = check_moving_average(WholeAverage)
claim(
    "the repaired moving average passes every probe of weights and statistics",
    verdict.passed,
    measured=verdict,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** In the example of *The idea*, what do $\alpha = 0$ and $\beta = 0$ choose? Which of the two is a bad idea in the first steps, and which in the last?
#
# :::{dropdown} Solution 1
# $\alpha = 0$ ranks by overlap alone, whatever the class: the fourth cell would win with a score of zero. $\beta = 0$ ranks by the score alone: the first cell wins. At the start scores are noise, so $\beta = 0$ teaches random cells; at
# the end boxes are all good, so $\alpha = 0$ teaches cells whose class is wrong. The product needs both.
# :::
#
# **Exercise 2.** A detector has levels of 8, 16 and 32 pixels and `reg_max=16`. What is the largest object whose box a cell at its centre can tell, on each level? And a cell near its left edge?
#
# :::{dropdown} Solution 2
# At the centre: $2 \cdot 15$ cells, so 240, 480 and 960 pixels. Near the left edge the right side is almost the whole width away, so half of that: 120, 240 and 480 pixels.
# :::
#
# **Exercise 3.** How many steps does an average with decay 0.999 need until its first weights count less than 0.1 %? And one that is warmed up?
#
# :::{dropdown} Solution 3
# $0.999^n < 0.001$ means $n > 6{,}900$ steps. Warmed up, the weight of the start is $\prod_k (1+k)/(10+k)$, which falls like $k^{-9}$: fewer than ten steps.
# :::

# %% [markdown]
# ## In practice
#
# - Draw the assignment before you tune anything: which cells learn, and how much is wanted of them. Most "the loss does not fall" of a detector is seen there.
# - Average the buffers too, and warm the decay up. `torch.optim.swa_utils.AveragedModel(..., use_buffers=True)` does the first.
# - Check `2 * (reg_max - 1) * stride` of your coarsest level against the largest object of your data.
# - A loss that divides by a count divides by the count of *all* ranks.
# - Export without NMS where the runtime has a good one; with a fixed number of candidates where it has not: `labs.postprocess.SingleImage` does that for every version of the line. Compare the boxes that you would use; of the many with scores near zero, two programs may keep others. In 8 bits, keep the decoding in float, never join boxes and scores, and compare AP, not only AP50.
# - Libraries: `torchvision.ops.nms`, `onnxruntime.quantization`, and `torchvision.models.detection.fcos_resnet50_fpn` for an anchor-free detector under a permissive licence. The original program of v8 is under AGPL-3.0: read the licence before you build on it.

# %% [markdown]
# ## You can now
#
# - draw and explain which cells a network teaches, and how that changes while it learns;
# - pick the sides of a box that deserve doubt, by what their distributions hold beyond rounding, and say what bins cannot express;
# - keep a detector whole through averaging, two processes, export and 8 bits, and find the step that broke it.
