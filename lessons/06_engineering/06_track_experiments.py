# %% [markdown]
# # Track experiments, and repeat them to the last bit
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** write a record from which someone else repeats your run bit by bit · keep curves, pictures, tables and a sweep in
# Weights & Biases (offline) and in TensorBoard, and read them back · find from the record alone at which step, and in which layer, a run went wrong.
#
# **You need** a training loop; the lesson [Watch a network see digits](../01_foundations/02_watch_a_network_see_digits) for the network.
#
# **Time** read 20 min · debug 30 min · experiment 30 min · reproduce 15 min
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


def batches(config):
    """Yield batches: config["rows"] says from which pictures, config["order"] in which order."""
    chance = torch.Generator().manual_seed(config["order"])
    first, last = config["rows"]
    for _ in range(config["steps"]):
        rows = first + torch.randint(
            last - first, (config["size"],), generator=chance
        )
        yield train_set.images[rows], train_set.labels[rows]


# %%
def train(config, batches=batches, watch=None):
    seed_everything(config["seed"])  # decides the first weights
    net = DigitNet(filters=config["filters"])
    adam = torch.optim.Adam(net.parameters(), lr=config["rate"])
    return net, fit(net, batches(config), adam, watch=watch)


def losses(history):
    return [step["loss"] for step in history.steps]


# %% [markdown]
# (This lesson stays on the CPU, also where there is a GPU. In practice, at the end, says why.)

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

figure, ax = plot.new(7, 3)
for _, history in attempts:
    ax.plot(losses(history), color=plot.COLOURS[5], linewidth=1)
ax.plot(losses(original), color=plot.COLOURS[1], linewidth=2)
ax.plot([], color=plot.COLOURS[5], label="your five attempts")
ax.plot([], color=plot.COLOURS[1], label="your colleague's curve")
ax.set(
    xlabel="training step",
    ylabel="training loss (nats)",
    title="The same settings, and never the same run",
)
ax.legend()
plot.show(
    figure,
    "Training loss of six runs with the same settings. All fall, none follows "
    "another.",
)

# %%
from labs.evaluate import accuracy

print("original", f"{accuracy(original_net, test):.1%}")
print("attempts", *(f"{accuracy(net, test):.1%}" for net, _ in attempts))

# %% [markdown]
# All six fall, and no two agree, not even in the first step. Were your attempts wrong? Was the colleague lucky? Nobody can tell: the
# record that you were given cannot be *checked*. By the end you know which fields were missing, and what each of them is worth.

# %% tags=["nbval-check-output"]
from labs.claims import claim

firsts = [losses(history)[0] for _, history in attempts]
scores = [accuracy(net, test) for net, _ in attempts]
claim(
    "attempts to repeat a run from its notes: none has its loss in the first step",
    losses(original)[0] not in firsts,
    measured=(losses(original)[0], firsts),
)
claim(
    "attempts to repeat a run from its notes all learn, and end over a point of "
    "accuracy apart",
    min(scores) > 0.5 and max(scores) - min(scores) > 0.01,
    measured=scores,
)

# %% [markdown]
# ## The idea
#
# A computer does not throw dice. A run is a function, and its curve is the value:
#
# $$\text{curve} = f(\text{code},\ \text{data},\ \text{settings},\ \text{seeds},\ \text{arithmetic}).$$
#
# Give it the same five arguments and you get the same bits. Leave one out and you get *a* run, not *the* run. The last argument is the one that nobody
# writes down: which machine, which library, how many threads. Does it matter? Add three numbers by hand, in two orders.

# %%
import pandas as pd

sums = {
    "(0.1 + 0.2) + 0.3": (0.1 + 0.2) + 0.3,
    "0.1 + (0.2 + 0.3)": 0.1 + (0.2 + 0.3),
}
pd.Series({how: repr(value) for how, value in sums.items()}, name="result").to_frame()

# %% [markdown]
# Each addition rounds, so the order of additions is part of the result. A different number of threads, another library version or another chip adds up the same
# products in another order. Note also how the digits were printed: rounded to four places, the two sums are equal, and no record with four digits could tell them apart.
# Python's `repr`, which JSON uses too, gives as many digits as it takes to get the same bits back.

