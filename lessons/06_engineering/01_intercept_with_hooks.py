# %% [markdown]
# # Intercept with hooks
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** put your own code between any two steps of a network, an optimizer or a training loop ·
# name the ways in which a hook lies, and test for each · freeze, clip and change gradients, and prove what they did.
#
# **You need** autograd and a training loop; `capture` from
# [Watch a network see digits](../01_foundations/02_watch_a_network_see_digits) and Grad-CAM from
# [Classify flowers with dirty labels](../01_foundations/03_classify_flowers_with_dirty_labels).
#
# **Time** read 20 min · debug 35 min · experiment 35 min · reproduce 15 min
# :::

# %% [markdown]
# ## The symptom
#
# You want to see what the first layers of a pretrained MobileNetV2 make of a photograph. PyTorch lets you register a *hook*: a function
# that a layer calls with its output. You put one on the first batch normalisation, and keep what it gets.

# %%
import torch

from labs.data import photos
from labs.models import mobilenet_v2

net = mobilenet_v2().eval()
photo = photos("test", n=4, size=128).images[2:3]
recorded = []


def keep(module, inputs, output):
    recorded.append(output)


# %%
handle = net.features[0][1].register_forward_hook(keep)
with torch.no_grad():
    net(photo)
handle.remove()

low, high = recorded[0].aminmax()
f"from {low:.1f} to {high:.1f}"

# %% [markdown]
# Batch normalisation shifts and scales, it cuts nothing off. How can all of its 32 maps stop exactly at zero? Call the same two
# layers by hand, without any hook, and compare.

# %%
with torch.no_grad():
    returned = net.features[0][1](net.features[0][0](net.normalize(photo)))

# %%
from labs import plot

figure, axes = plot.new(7, 2.6, columns=2)
for ax, values, title in zip(
    axes,
    (recorded[0], returned),
    ("What the hook recorded", "What the layer returned"),
    strict=True,
):
    ax.hist(
        values.flatten().numpy(), bins=60, range=(-1.5, 1.5), color=plot.COLOURS[0]
    )
    ax.set(xlabel="activation", title=title, ylabel="values")
plot.show(
    figure,
    "Two histograms. Recorded: nothing below zero, and a spike at zero. "
    "Returned: a part of it lies below zero.",
)

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "a hook that keeps what it gets recorded a batch norm that returns nothing "
    "negative",
    low >= 0,
    measured=low.item(),
)
below = (returned < 0).float().mean().item()
claim(
    "of what that batch norm really returned, at least 20 % is negative",
    below > 0.2,
    below,
)

# %% [markdown]
# The hook ran, at the right layer, at the right time, and what you kept is wrong. Others have
# met such values, and asked why a convolution has no negative outputs
# ([ViCCo-Group/thingsvision#44](https://github.com/ViCCo-Group/thingsvision/issues/44)). This lesson builds hooks from nothing, and then
# collects their lies.

# %% [markdown]
# ## The idea
#
# A hook is *middleware*: code that sits between a caller and a function, sees what passes, and may change it. The
# function does not know. Here is all there is to it, with numbers: the function triples.


# %%
def call(function, x, before=(), after=()):
    for hook in before:
        changed = hook(x)
        x = x if changed is None else changed  # None: the hook only looked
    y = function(x)
    for hook in after:
        changed = hook(x, y)
        y = y if changed is None else changed
    return y


# %%
log = []
y = call(
    lambda x: 3 * x,
    2,
    before=[lambda x: x + 1],
    after=[lambda x, y: log.append((x, y)), lambda x, y: -y],
)
y, log

# %% [markdown]
# The input 2 became 3 on its way in, the log saw 3 and 9, and the caller got -9. `nn.Module.__call__` is this function, and
# `forward` is what it wraps. So whoever calls `layer.forward(x)` goes around all hooks.
#
# One training step passes a dozen such places. Register a hook at each of them, all on a single linear layer, and let every one of
# them note its name.

# %%
from torch import nn
from torch.nn.modules import module as every

events = []


def note(name):
    return lambda *_: events.append(
        name
    )  # append returns None: look, and change nothing


layer, x = nn.Linear(1, 1), torch.ones(1, 1, requires_grad=True)
sgd = torch.optim.SGD(layer.parameters(), lr=0.1)

# %%
places = {
    "this module, before forward": layer.register_forward_pre_hook,
    "this module, after forward": layer.register_forward_hook,
    "this module, before backward": layer.register_full_backward_pre_hook,
    "this module, after backward": layer.register_full_backward_hook,
    "every module, before forward": every.register_module_forward_pre_hook,
    "every module, after forward": every.register_module_forward_hook,
    "every module, after backward": every.register_module_full_backward_hook,
    "parameter, its gradient is computed": layer.weight.register_hook,
    "parameter, its .grad is written": layer.weight.register_post_accumulate_grad_hook,
    "optimizer, before the step": sgd.register_step_pre_hook,
    "optimizer, after the step": sgd.register_step_post_hook,
}
handles = [register(note(name)) for name, register in places.items()]

# %%
y = layer(x)
y.register_hook(note("tensor y, its gradient is computed"))
y.sum().backward()
sgd.step()
for handle in handles:
    handle.remove()

# %%
import pandas as pd

pd.DataFrame({"what ran": events}, index=range(1, len(events) + 1))

# %% [markdown]
# Read it from top to bottom: it is one training step. Hooks for *every* module run before a module's own; the backward hooks run on the
# way back; a parameter has two places, before and after `.grad` is written; the optimizer comes last.

# %% tags=["nbval-check-output"]
first = {name: events.index(name) for name in events}
claim(
    "12 hooks on a training step of one layer: each runs once",
    len(events) == 12 == len(first),
    measured=events,
)
claim(
    "forward hooks that are put on every module run before a module's own",
    first["every module, before forward"] < first["this module, before forward"]
    and first["every module, after forward"] < first["this module, after forward"],
    measured=events,
)
claim(
    "a gradient is computed, then written to .grad, then used by the optimizer",
    first["parameter, its gradient is computed"]
    < first["parameter, its .grad is written"]
    < first["optimizer, before the step"],
    measured=events,
)

# %% [markdown]
# What a hook returns takes the place of what passed. Do it with a gradient: $y = wx$ with $w = 3$, $x = 2$ and the loss $y^2$. By hand,
# $\partial\text{loss}/\partial y = 2y = 12$, and $\partial\text{loss}/\partial w = 12 \cdot x = 24$. A hook on $y$ halves what comes back.

# %%
w = torch.tensor(3.0, requires_grad=True)
y = w * 2
y.register_hook(lambda gradient: gradient / 2)
(y**2).backward()
w.grad

# %% tags=["nbval-check-output"]
claim(
    "a tensor hook that halves a gradient half-way halves the gradient of the "
    "weight: 12, not 24",
    w.grad == 12,
    measured=w.grad,
)

# %% [markdown]
# ## The block
#
# The tool that you will use most is a recorder. This one is right. Each of its lines is there for a reason, and the next section takes
# them away one by one.

# %%
from contextlib import contextmanager


@contextmanager
def capture_by_hand(model, *layers):
    maps, handles = {layer: [] for layer in layers}, []

    def keeper(calls):
        def keep(module, inputs, output):
            calls.append(output.detach().clone())

        return keep

    try:
        for layer in layers:
            module = model.get_submodule(layer)
            handles.append(module.register_forward_hook(keeper(maps[layer])))
        yield maps
    finally:
        for handle in handles:
            handle.remove()


