# %% [markdown]
# # Set up the workbench
#
# The same network, the same photos, two computers, two answers. Every practitioner meets this,
# and there are two places to look: the machine, and the line of code that nobody reads. In this
# lesson you learn to rule out the first in a minute, and you take the second apart. It is the
# line that makes a photo smaller.
#
# :::{admonition} Your card
# - **You will be able to** say which machine and which Python a result came from, clean up
#   kernels and environments that you no longer need, and shrink a folder of photos without
#   damaging what a network sees in them.
# - **You need** this book's environment. ImageMagick and conda are used if they are installed; if
#   not, the lesson says so and goes on.
# - **Time** 20 minutes to read · 20 to debug · 30 to experiment · 15 to reproduce
# :::

# %% [markdown]
# ## The symptom
#
# Your data are photographs of eight kinds of things. Here is one of each.

# %%
import torch

from labs import plot
from labs.data import photos

train = photos("train", n=1000, size=96)
test = photos("test", n=640, size=96)
print(train, test, sep="\n")

# %%
one_each = torch.stack([train.images[train.labels == label][0] for label in range(8)])
figure, axes = plot.new(6, 1.05, columns=8)
plot.images(axes, one_each, titles=train.classes)
plot.show(
    figure,
    "Eight photographs in a row, one of each class, with the name of the class "
    "above.",
)

# %% [markdown]
# The network you want to train reads very small pictures, so every photo is shrunk first. On the
# training machine this is done by torchvision. The program that will use the network was written
# by somebody else, with PyTorch alone. Both ask for `bilinear`.

# %%
from torch.nn import functional as F
from torchvision.transforms.v2.functional import resize

SIDE = 16


def in_training(images):
    return resize(images, [SIDE, SIDE])  # bilinear is the default


def in_the_service(images):
    return F.interpolate(images, size=(SIDE, SIDE), mode="bilinear")


# %% [markdown]
# A small network is enough. `learn` trains one on photos that were shrunk by the function you
# give it.

# %%
from torch import nn

from labs.train import fit


