# %% [markdown]
# # Set up the workbench
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** say which Python a notebook runs on, and why it has other packages than your terminal · find a kernel that points
# to the wrong place, and remove it · say what a seed fixes, and what another machine may still change.
#
# **You need** this book's environment, and Python: functions, dicts and a `for` loop. One training is run for you, and needs no explanation
# yet. ImageMagick and conda are used if they are installed; if not, the lesson says so and goes on.
#
# **Time** read 20 min · debug 15 min · experiment 10 min · reproduce 10 min · hunt 15 min · exercises 15 min
# :::

# %% [markdown]
# ## The symptom
#
# A package is installed, the terminal imports it, and the notebook says that there is no such module. Many people have met this message
# ([one report](https://github.com/jupyter/notebook/issues/5054), [another](https://github.com/jupyter/notebook/issues/2359)). You can
# produce it in two cells. The first one makes a second Python, in a folder that is thrown away at the end.

# %%
import os
import sys
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

away = TemporaryDirectory()
venv.create(Path(away.name, "env"), with_pip=False)
program = "Scripts/python.exe" if os.name == "nt" else "bin/python"
other_python = Path(away.name, "env", program)

# %% [markdown]
# The second one asks both to import Pillow, a package for pictures.

# %%
import subprocess


def last_line(command):
    """Run a command, and return the last line that it says."""
    said = subprocess.run(command, capture_output=True, text=True)
    return (said.stdout + said.stderr).strip().splitlines()[-1]


pythons = {"this notebook": sys.executable, "the second Python": other_python}
for name, python in pythons.items():
    print(f"{name:18}", last_line([python, "-c", "import PIL; print('found it')"]))

# %% [markdown]
# It is the same machine, the same line and the same program, and one of the two finds no Pillow. Nothing is broken. There are two
# Pythons, each with packages of its own, and the only question is which of them you asked.

# %% [markdown]
# ## The idea
#
# An **environment** is a folder with a Python and its packages. A Python looks for packages in its own environment. So whatever starts a
# Python also chooses the packages. Two things start one for you, and they choose in different ways.
#
# - The **terminal** looks for a program called `python`. It goes through a list of folders, the `PATH`, and takes the first that it finds.
# - **Jupyter** starts a *kernel*. A kernel is known by a small file, `kernel.json`, that holds a command, which mostly begins with the full name of a Python.

# %%
from labs import plot

BLUE, ORANGE = plot.COLOURS[:2]
ROWS = {
    (1, BLUE): [
        "terminal",
        "PATH:\nthe first python",
        "environment A:\nits packages",
    ],
    (0, ORANGE): [
        "notebook",
        "kernel.json:\na full name",
        "environment B:\nits packages",
    ],
}
figure, ax = plot.new(height=2.2)
for (row, colour), words in ROWS.items():
    for step, word in enumerate(words):
        box = {"boxstyle": "round,pad=0.5", "fc": "white", "ec": colour, "lw": 1.5}
        ax.text(step, row, word, ha="center", va="center", bbox=box)
    for step in (0, 1):
        arrow = {"arrowstyle": "->", "color": colour, "lw": 1.5}
        ax.annotate("", (step + 0.66, row), (step + 0.34, row), arrowprops=arrow)
ax.set(xlim=(-0.4, 2.4), ylim=(-0.5, 1.5))
ax.set_axis_off()
plot.show(
    figure,
    "A terminal and a notebook find their Python in two different ways, so they may "
    "end in two environments.",
)

# %% [markdown]
# The upper way is a search that you can do by hand. Here are three folders, and the programs that they hold.

# %%
folders = {"tools": ["magick"], "project": ["python"], "system": ["python", "magick"]}


def first_with(program, path):
    return next((folder for folder in path if program in folders[folder]), "nowhere")


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# With the `PATH` in the order above, which `python` is started, which `magick`, and which `conda`? And with the `PATH` in reverse?
# :::

# %%
for path in (list(folders), list(reversed(folders))):
    print({name: first_with(name, path) for name in ("python", "magick", "conda")})