# %%
with torch.no_grad(), capture_by_hand(net, "features.0.1", "features.18") as maps:
    net(photo)
{layer: [tuple(output.shape) for output in calls] for layer, calls in maps.items()}

# %% [markdown]
# One list per layer, one tensor per call. Compare with `labs.hooks.capture`, on every module of two networks: MobileNetV2,
# and a ResNet-18 of torchvision. (The model's own name is the empty string.)

# %%
import torchvision

from labs.hooks import capture

torch.manual_seed(0)
resnet = torchvision.models.resnet18().eval()
unequal = []
for model in (net, resnet):
    names = [name for name, _ in model.named_modules()]
    with (
        torch.no_grad(),
        capture_by_hand(model, *names) as by_hand,
        capture(model, *names) as labs,
    ):
        model(photo)
    for name in names:
        pairs = zip(
            by_hand[name], labs.calls(name) if by_hand[name] else [], strict=True
        )
        unequal += [name for a, b in pairs if not torch.equal(a, b)]

# %% tags=["nbval-check-output"]
claim(
    "a recorder in 15 lines equals labs.hooks.capture on all modules of MobileNetV2 "
    "and ResNet-18",
    unequal == [],
    measured=unequal[:5],
)
claim(
    "a recorder that clones keeps what the first batch norm returned, negative "
    "values included",
    torch.equal(maps["features.0.1"][0], returned),
    measured=maps["features.0.1"][0].min().item(),
)

# %% [markdown]
# The version in `labs` also takes patterns (`"layer*.conv1"`), nested outputs, gradients, and compiled models.

# %% [markdown]
# ## Debug: every way a hook lies
#
# ### Without `clone`: somebody writes over your record
#
# You have seen it. The record was a reference, not a copy, and the next layer was a `ReLU6(inplace=True)`: it wrote its own output into
# the memory that you had kept. `detach()` alone does not help, since it shares that memory.
#
# ### Without the list: only the last call remains
#
# Many recorders keep `maps[name] = output`. ResNet-18 has two residual blocks in `layer1`, and each of them owns one `relu`.
#
# :::{admonition} Predict
# :class: predict
# How many outputs does `layer1.0.relu` have for one picture?
# :::

# %%
relus = [
    name for name, module in resnet.named_modules() if isinstance(module, nn.ReLU)
]
with torch.no_grad(), capture(resnet, *relus) as maps:
    resnet(photo)
table = maps.table().set_index(["layer", "call"])[["shape", "mean", "zeros"]]
table.loc[["relu", "layer1.0.relu", "layer1.1.relu"]].round(2)

# %% [markdown]
# Two: the block calls it in the middle and again after the addition. With one slot per name, you would have read the second as
# if it were the first. Both have the same shape, so nothing tells you. A library that explains networks met this in
# [captum#1082](https://github.com/meta-pytorch/captum/issues/1082).

# %% tags=["nbval-check-output"]
twice = [name for name in relus if len(maps.calls(name)) == 2]
claim(
    "8 of the 9 ReLU modules of ResNet-18 run twice for one picture",
    (len(twice), len(relus)) == (8, 9),
    measured=twice,
)

# %% [markdown]
# ### Without `detach`: one number keeps a whole graph
#
# You are thrifty, and keep one number per picture: the mean of a map. You do it in an evaluation without `no_grad`. How much
# memory stays occupied? PyTorch has a hook for this question, too: `saved_tensors_hooks` sees every tensor that autograd stores for a backward pass.

# %%
from weakref import WeakSet


class Box:
    def __init__(self, tensor):
        self.tensor = tensor


def megabytes(boxes):
    sizes = {
        b.tensor.untyped_storage().data_ptr(): b.tensor.untyped_storage().nbytes()
        for b in boxes
    }
    return sum(sizes.values()) / 1e6


# %%
def memory_by_step(record, steps=8):
    """Return how many MB the records and autograd hold after each evaluation step."""
    alive, kept, held = WeakSet(), [], []

    def pack(tensor):
        alive.add(box := Box(tensor))
        return box

    handle = net.features[3].register_forward_hook(
        lambda m, i, output: kept.append(record(output))
    )
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        for _ in range(steps):
            net(photo)
            held.append(megabytes(alive) + sum(k.nbytes for k in kept) / 1e6)
    handle.remove()
    return held


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# `output.mean()` is 4 bytes, `output.detach().clone()` is the whole map. Which of the two recorders holds more?
# :::

# %%
recorders = {
    "output.mean()": lambda output: output.mean(),
    "output.mean().detach()": lambda output: output.mean().detach(),
    "output.detach().clone()": lambda output: output.detach().clone(),
}
held = pd.DataFrame(
    {name: memory_by_step(record) for name, record in recorders.items()}
)

# %%
figure, ax = plot.new(6, 2.8)
for name, marker in zip(held, "os^", strict=True):
    ax.plot(held.index + 1, held[name], marker=marker, ms=4, label=name)
ax.set(
    xlabel="pictures seen",
    ylabel="memory held (MB)",
    title="The smallest record holds the most",
)
ax.legend()
plot.show(
    figure,
    "Memory held against pictures seen: output.mean() climbs steeply, the two "
    "detached recorders stay near zero.",
)

# %% [markdown]
# The mean is a tensor with a `grad_fn`, and through it the whole graph of its picture stays alive: every layer up to this one. Detached, only
# the record itself remains. In a training loop, `backward()` frees most of the graph, which is why this leak shows in validation first.

# %% tags=["nbval-check-output"]
growth = held.iloc[-1] - held.iloc[0]  # over seven pictures
claim(
    "a record of one mean that is not detached holds 20 times the memory of a "
    "detached whole map",
    growth["output.mean()"] > 20 * growth["output.detach().clone()"],
    measured=growth.to_dict(),
)
claim(
    "a record of one detached mean grows by less than a kilobyte in seven pictures",
    growth["output.mean().detach()"] < 1e-3,
    measured=growth.to_dict(),
)

# %% [markdown]
# ### Without `finally`: the hook that stays
#
# A model can raise. If your hook is taken away by the line after the call, then it is not taken away.

# %%
from contextlib import suppress

first_layer = net.features[0][0]
too_few = photo[:, :2]  # two channels: the first convolution raises


def bare_hook():
    handle = first_layer.register_forward_hook(keep)
    net(too_few)
    handle.remove()


def the_block():
    with capture_by_hand(net, "features.0.0"):
        net(too_few)


# %%
left = {}
for attempt in (bare_hook, the_block):
    before = len(first_layer._forward_hooks)
    with suppress(RuntimeError):
        attempt()
    left[attempt.__name__] = len(first_layer._forward_hooks) - before
first_layer._forward_hooks.popitem()  # its handle is lost; nothing else can take it out
left

# %% tags=["nbval-check-output"]
claim(
    "an exception in a model leaves a hook behind that is not removed in finally",
    left == {"bare_hook": 1, "the_block": 0},
    measured=left,
)

# %% [markdown]
# A hook that stays is called for ever, and it travels: `copy.deepcopy(net)` copies it, too.
#
# ### `torch.compile`: the hook that nobody calls
#
# A compiled model runs code that was written when it was first called. A hook that comes later is not in it. The backend
# `"eager"` shows this without a compiler.

# %%
small, one = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.ones(1, 4)
compiled = torch.compile(small, backend="eager")
compiled(one)  # the first call compiles


def calls_seen(recorder):
    with recorder(small, "0") as maps:
        compiled(one)
    return len(maps["0"]) if isinstance(maps, dict) else len(maps.calls("0"))


