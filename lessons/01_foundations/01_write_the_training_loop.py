# %% [markdown]
# # Write the training loop
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** write the loop that trains a network, and say what each of its lines does · tell from numbers
# which line is missing · evaluate a network without changing it · draw a learning-rate schedule, and test whether it helps.
#
# **You need** Python, arrays, and the derivative of a function of one variable. This is the first lesson on
# networks; [Before you start](../../book/before-you-start.md) says what the whole book takes for granted.
#
# **Time** read 25 min · debug 30 min · experiment 25 min · reproduce 15 min · hunt 25 min · exercises 40 min
# :::

# %% [markdown]
# ## The symptom
#
# You want a network that reads handwritten digits, 14 by 14 pixels each. There are 4,000 to learn from, 1,000 to check the
# network while you make decisions (the *validation* set), and 2,000 that you look at once, at the very end (the *test* set).

# %%
import torch
from torch.nn.functional import avg_pool2d

from labs.data import digits
from labs.repro import device, seed_everything

HERE = device()
known, test = digits("train", n=5000), digits("test", n=2000)
images, labels = avg_pool2d(known.images, 2).to(HERE), known.labels.to(HERE)
TRAIN = images[:4000], labels[:4000]
VALID = images[4000:], labels[4000:]
TEST = avg_pool2d(test.images, 2).to(HERE), test.labels.to(HERE)
TRAIN[0].shape, TRAIN[0].dtype, TRAIN[1].shape, TRAIN[1].dtype

# %% [markdown]
# These are *tensors*: arrays of numbers of one type. The pictures have four axes: picture, channel, row and column. The labels are whole
# numbers from 0 to 9. The network turns each picture into ten scores, one for each digit.

# %%
from torch import nn