# %% [markdown]
# In the order above the project's Python is found; in reverse, the system's hides it. That is the main thing that *activating* an environment does: it
# puts the environment's folder first on the `PATH`. A notebook does not care, because its kernel holds a full name. No folder holds a
# `conda`, so that command ends in an error.

# %% [markdown]
# ## The block
#
# The lower way is a file. Write two kernels into the folder that is thrown away. One starts the second Python, and one starts a Python that
# was deleted long ago.

# %%
import json

kernels = Path(away.name, "kernels")
for name, python in {"python3": other_python, "old": "/deleted/bin/python"}.items():
    start = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    Path(kernels, name).mkdir(parents=True)
    with Path(kernels, name, "kernel.json").open("w") as file:
        json.dump({"argv": start, "display_name": "Python 3"}, file)

# %% [markdown]
# Jupyter shows `Python 3` for both, so a menu cannot tell them apart. To see which Python a kernel starts, read the first word of its
# command.


# %%
def starts(folder):
    """Return, for each kernel in a folder, the Python that it starts."""
    found = {}
    for file in sorted(Path(folder).glob("*/kernel.json")):
        command = json.loads(file.read_text())["argv"]
        found[file.parent.name] = command[0]
    return found


# %%
for name, python in starts(kernels).items():
    print(f"{name:8} starts .../{'/'.join(Path(python).parts[-3:])}")
print("this one starts", Path(sys.executable).name)

# %%
from jupyter_client.kernelspec import KernelSpecManager

manager = KernelSpecManager(kernel_dirs=[str(kernels)], ensure_native_kernel=False)
print("Jupyter finds", ", ".join(sorted(manager.find_kernel_specs())))

# %% tags=["nbval-check-output"]
from labs.claims import claim

listed = {
    name: manager.get_kernel_spec(name).argv[0]
    for name in manager.find_kernel_specs()
}
claim(
    "the list of kernels written in lesson 0.1 names the Pythons that Jupyter's does",
    starts(kernels) == listed,
    measured=sorted(listed),
)

# %% [markdown]
# Jupyter finds the same two, and names the same Python for each. In your own notebook the short answer is `sys.executable`: print it first whenever a module is missing.

# %% [markdown]
# ## Debug: is it the machine?
#
# ### The machine
#
# When two computers disagree, look at the machine first, because that takes a minute. Which Python, which versions? Every result that you
# report should carry this table.

# %%
from labs.repro import versions

versions().table()

# %% [markdown]
# The row `device` ends with the architecture of the processor, which the commands `arch` and `uname -m` print as well. `uname -r` prints
# something else, the release of the operating system's kernel. That kernel has nothing to do with Jupyter's. The book's *doctor* looks
# further: does everything that is installed also work, and do the parts fit each other? In a terminal, the same report is
# `python -m labs doctor`.

# %%
from labs.doctor import examine_machine

report = examine_machine()
report

# %% [markdown]
# Each line is `ok`, `missing` or `broken`, and each line that is not `ok` says what mends it. The last line is the one to read: can every
# lesson run here? A missing GPU stops no lesson.
#
# ### The kernel
#
# Now let Jupyter look into your folder of two kernels first.
#
# :::{admonition} Predict
# :class: predict
# The versions and the packages stay as they are. Which line of the doctor's report will change, if any, and will a lesson still run?
# :::

# %%
from unittest.mock import patch

with patch.dict(os.environ, JUPYTER_PATH=away.name):  # where Jupyter looks first
    sick = examine_machine()
print("every lesson can run:", sick.ready, "| what stops it:", *sick.stoppers)

# %% tags=["nbval-check-output"]
line = next(found for found in sick.findings if found.part == "Jupyter kernel")
claim(
    "the doctor reports a kernel that starts another Python as broken, and as a "
    "reason why no lesson runs",
    line.status == "broken" and "Jupyter kernel" in sick.stoppers,
    measured=(line.status, sick.stoppers),
)