# %%
calls = {"by hand": calls_seen(capture_by_hand), "labs": calls_seen(capture)}
with torch.no_grad():  # another mode: PyTorch compiles again
    calls["by hand, under no_grad"] = calls_seen(capture_by_hand)
calls

# %% [markdown]
# No error, no warning, an empty list: the block has missed the call. Under `no_grad` the same hook is seen, because another mode made PyTorch compile
# again, now with the hook in place. A recorder that works now and then is worse than one that never does. `labs.hooks` runs compiled code eagerly inside its
# blocks.

# %% tags=["nbval-check-output"]
claim(
    "a hook put on a network that was compiled and called before is not called",
    calls["by hand"] == 0,
    measured=calls,
)
claim(
    "labs.hooks.capture sees a call of a network that was compiled before",
    calls["labs"] == 1,
    measured=calls,
)

# %% [markdown]
# ### Backward hooks: the old one, and the new one
#
# For the way back there are two functions with similar names. Try both on $f(x) = 3x + 1$, whose derivative you know.

# %%
import warnings


class Line(nn.Module):
    def forward(self, x):
        return 3 * x + 1


def slope_seen(register):
    line, seen = Line(), []
    getattr(line, register)(
        lambda module, to_input, to_output: seen.append(to_input[0].item())
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        line(torch.tensor(5.0, requires_grad=True)).backward()
    return {"gradient of the input": seen[0], "warnings": len(told)}


ways = ["register_backward_hook", "register_full_backward_hook"]
slopes = pd.DataFrame({register: slope_seen(register) for register in ways}).T
slopes

# %% [markdown]
# The old one hangs on the *last operation* of the module, here the `+ 1`, and reports the gradient at the input of that, not at the input of the module
# ([pytorch/pytorch#598](https://github.com/pytorch/pytorch/issues/598)). It warns, and you will meet it in older code. The new
# one wraps inputs and outputs, and that has a price of its own:

# %%
pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
pair[0].register_full_backward_hook(lambda module, to_input, to_output: None)
try:
    pair(photo)
    refused = ""
except RuntimeError as error:
    refused = str(error)
refused.split(".")[0]

# %% [markdown]
# It refuses an in-place layer after it, because its wrapper returns a view. The way out is a hook on the *tensor*, put there by a
# forward hook; that is how `capture(..., gradients=True)` does it.

# %%
pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
with capture(pair, "0", gradients=True) as maps:
    out = pair(photo)
    out.sum().backward()
reference = (out > 0).float()  # the gradient of a sum of ReLUs

# %% tags=["nbval-check-output"]
seen = slopes["gradient of the input"]
claim(
    "of 3x + 1, register_backward_hook reports a slope of 1, and the full hook the "
    "right one of 3",
    seen.tolist() == [1, 3],
    measured=seen.to_dict(),
)
claim(
    "register_full_backward_hook refuses an in-place layer that follows; a tensor "
    "hook is right",
    "inplace" in refused and torch.equal(maps.gradient("0"), reference),
    measured=refused,
)

# %% [markdown]
# ### Grad-CAM in four lines
#
# With maps and gradients from one block, Grad-CAM {cite:p}`selvaraju2017gradcam` is a weighted sum. Compare it with `labs`, and
# with Captum where that is installed.

# %%
with capture(net, "features.18", gradients=True) as maps:
    logits = net(photo)
    best = logits.argmax(1).item()
    logits[0, best].backward()
alpha = maps.gradient("features.18").mean((2, 3), keepdim=True)  # [1,K,1,1]
heat = (alpha * maps["features.18"]).sum(1, keepdim=True).relu()  # [1,1,h,w]
net.zero_grad()  # backward() has filled every .grad as well

# %%
from labs.hooks import grad_cam


def enlarged(heat):
    heat = nn.functional.interpolate(heat, photo.shape[-2:], mode="bilinear")[:, 0]
    return heat / heat.amax()


# %%
theirs = {"labs": grad_cam(net, photo, "features.18", lambda logits: logits[:, best])}
with (
    suppress(ImportError),
    warnings.catch_warnings(),
):  # only labs, where there is no Captum
    warnings.simplefilter("ignore")  # its progress bar looks for notebook widgets
    from captum.attr import LayerGradCam

    raw = LayerGradCam(net, net.features[18]).attribute(
        photo, best, relu_attributions=True
    )
    theirs["captum"] = enlarged(raw.detach())
worst = max((enlarged(heat) - other).abs().max().item() for other in theirs.values())

# %%
figure, axes = plot.new(3.4, 1.8, columns=2)
plot.images(axes[0], photo)
plot.overlay(axes[1], photo[0], enlarged(heat)[0])
plot.show(
    figure,
    "An otter at a brook, and beside it the same picture with the heat of the "
    "best class, on the animal.",
)

# %% tags=["nbval-check-output"]
claim(
    "Grad-CAM in four lines equals every library installed here to 1e-4",
    worst < 1e-4,
    measured=worst,
)

# %% [markdown]
# ### Read every score of a detection head
#
# A detector answers at thousands of cells at once, and nearly all of them see background. The boxes that you draw are the few answers that won. One hook shows you all of them. Watch the two class branches of
# the YOLOv8 that ships with this book, one per level, on test scenes with digits: once with fresh weights, and once with the trained ones. A third time, let the trained one look at
# cut-outs of photographs, which it never learnt. Batch norms use the batch, as in training: a fresh network has no statistics yet.
#
# A cell is *positive* when the assigner would teach it an object, as in
# [Drop the anchors](../02_detection/07_drop_the_anchors); everything else is background.

# %%
from labs.assigners import TaskAligned
from labs.criteria.yolo_v8 import stack_objects
from labs.data.scenes import Scenes, collate
from labs.postprocess.yolo_v8 import decode

LEVELS = ("head.classes.0", "head.classes.1")  # cells of 8 and of 16 pixels


def scores_of_cells(detector, things):
    """Return the highest class score of each cell, and whether it is positive."""
    scenes = Scenes("test", 48, things=things)
    pictures, truths = collate([scenes[k] for k in range(len(scenes))])
    with torch.no_grad(), capture(detector.network.train(), *LEVELS) as maps:
        raw = detector.network(pictures)
    scores = torch.cat([maps[level].flatten(2).mT for level in LEVELS], 1).sigmoid()
    seen, (boxes, labels, exists) = (
        decode(raw, 10, (8, 16), 16),
        stack_objects(truths),
    )
    known = labels % 10  # names of photographs mean nothing to a detector of digits
    found = TaskAligned()(scores, seen.boxes, seen.points, boxes, known, exists)
    return scores.amax(2).flatten(), (found.objects >= 0).flatten()


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# One cell in fifteen or so is positive. Where do the scores of the background lie before the first step of training, and where afterwards? And the positives on photographs?
# :::

# %%
from labs.recipes import DETECTORS, load

torch.manual_seed(0)
cells = {
    "before training": scores_of_cells(DETECTORS["yolo_v8"](10), ("digits",)),
    "after training": scores_of_cells(load("yolo_v8"), ("digits",)),
    "after, on photographs": scores_of_cells(load("yolo_v8"), ("photos",)),
}

# %%
from scipy.stats import mannwhitneyu

figure, axes = plot.new(7.4, 2.8, columns=3)
read_off = {}
for ax, (name, (scores, positive)) in zip(axes, cells.items(), strict=True):
    bins = torch.linspace(-8, 0, 49).numpy()
    groups = {"background": scores[~positive], "positive": scores[positive]}
    for (group, values), colour in zip(groups.items(), plot.COLOURS, strict=False):
        log_scores = values.clamp(min=1e-8).log10().numpy()
        ax.hist(log_scores, bins, color=colour, alpha=0.6, label=group)
    ax.set(yscale="log", xlabel="score (power of ten)", title=name)
    wins = mannwhitneyu(*(g.numpy() for g in reversed(groups.values()))).statistic
    read_off[name] = {
        f"median, {group}": g.median().item() for group, g in groups.items()
    } | {
        "cells": len(scores),
        "positive": int(positive.sum()),
        "positive above background": wins
        / positive.sum().item()
        / (~positive).sum().item(),
    }
axes[0].set_ylabel("cells")
axes[0].legend()
plot.show(
    figure,
    "Three histograms of scores. Before training positives and background lie "
    "in the same "
    "place; after it the background lies orders of magnitude lower and "
    "the "
    "positives near 1; on photographs most positives lie with the background.",
)

# %%
pd.DataFrame(read_off).T.apply(lambda column: column.map("{:.3g}".format))

# %% [markdown]
# The last column is the chance that a positive cell scores higher than one of the background. Before training it is not far from that of a coin: each level starts around a score of its own (the *prior* that its bias was set to), random weights spread the answers about it, and positives
# lie where the background lies. Training does two things, and the second is easily forgotten: it lifts positives towards 1, and it pushes the background down by orders of magnitude. It has to, because the background is
# that large: its cells outnumber the positives more than ten to one, and every one adds to the loss. On photographs the same head is silent. Most cells that ought to speak score like background, so no threshold brings these objects back.

# %% tags=["nbval-check-output"]
fresh, after, foreign = read_off.values()
ahead, typical = "positive above background", "median, background"
same = fresh["median, positive"] / fresh[typical]
claim(
    "a YOLOv8 before training: positives and background have typical scores within a "
    "factor of 3",
    1 / 3 < same < 3,
    measured=fresh,
)
claim(
    "a positive cell of a YOLOv8 outscores background in over 95 % of pairs if "
    "trained, else in under 70 %",
    after[ahead] > 0.95 and fresh[ahead] < 0.7,
    measured=(fresh[ahead], after[ahead]),
)
claim(
    "training lowers the typical score of background to under a hundredth, and lifts "
    "positives above 0.5",
    after[typical] < fresh[typical] / 100 and after["median, positive"] > 0.5,
    measured=(fresh, after),
)
claim(
    "photographs, to a YOLOv8 of digits: half of the cells that should speak score "
    "below 0.01",
    foreign["median, positive"] < 0.01 < 0.5 < after["median, positive"],
    measured=foreign,
)

# %% [markdown]
# ### Freeze a layer, and see whether it is frozen
#
# Hooks may also *change* gradients. The well-known recipe to freeze a layer is a hook that returns zeros. Train a small network on
# clothes for 20 steps, freeze its first convolution, train for 20 more, and measure how far the frozen weights moved, in percent of
# their length. Compare the recipe with `requires_grad` and with `labs.hooks.edit_gradients`, which takes a mapping from layer names to what happens to their
# gradients: a number scales them, `0.0` freezes, and a function such as `clip_norm(1.0)` edits them.

# %%
from dataclasses import replace

from torch.nn.functional import avg_pool2d, cross_entropy

from labs.data import clothes
from labs.repro import device


def halved(data):
    return replace(data, images=avg_pool2d(data.images, 2))  # [N,1,14,14]


# %%
train, test = halved(clothes("train", n=4000)), halved(clothes("test", n=1000))


def draw(n=32):
    rows = torch.randint(len(train), (n,))
    return train.images[rows].to(device()), train.labels[rows].to(device())


# %%
def make_net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * 9, 32), nn.ReLU(), nn.Linear(32, 10),
    ).to(device())  # fmt: skip


