# %% [markdown]
# # Track experiments, and repeat them to the last bit
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** write a record from which someone else repeats your run bit by bit · keep curves, pictures and a sweep in
# Weights & Biases (offline), and curves in TensorBoard, and read them back · find from the record alone at which step, and in which layer, a run went wrong.
#
# **You need** a training loop, and batch norm; the lesson [Watch a network see digits](../01_foundations/05_watch_a_network_see_digits) for the network.
#
# **Time** read 35 min · debug 30 min · experiment 35 min · reproduce 20 min · hunt 20 min · exercises 30 min
# :::

# %% [markdown]
# ## The symptom
#
# A colleague sends you a run: four settings, and a loss curve. Everything that a methods section usually says is there. Repeat it.

# %%
import torch

from labs.data import digits
from labs.models import DigitNet
from labs.repro import seed_everything
from labs.train import fit

train_set, test = digits("train", n=4000), digits("test", n=1000)


# %%
def batches(config):
    """Yield batches: "rows" bounds the pictures, "order" seeds which come."""
    chance = torch.Generator().manual_seed(config["order"])
    (first, last), size = config["rows"], (config["size"],)
    for _ in range(config["steps"]):
        rows = first + torch.randint(last - first, size, generator=chance)
        yield train_set.images[rows], train_set.labels[rows]


# %%
def train(config, batches=batches, watch=None, decay=0.0, touch=None):
    seed_everything(config["seed"])  # decides the first weights
    net = DigitNet(filters=config["filters"])
    if touch:
        touch(net)
    parameters, rate = net.parameters(), config["rate"]
    adam = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    return net, fit(net, batches(config), adam, watch=watch)


def losses(history):
    return [step["loss"] for step in history.steps]


# %% [markdown]
# The last four arguments are for the experiments below. (This lesson stays on the CPU, also where there is a GPU. In practice, at the end, says why.)
# Here is the record of the colleague's run, `told`, and what it does not say, `untold`. You guess the rest, five times.

# %%
told = {"filters": 4, "rate": 0.03, "size": 32, "steps": 60}
untold = {"seed": 7, "order": 11, "rows": [0, 1000]}
original_net, original = train(told | untold)
attempts = [
    train(told | {"seed": guess, "order": guess, "rows": [0, 4000]})
    for guess in range(5)
]

# %%
from labs import plot

figure, ax = plot.new(height=3)
for _, history in attempts:
    ax.plot(losses(history), color=plot.COLOURS[5], linewidth=1)
ax.plot(losses(original), color=plot.COLOURS[1], linewidth=2)
ax.plot([], color=plot.COLOURS[5], label="your five attempts")
ax.plot([], color=plot.COLOURS[1], label="your colleague's curve")
ax.set(xlabel="training step", ylabel="training loss (nats)")
ax.legend()
plot.show(
    figure,
    "Six runs with the same four settings: each loss jumps up and comes down again, "
    "and no two curves are the same.",
)

# %%
from labs.evaluate import accuracy

scores = [accuracy(net, test) for net, _ in attempts]
print(f"original {accuracy(original_net, test):.1%}")
print("attempts", *(f"{score:.1%}" for score in scores))

# %% [markdown]
# All six learn, and no attempt follows the colleague's curve. Were your attempts wrong? Was the colleague lucky? Nobody can tell: the
# record that you were given cannot be *checked*. By the end you know which fields were missing, and what happens without each of them.

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "attempts to repeat a run from its notes all learn, and end over a point of "
    "accuracy apart",
    min(scores) > 0.5 and max(scores) - min(scores) > 0.01,
    measured=scores,
)

# %% [markdown]
# ## The idea
#
# A run is a function, and its curve is the value:
#
# $$\text{curve} = f(\text{code},\ \text{data},\ \text{settings},\ \text{seeds},\ \text{arithmetic}).$$
#
# Give it the same five arguments and, on a CPU as here, you get the same bits; on a GPU the order of additions may change from run to run. Leave one out and you get *a* run, not *the* run.

# %% tags=["hide-input"]
from matplotlib.patches import FancyBboxPatch


def draw_box(ax, x, y, text, fill="white", wide=1.5):
    corner, style = (x - wide / 2, y - 0.35), "round,pad=0,rounding_size=0.1"
    box = FancyBboxPatch(corner, wide, 0.7, boxstyle=style, fc=fill, ec="#5A5A58")
    ax.add_patch(box)
    ax.text(x, y, text, ha="center", va="center", fontsize=10)


def draw_arrow(ax, start, end):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#5A5A58"})


# %%
figure, ax = plot.new(height=2.6)
FIELDS = ("code", "data", "settings", "seeds", "arithmetic")
for place, field in enumerate(FIELDS):
    fill = "#CFE3F1" if field == "settings" else "#F6D9C6"
    draw_box(ax, 2 * place, 3, field, fill)
    draw_arrow(ax, (2 * place, 2.6), (4 + 0.35 * (place - 2), 1.9))
draw_box(ax, 4, 1.5, "the run")
draw_box(ax, 8, 1.5, "the curve")
draw_arrow(ax, (4.8, 1.5), (7.2, 1.5))
for x, fill, text in [(0, "#CFE3F1", "told"), (2.6, "#F6D9C6", "not told")]:
    draw_box(ax, x - 0.5, 0.4, "", fill, 0.5)
    ax.text(x - 0.1, 0.4, text, va="center", fontsize=10)
