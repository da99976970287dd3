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
# [Watch a network see digits](../01_foundations/05_watch_a_network_see_digits) and Grad-CAM from
# [Classify flowers with dirty labels](../01_foundations/06_classify_flowers_with_dirty_labels).
#
# **Time** read 40 min · debug 35 min · experiment 35 min · reproduce 15 min · hunt 25 min · exercises 45 min
# :::

# %% [markdown]
# ## The symptom
#
# You want to see what the first layers of a pretrained MobileNetV2 make of a photograph. PyTorch lets you register a
# *hook*: a function that a layer calls with its output. You put one on the first batch normalisation, and keep what it gets.

# %%
import torch

from labs.data import photos
from labs.models import mobilenet_v2

net = mobilenet_v2().eval()
photo = photos("test", n=4, size=128).images[2:3]
recorded = []


def keep(module, inputs, output):
    recorded.append(output)


with torch.no_grad(), net.features[0][1].register_forward_hook(keep):
    net(photo)  # the hook is removed at the end of the block
recorded[0].aminmax()

# %% [markdown]
# `aminmax` gives the smallest and the largest value: nothing in the record is below zero. But batch normalisation shifts and scales; it cuts nothing off. Call the same two
# layers by hand, without any hook, and compare.

# %%
with torch.no_grad():
    returned = net.features[0][1](net.features[0][0](net.normalize(photo)))

# %%
from labs import plot

figure, axes = plot.new(height=2.8, columns=2)
titles = ("what the hook recorded", "what the layer returned")
for ax, values, title in zip(axes, (recorded[0], returned), titles, strict=True):
    ax.hist(
        values.flatten().numpy(), bins=60, range=(-1.5, 1.5), color=plot.COLOURS[0]
    )
    ax.set(xlabel="activation", title=title, ylabel="values")
plot.show(
    figure,
    "The layer returned negative values; in the record of the hook all of them are "
    "zero.",
    alt="Two histograms. Recorded: nothing below zero, and a high bar at zero. "
    "Returned: a part of the values lies below zero.",
)

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "a hook that keeps what it gets recorded a batch norm that returns nothing "
    "negative",
    (recorded[0] >= 0).all(),
    measured=recorded[0].min().item(),
)
below = (returned < 0).float().mean().item()
claim(
    "of what that batch norm really returned, at least 20 % is negative",
    below > 0.2,
    measured=below,
)

# %% [markdown]
# The hook ran, at the right layer, at the right time, and what you kept is wrong. Others have
# met such values, and asked why a convolution has no negative outputs
# ([ViCCo-Group/thingsvision#44](https://github.com/ViCCo-Group/thingsvision/issues/44)). This lesson builds hooks from
# nothing, and then collects the ways in which they lie.

# %% [markdown]
# ## The idea
#
# A hook is *middleware*: code that sits between a caller and a function, sees what passes, and may change it. The
# function does not know. Here is the whole mechanism, on numbers: the function triples.


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
after = [lambda x, y: log.append((x, y)), lambda x, y: -y]
call(lambda x: 3 * x, 2, [lambda x: x + 1], after), log

# %% [markdown]
# The input 2 became 3 on its way in, the log saw 3 and 9, and the caller got -9. `nn.Module.__call__` is this function, and
# `forward` is what it wraps. So code that calls `layer.forward(x)` goes around all hooks.
#
# PyTorch has such places all along a training step. Register hooks at twelve of them, around a single linear layer, and let every one
# note its name.

# %%
from torch import nn
from torch.nn.modules import module as every

layer, x = nn.Linear(1, 1), torch.ones(1, 1, requires_grad=True)
sgd = torch.optim.SGD(layer.parameters(), lr=0.1)
places = {
    "module: forward pre-hook": layer.register_forward_pre_hook,
    "module: forward hook": layer.register_forward_hook,
    "module: full backward pre-hook": layer.register_full_backward_pre_hook,
    "module: full backward hook": layer.register_full_backward_hook,
    "every module: forward pre-hook": every.register_module_forward_pre_hook,
    "every module: forward hook": every.register_module_forward_hook,
    "every module: full backward hook": every.register_module_full_backward_hook,
    "weight: tensor hook": layer.weight.register_hook,
    "weight: post-accumulate hook": layer.weight.register_post_accumulate_grad_hook,
    "optimizer: step pre-hook": sgd.register_step_pre_hook,
    "optimizer: step post-hook": sgd.register_step_post_hook,
}

# %%
from contextlib import ExitStack

events = []
with ExitStack() as hooks:  # removes every hook at the end of the block
    for name, register in places.items():
        hooks.enter_context(register(lambda *_, name=name: events.append(name)))
    y = layer(x)
    y.register_hook(lambda _: events.append("y: tensor hook"))
    y.sum().backward()
    sgd.step()
len(events)

# %% [markdown]
# All twelve ran. The drawing puts each one where it sits. The number in a circle is its place in the list of events, so it was
# measured and not looked up.

# %% tags=["hide-input"]
from textwrap import fill

INK, FORWARD, BACKWARD, UPDATE = "#222222", *plot.COLOURS[:3]
ROWS = [  # height, colour, and what stands from left to right
    (2, FORWARD, ["x", "every module: forward pre-hook", "module: forward pre-hook",
        "layer.forward", "every module: forward hook", "module: forward hook", "y"]),
    (1, BACKWARD, ["gradient of x", "module: full backward hook",
        "every module: full backward hook", "backward of the layer",
        "module: full backward pre-hook", "y: tensor hook", "gradient of y"]),
    (0, UPDATE, ["gradient of the weight", "weight: tensor hook", "weight.grad",
        "weight: post-accumulate hook", "optimizer: step pre-hook", "optimizer.step",
        "optimizer: step post-hook"]),
]  # fmt: skip


def arrow(ax, start, end, colour):
    style = {"arrowstyle": "->", "color": colour, "lw": 1.4}
    ax.annotate("", end, start, arrowprops=style)