def small_network(classes=8):
    def stage(c_in, c_out):
        return [
            nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
        ]

    return nn.Sequential(
        *stage(3, 24), nn.MaxPool2d(2), *stage(24, 48), nn.MaxPool2d(2), *stage(48, 64),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip


# %%
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset


def learn(shrink, epochs=8):
    model = small_network(len(train.classes))
    data = TensorDataset(shrink(train.images), train.labels)
    order = BatchSampler(RandomSampler(data), 64, drop_last=False)
    batches = DataLoader(
        data, sampler=order, batch_size=None
    )  # a whole batch by one index
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = OneCycleLR(optimizer, 5e-3, total_steps=epochs * len(batches))
    fit(model, batches, optimizer, epochs, scheduler=schedule)
    return model.eval()


# %%
from labs.evaluate import predict
from labs.repro import seed_everything

seed_everything(0)
model = learn(in_training)
answers = {
    shrink.__name__: predict(model, shrink(test.images)).argmax(1)
    for shrink in (in_training, in_the_service)
}
changed = (answers["in_training"] != answers["in_the_service"]).float().mean()

# %% tags=["nbval-check-output"]
from labs.claims import claim

claim(
    "photos shrunk without antialiasing: the same network changes its answer on a "
    "quarter of them",
    changed >= 1 / 4,
    measured=(changed, 1 / 4),
)

# %%
for name, answer in answers.items():
    print(f"accuracy {name}: {(answer == test.labels).float().mean():.3f}")
print(f"photos with another answer: {changed:.3f}")

# %% [markdown]
# The network is small and the task is hard, so many answers are wrong on both sides. But it is
# the same network and the same photos, and the answers differ, mostly for the worse. Nothing
# crashed, no warning was printed, both programs say `bilinear`. The report that reaches you reads
# "works on my machine". So there are two suspects: the machine, and the line that shrinks.

# %% [markdown]
# ## The idea
#
# Shrinking a row of $n$ pixels to $m$ replaces every $n/m$ old pixels by one. The new pixel $i$
# is a weighted mean of the old ones:
#
# $$
# y_i = \frac{\sum_j w_{ij}\, x_j}{\sum_j w_{ij}}, \qquad
# w_{ij} = \max\Bigl(0,\; 1 - \frac{|c_i - p_j|}{r}\Bigr)
# $$
#
# Here $p_j = j + \tfrac12$ is the middle of the old pixel $j$, and $c_i = (i + \tfrac12)\, n / m$
# is the middle of the new pixel $i$. The weight falls off as a triangle: that is what "bilinear"
# promises. It does not promise the **reach** $r$ of the triangle.
#
# - With $r = 1$ a new pixel looks at its two nearest old pixels, however strong the shrinking.
#   All others are never read.
# - With $r = n/m$ the triangle grows with the factor, and every old pixel is heard.
#
# Write it down as it stands, and give it nine pixels of the finest stripes there are.


# %%
def shrink_row(row, m, reach):
    n, shrunk = len(row), []
    for i in range(m):
        centre = (i + 0.5) * n / m
        weights = [max(0.0, 1 - abs(centre - (j + 0.5)) / reach) for j in range(n)]
        total = sum(w * x for w, x in zip(weights, row, strict=True))
        shrunk.append(round(total / sum(weights), 2))
    return shrunk


stripes = [0, 8, 0, 8, 0, 8, 0, 8, 0]
print("reach 1:", shrink_row(stripes, 3, reach=1))
print("reach 3:", shrink_row(stripes, 3, reach=3))

# %% [markdown]
# Check the middle pixel by hand. Its centre is the middle of old pixel 4. With reach 1 only pixel
# 4 counts, and it holds 0. With reach 3 the pixels 2 to 6 count with weights 1, 2, 3, 2, 1, so it
# is $(2 \cdot 8 + 2 \cdot 8) / 9$.
#
# Now read the rows. Reach 3 gives an almost even grey: three pixels cannot show stripes that
# fine, and a grey is the honest answer. Reach 1 gives 8, 0, 8: bold, wide stripes that were never
# in the picture. A fine pattern that comes back as a coarse one is called **aliasing**, and
# shrinking with the long reach is called **antialiased**. The rule behind it: $m$ pixels can show
# at most $m/2$ stripes. What is finer has to be removed before pixels are picked, because
# afterwards nothing tells a false stripe from a true one.

# %% [markdown]
# ## The block
#
# The weights depend on sizes alone, so they form a matrix. Rows and columns are shrunk one after
# the other, which makes the whole operation two matrix products. One line decides between the two
# reaches.


# %%
def shrink_matrix(n, m, antialias=True):
    """Return the weights, [m, n], that shrink a row of n pixels to m."""
    if m > n:
        raise ValueError(f"shrink_matrix: expected m <= n, got n={n} and m={m}")
    reach = n / m if antialias else 1.0
    centres = (torch.arange(m) + 0.5) * n / m
    pixels = torch.arange(n) + 0.5
    weights = (1 - (centres[:, None] - pixels).abs() / reach).clamp(min=0)  # [m, n]
    return weights / weights.sum(1, keepdim=True)


def shrink(images, size, antialias=True):
    """Shrink images [..., h, w] to ``size``, a pair (height, width)."""
    height, width = images.shape[-2:]
    rows = shrink_matrix(height, size[0], antialias)
    columns = shrink_matrix(width, size[1], antialias)
    return rows @ images @ columns.T  # [..., size[0], size[1]]


# %%
print(shrink_matrix(9, 3, antialias=False))
print(9 * shrink_matrix(9, 3)[1])
print(
    tuple(test.images[:4].shape),
    "->",
    tuple(shrink(test.images[:4], (SIDE, 12)).shape),
)

# %% [markdown]
# Without antialiasing each row of the matrix holds a single 1: six of nine pixels are thrown away
# unread. The second print is the triangle 1, 2, 3, 2, 1 that you used by hand. Is this really
# what the libraries do? Compare on sizes without a common divisor.

# %%
import numpy as np
from PIL import Image

odd = test.images[:2, :, :61, :53]
ours = {flag: shrink(odd, (13, 17), antialias=flag) for flag in (True, False)}
torchs = {
    flag: F.interpolate(odd, size=(13, 17), mode="bilinear", antialias=flag)
    for flag in ours
}
off = {flag: (ours[flag] - torchs[flag]).abs().max().item() for flag in ours}

photo = Image.fromarray(
    (test.images[0] * 255).round().byte().permute(1, 2, 0).numpy()
)
pillow = np.asarray(photo.resize((17, 13), Image.Resampling.BILINEAR), float)
pixels = torch.tensor(np.asarray(photo)).permute(2, 0, 1).float()
off_pillow = np.abs(pillow - shrink(pixels, (13, 17)).permute(1, 2, 0).numpy()).max()

# %% tags=["nbval-check-output"]
claim(
    "the shrink written here equals PyTorch's interpolate to 1e-5, antialiased or "
    "not",
    max(off.values()) < 1e-5,
    measured=max(off.values()),
)
claim(
    "the antialiased shrink written here equals Pillow's to one grey level",
    off_pillow <= 1,
    measured=off_pillow,
)

# %% [markdown]
# So one flag explains both programs: torchvision's `resize` and Pillow use the long reach, and
# PyTorch's `interpolate` leaves it out unless you ask for it.
#
# From the terminal, photos are shrunk with
# [ImageMagick](https://imagemagick.org/script/command-line-options.php#resize). Its command is
# `magick` (version 7) or `convert` (version 6):
#
# ```bash
# magick input.jpg -resize 200x200 -quality 50 output.jpg
# ```
#
# This keeps the shape of the photo and makes it fit into a box of 200 by 200; `-resize 50%`
# scales both sides, and `200x200!` gives up the shape. If ImageMagick is installed here, ask it
# for the same triangle and compare.

# %%
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory


def find_magick():
    for command in filter(shutil.which, ("magick", "convert")):
        answer = subprocess.run([command, "-version"], capture_output=True, text=True)
        if (
            "ImageMagick" in answer.stdout
        ):  # the convert.exe of Windows converts disks
            return command
    return None


def shrink_with_magick(command, photo, size):
    with TemporaryDirectory() as folder:
        before, after = Path(folder, "before.png"), Path(folder, "after.png")
        photo.save(before)
        how = ["-filter", "Triangle", "-resize", f"{size[0]}x{size[1]}!"]
        subprocess.run([command, before, *how, after], check=True)
        return np.asarray(Image.open(after).convert("RGB"), float)


# %%
off_pillow = {"ours": off_pillow}
if magick := find_magick():
    off_pillow["ImageMagick"] = np.abs(
        shrink_with_magick(magick, photo, (17, 13)) - pillow
    ).max()
else:
    print("ImageMagick is not installed: the comparison with it is skipped")
for name, worst in off_pillow.items():
    print(f"{name}: at most {worst:.1f} grey levels from Pillow")

# %% tags=["nbval-check-output"]
claim(
    "every antialiased shrinker on this machine agrees to two grey levels",
    max(off_pillow.values()) <= 2,
    measured=max(off_pillow.values()),
)

# %% [markdown]
# Three programs by three groups of people agree, because they compute the same sum. The flag is
# the only thing that tells the two pictures apart. A chart of rings, finer and finer towards the
# rim, shows what it does.

# %%
y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, 192)], indexing="ij")
rings = torch.cos(75 * (x**2 + y**2))
pictures = {
    "the chart": rings,
    "shrunk, not antialiased": shrink(rings, (48, 48), antialias=False),
    "shrunk, antialiased": shrink(rings, (48, 48)),
}
figure, axes = plot.new(5.6, 2.1, columns=3)
for ax, (title, picture) in zip(axes, pictures.items(), strict=True):
    plot.images(ax, picture[None], titles=[title], limits=(-1.01, 1.01))