ax.set(xlim=(-1, 9), ylim=(0, 3.5))
ax.axis("off")
plot.show(
    figure,
    "Five things decide the curve of a run, and the colleague's record holds one of "
    "them.",
    alt="Five boxes, code, data, settings, seeds and arithmetic, lead to the run, "
    "and the run to the curve. Settings are marked as told, the other four are not.",
)

# %% [markdown]
# The last field is the one that nobody writes down: which machine, which library, how many threads. Does it matter? Add three numbers by hand, in two orders.

# %%
(0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3)

# %% [markdown]
# Each addition rounds, so the order of additions is part of the result. A different number of threads, another library version or another chip adds up the same
# products in another order. Note also how the digits were printed: rounded to four places, the two sums are equal, and no record with four digits could tell them apart.
# Python's `repr`, which JSON uses too, gives as many digits as it takes to get the same bits back.

# %% [markdown]
# ## The block
#
# Here is a record that you can write without any library: one file, one line of JSON for each entry. The first line says what was to be run, each further one what was measured.
# A line is handed to the disk before training goes on, and a line that a crash cut off has no end mark, so the reader leaves it out.

# %% tags=["the-record"]
import json
import os


def append(path, entry):
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


def begin(path, **header):
    path.touch(exist_ok=False)  # never write over another run
    append(path, header)


def read(content):
    """Return the header and the rows; what follows the last line end was cut off."""
    whole = content.rpartition("\n")[0]
    entries = [json.loads(line) for line in whole.splitlines()]
    return (entries[0], entries[1:]) if entries else ({}, [])


# %% [markdown]
# What goes into the header? One entry for each argument of $f$. Data and code are too large for a line, or change without a new name, so the header holds a fingerprint of the pixels, and the code
# as text. (In a repository: the commit *and* the difference to it. Exercise 1 shows what happens with the commit alone.)

# %%
import hashlib
import inspect
from dataclasses import asdict

from labs.repro import versions


def fingerprint(config):
    first, last = config["rows"]
    part = train_set.images[first:last], train_set.labels[first:last]
    pixels = b"".join(tensor.numpy().tobytes() for tensor in part)
    return hashlib.sha256(pixels).hexdigest()


def header(config, *code):
    source = "\n".join(inspect.getsource(function) for function in code)
    where = {"data": fingerprint(config), "machine": asdict(versions())}
    return {"config": config, "code": source, **where}


# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
config, path = told | untold, folder / "run.jsonl"
head = header(config, batches, train)
begin(path, **head)
for row in original.steps:
    append(path, {key: row[key] for key in ("step", "loss", "lr")})

# %%
found, rows = read(path.read_text())
print(list(found), list(found["machine"]), found["config"], sep="\n")
print(len(rows), "rows, the first with", list(rows[0]))

# %% [markdown]
# The header has an entry for each of the five fields; the seeds are part of the settings. Now do what the colleague's notes did not let you do: take *only* what was read from the file, check the fingerprint, and run again.


# %%
assert fingerprint(found["config"]) == found["data"], "other data than in the record"
_, again = train(found["config"])

# %% tags=["nbval-check-output"]
claim(
    "a run repeated from its file alone has the same 60 losses to the last bit",
    losses(again) == [row["loss"] for row in rows] and len(rows) == 60,
    measured=(losses(again), [row["loss"] for row in rows], len(rows)),
)

# %% [markdown]
# All bits agree: the settings are complete. The code is not: the record holds two functions, and the network and the loop of `labs` came from this process. For a real test, start a fresh one from the commit.
#
# Is the record also safe against a crash? The next check cuts the file off after every possible number of bytes, and reads what is left. Then it lets another process kill itself the hard way
# (`SIGKILL`, which no program can catch) right after a header and three rows.

# %% tags=["nbval-check-output"]
import signal
import subprocess
import sys

content = path.read_text()
torn = [read(content[:cut]) for cut in range(len(content) + 1)]
victim = f"""
import json, os
from pathlib import Path
{inspect.getsource(append)}
for step in range(9):
    append(Path({str(folder / "killed.jsonl")!r}), {{"step": step}})
    if step == 3:
        os.kill(os.getpid(), {int(getattr(signal, "SIGKILL", signal.SIGTERM))})
"""
subprocess.run([sys.executable, "-c", victim], check=False)
survived = read((folder / "killed.jsonl").read_text())[1]
claim(
    "a log cut at any byte can be read, and holds the first rows of the run",
    all(part == rows[: len(part)] for _, part in torn),
    measured=len(torn),
)
claim(
    "a killed process leaves every row that it had logged in the file",
    len(survived) == 3,
    measured=len(survived),
)

# %% [markdown]
# ### The same in Weights & Biases, with no network
#
# [Weights & Biases](https://docs.wandb.ai) (W&B) keeps the same things, and draws them for a whole team. Usually it sends them to a server. In *offline* mode it writes a folder, which can be sent
# later with `wandb sync`. Do not take a program's word that it stays offline: **set a trap**. Name a socket of your own as the proxy for all web traffic, and as the W&B server, and count the connections.
# The trap has a limit: it sees a program that asks the named server or goes through the named proxy, and not one that ignores both and dials another address.

# %%
import socket

trap = socket.create_server(("127.0.0.1", 0))
trap.setblocking(False)
address = f"http://127.0.0.1:{trap.getsockname()[1]}"
for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
    os.environ[name] = address
os.environ.update(no_proxy="", NO_PROXY="", WANDB_ERROR_REPORTING="false")