def make_net():
    net = nn.Sequential(
        nn.Flatten(),  # [N,1,14,14] -> [N,196]
        nn.Linear(196, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(64, 10),  # -> [N,10]
    )
    return net.to(HERE)


# %% [markdown]
# A linear layer multiplies by a matrix of weights and adds a bias; these are learned, and so are a scale and a shift in batch norm. Batch norm first shifts and scales each number by its mean and spread over the batch.
# While it trains, it also keeps a running average of these means and spreads, its *running statistics*; `eval()` makes it use them instead of the batch. ReLU
# sets negative numbers to zero. (A bias right before a batch norm does nothing, because the norm subtracts the mean. Later lessons leave it out by `bias=False`.) Dropout sets a random fifth of them to zero. A `DataLoader` shuffles the pictures and hands them out in *batches* of 32. An *optimizer* moves the
# weights; `SGD`, stochastic gradient descent, is the plainest.

# %%
from torch.utils.data import DataLoader, TensorDataset


def loader(data=TRAIN, size=32, shuffle=True):
    return DataLoader(TensorDataset(*data), batch_size=size, shuffle=shuffle)


# %% [markdown]
# Somebody wrote this loop from memory. One line is missing.

# %%
from torch.nn.functional import cross_entropy


def train_from_memory(net, batches, optimizer, epochs):
    losses = []
    for _ in range(epochs):
        for images, labels in batches:
            loss = cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


# %%
RATE, SEEDS = 0.03, range(3)


def start(seed):
    seed_everything(seed)
    net = make_net()
    return net, torch.optim.SGD(net.parameters(), lr=RATE)


with_gap = []
for seed in SEEDS:
    net, sgd = start(seed)
    with_gap.append(train_from_memory(net, loader(), sgd, epochs=3))

# %% [markdown]
# A *seed* starts the random generator. It decides the first weights, the order of the pictures and what dropout drops, so one run may be luck; take three. Now
# the same networks, the same pictures in the same order, and `labs.train.fit`, the function with which later lessons train:

# %%
from labs.train import fit

nets, whole = [], []
for seed in SEEDS:
    net, sgd = start(seed)
    whole.append(fit(net, loader(), sgd, epochs=3).table()["loss"].tolist())
    nets.append(net)

# %%
import pandas as pd

from labs import plot

LOOP, GAP = plot.COLOURS[0], plot.COLOURS[1]
figure, ax = plot.new(height=2.8)
for losses, name, colour in [
    (with_gap, "from memory", GAP),
    (whole, "labs.train.fit", LOOP),
]:
    for seed, run in enumerate(losses):
        smooth = pd.Series(run).rolling(10, min_periods=1).mean()
        label = None if seed else f"{name}, three seeds"
        ax.plot(smooth, color=colour, label=label, linewidth=1)
ax.set(xlabel="training step", ylabel="training loss (nats)", ylim=(0, None))
ax.legend()
plot.show(
    figure,
    "With one line missing the loss first falls faster, then climbs again; with the "
    "line it keeps falling. Three seeds of each.",
    alt="Training loss against steps, mean of ten, three curves of each loop. Those "
    "of labs.train.fit fall steadily. The others fall steeply for the first fifty "
    "steps or so, and then swing up and down far above them.",
)

# %% tags=["nbval-check-output"]
from labs.claims import claim

# [seeds, epochs]
epochs = {"gap": torch.tensor(with_gap).view(len(SEEDS), 3, -1).mean(2)}
epochs["whole"] = torch.tensor(whole).view(len(SEEDS), 3, -1).mean(2)
claim(
    "digits, one line of the loop missing: with each of three seeds the mean loss of "
    "the third epoch is above that of the first",
    (epochs["gap"][:, 2] > epochs["gap"][:, 0]).all(),
    measured=epochs["gap"].tolist(),
)
claim(
    "digits, labs.train.fit: with each of three seeds the mean loss of the third "
    "epoch is below 60 % of the first's",
    (epochs["whole"][:, 2] < 0.6 * epochs["whole"][:, 0]).all(),
    measured=epochs["whole"].tolist(),
)

# %% [markdown]
# (The loss is a cross entropy. PyTorch's `cross_entropy` takes the ten scores, makes probabilities of them, the *softmax*: positive numbers that sum to one. It returns minus the logarithm of the
# probability of the right digit, averaged over the batch. It is measured in *nats*: guessing among ten digits costs log 10, about 2.3 of them. An *epoch* is one pass
# through all pictures.) No error, no warning, and at the start the faulty loop even looks better. Which line is missing, and why does this
# happen? To find out, write the loop yourself, and take out one line after the other.

# %% [markdown]
# ## The idea
#
# Start with one weight. The model is $\hat y = w x$, and there is one example: $x = 2$, $y = 6$. The *loss* says how wrong the model
# is, and its derivative says which way is downhill:
#
# $$L = (w x - y)^2, \qquad \frac{dL}{dw} = 2x\,(w x - y), \qquad w \leftarrow w - \eta\,\frac{dL}{dw}.$$
#
# The number $\eta$ is the *learning rate*. With $w = 1$ the derivative is $2 \cdot 2 \cdot (2 - 6) = -16$, so with $\eta = 0.1$ the next weight is
# $1 + 1.6 = 2.6$. PyTorch finds the derivative without your formula: it records what is computed with a tensor that
# `requires_grad`, and `backward()` walks the record from the loss back to the weight. This is *autograd*.

# %%
x, y, rate = 2.0, 6.0, 0.1
w = torch.tensor(1.0, requires_grad=True)
rows = []
for _ in range(4):
    loss = (w * x - y) ** 2  # forward: what does the model say, and how wrong is it?
    loss.backward()  # backward: autograd puts the derivative into w.grad
    by_hand = 2 * x * (w.item() * x - y)
    rows.append((w.item(), loss.item(), by_hand, w.grad.item()))
    with torch.no_grad():  # the step itself is not to be recorded
        w -= rate * w.grad
    w.grad = None  # forget this gradient before the next one comes
one_weight = pd.DataFrame(rows, columns=["w", "loss", "by hand", "autograd"])
one_weight.round(4)

# %% [markdown]
# The two last columns agree, and the weight walks towards 3, the answer. Every training loop in this book is this one, with more weights:

# %%
from math import cos, pi, sin

ROUND = {
    "net(images)": "scores",
    "cross_entropy(…)": "one number",
    "loss.backward()": "p.grad, by adding",
    "optimizer.step()": "p, from p.grad",
    "optimizer.zero_grad()": "no p.grad",
}
figure, ax = plot.new(height=3.6)
turns = [pi / 2 - 2 * pi * k / 5 for k in range(5)]
spots = [(1.9 * cos(turn), sin(turn)) for turn in turns]
for k, (call, effect) in enumerate(ROUND.items()):
    colour = plot.COLOURS[1] if k == 4 else plot.COLOURS[0]
    box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": colour}
    words = f"{call}\n→ {effect}"
    ax.text(*spots[k], words, ha="center", va="center", fontsize=9, bbox=box)
    arrow = {"arrowstyle": "-|>", "color": "0.4", "shrinkA": 42, "shrinkB": 42}
    ax.annotate("", spots[(k + 1) % 5], spots[k], arrowprops=arrow)
ax.set(xlim=(-2.7, 2.7), ylim=(-1.2, 1.35))
ax.set_axis_off()
plot.show(
    figure,
    "One step of training is five calls in a circle; each leaves something for the "
    "next.",
    alt="Five boxes in a circle, joined by arrows: the network gives scores, the "
    "cross entropy gives one number, backward adds to the gradients, step moves the "
    "parameters, zero_grad clears the gradients.",
)

# %% [markdown]
# A *parameter* `p` is a tensor to be learned; `p.grad` has its shape. Read what `backward()` leaves: it *adds* to `p.grad`.
#
# Now many weights at once. The *gradient* is the list of derivatives, one for each weight. For one linear layer and the cross entropy you can still write it down. With $n$ pictures in the rows of
# $X$, the scores $S = XW$, the probabilities $P$ (the softmax of each row), and ones at the right digits in $Y$, it is
# $X^\top (P - Y) / n$. Do it in NumPy, which knows nothing of gradients, and ask autograd for the same.

# %%
import numpy as np

pixels, digit = TRAIN[0][:32].flatten(1), TRAIN[1][:32]  # [32,196], [32]
weight = (0.1 * torch.randn(196, 10)).to(HERE).requires_grad_()
cross_entropy(pixels @ weight, digit).backward()

# %%
X, W = pixels.cpu().numpy(), weight.detach().cpu().numpy()
Y = np.eye(10)[digit.cpu().numpy()]  # [32,10]: a one in each row
S = X @ W
P = np.exp(S) / np.exp(S).sum(1, keepdims=True)
by_numpy = X.T @ (P - Y) / len(X)  # [196,10]
apart = np.abs(by_numpy - weight.grad.cpu().numpy()).max()
by_numpy.shape, weight.grad.shape

# %% tags=["nbval-check-output"]
claim(
    "one weight, four steps: the derivative by hand equals that of autograd to 1e-5",
    (one_weight["by hand"] - one_weight["autograd"]).abs().max() < 1e-5,
    measured=one_weight,
)
size = np.abs(by_numpy).max()
claim(
    "1,960 weights, 32 digits: the gradient by NumPy equals that of autograd to a "
    "ten-thousandth of its size",
    apart < 1e-4 * size,
    measured=(apart, size),
)

# %% [markdown]
# Both have one number for each weight, and they agree. Autograd does no more than you could do by hand; it does it for any network.

# %% [markdown]
# ## The block
#
# Here is the whole loop. One function makes an epoch of steps, one evaluates, and one does both in turn.


# %%
def train_epoch(net, batches, optimizer, scheduler=None):
    """Go once through the batches; return the loss and the rate of each step."""
    net.train()  # batch norm uses the batch, dropout drops
    steps = []
    for images, labels in batches:
        optimizer.zero_grad()  # forget the last gradient
        loss = cross_entropy(net(images), labels)  # forward: how wrong is it?
        loss.backward()  # the gradient of every parameter
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()  # move every parameter a little downhill
        if scheduler is not None:
            scheduler.step()  # the next learning rate
        steps.append({"loss": loss.item(), "lr": rate})
    return steps


def evaluate(net, images, labels):
    """Return the mean loss, and the share of pictures that are read right."""
    net.eval()  # batch norm uses what it has learned, dropout rests
    with torch.no_grad():  # nothing will be differentiated, so record nothing
        scores = net(images)
    right = (scores.argmax(1) == labels).float().mean().item()
    return {"loss": cross_entropy(scores, labels).item(), "accuracy": right}


def train(net, batches, optimizer, epochs, scheduler=None):
    steps, scores = [], []
    for _ in range(epochs):
        steps += train_epoch(net, batches, optimizer, scheduler)
        scores.append(evaluate(net, *VALID))
    return pd.DataFrame(steps), pd.DataFrame(scores)


# %%
net, sgd = start(0)
steps, scores = train(net, loader(), sgd, epochs=3)
print(tuple(net(TRAIN[0][:32]).shape))
scores.round(3)

# %% [markdown]
# For 32 pictures the network gives 32 rows of ten scores. Each row of the table is one epoch, and the numbers are of the validation set, from which nothing was learned. The loss falls and the accuracy grows.
# Now the comparison that the rest of the book rests on: is this loop the same as `labs.train.fit`? Not alike at the end, but **equal after every step**. Give both the same
# seed, an optimizer with a memory of its own (AdamW) and a schedule (it changes the learning rate from step to step; *Experiment* draws it), and keep a copy of the network before each batch.


# %%
def state_of(net):
    """Return all that the network holds, batch-norm statistics too, as one vector."""
    return torch.cat([t.flatten().double() for t in net.state_dict().values()])


class Watched:
    """Hand out batches, and keep the state of a network before each of them."""

    def __init__(self, batches, net):
        self.batches, self.net, self.states = batches, net, []

    def __iter__(self):
        for batch in self.batches:
            self.states.append(state_of(self.net))
            yield batch


# %%
def train_by_labs(net, batches, optimizer, epochs, scheduler):
    run = {"scheduler": scheduler, "score": lambda net: evaluate(net, *VALID)}
    history = fit(net, batches, optimizer, epochs, **run)
    return history.table(), history.score_table()


# %%
def race(trainer, seed=0):
    """Train with one of the two loops; keep loss, rate and state of each step."""
    seed_everything(seed)
    net, total = make_net(), 3 * len(loader())
    adam = torch.optim.AdamW(net.parameters(), lr=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, 0.01, total_steps=total)
    batches = Watched(loader(), net)
    steps, scores = trainer(net, batches, adam, 3, cycle)
    return steps, scores, torch.stack([*batches.states, state_of(net)])


# %%
ours, ours_scores, ours_states = race(train)
theirs, theirs_scores, theirs_states = race(train_by_labs)
_, _, other_states = race(train, seed=1)
gaps = pd.DataFrame(
    {
        "loss": (ours["loss"] - theirs["loss"]).abs(),
        "lr": (ours["lr"] - theirs["lr"]).abs(),
        "state": (ours_states - theirs_states)[1:].abs().amax(1).cpu(),
        "state, other seed": (ours_states - other_states)[1:].abs().amax(1).cpu(),
    }
)
gaps.agg(["max"])

# %% [markdown]
# The three first columns are the largest gap over all steps, and it is zero: same loss, same learning rate, same state, to the last bit. The last column
# is the control: with another seed, which draws other weights and another order, the same comparison finds a large gap. So the comparison is not blind.

# %% tags=["nbval-check-output"]
fell = ours["loss"].tail(50).mean() / ours["loss"].head(10).mean()
claim(
    "the loop written here cuts its loss to a third and equals labs.train.fit: every "
    "loss and rate of 375 steps is the same",
    fell < 1 / 3 and len(gaps) == 375 and gaps[["loss", "lr"]].max().max() == 0,
    measured=(fell, gaps.max().to_dict()),
)
claim(
    "the loop written here and labs.train.fit: after every step, weights and "
    "batch-norm statistics are the same to the last bit",
    gaps["state"].max() == 0 and gaps["state, other seed"].min() > 0.1,
    measured=gaps.max().to_dict(),
)
claim(
    "the loop written here and labs.train.fit: the validation scores after each "
    "epoch are the same",
    (ours_scores == theirs_scores[["loss", "accuracy"]]).all(axis=None),
    measured=(ours_scores, theirs_scores),
)

# %% [markdown]
# ## Debug: take out one line at a time
#
# A loop with a missing line raises no error. It leaves traces in the numbers, and three instruments show them: the loss, the
# *norm* of the gradient (the length of the vector of all gradients, which `gradient_health` measures for each parameter), and how far the weights have moved from where they began.


# %%
from labs.hooks import gradient_health


def weights_of(net):
    return nn.utils.parameters_to_vector(net.parameters()).detach().clone()


def gradient_norm(net):
    norms = [found.grad_norm for found in gradient_health(net).parameters]
    return np.nansum(np.square(norms)) ** 0.5


# %%
def train_without(line, seed=0):
    net, sgd = start(seed)
    first, rows = weights_of(net), []
    for images, labels in loader():
        if line != "zero_grad":
            sgd.zero_grad()
        loss = cross_entropy(net(images), labels)
        if line != "backward":
            loss.backward()
        if line != "step":
            sgd.step()
        moved = (weights_of(net) - first).norm().item()
        rows.append((loss.item(), gradient_norm(net), moved))
    frame = pd.DataFrame(rows, columns=["loss", "gradient norm", "moved"])
    return frame.assign(missing=line), weights_of(net)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Take out `zero_grad`, `backward` or `step`. Two of the three leave the loss where it was. How do the instruments tell these two apart?
# And what does the gradient do without the third line?
# :::

# %%
LINES = ["nothing", "zero_grad", "backward", "step"]
runs = {line: train_without(line) for line in LINES}
watched = pd.concat([frame for frame, _ in runs.values()])
of = watched.groupby("missing", sort=False)
of.agg(lambda values: values.tail(25).mean()).round(3)

# %% [markdown]
# The row `nothing` is the whole loop; in each other row one line is missing. `moved` is the distance from the first weights. Each number is the mean of the last 25 steps of one run. Here is the way there:

# %%
figure, axes = plot.new(height=2.9, columns=2)
for ax, what in zip(axes, ["gradient norm", "moved"], strict=True):
    for line, colour in zip(LINES, plot.COLOURS, strict=False):
        ax.plot(runs[line][0][what], color=colour, label=line)
    ax.set(xlabel="training step", ylabel=what)
axes[0].legend(title="missing line")
plot.show(
    figure,
    "Each missing line leaves its own trace: no gradient, a gradient but no "
    "movement, or a gradient that keeps growing.",
    alt="Two panels against training steps. Left, gradient norm: zero without "
    "backward, level without step, and growing to several times that without "
    "zero_grad. Right, distance moved: zero without backward and without step, by "
    "far the largest without zero_grad.",
)

# %% [markdown]
# Without `backward` there is no gradient, and `step()` silently skips a parameter whose `.grad` is `None`. Without `step` there is a gradient and the weights stay. (The loss
# differs from batch to batch all the same.) Without `zero_grad` the gradient of every batch is added to all earlier ones. It becomes many times as large, and the weights run on for a long
# time after they have passed the valley. **This is the line that was missing in the symptom.** The zeros hold whatever the seed. That one gradient is so much larger than another may be luck, so look at the median of the 125 steps with two other seeds:


# %%
def typical_norm(line, seed):
    return train_without(line, seed)[0]["gradient norm"].median()


typical = pd.DataFrame(
    {line: [typical_norm(line, seed) for seed in SEEDS[1:]] for line in LINES[:2]}
)
typical.set_axis(SEEDS[1:]).rename_axis("seed").round(2)

# %% [markdown]
# The first seed was no luck.
#
# There is a name for a sum of all past gradients: *momentum* adds them up too, but multiplies the old sum by a factor such as 0.9 first, so that it
# fades. If that is right, then forgetting `zero_grad` must be the same as momentum with factor 1, which never fades. Check it.

# %%
net, _ = start(0)
never_fades = torch.optim.SGD(net.parameters(), lr=RATE, momentum=1.0)
train_epoch(net, loader(), never_fades)
apart = (weights_of(net) - runs["zero_grad"][1]).abs().max().item()
sound = (weights_of(net) - runs["nothing"][1]).abs().max().item()
print(f"from the loop without zero_grad {apart:.1e}, from the sound loop {sound:.2f}")

# %% tags=["nbval-check-output"]
last = of.last()
medians = pd.concat([of["gradient norm"].median()[LINES[:2]].to_frame().T, typical])
claim(
    "no backward(): no gradient at any of 125 steps, and no weight moves",
    of["gradient norm"].max()["backward"] == 0 and last["moved"]["backward"] == 0,
    measured=last,
)
claim(
    "no step(): there is a gradient at each of 125 steps, and no weight moves",
    of["gradient norm"].min()["step"] > 0 and last["moved"]["step"] == 0,
    measured=last,
)
claim(
    "no zero_grad(): with each of three seeds the median gradient is over three "
    "times that of the sound loop",
    medians["zero_grad"].min() > 3 * medians["nothing"].max(),
    measured=medians.to_dict("list"),
)
claim(
    "SGD without zero_grad() equals SGD with momentum 1 to 1e-5 after 125 steps, and "
    "not SGD without momentum",
    apart < 1e-5 and sound > 0.1,
    measured=(apart, sound),
)

# %% [markdown]
# ### Evaluate: `eval` and `no_grad`
#
# The other half of the loop measures. Take the three networks that `labs.train.fit` has trained, and evaluate them with and without `eval()`, in batches of several sizes. A measurement must
# not depend on which pictures happen to share a batch.

# %%
net = nets[0]
before = {name: tensor.clone() for name, tensor in net.state_dict().items()}


# %%
def share_right(net, size, training):
    net.train(training)
    with torch.no_grad():
        guesses = torch.cat([net(x).argmax(1) for x in VALID[0].split(size)])
    return (guesses == VALID[1]).float().mean().item()


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Without `eval()`: does the accuracy suffer more in batches of 4 or of 500? And what does this evaluation do to the network itself?
# :::

# %%
SIZES = [4, 20, 100, 500]
MODES = {"with eval()": False, "without": True}
measured = {
    name: pd.DataFrame(
        {n: [share_right(net, n, mode) for net in nets] for n in SIZES}
    )
    for name, mode in MODES.items()
}
pd.concat(measured, axis=1, names=["", "batch of"]).rename_axis("seed").round(3)

# %%
after = net.state_dict()
moved = {name: (after[name] - before[name]).abs().max().item() for name in before}
pd.Series(moved, name="largest change during the evaluation").round(4)

# %% [markdown]
# `state_dict()` names all that a network holds; `2.` is its third part, the batch norm. With `eval()` a network has one accuracy, whatever the batch. Without it, two things happen: each picture is normalised by its neighbours in the batch, and dropout sets a random fifth of the
# hidden numbers to zero. Only the first depends on the size of the batch, so the drop at 4 points to batch norm, which has four pictures to take a mean and a spread from. The other sizes lie within a few points of each other, and this lesson does not ask which of them is better. And the second table, of the first network, shows that the evaluation has *changed* it: no weight has moved, but the running statistics of batch
# norm have. They now hold something of the validation set.
#
# `no_grad` changes no number. It saves what autograd would keep for a `backward()` that never comes. Count the bytes.


# %%
def kept_bytes(net):
    """Evaluate; return the loss, and how many bytes autograd keeps for backward()."""
    kept = []

    def note(tensor):
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, note):
        loss = cross_entropy(net(VALID[0]), VALID[1])
    return loss.item(), sum(kept)