# %% [markdown]
# Jupyter looked into your folder first and found a `python3` there, so it never reached the right kernel of that name; the second file, `old`, leads to a Python that is gone. The doctor names the part. Now clean up. A kernel is a small file and an environment is a large folder, so removing one
# leaves the other.

# %%
import shutil

for name in ("python3", "old"):
    manager.remove_kernel_spec(name)
print("kernels left:", starts(kernels))
print("the environment is still there:", other_python.exists())
shutil.rmtree(Path(away.name, "env"))

# %% [markdown]
# The kernels were gone and the environment was not, until the last line removed it. With your own, look first and remove by name. These
# commands change your machine, so the book shows them and does not run them:
#
# ```bash
# jupyter kernelspec list              # which kernels there are, and where
# jupyter kernelspec remove old_kernel
# which conda                          # which conda is started, if any
# conda env list                       # the star marks the active environment
# conda remove --name old_env --all    # the folder and every package in it
# python -m ipykernel install --sys-prefix --name new_env   # a kernel for this Python
# ```
#
# Asking changes nothing, so this line runs wherever conda is installed.

# %%
if shutil.which("conda"):
    ask = ["conda", "env", "list", "--json"]
    answer = subprocess.run(ask, capture_output=True, text=True).stdout
    print("conda environments:", [Path(at).name for at in json.loads(answer)["envs"]])
else:
    print("conda is not installed here, so there is no environment of it to list")

# %% [markdown]
# ### A program beside Python
#
# Programs that are no Python are found on the `PATH` too. The one that you will want first shrinks pictures:
# [ImageMagick](https://imagemagick.org/script/command-line-options.php#resize), with the command `magick`, or `convert` before version 7.
# `-resize 200x200` makes a photo fit into a box of 200 by 200, `-resize 50%` halves both sides, and `-quality 50` stores the file
# coarsely. In Python, Pillow does the same. Store a photo once, and shrink it with both.

# %%
from PIL import Image

from labs.data import photos

pixels = (photos("test", n=3, size=400).images[2] * 255).byte().permute(1, 2, 0)
source, by_pillow, by_magick = (
    Path(away.name, f"{name}.jpg") for name in ("input", "pillow", "output")
)
Image.fromarray(pixels.numpy()).save(source, quality=95)
with Image.open(source) as photo:
    photo.thumbnail((200, 200))
    photo.save(by_pillow, quality=50)

# %%
magick = next(found for found in report.findings if found.part == "ImageMagick")
if magick.status == "ok":
    command = magick.seen.split()[0]  # magick, or convert before version 7
    how = ["-resize", "200x200", "-quality", "50"]
    subprocess.run([command, source, *how, by_magick], check=True)
for file in filter(Path.exists, (source, by_pillow, by_magick)):
    print(f"{file.stem:7} {Image.open(file).size}, {file.stat().st_size // 1024} kB")

# %%
figure, axes = plot.new(height=3.6, columns=2)
for ax, file in zip(axes, (source, by_pillow), strict=True):
    with Image.open(file) as shown:
        ax.imshow(shown)
        ax.set_title(f"{shown.width} by {shown.height} pixels")
    ax.set_axis_off()
plot.show(
    figure,
    "Half the width, half the height and a coarser file: the small copy still shows "
    "the same thing.",
)

# %% [markdown]
# The copies have the asked size and a small part of the bytes. You still see the same things in them. Whether a network does
# is the question of [a later lesson](../01_foundations/02_shrink_a_picture), which takes the shrinking apart.
#
# Two pages go on from here, on things that a notebook should not run: how to take a [snapshot](../../book/workbench/snapshots.md) before
# a system upgrade, and how to [edit in Neovim](../../book/workbench/edit_in_nvim.md).

# %% [markdown]
# ## Experiment: what does a seed fix?
#
# Suppose both computers have the same Python, the same versions and the same *seed*, the number that starts the random generator. Their
# results may still differ in the last digits, because a number in a computer has only so many of them:

# %%
print((0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3))