def knocks():
    count = 0
    try:
        while True:
            trap.accept()[0].close()
            count += 1
    except BlockingIOError:
        return count


# %% [markdown]
# A trap that catches nothing may be broken. So first open a connection yourself.

# %%
import contextlib
import urllib.request

with contextlib.suppress(OSError):
    urllib.request.urlopen("http://example.org", timeout=0.2)
control = knocks()
control

# %% [markdown]
# One connection was caught: the trap works. Now W&B: all its folders go to a temporary place, and it is told to print nothing. (It would also note the git commit and the hardware; here that is switched off, so that the lesson runs alike everywhere.)

# %%
for kind in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):
    os.environ[f"WANDB_{kind}_DIR"] = str(folder)
import wandb

quiet = wandb.Settings(
    mode="offline",
    base_url=address,
    silent=True,
    console="off",
    disable_git=True,
    x_disable_stats=True,
    x_disable_meta=True,
)


# %%
def start(config, group=None):
    names = {"project": "digits", "group": group, "dir": folder, "config": config}
    return wandb.init(settings=quiet, reinit="create_new", **names)


# %%
pixels = (255 * test.images[0, 0]).round().byte().numpy()
with start(head["config"]) as run:
    for row in original.steps:
        run.log({"loss": row["loss"], "rate": row["lr"]}, step=row["step"])
    run.log({"picture": wandb.Image(pixels)}, step=60)
tracked = run.id

# %% [markdown]
# Nothing was printed, and nothing can be seen in a browser. **A record that you cannot read back is not a record.** In this version W&B has no documented Python reader for its offline file, but the format is simple: a log of [protocol buffer](https://protobuf.dev) messages, whose definitions come with the package. `read_wandb`, which is folded, reads it. Another process writes the file, so the function waits for the message that says that the run has ended.

# %% tags=["wandb-reader", "hide-input"]
import json
import struct
import time

from wandb.proto.wandb_internal_pb2 import Record as Entry


def entries(content):
    """Yield the messages: blocks of 32 kB, each piece with a head of 7 bytes."""
    at, message = 7, b""
    while at + 7 <= len(content):
        rest = 32768 - at % 32768
        if rest < 7:  # no room for a head: the block is filled up
            at += rest
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        at += 7 + length
        if at > len(content):  # cut off, or still being written
            return
        message += content[at - length : at]
        if kind in (1, 4):  # a whole message, or its last piece
            yield Entry.FromString(message)
            message = b""


def named(items):
    return {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}


def read_wandb(folder, run_id):
    """Return the run's config, its group, and its rows, without the times."""
    path, found = next(folder.glob(f"wandb/*/run-{run_id}.wandb")), []
    for _ in range(200):  # another process writes, and may be a little behind
        found = list(entries(path.read_bytes()))
        if any(entry.HasField("exit") for entry in found):
            break
        time.sleep(0.05)
    else:
        raise TimeoutError(f"{path.name}: the run has not ended after ten seconds")
    run = next(entry.run for entry in found if entry.HasField("run"))
    config = named(run.config.update)
    config.pop("_wandb", None)
    rows = [named(entry.history.item) for entry in found if entry.HasField("history")]
    times = ("_timestamp", "_runtime")
    rows = [{k: v for k, v in r.items() if k not in times} for r in rows]
    return config, run.run_group, rows


# %%
import numpy as np
from PIL import Image

their_config, _, their_rows = read_wandb(folder, tracked)
media = next(folder.glob(f"wandb/*{tracked}")) / "files"
their_picture = np.asarray(Image.open(media / their_rows[-1]["picture.path"]))
print(len(their_rows), "rows, the first with", sorted(their_rows[0]))
print("and a picture of", their_picture.shape, "pixels")

# %% [markdown]
# One row more than there were steps: the last one holds the picture. All of it came back from the disk, and the trap is asked once more: did W&B call?

# %% tags=["nbval-check-output"]
claim(
    "W&B, offline, holds the settings of a run",
    their_config == config,
    measured=(their_config, config),
)
claim(
    "W&B, offline, holds the 60 losses of a run, to the last bit",
    [row["loss"] for row in their_rows if "loss" in row] == losses(original),
    measured=([row["loss"] for row in their_rows if "loss" in row], losses(original)),
)
claim(
    "W&B, offline, holds the logged picture, pixel by pixel",
    np.array_equal(their_picture, pixels),
    measured=their_picture.shape,
)
caught = knocks()  # asking empties the trap
claim(
    "W&B in offline mode calls neither the proxy nor the server that it was given; "
    "a control is caught",
    control == 1 and caught == 0,
    measured=(control, caught),
)

# %% [markdown]
# ### The same in TensorBoard
#
# [TensorBoard](https://www.tensorflow.org/tensorboard) has always been offline: a writer appends to an event file, and its `EventAccumulator` reads it back. It has no place for a config, so that goes in as text (`add_text`).

# %%
from torch.utils.tensorboard import SummaryWriter

with SummaryWriter(folder / "board") as board:
    board.add_text("config", json.dumps(head["config"]))
    for row in original.steps:
        board.add_scalar("loss", row["loss"], row["step"])
        board.add_scalar("rate", row["lr"], row["step"])

# %%
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read_board(folder):
    keep_all = {"scalars": 0}  # the default keeps a random sample
    return EventAccumulator(str(folder), size_guidance=keep_all).Reload()