# %%
recorded = kept_bytes(net.eval())
with torch.no_grad():
    unrecorded = kept_bytes(net)
recorded, unrecorded

# %% [markdown]
# The loss is the same. (It is not quite the one that stood in the table of *The block*, though the network was trained in the same way: the evaluation without `eval()` has changed its statistics.) With `no_grad` nothing is kept; without it, more than a million bytes are, for a thousand pictures and a small network,
# until they are used or let go.

# %% tags=["nbval-check-output"]
exact, without = measured["with eval()"], measured["without"]
claim(
    "with eval(), each of three digit readers has one validation accuracy in batches "
    "of 4, 20, 100 and 500, to one picture, and it is above 85 %",
    (exact.max(axis=1) - exact.min(axis=1)).max() < 0.0015
    and exact.min(axis=None) > 0.85,
    measured=exact.to_dict(),
)
claim(
    "without eval(), in batches of 4, each of three digit readers loses at least 5 "
    "points of validation accuracy",
    (exact[4] - without[4]).min() > 0.05,
    measured=(exact[4].tolist(), without[4].tolist()),
)
changed = [name for name, change in moved.items() if change > 0]
claim(
    "an evaluation without eval() changes the running statistics of batch norm, and "
    "nothing else",
    changed == ["2.running_mean", "2.running_var", "2.num_batches_tracked"],
    measured=changed,
)
claim(
    "no_grad() leaves the loss as it is, and keeps nothing for backward()",
    recorded[0] == unrecorded[0] and unrecorded[1] == 0 and recorded[1] > 100_000,
    measured=(recorded, unrecorded),
)