# %% tags=["nbval-check-output"]
import json

a, b = sums.values()
claim(
    "two orders of one sum differ in the last bits, and agree to four digits",
    a != b and round(a, 4) == round(b, 4),
    measured=(a, b),
)

claim(
    "a float comes back from JSON with all its bits",
    json.loads(json.dumps([a, b])) == [a, b],
    measured=(json.loads(json.dumps([a, b])), [a, b]),
)

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
    """Return the header and the rows; what stands after the last line end was cut off."""
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
    return hashlib.sha256(
        b"".join(tensor.numpy().tobytes() for tensor in part)
    ).hexdigest()


def header(config, *code):
    source = "\n".join(inspect.getsource(function) for function in code)
    return {
        "config": config,
        "data": fingerprint(config),
        "code": source,
        "machine": asdict(versions()),
    }


# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
config = told | untold
head = header(config, batches, train)
begin(folder / "run.jsonl", **head)
for row in original.steps:
    append(
        folder / "run.jsonl",
        {"step": row["step"], "loss": row["loss"], "rate": row["lr"]},
    )

# %%
found, rows = read((folder / "run.jsonl").read_text())
print(list(found), list(found["machine"]), found["config"], sep="\n")
print(len(rows), "rows, the first with", list(rows[0]))

# %% [markdown]
# Now do what the colleague's sheet did not let you do: take *only* what was read from the file, check the fingerprint, and run again.


# %%
def repeat(found, batches=batches):
    assert fingerprint(found["config"]) == found["data"], (
        "these are not the data of the record"
    )
    return train(found["config"], batches)


_, again = repeat(found)

# %% tags=["nbval-check-output"]
claim(
    "a run repeated from its file alone has the same 60 losses to the last bit",
    losses(again) == [row["loss"] for row in rows] and len(rows) == 60,
    measured=(losses(again), [row["loss"] for row in rows], len(rows)),
)

# %% [markdown]
# Is it safe against a crash? Cut the file off after every possible number of bytes, and read what is left. Then let another process kill itself the hard way
# (`SIGKILL`, which no program can catch) right after its third row.

# %%
content = (folder / "run.jsonl").read_text()
torn = [read(content[:cut]) for cut in range(len(content) + 1)]

# %%
import signal
import subprocess
import sys

victim = f"""
import json, os
from pathlib import Path
{inspect.getsource(append)}
{inspect.getsource(begin)}
path = Path({str(folder / "killed.jsonl")!r})
begin(path, config={{}})
for step in range(9):
    append(path, {{"step": step, "loss": 1.0}})
    if step == 2:
        os.kill(os.getpid(), {int(getattr(signal, "SIGKILL", signal.SIGTERM))})
"""
subprocess.run([sys.executable, "-c", victim], check=False)
survived = read((folder / "killed.jsonl").read_text())[1]

# %% tags=["nbval-check-output"]
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
# later with `wandb sync`. Believe nobody that a program stays offline: **set a trap**. Name a socket of your own as the proxy for all web traffic, and as the W&B server, and count who knocks.

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
# A trap that catches nothing may be broken. So first let something knock.

# %%
import contextlib
import urllib.request

with contextlib.suppress(OSError):
    urllib.request.urlopen("http://example.org", timeout=0.2)
control = knocks()
control

# %% [markdown]
# The trap works. Now W&B: all its folders go to a temporary place, and it is told to print nothing. (It would also note the git commit and the hardware; here that is switched off, so that the lesson runs alike everywhere.)

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


def start(config, **where):
    return wandb.init(
        project="digits",
        dir=folder,
        config=config,
        settings=quiet,
        reinit="create_new",
        **where,
    )


# %%
from labs.evaluate import predict

guesses = predict(original_net, test.images).argmax(1)
wrong = (guesses != test.labels).nonzero()[:6, 0]
mistakes = [(int(n), int(test.labels[n]), int(guesses[n])) for n in wrong]
pixels = (255 * test.images[wrong[0], 0]).round().byte().numpy()

# %%
with start(head["config"]) as run:
    for row in original.steps:
        run.log({"loss": row["loss"], "rate": row["lr"]}, step=row["step"])
    table = wandb.Table(columns=["row", "digit", "read as"], data=mistakes)
    run.log({"picture": wandb.Image(pixels), "mistakes": table}, step=60)