events = read_board(folder / "board")
rates = {event.value for event in events.Scalars("rate")}
print("rate written", config["rate"], "and read", *rates)

# %% [markdown]
# Look at the learning rate: TensorBoard stores scalars as 32-bit floats. The losses were computed in 32 bits, so they lose nothing. The rate is a Python float with 64 bits, and comes back changed. Repeat
# a run with *that* rate, and you repeat another run. Read settings from the text.

# %% tags=["nbval-check-output"]
curve = [event.value for event in events.Scalars("loss")]
claim(
    "TensorBoard holds the 60 losses of a run, to the last bit",
    curve == losses(original),
    measured=(curve, losses(original)),
)

# %% [markdown]
# ## Debug: find the step and the layer, from the record alone
#
# Somebody else's runs ended with networks that say the same digit for every picture. The runs are over, the networks are gone. What remains is the record. This
# cell plays the accident, five times: each run has its own order of the data, and at a moment and in a layer that are drawn by lot, a bias gets a large negative value. Do not look at what was drawn.

# %%
import random


def draw_accident(draw):
    lot = random.Random(draw)
    return lot.randrange(15, 50), lot.choice(["bn1", "bn2"])


# %% [markdown]
# Their record had the loss of every twentieth step. A better one has two numbers of the [gradient health](../../book/api/hooks) of each parameter, for every step: the norm of the gradient and that of the values. `fit` calls `watch` while the gradients are fresh.

# %%
from labs.hooks import gradient_health


def watched_run(draw):
    accident, config = draw_accident(draw), told | untold | {"order": draw}

    def watch(net, step):
        if step == accident[0]:
            net.get_submodule(accident[1]).bias.data.fill_(-1000.0)
        for row in gradient_health(net).table().to_dict("records"):
            for kind in ("grad_norm", "weight_norm"):
                run.log({f"{kind}/{row['parameter']}": row[kind]}, step=step)

    with start(config) as run:
        _, history = train(config, watch=watch)
        for row in history.steps[::20]:
            run.log({"sparse/loss": row["loss"], "sparse/step": row["step"]})
    return read_wandb(folder, run.id)[2]


# %%
import pandas as pd

logs = {draw: watched_run(draw) for draw in range(5)}
sparse = pd.DataFrame(
    {"draw": draw, "step": row["sparse/step"], "loss": row["sparse/loss"]}
    for draw, log in logs.items()
    for row in log
    if "sparse/loss" in row
)
sparse.pivot(index="draw", columns="step", values="loss").round(2)

# %% [markdown]
# At the end no loss is far below that of guessing, $\ln 10 \approx 2.3$. Three numbers cannot say when that began, and certainly not where. For the figure below, take the norms of the gradients from the record.


# %%
def norms_in(log, kind):
    """Return one row per step, one column per parameter in the network's order."""
    rows = [row for row in log if f"{kind}/fc.bias" in row]
    frame = pd.DataFrame(rows).set_index("_step")
    names = [name for name, _ in original_net.named_parameters()]
    return frame[[f"{kind}/{name}" for name in names]].set_axis(names, axis=1)


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# A batch norm's bias becomes $-1000$, and a ReLU follows. Which gradients become exactly zero: those of the layers before it, after it, or both?
# :::

# %%
from matplotlib.colors import Normalize


def draw_norms(grads):
    figure, ax = plot.new(height=3)
    levels = np.log10(grads.where(grads > 0).T)
    ax.set_facecolor("black")
    picture = ax.imshow(levels, aspect="auto", cmap="viridis", norm=Normalize(-4, 1))
    ax.set_yticks(range(len(levels)), levels.index)
    ax.grid(False)
    ax.set(xlabel="training step")
    figure.colorbar(picture, label="log10 of the gradient norm")
    return figure


plot.slide(
    {f"draw {k}": draw_norms(norms_in(log, "grad_norm")) for k, log in logs.items()},
    "run",
    "From one step on the gradients are exactly zero (black) in every row but the "
    "last: only the bias of the last layer still gets one.",
    alt="Gradient norm of each parameter by step, one picture for each of five "
    "runs. From one step on, the rows turn black, except the last bias.",
)

# %% [markdown]
# Both. The broken ReLU lets nothing back, so what lies *before* it gets no gradient. It lets only zeros through, so the weights that multiply them get none either. After a broken `bn1`, the bias of `bn2` could start a signal again where it is positive; in these runs nothing passed. Only the last bias, which is added behind everything, still gets a gradient.
# So the left edge of the black area says *when*: the accident struck in the step before. It does not say *where*. For that, ask the other half of the record: which parameter changed its length most around that step?


# %%
def locate(log):
    grads, weights = norms_in(log, "grad_norm"), norms_in(log, "weight_norm")
    # The last step in which every parameter had a gradient.
    step = int(grads.eq(0).any(axis=1).idxmax()) - 1
    jump = weights.loc[step + 1] / weights.loc[step - 1]
    return step, jump.idxmax().removesuffix(".bias")


# %%
located = {draw: locate(log) for draw, log in logs.items()}
drawn = {draw: draw_accident(draw) for draw in logs}
pd.DataFrame({"located": located, "drawn": drawn}).rename_axis("draw")

# %% [markdown]
# The step and the layer are right in each of the five runs, whatever the order of their data.