# %% [markdown]
# ### The order of the pictures
#
# One more word to take out: `shuffle=True`. Many data sets lie on disk sorted by class, so sort ours.

# %%
order = TRAIN[1].argsort(stable=True)
in_order = TRAIN[0][order], TRAIN[1][order]


def train_in_order(seed):
    net, sgd = start(seed)
    return train(net, loader(in_order, shuffle=False), sgd, epochs=3)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# The pictures come as all zeros first, then all ones, and so on. What does the training loss look like within an epoch? Which share of the validation set is read right in
# the end?
# :::

# %%
by_class = [train_in_order(seed) for seed in SEEDS]

# %%
figure, ax = plot.new(height=2.8)
for losses, name, colour in [
    (by_class[0][0]["loss"], "sorted", GAP),
    (whole[0], "shuffled", LOOP),
]:
    ax.plot(losses, color=colour, label=name, linewidth=1)
ax.set(xlabel="training step", ylabel="training loss (nats)")
ax.legend()
plot.show(
    figure,
    "Without shuffling the loss falls while one digit is shown, and jumps when the "
    "next one begins, in the last epoch as in the first.",
    alt="Training loss of three epochs. Shuffled: it falls and stays below one. "
    "Sorted: ten saw teeth in each epoch, between about one and above three.",
)