# %%
def take_steps(model, optimizer, to_none=True, steps=20):
    for _ in range(steps):
        images, labels = draw()
        optimizer.zero_grad(set_to_none=to_none)
        cross_entropy(model(images), labels).backward()
        optimizer.step()


# %%
from labs.hooks import edit_gradients
from labs.repro import seed_everything


def movement(freeze, make_optimizer):
    seed_everything(0)
    model = make_net()
    optimizer, weight = make_optimizer(model.parameters()), model[0].weight
    take_steps(model, optimizer)
    before = weight.detach().clone()
    freeze(model, optimizer)
    return 100 * ((weight - before).norm() / before.norm()).item()


# %%
def zeros_by_hook(model, optimizer):
    model[0].weight.register_hook(torch.zeros_like)
    take_steps(model, optimizer)


# %%
def no_grad_but_zeroed(model, optimizer):
    model[0].requires_grad_(False)
    take_steps(model, optimizer, to_none=False)


def no_grad(model, optimizer):
    model[0].requires_grad_(False)
    take_steps(model, optimizer)


def edited(model, optimizer):
    with edit_gradients(model, {"0": 0.0}):
        take_steps(model, optimizer)


# %%
from torch import optim

optimizers = {
    "SGD": lambda p: optim.SGD(p, lr=0.05),
    "SGD, weight decay": lambda p: optim.SGD(p, lr=0.05, weight_decay=0.01),
    "SGD, momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "AdamW": lambda p: optim.AdamW(p, lr=3e-3),
}
freezers = {
    "hook that returns zeros": zeros_by_hook,
    "requires_grad=False, set_to_none=False": no_grad_but_zeroed,
    "requires_grad=False": no_grad,
    "edit_gradients(..., 0.0)": edited,
}

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Four ways to freeze, four optimizers. In which of the 16 cells does a frozen weight move?
# :::

# %%
rows = {**freezers, "not frozen": take_steps}
moved = pd.DataFrame(
    {
        name: {way: movement(freeze, make) for way, freeze in rows.items()}
        for name, make in optimizers.items()
    }
)
moved.round(3)

# %% [markdown]
# A gradient of zero is not the same as no gradient. Weight decay pulls at every weight whose `.grad` is not `None`; momentum goes on in the
# direction that it remembers; AdamW does both. `requires_grad=False` in the second row is no better, because an old `.grad` tensor is still
# there. A layer is frozen when its `.grad` is `None`: third and fourth row. `edit_gradients` sees to that for `0.0`.
# The last row is the control: how far the same weights go when nobody freezes them.

# %% tags=["nbval-check-output"]
zero, old, none, edited_to_none, free = (row for _, row in moved.iterrows())
claim(
    "a gradient of zeros freezes a layer under plain SGD; decay, momentum and AdamW "
    "still move it",
    zero["SGD"] == 0 and (zero.iloc[1:] > 0.1).all(),
    measured=zero.to_dict(),
)
claim(
    "requires_grad=False with an old .grad: decay, momentum and AdamW still move the "
    "layer",
    (old.iloc[1:] > 0.1).all(),
    measured=old.to_dict(),
)
claim(
    "a .grad of None stops a layer exactly, under four optimizers that move it by "
    "over 0.5 % else",
    (none == 0).all() and (edited_to_none == 0).all() and (free > 0.5).all(),
    measured=moved.to_dict(),
)

# %% [markdown]
# ## Experiment: hooks that change a training
#
# ### One bad batch
#
# Somewhere in your data, one batch was not divided by 255. It arrives at step 110 of 160, with pixels up to 255 instead of 1. How much of
# the training does it destroy, and does a hook on the gradients save it? The hook is `clip_norm`: when the norm of all gradients together is above a bound,
# they are shrunk to it {cite:p}`pascanu2013difficulty`.

