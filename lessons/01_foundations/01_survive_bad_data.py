# %% [markdown]
# # Survive bad data
#
# Sooner or later a training run dies because of one broken file. The usual cure is three lines
# long, and everybody has written it. It works: the run goes through, and the score even goes up.
# This lesson is about that score.
#
# :::{admonition} Your card
# - **You will be able to** write a data set that neither dies of a broken file nor hides it, audit
#   a folder with NumPy, Pandas and Matplotlib, and say what skipping, replacing and stopping do to
#   accuracy and to the balance of the classes.
# - **You need** Python, and a rough idea of what training a network means. Exceptions, NumPy,
#   Pandas and Matplotlib are introduced where you need them.
# - **Time** 30 minutes to read · 30 to debug · 40 to experiment · 20 to reproduce
# :::

# %% [markdown]
# ## The symptom
#
# A shop sends you photographs of its clothes: a folder for each of four cameras, and a catalogue
# that was typed by hand. The two folded cells play the shop. They take sound pictures
# (Fashion-MNIST, {cite:t}`xiao2017fashion`), break some of them in ways that real files break, and
# keep the answer key, which real life never gives you. They hold the solution to much of what
# follows, so leave them folded for now.

# %% tags=["hide-cell"]
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from PIL import Image

from labs.data import clothes, faults

sound, test = clothes("train", n=4000), clothes("test")
classes, SHIRT = sound.classes, sound.classes.index("shirt")
folder = TemporaryDirectory()
root = Path(folder.name)

random = np.random.default_rng(0)
camera = random.choice(list("ABC"), len(sound))
share_of_d = np.where(sound.labels == SHIRT, 0.9, 0.03)
camera[random.random(len(sound)) < share_of_d] = "D"

names = [f"{letter}/{number:04}.jpg" for number, letter in enumerate(camera)]
for name, image in zip(names, sound.images, strict=True):
    (root / name).parent.mkdir(exist_ok=True)
    pixels = (image[0] * 255).byte().numpy()
    Image.fromarray(pixels).convert("RGB").save(root / name, quality=95)

# %% tags=["hide-cell"]
from hashlib import sha256

checksums = {name: sha256((root / name).read_bytes()).hexdigest() for name in names}
slips = faults.mislabel(sound.labels, share=0.01)
typed = pd.Series([classes[label] for label in slips.labels])
typed = typed.mask(random.random(len(typed)) < 0.01)
pd.DataFrame({"file": names, "label": typed}).to_csv(
    root / "catalogue.csv", index=False
)

EVERYDAY = [
    faults.truncated, faults.empty, faults.zeroed, faults.html, faults.bomb, faults.nan_array,
    faults.grey_band, faults.blank, faults.one_pixel, faults.sixteen_bit, faults.cmyk,
    faults.exif_rotated, faults.grayscale, faults.wrong_extension, faults.duplicate,
    faults.bit_rot,
]  # fmt: skip
damages = [
    faults.damage(root / letter, share=0.05, kinds=EVERYDAY) for letter in "ABC"
]
damages.append(
    faults.damage(root / "D", share=0.95, kinds=[faults.truncated, faults.zeroed])
)
keys = [
    key.table().assign(path=lambda t, k=key: k.root.name + "/" + t["path"])
    for key in damages
]
answer = pd.concat(keys, ignore_index=True)

# %% [markdown]
# This is what you received. Pandas reads the catalogue into a **table** (a `DataFrame`).

# %%
catalogue = pd.read_csv(root / "catalogue.csv")
print(
    f"{len(catalogue)} rows, {catalogue['label'].isna().sum()} of them without a label"
)
catalogue.head(3)

# %% [markdown]
# Rows without a label cannot be trained on, so drop them for now, and number the classes. A
# PyTorch `Dataset` needs two methods: how many samples there are, and how to read one.

# %%
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tv

rows = catalogue.dropna().reset_index(drop=True)
rows["number"] = rows["label"].map(classes.index)


# %%
def to_input(picture):
    """Turn a picture [3,H,W] in [0, 1] into what the network reads, [1,28,28]."""
    return tv.resize(tv.rgb_to_grayscale(picture), [28, 28])


class Pictures(Dataset):
    def __init__(self, files, labels):
        self.files, self.labels = list(files), list(labels)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        image = Image.open(root / self.files[index]).convert("RGB")
        return to_input(tv.pil_to_tensor(image) / 255), self.labels[index]


# %% [markdown]
# Go through the folder once, batch by batch, as a training run does. Python reports trouble by
# raising an **exception**: an object that ends one function after the other until somebody
# catches it. `try` marks the lines to watch, `except` catches, and `finally` runs in any case.

# %%
loader = DataLoader(
    Pictures(rows["file"], rows["number"]), batch_size=64, shuffle=True
)
batches = 0
try:
    for _ in loader:
        batches += 1
except OSError as error:
    print(type(error).__name__, "-", str(error).replace(str(root), "folder"))
finally:
    print(f"{batches} of {len(loader)} batches were read")

# %% [markdown]
# The run did not survive its first moments. With fewer broken files it would die in the middle of
# the night, and after you have removed the one file, again in the next. So you search for the
# message, and you find this cure: if a picture cannot be read, return the next one.


# %%
class PatchedPictures(Pictures):
    def __getitem__(self, index):
        try:
            return super().__getitem__(index)
        except Exception:
            return self[(index + 1) % len(self)]


def load(dataset):
    """Return all pictures, [n,1,28,28], and all labels, [n]."""
    pictures, labels = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
    return torch.stack(pictures), torch.tensor(labels)


patched_pictures, patched_labels = load(PatchedPictures(rows["file"], rows["number"]))

# %% [markdown]
# It runs to the end. Now train a small network (one hidden layer, on pictures shrunk to 14 by 14)
# on three quarters of what was delivered, and use the last quarter for **validation**. In a cupboard the shop finds a backup of the same pictures,
# all of them sound. Train on that too. Both networks also sit a test on pictures that none of
# this has touched.

# %%
from collections import OrderedDict

from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import TensorDataset

from labs.repro import budget, device, seed_everything
from labs.train import fit


def train(pictures, labels, sampler=None, epochs=6):
    layers = OrderedDict(
        pool=nn.AvgPool2d(2), flat=nn.Flatten(), hidden=nn.Linear(196, 256)
    )
    layers |= OrderedDict(
        norm=nn.BatchNorm1d(256), relu=nn.ReLU(), answer=nn.Linear(256, 10)
    )
    net = nn.Sequential(layers).to(device())
    samples = TensorDataset(pictures, labels)
    batches = DataLoader(samples, 64, shuffle=sampler is None, sampler=sampler)
    adam = torch.optim.AdamW(net.parameters(), lr=0.005)
    cycle = OneCycleLR(adam, 0.005, total_steps=epochs * len(batches))
    fit(net, batches, adam, epochs, scheduler=cycle)
    return net


# %%
from labs.evaluate import predict