# %%
right = pd.DataFrame({"shuffled": measured["with eval()"][500]})
right["sorted"] = [scores["accuracy"].iloc[-1] for _, scores in by_class]
right.rename_axis("seed").round(3)

# %% [markdown]
# The shuffled networks are those of `labs.train.fit` again. Each saw tooth is one digit; the curves are those of the first seed. In the end a tenth is read right with every seed, no more than by guessing. Two things are at work: the weights follow the digit that was shown last, and so do the running statistics of batch norm with which the network is evaluated.
# These runs do not separate them; the cure for both is a batch that looks like all pictures.

# %% tags=["nbval-check-output"]
which = np.arange(125) * 32 // 400  # the digit of the first picture in each batch
teeth = [steps["loss"].tail(125).groupby(which) for steps, _ in by_class]
left = pd.DataFrame([tooth.last() / tooth.max() for tooth in teeth])
claim(
    "digits sorted by class, third epoch, three seeds: within every digit the loss "
    "falls to under three quarters of its peak",
    left.max(axis=None) < 0.75,
    measured=left.to_dict(),
)
claim(
    "digits sorted by class: with each of three seeds under 20 % are read right, "
    "with shuffling over 85 %",
    right["sorted"].max() < 0.2 and right["shuffled"].min() > 0.85,
    measured=right.to_dict(),
)

# %% [markdown]
# ## Experiment: how far should a step go?
#
# The loop is right. Now choose its most important number. Everything stays but the learning rate, which changes by factors of ten. `ablate`
# calls the function once for each value and seed, and collects what it returns. A seed draws the first weights, the order and the dropout.


# %%
from labs.ablation import ablate
from torch.optim import lr_scheduler

SCHEDULES = {
    "constant": lambda sgd, total: None,
    "cosine": lr_scheduler.CosineAnnealingLR,
    "half": lambda sgd, total: lr_scheduler.LambdaLR(sgd, lambda step: 0.5),
    "one cycle": lambda sgd, total: lr_scheduler.OneCycleLR(
        sgd, sgd.param_groups[0]["lr"], total_steps=total, cycle_momentum=False
    ),
}


def run(lr, schedule):
    net, batches = make_net(), loader()
    sgd = torch.optim.SGD(net.parameters(), lr=lr)
    scheduler = SCHEDULES[schedule](sgd, 3 * len(batches))
    return net, *train(net, batches, sgd, 3, scheduler)


def train_and_score(lr, schedule):
    return run(lr, schedule)[2].iloc[-1].to_dict()