# %%
from labs.evaluate import accuracy
from labs.hooks import clip_norm
from labs.repro import budget
from labs.train import fit

STEPS, WHEN = 160, 110


def batches(bad):
    for step in range(STEPS):
        images, labels = draw()
        yield (images * 255 if bad and step == WHEN else images), labels


# %%
def train_through(bad, bound, before_step=None):
    model = make_net()
    sgd = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    if before_step:
        sgd.register_step_pre_hook(before_step)
    nan_loss = suppress(FloatingPointError)  # then score what is left
    with nan_loss, edit_gradients(model, {"": clip_norm(bound)}):
        fit(model, batches(bad), sgd)
    return accuracy(model, test)


# %% [markdown]
# A bound of a billion never bites: it is the run without clipping. Look at that one first. The place to see what an optimizer is about to use
# is its own hook, just before the step.

# %%
norms = []


def note_norm(optimizer, args, kwargs):
    gradients = [p.grad for p in optimizer.param_groups[0]["params"]]
    norms.append(nn.utils.get_total_norm(gradients).item())


seed_everything(0)
train_through(True, 1e9, note_norm)
usual = pd.Series(norms[:WHEN]).quantile([0.5, 1.0])
table = pd.Series(
    [*usual, norms[WHEN]], index=["usual", "largest before", "bad batch"]
)
table.rename("gradient norm").round(1).to_frame()

# %% [markdown]
# One step uses a gradient that is longer than all before it by orders of magnitude.
#
# :::{admonition} Predict
# :class: predict
# Try the bounds 10, 1, 0.1 and 0.01. From which on does clipping save the run, and from which on does it hurt?
# :::

# %%
from labs.ablation import ablate


def clean_and_bad(bound):
    seed = torch.initial_seed()
    clean = train_through(False, bound)
    seed_everything(seed)
    return {"with the bad batch": train_through(True, bound), "without": clean}


# %%
BOUNDS = [1e9, 10.0, 1.0, 0.1, 0.01]
SEEDS = range(budget(cpu=4, gpu=8))
clipping = ablate(
    clean_and_bad, {"bound": 1e9}, vary="bound", values=BOUNDS, seeds=SEEDS
)
clipping.table("with the bad batch").rename({1e9: "none"}).round(3)

# %%
runs = clipping.frame().melt(
    ["bound", "seed"], var_name="training", value_name="accuracy"
)
runs["place"] = runs["bound"].map(BOUNDS.index)
figure, ax = plot.new(6.5, 3)
plot.curves(ax, runs, x="place", y="accuracy", group="training")
ax.set_xticks(range(len(BOUNDS)), ["none", *map(str, BOUNDS[1:])])
title = "A bound above the usual norm costs nothing and saves the run"
ax.set(xlabel="bound on the gradient norm", ylabel="test accuracy", title=title)
plot.show(
    figure,
    "Accuracy by clipping bound. With a bad batch and no clipping it is near "
    "chance; from a bound of 10 on, both lines agree.",
)

# %% [markdown]
# Without clipping, one batch of 160 undoes the training. A bound of ten lies above all norms of the run that you looked at, so a healthy run hardly notices it, and it
# saves the broken one. A bound below the usual norm shortens every step, like a smaller learning rate: healthy runs with 0.1 end lower, and with 0.01 hardly learn in so few steps. Are four seeds enough to say so?

# %%
print(clipping.verdict("with the bad batch"))
print(clipping.verdict("without"))

# %% tags=["nbval-check-output"]
mean = clipping.frame().groupby("bound").mean()
bad_runs, clean_runs = mean["with the bad batch"], mean["without"]
claim(
    "a batch that was not divided by 255: its gradient is 10 times longer than any "
    "before it",
    norms[WHEN] > 10 * max(norms[:WHEN]),
    measured=(max(norms[:WHEN]), norms[WHEN]),
)
claim(
    "one bad batch of 160 costs over 25 points unclipped, and under 15 with clipping "
    "at 10",
    clean_runs[1e9] - bad_runs[1e9] > 0.25 and clean_runs[10] - bad_runs[10] < 0.15,
    measured=mean.to_dict(),
)
claim(
    "clipping at 10 changes healthy runs, which read over 55 % of the clothes, by "
    "under 4 points",
    abs(clean_runs[1e9] - clean_runs[10]) < 0.04 and clean_runs[10] > 0.55,
    measured=clean_runs.to_dict(),
)
slowed = dict(line.split(": ") for line in clipping.verdict("without").splitlines())[
    "0.1"
]
claim(
    "clipping healthy gradients at 0.1, below their usual norm, costs accuracy (p < "
    "0.05, 4 arms)",
    slowed.startswith("lower"),
    measured=slowed,
)

# %% [markdown]
# ### Mend an input, and regularise, from outside
#
# Clipping treats the damage. A *pre-hook* can keep it out: it sees the inputs before `forward`, and what it returns takes their place.
# This one divides by 255 what was not divided. A forward hook may replace the output, too: here it drops half of the features that the
# flattened map hands to the first linear layer, in train mode only. That is dropout for a network whose code you cannot touch.


# %%
def mend(module, inputs):
    (images,) = inputs
    return (images / 255,) if images.max() > 1.5 else None  # None: as it is


def drop(module, inputs, output):
    return nn.functional.dropout(output, 0.5, module.training)


def train_with(model, bad, optimizer):
    with suppress(FloatingPointError):
        fit(model, batches(bad), optimizer(model.parameters()))
    return accuracy(model, test)


# %%
from contextlib import nullcontext


def momentum(parameters):
    return optim.SGD(parameters, lr=0.05, momentum=0.9)


at_the_door = {}
for name, bad, hook in [
    ("clean", False, None),
    ("bad", True, None),
    ("mended", True, mend),
]:
    seed_everything(0)
    model = make_net()
    handle = model.register_forward_pre_hook(hook) if hook else nullcontext()
    with handle:  # a handle removes its hook at the end of the block
        at_the_door[name] = train_with(model, bad, momentum)
pd.Series(at_the_door, name="accuracy").round(3).to_frame()

# %%
seed_everything(0)
hooked = make_net()
with hooked[6].register_forward_hook(drop):
    read = train_with(hooked, False, momentum)
seed_everything(0)
model = make_net()
built = nn.Sequential(*model[:7], nn.Dropout(0.5), *model[7:])
train_with(built, False, momentum)
pairs = list(zip(hooked.parameters(), built.parameters(), strict=True))
apart = max((a - b).abs().max().item() for a, b in pairs)
print(f"largest difference {apart}, accuracy {read:.2f}")

# %% [markdown]
# The mended run ends where the clean one does, although the bad batch was in it. And the hook that drops features trains to the weights of
# a network with `nn.Dropout` in that place: no weight differs. A hook is as good as a layer while it is there. It is
# not in the checkpoint, though, and not in an exported file: for anything that lasts, write the layer.

# %% tags=["nbval-check-output"]
claim(
    "a pre-hook mends a bad batch at the door: it costs at most 2 points in place of "
    "over 10",
    at_the_door["mended"] > at_the_door["clean"] - 0.02
    and at_the_door["bad"] < at_the_door["clean"] - 0.1,
    measured=at_the_door,
)
claim(
    "a network that drops by a hook reads over 50 %, and equals one with nn.Dropout "
    "bit for bit",
    apart == 0 and read > 0.5,
    measured=(apart, read),
)