tracked = run.id

# %% [markdown]
# Nothing was printed, and nothing can be seen in a browser. **A record that you cannot read back is not a record.** In this version W&B has no public reader for
# its offline file, but the format is simple: a log of [protocol buffer](https://protobuf.dev) messages, whose definitions come with the package. Another process writes it, and the last message says that the run has ended: wait for it.

# %% tags=["wandb-reader"]
import json
import struct
import time

from wandb.proto.wandb_internal_pb2 import Record as Entry


def entries(content):
    """Yield the messages of a .wandb file: blocks of 32 kB, each piece with a head of 7 bytes."""
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
their_config, _, their_rows = read_wandb(folder, tracked)
print(len(their_rows), "rows, the first with", sorted(their_rows[0]))
print("the last with", sorted(key for key in their_rows[-1] if key.endswith("path")))

# %%
import numpy as np
from PIL import Image

media = next(folder.glob(f"wandb/*{tracked}")) / "files"
their_picture = np.asarray(Image.open(media / their_rows[-1]["picture.path"]))
their_table = json.loads((media / their_rows[-1]["mistakes.path"]).read_text())
pd.DataFrame(their_table["data"], columns=their_table["columns"])

# %% [markdown]
# That table was read from the disk: six digits that the colleague's network misread. The picture and all the rest came back too.

# %% tags=["nbval-check-output"]
claim(
    "W&B holds the same settings",
    their_config == config,
    measured=(their_config, config),
)
claim(
    "W&B holds the same 60 losses, to the last bit",
    [row["loss"] for row in their_rows if "loss" in row] == losses(original),
    measured=([row["loss"] for row in their_rows if "loss" in row], losses(original)),
)
claim(
    "W&B holds the logged picture, pixel by pixel",
    np.array_equal(their_picture, pixels),
)
claim(
    "W&B holds the logged table of mistakes",
    [tuple(row) for row in their_table["data"]] == mistakes,
    measured=([tuple(row) for row in their_table["data"]], mistakes),
)
caught = knocks()  # asking empties the trap
claim(
    "W&B in offline mode opens no connection; a control that does is caught",
    control == 1 and caught == 0,
    measured=(control, caught),
)

# %% [markdown]
# ### The same in TensorBoard
#
# [TensorBoard](https://www.tensorflow.org/tensorboard) has always been offline: a writer appends to an event file, and its `EventAccumulator` reads it back. It has no place for a config or a table, so they go in as text.

# %%
from torch.utils.tensorboard import SummaryWriter

with SummaryWriter(folder / "board") as board:
    board.add_text("config", json.dumps(head["config"]))
    for row in original.steps:
        board.add_scalar("loss", row["loss"], row["step"])
        board.add_scalar("rate", row["lr"], row["step"])
    board.add_image("picture", pixels[None], 60)
    board.add_text("mistakes", json.dumps(mistakes), 60)

# %%
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read_board(folder):
    keep_all = {
        "scalars": 0,
        "tensors": 0,
        "images": 0,
    }  # the default keeps a random sample
    return EventAccumulator(str(folder), size_guidance=keep_all).Reload()


events = read_board(folder / "board")
noted = json.loads(
    events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
)
curve = [event.value for event in events.Scalars("loss")]
rates = {event.value for event in events.Scalars("rate")}
print("rate written", config["rate"], "and read", *rates)

# %% [markdown]
# Look at the learning rate: TensorBoard stores scalars as 32-bit floats. The losses were computed in 32 bits, so they lose nothing. The rate is a Python float with 64 bits, and comes back changed. Repeat
# a run with *that* rate, and you repeat another run. Read settings from the text.

# %% tags=["nbval-check-output"]
claim(
    "TensorBoard holds the same settings, as text",
    noted == config,
    measured=(noted, config),
)
claim(
    "TensorBoard holds the same 60 losses, to the last bit",
    curve == losses(original),
    measured=(curve, losses(original)),
)
claim(
    "TensorBoard's scalars do not give back a 64-bit number",
    config["rate"] not in rates,
    measured=(config["rate"], rates),
)