# %% [markdown]
# The same three numbers, added in another order, give another sum. A training adds millions of numbers, and the order depends on the
# processor and on how many threads share the work. You can change the order without another computer. A network learns from its photos in small groups, *batches*. How wrong it is on a batch (its *loss*) is a mean over the group, so reversing the order *within* each batch changes nothing but the order of sums.
#
# `train_small` trains a small network on a thousand photos of eight kinds of things. The next stage explains every line of it; here it is
# a machine that turns a seed into answers.

# %%
import torch
from torch import nn

from labs.evaluate import predict
from labs.train import fit

train, test = photos("train", n=1000, size=16), photos("test", n=640, size=16)


def block(c_in, c_out):
    conv = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(c_out), nn.ReLU()]


def train_small(seed, turned=False, epochs=8):
    torch.manual_seed(seed)
    pool = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 8)]
    model = nn.Sequential(*block(3, 16), *block(16, 32), *pool)
    order = [rows for _ in range(epochs) for rows in torch.randperm(1000).split(50)]
    order = [rows.flip(0) for rows in order] if turned else order
    batches = [(train.images[rows], train.labels[rows]) for rows in order]
    fit(model, batches, torch.optim.AdamW(model.parameters(), lr=5e-3))
    return predict(model, test.images).argmax(1)


# %% [markdown]
# `ablate` changes one thing, and repeats each setting with three seeds. Each run is compared with a first run of the same seed.

# %%
from functools import cache

CHANGES = {
    "nothing": train_small,
    "order in a batch": lambda seed: train_small(seed, turned=True),
    "seed": lambda seed: train_small(seed + 100),
}
first = cache(train_small)  # is run once for each seed, and kept


def compare(changed):
    seed = torch.initial_seed()  # set by ablate
    answers = CHANGES[changed](seed)
    return {
        "other answers": (answers != first(seed)).float().mean().item(),
        "accuracy": (answers == test.labels).float().mean().item(),
    }


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# For how many of 100 test photos will the answer change when nothing is changed, when only the order in each batch is reversed, and
# when the seed is another one?
# :::

# %%
import pandas as pd

from labs.ablation import ablate

study = ablate(compare, {"changed": "nothing"}, vary="changed", values=list(CHANGES))
other, accuracy = study.table("other answers"), study.table("accuracy")
tables = {"other answers": other["mean"], "accuracy": accuracy["mean"]}
pd.DataFrame(tables).round(3)

# %% tags=["nbval-check-output"]
runs = study.frame().pivot(index="seed", columns="changed", values="other answers")
claim(
    "the same seed twice on one machine gives the same answer to every test photo",
    runs["nothing"].max() == 0,
    measured=runs["nothing"].tolist(),
)
claim(
    "turning round the photos within each batch changes the trained network's answer "
    "on some test photo with each of three seeds, and on one in fifty on average",
    runs["order in a batch"].min() > 0 and runs["order in a batch"].mean() >= 0.02,
    measured=runs["order in a batch"].tolist(),
)
claim(
    "how many answers another order of sums changes is not the same with every seed",
    runs["order in a batch"].min() < runs["order in a batch"].max(),
    measured=runs["order in a batch"].tolist(),
)

# %%
figure, ax = plot.new(height=2.4)
for place, change in enumerate(CHANGES):
    ax.bar(place, other["mean"][change], width=0.5, color=plot.COLOURS[2], alpha=0.5)
    ax.plot([place] * len(runs), runs[change], "o", color="#222222")
ax.set_xticks(range(len(CHANGES)), list(CHANGES))
ax.set(xlabel="what is changed", ylabel="share of other answers")
plot.show(
    figure,
    "With nothing changed no answer changes; with only the order of sums changed, a "
    "part of the answers does, and with another seed many more.",
    alt="Bars for three changes, with one dot for each of three seeds: zero, a part, "
    "and many more.",
)