plot.show(
    figure,
    "Left: rings that get finer towards the rim. Middle: shrunk without "
    "antialiasing, false "
    "rings appear around new centres. Right: shrunk with antialiasing, fine rings "
    "fade to grey.",
)

# %% [markdown]
# All the extra ring systems in the middle picture are inventions of the shrinker. On the right,
# what cannot be shown fades to grey.

# %% [markdown]
# ## Debug: two suspects
#
# ### The machine
#
# You know the culprit by now. In real life you would not, and the cheap suspect comes first:
# which machine, which Python, which versions? Every result you report should carry this table.

# %%
from labs.repro import versions

versions().table()

# %% [markdown]
# `device` ends with the machine architecture, which the commands `arch` and `uname -m` print.
# `uname -r` prints something else, the release of the kernel; the page
# [](../../book/workbench/snapshots.md) tells when you need which. The book's doctor looks
# further: does everything that is installed also *work*, and do the parts fit each other? In a
# terminal it is `python -m labs doctor`.

# %%
from labs.doctor import examine_machine

examine_machine()

# %% [markdown]
# Each line is `ok`, `missing` or `broken`, and each line that is not `ok` says what mends it.
# Note that the doctor does not trust lists: a provider of ONNX Runtime counts only when it loads,
# and torchvision only when one of its operators runs. The exit status is 1 only if a lesson could
# not run. A missing GPU is no such thing.
#
# One line deserves a closer look, because it is behind the most frequent sentence in beginners'
# questions: *it imports in the terminal, and not in the notebook*
# ([one](https://github.com/jupyter/notebook/issues/5054) of
# [many](https://github.com/jupyter/notebook/issues/2359)). A notebook runs in a **kernel**, and a
# kernel is a small file that names a Python. If it names another Python than your terminal
# starts, you have two sets of packages. Build this case on purpose, in a folder that is thrown
# away.

# %%
import json
import os
import venv

away = TemporaryDirectory()
other_python = Path(
    away.name,
    "env",
    *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")),
)
venv.create(Path(away.name, "env"), with_pip=False)