# %% tags=["nbval-check-output"]
after = {k: norms_in(logs[k], "grad_norm").loc[drawn[k][0] + 1 :] for k in logs}
first = [frame["conv1.weight"].max() for frame in after.values()]
last = [frame["fc.bias"].min() for frame in after.values()]
claim(
    "after each of five planted accidents the first layer gets exactly no gradient",
    max(first) == 0,
    measured=first,
)
claim(
    "after each of five planted accidents the last bias gets a gradient in every "
    "step",
    min(last) > 0,
    measured=last,
)
claim(
    "step and layer of five planted accidents are found from the records alone",
    located == drawn,
    measured=(located, drawn),
)

# %% [markdown]
# ## Experiment: a sweep in the record, and what each field is worth
#
# ### The sweep
#
# A sweep tries settings and seeds. `wandb.sweep` asks a *server* which setting comes next, so it does not work offline. You do not need it for a grid: give all runs one
# **group**, and let `ablate` decide. (TensorBoard has the same idea as *hparams*.)

# %%
from labs.ablation import ablate

group = []


def tracked_run(rate):
    seed = torch.initial_seed()  # ablate has set it
    config = told | {"rate": rate, "seed": seed, "order": seed, "rows": [0, 4000]}
    net, history = train(config)
    measured = {"accuracy": accuracy(net, test)}
    with start(config, group="rates") as run:
        for row in history.steps:
            run.log({"loss": row["loss"]}, step=row["step"])
        run.log(measured)
    group.append(run.id)
    return measured


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Four learning rates, five seeds each, sixty steps. Which rates can the seeds tell from 0.01?
# :::

# %%
study = ablate(
    tracked_run,
    base={"rate": 0.01},
    vary="rate",
    values=[0.01, 0.001, 0.03, 0.1],
    seeds=range(5),
)
study.table("accuracy")[["mean", "ci95", "n", "delta", "p"]].round(3)

# %%
print(study.verdict("accuracy"))
smallest = study.detectable("accuracy")
print(f"it would find, with 80 % power: a difference of {smallest:.2f}")

# %% [markdown]
# The table gives the mean of each rate with the half width of its 95 % interval, the verdict says what that is worth: a difference counts when its $p$ (Welch's test), times the three comparisons, is below 0.05.
# The slowest and the fastest rate are told apart from 0.01. The colleague's rate, 0.03, is not, although its mean is lower: five seeds are too few to say so. The last line is the smallest difference that such a study would find;
# it is large because it pools the spread of all rates, and the runs of the fastest one scatter most.
#
# That is the study in memory. Forget it, and draw its curves from the record.

# %%
runs = [read_wandb(folder, run_id) for run_id in group]
figure, ax = plot.new(height=3)
curves = pd.DataFrame(
    {"rate": c["rate"], "step": row["_step"], "loss": row["loss"]}
    for c, _, rows in runs
    for row in rows
    if "loss" in row
)
plot.curves(ax, curves, x="step", y="loss", group="rate")
ax.set(xlabel="training step", ylabel="training loss (nats)", yscale="log")
plot.show(
    figure,
    "Drawn from the record alone: with a rate of 0.001 the loss falls slowly to the "
    "end; with 0.1 it jumps up furthest, and ends highest.",
    alt="Training loss by step for four learning rates, each a line with a band "
    "over five seeds.",
)

# %% [markdown]
# With the slowest rate the loss has not levelled off: sixty steps are too few to judge it. With the fastest it jumps in the first steps, and has not come back after sixty. None of this was in memory when it was drawn.

# %% tags=["nbval-check-output"]
from_wandb = pd.DataFrame(
    {"rate": c["rate"], "seed": c["seed"], "accuracy": r[-1]["accuracy"]}
    for c, of, r in runs
    if of == "rates"
)
columns = ["rate", "seed", "accuracy"]
in_memory = study.frame()[columns].to_numpy().tolist()
claim(
    "W&B holds the twenty runs of a sweep with their accuracies to the last bit",
    in_memory == from_wandb[columns].to_numpy().tolist(),
    measured=(in_memory, from_wandb[columns].to_numpy().tolist()),
)
table = study.table("accuracy")
claim(
    "sixty steps: a learning rate of 0.001 is less accurate than 0.01, over five "
    "seeds",
    table["delta"][0.001] < -0.02 and 3 * table["p"][0.001] < 0.05,
    measured=(table["delta"][0.001], table["p"][0.001]),
)
claim(
    "sixty steps: a learning rate of 0.1 loses over 20 points on 0.01 on average",
    table["delta"][0.1] < -0.2,
    measured=(table["delta"][0.1], table["p"][0.1]),
)

# %% [markdown]
# ### Take one field away
#
# Now the question of this lesson. Your record is complete. Remove one field, fill the gap with a sensible guess, as a careful person would, and repeat. One thing changes at a time.
# Two of the gaps need a word. *Code*: the run was made with an edit that was never committed, a weight decay of 0.01. *Arithmetic*: you cannot install another
# library in the middle of a lesson, but you can do the one thing that another library does: add up in another order. The pictures of each batch are the same, and come the other way round.


# %%
def backwards(config):
    for images, labels in batches(config):
        yield images.flip(0), labels.flip(0)


GUESSES = {
    "nothing": {},
    "arithmetic": {"batches": backwards},
    "code": {"decay": 0.0},
    "data": {"rows": [1000, 2000]},
    "order": {"order": 1},
    "seed": {"seed": 1},
}

# %%
import functools

from labs.evaluate import predict


def answers(net):
    return predict(net, test.images).argmax(1)


