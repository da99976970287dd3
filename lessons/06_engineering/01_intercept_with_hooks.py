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


# %%
handle = net.features[0][1].register_forward_hook(keep)
with torch.no_grad():
    net(photo)
handle.remove()
low, high = recorded[0].aminmax()
f"from {low:.1f} to {high:.1f}"

# %% [markdown]
# Nothing in the record is below zero. But batch normalisation shifts and scales; it cuts nothing off. Call the same two
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
    low >= 0,
    measured=low.item(),
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
before = [lambda x: x + 1]
after = [lambda x, y: log.append((x, y)), lambda x, y: -y]
call(lambda x: 3 * x, 2, before, after), log

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
events = []


def note(name):
    return lambda *_: events.append(name)  # append returns None: the hook only looks


handles = [register(note(name)) for name, register in places.items()]

# %%
y = layer(x)
handles.append(y.register_hook(note("y: tensor hook")))
y.sum().backward()
sgd.step()
for handle in handles:
    handle.remove()
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
# There is one list per layer, and one tensor per call. Compare with `labs.hooks.capture`, on every module of two networks: MobileNetV2,
# and a ResNet-18 of torchvision. (The model's own name is the empty string.)

# %%
import torchvision

from labs.hooks import capture


def differing(model):
    names = [name for name, _ in model.named_modules()]
    with capture_by_hand(model, *names) as hand, capture(model, *names) as ours:
        model(photo)
    ran = [name for name in names if hand[name]]
    pairs = [(a, b) for n in ran for a, b in zip(hand[n], ours.calls(n), strict=True)]
    return sum(not torch.equal(a, b) for a, b in pairs)


# %%
torch.manual_seed(0)
resnet = torchvision.models.resnet18().eval()
with torch.no_grad():
    unequal = [differing(net), differing(resnet)]
unequal

# %% [markdown]
# No recorded tensor differs in either network. The version in `labs` also takes patterns (`"layer*.conv1"`), nested outputs,
# gradients, and compiled models.