kernel = Path(away.name, "kernels", "python3", "kernel.json")
kernel.parent.mkdir(parents=True)
command = [str(other_python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
spec = {"argv": command, "display_name": "Python 3", "language": "python"}
with kernel.open("w") as file:
    json.dump(spec, file)

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# This notebook has imported `torch`. The new kernel is also called `python3` and shows the same
# name in Jupyter. What happens at `import torch` there? And which line of the doctor's report
# will change?
# :::

# %%
answer = subprocess.run(
    [other_python, "-c", "import torch"], capture_output=True, text=True
)
print(answer.stderr.splitlines()[-1])

# %%
from unittest.mock import patch

with patch.dict(os.environ, JUPYTER_PATH=away.name):  # where Jupyter looks first
    sick = examine_machine()
line = next(finding for finding in sick.findings if finding.part == "Jupyter kernel")

# %% tags=["nbval-check-output"]
claim(
    "the doctor names the kernel that starts another Python",
    line.status == "broken" and "another Python" in line.seen,
    measured=(line.status, line.seen),
)
claim(
    "a kernel that starts another Python counts as a reason why no lesson runs",
    "Jupyter kernel" in sick.stoppers,
    measured=sick.stoppers,
)

# %% [markdown]
# The import fails in the kernel and works here, as in the reports. To find such kernels yourself,
# list them with the Python that each one starts. `jupyter kernelspec list` shows names and
# folders only; the name of the Python is inside the file.

# %%
from jupyter_client.kernelspec import KernelSpecManager

kernels = KernelSpecManager(
    kernel_dirs=[str(kernel.parents[1])], ensure_native_kernel=False
)
for name in kernels.find_kernel_specs():
    starts = Path(kernels.get_kernel_spec(name).argv[0])
    print(
        f"{name}: starts {starts.relative_to(away.name)}, which exists: {starts.exists()}"
    )

# %% [markdown]
# Cleaning up means two things: the kernel is a small file, the environment is a large folder, and
# removing one leaves the other. Here both are thrown away, and only ours: this manager was told
# to look in no other folder.

# %%
kernels.remove_kernel_spec("python3")
shutil.rmtree(Path(away.name, "env"))
print("kernels left:", list(kernels.find_kernel_specs()))
print(
    "files left:",
    [path.name for path in Path(away.name).rglob("*") if path.is_file()],
)
away.cleanup()

# %% [markdown]
# With your own kernels and environments, look first and remove by name. These commands change
# your machine, so the book shows them and does not run them:
#
# ```bash
# jupyter kernelspec list              # which kernels there are
# jupyter kernelspec remove old_kernel
# which conda                          # which conda is started, if any
# conda env list                       # the star marks the active environment
# conda remove --name old_env --all    # the folder and every package in it
# python -m ipykernel install --sys-prefix --name new_env   # a kernel for this Python
# ```

# %%
if shutil.which("conda"):
    listed = subprocess.run(
        ["conda", "env", "list", "--json"], capture_output=True, text=True
    )
    print(
        "conda environments:",
        [Path(folder).name for folder in json.loads(listed.stdout)["envs"]],
    )
else:
    print("conda is not installed here, so there are no environments of it to list")

# %% [markdown]
# ### The line
#
# The machine is in order: the doctor found no stopper until you planted one, and both programs
# ran in this very process. So put the two shrunk pictures through the network and watch where the
# answers part. `capture` keeps what the layers return.

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# The two small pictures differ, relative to their strength, by some fraction. Convolutions
# average over neighbours, and noise drowns in an average. So will the relative difference
# *shrink* from layer to layer, or *grow*?
# :::

# %%
from labs.hooks import capture

stages = {
    "2": "after stage 1",
    "6": "after stage 2",
    "10": "after stage 3",
    "13": "the answer",
}
seen = {}
for name, shrinker in {"home": in_training, "service": in_the_service}.items():
    with capture(model, *stages) as maps, torch.no_grad():
        small = shrinker(test.images)
        model(small)
    seen[name] = {
        "the picture": small - 0.5,
        **{stages[layer]: maps[layer] for layer in stages},
    }

apart = {}
for where, home in seen["home"].items():
    apart[where] = ((seen["service"][where] - home).norm() / home.norm()).item()

# %% tags=["nbval-check-output"]
claim(
    "two ways to shrink a photo: their relative difference doubles from picture to "
    "last stage",
    apart["after stage 3"] >= 2 * apart["the picture"],
    measured=(apart["after stage 3"], 2 * apart["the picture"]),
)

# %%
change = (
    (seen["service"]["after stage 1"] - seen["home"]["after stage 1"])
    .abs()
    .mean((2, 3))
)
which, channel = divmod(
    change.argmax().item(), change.shape[1]
)  # of [photos, channels]
views = [seen[side]["after stage 1"][which, channel] for side in ("home", "service")]

figure, axes = plot.new(9, 2.4, columns=4)
small = torch.stack(
    [seen[side]["the picture"][which] + 0.5 for side in ("home", "service")]
)
plot.images(axes[:2], small, titles=["photo, at home", "in the service"])
brightest = max(view.max().item() for view in views)
plot.images(
    axes[2:],
    torch.stack(views),
    titles=["map, at home", "in the service"],
    limits=(0, brightest),
)
plot.show(
    figure,
    "The same photo shrunk at home and in the service, the second one jagged; "
    "beside them one "
    "map of the first stage for each, brighter and more broken up in the service.",
)

# %% [markdown]
# On the left the two small pictures; on the right, for the same channel of the first stage, what
# the network saw in each, on one scale. How much of this survives to the end?

# %%
figure, ax = plot.new(6.5, 2.6)
ax.barh(list(apart), list(apart.values()), color=plot.COLOURS[0])
ax.invert_yaxis()
ax.set(
    xlabel="difference / strength at home",
    title="The network amplifies what the shrinker added",
)
plot.show(
    figure,
    "Horizontal bars, one for the picture and one per stage of the network; the "
    "relative "
    "difference grows with depth.",
)

# %% [markdown]
# It grows. The false stripes are not noise to these filters: edges and stripes are exactly what a
# first layer looks for, so it answers to the invented ones as it does to true ones. Which stripes
# get through? Feed pure stripes to both matrices, from none to the finest that a photo can hold,
# and measure how much contrast is left in the small row.

# %%
size = test.images.shape[-1]
number = torch.arange(size // 2 + 1)  # of stripes across the photo
where = torch.arange(size)[:, None] + 0.5
waves = torch.exp(
    2j * torch.pi * number * where / size
)  # [size, number], cosine and sine in one
contrast = {
    flag: (shrink_matrix(size, SIDE, antialias=flag).cfloat() @ waves).abs().mean(0)
    for flag in (True, False)
}
too_fine = (number >= SIDE) & (
    number < size / 3
)  # twice what can be shown, and finer

# %% tags=["nbval-check-output"]
claim(
    "antialiasing passes under a tenth of the contrast of stripes twice too fine",
    contrast[True][too_fine].max() < 0.1,
    measured=contrast[True][too_fine].max(),
)
claim(
    "without antialiasing over half of the contrast of stripes twice too fine passes",
    contrast[False][too_fine].min() > 0.5,
    measured=contrast[False][too_fine].min(),
)

# %%
figure, ax = plot.new(7, 3.2)
ax.plot(number, contrast[False], color=plot.COLOURS[1], label="not antialiased")
ax.plot(
    number, contrast[True], color=plot.COLOURS[0], linestyle="--", label="antialiased"
)
ax.axvline(SIDE / 2, color="gray", linewidth=1)
ax.set(
    xlabel="stripes across the picture",
    ylabel="contrast that is left",
    title="Without antialiasing, stripes survive that cannot be shown",
)
ax.legend()
plot.show(
    figure,
    "Contrast against the number of stripes. The antialiased curve is near zero at "
    "twice the "
    "vertical line, which is at half the small side; the other falls slowly and "
    "stays high there.",
)

# %% [markdown]
# The grey line is at half the small side. Everything right of it can only come out as something
# false, and there the plain curve is still high. The antialiased one falls, though not like a
# wall: it dims some stripes on the left too. That is the price of the triangle, and why Pillow
# also offers longer filters such as Lanczos.

# %% [markdown]
# ## Experiment: what may a small photo cost?
#
# Two knobs turn when you shrink a folder: the quality at which files are stored, and the filter
# that shrinks them. Take the quality first. A JPEG file gets smaller because small details are
# stored coarsely; the loss is measured in decibels of PSNR, where higher is closer to the
# original.

# %%
import io


def as_pillow(image):
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def as_tensor(pictures):
    """Return pictures of one size as a tensor [N,3,H,W] in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def store(picture, quality):
    """Return the picture as it comes back from a JPEG file, and the size of the file in bytes."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file), len(file.getvalue())


def psnr(a, b):
    return -10 * np.log10(np.mean((np.asarray(a) / 255 - np.asarray(b) / 255) ** 2))


# %%
import pandas as pd

originals = [as_pillow(image) for image in test.images]
at_home = (answers["in_training"] == test.labels).float().mean().item()
rows = []
for quality in (5, 10, 20, 35, 50, 75, 95):
    stored, sizes = zip(
        *(store(picture, quality) for picture in originals), strict=True
    )
    decibels = [psnr(a, b) for a, b in zip(stored, originals, strict=True)]
    hits = predict(model, in_training(as_tensor(stored))).argmax(1) == test.labels
    row = {"bytes per photo": np.mean(sizes), "PSNR in dB": np.mean(decibels)}
    rows.append({"quality": quality, **row, "accuracy": hits.float().mean().item()})
files = pd.DataFrame(rows).set_index("quality")

# %% tags=["nbval-check-output"]
steps = files[["bytes per photo", "PSNR in dB"]].diff().dropna()
claim(
    "JPEG: every step up in quality costs bytes and gains decibels",
    bool((steps > 0).all(axis=None)),
)
claim(
    "JPEG: the step from quality 75 to 95 costs more bytes than all of the file at "
    "75",
    files["bytes per photo"][95] > 2 * files["bytes per photo"][75],
    measured=(files["bytes per photo"][95], 2 * files["bytes per photo"][75]),
)
claim(
    "JPEG of quality 20 and above costs the network at most 3 points of accuracy",
    files["accuracy"].loc[20:].min() >= at_home - 0.03,
    measured=(files["accuracy"].loc[20:].min(), at_home - 0.03),
)

# %%
files.round({"bytes per photo": 0, "PSNR in dB": 1, "accuracy": 3})

# %%
figure, ax = plot.new(7, 3.2)
ax.plot(
    files["bytes per photo"], files["PSNR in dB"], marker="o", color=plot.COLOURS[0]
)
for quality, row in files.iterrows():
    ax.annotate(
        f"{quality}",
        row[["bytes per photo", "PSNR in dB"]],
        xytext=(7, -4),
        textcoords="offset points",
        fontsize=8,
    )
ax.set(
    xlabel="bytes per photo",
    ylabel="PSNR in dB",
    title="The last points of quality are the dearest",
)
plot.show(
    figure,
    "PSNR against bytes per photo for JPEG qualities from 5 to 95; the curve climbs "
    "steeply "
    "first and flattens.",
)

# %% [markdown]
# The curve bends: the first bytes buy most of the picture, the last ones hardly any of it. The
# column of accuracies is the surprise. The network hardly cares, because it sees the photos only
# after many stored pixels were averaged into one. The order matters: store first and shrink
# later, and the average wipes out what JPEG did.
#
# Now the filter. Is the antialiased picture *better*, or is it only that both sides must do the
# same? Train with three filters, and give each network two exams: one with its own filter, and
# one with torchvision's, as if only the service had been written properly. One thing varies, the
# filter of the training machine; everything is repeated over seeds.

# %%
from labs.ablation import ablate


def score(model, shrink):
    return (
        (predict(model, shrink(test.images)).argmax(1) == test.labels)
        .float()
        .mean()
        .item()
    )


SHRINKERS = {
    "antialiased": in_training,
    "bilinear": in_the_service,
    "nearest": lambda images: F.interpolate(
        images, size=(SIDE, SIDE), mode="nearest-exact"
    ),
}


def train_and_examine(trained_with):
    model = learn(SHRINKERS[trained_with])
    own, torchvisions = (
        score(model, SHRINKERS[trained_with]),
        score(model, in_training),
    )
    return {"same filter": own, "deployed antialiased": torchvisions}


study = ablate(
    train_and_examine,
    base={"trained_with": "antialiased"},
    vary="trained_with",
    values=list(SHRINKERS),
    seeds=range(3),
)

# %%
same, other = study.table("same filter"), study.table("deployed antialiased")

# %% tags=["nbval-check-output"]
claim(
    "trained and used with the same filter, none is 5 points worse than the "
    "antialiased one",
    same["delta"].min() > -0.05,
    measured=same["delta"].min(),
)
lost = (same["mean"] - other["mean"]).drop("antialiased")
claim(
    "trained without antialiasing and deployed with it, a network loses at least 3 "
    "points",
    lost.min() >= 0.03,
    measured=lost.min(),
)

# %%
shown = pd.concat({"same filter": same, "deployed antialiased": other}, axis=1)
shown.loc[:, (slice(None), ["mean", "ci95", "n"])].round(3)

# %%
figure, ax = plot.new(7, 3.2)
for shift, (exam, table, marker) in enumerate(
    [("same filter", same, "o"), ("deployed antialiased", other, "s")]
):
    ax.errorbar(
        np.arange(len(table)) + 0.12 * shift,
        table["mean"],
        table["ci95"],
        fmt=marker,
        capsize=4,
        color=plot.COLOURS[shift],
        label=exam,
    )
ax.set_xticks(range(len(same)), [f"trained with\n{name}" for name in same.index])
ax.set(ylabel="accuracy", title="What costs accuracy is the mismatch")
ax.legend()
plot.show(
    figure,
    "Accuracy with 95 % intervals for three training filters. With the same filter "
    "at test "
    "the three are close; deployed antialiased, the two others are clearly lower.",
)

# %% [markdown]
# Read the dots first: with the same filter on both sides, the three networks are about equally
# good. A network can learn to use aliased pictures. Then read the squares: a change of filter
# between training and use costs far more than any choice of filter. So the sentence to remember
# is not "always antialias". It is: **write down the shrinker, and use the same one everywhere**.
# And then choose the antialiased one, because it is the one that other programs reproduce.

# %% [markdown]
# ## Reproduce
#
# {cite:t}`parmar2022aliased` found the same flag in the programs that compute the Fréchet
# Inception Distance (FID), the number by which image generators are ranked. **The paper says:**
# Pillow widens its filters with the factor, whereas the other widely used libraries use a fixed
# width, so that their "bilinear" and "bicubic" resemble picking the nearest pixel; and this alone
# moves the distance between features, though nothing was generated at all.
#
# The distance compares two clouds of features by their means $\mu$ and covariances $\Sigma$
# {cite:p}`heusel2017ttur`:
#
# $$
# d = \lVert \mu_a - \mu_b \rVert^2
#   + \operatorname{tr}\bigl(\Sigma_a + \Sigma_b - 2\,(\Sigma_a \Sigma_b)^{1/2}\bigr)
# $$
#
# As features take the 64 numbers that your own network computes before its last layer. Shrink the
# *same* test photos in different ways, and measure how far each lies from Pillow's bilinear. As a
# yardstick, measure one half of the photos against the other: different pictures of the same
# kinds of things.

# %%
from scipy.linalg import sqrtm


def frechet(a, b):
    """Return the Fréchet distance between two sets of features, each [images, features]."""
    a, b = a.double().numpy(), b.double().numpy()
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    gap = ((a.mean(0) - b.mean(0)) ** 2).sum()
    distance = gap + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    return max(float(distance), 0.0)  # rounding may leave it just below


def with_pillow(filter_name):
    how = Image.Resampling[filter_name]
    return as_tensor([picture.resize((SIDE, SIDE), how) for picture in originals])


def with_torch(mode):
    return F.interpolate(test.images, size=(SIDE, SIDE), mode=mode).clamp(0, 1)


# %%
pictures = {
    f"Pillow {name.lower()}": with_pillow(name)
    for name in ("BILINEAR", "BOX", "BICUBIC", "LANCZOS")
}
pictures |= {
    f"PyTorch {mode}": with_torch(mode)
    for mode in ("bilinear", "bicubic", "nearest-exact")
}
try:
    import cv2
except ImportError:
    print("OpenCV is not installed: its row is left out")
else:
    small = [cv2.resize(np.asarray(picture), (SIDE, SIDE)) for picture in originals]
    pictures["OpenCV bilinear"] = as_tensor(small)

features = {name: predict(model[:-1], small) for name, small in pictures.items()}
distance = {
    name: frechet(features["Pillow bilinear"], cloud)
    for name, cloud in features.items()
}
halves = features["Pillow bilinear"].chunk(2)
yardstick = frechet(*halves)

# %%
nearest, reference = pictures["PyTorch nearest-exact"], pictures["Pillow bilinear"]
to_nearest = {
    name: (small - nearest).abs().mean().item() for name, small in pictures.items()
}
to_pillow = {
    name: (small - reference).abs().mean().item() for name, small in pictures.items()
}
fixed = [name for name in pictures if not name.startswith("Pillow")]
wide = [name for name in pictures if name.startswith("Pillow")]

# %% tags=["nbval-check-output"]
claim(
    "every fixed-width bilinear and bicubic lies nearer to picking pixels than to "
    "Pillow",
    all(to_nearest[name] < to_pillow[name] for name in fixed),
)
claim(
    "every fixed-width filter moves the photos three times as far as any filter of "
    "Pillow",
    min(distance[name] for name in fixed) > 3 * max(distance[name] for name in wide),
    measured=(
        min(distance[name] for name in fixed),
        3 * max(distance[name] for name in wide),
    ),
)

# %%
table = pd.DataFrame(
    {
        "Fréchet distance": distance,
        "grey levels to nearest": to_nearest,
        "grey levels to Pillow": to_pillow,
    }
)
table[["grey levels to nearest", "grey levels to Pillow"]] *= 255
print(f"yardstick, one half of the photos against the other: {yardstick:.2f}")
table.round(2)

# %% [markdown]
# **We measured** the same order. Between Pillow's own filters there are differences, and they are
# small; every fixed-width filter lies far outside, the bicubic one about as far as plain picking,
# and OpenCV, where it is installed, beside PyTorch. The yardstick says how far chance alone would
# carry the photos. **Why the numbers differ:** the paper's features come from an Inception
# network with many more features, and its photos are larger, so only the order can be compared.
# The paper also reports that JPEG moves the distance; here the network sees an average of many
# stored pixels, and the table of the experiment showed how little is left of JPEG then.

# %% [markdown]
# ## Bug hunt: photos on their side
#
# A team shrinks the photos of its users before training. Some time later the boxes that
# annotators drew lie beside the objects, for some photos only. The same report came to an image
# server ([thumbor #94](https://github.com/thumbor/thumbor/pull/94)), to a thumbnail library
# ([easy-thumbnails #91](https://github.com/SmileyChris/easy-thumbnails/issues/91)) and to tools
# for vision data ([labelImg #198](https://github.com/HumanSignal/labelImg/issues/198), [FiftyOne
# #3778](https://github.com/voxel51/fiftyone/issues/3778)). Here is the function. It should write
# a small, upright copy, and it looks complete.

# %% tags=["hunt-bug"]
from PIL import Image


def shrink_photo(source, target, longest):
    """Write a JPEG of the photo: upright, no side longer than ``longest`` pixels."""
    with Image.open(source) as photo:
        small = photo.convert("RGB")
        small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        small.save(target, quality=90)


# %% [markdown]
# `take_photo` writes a file as a phone does that was held upright (orientation 1) or on its side
# (6). Look at both before and after.

# %%
from labs.hunts.workbench import check_shrink_photo, take_photo

pictures, titles = [], []
with TemporaryDirectory() as folder:
    source, target = Path(folder, "photo.jpg"), Path(folder, "small.jpg")
    for orientation in (1, 6):
        pictures.append(take_photo(source, (96, 64), orientation))
        shrink_photo(source, target, 48)
        with Image.open(target) as small:
            pictures.append(small.copy())
        titles += [f"orientation {orientation}, as seen", "its small copy"]

figure, axes = plot.new(9, 2.2, columns=4)
for ax, picture, title in zip(axes, pictures, titles, strict=True):
    plot.images(ax, as_tensor([picture]), titles=[title])
plot.show(
    figure,
    "Two pairs of pictures with four coloured corners. For orientation 1 the small "
    "copy "
    "shows the photo; for orientation 6 it is turned by a quarter.",
)

# %%
check_shrink_photo(shrink_photo)

# %% [markdown]
# Repair `shrink_photo` until the verdict says *solved*. The probes also look at square photos,
# where a wrong turn changes no size, and at photos that were fine before.
#
# :::{dropdown} Hint 1
# Print `Image.open(source).size` for the photo with orientation 6, and compare it with what your
# image viewer shows. Who of the two is right?
# :::
#
# :::{dropdown} Hint 2
# A camera stores the pixels as its sensor read them and adds a note, the EXIF tag `0x0112`, on
# how to turn them. Viewers obey the note. Ask `photo.getexif()` before and after: where does the
# note go? Does copying it into the small file help the program that trains?
# :::
#
# :::{dropdown} Hint 3
# There are eight values, four of them mirrored, so `rotate` alone cannot do it. Look up
# `ImageOps.exif_transpose`. Note what it returns, and what it does to the note.
# :::

# %% tags=["hunt-solution", "hide-cell"]
from PIL import Image, ImageOps


def shrink_photo(source, target, longest):
    """Write a JPEG of the photo: upright, no side longer than ``longest`` pixels."""
    with Image.open(source) as photo:
        # The pixels are turned as the tag says, and the tag is dropped, so nobody turns them again.
        small = ImageOps.exif_transpose(photo).convert("RGB")
        small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        small.save(target, quality=90)


# %% tags=["nbval-check-output"]
claim(
    "the repaired function that shrinks a photo passes every probe",
    check_shrink_photo(shrink_photo).passed,
    measured=check_shrink_photo(shrink_photo),
)

# %% [markdown]
# ImageMagick has the same trap and the same cure: `-auto-orient` turns the pixels, and `-strip`
# removes the notes afterwards.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** A row of 96 pixels shows 18 stripes, and is shrunk to 16 without antialiasing.
# How many stripes does the small row show? Find the rule, then check it for 18, 30 and 47.
#
# :::{dropdown} Solution 1
# Sixteen samples cannot tell a number of stripes from that number plus or minus a multiple of
# sixteen. So 18 looks like 2, 30 like 2 and 47 like 1: take the distance to the nearest multiple
# of 16. To check it, count the strongest frequency that comes out:
#
# ```python
# small = shrink_matrix(96, 16, antialias=False).cfloat() @ waves[:, [18, 30, 47]]
# print(torch.fft.fft(small, dim=0).abs().argmax(0))  # 14 is 2, and 15 is 1, read backwards
# ```
# :::
#
# **Exercise 2.** Write `gone(kernels)`, which takes a `KernelSpecManager` and returns the names
# of the kernels whose Python no longer exists. Why is it not enough to look at the path in
# `argv[0]`?
#
# :::{dropdown} Solution 2
# ```python
# def gone(kernels):
#     starts = {name: kernels.get_kernel_spec(name).argv[0] for name in kernels.find_kernel_specs()}
#     return [name for name, program in starts.items() if shutil.which(program) is None]
# ```
# `argv[0]` may be a bare `python`, which is looked up on the `PATH`; `shutil.which` handles a
# full path and a bare name alike. For a bare `python` Jupyter even takes its own, so such a
# kernel is never gone.
# :::
#
# **Exercise 3.** Find the highest quality at which the mean file of the test photos stays below
# two kilobytes, with as few calls of `store` per photo as you can.
#
# :::{dropdown} Solution 3
# Size grows with quality, so halve the interval:
#
# ```python
# low, high = 1, 95
# while low < high:
#     middle = (low + high + 1) // 2
#     mean = np.mean([store(picture, middle)[1] for picture in originals])
#     low, high = (middle, high) if mean < 2000 else (low, middle - 1)
# print(low)
# ```
# Seven rounds are enough for 95 values.
# :::
#
# **Exercise 4.** Set `SIDE = 48` and train again. Predict first: does the service still lose
# accuracy?
#
# :::{dropdown} Solution 4
# Hardly. At half size the two nearest pixels are almost all the pixels there are, so both reaches
# read nearly the same. That makes the bug so hard to find: it is absent in a quick test with
# small photos, and grows with the size of the photos that users send.
# :::

# %% [markdown]
# ## In practice
#
# - **Know the default.** Antialiased: Pillow, ImageMagick, torchvision's `resize` and
#   `v2.Resize`. Not antialiased unless you ask: PyTorch's `F.interpolate` (`antialias=True`),
#   OpenCV's `INTER_LINEAR` and `INTER_CUBIC` (`INTER_AREA` averages), TensorFlow's
#   `tf.image.resize` (`antialias=True`), and the `Resize` operator of ONNX (attribute
#   `antialias`).
# - **Export the shrinker with the model**, or test the service on one photo whose right output
#   you stored. Either catches the bug of this lesson.
# - **Never overwrite the originals.** `magick mogrify` does exactly that. Write to another
#   folder, and look at a few results.
# - **Large photos are cheap to shrink once and dear to decode in every epoch.** `Image.draft`
#   lets JPEG decode at a half, a quarter or an eighth of the size; it reads fewer pixels and then
#   still needs an antialiased `resize`.
# - **Store masks with nearest, and never as JPEG.** A mean of two class numbers is a third class.
# - **One environment per project**, made from a file (`requirements.lock` or `environment.yml`),
#   so that it can be thrown away. When a system upgrade is due, take a
#   [snapshot](../../book/workbench/snapshots.md) first.
# - **Say `python -m pip`**, never `pip` alone: then the packages go to the Python that you name.

# %% [markdown]
# ## You can now
#
# - rule out the machine in a minute: versions, doctor, the Python behind a kernel;
# - shrink photos so that two programs agree, and choose a quality by looking at a curve;
# - find out, with stripes and with captured layers, what a step before the network does to it.