def box(ax, x, y, text, style, **font):
    return ax.text(x, y, text, bbox=style, ha="center", va="center", **font)


# %%
figure, ax = plot.new(height=4.2)
for height, colour, names in ROWS:
    for place in range(6):
        ends = [(place + 0.35, height), (place + 0.65, height)]
        arrow(ax, *(reversed(ends) if colour == BACKWARD else ends), colour)
    for place, name in enumerate(names):
        if name in events:
            disc = {"boxstyle": "circle,pad=0.3", "facecolor": colour, "lw": 0}
            number = str(events.index(name) + 1)
            box(ax, place, height, number, disc, color="white", weight="bold")
            below = {"ha": "center", "va": "top", "fontsize": 7.5}
            ax.text(
                place, height - 0.2, fill(name, 15, break_on_hyphens=False), **below
            )
        else:
            frame = {
                "boxstyle": "round,pad=0.4",
                "facecolor": "white",
                "edgecolor": INK,
            }
            box(ax, place, height, fill(name, 14), frame, fontsize=7.5)
ax.text(6.32, 1.5, "loss", ha="center", va="center")
arrow(ax, (6.32, 1.42), (6.32, 1.14), BACKWARD)
ax.plot([6, 6.32, 6.32], [1.86, 1.86, 1.58], color=FORWARD, lw=1.4)
ax.plot([3, 3, 0], [0.82, 0.42, 0.42], color=UPDATE, lw=1.4)
arrow(ax, (0, 0.42), (0, 0.16), UPDATE)
ax.set(xlim=(-0.5, 6.5), ylim=(-0.65, 2.3))
ax.set_axis_off()
plot.show(
    figure,
    "Hooks stand on both sides of every step: blue on the way forward, vermillion "
    "on the way back, green between the gradient of the weight and the optimizer.",
    alt="Three chains. Forward: x, two pre-hooks, layer.forward, two forward hooks, "
    "y. Backward: gradient of y, tensor hook, full backward pre-hook, backward of "
    "the layer, two full backward hooks, gradient of x. Update: gradient of the "
    "weight, tensor hook, weight.grad, post-accumulate hook, step pre-hook, "
    "optimizer.step, step post-hook.",
)

# %% [markdown]
# Follow the numbers: it is one training step. Going forward, hooks for *every* module run before a module's own. A *tensor hook*
# sits on one tensor and gets its gradient; a *full backward hook* sits on a module and gets the gradients of its inputs and
# outputs. The weight has two places, before and after `.grad` is written, and both run before the layer's own backward hooks.
# The optimizer comes last.