def share_changed(net, other):
    return (answers(net) != answers(other)).float().mean().item()


def gap_of(history, other):
    return np.abs(np.subtract(losses(history), losses(other)))


@functools.cache
def complete_run(seed):
    config = told | untold | {"seed": 100 + seed, "order": 50 + seed}
    return config, *train(config, decay=0.01)


# %%
def repeat_without(missing):
    config, net, history = complete_run(torch.initial_seed())
    guess = GUESSES[missing]
    guessed = {name: guess.get(name, value) for name, value in config.items()}
    others = {name: guess[name] for name in guess if name not in config}
    other, repeated = train(guessed, **{"decay": 0.01, **others})
    gap = gap_of(history, repeated)
    gaps.extend({"missing": missing, "step": k, "gap": g} for k, g in enumerate(gap))
    return {"largest gap": gap.max(), "changed": share_changed(net, other)}


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Arithmetic, code, data, order, seed: sort the five by how far the losses move when one is missing. Is there one that you could do without?
# :::

# %%
gaps = []
repeats = ablate(
    repeat_without, base={"missing": "nothing"}, vary="missing", values=list(GUESSES)
)
largest = repeats.frame().groupby("missing", sort=False)["largest gap"]
shown = largest.agg(["min", "max"]).map("{:.1e}".format)
shown.assign(changed=repeats.table("changed")["mean"].round(3))

# %%
figure, ax = plot.new(height=3.4)
for colour, (missing, part) in zip(
    plot.COLOURS, pd.DataFrame(gaps).groupby("missing", sort=False), strict=False
):
    middle = part.groupby("step")["gap"].median()
    if middle.max() > 0:  # a logarithmic axis cannot show the exact zeros
        ax.semilogy(middle.where(middle > 0), color=colour, label=missing)
ax.set(xlabel="training step", ylabel="difference of the loss (nats)")
figure.legend(loc="outside upper left", title="missing", ncols=5)
plot.show(
    figure,
    "Without seed, order or data the loss is another one from the first step on; "
    "without the code it moves from the second step on; other arithmetic moves, in "
    "the median, only its last digits.",
    alt="Median difference of the loss by step, on a logarithmic axis, one line for "
    "each missing field. Seed, order and data lie highest, code below them, "
    "arithmetic orders of magnitude lower.",
)

# %% [markdown]
# The table shows the smallest and largest gap over three seeds, and the share of test digits that get another answer. With nothing missing, every bit is the same, for every seed. Without the seed, the order or the data, you have another run from the first step on, and many test digits get another answer. Without the edit you are right in the first
# step, since the decay changes the weights only after it, and then you are off. The arithmetic, the field that nobody writes down, moves the loss too. In the figure, which draws the median of the seeds, only its last digits move; the largest gap in the table shows that a single run may move further. Is that the field that you could do without? The next section answers it.
#
# So there are two kinds of repeating. **The same bits** need all five fields. **The same finding** must survive the loss of any of them; otherwise it was not a finding.

# %% tags=["nbval-check-output"]
worst = repeats.frame().groupby("missing")["largest gap"]
claim(
    "a run repeated with every field of its record is equal to the last bit, at "
    "every seed",
    worst.max()["nothing"] == 0,
    measured=worst.max()["nothing"],
)
claim(
    "without an edit of the code, a weight decay, a repeated run's losses differ by "
    "over 0.005 somewhere",
    worst.min()["code"] > 0.005,
    measured=worst.min()["code"],
)
claim(
    "a run repeated with its batches added up backwards has other losses, at every "
    "seed",
    worst.min()["arithmetic"] > 0,
    measured=worst.min()["arithmetic"],
)
claim(
    "without seed, order or data a repeated run's losses differ by over 0.1 "
    "somewhere",
    worst.min()[["seed", "order", "data"]].min() > 0.1,
    measured=worst.min(),
)
of_sums = pd.DataFrame(gaps).query("missing == 'arithmetic' and step < 2")
start_of = of_sums["gap"].max()
claim(
    "batches added up backwards: for two steps the losses differ by less than 1e-4",
    start_of < 1e-4,
    measured=start_of,
)

# %% [markdown]
# ## Reproduce: one bit is enough
#
# **The paper says.** {cite:t}`summers2021nondeterminism` train networks with one source of chance at a time. They find that all sources have a similar effect on how much the trained models differ, and
# that even one changed bit in the initial weights makes models that converge to vastly different values.
#
# **We measure** the share of test digits that two networks answer differently, in pairs of trainings. In one kind of pair the *lowest bit* of one weight is flipped at the start, a change in about the eighth digit. In the other kind the
# second network has another seed. Six references, each with its own seed and order, are compared once in each way.


# %%
def flip_bit(net):
    net.conv1.weight.data.view(-1).view(torch.int32)[0] ^= 1


@functools.cache
def reference_run(seed):
    config = told | untold | {"steps": 180, "seed": seed, "order": 100 + seed}
    return config, *train(config)


# %%
def change_one(what):
    config, net, history = reference_run(torch.initial_seed())
    if what == "one bit":
        other, changed = train(config, touch=flip_bit)
    else:
        other, changed = train(config | {"seed": 1000 + config["seed"]})
    grown[what].append(gap_of(history, changed))
    return {"changed": share_changed(net, other)}


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# One bit of one weight. After 180 steps, what is left of that change: nothing, about the eighth digit still, or more?
# :::