# %%
base = {"lr": 0.1, "schedule": "constant"}
rates = ablate(train_and_score, base, "lr", [0.001, 0.01, 0.1, 1.0, 10.0])
rates.table("loss")[["mean", "ci95", "delta", "p"]].round(4)

# %%
figure, ax = plot.new(height=2.8)
for one in rates.runs:
    ax.plot(one.value, one.metrics["loss"], "o", color=LOOP, alpha=0.5)
ax.plot(rates.table("loss")["mean"], color=LOOP)
ax.set(xscale="log", xlabel="learning rate", ylabel="validation loss (nats)")
plot.show(
    figure,
    "The validation loss has a valley over the learning rate: a step can be too "
    "short and too long.",
    alt="Validation loss against the learning rate from a thousandth to ten, three "
    "dots for each: high on the left, lowest between 0.1 and 1, and far above "
    "on the right.",
)

# %% [markdown]
# Each dot is one seed. `ci95` is the half-width of the 95 % interval of the mean, `delta` the difference from the base (0.1), and `p` says how likely a
# difference at least as large would be if the learning rate did nothing. The valley lies at 0.1 and 1, and three seeds do not tell these two apart. With shorter steps the network
# has not arrived after three epochs; with steps of 10 its loss is no better than that of guessing.
#
# ### Must it stay the same?
#
# A *schedule* changes the learning rate from step to step. Train with each of three, and draw the rates that the loop used.

# %%
seed_everything(0)
used = {name: run(1.0, name)[1]["lr"] for name in SCHEDULES if name != "half"}

# %%
figure, ax = plot.new(height=2.6)
for schedule, colour in zip(used, plot.COLOURS[2:], strict=False):
    ax.plot(used[schedule], color=colour, label=schedule)
ax.set(xlabel="training step", ylabel="learning rate")
ax.legend()
plot.show(
    figure,
    "Cosine starts at the largest rate and ends at almost zero; one cycle climbs to "
    "it first.",
)

# %% [markdown]
# Cosine annealing is due to {cite:t}`loshchilov2017sgdr`. One cycle {cite:p}`smith2018disciplined`, which many lessons use, starts low. That also keeps the first steps, with random weights, short. (By default PyTorch's `OneCycleLR` also changes the momentum. That would be a second variable; `cycle_momentum=False` turns it off.)
#
# Does a schedule help? Take the cosine (one cycle is left to you), once at a learning rate of 0.1 and once at 1. A cosine changes two things: the shape, and the mean of the rate, which is half as high. So a constant rate of half the height runs beside it.

# %%
tables = {}
for lr in (0.1, 1.0):
    study = ablate(
        train_and_score,
        base={"lr": lr, "schedule": "constant"},
        vary="schedule",
        values=["constant", "half", "cosine"],
        seeds=range(5),
    )
    tables[lr] = study.table("loss")
    print(f"lr {lr:g}, validation loss, {study.verdict('loss')}")

# %%
pd.concat(tables, names=["lr"])[["mean", "ci95", "delta", "p"]].round(4)

# %% [markdown]
# Read the column `delta`. At the low rate the cosine does harm, and the constant rate of half the height does no less: shorter steps get less far in three epochs. At the high rate half the height changes nothing that five seeds
# could tell, and the cosine helps: there it is the shape that counts, long steps at first and short ones at the end. So "a schedule helps" is no fact of its own; it depends on the
# learning rate that it starts from. Tune the rate first, and compare schedules there.

# %% tags=["nbval-check-output"]
valley = rates.table("loss")["mean"]
claim(
    "learning rate of plain SGD on digits: 0.1 and 1 have less than two thirds of "
    "the validation loss of 0.001, 0.01 and 10",
    1.5 * max(valley[0.1], valley[1]) < min(valley[0.001], valley[0.01], valley[10]),
    measured=valley.to_dict(),
)
gain = {lr: table["delta"]["cosine"] for lr, table in tables.items()}
claim(
    "cosine schedule from 0.1: a higher mean validation loss than the constant rate",
    gain[0.1] > 0,
    measured=gain,
)
claim(
    "cosine schedule from 1: a lower validation loss than the constant rate, by at "
    "least 0.005",
    gain[1.0] < -0.005,
    measured=gain,
)
beside = tables[1.0]["mean"]
claim(
    "cosine schedule from 1: a validation loss at least 0.005 lower than that of a "
    "constant rate of half the height, so the mean rate is not the cause",
    beside["half"] - beside["cosine"] > 0.005,
    measured=beside.to_dict(),
)

# %% [markdown]
# You chose with the validation set: plain SGD, a rate of 1, cosine. Only now look at the test set, once. (Other digits and one seed: a loss below that of validation is no progress.)

# %%
seed_everything(0)
net, _, _ = run(lr=1.0, schedule="cosine")
tested = evaluate(net, *TEST)
tested

# %% tags=["nbval-check-output"]
claim(
    "the digit reader with the rate and schedule chosen on validation reads over 88 "
    "% of 2,000 test digits",
    tested["accuracy"] > 0.88,
    measured=tested,
)

# %% [markdown]
# ## Reproduce: a larger batch, a longer step
#
# **The paper says.** {cite:t}`goyal2017accurate` train ResNet-50 on ImageNet with batches of very different sizes. Their *linear scaling rule*: when
# the batch grows by a factor $k$, multiply the learning rate by $k$. With it (and a short warm-up), the curves of training and the final error of batches up to 8,192 match those of 256; beyond that the error grows quickly.
#
# **We measure** the digit reader with plain SGD for three epochs. The base is a batch of 16 with a rate of 0.02. A batch of 128 is larger by $k = 8$. It
# gets the old rate once, and once $k$ times the rate.


# %%
def train_in_batches(setting):
    size, lr = setting.split(" at ")
    net, batches = make_net(), loader(size=int(size))
    sgd = torch.optim.SGD(net.parameters(), lr=float(lr))
    for epoch in (1, 2, 3):
        train_epoch(net, batches, sgd)
        yield {"step": epoch, **evaluate(net, *VALID)}