# %% tags=["nbval-check-output"]
first = {name: events.index(name) for name in events}
claim(
    "12 hooks on a training step of one layer: each runs once",
    len(events) == 12 == len(first),
    measured=events,
)
claim(
    "forward hooks that are put on every module run before a module's own",
    first["every module: forward pre-hook"] < first["module: forward pre-hook"]
    and first["every module: forward hook"] < first["module: forward hook"],
    measured=events,
)
claim(
    "a weight's gradient is computed, then written to .grad, then used by the "
    "optimizer",
    first["weight: tensor hook"]
    < first["weight: post-accumulate hook"]
    < first["optimizer: step pre-hook"],
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

# %% [markdown]
# The gradient of the weight is 12 in place of 24: a change half-way reaches everything behind it.

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
# There is one list per layer, and one tensor per call. `labs.hooks.capture` does the same, and also takes patterns
# (`"layer*.conv1"`), nested outputs, gradients and compiled models. Do the two agree? The check below records every
# module of two networks with both: of MobileNetV2, and of a ResNet-18 of torchvision.

# %% tags=["nbval-check-output"]
from torchvision.models import resnet18

from labs.hooks import capture

torch.manual_seed(0)
unequal = []
for model in (net, resnet18().eval()):
    names = [name for name, _ in model.named_modules()]
    hand_made, made = capture_by_hand(model, *names), capture(model, *names)
    with torch.no_grad(), hand_made as hand, made as ours:
        model(photo)
    ran = [name for name in names if hand[name]]
    pairs = [(a, b) for n in ran for a, b in zip(hand[n], ours.calls(n), strict=True)]
    unequal.append(sum(not torch.equal(a, b) for a, b in pairs))
claim(
    "a recorder in 15 lines equals labs.hooks.capture on all modules of MobileNetV2 "
    "and ResNet-18",
    unequal == [0, 0] and len(pairs) > 50,
    measured=(unequal, len(pairs)),
)
claim(
    "a recorder that clones keeps what the first batch norm returned, negative "
    "values included",
    torch.equal(maps["features.0.1"][0], returned),
    measured=maps["features.0.1"][0].min().item(),
)

# %% [markdown]
# ## Debug: every way a hook lies
#
# ### Without `clone`: the next layer writes over your record
#
# This is the symptom. The record was a reference, not a copy, and the next layer was a `ReLU6(inplace=True)`: it wrote its own output into
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
resnet = resnet18().eval()
with torch.no_grad(), capture(resnet, "*relu") as maps:
    resnet(photo)
maps.table()[["layer", "call", "shape", "mean"]].head(5).round(2)

# %% [markdown]
# Two, call 0 and call 1: the block calls it in the middle and again after the addition. With one slot per name, you would have
# read the second as if it were the first. Both have the same shape, so nothing tells you. A library that explains networks met this in
# [captum#1082](https://github.com/meta-pytorch/captum/issues/1082).

# %% tags=["nbval-check-output"]
relus = list(maps)
twice = [name for name in relus if len(maps.calls(name)) == 2]
claim(
    "8 of the 9 ReLU modules of ResNet-18 run twice for one picture",
    (len(twice), len(relus)) == (8, 9),
    measured=twice,
)

# %% [markdown]
# ### Without `detach`: one number keeps a whole graph
#
# You want to save memory, and keep one number per picture: the mean of a map. You do it in an evaluation without `no_grad`. How much
# memory stays occupied? PyTorch has a hook for this question, too: `saved_tensors_hooks` sees every tensor that autograd stores for a backward pass.

# %%
from weakref import WeakValueDictionary


def memory_by_step(record, steps=8):
    """Return how many MB the records and autograd hold after each picture."""
    saved, kept, held = WeakValueDictionary(), [], []  # weak: keeps nothing alive

    def pack(tensor):
        saved[tensor.data_ptr()] = stored = tensor.detach()  # the same memory
        return stored

    def note(module, inputs, output):
        kept.append(record(output))

    watched = torch.autograd.graph.saved_tensors_hooks(pack, lambda stored: stored)
    with watched, net.features[3].register_forward_hook(note):
        for _ in range(steps):
            net(photo)
            held.append(sum(t.nbytes for t in [*saved.values(), *kept]) / 1e6)
    return held


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# `output.mean()` is 4 bytes, `output.detach().clone()` is the whole map. Which of the two recorders holds more?
# :::

# %%
held = {
    "output.mean()": memory_by_step(lambda output: output.mean()),
    "output.mean().detach()": memory_by_step(lambda output: output.mean().detach()),
    "output.detach().clone()": memory_by_step(lambda output: output.detach().clone()),
}

# %%
figure, ax = plot.new(height=2.8)
for (name, megabytes), marker in zip(held.items(), "os^", strict=True):
    ax.plot(range(1, 9), megabytes, marker=marker, ms=4, label=name)
ax.set(xlabel="pictures seen", ylabel="memory held (MB)", title="records and graph")
ax.legend()
plot.show(
    figure,
    "The record of one number per picture, not detached, holds the most memory, and "
    "more with every picture.",
    alt="Memory held against pictures seen: output.mean() climbs steeply, the two "
    "detached recorders stay near zero.",
)

# %% [markdown]
# The mean is a tensor with a `grad_fn`, and through it the whole graph of its picture stays alive: every layer up to this one. Detached, only
# the record itself remains. In a training loop, `backward()` frees most of the graph, so this leak shows in validation first.

# %% tags=["nbval-check-output"]
growth = {name: grown[-1] - grown[0] for name, grown in held.items()}
claim(
    "a record of one mean that is not detached holds 20 times the memory of a "
    "detached whole map",
    growth["output.mean()"] > 20 * growth["output.detach().clone()"],
    measured=growth,
)
claim(
    "a record of one detached mean grows by less than a kilobyte in seven pictures",
    growth["output.mean().detach()"] < 1e-3,
    measured=growth,
)

# %% [markdown]
# ### Without `finally`: the hook that stays
#
# A model can raise. If the line after the call removes your hook, an exception skips that line, and in a function the handle
# is lost with it. The hook stays, is called at every later call, and travels: `copy.deepcopy(net)` copies it, too. The check
# below gives the network pictures with two channels, which its first convolution refuses, and counts the hooks that are left.

# %% tags=["nbval-check-output"]
from contextlib import suppress

first_layer, left = net.features[0][0], {}
with suppress(RuntimeError):
    handle = first_layer.register_forward_hook(keep)
    net(photo[:, :2])
    handle.remove()
left["bare hook"] = len(first_layer._forward_hooks)
handle.remove()
with suppress(RuntimeError), capture_by_hand(net, "features.0.0"):
    net(photo[:, :2])
left["the block"] = len(first_layer._forward_hooks)
claim(
    "an exception in a model leaves a hook behind that is not removed in finally",
    left == {"bare hook": 1, "the block": 0},
    measured=left,
)

# %% [markdown]
# ### `torch.compile`: the hook that is never called
#
# A compiled model runs code that was written when it was first called. A hook that comes later is not in it. The backend
# `"eager"` shows this without a compiler.

# %%
small, one = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.ones(1, 4)
compiled = torch.compile(small, backend="eager")
compiled(one)  # the first call compiles
with capture_by_hand(small, "0") as by_hand:
    compiled(one)
with capture(small, "0") as ours:
    compiled(one)
{"by hand": len(by_hand["0"]), "labs": len(ours.calls("0"))}

# %% [markdown]
# The block has missed the call, without an error or a warning. `labs.hooks` has seen it: inside its blocks it runs compiled code
# eagerly.

# %% tags=["nbval-check-output"]
claim(
    "a hook put on a network that was compiled and called before is not called",
    len(by_hand["0"]) == 0,
    measured=by_hand,
)
claim(
    "labs.hooks.capture sees a call of a network that was compiled before",
    len(ours.calls("0")) == 1,
    measured=ours.calls("0"),
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


slopes = []
for way in ["register_backward_hook", "register_full_backward_hook"]:
    line = Line()
    getattr(line, way)(lambda _, to_input, to_output: slopes.append(to_input[0]))
    with warnings.catch_warnings(action="ignore"):  # the old one warns
        line(torch.tensor(5.0, requires_grad=True)).backward()
slopes

# %% [markdown]
# The old one hangs on the *last operation* of the module, here the `+ 1`, and reports the gradient at the input of that, not at the input of the module
# ([pytorch/pytorch#598](https://github.com/pytorch/pytorch/issues/598)). It warns, and you will meet it in older code. The new
# one wraps inputs and outputs, which has a cost of its own: it refuses an in-place layer after it, because its wrapper returns a view. The way
# out is a hook on the *tensor*, put there by a forward hook. `capture(..., gradients=True)` does it so. The check below tries both on a
# convolution before an in-place ReLU: the gradient of the sum is 1 where the ReLU is open, and 0 elsewhere.

# %% tags=["nbval-check-output"]
pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
refused = ""
with pair[0].register_full_backward_hook(lambda module, to_input, to_output: None):
    try:
        pair(photo)
    except RuntimeError as error:
        refused = str(error)
with capture(pair, "0", gradients=True) as maps:
    out = pair(photo)
    torch.autograd.grad(out.sum(), pair[0].weight)
claim(
    "of 3x + 1, register_backward_hook reports a slope of 1, and the full hook the "
    "right one of 3",
    slopes == [1, 3],
    measured=slopes,
)
claim(
    "register_full_backward_hook refuses an in-place layer that follows; a tensor "
    "hook is right",
    "inplace" in refused and torch.equal(maps.gradient("0"), (out > 0).float()),
    measured=refused,
)

# %% [markdown]
# ### Grad-CAM in four lines
#
# With maps and gradients from one block, Grad-CAM {cite:p}`selvaraju2017gradcam` is a weighted sum. It is compared with `labs` below, and
# with Captum where that is installed.

# %%
with capture(net, "features.18", gradients=True) as maps:
    logits = net(photo)
    logits.amax().backward()  # the score of the best class
alpha = maps.gradient("features.18").mean((2, 3), keepdim=True)  # [1,K,1,1]
heat = (alpha * maps["features.18"]).sum(1, keepdim=True).relu()  # [1,1,h,w]
net.zero_grad()  # backward() has filled every .grad as well

# %%
figure, axes = plot.new(height=3.4, columns=2)


def enlarged(heat):
    heat = nn.functional.interpolate(heat, photo.shape[-2:], mode="bilinear")[:, 0]
    return heat / heat.amax()


plot.images(axes[0], photo, ["photograph"])
plot.overlay(axes[1], photo[0], enlarged(heat)[0])
axes[1].set_title("heat of the best class", fontsize=9)
plot.show(
    figure,
    "The heat of the best class covers the animal and the ground below it; the far "
    "bank stays cold.",
    alt="An otter at a brook, and beside it the same picture with the heat of the "
    "best class: bright on the right half, where the otter stands, and dark on the "
    "left and above.",
)

# %% tags=["nbval-check-output"]
from labs.hooks import grad_cam

best = logits.argmax(1).item()
theirs = {"labs": grad_cam(net, photo, "features.18", lambda logits: logits[:, best])}
# only labs, where there is no Captum; its progress bar looks for notebook widgets
with suppress(ImportError), warnings.catch_warnings(action="ignore"):
    from captum.attr import LayerGradCam

    explainer = LayerGradCam(net, net.features[18])
    raw = explainer.attribute(photo, best, relu_attributions=True)
    theirs["captum"] = enlarged(raw.detach())
apart = {k: (enlarged(heat) - v).abs().max().item() for k, v in theirs.items()}
claim(
    "Grad-CAM in four lines equals every library installed here to 1e-4",
    max(apart.values()) < 1e-4,
    measured=apart,
)

# %% [markdown]
# ### Freeze a layer, and see whether it is frozen
#
# Hooks may also *change* gradients. The well-known recipe to freeze a layer is a hook that returns zeros. Train a small network on
# clothes for 20 steps, freeze its first convolution, train for 20 more, and measure how far the frozen weights moved, in percent of
# their length.

# %%
from torch.nn.functional import cross_entropy

from labs.data import clothes
from labs.repro import device, seed_everything

train, test = clothes("train", n=4000), clothes("test", n=1000)


# %%
def draw(n=32):
    rows = torch.randint(len(train), (n,))
    return train.images[rows].to(device()), train.labels[rows].to(device())


def make_net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * 9, 32), nn.ReLU(), nn.Linear(32, 10),
    ).to(device())  # fmt: skip