# %% [markdown]
# ## Debug: find the step and the layer, from the record alone
#
# Somebody else's run ended with a network that says the same digit for every picture. The run is over, the network is gone. What remains is the record. This
# cell plays the accident: at a moment and in a layer that are drawn by lot, a bias gets a large negative value. Do not look at what was drawn.

# %%
import random

lot = random.Random(20)
accident = lot.randrange(15, 50), lot.choice(["bn1", "bn2"])


def strike(net, step):
    if step == accident[0]:
        net.get_submodule(accident[1]).bias.data.fill_(-1000.0)


# %% [markdown]
# Their record had the loss of every twentieth step. A better one has, for each parameter and every step, two numbers of its [gradient health](../../book/api/hooks): the norm of the gradient and that of the values; `fit` calls `watch` while the gradients are fresh.

# %%
from labs.hooks import gradient_health


def watched_run(config):
    with start(config) as run:

        def watch(net, step):
            strike(net, step)
            health = gradient_health(net).table().set_index("parameter")
            for kind in ("grad_norm", "weight_norm"):
                norms = {
                    f"{kind}/{name}": norm for name, norm in health[kind].items()
                }
                run.log(norms, step=step)

        _, history = train(config, watch=watch)
        for row in history.steps[::20]:
            run.log({"sparse/loss": row["loss"], "sparse/step": row["step"]})
    return run.id


_, _, log = read_wandb(folder, watched_run(config))

# %%
sparse = pd.DataFrame([row for row in log if "sparse/loss" in row])
sparse[["sparse/step", "sparse/loss"]].astype({"sparse/step": int}).round(2)

# %% [markdown]
# At the end the loss is that of guessing, $\ln 10 \approx 2.3$. Three numbers cannot say when that began, and certainly not where.
#
# :::{admonition} Predict
# :class: predict
# A batch norm's bias becomes $-1000$, and a ReLU follows. Which gradients become exactly zero: those of the layers before it, after it, or both?
# :::


# %%
def norms_in(log, kind):
    """Return one row per step and one column per parameter, in the order of the network."""
    frame = pd.DataFrame([row for row in log if f"{kind}/fc.bias" in row]).set_index(
        "_step"
    )
    frame = frame.filter(like=kind).rename(
        columns=lambda name: name.removeprefix(f"{kind}/")
    )
    return frame[[name for name, _ in original_net.named_parameters()]]


grads, weights = norms_in(log, "grad_norm"), norms_in(log, "weight_norm")

# %%
figure, ax = plot.new(8, 3)
levels = np.log10(grads.where(grads > 0).T)
ax.set_facecolor("black")
picture = ax.pcolormesh(grads.index, range(len(levels)), levels, cmap="viridis")
ax.set_yticks(range(len(levels)), levels.index)
ax.invert_yaxis()
ax.grid(False)
ax.set(
    xlabel="training step",
    title="From one step on, almost nothing gets a gradient (black: exactly zero)",
)
figure.colorbar(picture, label="log10 of the gradient norm")
plot.show(
    figure,
    "Gradient norm of eight parameters by step. After one step, all rows but the "
    "last ones turn black.",
)

# %% [markdown]
# Both. The broken ReLU lets nothing back, so what lies *before* it gets no gradient. It lets only zeros through, so the weights *behind* it, which multiply them, get none either. Only biases behind it can stay alive, and the last one does.
# So the left edge of the black area says *when*: the step before. It does not say *where*. For that, ask the other half of the record: which parameter changed its length most around that step?


# %%
def locate(grads, weights):
    step = (
        int(grads.eq(0).any(axis=1).idxmax()) - 1
    )  # the last step with all its gradients
    jump = weights.loc[step + 1] / weights.loc[step - 1]
    return step, jump.idxmax().removesuffix(".bias")


found_step, found_layer = locate(grads, weights)

# %% tags=["nbval-check-output"]
after = grads.loc[accident[0] + 1 :]
claim(
    "after the planted accident the first layer gets exactly no gradient",
    (after["conv1.weight"] == 0).all(),
    measured=after["conv1.weight"].max(),
)
claim(
    "after the planted accident the last bias still gets a gradient in every step",
    (after["fc.bias"] > 0).all(),
    measured=after["fc.bias"].min(),
)
claim(
    "the step of the planted accident is found from the record of the run alone",
    found_step == accident[0],
    measured=(found_step, accident[0]),
)
claim(
    "the layer of the planted accident is found from the record of the run alone",
    found_layer == accident[1],
    measured=(found_layer, accident[1]),
)