# %% [markdown]
# ### A training loop with places for hooks
#
# The idea works outside of networks, too. MMEngine, on which MMDetection {cite:p}`chen2019mmdetection` and its siblings run, has a training loop that calls
# hooks at named points ([open-mmlab/mmengine](https://github.com/open-mmlab/mmengine)): before training, after each iteration and so on. Logging, checkpoints, averaging of weights, clipping: all of
# them are hooks, and the loop knows none of them. You need no registry and no base class for that. A hook is any object with a `priority` and with methods
# named after points. As in MMEngine, the smallest priority runs first, and equals run in the order of the list.

# %%
from dataclasses import dataclass

POINTS = (
    "before_train", "before_epoch", "before_backward", "after_backward",
    "after_iter", "after_epoch", "after_train",
)  # fmt: skip


@dataclass
class Run:
    net: nn.Module
    optimizer: optim.Optimizer
    epoch: int = 0
    loss: torch.Tensor | None = None


# %%
def run_hooks(run, epochs, steps, hooks):
    """Train, and call each hook at its points: the smallest priority first."""
    for hook in hooks:
        for name in dir(hook):
            if name.startswith(("before_", "after_")) and name not in POINTS:
                raise AttributeError(
                    f"{name} is never called; the points are {', '.join(POINTS)}"
                )
    ordered = sorted(hooks, key=lambda hook: hook.priority)

    def call(point):
        for hook in ordered:
            getattr(hook, point, lambda run: None)(run)

    call("before_train")
    for run.epoch in range(epochs):
        call("before_epoch")
        for _ in range(steps):
            run.optimizer.zero_grad()
            images, labels = draw()
            run.loss = cross_entropy(run.net(images), labels)
            call("before_backward")
            run.loss.backward()
            call("after_backward")
            run.optimizer.step()
            call("after_iter")
        call("after_epoch")
    call("after_train")


# %% [markdown]
# The check at the top is what a base class would give you: a method called `after_itr` is refused, instead of being ignored for ever.
# Here are three hooks. `Average` keeps an exponential moving average of the weights, and puts it into the network for the
# time after the epoch; `Score` measures; `Save` copies the weights, as a checkpoint would.


# %%
@dataclass
class Average:
    decay: float
    priority: int

    def before_train(self, run):
        self.mean = {
            name: value.clone() for name, value in run.net.state_dict().items()
        }

    def after_iter(self, run):
        for name, value in run.net.state_dict().items():
            self.mean[name].lerp_(value, 1 - self.decay)

    def after_epoch(self, run):
        self.raw = {
            name: value.clone() for name, value in run.net.state_dict().items()
        }
        run.net.load_state_dict(self.mean)

    def before_epoch(self, run):
        if run.epoch > 0:
            run.net.load_state_dict(self.raw)


# %%
class Score:
    def __init__(self, priority):
        self.priority, self.scores = priority, []

    def after_epoch(self, run):
        self.scores.append(accuracy(run.net, test))


# %%
class Save:
    def __init__(self, priority):
        self.priority, self.files = priority, []

    def after_epoch(self, run):
        self.files.append(
            {name: value.clone() for name, value in run.net.state_dict().items()}
        )


# %% [markdown]
# ### The order is part of the program
#
# The same three hooks in two orders: `Save` last, or `Save` first. Load each file that was saved, score it, and compare with the
# score that the log holds for that epoch.


# %%
def log_against_files(save_priority):
    seed_everything(0)
    model = make_net()
    score, save = Score(priority=60), Save(save_priority)
    hooks = [save, score, Average(decay=0.95, priority=50)]
    run_hooks(
        Run(model, optim.SGD(model.parameters(), lr=0.2)),
        epochs=4,
        steps=60,
        hooks=hooks,
    )
    reloaded = []
    for file in save.files:
        model.load_state_dict(file)
        reloaded.append(accuracy(model, test))
    return score.scores, reloaded


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Whose files score what the log says: those of `Save(90)` or those of `Save(10)`? Which files are better?
# :::

# %%
orders = {"average, score, save": 90, "save, average, score": 10}
columns = {}
for order, priority in orders.items():
    columns[order, "log"], columns[order, "file"] = log_against_files(priority)
logs = pd.DataFrame(columns).rename_axis("epoch")
logs.round(3)

# %% [markdown]
# Both logs are the same, since both runs do the same training. But the second run saved the raw weights, and its log speaks of the
# average. (In the first epoch the average is the worse one: it still remembers the random start.) You would publish a file that nobody can
# bring to the number in your log.

# %% tags=["nbval-check-output"]
gaps = {
    order: (logs[order, "log"] - logs[order, "file"]).abs().max() for order in orders
}
claim(
    "files score what the log says where saving comes last, and are over 2 points "
    "off where first",
    gaps["average, score, save"] < 1e-6 and gaps["save, average, score"] > 0.02,
    measured=gaps,
)

# %% [markdown]
# A second pair. Mixed precision multiplies the loss by a large factor, so that small gradients survive in 16 bits, and divides the gradients by
# it before the optimizer steps. Clipping has to know. Here is the factor without the 16 bits, so that only the order differs.


# %%
@dataclass
class Unscale:
    priority: int
    factor: float = 65536.0

    def before_backward(self, run):
        run.loss = run.loss * self.factor

    def after_backward(self, run):
        for parameter in run.net.parameters():
            parameter.grad /= self.factor


# %%
@dataclass
class Clip:
    priority: int

    def after_backward(self, run):
        nn.utils.clip_grad_norm_(run.net.parameters(), max_norm=10.0)


# %%
class Losses:
    def __init__(self, factor):
        self.priority, self.factor, self.seen = 0, factor, []

    def after_iter(self, run):
        self.seen.append(run.loss.item() / self.factor)


# %%
def losses_with(unscale, clip):
    seed_everything(0)
    model, losses = make_net(), Losses(unscale.factor)
    sgd = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run_hooks(Run(model, sgd), epochs=1, steps=150, hooks=[losses, clip, unscale])
    return losses.seen


# %%
loss_by_order = pd.DataFrame(
    {
        "unscale, then clip": losses_with(Unscale(10), Clip(20)),
        "clip, then unscale": losses_with(Unscale(20), Clip(10)),
    }
)

# %%
figure, ax = plot.new(6, 2.8)
for order in loss_by_order:
    ax.plot(loss_by_order[order].rolling(8, min_periods=1).mean(), label=order)
ax.set(
    xlabel="step",
    ylabel="training loss (nats)",
    title="The same two hooks, in two orders",
)
ax.legend()
plot.show(
    figure,
    "Training loss: unscale then clip falls; clip then unscale stays where it began.",
)

# %% [markdown]
# Clipped first, gradients that are 65,536 times too long are shrunk to 10, and the division then makes them vanish. The run does not crash; it
# just never learns. It was met in
# [milesial/Pytorch-UNet#468](https://github.com/milesial/Pytorch-UNet/issues/468).

# %% tags=["nbval-check-output"]
ends = loss_by_order.tail(20).mean()
claim(
    "a scaled loss falls below 1.5 where gradients are unscaled, then clipped; else "
    "it stays at 2.2",
    ends["unscale, then clip"] < 1.5 and ends["clip, then unscale"] > 2.2,
    measured=ends.to_dict(),
)

# %% [markdown]
# What does such a loop buy? Each concern is one object that can be tested alone, and a run is described by the list of them. What does it cost? The
# order lives in numbers far from each other, and no single place shows what happens in a step. Print the ordered list at the start of every run.