# %% [markdown]
# Compare the recipe with `requires_grad`, and with `labs.hooks.edit_gradients`. That takes a mapping from layer names to what happens to their
# gradients: a number scales them, `0.0` freezes, and a function such as `clip_norm(1.0)` edits them. Each way is a block, and the layer
# is frozen inside it.

# %%
from contextlib import nullcontext

from torch import optim

from labs.hooks import edit_gradients

WAYS = {
    "hook that returns zeros": lambda m: m[0].weight.register_hook(torch.zeros_like),
    "requires_grad=False": lambda m: nullcontext(m[0].requires_grad_(False)),
    "edit_gradients(..., 0.0)": lambda model: edit_gradients(model, {"0": 0.0}),
    "not frozen": nullcontext,
}
OPTIMIZERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.05),
    "SGD, weight decay": lambda p: optim.SGD(p, lr=0.05, weight_decay=0.01),
    "SGD, momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "AdamW": lambda p: optim.AdamW(p, lr=3e-3),
}

# %%
from labs.train import fit


def movement(way, optimizer):
    seed_everything(0)
    model, batches = make_net(), [draw() for _ in range(40)]
    weight, optimizer = model[0].weight, OPTIMIZERS[optimizer](model.parameters())
    fit(model, batches[:20], optimizer)
    before = weight.detach().clone()
    with WAYS[way](model):
        fit(model, batches[20:], optimizer)
    return 100 * ((weight - before).norm() / before.norm()).item()


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Three ways to freeze, four optimizers. In which of the 12 cases does a frozen weight move?
# :::

# %%
import pandas as pd

moved = {name: [movement(way, name) for way in WAYS] for name in OPTIMIZERS}
moved = pd.DataFrame(moved, index=WAYS)
moved.round(3)

# %% [markdown]
# A gradient of zero is not the same as no gradient. Weight decay pulls at every weight whose `.grad` is not `None`; momentum goes on in the
# direction that it remembers; AdamW does both. In the second and third row `.grad` is `None`, and the layer stands still: `fit` clears
# all gradients before each pass, and a frozen layer gets no new one. Where a loop only fills them with zeros
# (`zero_grad(set_to_none=False)`), `requires_grad=False` is no better than the hook.
# The last row is the control: how far the same weights go when they are not frozen.