# %% tags=["nbval-check-output"]
claim(
    "a recorder in 15 lines equals labs.hooks.capture on all modules of MobileNetV2 "
    "and ResNet-18",
    unequal == [0, 0],
    measured=unequal,
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
relus = [n for n, module in resnet.named_modules() if isinstance(module, nn.ReLU)]
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
# You want to save memory, and keep one number per picture: the mean of a map. You do it in an evaluation without `no_grad`. How much
# memory stays occupied? PyTorch has a hook for this question, too: `saved_tensors_hooks` sees every tensor that autograd stores for a backward pass.

# %%
from weakref import ref


def memory_by_step(record, steps=8):
    """Return how many MB the records and autograd hold after each evaluation step."""
    saved, kept, held = [], [], []

    def pack(tensor):
        stored = tensor.detach()  # the same memory
        saved.append(ref(stored))  # a weak reference keeps nothing alive
        return stored

    def note_output(module, inputs, output):
        kept.append(record(output))

    watched = torch.autograd.graph.saved_tensors_hooks(pack, lambda stored: stored)
    with watched, net.features[3].register_forward_hook(note_output):
        for _ in range(steps):
            net(photo)
            alive = [r() for r in saved if r() is not None] + kept
            memory = [tensor.untyped_storage() for tensor in alive]
            once = {m.data_ptr(): m.nbytes() for m in memory}
            held.append(sum(once.values()) / 1e6)
            del alive, memory
    return held


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# `output.mean()` is 4 bytes, `output.detach().clone()` is the whole map. Which of the two recorders holds more?
# :::

# %%
import pandas as pd

recorders = {
    "output.mean()": lambda output: output.mean(),
    "output.mean().detach()": lambda output: output.mean().detach(),
    "output.detach().clone()": lambda output: output.detach().clone(),
}
held = pd.DataFrame({name: memory_by_step(r) for name, r in recorders.items()})

# %%
figure, ax = plot.new(height=2.8)
for name, marker in zip(held, "os^", strict=True):
    ax.plot(held.index + 1, held[name], marker=marker, ms=4, label=name)
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
# A model can raise. If the line after the call removes your hook, an exception skips that line. Give the network pictures with two
# channels, which its first convolution refuses.

# %%
from contextlib import suppress

first_layer, too_few = net.features[0][0], photo[:, :2]
with suppress(RuntimeError):
    handle = first_layer.register_forward_hook(keep)
    net(too_few)
    handle.remove()
left = {"bare hook": len(first_layer._forward_hooks)}
handle.remove()  # in a function, this handle would be lost

# %%
with suppress(RuntimeError), capture_by_hand(net, "features.0.0"):
    net(too_few)
left["the block"] = len(first_layer._forward_hooks)
left

# %% [markdown]
# The bare hook is still there, and the block left none. A hook that stays is called at every later call, and it travels:
# `copy.deepcopy(net)` copies it, too.

# %% tags=["nbval-check-output"]
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
calls = {"by hand": len(by_hand["0"]), "labs": len(ours.calls("0"))}
with torch.no_grad(), capture_by_hand(small, "0") as by_hand:
    compiled(one)
calls | {"by hand, under no_grad": len(by_hand["0"])}

# %% [markdown]
# The block has missed the call, without an error or a warning. Under `no_grad` the same hook is seen, because another mode made PyTorch compile
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


# %%
def note_slope(module, to_input, to_output):
    slopes.append(to_input[0].item())


slopes, ways = [], ["register_backward_hook", "register_full_backward_hook"]
for register in ways:
    line = Line()
    getattr(line, register)(note_slope)
    with warnings.catch_warnings(action="ignore"):  # the old one warns
        line(torch.tensor(5.0, requires_grad=True)).backward()
dict(zip(ways, slopes, strict=True))

# %% [markdown]
# The old one hangs on the *last operation* of the module, here the `+ 1`, and reports the gradient at the input of that, not at the input of the module
# ([pytorch/pytorch#598](https://github.com/pytorch/pytorch/issues/598)). It warns, and you will meet it in older code. The new
# one wraps inputs and outputs, which has a cost of its own:

# %%
pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
with pair[0].register_full_backward_hook(lambda module, to_input, to_output: None):
    try:
        pair(photo)
    except RuntimeError as error:
        refused = str(error)
refused.split(".")[0]

# %% [markdown]
# It refuses an in-place layer after it, because its wrapper returns a view. The way out is a hook on the *tensor*, put there by a
# forward hook. `capture(..., gradients=True)` does it so.

# %%
with capture(pair, "0", gradients=True) as maps:
    out = pair(photo)
    out.sum().backward()
maps.gradient("0").unique().tolist()

# %% [markdown]
# The gradient of a sum behind a ReLU is 1 where the ReLU is open and 0 elsewhere, and these are the values that the tensor hook saw.

# %% tags=["nbval-check-output"]
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
    best = logits.argmax(1).item()
    logits[0, best].backward()
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
from dataclasses import replace

from torch.nn.functional import avg_pool2d, cross_entropy

from labs.data import clothes
from labs.repro import device, seed_everything

both = clothes("train", n=4000), clothes("test", n=1000)
train, test = (replace(data, images=avg_pool2d(data.images, 2)) for data in both)


# %%
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


# %% [markdown]
# Compare the recipe with `requires_grad`, and with `labs.hooks.edit_gradients`. That takes a mapping from layer names to what happens to their
# gradients: a number scales them, `0.0` freezes, and a function such as `clip_norm(1.0)` edits them.

# %%
from labs.hooks import edit_gradients


def movement(way, make_optimizer):
    seed_everything(0)
    model = make_net()
    optimizer, weight = make_optimizer(model.parameters()), model[0].weight
    take_steps(model, optimizer)
    before = weight.detach().clone()
    if way == "hook that returns zeros":
        weight.register_hook(torch.zeros_like)
    model[0].requires_grad_("requires_grad=False" not in way)
    if way == "edit_gradients(..., 0.0)":
        with edit_gradients(model, {"0": 0.0}):
            take_steps(model, optimizer)
    else:
        take_steps(model, optimizer, to_none="set_to_none=False" not in way)
    return 100 * ((weight - before).norm() / before.norm()).item()


# %%
from torch import optim

optimizers = {
    "SGD": lambda p: optim.SGD(p, lr=0.05),
    "SGD, weight decay": lambda p: optim.SGD(p, lr=0.05, weight_decay=0.01),
    "SGD, momentum": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "AdamW": lambda p: optim.AdamW(p, lr=3e-3),
}
WAYS = [
    "hook that returns zeros", "requires_grad=False, set_to_none=False",
    "requires_grad=False", "edit_gradients(..., 0.0)", "not frozen",
]  # fmt: skip

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Four ways to freeze, four optimizers. In which of the 16 cells does a frozen weight move?
# :::

# %%
moved = {name: [movement(w, make) for w in WAYS] for name, make in optimizers.items()}
moved = pd.DataFrame(moved, index=WAYS)
moved.round(3)

# %% [markdown]
# A gradient of zero is not the same as no gradient. Weight decay pulls at every weight whose `.grad` is not `None`; momentum goes on in the
# direction that it remembers; AdamW does both. `requires_grad=False` in the second row is no better, because an old `.grad` tensor is still
# there. A layer is frozen when its `.grad` is `None`: third and fourth row. `edit_gradients` sees to that for `0.0`.
# The last row is the control: how far the same weights go when they are not frozen.

# %% tags=["nbval-check-output"]
zero, old, none, edited, free = (row for _, row in moved.iterrows())
claim(
    "a gradient of zeros freezes a layer under plain SGD; decay, momentum and AdamW "
    "still move it",
    zero["SGD"] == 0 and (zero.iloc[1:] > 0.1).all(),
    measured=zero.to_dict(),
)
claim(
    "requires_grad=False with an old .grad: decay, momentum and AdamW still move "
    "the layer",
    (old.iloc[1:] > 0.1).all(),
    measured=old.to_dict(),
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
from labs.train import fit

STEPS, WHEN = 160, 110


def batches(bad):
    for step in range(STEPS):
        images, labels = draw()
        yield (images * 255 if bad and step == WHEN else images), labels


# %%
def train_through(bad, bound=1e9, model=None, watch=None):
    model = model or make_net()
    sgd = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    nan_loss = suppress(FloatingPointError)  # then score what is left
    with nan_loss, edit_gradients(model, {"": clip_norm(bound)}):
        fit(model, batches(bad), sgd, watch=watch)
    return accuracy(model, test)


# %% [markdown]
# A bound of a billion is never reached: it is the run without clipping. Look at that one first. `fit` has a place for a hook
# of its own, `watch`, just before the optimizer steps.

# %%
norms = []


def note_norm(model, step):
    gradients = [p.grad for p in model.parameters()]
    norms.append(nn.utils.get_total_norm(gradients).item())


seed_everything(0)
train_through(True, watch=note_norm)
usual = pd.Series(norms[:WHEN])
print(
    f"gradient norm: usually {usual.median():.1f}, before {usual.max():.1f} at most"
)
print(f"of the bad batch: {norms[WHEN]:.1f}")

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
clipping = ablate(clean_and_bad, {"bound": 1e9}, "bound", BOUNDS, seeds=SEEDS)
clipping.table("with the bad batch").rename({1e9: "none"}).round(3)

# %%
runs = clipping.frame().melt(
    ["bound", "seed"], var_name="training", value_name="accuracy"
)
runs["place"] = runs["bound"].map(BOUNDS.index)
figure, ax = plot.new(height=3)
plot.curves(ax, runs, x="place", y="accuracy", group="training")
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
# Without clipping, one batch of 160 undoes the training. A bound of ten lies above all norms that you saw before the bad batch, so a healthy run hardly changes, and the
# broken one is saved. A bound below the usual norm shortens every step, like a smaller learning rate: healthy runs with 0.1 end lower, and with 0.01 hardly learn in so few steps. Are four seeds enough to say so?

# %%
print(clipping.verdict("with the bad batch"))
print(clipping.verdict("without"))

# %% [markdown]
# Each line compares one bound with no clipping, the first four with the bad batch and the last four without it. Where it says "not told
# apart", four seeds prove no difference.

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
    "one bad batch of 160 costs over 25 points unclipped, and under 15 with "
    "clipping at 10",
    clean_runs[1e9] - bad_runs[1e9] > 0.25 and clean_runs[10] - bad_runs[10] < 0.15,
    measured=mean.to_dict(),
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
same_seed = clipping.frame().query("bound == 1e9 and seed == 0").iloc[0]
at_the_door = same_seed[["without", "with the bad batch"]].astype(float).to_dict()
at_the_door["with the bad batch, mended"] = mended
pd.Series(at_the_door, name="accuracy").round(3).to_frame()

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
    read = train_through(False, model=hooked)
seed_everything(0)
model = make_net()
built = nn.Sequential(*model[:7], nn.Dropout(0.5), *model[7:])
train_through(False, model=built)
pairs = list(zip(hooked.parameters(), built.parameters(), strict=True))
largest = max((a - b).abs().max().item() for a, b in pairs)
print(f"largest difference {largest}, accuracy {read:.2f}")

# %% [markdown]
# No weight differs. A hook is as good as a layer while it is there. It is
# not in the checkpoint, though, and not in an exported file: for anything that lasts, write the layer.

# %% tags=["nbval-check-output"]
clean, bad, repaired = at_the_door.values()
claim(
    "a pre-hook mends a bad batch at the door: it costs at most 2 points in place "
    "of over 10",
    repaired > clean - 0.02 and bad < clean - 0.1,
    measured=at_the_door,
)
claim(
    "a network that drops by a hook reads over 40 %, and equals one with nn.Dropout "
    "bit for bit",
    largest == 0 and read > 0.4,
    measured=(largest, read),
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

POINTS = {"before_train", "before_epoch", "after_iter", "after_epoch", "after_train"}


@dataclass
class Run:
    net: nn.Module
    optimizer: optim.Optimizer
    epoch: int = 0


# %%
def run_hooks(run, epochs, steps, hooks):
    """Train, and call each hook at its points: the smallest priority first."""
    named = {n for h in hooks for n in dir(h) if n.startswith(("before_", "after_"))}
    if named - POINTS:
        raise AttributeError(f"never called: {named - POINTS}; there are {POINTS}")

    def call(point):
        for hook in sorted(hooks, key=lambda hook: hook.priority):
            getattr(hook, point, lambda run: None)(run)

    call("before_train")
    for run.epoch in range(epochs):
        call("before_epoch")
        for _ in range(steps):
            images, labels = draw()
            run.optimizer.zero_grad()
            cross_entropy(run.net(images), labels).backward()
            run.optimizer.step()
            call("after_iter")
        call("after_epoch")
    call("after_train")


# %% [markdown]
# The check at the top is what a base class would give you: a method called `after_itr` is refused, instead of being ignored for ever.
# Here are three hooks. `Average` keeps an exponential moving average of the weights, and puts it into the network for the
# time after the epoch; `Score` measures; `Save` copies the weights, as a checkpoint would.


# %%
def copied(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


# %%
@dataclass
class Average:
    decay: float
    priority: int

    def before_train(self, run):
        self.mean = copied(run.net)

    def after_iter(self, run):
        for name, value in run.net.state_dict().items():
            self.mean[name].lerp_(value, 1 - self.decay)

    def after_epoch(self, run):
        self.raw = copied(run.net)
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
        self.files.append(copied(run.net))


# %% [markdown]
# ### The order is part of the program
#
# Run the same three hooks in two orders: `Save` last, or `Save` first. Load each file that was saved, score it, and compare with the
# score that the log holds for that epoch.


# %%
def log_against_files(save_priority):
    seed_everything(0)
    run = Run(model := make_net(), optim.SGD(model.parameters(), lr=0.2))
    score, save = Score(priority=60), Save(save_priority)
    run_hooks(run, 4, 60, [save, score, Average(decay=0.95, priority=50)])
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
# Both logs are the same, since both runs do the same training. But the second run saved the raw weights, and its log holds scores of the
# average. (In the first epoch the average is the worse one: it still remembers the random start.) You would publish a file that cannot
# reach the number in your log.

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
# The gain of such a loop: each concern is one object that can be tested alone, and a run is described by the list of them. The cost: the
# order lives in numbers far from each other, and no single place shows what happens in a step. Print the ordered list at the start of every run.

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
def chosen(scores, classes):
    return scores.gather(1, classes[:, None])[:, 0]


def saliency(model, images, classes):
    images = images.clone().requires_grad_()
    total = chosen(model(images), classes).sum()
    return torch.autograd.grad(total, images)[0][:, 0].abs()  # [N,H,W]


# %%
def positive_only(module, to_input, to_output):
    return (to_input[0].clamp(min=0),)


def guided(model, images, classes):
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    handles = [relu.register_full_backward_hook(positive_only) for relu in relus]
    try:
        return saliency(model, images, classes)
    finally:
        for handle in handles:
            handle.remove()


# %%
def cam(model, images, classes):
    return grad_cam(model, images, "7", lambda scores: chosen(scores, classes))


# %%
seed_everything(0)
subject = nn.Sequential(
    nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
    nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
).to(device())  # fmt: skip
loader = torch.utils.data.DataLoader(clothes("train", n=6000), 32, shuffle=True)
fit(subject, list(loader), optim.Adam(subject.parameters(), lr=1e-3))
round(accuracy(subject.eval(), clothes("test", n=500)), 2)

# %% [markdown]
# The network reads most of the clothes, so its maps have something to explain. The similarity of two maps is the rank correlation of
# their pixels, as in the paper, averaged over 48 pictures. A map without any
# heat has nothing in common with another: it counts as zero.

# %%
from scipy.stats import spearmanr

METHODS = {"gradient": saliency, "guided backpropagation": guided, "Grad-CAM": cam}
images = clothes("test", n=48).images.to(device())
said = subject(images).argmax(1)


def maps_of(model):
    return {name: method(model, images, said) for name, method in METHODS.items()}


# %%
def similarity(before, after):
    pairs = zip(before.cpu().flatten(1), after.cpu().flatten(1), strict=True)
    heat = [(a, b) for a, b in pairs if a.std() * b.std() > 0]
    return sum(spearmanr(a, b).statistic for a, b in heat) / len(before)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Only the last layer becomes random, so the answers are noise. Which of the three maps hardly notices?
# :::

# %%
from copy import deepcopy

seed_everything(1)
broken, exam = deepcopy(subject), clothes("test", n=500)
reads, maps, rows = {"none": accuracy(subject, exam)}, {"none": maps_of(subject)}, {}
LAYERS = {"fc 2": 11, "fc 1": 9, "conv 3": 6, "conv 2": 3, "conv 1": 0}
for layer, index in LAYERS.items():
    broken[index].reset_parameters()  # the layers of earlier rounds stay random
    reads[layer], maps[layer] = accuracy(broken, exam), maps_of(broken)
    rows[layer] = {n: similarity(maps["none"][n], maps[layer][n]) for n in METHODS}
sanity = pd.DataFrame(rows).T.rename_axis("random from the output to")
sanity.join(pd.Series(reads, name="accuracy")).round(2)

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
# The last column of the table says what such a network is worth: next to nothing, from the first random layer on. In the middle panel, its map still looks like an explanation. Guided backpropagation draws what the lower layers
# find striking in the picture, whatever the upper ones make of it. The correlations of Grad-CAM lie on both sides of zero: its maps have few pixels, and a random
# classifier weighs them at random.

# %% tags=["nbval-check-output"]
top, kept = sanity.loc["fc 2"], sanity.mean()
claim(
    "a random last layer costs over 30 points of accuracy; guided maps stay "
    "similar, above 0.65",
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