def recalls(net, pictures, labels):
    """Return the share of each class that the network gets right."""
    right = predict(net, pictures).argmax(1) == labels
    return pd.Series(right.numpy(), dtype=float).groupby(labels.numpy()).mean()


def accuracy(net, pictures, labels):
    return (predict(net, pictures).argmax(1) == labels).float().mean().item()


# %%
catalogued = torch.tensor(catalogue["label"].notna().to_numpy())
backup = sound.images[catalogued]
numbers = torch.tensor(rows["number"].to_numpy())

# %%
report = {}
for name, pictures, labels in [
    ("broken, patched", patched_pictures, patched_labels),
    ("sound backup", backup, numbers),
]:
    seed_everything(0)
    order = torch.randperm(len(labels))
    kept, held_out = order[len(order) // 4 :], order[: len(order) // 4]
    net = train(pictures[kept], labels[kept])
    report[name] = {
        "own validation": accuracy(net, pictures[held_out], labels[held_out]),
        "test": accuracy(net, test.images, test.labels),
        "shirts found in the test": recalls(net, test.images, test.labels)[SHIRT],
    }

# %% [markdown]
# :::{admonition} Predict
# :class: predict
# A part of the files is broken. Which of the two networks reports the higher accuracy on its
# own validation pictures, and by how much? Which finds more shirts in the test?
# :::

# %%
pd.DataFrame(report).T.round(3)

# %% tags=["nbval-check-output"]
from labs.claims import claim

broken, whole = report["broken, patched"], report["sound backup"]
claim(
    "a folder with broken files reports at least 1 point more validation accuracy "
    "than a sound one",
    broken["own validation"] - whole["own validation"] >= 0.01,
    measured=broken["own validation"] - whole["own validation"],
)
claim(
    "trained on a folder with broken files, a network finds 30 of 100 shirts fewer "
    "in the test",
    whole["shirts found in the test"] - broken["shirts found in the test"] >= 0.30,
    measured=whole["shirts found in the test"] - broken["shirts found in the test"],
)

# %% [markdown]
# No error, no warning, a better score, and a network that has nearly forgotten what a shirt is.
# Two things must have happened between the folder and the score. By the end of this lesson you
# can name both, and you will know which of them the three lines are to blame for.

# %% [markdown]
# ## The idea: count on six pictures
#
# Take a shop with six pictures, shirts 0, 1, 2 and bags 3, 4, 5, where the files 1 and 2 are
# broken. An epoch asks for all six. What is delivered under each policy?


# %%
def next_readable(i, broken):
    return next_readable((i + 1) % 6, broken) if i in broken else i


asked, broken = range(6), {1, 2}
delivered = {
    "skip": [i for i in asked if i not in broken],
    "next": [next_readable(i, broken) for i in asked],
    "same class": [0 if i in broken else i for i in asked],
}
counts = pd.DataFrame(
    {name: np.bincount(ids, minlength=6) for name, ids in delivered.items()}
)
counts.T.rename(columns=lambda i: f"{'shirt' if i < 3 else 'bag'} {i}")

# %% [markdown]
# `np.bincount` counts how often each number occurs. Check the rows by hand:
#
# - *skip* delivers four pictures, one of them a shirt. The share of shirts falls from 1/2 to 1/4.
# - *next* delivers bag 3 three times, once for itself and once for each broken shirt. The share
#   falls to 1/6.
# - *same class* delivers shirt 0 three times and keeps the share at 1/2, with one shirt's worth of
#   information.
#
# In general, let a class hold a share $s$ of the files and lose a part $b$ of them, while the
# other classes lose $a$. After skipping, its share is
#
# $$s' = \frac{s\,(1 - b)}{s\,(1 - b) + (1 - s)(1 - a)},$$
#
# so skipping keeps the balance only if $a = b$: if files break without regard to their class.
# And a repeated picture does harm of its own. If one copy lands in training and one in
# validation, the network is examined on a question whose answer it has seen.

# %% tags=["nbval-check-output"]
shirts = {name: sum(i < 3 for i in ids) / len(ids) for name, ids in delivered.items()}

s, a, b = 1 / 2, 0, 2 / 3
claim(
    "the formula for the share of a class after skipping agrees with a count by hand",
    np.isclose(shirts["skip"], s * (1 - b) / (s * (1 - b) + (1 - s) * (1 - a))),
)

# %% [markdown]
# ## The block
#
# A handler has to answer three questions: *which* errors does it catch, around *which* lines, and
# *who* is told? To answer the first, open one file of each kind of damage, and see what Pillow
# raises. Exceptions form a family: `except OSError` also catches every descendant of `OSError`.

# %%
said = []
for kind, path in answer.drop_duplicates("kind")[["kind", "path"]].to_numpy():
    try:
        Image.open(root / path).load()
    except Exception as error:
        said.append((kind, type(error).__name__, isinstance(error, OSError)))
pd.DataFrame(said, columns=["damage", "exception", "is an OSError"])

# %% [markdown]
# `except OSError` would catch all but one: a file that claims to be gigantic is none. Other
# versions and formats raise further types. So the block catches every `Exception`, but around two
# lines only, those where Pillow works. It turns whatever comes into *one* exception of its own;
# `raise ... from` keeps the original attached as `__cause__`.
#
# Note what it does not catch. A bare `except:` would also swallow Ctrl-C, which is a
# `BaseException` and no `Exception`. And `to_input` stands in the `else` branch, outside the
# `try`: an error in *your* code must not pass for a broken file.

# %%
from PIL import ImageOps


class BadPictureError(Exception):
    """Report a file that gives no pixels."""


def read_picture(path):
    try:
        with Image.open(path) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:
        raise BadPictureError(f"{path.name}: {error}") from error
    return torch.tensor(pixels).permute(2, 0, 1) / 255  # [H,W,3] -> [3,H,W]


class SurvivingPictures(Pictures):
    def __getitem__(self, index):
        try:
            picture = read_picture(root / self.files[index])
        except BadPictureError as bad:
            return index, None, bad
        else:
            return index, to_input(picture), self.labels[index]


def collate(samples):
    """Stack what could be read; hand on what could not, by index."""
    failed = {index: bad for index, picture, bad in samples if picture is None}
    read = [sample for sample in samples if sample[0] not in failed]
    pictures = (
        torch.stack([p for _, p, _ in read]) if read else torch.empty(0, 1, 28, 28)
    )
    labels = torch.tensor([label for *_, label in read], dtype=torch.int64)
    return pictures, labels, [index for index, *_ in read], failed


# %% [markdown]
# A sample that cannot be read travels as `None` with its reason, and `collate` (which makes a
# batch of samples) leaves it out. The reasons travel *in the batch*. A list inside the data set
# would look simpler, but with worker processes each worker fills its own copy, and all of them
# are lost.

# %%
dataset = SurvivingPictures(rows["file"], rows["number"])
pictures, labels, indices, failed = collate([dataset[i] for i in range(len(dataset))])
print(
    tuple(pictures.shape),
    tuple(labels.shape),
    f"{len(failed)} pictures could not be read",
)

bad = next(bad for bad in failed.values() if "truncated" in str(bad))
print(repr(bad.__cause__), "became", repr(bad))

# %% [markdown]
# The original exception did not say which file it was about; ours does. The library that you keep
# has the same data set with more care (16-bit pictures, links, pipes, limits on size), called
# `RobustImageDataset`. Do they agree on this folder?

# %%
from labs.data import RobustImageDataset
from labs.data import collate as robust_collate

paths = [root / file for file in rows["file"]]
robust = RobustImageDataset(
    paths, labels=rows["number"], classes=classes, transform=to_input, on_error="skip"
)
batch = robust_collate([robust[i] for i in range(len(robust))])

# %% tags=["nbval-check-output"]
claim(
    "the loader written here delivers the samples of RobustImageDataset in the same "
    "order, with the same labels",
    indices == batch.indices.tolist() and torch.equal(labels, batch.labels),
    measured=(indices, batch.indices.tolist()),
)

claim(
    "the loader written here delivers the pixels of RobustImageDataset to 1e-6",
    (pictures - batch.images).abs().max() < 1e-6,
    measured=(pictures - batch.images).abs().max(),
)
claim(
    "the loader written here reports the failures that RobustImageDataset reports",
    list(failed) == [f.index for f in batch.failures],
    measured=(list(failed), [f.index for f in batch.failures]),
)

# %% [markdown]
# They do. This is the policy *skip*. The policy *stop* can be kinder than the crash you began
# with: look at all files first, then raise everything at once. An `ExceptionGroup` holds many
# exceptions, and `except*` catches those of a kind.

# %%
try:
    raise ExceptionGroup("this folder cannot be trained on", list(failed.values()))
except* BadPictureError as group:
    print(f"{group.message}: {len(group.exceptions)} files, among them")
    for bad in group.exceptions[:3]:
        print(" ", str(bad).replace(str(root), "folder"))

# %% [markdown]
# ## Debug: six instruments
#
# ### Count what was delivered
#
# First instrument: give the patched data set the numbers of the rows as labels. Then each sample
# says whose picture it is.

# %%
_, shown = load(PatchedPictures(rows["file"], range(len(rows))))
times = np.bincount(shown, minlength=len(rows))

seed_everything(0)  # the same split as above
order = torch.randperm(len(rows))
in_training, in_validation = (
    shown[order[len(order) // 4 :]],
    shown[order[: len(order) // 4]],
)
leak = np.isin(in_validation, in_training).mean()
share = {"catalogue": (numbers == SHIRT), "delivered": (patched_labels == SHIRT)}
share = {where: is_shirt.float().mean().item() for where, is_shirt in share.items()}

# %% tags=["nbval-check-output"]
claim(
    "replacing bad pictures by the next good one delivers some picture 3 times in "
    "an epoch",
    times.max() >= 3,
    measured=times.max(),
)
claim(
    "replacing bad pictures puts at least 10 % of the validation pictures into the "
    "training",
    leak >= 0.10,
    measured=leak,
)
claim(
    "replacing bad pictures cuts the share of shirts to less than half of the "
    "catalogue's",
    share["delivered"] < 0.5 * share["catalogue"],
    measured=(share["delivered"], 0.5 * share["catalogue"]),
)

# %%
print(f"pictures delivered 0, 1, 2, ... times: {np.bincount(times)}")
print(f"validation pictures that were trained on: {leak:.0%}")
print("share of shirts:", {where: round(value, 3) for where, value in share.items()})

# %% [markdown]
# Here are the two causes. The patch **leaks**: pictures are repeated, and a good part of the
# validation set is known from training. And the **shirts are gone**, from training and from
# validation alike. Shirts are the hardest class, so an exam without them is easier. Which of the
# two makes the score? That is a question for an experiment, further below. First, find out what
# is in the folder.
#
# ### Audit the files
#
# `scan_images` decodes every file to its last pixel, in processes of its own, and reports each
# one. It knows nothing of the answer key.

# %%
from labs.data import scan_images

scan = scan_images(root, ignore=("catalogue.csv",))
scan.problems()

# %% [markdown]
# One file may be in two rows: a picture of one pixel is tiny and blank, and all blank pictures are
# copies of each other. *Bad* files give no pixels. A *warning* file decodes and trains like any other, and deserves a
# look first. Now open the answer key, and compare. `merge` joins two tables on a common column;
# `how="outer"` keeps the rows that only one of them has, and fills the gaps with `NaN`.

# %%
found = scan.table().rename(columns={"path": "file"})
key = answer.rename(columns={"path": "file"})[["file", "kind", "verdict"]]
audit = found.merge(key, on="file", how="outer")
audit["verdict"] = audit["verdict"].fillna("sound")
audit["kind"] = audit["kind"].fillna("sound")
audit["scan says"] = np.select(
    [~audit["ok"], audit["warnings"] != ""], ["bad", "warning"], "sound"
)
crossed = pd.crosstab(audit["verdict"], audit["scan says"])
crossed

# %% tags=["nbval-check-output"]
claim("every file of the answer key is in the scan", audit["ok"].notna().all())
claim(
    "a scan finds every bad file of the answer key",
    (audit["verdict"] == "bad").sum() == crossed.loc["bad", "bad"],
    measured=((audit["verdict"] == "bad").sum(), crossed.loc["bad", "bad"]),
)
claim(
    "a scan warns of every file of the answer key that needs a warning",
    (audit["verdict"] == "warning").sum() == crossed.loc["warning", "warning"],
    measured=(
        (audit["verdict"] == "warning").sum(),
        crossed.loc["warning", "warning"],
    ),
)
claim(
    "a scan accuses no sound file of the answer key",
    crossed.loc["sound"].drop("sound").sum() == 0,
    measured=crossed.loc["sound"].drop("sound").sum(),
)
claim(
    "of the damage in the answer key, a scan misses bit rot and nothing else",
    set(audit.loc[audit["verdict"] == "unseen", "kind"]) == {"bit_rot"},
    measured=(set(audit.loc[audit["verdict"] == "unseen", "kind"]), {"bit_rot"}),
)

# %% [markdown]
# See what a network gets from the files that decode. `read_picture` is the one from your block.

# %%
from labs import plot

kinds = ["grey_band", "blank", "one_pixel", "sixteen_bit", "exif_rotated", "bit_rot"]
example = audit.drop_duplicates("kind").set_index("kind")["file"]
views = torch.stack([to_input(read_picture(root / example[kind])) for kind in kinds])
figure, axes = plot.new(9, 1.8, columns=6)
plot.images(axes, views, [kind.replace("_", " ") for kind in kinds])
plot.show(
    figure,
    "Six damaged pictures as the network sees them: a garment that ends in grey, "
    "two even "
    "squares, a white silhouette, an upright garment, and a garment with a "
    "disturbed lower part.",
)

# %% [markdown]
# Most of the *grey band* picture never came. *Blank* and *one pixel* show nothing at all. In the *16-bit*
# picture Pillow's `convert` has cut off all values above 255, so only a silhouette is left. The
# *rotated* one stands upright because the block obeys the tag. In the last one, *bit rot*, some
# bits were flipped. A JPEG file carries no checksum: it decodes to wrong pixels, and no decoder
# can know. Two more faults are invisible here by their nature, because the files
# are perfect: a wrong label, and a missing one. Join the catalogue, too.

# %%
audit = catalogue.merge(audit, on="file", how="outer", indicator="where")
where = {"left_only": "catalogue only", "right_only": "disk only", "both": "both"}
audit["where"].map(where).value_counts()

# %% [markdown]
# *Catalogue only* are files that were renamed (a picture saved as `.npy` or `.png`), so the loader
# never finds them. *Disk only* are the renamed ones, and copies that nobody catalogued.
#
# ### Let the missing values speak
#
# Measure each file: its mean brightness and its contrast, the standard deviation of its pixels.
# Where there is nothing to measure, enter `NaN`, "not a number". Do not drop it and do not fill
# it in: what is missing is information.


# %%
def measure(file):
    try:
        pixels = np.asarray(Image.open(root / file))
    except (OSError, Image.DecompressionBombError):
        return np.nan, np.nan
    return pixels.mean(dtype=np.float64), pixels.std(dtype=np.float64)


# %%
measured = np.array([measure(file) for file in audit["file"]])  # [files,2], float64
audit[["brightness", "contrast"]] = measured
audit[["label", "brightness", "contrast"]].isna().sum()

# %% [markdown]
# `isna` marks the missing values, and the mean of marks is a share. `groupby` splits the table by
# camera, or by label, and computes it for each part.
#
# :::{admonition} Predict
# :class: predict
# If files broke by chance alone, what would the two bar charts look like?
# :::

# %%
lost = audit["contrast"].isna()
by_camera = lost.groupby(audit["file"].str[0]).mean()
by_label = lost.groupby(audit["label"]).mean().sort_values()

# %%
figure, axes = plot.new(9, 3.4, columns=2)
axes[0].bar(by_camera.index, by_camera, color=plot.COLOURS[0])
axes[0].set(
    ylim=(0, 1),
    xlabel="camera",
    ylabel="share unreadable",
    title="One card failed ...",
)
axes[1].barh(by_label.index, by_label, color=plot.COLOURS[1])
axes[1].set(xlim=(0, 1), xlabel="share unreadable", title="... and took the shirts")
plot.show(
    figure,
    "Left: share of unreadable files by camera, near zero for A, B and C, high for "
    "D. "
    "Right: the same by label, near zero for nine classes, high for shirts.",
)

# %% [markdown]
# A Matplotlib **figure** holds panels called **axes**; you draw into an axes and set its labels.
# The values are not missing at random: camera D lost nearly everything. A table with two keys
# shows why that hits one class.

# %%
pd.crosstab(audit["file"].str[0].rename("camera"), audit["label"])

# %% tags=["nbval-check-output"]
claim("in the scan camera D lost at least 70 % of its files, the others less than 10 % each", by_camera["D"] >= 0.7 and by_camera.drop("D").max() < 0.1, measured=(by_camera['D'], by_camera.drop('D').max()))  # fmt: skip
claim("in the scan shirts lost at least 60 % of their files, every other class less than 15 %", by_label["shirt"] >= 0.6 and by_label.drop("shirt").max() < 0.15, measured=(by_label['shirt'], by_label.drop('shirt').max()))  # fmt: skip

# %% [markdown]
# Camera D stood where the shirts were photographed. In the formula above, $b$ is large and $a$ is
# small, and skipping must tilt the balance. You have found the cause of the symptom without
# training anything.
#
# ### Outliers that hide each other
#
# Some files decode and are still wrong. The textbook test flags values more than 3.5 standard
# deviations from the mean. NumPy works on whole arrays: `measured` has the shape [files, 2], its
# mean over axis 0 has the shape [2], and the subtraction stretches the small one over all rows.
# This is called **broadcasting**. The `nan` functions leave out what is missing.


# %%
def score_by_mean(x):
    return (x - np.nanmean(x, axis=0)) / np.nanstd(x, axis=0)


def score_by_median(x):
    middle = np.nanmedian(x, axis=0)
    spread = 1.4826 * np.nanmedian(np.abs(x - middle), axis=0)
    return (x - middle) / spread


scores = {
    "mean and deviation": score_by_mean(measured),
    "median": score_by_median(measured),
}
flagged = {
    name: (np.abs(z) > 3.5).any(axis=1) for name, z in scores.items()
}  # masks, [files]

# %% [markdown]
# The second function asks the same with the *median* in place of the mean, and the median
# distance from it (MAD) in place of the standard deviation. The factor 1.4826 makes both spreads
# equal for bell-shaped data.
#
# :::{admonition} Predict
# :class: predict
# Three kinds of damage look extreme: blank pictures, pictures of one pixel, and 16-bit pictures,
# whose values are some 250 times too large. Which of them does the first function flag?
# :::

# %%
hits = pd.DataFrame(
    {name: audit["kind"][mask].value_counts() for name, mask in flagged.items()}
)
hits.assign(files=audit["kind"].value_counts()).fillna(0).astype(int)

# %% tags=["nbval-check-output"]
odd = audit["kind"].isin(["blank", "one_pixel", "sixteen_bit"]).to_numpy()
huge = (audit["kind"] == "sixteen_bit").to_numpy()
claim(
    "outliers by mean and deviation are the 16-bit pictures and nothing else",
    np.array_equal(flagged["mean and deviation"], huge),
)
claim(
    "outliers by median and MAD include every blank, one-pixel and 16-bit picture",
    flagged["median"][odd].all(),
)
claim(
    "outliers by median and MAD include at most 4 of all other pictures",
    flagged["median"][~odd].sum() <= 4,
    measured=flagged["median"][~odd].sum(),
)

# %%
figure, axes = plot.new(9, 3, columns=2)
axes[1].sharey(axes[0])
for ax, (name, z) in zip(axes, scores.items(), strict=True):
    for height, kind in enumerate(["sound", "blank", "one_pixel", "sixteen_bit"]):
        values = z[(audit["kind"] == kind).to_numpy(), 1]
        ax.plot(
            values,
            np.full(len(values), height),
            "|",
            ms=12,
            color=plot.COLOURS[height],
        )
    ax.axvspan(-3.5, 3.5, color="0.5", alpha=0.15, lw=0)
    ax.set_xscale("symlog", linthresh=4)
    ax.set_xticks([-3.5, 0, 3.5, 30, 1000], ["-3.5", "0", "3.5", "30", "1000"])
    ax.set(xlim=(-6, 3000), xlabel=f"score of the contrast, by {name}")
axes[0].set_title("Judged by the mean, one kind stands out")
axes[1].set_title("Judged by the median, all three do")
axes[0].set_yticks(range(4), ["sound", "blank", "one pixel", "16-bit"])
plot.show(
    figure,
    "Contrast scores of four groups of files. Judged by the mean, all but the "
    "16-bit files lie "
    "in the inconspicuous band; judged by the median, blank and one-pixel files lie "
    "outside too.",
)

# %% [markdown]
# A few gigantic values pull the mean up and inflate the standard deviation, until everything
# else looks ordinary. The outliers **mask** each other. A median does not move as long as fewer
# than half of the values are wrong.
#
# The same pictures hold a trap of NumPy itself. Pixels are `uint8`, whole numbers from 0 to 255,
# and their arithmetic goes round like a clock, without a warning.

# %% tags=["nbval-check-output"]
bright = np.array([250, 5], dtype=np.uint8)
claim(
    "in uint8, 250 + 10 is 4, and as floats it is 260",
    (bright + 10).tolist() == [4, 15]
    and (bright.astype(np.float32) + 10).tolist() == [260, 15],
    measured=(bright + 10).tolist(),
)


# %% [markdown]
# ### One NaN is enough
#
# A blank picture is no threat, you might think: it only teaches nothing. But many recipes
# standardise each picture, that is, subtract its mean and divide by its standard deviation. A
# blank picture has a standard deviation of zero. NumPy divides zero by zero, mumbles a warning,
# and goes on with NaN. You can ask it to raise instead.

# %%
samples = (sound.images[:64, 0].numpy() * 255).round()  # [64,28,28], float32
samples[5] = 200.0  # a blank picture
mean, std = (
    samples.mean((1, 2), keepdims=True),
    samples.std((1, 2), keepdims=True),
)  # [64,1,1]
try:
    with np.errstate(invalid="raise"):
        standardised = (samples - mean) / std
except FloatingPointError as error:
    print("FloatingPointError:", error)
with np.errstate(invalid="ignore"):
    standardised = (samples - mean) / std
print(
    "pictures with NaN:",
    np.isnan(standardised).any(axis=(1, 2)).sum(),
    "of",
    len(samples),
)

# %% [markdown]
# Feed this batch to the network of the sound backup, which is the last one you trained. `first_bad` runs it once, forwards and backwards, and names
# the first place where a number stops being finite.

# %%
from labs.hooks import first_bad

poisoned = torch.from_numpy(standardised)[:, None].to(device())  # [64,1,28,28]
first_bad(net, poisoned)

# %% [markdown]
# The culprit is the input itself, and the network is innocent. `fit` also sees that the loss is
# not finite, and refuses to take the step. So the weights stay as they were.
#
# :::{admonition} Predict
# :class: predict
# One picture of 64 was blank. The step was refused. How accurate is the network now?
# :::

# %%
before = accuracy(net, test.images, test.labels)
try:
    fit(
        net,
        [(poisoned, sound.labels[:64])],
        torch.optim.SGD(net.parameters(), lr=0.1),
    )
except FloatingPointError as error:
    print("FloatingPointError:", error)
after = accuracy(net, test.images, test.labels)
print(f"accuracy before {before:.3f}, after {after:.3f}")

# %% tags=["nbval-check-output"]
claim(
    "a batch with one NaN picture: the refused step leaves every weight finite",
    all(p.isfinite().all() for p in net.parameters()),
)
spoiled = [
    name for name, buffer in net.named_buffers() if not buffer.isfinite().all()
]
claim(
    "a batch with one NaN picture spoils the running statistics of batch norm",
    spoiled == ["norm.running_mean", "norm.running_var"],
    measured=(spoiled, ["norm.running_mean", "norm.running_var"]),
)
claim(
    "after a batch with one NaN picture the network answers NaN to every test picture",
    predict(net, test.images).isnan().all(),
)

# %% [markdown]
# The weights are sound and the network is dead. A batch norm in training mode averages over the
# whole batch, *before* any loss is computed, and keeps a running mean for later. One NaN makes
# the mean NaN, and no good batch will ever mend it: NaN plus anything is NaN. `argmax` over NaN
# still returns a class, so the accuracy looks like a bad network and not like a broken one.
# Check pictures for `isfinite` before they enter, not the loss after.
#
# ### Labels that no decoder can doubt
#
# One fault is left: wrong labels. No instrument so far can see them, because the files are
# perfect. But a network can. Train it on everything that can be read, ask for the loss of each
# picture, and sort: it is surprised most where the label contradicts the other pictures.

# %%
pictures, labels = batch.images, batch.labels  # what RobustImageDataset could read
seed_everything(1)
net = train(pictures, labels)
losses = torch.nn.functional.cross_entropy(
    predict(net, pictures), labels, reduction="none"
)
suspects = losses.argsort(descending=True)

wrong = slips.wrong[catalogued][
    batch.indices
]  # the answer key, for what was delivered
READ = 100
caught = int(wrong[suspects[:READ]].sum())

# %% tags=["nbval-check-output"]
claim(
    "reading the 100 pictures of the highest loss finds at least 65 % of all wrong "
    "labels",
    caught >= 0.65 * wrong.sum(),
    measured=(caught, 0.65 * wrong.sum()),
)
claim(
    "the highest losses hold 20 times as many wrong labels as pictures drawn by "
    "chance",
    caught / READ >= 20 * wrong.float().mean(),
    measured=(caught / READ, 20 * wrong.float().mean()),
)

# %%
print(
    f"wrong labels: {int(wrong.sum())} of {len(wrong)}; among the {READ} highest losses: {caught}"
)

# %%
ours, others = suspects[wrong[suspects]][:8], suspects[~wrong[suspects]][:8]
chosen = torch.cat([ours, others])
guess = predict(net, pictures[chosen]).argmax(1)
titles = [
    f"{classes[a]}\n→ {classes[b]}"
    for a, b in zip(labels[chosen], guess, strict=True)
]
figure, axes = plot.new(9.5, 3.3, rows=2, columns=8)
plot.images(axes, pictures[chosen], titles)
plot.show(
    figure,
    "Two rows of eight pictures of high loss, each with its label and the network's "
    "guess. "
    "Above, labels that were changed on purpose; below, labels that were not.",
)

# %% [markdown]
# Above each picture stand its label and the network's guess. The upper row holds the worst of the
# labels that were changed on purpose, the lower row the worst of those that were not. Look at the
# lower row: some labels look wrong in the published data set, and some pictures you could not name
# yourself. So read the list with your eyes, and do not delete it by a threshold. The Reproduce
# section shows when this instrument goes blind.

# %% [markdown]
# ## Experiment: what each policy costs
#
# Now measure the policies on the damaged folder. `RobustImageDataset` knows *stop*, *skip* and
# *replace*, where a replacement is another picture of the same class, or a placeholder. Read the
# folder once under each, and note which rows were asked for and whose pixels came.

# %%
from labs.imagefile import BadImageError


def deliver(on_error, placeholder=None):
    """Return pictures, labels, the rows asked for, and the rows whose pixels came."""
    robust = RobustImageDataset(
        paths, rows["number"], classes, to_input, on_error, placeholder=placeholder
    )
    samples = []
    for row in range(len(robust)):
        try:
            sample = robust[row]
        except BadImageError:
            break  # the policy is to stop: what came before is all there is
        samples.append((row, sample))
    asked = torch.tensor([row for row, sample in samples if sample.image is not None])
    batch = robust_collate([sample for _, sample in samples])
    return batch.images, batch.labels, asked, batch.indices


# %%
every_row, GREY = torch.arange(len(rows)), torch.full((1, 28, 28), 0.5)
deliveries = {
    "nothing broken": (backup, numbers, every_row, every_row),
    "stop": deliver("stop"),
    "skip": (skipped := deliver("skip")),
    "skip, reweighted": skipped,
    "next sample": (patched_pictures, patched_labels, every_row, shown),
    "same class": deliver("replace"),
    "placeholder": deliver("replace", placeholder=GREY),
}
pd.Series(
    {policy: len(asked) for policy, (_, _, asked, _) in deliveries.items()},
    name="samples",
)

# %% [markdown]
# *Skip, reweighted* skips too, and then draws the pictures of each class as often as the
# catalogue says: the files are lost, but the catalogue still knows how many shirts there were.
# Everything else is equal: the split of the rows, the network, the recipe. One thing varies, the
# policy, and several seeds show how much is luck.

# %%
from torch.utils.data import WeightedRandomSampler


def by_catalogue(labels):
    """Draw as many samples as the catalogue has for training, with its balance of classes."""
    wanted = torch.bincount(numbers, minlength=10) / torch.bincount(
        labels, minlength=10
    )
    return WeightedRandomSampler(wanted[labels], num_samples=len(rows) * 3 // 4)


def train_and_score(policy):
    pictures, labels, asked, came = deliveries[policy]
    held_out = torch.randperm(len(rows))[: len(rows) // 4]
    val = torch.isin(asked, held_out)
    sampler = by_catalogue(labels[~val]) if policy == "skip, reweighted" else None
    net = train(pictures[~val], labels[~val], sampler)
    own = (
        recalls(net, pictures[val], labels[val]) if val.any() else pd.Series([np.nan])
    )
    return {
        "own validation": accuracy(net, pictures[val], labels[val])
        if val.any()
        else np.nan,
        "own, by class": own.mean(),
        "test": accuracy(net, test.images, test.labels),
        "shirts found": recalls(net, test.images, test.labels)[SHIRT],
        "share of shirts": (labels[~val] == SHIRT).float().mean().item(),
        "leak": torch.isin(came[val], came[~val][came[~val] >= 0])
        .float()
        .mean()
        .item(),
        "grey is a shirt": (predict(net, GREY[None]).argmax(1) == SHIRT)
        .float()
        .item(),
    }


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# Which policy gives the highest accuracy on the test, and which the highest on its own
# validation? Does the honest *skip* beat the patch that delivers the next sample?
# :::

# %%
from labs.ablation import ablate

policies = list(deliveries)
study = ablate(
    train_and_score,
    {"policy": policies[0]},
    vary="policy",
    values=policies,
    seeds=range(budget(cpu=5, gpu=10)),
)

# %%
means = study.frame().groupby("policy", sort=False).mean().drop(columns="seed")
means.round(3)

# %%
study.table("shirts found")[["mean", "std", "ci95", "n", "delta"]].round(3)

# %%
figure, axes = plot.new(9.5, 3.6, columns=2)
axes[1].sharey(axes[0])
trained = means.drop("stop")
heights = np.arange(len(trained))
axes[0].hlines(heights, trained["test"], trained["own validation"], color="0.6")
axes[0].plot(trained["test"], heights, "o", color=plot.COLOURS[0], label="test")
axes[0].plot(
    trained["own validation"],
    heights,
    "s",
    color=plot.COLOURS[1],
    label="own validation",
)
axes[0].set(xlabel="accuracy", title="What is reported, and what is true")
axes[0].legend()
for policy, found in study.frame().groupby("policy", sort=False)["shirts found"]:
    if policy != "stop":
        row = trained.index.get_loc(policy)
        axes[1].plot(
            found, np.full(len(found), row), "o", color=plot.COLOURS[2], alpha=0.7
        )
axes[1].set(
    xlim=(0, 1),
    xlabel="share of the test's shirts found",
    title="Who still knows a shirt",
)
axes[0].set_yticks(heights, trained.index)
axes[1].tick_params(labelleft=False)
axes[0].invert_yaxis()
plot.show(
    figure,
    "For six policies: accuracy on the own validation set against accuracy on the "
    "test, and "
    "the share of shirts found, one dot for each seed.",
)

# %% tags=["nbval-check-output"]
base, skip, same = (
    means.loc["nothing broken"],
    means.loc["skip"],
    means.loc["same class"],
)
gap = means["own validation"] - means["test"]
claim(
    "skipping bad files costs under 6 points of test accuracy and over 35 of 100 "
    "shirts",
    base["test"] - skip["test"] < 0.06
    and base["shirts found"] - skip["shirts found"] > 0.35,
    measured=(
        base["test"] - skip["test"],
        base["shirts found"] - skip["shirts found"],
    ),
)
claim(
    "trained with bad files skipped, fewer than 10 of 100 shirts are found",
    skip["shirts found"] < 0.10,
    measured=skip["shirts found"],
)
claim(
    "skipping leaks no picture, and its own validation is still at least 3 points "
    "too good",
    skip["leak"] == 0 and gap["skip"] >= 0.03,
    measured=(skip["leak"], gap["skip"]),
)
claim(
    "with nothing broken, the own validation is within 2.5 points of the test",
    abs(gap["nothing broken"]) < 0.025,
    measured=abs(gap["nothing broken"]),
)

# %% tags=["nbval-check-output"]
claim(
    "skipping: the validation's mean over classes is within 4 points of the test",
    abs(skip["own, by class"] - skip["test"]) < 0.04,
    measured=abs(skip["own, by class"] - skip["test"]),
)
claim(
    "a replacement of the same class, or reweighting, finds 20 of 100 shirts more "
    "than skipping",
    min(same["shirts found"], means.loc["skip, reweighted", "shirts found"])
    - skip["shirts found"]
    >= 0.20,
    measured=min(same["shirts found"], means.loc["skip, reweighted", "shirts found"])
    - skip["shirts found"],
)
claim(
    "replacements of the same class leak 10 % of the validation set, 2 points too "
    "good",
    same["leak"] >= 0.10 and gap["same class"] >= 0.02,
    measured=(same["leak"], gap["same class"]),
)
claim(
    "trained with grey placeholders, a network calls a grey square a shirt",
    means.loc["placeholder", "grey is a shirt"] == 1,
    measured=means.loc["placeholder", "grey is a shirt"],
)

# %% [markdown]
# Read the table column by column, because this is the heart of the lesson.
#
# **Test.** The policies differ by a few points. Somebody who watches only this number will say
# that bad files do not matter much.
#
# **Shirts found.** Here the same networks range from half of all shirts to almost none. Overall
# accuracy is an average over ten classes, and can lose a tenth at most when one class dies.
#
# **Own validation.** *Skip* reports more than the sound folder, because its exam has lost the
# shirts as well. This is **survivorship bias**: you examine only what came through. *Skip* is
# correct code, leaks nothing, and is still far too proud. So the famous three lines are to blame
# for the leak, but compare the rows *skip* and *next sample*: most of the symptom is not their
# work. The remedy costs one line. Averaged over classes, the validation accuracy of *skip* is
# honest again. A leak is not mended that way: see *same class*.
#
# **Same class** and **skip, reweighted** restore the balance, and with it a good part of the
# shirts, from the few that are left. Nothing is free: *same class* repeats pictures across the
# split, unless you split before you replace. A **placeholder** keeps the share of shirts right on
# paper, and finds as few of them as skipping. The last column says what it has taught: ask that
# network about an empty grey square, and it sees a shirt.
#
# **Stop** delivers a handful of pictures and learns next to nothing. But it tells you at once that
# something is wrong, which no other policy does. It is the right one for the day on which the
# data arrive.

# %% [markdown]
# ## Reproduce: networks learn the truth first
#
# **The paper says.** {cite:t}`arpit2017memorization` train networks on labels of which a part is
# random. A large enough network learns all of them by heart. But not at the same time: it first
# learns the patterns that many samples share, and memorises the random labels later, so its
# accuracy on clean data rises to a peak before it falls.
#
# **We measure** it with a network of the same kind, one hidden layer of ReLUs, on 1,000 pictures
# of which three in ten carry a wrong label. After each epoch, ask what it says about the
# *mislabelled* training pictures: the label it was given, or the truth it was never told?

# %%
crowd, exam = sound.take(slice(1000)), test.take(slice(1000))
noisy = faults.mislabel(crowd.labels, share=0.3, seed=1)


# %%
def watch(net):
    answers = predict(net, crowd.images)
    guess, losses = (
        answers.argmax(1),
        nn.functional.cross_entropy(answers, noisy.labels, reduction="none"),
    )
    worst = losses.argsort(descending=True)[: int(noisy.wrong.sum())]
    return {
        "sound: label": (guess == noisy.labels)[~noisy.wrong].float().mean().item(),
        "wrong: label given": (guess == noisy.labels)[noisy.wrong]
        .float()
        .mean()
        .item(),
        "wrong: the truth": (guess == noisy.true)[noisy.wrong].float().mean().item(),
        "test": accuracy(net, exam.images, exam.labels),
        "errors found by loss": noisy.wrong[worst].float().mean().item(),
    }


# %%
seed_everything(0)
net = nn.Sequential(
    nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 512), nn.ReLU(), nn.Linear(512, 10)
)
batches = DataLoader(TensorDataset(crowd.images, noisy.labels), 32, shuffle=True)
adam = torch.optim.AdamW(net.parameters(), lr=2e-3)
memory = (
    fit(net, batches, adam, epochs=60, score=watch).score_table().set_index("epoch")
)

# %%
figure, axes = plot.new(9.5, 3.6, columns=2)
for ax, columns, title in [
    (
        axes[0],
        ["sound: label", "wrong: the truth", "wrong: label given"],
        "First the truth, then the noise",
    ),
    (
        axes[1],
        ["test", "errors found by loss"],
        "Memory costs accuracy, and hides the errors",
    ),
]:
    for column, style in zip(columns, ["-", "--", ":"], strict=False):
        ax.plot(memory[column], style, label=column)
    ax.set(xlabel="epoch", ylim=(0, 1), title=title)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
axes[0].set_ylabel("share of the pictures")
plot.show(
    figure,
    "Left: early on, the network names the truth for most mislabelled pictures; "
    "later it "
    "repeats the label it was given. Right: test accuracy and the share of label "
    "errors among the "
    "highest losses both peak early and then fall.",
)

# %% tags=["nbval-check-output"]
early, late = memory.iloc[:10], memory.iloc[-5:].mean()
claim(
    "early in training, the truth is predicted for at least 60 % of the mislabelled "
    "pictures",
    early["wrong: the truth"].max() >= 0.60,
    measured=early["wrong: the truth"].max(),
)
claim(
    "early in training, the wrong label is repeated for at most 20 % of the "
    "mislabelled pictures",
    early["wrong: label given"].max() <= 0.20,
    measured=early["wrong: label given"].max(),
)
claim(
    "late in training, the wrong label is repeated for 60 % of the mislabelled "
    "pictures",
    late["wrong: label given"] >= 0.60,
    measured=late["wrong: label given"],
)
claim(
    "trained on wrong labels to the end, the test accuracy falls 4 points below its "
    "peak",
    memory["test"].max() - late["test"] >= 0.04,
    measured=memory["test"].max() - late["test"],
)
claim(
    "ranking by loss finds 75 % of label errors at best, 15 points fewer at the end "
    "of training",
    memory["errors found by loss"].max() >= 0.75
    and memory["errors found by loss"].max() - late["errors found by loss"] >= 0.15,
    measured=(
        memory["errors found by loss"].max(),
        memory["errors found by loss"].max() - late["errors found by loss"],
    ),
)

# %% [markdown]
# In the first epochs the network contradicts the labels that it is being trained on, and is right.
# Dozens of epochs later it has learnt by heart what it was told.
#
# **Why they differ.** The order is that of the paper, the epochs are not: the paper trains wider
# networks on all of MNIST and CIFAR-10, and replaces labels at random, so that some stay right;
# our thousand pictures are fewer and all of our changed labels are wrong. The peak of the test
# accuracy is in the paper. The falling curve beside it is the consequence for you: ranking by loss finds
# label errors only *before* the network has memorised them. {cite:t}`han2018coteaching` turn this
# into a method: two networks, each of which learns only from samples with a small loss in the
# other.

# %%
memory.iloc[[0, 4, 9, 19, 39, 59]].round(2)

# %% [markdown]
# ## Bug hunt: the picture that came twice
#
# You know the patch by now. In the review of
# [rom1504/clip-retrieval PR #13](https://github.com/rom1504/clip-retrieval/pull/13) the
# maintainer pointed at exactly this line, and
# [PR #89](https://github.com/rom1504/clip-retrieval/pull/89) removed it. Here it is as it is
# usually written, with a loader around it.
#
# The contract of `make_loader(read, labels, batch_size)`: it returns a loader and a dict.
#
# - `read(i)` returns picture `i`, or raises `OSError` if its file is broken, always for the same
#   `i`.
# - One pass over the loader is an epoch. It yields pairs `(images, labels)`, and delivers each
#   readable picture exactly once, with its own label, and nothing else. The order is free. A batch
#   may be smaller than `batch_size`, and even empty.
# - After the epoch, the dict leads from the number of each broken picture to a reason, and names
#   no other.
# - Whatever else `read` raises, a bug in the code or Ctrl-C, reaches the caller.

# %% tags=["hunt-bug"]
from torch.utils.data import DataLoader, Dataset


class Wardrobe(Dataset):
    def __init__(self, read, labels):
        self.read, self.labels, self.failed = read, labels, {}

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        try:
            return self.read(index), self.labels[index]
        except Exception:
            return self[index + 1]


def make_loader(read, labels, batch_size):
    wardrobe = Wardrobe(read, labels)
    return DataLoader(wardrobe, batch_size, shuffle=True), wardrobe.failed


# %%
from labs.hunts.foundations import check_delivery

check_delivery(make_loader)

# %% [markdown]
# Repair it in a copy of the cell, and check again until all probes pass. There is more than one
# good way.
#
# :::{dropdown} Hint 1
# Write down, for ten files of which number 4 is broken, what each index delivers. Which of the
# requirements can no `return` of a *picture* fulfil for index 4?
# :::
#
# :::{dropdown} Hint 2
# Either find out before the epoch which indices are readable, or let `__getitem__` return
# something that is not a picture. In the second case somebody has to take it out again; look at
# the arguments of `DataLoader`.
# :::
#
# :::{dropdown} Hint 3
# A batch may lose all of its samples; what does PyTorch make of an empty list? And which
# exception does the contract speak of: is `Exception` the right word for it?
# :::

# %% tags=["hunt-solution", "hide-cell"]
import torch
from torch.utils.data import DataLoader, Dataset, default_collate


class Wardrobe(Dataset):
    def __init__(self, read, labels):
        self.read, self.labels, self.failed = read, labels, {}

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        try:
            picture = self.read(index)
        except OSError as error:  # a broken file, and nothing else
            self.failed[index] = str(error)
            return None
        return picture, self.labels[index]


def keep_readable(samples):
    kept = [sample for sample in samples if sample is not None]
    return default_collate(kept) if kept else (torch.empty(0), torch.empty(0))


def make_loader(read, labels, batch_size):
    wardrobe = Wardrobe(read, labels)
    loader = DataLoader(wardrobe, batch_size, shuffle=True, collate_fn=keep_readable)
    return loader, wardrobe.failed


# %% tags=["nbval-check-output"]
claim(
    "the repaired loader passes every probe",
    check_delivery(make_loader).passed,
    measured=check_delivery(make_loader),
)

# %% [markdown]
# This dict is filled in the process that reads. With `num_workers` above zero that is another
# process, and the dict in yours stays empty: then let the reasons travel in the batch, as the
# block of this lesson does.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** The catalogue lists the pictures in no particular order. Sort it by camera and
# repeat the count of *Count what was delivered* for the patched data set. Predict first: what
# happens to the share of shirts, and what to the leak?
#
# :::{dropdown} Solution 1
# The neighbours of a broken shirt are now other pictures of camera D, most of them shirts. So the
# patch replaces shirts mostly by shirts, and a good part of their share comes back. But few of
# them can be read, and each stands in for a long run of broken ones. The leak stays. One line of
# code, and what it does to your classes depends on the order of a list. The next cell counts.
# :::

# %% tags=["hide-cell"]
by_file = rows.sort_values("file", ignore_index=True)
_, came = load(PatchedPictures(by_file["file"], range(len(by_file))))
seed_everything(0)
order = torch.randperm(len(by_file))
kept, held_out = came[order[len(order) // 4 :]], came[order[: len(order) // 4]]
delivered = (by_file["label"].to_numpy()[came] == "shirt").mean()
print(f"most often delivered: {np.bincount(came).max()} times")
print(
    f"share of shirts {delivered:.3f}, leak {torch.isin(held_out, kept).float().mean():.0%}"
)

# %% [markdown]
# **Exercise 2.** The rows without a label were dropped. Let a network fill them in: train on the
# rows that have one, predict the others, and compare with the truth in `sound.labels`. Would you
# use these labels for training? For testing?
#
# :::{dropdown} Solution 2
# The next cell does it, with the backup for the pixels. The filled-in labels are about as good as
# the network's accuracy. For training that can help a little. For testing it is worthless: a
# network would be measured against its own opinion.
# :::

# %% tags=["hide-cell"]
seed_everything(0)
net = train(backup, numbers)
filled = predict(net, sound.images[~catalogued]).argmax(1)
right = (filled == sound.labels[~catalogued]).float().mean().item()
print(f"{len(filled)} labels filled in, {right:.0%} of them right")

# %% [markdown]
# **Exercise 3.** The scan could not see the bit rot. Which file, written on the day when the data
# were sound, would have shown it? `checksums` is such a file, and the scan's table has a column
# `sha256`. Find the rotten pictures among those that decode without a warning.
#
# :::{dropdown} Solution 3
# A list of checksums, like the `SHA256SUMS` file beside many downloads. Compare the checksum of
# each file with the one on the list, as the next cell does.
# :::

# %% tags=["hide-cell", "nbval-check-output"]
then = audit["file"].map(checksums)
quiet = (audit["scan says"] == "sound") & then.notna()
rotten = audit[quiet & (audit["sha256"] != then)]
claim("checksums find every file with bit rot, and no other", set(rotten["kind"]) == {"bit_rot"}
      and len(rotten) == (answer["kind"] == "bit_rot").sum(), measured=(set(rotten['kind']), {'bit_rot'}, len(rotten), (answer['kind'] == 'bit_rot').sum()))  # fmt: skip

# %% [markdown]
# The shop's folder was temporary. Clean up.

# %%
folder.cleanup()

# %% [markdown]
# ## In practice
#
# - Scan once when the data arrive, with `scan_images` or a tool like it, keep its checksums, and
#   *stop* there. During training *skip* and report; the two do not exclude each other.
# - Look at missingness by class, by source and by date before you decide on a policy. If it is
#   not even, restore the balance (a sampler, a weighted loss), and report recall per class.
# - Split by source before you augment, replace or deduplicate. Copies on both sides of a split
#   are the most frequent leak of all.
# - `ImageFile.LOAD_TRUNCATED_IMAGES = True` silences the error and paints the missing part grey.
#   The scan calls such files *grey band*. Do not set it.
# - Never load data of strangers with `pickle` or `allow_pickle=True`: it runs their code.
# - `except Exception` belongs around one call that you do not control. Anything wider hides your
#   own bugs, and a bare `except:` hides your Ctrl-C.
# - For label errors at scale use [cleanlab](https://github.com/cleanlab/cleanlab), which judges
#   each sample by a network that was not trained on it; for tables of any size learn Pandas well.
#   The papers behind the tools of this lesson are {cite:t}`harris2020numpy`,
#   {cite:t}`mckinney2010pandas` and {cite:t}`hunter2007matplotlib`.

# %% [markdown]
# ## You can now
#
# - write a data set that survives broken files, names each of them, and never delivers a picture
#   twice;
# - find missing values, outliers, NaN and wrong labels in a folder, and say which instrument is
#   blind to which;
# - tell from two numbers, recall per class and leak, what a policy did to a data set whose
#   accuracy looks fine.