# %% tags=["nbval-check-output"]
zero, none, edited, free = (row for _, row in moved.iterrows())
claim(
    "a gradient of zeros freezes a layer under plain SGD; decay, momentum and AdamW "
    "still move it",
    zero["SGD"] == 0 and (zero.iloc[1:] > 0.1).all(),
    measured=zero.to_dict(),
)
stale = {}
for name, make in OPTIMIZERS.items():
    weight = nn.Parameter(torch.ones(1))
    weight.grad, optimizer = torch.ones(1), make([weight])
    optimizer.step()
    before = weight.requires_grad_(False).clone()
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    stale[name] = (weight - before).abs().item()
claim(
    "requires_grad=False with a .grad of zeros: decay, momentum and AdamW still move "
    "the weight",
    stale.pop("SGD") == 0 and min(stale.values()) > 1e-4,
    measured=stale,
)
claim(
    "a .grad of None stops a layer exactly, under four optimizers that move it by "
    "over 0.5 % else",
    (none == 0).all() and (edited == 0).all() and (free > 0.5).all(),
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

STEPS, WHEN = 160, 110


# %%
def train_through(bad, bound=1e9, model=None, watch=None):
    model, batches = model or make_net(), [draw() for _ in range(STEPS)]
    if bad:
        batches[WHEN][0].mul_(255)
    sgd = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with suppress(FloatingPointError), edit_gradients(model, {"": clip_norm(bound)}):
        fit(model, batches, sgd, watch=watch)
    return accuracy(model, test)


# %% [markdown]
# Where the loss becomes NaN, `fit` raises; then the accuracy is that of the weights at hand. A bound of a billion is never
# reached: it is the run without clipping. Look at that one first. `fit` has a place for a hook
# of its own, `watch`, just before the optimizer steps.

# %%
norms = []


def note_norm(model, step):
    norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())


seed_everything(0)
train_through(True, watch=note_norm)
pd.Series(norms[:WHEN]).median(), max(norms[:WHEN]), norms[WHEN]

# %% [markdown]
# The first two numbers are the median and the maximum before the bad batch, and the third is its own: one step uses a gradient that is longer than all before it by orders of magnitude.
#
# :::{admonition} Predict
# :class: predict
# Try the bounds 10, 1, 0.1 and 0.01. From which on does clipping save the run, and from which on does it hurt?
# :::

# %%
from labs.ablation import ablate

BOUNDS, SEEDS = [1e9, 10.0, 1.0, 0.1, 0.01], range(budget(cpu=4, gpu=8))
clipping = {
    name: ablate(train_through, {"bad": bad, "bound": 1e9}, "bound", BOUNDS, SEEDS)
    for name, bad in [("with the bad batch", True), ("without", False)]
}
clipping["with the bad batch"].table().rename({1e9: "none"}).round(3)

# %%
runs = pd.concat({name: study.frame() for name, study in clipping.items()})
runs = runs.rename(columns={"score": "accuracy"}).rename_axis(["training", "run"])
runs["place"] = runs["bound"].map(BOUNDS.index)
figure, ax = plot.new(height=3)
plot.curves(ax, runs.reset_index(), x="place", y="accuracy", group="training")
ax.set_xticks(range(len(BOUNDS)), ["none", *map(str, BOUNDS[1:])])
ax.set(xlabel="bound on the gradient norm", ylabel="test accuracy", title="clipping")
plot.show(
    figure,
    "A bound of 10 saves the runs with the bad batch, and the clean ones end where "
    "they do without it; bounds of 0.1 and less cost both.",
    alt="Accuracy by clipping bound. With a bad batch and no clipping it is far "
    "below the clean runs; at 10 and 1 both lines agree, and at 0.1 and 0.01 both "
    "fall.",
)

# %% [markdown]
# Without clipping, one batch of 160 undoes the training. (In the table `delta` is the difference from the first row, and `ci95` the half width of the mean's 95 % interval.)
# A bound of ten cuts hardly any step but the bad one, so a healthy run does not change, and the broken one is saved. A bound below the usual norm shortens every step, like a smaller learning rate: healthy runs with 0.1 end lower, and with 0.01 hardly learn in so few steps. Are four seeds enough to say so?

# %%
for name, study in clipping.items():
    print(name, study.verdict(), sep="\n")

# %% [markdown]
# Each line compares one bound with no clipping. Where it says "not told apart", four seeds prove no difference.

# %% tags=["nbval-check-output"]
bad_runs, clean_runs = (study.table()["mean"] for study in clipping.values())
claim(
    "a batch that was not divided by 255: its gradient is 10 times longer than any "
    "before it",
    norms[WHEN] > 10 * max(norms[:WHEN]),
    measured=(max(norms[:WHEN]), norms[WHEN]),
)
claim(
    "one bad batch of 160 costs over 25 points unclipped, and under 15 with "
    "clipping at 10",
    clean_runs[1e9] - bad_runs[1e9] > 0.25 and clean_runs[10] - bad_runs[10] < 0.15,
    measured=(bad_runs.to_dict(), clean_runs.to_dict()),
)
claim(
    "clipping at 10 changes healthy runs, which read over 55 % of the clothes, by "
    "under 4 points",
    abs(clean_runs[1e9] - clean_runs[10]) < 0.04 and clean_runs[10] > 0.55,
    measured=clean_runs.to_dict(),
)
claim(
    "clipping healthy gradients at 0.1, below their usual norm, costs over 3 points "
    "on "
    "average",
    clean_runs[1e9] - clean_runs[0.1] > 0.03,
    measured=clean_runs.to_dict(),
)

# %% [markdown]
# ### Mend an input, and regularise, from outside
#
# Clipping treats the damage. A *pre-hook* can keep it out: it sees the inputs before `forward`, and what it returns takes their place.
# This one divides by 255 what was not divided.


# %%
def mend(module, inputs):
    (images,) = inputs
    return (images / 255,) if images.max() > 1.5 else None  # None: as it is


# %%
seed_everything(0)
model = make_net()
with model.register_forward_pre_hook(mend):  # removed at the end of the block
    mended = train_through(True, model=model)
{n: s.runs[0].metrics["score"] for n, s in clipping.items()} | {"mended": mended}