# %%
ARMS = ["16 at 0.02", "128 at 0.02", "128 at 0.16"]
scaling = ablate(train_in_batches, {"setting": ARMS[0]}, "setting", ARMS)
reached = scaling.table("loss")
reached[["mean", "ci95", "delta"]].round(3)

# %%
figure, ax = plot.new(height=2.9)
curves = scaling.curves().groupby(["setting", "step"])["loss"].mean()
for setting, colour in zip(ARMS, ["0.4", GAP, LOOP], strict=True):
    ax.plot(curves[setting], "o-", color=colour, label=setting)
ax.set(
    xlabel="epoch", ylabel="validation loss (nats)", xticks=[1, 2, 3], ylim=(0, None)
)
ax.legend(title="batch and rate")
plot.show(
    figure,
    "With the rate multiplied too, a batch of 128 ends where one of 16 ends; with "
    "the old rate it stays far behind.",
    alt="Mean validation loss after each of three epochs. The batch of 128 with the "
    "scaled rate ends beside the batch of 16; with the old rate its loss is far "
    "higher in every epoch.",
)

# %% [markdown]
# With the old rate the large batch takes the same short steps, but fewer of them, and falls behind. With the rate multiplied, it ends where the small one ends.
# Our base rate lies below the best one, where longer steps help anyway, and we tried one factor: this agrees with the linear rule and does not single it out.

# %% tags=["nbval-check-output"]
cost = reached["delta"]
claim(
    "digits, batch of 128 in place of 16: with the same rate the validation loss is "
    "at least 0.3 higher after three epochs",
    cost["128 at 0.02"] > 0.3,
    measured=cost.to_dict(),
)
claim(
    "digits, batch of 128 in place of 16: the linear scaling rule takes away over "
    "80 % of the cost",
    abs(cost["128 at 0.16"]) < 0.2 * cost["128 at 0.02"],
    measured=cost.to_dict(),
)

# %% [markdown]
# **What differs from the paper.** We tried a factor of 8; the paper's rule holds up to 32. The paper argues for it with one assumption: that the gradient hardly changes over $k$ small steps. Early in training it changes fast, which is why
# the paper warms up for five epochs; our whole run has three, and no warm-up. Our batch norm sees the whole batch, while the paper normalises over 32 pictures whatever the batch. That is also why you compare
# *validation* losses here: in train mode, batch norm and dropout enter the loss, and the part of batch norm depends on the size of the batch.

# %% [markdown]
# ## Bug hunt: each added layer makes it worse
#
# **Difficulty** 2 of 3 · **Importance** 3 of 3 · **Time** 25 min
#
# This network has as many hidden layers as you ask for. It trains without an error, but the more layers it has, the worse it does after an epoch. What lies behind it was called one of PyTorch's silent programming errors in
# [pytorch/pytorch#59925](https://github.com/pytorch/pytorch/issues/59925), and others met it in
# [asyml/texar-pytorch#72](https://github.com/asyml/texar-pytorch/issues/72) and in
# [ikostrikov/pytorch-meta-optimizer#11](https://github.com/ikostrikov/pytorch-meta-optimizer/issues/11).
# Edit the network in this cell until the check below it passes.

# %% tags=["hunt-bug"]
from itertools import pairwise

import torch
from torch import nn


class DeepReader(nn.Module):
    """Read digits [N,1,14,14] with `depth` hidden layers of `width` units."""

    def __init__(self, depth, width):
        super().__init__()
        sizes = [196, *[width] * depth]
        self.hidden = [
            nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())
            for a, b in pairwise(sizes)
        ]
        self.head = nn.Linear(width, 10)

    def forward(self, images):
        x = images.flatten(1)
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


# %% [markdown]
# Train it with the loop of this lesson, at three depths, on the CPU whatever machine you have. Guess a cause from the three numbers, the mean loss of the last 20 steps, before you read the verdict: it tells a lot.


# %%
def try_depth(make, depth):
    seed_everything(0)
    net = make(depth, width=32)
    batches = [(x.cpu(), y.cpu()) for x, y in loader()]
    steps = train_epoch(net, batches, torch.optim.SGD(net.parameters(), lr=0.1))
    return pd.DataFrame(steps)["loss"].tail(20).mean()


symptom = pd.Series({depth: try_depth(DeepReader, depth) for depth in (1, 3, 6)})
symptom.round(3)

# %%
from labs.hunts.foundations import check_hidden_layers

check_hidden_layers(DeepReader)

# %% [markdown]
# The verdict lists what was probed, and what it saw. (A *checkpoint* is a saved `state_dict()`; *company* means the other pictures of the batch.) Go back to the network, change it, and run the cells again, the three depths too: the printed losses belong to the faulty network.
#
# :::{dropdown} Hint 1
# Make one step, and compare `state_dict()` before and after, as you did for the evaluation. Which names do you see? Which did you expect?
# :::
#
# :::{dropdown} Hint 2
# The optimizer moves what `net.parameters()` gives it. How many numbers are that, and how many has a network of this depth and width? `net.train()`, `net.eval()`, `net.to()` and
# `net.state_dict()` find the parts of a network in the same way as `net.parameters()`.
# :::
#
# :::{dropdown} Hint 3
# When you assign `self.name = value`, `nn.Module` keeps a list of the values that are modules or parameters. What kind of value is assigned to `self.hidden`? PyTorch has a container for this.
# :::


# %% tags=["hunt-solution", "hide-cell"]
from itertools import pairwise

import torch
from torch import nn


class WholeReader(nn.Module):
    """Read digits [N,1,14,14] with `depth` hidden layers of `width` units."""

    def __init__(self, depth, width):
        super().__init__()
        sizes = [196, *[width] * depth]
        self.hidden = nn.ModuleList(  # a list whose entries the network knows
            nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())
            for a, b in pairwise(sizes)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, images):
        x = images.flatten(1)
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