# %%
print(f"it struck {found_layer} in step {found_step}")

# %% [markdown]
# ## Experiment: a sweep in the record, and what each field is worth
#
# ### The sweep
#
# A sweep tries settings and seeds. `wandb.sweep` asks a *server* which setting comes next, so it does not work offline. You do not need it for a grid: give all runs one
# **group**, and let `ablate` decide. TensorBoard has the same idea as *hparams*. Each run writes into both.

# %%
from torch.utils.tensorboard.summary import hparams

from labs.ablation import ablate

group = []


def tracked_run(rate):
    seed = torch.initial_seed()  # ablate has set it
    config = told | {"rate": rate, "seed": seed, "order": seed, "rows": [0, 4000]}
    net, history = train(config)
    measured = {
        "accuracy": accuracy(net, test),
        "loss": np.mean(losses(history)[-20:]),
    }
    with start(config, group="rates") as run:
        for row in history.steps:
            run.log({"loss": row["loss"]}, step=row["step"])
        run.log({f"final/{name}": value for name, value in measured.items()})
    group.append(run.id)
    with SummaryWriter(folder / "rates" / run.id) as board:
        for summary in hparams({"rate": rate, "seed": seed}, {}):
            board.file_writer.add_summary(summary)
        board.add_scalar("accuracy", measured["accuracy"])
    return measured


# %%
RATES = [0.03, 0.001, 0.01, 0.1]
study = ablate(tracked_run, base={"rate": 0.03}, vary="rate", values=RATES)
study.table("accuracy").round(3)

# %% [markdown]
# That is the study in memory. Forget it, and rebuild it from the two records.

# %%
runs = [read_wandb(folder, run_id) for run_id in group]
assert {of for _, of, _ in runs} == {"rates"}
from_wandb = pd.DataFrame(
    {"rate": c["rate"], "seed": c["seed"], "accuracy": r[-1]["final/accuracy"]}
    for c, _, r in runs
)

# %%
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData


def board_row(path):
    events = read_board(path)
    noted = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(noted).session_start_info.hparams
    row = {name: settings[name].number_value for name in ("rate", "seed")}
    return row | {"accuracy": events.Scalars("accuracy")[0].value}


from_board = pd.DataFrame(board_row(path) for path in (folder / "rates").iterdir())

# %%
figure, ax = plot.new(7, 3)
curves = pd.DataFrame(
    {"rate": c["rate"], "step": row["_step"], "loss": row["loss"]}
    for c, _, rows in runs
    for row in rows
    if "loss" in row
)
plot.curves(ax, curves, x="step", y="loss", group="rate")
ax.set(xlabel="training step", ylabel="training loss (nats)", yscale="log")
ax.set_title("Twelve runs, drawn from the record alone")
plot.show(
    figure,
    "Training loss for four learning rates with a band over three seeds: 0.001 is "
    "slow, 0.1 is unsteady, the two in the middle are best.",
)

# %% [markdown]
# The slowest rate would need more steps than these. The fastest one jumps so far in its first steps that it does not recover within the sixty. None of this was in memory when it was drawn.

# %% tags=["nbval-check-output"]
columns = ["rate", "seed", "accuracy"]
in_memory = study.frame()[columns].sort_values(columns)
claim(
    "W&B holds twelve runs of a study with its values to the last bit",
    in_memory.to_numpy().tolist()
    == from_wandb.sort_values(columns).to_numpy().tolist(),
    measured=(
        in_memory.to_numpy().tolist(),
        from_wandb.sort_values(columns).to_numpy().tolist(),
    ),
)
claim(
    "TensorBoard holds the settings of a study exactly, its accuracies to 32 bits",
    np.allclose(
        in_memory, from_board[columns].sort_values(columns), rtol=1e-7, atol=0
    ),
)
means = from_wandb.groupby("rate")["accuracy"].mean()
claim(
    "a learning rate of 0.01 is over 3 points better than one ten times smaller or "
    "larger",
    means[0.01] - max(means[0.001], means[0.1]) > 0.03,
    measured=means,
)