# %% [markdown]
# The mended run ends where the clean one of the same seed does, although the bad batch was in it.
#
# A forward hook may replace the output, too. This one drops half of the features that the flattened map hands to the first
# linear layer, in train mode only. That is dropout for a network whose code you cannot touch. Train it beside a network with
# `nn.Dropout` in that place.


# %%
def drop(module, inputs, output):
    return nn.functional.dropout(output, 0.5, module.training)


# %%
seed_everything(0)
hooked = make_net()
with hooked[6].register_forward_hook(drop):
    by_hook = train_through(False, model=hooked)
seed_everything(0)
built = make_net().insert(7, nn.Dropout(0.5))
{"by the hook": by_hook, "by the layer": train_through(False, model=built)}

# %% [markdown]
# The accuracies are the same, and so is every weight: the check compares them bit by bit. A hook is as good as a layer while it is there. It is
# not in the checkpoint, though, and not in an exported file: for anything that lasts, write the layer.

# %% tags=["nbval-check-output"]
bad, clean = (study.runs[0].metrics["score"] for study in clipping.values())
claim(
    "a pre-hook mends a bad batch at the door: it costs at most 2 points in place "
    "of over 10",
    mended > clean - 0.02 and bad < clean - 0.1,
    measured=(bad, clean, mended),
)
pairs = zip(hooked.parameters(), built.parameters(), strict=True)
largest = max((a - b).abs().max().item() for a, b in pairs)
claim(
    "a network that drops by a hook reads over 40 %, and equals one with nn.Dropout "
    "bit for bit",
    largest == 0 and by_hook > 0.4,
    measured=(largest, by_hook),
)

# %% [markdown]
# ### A training loop with places for hooks
#
# The idea works outside of networks, too. MMEngine, on which MMDetection {cite:p}`chen2019mmdetection` and its siblings run, has a training loop that calls
# hooks at named points ([open-mmlab/mmengine](https://github.com/open-mmlab/mmengine)): before each epoch, after each iteration and so on. Logging, checkpoints, averaging of weights, clipping: all of
# them are hooks, and the loop knows none of them. You need no registry and no base class for that. A hook is a priority, the name of a
# point, and a function. As in MMEngine, the smallest priority runs first, and equals run in the order of the list.


# %%
def run_hooks(run, epochs, steps, hooks):
    """Train, and call at each point its hooks: the smallest priority first."""

    def call(point):
        for _, at, hook in sorted(hooks, key=lambda hook: hook[0]):
            if at == point:
                hook(run)

    for _ in range(epochs):
        call("before_epoch")
        for _ in range(steps):
            images, labels = draw()
            run["optimizer"].zero_grad()
            cross_entropy(run["net"](images), labels).backward()
            run["optimizer"].step()
            call("after_iter")
        call("after_epoch")


# %% [markdown]
# ### The order is part of the program
#
# Three concerns, five hooks: an exponential moving average of the weights, which takes the place of the network for the
# time after each epoch; a log of scores; and a checkpoint. Run them in two orders, with the checkpoint last or first. Then score each
# network that was saved, and compare with what the log holds for that epoch.

# %%
from copy import deepcopy

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def log_against_files(save_at):
    seed_everything(0)
    net, log, files = make_net(), [], []
    mean = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    run = {"net": net, "optimizer": optim.SGD(net.parameters(), lr=0.2)}
    hooks = [
        (50, "before_epoch", lambda run: run.update(net=net)),
        (50, "after_iter", lambda run: mean.update_parameters(net)),
        (50, "after_epoch", lambda run: run.update(net=mean)),
        (60, "after_epoch", lambda run: log.append(accuracy(run["net"], test))),
        (save_at, "after_epoch", lambda run: files.append(deepcopy(run["net"]))),
    ]
    run_hooks(run, 4, 60, hooks)
    return pd.DataFrame({"log": log, "file": [accuracy(net, test) for net in files]})


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# The average has priority 50 and the log 60. Whose files score what the log says: those saved at 90 or those saved at 10? Which files are better?
# :::

# %%
orders = {"average, score, save": 90, "save, average, score": 10}
logs = {order: log_against_files(at) for order, at in orders.items()}
pd.concat(logs, axis=1).rename_axis("epoch").round(3)

# %% [markdown]
# Both logs are the same, since both runs do the same training. But the second run saved the raw weights, and its log holds scores of the
# average. (In the first epoch the average is the worse one: it still remembers the first steps.) You would publish a file that cannot
# reach the number in your log.

# %% tags=["nbval-check-output"]
gaps = {name: (log["log"] - log["file"]).abs().max() for name, log in logs.items()}
claim(
    "files score what the log says where saving comes last, and are over 2 points "
    "off where first",
    gaps["average, score, save"] < 1e-6 and gaps["save, average, score"] > 0.02,
    measured=gaps,
)

# %% [markdown]
# The gain of such a loop: each concern can be tested alone, and a run is described by its list of hooks. The cost: where each concern is a file of its own, the
# order lives in numbers far from each other, and no single place shows what happens in a step. Print the ordered list at the start of every run,
# and let the loop refuse a point that it does not know: a hook for `"after_itr"` would never be called.

# %% [markdown]
# ## Reproduce: a saliency map that does not ask the network
#
# **The paper says.** {cite:t}`adebayo2018sanity` replace the weights of a trained network by random ones, layer by layer from the
# output on. A map that explains the *network's* decision has to change. The plain gradient changes, and Grad-CAM does; *guided
# backpropagation* {cite:p}`springenberg2015striving` hardly does.
#
# **We measure** with hooks. Guided backpropagation is one backward hook: every ReLU lets only positive gradients pass. (So it needs layers that are
# not in place, as you saw above.) One of their networks was a small one on Fashion-MNIST, the same clothes that we use.