# %% [markdown]
# A verdict is a list of probes; the symptom has to go too. Train the repaired network at the same depths:

# %%
mended = pd.Series({depth: try_depth(WholeReader, depth) for depth in symptom.index})
mended.round(3)

# %% tags=["nbval-check-output"]
verdict = check_hidden_layers(WholeReader)
claim(
    "the repaired deep digit reader passes every probe of its hidden layers",
    verdict.passed,
    measured=verdict,
)
claim(
    "the repaired deep digit reader with 1, 3 and 6 hidden layers, one run each: at "
    "the end of an epoch its loss is below 1 nat",
    mended.max() < 1,
    measured=mended.to_dict(),
)

# %% [markdown]
# Three layers now read as well as one, or nearly so, and the loss of six is far below what one faulty layer reached. It is still the highest of the three: one epoch is short for so deep a network.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Write SGD with momentum by hand, in a class `HandSGD` with `zero_grad` and `step`: $v \leftarrow \mu v + g$, $w \leftarrow w - \eta v$. Prove
# that it equals `torch.optim.SGD(lr=0.03, momentum=0.9)` over an epoch.
#
# :::{dropdown} Solution 1
# Keep one velocity for each parameter, and change the parameters in place, inside `no_grad`. `train_epoch` reads the rate from `param_groups`, so keep it there.
# :::


# %% tags=["hide-cell"]
class HandSGD:
    def __init__(self, parameters, lr, momentum):
        self.parameters, self.momentum = list(parameters), momentum
        self.param_groups = [{"lr": lr}]
        self.velocity = [torch.zeros_like(p) for p in self.parameters]

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self):
        for p, v in zip(self.parameters, self.velocity, strict=True):
            v.mul_(self.momentum).add_(p.grad)
            p.sub_(self.param_groups[0]["lr"] * v)


ends = []
for kind in (HandSGD, torch.optim.SGD):
    seed_everything(0)
    net = make_net()
    first = weights_of(net)
    train_epoch(net, loader(), kind(net.parameters(), lr=RATE, momentum=0.9))
    ends.append(weights_of(net))
apart, way = (ends[0] - ends[1]).abs().max().item(), (ends[0] - first).norm().item()

# %% tags=["nbval-check-output", "hide-cell"]
claim(
    "SGD with momentum written by hand equals torch.optim.SGD to 1e-3 after 125 "
    "steps",
    apart < 1e-3 and way > 1,
    measured=(apart, way),
)

# %% [markdown]
# **Exercise 2.** Somebody forgets `no_grad` in a validation loop, and adds the losses up with `total = total + loss` instead of `loss.item()`. On a large set the memory runs out. Count how many tensors
# autograd still keeps after the last batch. (Let the first hook return a small object that holds the tensor, and keep a `weakref` to it.)
#
# :::{dropdown} Solution 2
# `loss` is a tensor with a record of everything that led to it, and the sum keeps the records of all batches. `item()` gives a plain number and lets the record go. `detach()` would do as well.
# :::

# %% tags=["hide-cell"]
import weakref


class Box:
    def __init__(self, tensor):
        self.tensor = tensor.detach()  # or an output would hold itself in a circle


def still_kept(number_of):
    boxes, net, total = weakref.WeakSet(), make_net().eval(), 0.0

    def pack(tensor):
        box = Box(tensor)
        boxes.add(box)
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        for x, y in loader(VALID, size=100, shuffle=False):
            total = total + number_of(cross_entropy(net(x), y))
        return len(boxes)


leak = {"total + loss": still_kept(lambda loss: loss)}
leak["total + loss.item()"] = still_kept(lambda loss: loss.item())
pd.Series(leak, name="tensors kept after 10 batches")

# %% [markdown]
# **Exercise 3.** Delete `net.train()` from `train_epoch`. The first epoch is as before. What happens in the second, and which number of `state_dict()` shows it?
#
# :::{dropdown} Solution 3
# `evaluate` leaves the network in eval mode, so from the second epoch on dropout rests and batch norm no longer learns its statistics, while the weights go on to change. The counter
# `2.num_batches_tracked` stops at 125. `labs.evaluate.evaluating` puts each module's mode back, so that a forgotten `train()` does no harm.
# :::

# %% tags=["hide-cell"]
seed_everything(0)
net = make_net()
sgd, counted = torch.optim.SGD(net.parameters(), lr=RATE), []
for _ in range(3):
    for x, y in loader():  # train_epoch without its first line
        sgd.zero_grad()
        cross_entropy(net(x), y).backward()
        sgd.step()
    evaluate(net, *VALID)
    counted.append(net.state_dict()["2.num_batches_tracked"].item())
counted

# %% [markdown]
# ## In practice
#
# - Use `labs.train.fit`, or a trainer such as Lightning or Accelerate, once you can write the loop. They add mixed precision, many devices and checkpoints; the five calls stay the same.
# - The order is zero, forward, backward, step, schedule. `zero_grad` may also stand right behind `step`; all that matters is that it comes between a step and the next `backward`.
# - Sum gradients on purpose, and it is called gradient accumulation: several small batches, one step. Divide the loss by their number.
# - `eval()` and `no_grad()` are two things. The first changes what layers compute, the second what autograd records. An evaluation needs both.
# - Shuffle the training pictures, never the bookkeeping: a validation set needs no shuffling, and should always be the same.
# - Tune the learning rate before anything else, by factors first. A comparison at an untuned rate compares rates.
# - NumPy to check one number, pandas to see which row is odd, Matplotlib to see when it began.

# %% [markdown]
# ## You can now
#
# - write a training and a validation loop from memory, and prove them equal to another one, step by step;
# - tell a missing `zero_grad`, `backward`, `step`, `eval` or shuffle by the trace that it leaves;
# - choose a learning rate on a validation set, and say under which condition a schedule helps.