# %%
grown = {"one bit": [], "the seed": []}
pairs = ablate(
    change_one,
    base={"what": "one bit"},
    vary="what",
    values=list(grown),
    seeds=range(6),
)
pairs.table("changed")[["mean", "ci95", "n", "delta", "p"]].round(4)

# %%
figure, (left, right) = plot.new(height=3.2, columns=2)
for place, (what, gaps_of) in enumerate(grown.items()):
    colour = plot.COLOURS[place]
    for line in gaps_of:
        smooth = pd.Series(line).rolling(10, min_periods=1).mean()
        left.semilogy(smooth, color=colour, linewidth=1)
    left.plot([], color=colour, label=what)
    shares = 100 * pairs.frame().query("what == @what")["changed"]
    right.plot(shares, [place] * len(shares), "o", color=colour, alpha=0.6)
left.set(xlabel="training step", ylabel="difference of the loss (nats)")
left.set_ylim(1e-9, 10)
left.legend(loc="lower right", title="changed", ncols=2)
right.set_yticks(range(2), grown)
right.set(xlabel="test digits answered differently (%)", ylim=(1.5, -0.5))
plot.show(
    figure,
    "In some of six pairs one flipped bit grows by orders of magnitude and changes "
    "answers, in others it stays in the last digits; another seed changes more.",
    alt="Left: the difference of the loss by step, one line for each pair. For "
    "another seed it is large from the start; for one bit it starts near ten to the "
    "minus seven, and some lines climb. Right: the share of digits answered "
    "differently, one dot for each pair, near zero for one bit and higher for "
    "another seed.",
)

# %%
print(pairs.verdict("changed"))
one_bit = pairs.frame().query("what == 'one bit'")["changed"]
print("pairs in which one bit changes an answer:", (one_bit > 0).sum(), "of 6")

# %% [markdown]
# Look at the blue lines: they start in the last digits, as the arithmetic did above, and some do not stay there. In those pairs some pictures get another answer in the end. In the other pairs no answer changes, though some of their curves climb as well.
# Compare with the scatter from seed to seed: the verdict tests the two kinds of pairs against each other (Welch's test on six pairs each), and another seed changes clearly more answers.

# %% tags=["nbval-check-output"]
begins = np.mean([line[:10].mean() for line in grown["one bit"]])
ends = np.mean([line[-50:].mean() for line in grown["one bit"]])
claim(
    "one bit of one weight flipped: in at least one of six trainings some answer "
    "changes",
    bool((one_bit > 0).any()),
    measured=one_bit.tolist(),
)
claim(
    "one bit flipped: losses differ 100 times as much in the last 50 steps as in "
    "the first ten, on average",
    ends > 100 * begins,
    measured=(begins, ends),
)
change = pairs.table("changed").loc["the seed"]
claim(
    "another seed changes more answers of a trained network than one flipped bit",
    change["delta"] > 0.02 and change["p"] < 0.05,
    measured=(change["delta"], change["p"]),
)

# %% [markdown]
# **Why they differ.** The striking half reproduces, for part of the pairs: the eighth digit of one weight can decide what some pictures are taken for. The other half does not: here another seed does more than one bit. The paper trains its networks until the end. Ours stop after 180 steps, and perhaps a change in the last digits needs more steps to grow, while another seed is another network from the start.
#
# So a change as small as that of the arithmetic can matter, and the arithmetic is not the field to leave out, though in sixty steps it changed few answers.

# %% [markdown]
# ## Bug hunt: the validation that was never there
#
# **Difficulty** 1 of 3 · **Importance** 3 of 3 · **Time** 20 min
#
# A user of MMDetection trained with the W&B logger. The training loss was in the record, and after every validation the scores were not ([open-mmlab/mmdetection#7000](https://github.com/open-mmlab/mmdetection/issues/7000)). The
# same was met in [mmcv#911](https://github.com/open-mmlab/mmcv/pull/911) and [mmcv#2069](https://github.com/open-mmlab/mmcv/issues/2069). The cell below holds the lines, for a training that yields its step, its loss, and after each epoch a score. It is the cell to edit.


# %% tags=["hunt-bug"]
def follow(run, training):
    """Log a training as it goes on; only the last step of an epoch has a score."""
    for step, loss, score in training:
        run.log({"train/loss": loss}, step=step, commit=True)
        if score is not None:
            run.log({"val/accuracy": score}, step=step, commit=True)


# %% [markdown]
# Let it follow three epochs of four steps, in a real offline run, and read it back.

# %%
import io
import re

score = [None, None, None, 0.9]
three_epochs = [(step, 1 / (step + 1), score[step % 4]) for step in range(12)]
with contextlib.redirect_stderr(io.StringIO()) as said, start({}) as run:
    follow(run, three_epochs)
_, _, kept = read_wandb(folder, run.id)
{key: sum(key in row for row in kept) for key in ("train/loss", "val/accuracy")}

# %% [markdown]
# Twelve losses, and not one of three scores. W&B does warn about it, once for each loss of data, on the error stream, which the cell above caught. In the log of a long training that line is easily missed. What does the checker say?

# %%
warning = re.search(r"Tried.*ignored\.", said.getvalue())
print(warning[0] if warning else "this version said nothing")

# %%
from labs.hunts.engineering import check_tracker

check_tracker(follow)