# %%
def saliency(model, images, classes):
    images = images.clone().requires_grad_()
    total = model(images).gather(1, classes[:, None]).sum()
    return torch.autograd.grad(total, images)[0][:, 0].abs()  # [N,H,W]


def positive_only(module, to_input, to_output):
    return (to_input[0].clamp(min=0),)


def guided(model, images, classes):
    with ExitStack() as hooks:
        for relu in [module for module in model if isinstance(module, nn.ReLU)]:
            hooks.enter_context(relu.register_full_backward_hook(positive_only))
        return saliency(model, images, classes)


def cam(model, images, classes):
    return grad_cam(model, images, "7", lambda y: y.gather(1, classes[:, None])[:, 0])


# %%
seed_everything(0)
subject = nn.Sequential(
    nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
    nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
).to(device())  # fmt: skip
loader = torch.utils.data.DataLoader(clothes("train", n=6000), 32, shuffle=True)
fit(subject, loader, optim.Adam(subject.parameters(), lr=1e-3))
round(accuracy(subject.eval(), clothes("test", n=500)), 2)

# %% [markdown]
# The network reads most of the clothes, so its maps have something to explain. The similarity of two maps is the rank correlation of
# their pixels, as in the paper, averaged over 48 pictures. A map without any
# heat has nothing in common with another: it counts as zero.

# %%
METHODS = {"gradient": saliency, "guided backpropagation": guided, "Grad-CAM": cam}
images = clothes("test", n=48).images.to(device())
said = subject(images).argmax(1)


def similarity(before, after):
    a, b = (pd.DataFrame(maps.flatten(1).T.cpu()).rank() for maps in (before, after))
    return a.corrwith(b).fillna(0).mean()


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Only the last layer becomes random, so the answers are noise. Which of the three maps hardly notices?
# :::

# %%
seed_everything(1)
broken, maps, rows = deepcopy(subject), {}, {}
LAYERS = {"none": 1, "fc 2": 11, "fc 1": 9, "conv 3": 6, "conv 2": 3, "conv 1": 0}
for layer, index in LAYERS.items():
    if layer != "none":
        broken[index].reset_parameters()  # the layers of earlier rounds stay random
    maps[layer] = {n: method(broken, images, said) for n, method in METHODS.items()}
    rows[layer] = {n: similarity(maps["none"][n], maps[layer][n]) for n in METHODS}
    rows[layer]["accuracy"] = accuracy(broken, clothes("test", n=500))
sanity = pd.DataFrame(rows).T.rename_axis("random from the output to")
sanity.round(2)

# %%
frames = {}
for layer, seen in maps.items():
    figure, axes = plot.new(height=2.9, columns=3)
    for ax, name in zip(axes, METHODS, strict=True):
        plot.images(ax, seen[name][1:2].cpu(), [name], limits=None)
    frames[layer] = figure
plot.slide(
    frames,
    "random from the output to",
    "The map of guided backpropagation keeps bright pixels where the garment is, "
    "even with every layer random; the gradient map turns into noise.",
    alt="The maps of one garment by gradient, guided backpropagation and Grad-CAM",
)

# %% [markdown]
# The first row compares each map with itself. (There Grad-CAM is just below one, because a few of its maps have no heat.) The last column says what such a network is worth: next to nothing, from the first random layer on. In the middle panel, its map still looks like an explanation. Guided backpropagation draws what the lower layers
# find striking in the picture, whatever the upper ones make of it. The correlations of Grad-CAM lie on both sides of zero: its maps have few pixels, and a random
# classifier weighs them at random.

# %% tags=["nbval-check-output"]
top, kept = sanity.loc["fc 2"], sanity.drop("none").mean()
claim(
    "a random last layer costs over 30 points of accuracy; guided maps stay "
    "similar, above 0.65",
    sanity["accuracy"]["none"] - top["accuracy"] > 0.3
    and top["guided backpropagation"] > 0.65,
    measured=sanity.to_dict(),
)
claim(
    "last layer random: the similarity of gradient maps is at least 0.15 below that "
    "of guided ones",
    top["guided backpropagation"] - top["gradient"] > 0.15,
    measured=top.to_dict(),
)
claim(
    "one to five layers random, on average: Grad-CAM keeps less than half of the "
    "similarity of guided maps",
    kept["Grad-CAM"] < 0.5 * kept["guided backpropagation"],
    measured=sanity.to_dict(),
)

# %% [markdown]
# **Why they differ.** Which methods notice, and which does not, is as in the paper. Our guided maps do fade when the convolutions become random as well; in the paper they
# resist longer, in networks with many more layers above the ones that draw the edges.

# %% [markdown]
# ## Bug hunt: the second picture looks like the first
#
# **Difficulty** 2 of 3 · **Importance** 3 of 3 · **Time** 25 min
#
# A class draws Grad-CAM maps. The first picture gets the right one. Then each further picture gets a map that looks like the first one, and the
# program becomes slower with each call. It was met in
# [shinkyo0513/Towards-Visually-Explaining-Video-Understanding-Networks-With-Perturbation#10](https://github.com/shinkyo0513/Towards-Visually-Explaining-Video-Understanding-Networks-With-Perturbation/issues/10);
# a near relative is [kazuto1011/grad-cam-pytorch#28](https://github.com/kazuto1011/grad-cam-pytorch/issues/28). Edit the class in
# this cell until the check below it passes.


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
# The checker calls the class as a user would: several times, with other hooks around, and with a picture that the model refuses. After a call,
# the model has to be as it was before. Go back to the class, change it, and run both cells again.
#
# :::{dropdown} Hint 1
# Print `len(explainer.maps)` and `len(explainer.layer._forward_hooks)` after each of three calls.
# :::
#
# :::{dropdown} Hint 2
# Two things outlive the call: what was kept, and the hook that keeps it. `[-1]` instead of `[0]` hides the first and leaves the second. Clearing
# all hooks of the layer also removes those of other people.
# :::
#
# :::{dropdown} Hint 3
# `backward()` leaves something behind in each parameter. Which function of `torch.autograd` returns gradients instead of storing them?
# :::