# %% [markdown]
# ## Reproduce: a saliency map that does not ask the network
#
# **The paper says.** {cite:t}`adebayo2018sanity` replace the weights of a trained network by random ones, layer by layer from the
# output on. A map that explains the *network's* decision has to change. The plain gradient changes, and Grad-CAM does; *guided
# backpropagation* {cite:p}`springenberg2015striving` hardly does.
#
# **We measure** with hooks. Guided backpropagation is one backward hook: every ReLU lets only positive gradients pass. (So it needs layers that are
# not in place: you know why.) One of their networks was a small one on Fashion-MNIST, the same clothes that we use.
#
# :::{admonition} Predict
# :class: predict
# Only the last layer becomes random, so the answers are noise. Which of the three maps hardly notices?
# :::


# %%
def saliency(model, images, classes):
    images = images.clone().requires_grad_()
    scores = model(images).gather(1, classes[:, None]).sum()
    return torch.autograd.grad(scores, images)[0][:, 0].abs()  # [N,H,W]


# %%
def guided(model, images, classes):
    def positive_only(module, to_input, to_output):
        return (to_input[0].clamp(min=0),)

    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    handles = [relu.register_full_backward_hook(positive_only) for relu in relus]
    try:
        return saliency(model, images, classes)
    finally:
        for handle in handles:
            handle.remove()


# %%
seed_everything(0)
full_size = clothes("train", n=6000)
subject = nn.Sequential(
    nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
    nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
).to(device())  # fmt: skip

# %%
loader = torch.utils.data.DataLoader(
    full_size, batch_size=32, shuffle=True, drop_last=True
)
fit(subject, list(loader), optim.Adam(subject.parameters(), lr=1e-3))
shown = clothes("test", n=48)
round(accuracy(subject.eval(), shown), 2)

# %%
images = shown.images.to(device())
said = subject(images).argmax(1)
methods = {
    "gradient": saliency,
    "guided backpropagation": guided,
    "Grad-CAM": lambda model, x, said: grad_cam(
        model, x, "7", lambda out: out.gather(1, said[:, None])[:, 0]
    ),
}
trained_maps = {
    name: method(subject, images, said) for name, method in methods.items()
}

# %% [markdown]
# The similarity of two maps is the rank correlation of their pixels, as in the paper, averaged over 48 pictures. A map without any
# heat has nothing in common with another: it counts as zero.

# %%
from copy import deepcopy

from scipy.stats import spearmanr


def similarity(before, after):
    pairs = zip(before.cpu().flatten(1), after.cpu().flatten(1), strict=True)
    blank_is_zero = [
        spearmanr(a, b).statistic if a.std() * b.std() > 0 else 0.0 for a, b in pairs
    ]
    return sum(blank_is_zero) / len(blank_is_zero)


# %%
LAYERS = {"fc 2": 11, "fc 1": 9, "conv 3": 6, "conv 2": 3, "conv 1": 0}
seed_everything(1)
broken, maps_of, rows = deepcopy(subject), {}, {}
exam = clothes("test", n=500)
reads = {"none": accuracy(subject, exam)}
for layer, index in LAYERS.items():
    broken[
        index
    ].reset_parameters()  # this layer, and all that were randomised before
    reads[layer] = accuracy(broken, exam)
    maps_of[layer] = {
        name: method(broken, images, said) for name, method in methods.items()
    }
    rows[layer] = {
        name: similarity(trained_maps[name], maps_of[layer][name]) for name in methods
    }
sanity = pd.DataFrame(rows).T.rename_axis("random from the output to")
sanity.join(pd.Series(reads, name="accuracy")).round(2)

# %%
figure, axes = plot.new(6.4, 2.8, rows=2, columns=4)
for row, name in zip(axes, ("gradient", "guided backpropagation"), strict=True):
    stages = [trained_maps[name], maps_of["fc 2"][name], maps_of["fc 1"][name]]
    titles = ["picture", "trained", "fc 2 random", "fc 1 and 2 random"]
    for ax, picture, title in zip(row, [images[:, 0], *stages], titles, strict=True):
        plot.images(ax, picture[1:2].cpu(), [title], limits=None)
figure.suptitle("Gradient (above) and guided backpropagation (below)", fontsize=9)
plot.show(
    figure,
    "A garment and its maps. The guided maps look alike with trained and with "
    "random upper layers; the gradient maps do not.",
)

# %% [markdown]
# The last column of the table says what such a network is worth: next to nothing, from the first random layer on. In the lower row, its map still looks like an explanation. Guided backpropagation draws what the lower layers
# find striking in the picture, whatever the upper ones make of it. The correlations of Grad-CAM scatter around zero, and below: its maps have few pixels, and a random
# classifier weighs them at random.

# %% tags=["nbval-check-output"]
top, both = sanity.loc["fc 2"], sanity.loc["fc 1"]
claim(
    "a random last layer costs over 30 points of accuracy; guided maps stay similar, "
    "above 0.65",
    reads["none"] - reads["fc 2"] > 0.3 and top["guided backpropagation"] > 0.65,
    measured=(reads, top.to_dict()),
)
claim(
    "last layer random: the similarity of gradient maps is at least 0.15 below that "
    "of guided ones",
    top["guided backpropagation"] - top["gradient"] > 0.15,
    measured=top.to_dict(),
)
claim(
    "two layers random: Grad-CAM keeps less than half of the similarity that guided "
    "maps keep",
    both["Grad-CAM"] < 0.5 * both["guided backpropagation"],
    measured=both.to_dict(),
)

# %% [markdown]
# **Why they differ.** Which methods notice, and which does not, is as in the paper. Our guided maps do fade when the convolutions become random as well; in the paper they
# resist longer, in networks with many more layers above the ones that draw the edges.

# %% [markdown]
# ## Bug hunt: the second picture looks like the first
#
# A class draws Grad-CAM maps. For the first picture all is well. Then each further picture gets a map that looks like the first one, and the
# program becomes slower with each call. It was met in
# [shinkyo0513/Towards-Visually-Explaining-Video-Understanding-Networks-With-Perturbation#10](https://github.com/shinkyo0513/Towards-Visually-Explaining-Video-Understanding-Networks-With-Perturbation/issues/10);
# the opposite, maps that never change because the hooks are gone, in [kazuto1011/grad-cam-pytorch#28](https://github.com/kazuto1011/grad-cam-pytorch/issues/28).


# %% tags=["hunt-bug"]
class Explainer:
    """Draw Grad-CAM maps, [N,h,w], of one layer, for one class per call."""

    def __init__(self, model, layer):
        self.model, self.layer = model, model.get_submodule(layer)
        self.maps, self.gradients = [], []

    def __call__(self, images, label):
        self.layer.register_forward_hook(self.keep)
        self.model(images)[:, label].sum().backward()
        alpha = self.gradients[0].mean((2, 3), keepdim=True)
        return (alpha * self.maps[0]).sum(1).relu().detach()

    def keep(self, module, inputs, output):
        self.maps.append(output)
        output.register_hook(self.gradients.append)


# %%
from labs.hunts.engineering import check_explainer

check_explainer(Explainer)