# %% [markdown]
# ### Take one field away
#
# Now the question of this lesson. Your record is complete. Remove one field, let a careful person fill the gap with a sensible guess, and repeat. One thing changes at a time.
# Two of the gaps need a word. *Code*: the run was made with an edit that was never committed, a weight decay of 0.01. *Arithmetic*: you cannot install another
# library in the middle of a lesson, but you can do the one thing that another library does: add up in another order. The pictures of each batch are the same, and come the other way round.


# %%
def backwards(config):
    for images, labels in batches(config):
        yield images.flip(0), labels.flip(0)


def train_edited(config, batches=batches, decay=0.01):
    seed_everything(config["seed"])
    net = DigitNet(filters=config["filters"])
    adam = torch.optim.AdamW(net.parameters(), lr=config["rate"], weight_decay=decay)
    return net, fit(net, batches(config), adam)


# %%
import functools

GUESSES = {
    "nothing": {},
    "arithmetic": {"batches": backwards},
    "code": {"decay": 0.0},
    "data": {"rows": [1000, 2000]},
    "order": {"order": 1},
    "seed": {"seed": 1},
}


@functools.cache
def complete_run(seed):
    config = told | untold | {"seed": 100 + seed, "order": 50 + seed}
    return config, *train_edited(config)


def repeat_without(missing):
    config, net, history = complete_run(torch.initial_seed())
    guess = GUESSES[missing]
    settings = {name: guess[name] for name in guess if name in config}
    others = {name: guess[name] for name in guess if name not in config}
    other, repeated = train_edited(config | settings, **others)
    gap = np.abs(np.subtract(losses(history), losses(repeated)))
    gaps.extend({"missing": missing, "step": k, "gap": g} for k, g in enumerate(gap))
    changed = predict(net, test.images).argmax(1) != predict(
        other, test.images
    ).argmax(1)
    return {
        "largest gap": gap.max(),
        "answers changed": changed.float().mean().item(),
    }


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Sort the five fields by the damage that their loss does. Is there one that you could do without?
# :::

# %%
gaps = []
repeats = ablate(
    repeat_without, base={"missing": "nothing"}, vary="missing", values=list(GUESSES)
)
largest = repeats.frame().groupby("missing", sort=False)["largest gap"]
largest.agg(["min", "max"]).map("{:.1e}".format)

# %%
repeats.table("answers changed")[["mean", "std", "n"]].round(3)

# %%
figure, ax = plot.new(7, 3.4)
for colour, (missing, part) in zip(
    plot.COLOURS, pd.DataFrame(gaps).groupby("missing", sort=False), strict=False
):
    middle = part.groupby("step")["gap"].median()
    if middle.max() > 0:  # a logarithmic axis cannot show the exact zeros
        ax.semilogy(middle.where(middle > 0), color=colour, label=missing)
ax.set(
    xlabel="training step",
    ylabel="difference of the loss (nats)",
    title="Four fields change the run, the fifth its last digits",
)
ax.legend(loc="center right", bbox_to_anchor=(1, 0.36), ncols=5, fontsize=8)
plot.show(
    figure,
    "Difference of the loss by step, for five missing fields. Seed, order and data "
    "lie near one tenth to one, code near one hundredth, arithmetic orders of "
    "magnitude below.",
)

# %% [markdown]
# With nothing missing, every bit is the same, for every seed. Without the seed, the order or the data, you have another run from the first step on, and many test digits get another answer. Without the edit you are right in the first
# step, since a decay acts on the second one, and then you are off. And the arithmetic, the field that nobody writes down, differs too, but only in the last digits. Is that the field that you could do without? The next section answers it.
#
# So there are two kinds of repeating. **The same bits** need all five fields. **The same finding** must survive the loss of any of them, and if it does not, it was no finding.