# %% [markdown]
# Each dot is a seed, and each bar is their mean. With nothing changed the training repeats itself to the last answer. With another order of
# sums, which is the same mathematics, a part of the answers changes. A difference in the last digit enters at the first step, and the steps after it let it grow. (AdamW may help it along, because it turns very small gradients into steps of normal size. With another optimizer or network, expect another share.) Exercise 3 asks how fast. So small a network probably leaves many photos close to the border between
# two answers, where a little is enough to move them across. The accuracies lie close together, so a score alone would have hidden all this.
#
# So the sentence to remember is: a seed fixes the random numbers, and not the sums. A result that has to be equal to the last digit needs
# the same machine. A result that is worth reporting holds over several seeds.

# %% [markdown]
# ## Reproduce
#
# How large are the errors that start this? {cite:t}`goldberg1991floating` answers for a plain sum. Write $\varepsilon = 2^{-24}$ for the
# largest relative error of one rounding in `float32`. **The paper says:** adding $n$ numbers one after another can be as wrong as if each had
# been changed by a share of $n\varepsilon$. Kahan's formula, which keeps what each addition lost and adds it to the next number, is only as
# wrong as if each had been changed by $2\varepsilon$.
#
# Add the pixels of the test photos in both ways, and compare with the exact sum.

# %%
import numpy as np


def add_up(values, kahan):
    total = lost = np.float32(0)
    for value in values:
        more = value - lost
        bigger = total + more
        if kahan:
            lost = (bigger - total) - more  # what the addition did not take in
        total = bigger
    return total


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# A photo of 16 by 16 pixels has 768 values. With ten times as many values, will the error grow? In both ways of adding?
# :::

# %%
import math

values = test.images.flatten().numpy()
sizes = [100, 1_000, 10_000, 100_000]
rows = {}
for n in sizes:
    exact = math.fsum(values[:n])
    rows[n] = {
        name: abs(float(add_up(values[:n], kahan)) - exact) / exact * 2**24
        for name, kahan in {"one after another": False, "Kahan": True}.items()
    }
errors = pd.DataFrame(rows).T.rename_axis("values added")
errors.round(1)

# %% tags=["nbval-check-output"]
claim(
    "Kahan's sum of up to 100,000 pixels stays within the two roundings that the "
    "paper promises",
    errors["Kahan"].max() <= 2,
    measured=errors["Kahan"].to_dict(),
)
claim(
    "the plain float32 sum of 100,000 pixels is wrong by at least ten times as much "
    "as Kahan's bound, and by less than the plain sum's bound",
    20 <= errors["one after another"].iloc[-1] <= sizes[-1],
    measured=errors["one after another"].to_dict(),
)

# %% [markdown]
# **We measured** the share by which each sum is wrong, in units of $\varepsilon$. Kahan's sum stays below the two of the paper at every size.
# The plain sum loses little at first and much at the end. **Why the numbers differ:** the paper's $n\varepsilon$ is what can happen at worst. Roundings go
# up and down, and many of them cancel, so the plain sum is far better than its bound. Errors of this kind, though far smaller ones, are what the experiment let grow into other answers.

# %% [markdown]
# ## Bug hunt: a script without its packages
#
# **Difficulty** 1 of 3 · **Importance** 3 of 3 · **Time** 15 min
#
# A notebook starts a training script. It works for the author. For a colleague the script stops with `No module named 'torch'`, although the
# colleague's notebook has just imported torch. Such reports came to
# [PyTorch Lightning #2472](https://github.com/Lightning-AI/pytorch-lightning/issues/2472),
# [Spinning Up #53](https://github.com/openai/spinningup/pull/53) and
# [a tool that trains YOLO](https://github.com/SpreadKnowledge/YOLO_train_detection_GUI/pull/2). Here is the function. Edit it in this cell until
# the check below it passes.

# %% tags=["hunt-bug"]
import subprocess