# %% [markdown]
# The checker calls it as a user would: several times, with other hooks around, and with a picture that the model refuses. Repair the class in a copy of the cell. After a call,
# the model has to be as it was before.
#
# :::{dropdown} Hint 1
# Print `len(explainer.maps)` and `len(explainer.layer._forward_hooks)` after each of three calls.
# :::
#
# :::{dropdown} Hint 2
# Two things outlive the call: what was kept, and who keeps it. `[-1]` instead of `[0]` hides the first and leaves the second. Clearing
# all hooks of the layer takes away those of other people.
# :::
#
# :::{dropdown} Hint 3
# `backward()` leaves something behind in each parameter. Which function of `torch.autograd` returns gradients instead of storing them?
# :::


# %% tags=["hunt-solution", "hide-cell"]
import torch


class Explainer:
    """Draw Grad-CAM maps, [N,h,w], of one layer, for one class per call."""

    def __init__(self, model, layer):
        self.model, self.layer = model, model.get_submodule(layer)

    def __call__(self, images, label):
        kept = []  # of this call only
        handle = self.layer.register_forward_hook(
            lambda module, inputs, output: kept.append(output)
        )
        try:
            score = self.model(images)[:, label].sum()
        finally:
            handle.remove()  # also when the model raises
        (gradient,) = torch.autograd.grad(score, kept[0])  # no .grad is touched
        alpha = gradient.mean((2, 3), keepdim=True)
        return (alpha * kept[0]).sum(1).relu().detach()


# %% tags=["nbval-check-output"]
claim("the repaired class passes every probe", check_explainer(Explainer).passed)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** With one hook for *every* module, count the multiplications of a MobileNetV2 for a picture of 224 by 224 pixels: each value that a convolution or linear
# layer returns costs as many as there are inputs to it. The paper {cite:p}`sandler2018mobilenetv2` says 300 million. Do it on the `meta` device, where nothing is computed.
#
# :::{dropdown} Solution 1
# A weight of shape `[out, in/groups, kh, kw]` costs `weight[0].numel()` multiplications per value returned. See the next cell.
# :::

# %% tags=["hide-cell"]
counts = []


def count(module, inputs, output):
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        counts.append(output.numel() * module.weight[0].numel())


with torch.device("meta"):
    handle = every.register_module_forward_hook(count)
    try:
        torchvision.models.mobilenet_v2()(torch.empty(1, 3, 224, 224))
    finally:
        handle.remove()
f"{sum(counts) / 1e6:.0f} million"

# %% [markdown]
# **Exercise 2.** The gradients of a large network take as much memory as the network. With `register_post_accumulate_grad_hook`, let each
# parameter take its own SGD step as soon as its `.grad` is written, and set `.grad` to `None`. Show that the weights are those of a normal step.
#
# :::{dropdown} Solution 2
# The step of one parameter needs no other parameter, so it may happen in the middle of `backward()`. What you lose: the norm of *all* gradients, so no
# clipping by it, and no accumulation. See the next cell.
# :::

# %% tags=["hide-cell"]
seed_everything(0)
usual, early = make_net(), make_net()
early.load_state_dict(usual.state_dict())
images, labels = draw()
sgd = optim.SGD(usual.parameters(), lr=0.1)
cross_entropy(usual(images), labels).backward()
sgd.step()


def step_now(parameter):
    with torch.no_grad():
        parameter -= 0.1 * parameter.grad
    parameter.grad = None


for parameter in early.parameters():
    parameter.register_post_accumulate_grad_hook(step_now)
cross_entropy(early(images), labels).backward()
all(
    torch.allclose(a, b)
    for a, b in zip(usual.parameters(), early.parameters(), strict=True)
)

# %% [markdown]
# **Exercise 3.** In the ablation, use `clip_value(0.1)` from `labs.hooks` instead of `clip_norm`: each value of a gradient is cut on its own. Does it save the run? What does it do to
# the *direction* of the gradient?
#
# :::{dropdown} Solution 3
# It does: a bound on every value is a bound on the step. But the largest values are cut and the small ones are not, so the direction changes; `clip_norm` keeps it. The cosine
# between the gradient before and after is 1 for the norm, and less for the value. See the next cell.
# :::

# %% tags=["hide-cell"]
from labs.hooks import clip_value

gradients = [torch.randn(100, generator=torch.Generator().manual_seed(0)) ** 3]
for name, edit in {
    "clip_norm": clip_norm(1.0),
    "clip_value": clip_value(0.1),
}.items():
    cosine = nn.functional.cosine_similarity(gradients[0], edit(gradients)[0], dim=0)
    print(f"{name}: cosine {cosine:.2f}")

# %% [markdown]
# **Exercise 4.** Both kinds of hook fit together. Write a hook for `run_hooks` that records, for each epoch, the share of exact zeros behind a layer. It
# puts a hook on the layer before the epoch, and takes it away afterwards. Which priority must it have beside `Score`?
#
# :::{dropdown} Solution 4
# A smaller one: `Score` also runs the network, and its calls must not be counted. What is missing: when a step raises, `after_epoch` is never called, and
# the hook on the layer stays. A loop for real work calls a last point in `finally`. See the next cell.
# :::


# %% tags=["hide-cell"]
class Zeros:
    def __init__(self, layer, priority):
        self.layer, self.priority, self.shares = layer, priority, []

    def before_epoch(self, run):
        module, self.seen = run.net.get_submodule(self.layer), []
        self.handle = module.register_forward_hook(self.record)

    def record(self, module, inputs, output):
        self.seen.append(
            (output == 0).float().mean().item()
        )  # a number, no tensor is kept

    def after_epoch(self, run):
        self.handle.remove()
        self.shares.append(sum(self.seen) / len(self.seen))


model, zeros = make_net(), Zeros("1", priority=10)
sgd = optim.SGD(model.parameters(), lr=0.2)
run_hooks(Run(model, sgd), epochs=3, steps=30, hooks=[zeros, Score(60)])
len(zeros.seen), [round(share, 2) for share in zeros.shares]

# %% [markdown]
# ## In practice
#
# - Look with a hook, change with code. A hook that changes values is invisible to anybody who reads `forward`; keep it in a `with` block, and say so where the model is built.
# - Copy what you keep (`detach().clone()`), or better: reduce it to what you need, at once.
# - A hook sees modules. `torch.relu(x)`, `x + y` and anything in `torch.nn.functional` pass unseen, and so does `model.forward(x)`.
# - `torchvision.models.feature_extraction.create_feature_extractor` returns inner activations without hooks, by rewriting the graph; `timm` models have `forward_intermediates`. Prefer
#   them for a model that you ship.
# - `labs.hooks.add_noise` is an edit like `clip_norm`: annealed gradient noise helps some deep networks to start {cite:p}`neelakantan2015noise`.
# - Never use `register_backward_hook`. For gradients of activations use tensor hooks; for weights, `register_post_accumulate_grad_hook`.
# - Freezing has three parts: `.grad` is `None` (no decay, no momentum), batch norms are in eval mode (no statistics), and the optimizer does not hold the parameter at all.
# - Register hooks before `torch.compile` and before `DistributedDataParallel`, or use tools that know them. DDP averages gradients in hooks of its own, so edit them after `backward()`.
# - `edit_gradients` sees every backward pass on its own. When you accumulate several passes, clip their sum: in `optimizer.register_step_pre_hook`, or in
#   the loop, just before the step.
# - Unscale, then clip, then step: `scaler.unscale_(optimizer)`, `clip_grad_norm_`, `scaler.step(optimizer)`.

# %% [markdown]
# ## You can now
#
# - name the twelve places of a training step where your code can stand, and choose the right one;
# - record activations and gradients without being lied to, and leave no trace;
# - freeze and clip by editing gradients, and order the hooks of a training loop so that log and file agree.