# %% tags=["nbval-check-output"]
worst = repeats.frame().groupby("missing")["largest gap"]
claim(
    "a run repeated with every field of its record is equal to the last bit, at "
    "every seed",
    worst.max()["nothing"] == 0,
    measured=worst.max()["nothing"],
)
claim(
    "a run repeated with any one field of its record missing differs, at every seed",
    worst.min().drop("nothing").min() > 0,
    measured=worst.min().drop("nothing").min(),
)
claim(
    "without seed, order or data a repeated run's losses differ by over 0.1 "
    "somewhere",
    worst.min()[["seed", "order", "data"]].min() > 0.1,
    measured=worst.min(),
)
start_of = (
    pd.DataFrame(gaps).query("missing == 'arithmetic' and step < 2")["gap"].max()
)
claim(
    "other arithmetic: for two steps the losses differ by less than 1e-4",
    start_of < 1e-4,
    measured=start_of,
)
# %% [markdown]
# ## Reproduce: one bit is enough
#
# **The paper says.** {cite:t}`summers2021nondeterminism` train networks with one source of chance at a time. They find that all sources have a similar effect on how much the trained models differ, and
# that even one changed bit in the initial weights makes models that converge to vastly different values.
#
# **We measure** the share of test digits that two networks answer differently. Five networks have other seeds than the reference. Five have the same seed, order and data, and the *lowest bit* of one weight flipped, a change in about the eighth digit.

# %%
long = told | untold | {"steps": 250}


def run_flipped(weight):
    seed_everything(long["seed"])
    net = DigitNet(filters=long["filters"])
    net.conv1.weight.data.view(-1).view(torch.int32)[weight] ^= 1
    adam = torch.optim.Adam(net.parameters(), lr=long["rate"])
    return net, fit(net, batches(long), adam)


# %%
reference = train(long)
runs = {
    "nothing": [train(long)],
    "one bit": [run_flipped(weight) for weight in range(0, 180, 36)],
    "the seed": [train(long | {"seed": seed}) for seed in range(100, 105)],
}


# %%
def answers(net):
    return predict(net, test.images).argmax(1)


def gap_to_reference(history):
    return np.abs(np.subtract(losses(history), losses(reference[1])))


churn, gap = {}, {}
for name, pairs in runs.items():
    changed = [answers(net) != answers(reference[0]) for net, _ in pairs]
    churn[name] = [share.float().mean().item() for share in changed]
    gap[name] = np.mean([gap_to_reference(history) for _, history in pairs], axis=0)

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# One bit of one weight. After 250 steps, what is left of that change: nothing, about the eighth digit still, or more?
# :::

# %%
figure, (left, right) = plot.new(9, 3, columns=2)
for place, (name, shares) in enumerate(churn.items()):
    colour = plot.COLOURS[place]
    smooth = pd.Series(gap[name]).rolling(10, min_periods=1).mean()
    if smooth.max() > 0:  # a logarithmic axis cannot show the exact zeros
        left.semilogy(smooth, color=colour, label=name)
    right.plot(
        [100 * share for share in shares],
        [place] * len(shares),
        "o",
        color=colour,
        alpha=0.6,
    )
left.set(xlabel="training step", ylabel="difference of the loss (nats)")
left.set_title("One bit grows by orders of magnitude")
left.legend(title="changed")
right.set_yticks(range(3), churn)
right.set(xlabel="test digits answered differently (%)", ylim=(2.5, -0.5))
right.set_title("and changes answers")
plot.show(
    figure,
    "Left: the difference of the loss by step. For another seed it is large from "
    "the start, for one bit it climbs from about ten to the minus seven to near a "
    "tenth; with nothing changed there is no line. Right: the share of digits "
    "answered differently is zero for nothing, some percent for one bit, and more "
    "for another seed.",
)

# %% [markdown]
# Left, the orange line: it starts in the last digits, as the arithmetic did above, and it does not stay there. (With nothing changed the difference is exactly zero, and there is no line.) Right: in the end, some pictures get another answer.

# %%
pd.DataFrame(
    {
        name: {"mean": np.mean(s), "min": min(s), "max": max(s)}
        for name, s in churn.items()
    }
).T.round(3)