def run_script(script, arguments=()):
    """Run a Python script in a process of its own, and return what it prints.

    Raises subprocess.CalledProcessError when the script fails.
    """
    command = ["python", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# %%
from labs.hunts.workbench import check_run_script

check_run_script(run_script)

# %% [markdown]
# The verdict lists what was probed. Some probes imitate the colleague's computer while they run. The others hold already; see to it that your
# change keeps them.
#
# :::{dropdown} Hint 1
# Let a script print `sys.prefix`, the folder of its environment. Run it with `run_script`, and compare with `sys.prefix` in the notebook.
# :::
#
# :::{dropdown} Hint 2
# Go back to the drawing of the two ways. Which of them does `run_script` go, and which of them did the notebook come?
# :::
#
# :::{dropdown} Hint 3
# The running Python knows its own full name, and this lesson has printed the last part of it. Use the name as it is. If you tidy the path with
# `resolve()`, it follows a link out of the environment; that, too, was
# [a real bug](https://github.com/ROCm/TransformerEngine/pull/491).
# :::

# %% tags=["hunt-solution", "hide-cell"]
import subprocess
import sys


def run_with_this_python(script, arguments=()):
    """Run a Python script with this notebook's Python, and return what it prints."""
    # The full name of the running Python: no search, and the same environment.
    words = [sys.executable, script, *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


# %% tags=["nbval-check-output"]
verdict = check_run_script(run_with_this_python)
claim(
    "the repaired function that runs a script passes every probe",
    verdict.passed,
    measured=verdict,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Write `gone(folder)`, which returns the names of the kernels in a folder whose Python no longer exists. Use `starts`. Why is it
# not enough to ask `Path(python).exists()`?
#
# :::{dropdown} Solution 1
# ```python
# def gone(folder):
#     return [name for name, python in starts(folder).items() if not shutil.which(python)]
# ```
# The command may begin with a bare `python`, which is no file in this folder but is found on the `PATH`. `shutil.which` takes a full name and a
# bare one alike. For a bare `python` Jupyter even takes its own, so such a kernel is never gone.
# :::
#
# **Exercise 2.** Add `1e8`, `1` and `-1e8` as `np.float32` numbers, by hand first and then in Python, in each order that gives another sum. How
# many sums are there, and which is right?
#
# :::{dropdown} Solution 2
# ```python
# big, one = np.float32(1e8), np.float32(1)
# print((big + one) - big, (big - big) + one)
# ```
# There are two, 0 and 1, and 1 is right. Near `1e8` the neighbours of a `float32` number are 8 apart, so the one is rounded away wherever it
# meets the large number first.
# :::
#
# **Exercise 3.** Train with `epochs=1` and with `epochs=16` in the experiment. Predict first: which of them has more other answers when only the order
# in each batch is turned round?
#
# :::{dropdown} Solution 3
# ```python
# for epochs in (1, 8, 16):
#     runs = [train_small(0, turned, epochs) for turned in (False, True)]
#     print(epochs, (runs[0] != runs[1]).float().mean().item())
# ```
# After one epoch hardly an answer differs, because the difference had few steps in which to grow; after eight and sixteen many do. Sixteen need
# not be worse than eight: a likely reason is that a network which has learned for longer has fewer photos close to a border.
# :::

# %% [markdown]
# ## In practice
#
# - **Say `python -m pip`**, never `pip` alone: then the packages go to the Python that you name. In a notebook, `%pip install` does that
#   for the kernel's Python.
# - **One environment per project**, made from a file (`requirements.lock` or `environment.yml`), so that it can be thrown away.
# - **No file of yours is called like a package.** A `random.py` or `torch.py` beside your script is imported instead.
# - **Deterministic is not portable.** `torch.use_deterministic_algorithms(True)` lets only operations run that repeat themselves on one machine, a GPU too. PyTorch
#   [does not promise](https://docs.pytorch.org/docs/stable/notes/randomness.html) that two machines agree.
# - **Write down the machine** with every result: `labs.repro.versions()` here, `pip freeze` and `nvidia-smi` elsewhere.

# %% [markdown]
# ## You can now
#
# - say which Python a terminal, a notebook and a script run on, and why;
# - rule out the machine in a minute: versions, the doctor, and the Python behind a kernel;
# - say what a seed fixes, and why two machines may still answer differently.