# %% tags=["hunt-solution", "hide-cell"]
import torch


class CleanExplainer:
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
verdict = check_explainer(CleanExplainer)
claim(
    "a Grad-CAM class with hooks and lists of each call's own passes every probe",
    verdict.passed,
    measured=verdict,
)

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
import torchvision

counts = []


def count(module, inputs, output):
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        counts.append(output.numel() * module.weight[0].numel())


with torch.device("meta"), every.register_module_forward_hook(count):
    torchvision.models.mobilenet_v2()(torch.empty(1, 3, 224, 224))
f"{sum(counts) / 1e6:.0f} million"

# %% [markdown]
# **Exercise 2.** The gradients of a large network take as much memory as the network. With `register_post_accumulate_grad_hook`, let each
# parameter take its own SGD step as soon as its `.grad` is written, and set `.grad` to `None`. Show that the weights are those of a normal step.
#
# :::{dropdown} Solution 2
# The step of one parameter needs no other parameter, so it may happen in the middle of `backward()`. You lose the norm of *all* gradients, so no
# clipping by it, and you lose accumulation. See the next cell.
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
edits = {"clip_norm": clip_norm(1.0), "clip_value": clip_value(0.1)}
for name, edit in edits.items():
    cosine = nn.functional.cosine_similarity(gradients[0], edit(gradients)[0], dim=0)
    print(f"{name}: cosine {cosine:.2f}")

# %% [markdown]
# **Exercise 4.** A detector answers at thousands of cells at once, and the boxes that you draw are the few answers that won. With one `capture`, read *every* score of the
# trained YOLOv8 that ships with this book: its class branches are `head.classes.0` and `head.classes.1`, for cells of 8 and of 16 pixels. Compare positive cells (those that
# the assigner would teach an object, as in [Drop the anchors](../02_detection/07_drop_the_anchors)) with the background: before training, after it, and on photographs, which
# it never learnt. Which of the two groups does training move?
#
# :::{dropdown} Solution 4
# Both. It lifts positives towards 1, and it pushes the background down by orders of magnitude: background cells outnumber the positives more than ten to one, and every one adds to the loss. On
# photographs the head is silent: most cells that ought to answer score like background, so no threshold brings these objects back. The last column of the table is the chance that
# a positive cell scores higher than one of the background. See the next cells.
# :::

# %% tags=["hide-cell"]
from scipy.stats import mannwhitneyu

from labs.assigners import TaskAligned
from labs.criteria.yolo_v8 import stack_objects
from labs.data.scenes import Scenes, collate
from labs.postprocess.yolo_v8 import decode
from labs.recipes import DETECTORS, load

LEVELS = ("head.classes.0", "head.classes.1")


def scores_of_cells(detector, things):
    """Return the highest class score of each positive cell, and of the background."""
    scenes = Scenes("test", 48, things=(things,))
    pictures, truths = collate([scenes[k] for k in range(len(scenes))])
    # train mode: a fresh network has no statistics of its batch norms yet
    with torch.no_grad(), capture(detector.network.train(), *LEVELS) as maps:
        raw = detector.network(pictures)
    scores = torch.cat([maps[level].flatten(2).mT for level in LEVELS], 1).sigmoid()
    seen, (boxes, labels, exists) = (
        decode(raw, 10, (8, 16), 16),
        stack_objects(truths),
    )
    known = labels % 10  # names of photographs mean nothing to a detector of digits
    found = TaskAligned()(scores, seen.boxes, seen.points, boxes, known, exists)
    positive = found.objects >= 0
    return scores.amax(2)[positive], scores.amax(2)[~positive]


# %% tags=["hide-cell"]
torch.manual_seed(0)
cells = {
    "before training": scores_of_cells(DETECTORS["yolo_v8"](10), "digits"),
    "after training": scores_of_cells(load("yolo_v8"), "digits"),
    "after, on photographs": scores_of_cells(load("yolo_v8"), "photos"),
}
found = {
    name: {
        "positive": len(high),
        "background": len(low),
        "median, positive": high.median().item(),
        "median, background": low.median().item(),
        "positive above background": mannwhitneyu(high, low).statistic
        / len(high)
        / len(low),
    }
    for name, (high, low) in cells.items()
}
pd.DataFrame(found).T.apply(lambda column: column.map("{:.3g}".format))

# %% tags=["nbval-check-output", "hide-cell"]
fresh, after, foreign = found.values()
ahead = "positive above background"
claim(
    "a YOLOv8 before training: positives and background have typical scores within "
    "a factor of 3",
    1 / 3 < fresh["median, positive"] / fresh["median, background"] < 3,
    measured=fresh,
)
claim(
    "a positive cell of a YOLOv8 outscores background in over 95 % of pairs if "
    "trained, else in under 70 %",
    after[ahead] > 0.95 and fresh[ahead] < 0.7,
    measured=(fresh[ahead], after[ahead]),
)
claim(
    "training lowers the typical score of a YOLOv8's background to under a "
    "hundredth, and lifts positives above 0.5",
    after["median, background"] < fresh["median, background"] / 100
    and after["median, positive"] > 0.5,
    measured=(fresh, after),
)
claim(
    "photographs, to a YOLOv8 of digits: half of the cells that should answer score "
    "below 0.01",
    foreign["median, positive"] < 0.01 < 0.5 < after["median, positive"],
    measured=foreign,
)

# %% [markdown]
# ## In practice
#
# - Look with a hook, change with code. A hook that changes values cannot be seen in `forward`; keep it in a `with` block, and say so where the model is built.
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
# - name twelve places of a training step where your code can stand, and choose the right one;
# - record activations and gradients that are true, and leave no trace;
# - freeze and clip by editing gradients, and order the hooks of a training loop so that log and file agree.