# %% tags=["nbval-check-output"]
claim(
    "two trainings with nothing changed give the same answer to every picture",
    churn["nothing"] == [0],
    measured=(churn["nothing"], [0]),
)
claim(
    "one bit changed at the start: over 5 of 1,000 answers differ at the end, on "
    "average",
    np.mean(churn["one bit"]) > 0.005,
    measured=churn,
)
claim(
    "one bit changed: losses differ 100 times as much in the last 50 steps as in "
    "the first ten",
    gap["one bit"][-50:].mean() > 100 * gap["one bit"][:10].mean(),
    measured=gap["one bit"],
)
claim(
    "another seed changes more answers of a trained network than one bit does, on "
    "average",
    np.mean(churn["the seed"]) > np.mean(churn["one bit"]),
    measured=churn,
)

# %% [markdown]
# **Why they differ.** The striking half reproduces: the eighth digit of one weight decides what some pictures are taken for. The other half does not: here another seed still does more than one bit. The paper trains its networks until the end. Ours stop
# after 250 steps, and the left panel shows that a change in the last digits needs many steps to grow, while another seed is another network from the start.
#
# So the arithmetic is not the field to leave out. Sixty steps were too few to see what it costs.

# %% [markdown]
# ## Bug hunt: the validation that was never there
#
# A user of MMDetection trained with the W&B logger. The training loss was in the record, and after every validation the scores were not ([open-mmlab/mmdetection#7000](https://github.com/open-mmlab/mmdetection/issues/7000)). The
# same was met in [mmcv#911](https://github.com/open-mmlab/mmcv/pull/911) and [mmcv#2069](https://github.com/open-mmlab/mmcv/issues/2069). Here are the lines, for a training that yields its step, its loss, and after each epoch a score.


# %% tags=["hunt-bug"]
def follow(run, training):
    """Log a training while it goes on; score is None except in the last step of an epoch."""
    for step, loss, score in training:
        run.log({"train/loss": loss}, step=step, commit=True)
        if score is not None:
            run.log({"val/accuracy": score}, step=step, commit=True)


# %% [markdown]
# Let it follow three epochs of four steps, in a real offline run, and read it back.

# %%
import io
import re

three_epochs = [
    (step, 1 / (step + 1), 0.9 if step % 4 == 3 else None) for step in range(12)
]
with contextlib.redirect_stderr(io.StringIO()) as said, start({}) as run:
    follow(run, three_epochs)
_, _, kept = read_wandb(folder, run.id)
{key: sum(key in row for row in kept) for key in ("train/loss", "val/accuracy")}

# %% [markdown]
# Twelve losses, and not one of three scores. W&B does warn about it, once for each loss of data, on the error stream, which the cell above caught. In the log of a long training nobody reads that line. What does the checker say?

# %%
warning = re.search(r"Tried.*ignored\.", said.getvalue())
print(warning[0] if warning else "this version said nothing")

# %%
from labs.hunts.engineering import check_tracker

check_tracker(follow)

# %% [markdown]
# Repair `follow` in a copy of the cell, and check again until all probes pass.
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
def follow(run, training):
    """Log a training while it goes on; score is None except in the last step of an epoch."""
    for step, loss, score in training:
        row = {"train/loss": loss}
        if score is not None:
            row["val/accuracy"] = score
        run.log(
            row, step=step, commit=True
        )  # one row for one step, and then it is closed


# %% tags=["nbval-check-output"]
claim(
    "the repaired tracker passes every probe of its steps",
    check_tracker(follow).passed,
    measured=check_tracker(follow),
)
with start({}) as run:
    follow(run, three_epochs)
_, _, kept = read_wandb(folder, run.id)
claim(
    "with the repaired tracker each score stands in the row of its step in a real "
    "run",
    [row["_step"] for row in kept if "val/accuracy" in row] == [3, 7, 11],
    measured=([row["_step"] for row in kept if "val/accuracy" in row], [3, 7, 11]),
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
# - Use W&B, TensorBoard, MLflow or Aim for the curves, and look into your record once with the eyes of a stranger: repeat one run from it, before it matters.
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
# - keep curves, pictures, tables and a sweep in W&B without a network and in TensorBoard, read them back, and say what each of them loses;
# - find the step and the layer of an accident in a record, when the run itself is gone.

# %% tags=["hide-cell"]
import shutil

wandb.teardown()
shutil.rmtree(folder)
print("knocks at the trap in the whole lesson, after the control:", knocks())