# %% [markdown]
# Repair `follow` in its own cell above, and run the checker again until all probes pass.
#
# :::{dropdown} Hint 1
# Log one value with `step=4`, and look at `run.step` before and after, with and without `commit=True`.
# :::
#
# :::{dropdown} Hint 2
# W&B keeps *one* row for each step, and rows only go forward. When is the row of a step closed?
# :::
#
# :::{dropdown} Hint 3
# Moving the score to the next step, or leaving `step` out, puts it into the record, at a place where it was not measured, and may push a training loss out. The loss and the score belong into the same row.
# :::


# %% tags=["hunt-solution", "hide-cell"]
def log_one_row_a_step(run, training):
    """Log a training as it goes on; only the last step of an epoch has a score."""
    for step, loss, score in training:
        row = {"train/loss": loss}
        if score is not None:
            row["val/accuracy"] = score
        # One row for one step, and then it is closed.
        run.log(row, step=step, commit=True)


# %% tags=["hide-cell"]
with start({}) as run:
    log_one_row_a_step(run, three_epochs)
_, _, repaired = read_wandb(folder, run.id)

# %% tags=["nbval-check-output"]
verdict = check_tracker(log_one_row_a_step)
claim(
    "the repaired tracker passes every probe of its steps",
    verdict.passed,
    measured=verdict,
)
scored = [row["_step"] for row in repaired if "val/accuracy" in row]
claim(
    "with the repaired tracker each score stands in the row of its step in a real "
    "run",
    scored == [3, 7, 11],
    measured=scored,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Make a repository with one script, commit it, edit it without a commit, and write the commit of both versions into a record. Can the record tell them apart? Which command gives the rest?
#
# :::{dropdown} Solution 1
# Both have the same commit, so a record of the commit alone names code that was never run. `git diff HEAD` gives the rest, and `git apply` brings it back. (New files that git does not know are not in it: add them first.)
# :::

# %% tags=["hide-cell"]
repository = folder / "repository"
repository.mkdir()


def git(*command, text=None):
    who = [
        "-c",
        "user.name=you",
        "-c",
        "user.email=you@example.org",
        "-c",
        "commit.gpgsign=false",
    ]
    done = subprocess.run(
        ["git", *who, *command],
        cwd=repository,
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


script = repository / "train.py"
script.write_text("rate = 0.03\n")
git("init"), git("add", "train.py"), git("commit", "-m", "first")
states = [(git("rev-parse", "HEAD"), git("diff", "HEAD"))]
script.write_text("rate = 0.3\n")
states.append((git("rev-parse", "HEAD"), git("diff", "HEAD")))
git("checkout", "train.py")
git("apply", text=states[1][1])
print(
    "same commit",
    states[0][0] == states[1][0],
    "· back again:",
    script.read_text().strip(),
)

# %% [markdown]
# **Exercise 2.** A run crashes in step 50 and is continued from its checkpoint of step 40. Both halves go to the same TensorBoard folder. How many losses does the record hold for step 45? What does `purge_step` do?
#
# :::{dropdown} Solution 2
# Two, and nothing warns you: the curve has a loop in it. A writer that is opened with `purge_step=40` says that all from step 40 on is void, and a reader leaves it out. W&B, as you saw, drops steps that go back; its `resume_from` is for this.
# :::


# %% tags=["hide-cell"]
import logging

logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it reports what it purges


def losses_at_45(name, **continued):
    for part, how in [(range(50), {}), (range(40, 60), continued)]:
        with SummaryWriter(
            folder / name, filename_suffix=f".{part.start}", **how
        ) as board:
            for step in part:
                board.add_scalar("loss", 1.0, step)
    return sum(
        event.step == 45 for event in read_board(folder / name).Scalars("loss")
    )


print(losses_at_45("looped"), losses_at_45("purged", purge_step=40))

# %% [markdown]
# **Exercise 3.** Can you trust a record that a running program shows you? Change `read` so that it does not leave out the last line when that has no end, and find the shortest file on which it fails.
#
# :::{dropdown} Solution 3
# Parse `content.splitlines()` instead. A single `{` is enough for an error. Worse are cuts that stay valid: a row that holds only the number `12` of `123` is JSON too, and nothing would tell you. Only the line end says that a line is whole.
# :::

# %% [markdown]
# ## In practice
#
# - Use W&B, TensorBoard, MLflow or Aim for the curves, and repeat one run from your record alone, before it matters.
# - A complete record: the commit and the diff, a lock file, a fingerprint of the data, all settings as text, each seed, and the machine. {cite:t}`pineau2021reproducibility` give the checklist that conferences use.
# - On a GPU the same seed may give other bits in every run, since some kernels add up in whichever order their threads finish. `torch.use_deterministic_algorithms(True)` chooses slower kernels that do not, and raises where
#   there is none. Workers of a `DataLoader` have random states of their own: seed them with a `generator` and a `worker_init_fn`.
# - Bits are for debugging: they tell you that you run the same program. Findings need the opposite, several seeds, and a claim that survives them.
# - Log a validation score in the same row as the training step it belongs to. Count the rows after the first epoch.
# - Never write secrets into a config: a record is made to be shared.

# %% [markdown]
# ## You can now
#
# - write a record that survives a crash, and prove it complete by repeating the run to the last bit;
# - keep curves, pictures and a sweep in W&B without a network, and curves in TensorBoard, read them back, and say what is lost;
# - find the step and the layer of an accident in a record, when the run itself is gone.

# %% tags=["hide-cell"]
import shutil

wandb.teardown()
shutil.rmtree(folder)
print("connections since the last count:", knocks())
