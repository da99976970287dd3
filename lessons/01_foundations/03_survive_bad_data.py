# %% [markdown]
# # Survive bad data
#
# :::{admonition} Your card
# :class: card
#
# **You will be able to** write a data set that neither dies of a broken file nor hides it · compare what a scan finds in a folder with
# what a network gets · say what skipping, replacing and stopping do to accuracy and to the balance of the classes.
#
# **You need** Python with classes, and the training loop of the lesson
# [Write the training loop](01_write_the_training_loop). Exceptions and Pandas are introduced where you need them.
#
# **Time** read 25 min · debug 20 min · experiment 20 min · reproduce 10 min · hunt 30 min · exercises 15 min
# :::

# %% [markdown]
# ## The symptom
#
# Sooner or later a training run dies because of one broken file. The usual cure is three lines long, and many have written it. It
# works: the run goes through. This lesson is about the score that it then reports.
#
# A shop sends you photographs of its clothes: a folder for each of four cameras, and a catalogue of all files. The two folded
# cells play the shop. They take sound pictures (Fashion-MNIST, {cite:t}`xiao2017fashion`), break some of them in ways that real files
# break, and keep the answer key, which real life never gives you. They hold the solution to much of what follows, so leave them folded
# for now.

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
delivery = pd.DataFrame({"file": names, "label": [classes[k] for k in sound.labels]})
delivery.to_csv(root / "catalogue.csv", index=False)

EVERYDAY = [
    faults.truncated, faults.empty, faults.zeroed, faults.html, faults.bomb,
    faults.nan_array, faults.grey_band, faults.blank, faults.one_pixel,
    faults.sixteen_bit, faults.cmyk, faults.exif_rotated, faults.grayscale,
    faults.wrong_extension, faults.duplicate, faults.bit_rot,
]  # fmt: skip
WORST = [faults.truncated, faults.zeroed]
keys = []
for letter, share, kinds in [(c, 0.05, EVERYDAY) for c in "ABC"] + [
    ("D", 0.95, WORST)
]:
    key = faults.damage(root / letter, share=share, kinds=kinds).table()
    keys.append(key.assign(path=letter + "/" + key["path"]))
answer = pd.concat(keys, ignore_index=True)

# %% [markdown]
# This is what you received. Pandas reads the catalogue into a **table** (a `DataFrame`); `map` numbers the classes.

# %%
rows = pd.read_csv(root / "catalogue.csv")
rows["number"] = rows["label"].map(classes.index)
print(len(rows), "rows")
rows.head(3)

# %% [markdown]
# A PyTorch `Dataset` needs two methods: how many samples there are, and how to read one.

# %%
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tv


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
# Go through the folder once, batch by batch. Python reports trouble by raising an **exception**: an object that
# ends one function after the other until one of them catches it. `try` marks the lines to watch, `except` catches, and `finally` runs in
# any case.

# %%
dataset, batches = Pictures(rows["file"], rows["number"]), 0
loader = DataLoader(dataset, batch_size=64)
try:
    for _ in loader:
        batches += 1
except OSError as error:
    print(type(error).__name__, "-", str(error).replace(str(root), "folder"))
finally:
    print(f"{batches} of {len(loader)} batches were read")

# %% [markdown]
# The run ended almost at once. With fewer broken files it would die in the middle of the night, and after you have removed that file, again
# in the next night. So you search for the message, and you find this cure: if a picture cannot be read, return the next one.


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
# It runs to the end. Now train a small network: one hidden layer, on pictures averaged down to 14 by 14. `fit` runs the training loop,
# and `OneCycleLR` lets the learning rate rise and then fall to almost zero.

# %%
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import TensorDataset

from labs.repro import device, seed_everything
from labs.train import fit


def train(pictures, labels, sampler=None, epochs=6):
    net = nn.Sequential(
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 256),
        nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10),
    ).to(device())  # fmt: skip
    samples = TensorDataset(pictures, labels)
    batches = DataLoader(samples, 64, shuffle=sampler is None, sampler=sampler)
    adam = torch.optim.AdamW(net.parameters(), lr=0.005)
    cycle = OneCycleLR(adam, 0.005, total_steps=epochs * len(batches))
    fit(net, batches, adam, epochs, scheduler=cycle)
    return net


# %%
from labs.evaluate import predict


def accuracy(net, pictures, labels):
    return (predict(net, pictures).argmax(1) == labels).float().mean().item()


def recall(net, pictures, labels, wanted=SHIRT):
    """Return the share of the pictures of one class that the network gets right."""
    chosen = labels == wanted
    return accuracy(net, pictures[chosen], labels[chosen])


# %% [markdown]
# Train on three quarters of what was delivered, and use the other quarter, drawn at random, for **validation**. In a cupboard the shop finds a backup of the
# same pictures, all of them sound: train a second network on that. Both networks are also tested on pictures that none of this has touched.

# %%
backup, numbers = sound.images, torch.tensor(rows["number"].to_numpy())


def split_and_train(pictures, labels):
    seed_everything(0)
    held_out, kept = torch.randperm(len(labels)).split(
        [len(labels) // 4, len(labels) - len(labels) // 4]
    )
    net = train(pictures[kept], labels[kept])
    return net, {
        "own validation": accuracy(net, pictures[held_out], labels[held_out]),
        "test": accuracy(net, test.images, test.labels),
        "shirts found in the test": recall(net, test.images, test.labels),
    }


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# A part of the files is broken. Which of the two networks reports the higher accuracy on its own validation pictures, and by how much?
# Which finds more shirts in the test?
# :::

# %%
_, broken = split_and_train(patched_pictures, patched_labels)
net, whole = split_and_train(backup, numbers)
pd.DataFrame({"broken, patched": broken, "sound backup": whole}).T.round(3)

# %% tags=["nbval-check-output"]
from labs.claims import claim

proud = broken["own validation"] - whole["own validation"]
claim(
    "a folder with broken files, each replaced by the next, reports at least 1 "
    "point more validation accuracy than the sound folder",
    proud >= 0.01,
    measured=proud,
)
missed = whole["shirts found in the test"] - broken["shirts found in the test"]
claim(
    "trained on a folder that lost most of its shirts, a network finds 30 of 100 "
    "shirts fewer in the test",
    missed >= 0.30,
    measured=missed,
)

# %% [markdown]
# There was no error and no warning. The score is better, and the network hardly recognises a shirt any more. Two things must have happened
# between the folder and the score. By the end of this lesson you can name both, and you will know which of them the three lines cause.

# %% [markdown]
# ## The idea: where a file breaks, and what is delivered then
#
# Follow one picture from the catalogue to the batch. At each step something can go wrong, and it can go wrong in two ways: with an
# exception, or in silence.

# %%
from labs import plot

STEPS = [
    ("catalogue", "file name, label", "file was renamed", "wrong label"),
    ("open", "header", "empty, zeros, web page, array, gigantic", ""),
    ("decode", "compressed pixels", "truncated", "bit rot, grey band"),
    ("convert", "[H,W,3], 0 to 255", "", "16-bit cut off, rotation ignored"),
    ("resize", "[1,28,28], 0 to 1", "", "one pixel, blank"),
    ("standardise", "mean 0, deviation 1", "", "blank becomes NaN"),
]
figure, ax = plot.new(height=4.6)
for row, (step, holds, loud, silent) in enumerate(STEPS):
    style = {"ha": "center", "va": "center"}
    frame = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": "#5A5A58"}
    ax.text(0, -row, f"{step}\n{holds}", bbox=frame, **style)
    for x, words, tint in [(1, loud, "#FBE3D3"), (2, silent, "#F6E3EE")]:
        if words:
            words = words.replace("web page", "\nweb page")
            words = words.replace(", rotation", ",\nrotation")
            ax.text(x, -row, words, bbox=frame | {"fc": tint, "ec": "none"}, **style)
    if row:
        arrow = {"arrowstyle": "-|>", "color": "#222222"}
        ax.annotate("", (0, -row + 0.34), (0, -row + 0.66), arrowprops=arrow)
for x, words in enumerate(["step and what it holds", "an exception", "no exception"]):
    ax.text(x, 0.85, words, ha="center", va="center")
ax.set(xlim=(-0.45, 2.5), ylim=(-len(STEPS) + 0.5, 1.1))
ax.set_axis_off()
plot.show(
    figure,
    "On its way from the catalogue to the tensor a picture can fail at six places; "
    "at most of them it can fail without any exception.",
    alt="A chain of six steps from top to bottom: catalogue, open, decode, convert, "
    "resize, standardise. Beside each, the faults that raise an exception there and "
    "those that do not.",
)

# %% [markdown]
# The middle column ends a run, unless you handle it. The right column trains a network on nonsense, and needs other instruments. This lesson
# deals with both, and begins with the middle one: what do you deliver in the place of a picture that you cannot read?
#
# Take a shop with six pictures, shirts 0, 1, 2 and bags 3, 4, 5, where the files 1 and 2 are broken. An epoch asks for all six.


# %%
def next_readable(i, broken):
    return next_readable((i + 1) % 6, broken) if i in broken else i


asked, unread = range(6), {1, 2}
delivered = {
    "skip": [i for i in asked if i not in unread],
    "next": [next_readable(i, unread) for i in asked],
    "same class": [0 if i in unread else i for i in asked],
}
counts = {name: np.bincount(ids, minlength=6) for name, ids in delivered.items()}
things = ["shirt 0", "shirt 1", "shirt 2", "bag 3", "bag 4", "bag 5"]
pd.DataFrame(counts, index=things).T

# %% [markdown]
# `np.bincount` counts how often each number occurs. Check the rows by hand:
#
# - *skip* delivers four pictures, one of them a shirt. The share of shirts falls from 1/2 to 1/4.
# - *next* delivers bag 3 three times, once for itself and once for each broken shirt. The share falls to 1/6.
# - *same class* delivers shirt 0 three times. It keeps the share at 1/2, but the network sees only one shirt.
#
# In general, let a class hold a share $s$ of the files and lose a part $b$ of them, while the other classes lose $a$. After skipping, its
# share is
#
# $$s' = \frac{s\,(1 - b)}{s\,(1 - b) + (1 - s)(1 - a)},$$
#
# so skipping keeps the balance only if $a = b$, that is, if files break without regard to their class. A repeated picture does harm of its
# own. If one copy lands in training and one in validation, the network is examined on a question whose answer it has seen.

# %% [markdown]
# ## The block
#
# A handler has to answer three questions: *which* errors does it catch, around *which* lines, and *who* is told? To answer the first, open
# one file of each kind of damage, and see what Pillow raises. Exceptions form a family: `except OSError` also catches every descendant of
# `OSError`.

# %%
said = []
for kind, path in answer.drop_duplicates("kind")[["kind", "path"]].to_numpy():
    try:
        Image.open(root / path).load()
    except Exception as error:
        said.append((kind, type(error).__name__, isinstance(error, OSError)))
pd.DataFrame(said, columns=["damage", "exception", "is an OSError"])

# %% [markdown]
# `except OSError` would catch all but one: a file that claims to be gigantic (a *bomb*) raises an exception that is not an `OSError`. Other
# versions and formats raise further types. So the block catches every `Exception`, but only around the two lines where Pillow works. It turns
# whatever comes into *one* exception of its own; `raise ... from` keeps the original attached as `__cause__`.
#
# Note what it does not catch. A bare `except:` would also catch Ctrl-C, which is a `BaseException` and not an `Exception`. And `to_input`
# stands outside the `try`: an error in *your* code must not pass for a broken file.

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
        return index, to_input(picture), self.labels[index]


def collate(samples):
    """Stack what could be read; hand on what could not, by index."""
    failed = {index: bad for index, picture, bad in samples if picture is None}
    read = [sample for sample in samples if sample[0] not in failed]
    pictures = [picture for _, picture, _ in read]
    stacked = torch.stack(pictures) if pictures else torch.empty(0, 1, 28, 28)
    labels = torch.tensor([label for *_, label in read], dtype=torch.int64)
    return stacked, labels, [index for index, *_ in read], failed


# %% [markdown]
# A sample that cannot be read travels as `None` with its reason, and `collate` (which makes a batch of samples) leaves it out. The reasons
# travel *in the batch*. A list inside the data set would look simpler, but with worker processes each worker fills its own copy, and all of
# them are lost.

# %%
dataset = SurvivingPictures(rows["file"], rows["number"])
pictures, labels, indices, failed = collate([dataset[i] for i in range(len(dataset))])
print(tuple(pictures.shape), tuple(labels.shape), len(failed), "could not be read")

bad = next(bad for bad in failed.values() if "truncated" in str(bad))
print(repr(bad.__cause__), "became", repr(bad), sep="\n")

# %% [markdown]
# The original exception did not say which file it was about; ours does. `labs.data` has the same data set with more care (16-bit pictures,
# links, limits on size), called `RobustImageDataset`. Do they agree on this folder?

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
    "a loader written by hand delivers the samples of RobustImageDataset in "
    "the same order, with the same labels",
    indices == batch.indices.tolist() and torch.equal(labels, batch.labels),
    measured=(len(indices), len(batch.indices)),
)
apart = (pictures - batch.images).abs().max()
claim(
    "a loader written by hand delivers the pixels of RobustImageDataset to 1e-6",
    apart < 1e-6,
    measured=apart,
)
claim(
    "a loader written by hand reports the failures that RobustImageDataset reports",
    list(failed) == [f.index for f in batch.failures],
    measured=(len(failed), len(batch.failures)),
)

# %% [markdown]
# They do. This is the policy *skip*. The policy *stop* can be kinder than the crash you began with: look at all files first, then raise
# everything at once. An `ExceptionGroup` holds many exceptions, and `except*` catches those of a kind.

# %%
try:
    raise ExceptionGroup("this folder cannot be trained on", list(failed.values()))
except* BadPictureError as group:
    print(f"{group.message}: {len(group.exceptions)} files, among them")
    for bad in group.exceptions[:3]:
        print(" ", str(bad).replace(str(root), "folder"))

# %% [markdown]
# One run now names every file that has to be sent again.

# %% [markdown]
# ## Debug: count, scan, compare
#
# ### Count what was delivered
#
# The first instrument: give the patched data set the numbers of the rows as labels. Then each sample says whose picture it is.

# %%
_, shown = load(PatchedPictures(rows["file"], range(len(rows))))
seed_everything(0)
in_validation, in_training = shown[torch.randperm(len(rows))].split(
    [len(rows) // 4, len(rows) - len(rows) // 4]
)
leak = torch.isin(in_validation, in_training).float().mean().item()
print(f"pictures delivered 0, 1, 2, ... times: {np.bincount(np.bincount(shown))}")
print(f"validation pictures that were trained on: {leak:.0%}")

# %%
share = {"catalogue": numbers == SHIRT, "delivered": patched_labels == SHIRT}
share = {where: is_shirt.float().mean().item() for where, is_shirt in share.items()}
print("share of shirts:", {where: round(value, 3) for where, value in share.items()})

# %% tags=["nbval-check-output"]
claim(
    "replacing each bad picture by the next good one puts at least 10 % of the "
    "validation pictures into the training",
    leak >= 0.10,
    measured=leak,
)
claim(
    "replacing each bad picture by the next good one cuts the share of shirts to "
    "less than half of the catalogue's",
    share["delivered"] < 0.5 * share["catalogue"],
    measured=share,
)

# %% [markdown]
# The list says how many pictures never came, how many came once, twice, and so on. Here are the two causes. The patch **leaks**: pictures are
# repeated, and a good part of the validation set is known from training. And the **shirts are gone**, from training and from validation alike.
# Even the network of the sound backup found fewer shirts than other pictures, so a validation set without shirts is easier.
# Which of the two makes the score? The experiment below will tell. First, find out what is in the folder.
#
# ### Audit the files
#
# `scan_images` decodes every file to its last pixel, in processes of its own, and reports each one. It knows nothing of the answer key.

# %%
from labs.data import scan_images

scan = scan_images(root, ignore=("catalogue.csv",))
scan.problems()

# %% [markdown]
# One file may be in two rows: a picture of one pixel is tiny and blank, and all blank pictures are copies of each other. *Bad* files give no
# pixels. A *warning* file decodes and trains like any other, and deserves a look first.
#
# Now open the answer key, and compare. `merge` joins two tables on a common column; `how="outer"` keeps the rows that only one of them has,
# and fills the gaps with `NaN`.

# %%
key = answer.rename(columns={"path": "file"})[["file", "kind", "verdict"]]
audit = (
    scan.table().rename(columns={"path": "file"}).merge(key, on="file", how="outer")
)
audit = audit.fillna({"verdict": "sound", "kind": "sound"})
judged = [~audit["ok"], audit["warnings"] != ""]
audit["scan says"] = np.select(judged, ["bad", "warning"], "sound")
crossed = pd.crosstab(audit["verdict"], audit["scan says"])
crossed

# %% tags=["nbval-check-output"]
claim(
    "a scan finds every bad file of the answer key",
    crossed.loc["bad"].drop("bad").sum() == 0,
    measured=crossed.to_dict(),
)
claim(
    "a scan warns of every file of the answer key that needs a warning",
    crossed.loc["warning"].drop("warning").sum() == 0,
    measured=crossed.to_dict(),
)
claim(
    "a scan accuses no sound file of the answer key",
    crossed.loc["sound"].drop("sound").sum() == 0,
    measured=crossed.to_dict(),
)
silent = audit[(audit["kind"] != "sound") & (audit["scan says"] == "sound")]
claim(
    "of sixteen kinds of damage, a scan that decodes every file misses bit rot and "
    "nothing else",
    set(silent["kind"]) == {"bit_rot"} and key["kind"].nunique() == 16,
    measured=(set(silent["kind"]), key["kind"].nunique()),
)

# %% [markdown]
# The scan and the key agree on every file, except for the row *unseen*: there are damaged files that the scan holds to be sound. (This
# tests the scan, and promises nothing about your folder: it was written for the kinds of damage that were planted here.) See what a
# network gets from the files that decode. `read_picture` is the one from your block.

# %%
kinds = ["grey_band", "blank", "one_pixel", "sixteen_bit", "exif_rotated", "bit_rot"]
example = audit.drop_duplicates("kind").set_index("kind")["file"]
views = torch.stack([to_input(read_picture(root / example[kind])) for kind in kinds])
figure, axes = plot.new(height=5, rows=2, columns=3)
plot.images(axes, views, [kind.replace("_", " ") for kind in kinds])
plot.show(
    figure,
    "Six damaged files that decode: most of them look damaged to the eye, yet none "
    "of them raises an exception.",
    alt="A garment that ends in grey, two even squares, a white silhouette, an "
    "upright garment, and a garment with a disturbed part.",
)

# %% [markdown]
# Most of the *grey band* picture never came. *Blank* and *one pixel* show nothing at all. In the *16-bit* picture Pillow's `convert` has cut
# off all values above 255, so only a silhouette is left. The *rotated* one stands upright because the
# block obeys the EXIF tag, a note in the file that says how the camera was held. In the last one,
# *bit rot*, some bits were flipped. A JPEG file carries no checksum: it decodes to wrong pixels, and no decoder can know.
#
# ### Ask who is missing
#
# Join the catalogue, too. The column `where` then tells which rows have no file, and which files no row.

# %%
audit = rows.merge(audit, on="file", how="outer", indicator="where")
where = {"left_only": "catalogue only", "right_only": "disk only", "both": "both"}
audit["where"].map(where).value_counts()

# %% [markdown]
# *Catalogue only* are files that were renamed (a picture saved as `.npy` or `.png`), so the loader never finds them. *Disk only* are the
# renamed ones, and copies that nobody catalogued.
#
# A row of the catalogue is *lost* if its file is not there or bad. `groupby` splits the lost rows by camera, or by label, and the mean
# of true and false is a share.
#
# :::{admonition} Predict
# :class: predict
# What would the two bar charts look like if files broke by chance alone? You know that shirts are missing: what do you expect here?
# :::

# %%
listed = audit[audit["where"] != "right_only"]
lost = (listed["where"] == "left_only") | (listed["scan says"] == "bad")
by_camera = lost.groupby(listed["file"].str[0]).mean()
by_label = lost.groupby(listed["label"]).mean().sort_values()

# %%
figure, axes = plot.new(height=3.4, columns=2)
axes[0].barh(by_camera.index, by_camera, color=plot.COLOURS[1])
axes[0].set(xlim=(0, 1), xlabel="share lost", title="by camera")
axes[1].barh(by_label.index, by_label, color=plot.COLOURS[1])
axes[1].set(xlim=(0, 1), xlabel="share lost", title="by label")
plot.show(
    figure,
    "Camera D lost almost all of its files, and shirts lost most of theirs; every "
    "other camera and class lost few.",
    alt="Share of lost files. By camera it is near zero for A, B and C, and "
    "high for D; by label it is near zero for nine classes, and high for shirts.",
)

# %% [markdown]
# The files were not lost at random. But two bars stand out. Do the shirts break the files, or does the camera? Each bar mixes both. Group by
# both keys at once.

# %%
thing = listed["label"].where(listed["label"] == "shirt", "other")
both = lost.groupby([listed["file"].str[0].rename("camera"), thing])
shares_lost = both.agg(files="size", lost="mean").round(3)
shares_lost

# %% tags=["nbval-check-output"]
others = by_label.drop("shirt").max()
claim(
    "one camera of four breaks nearly all its files: the class that it photographed "
    "loses over 70 % of its rows, every other class under 25 %",
    by_label["shirt"] > 0.70 and others < 0.25,
    measured=(by_label["shirt"], others),
)
crossed_over = {
    "shirts elsewhere": lost[
        (thing == "shirt") & (listed["file"].str[0] != "D")
    ].mean(),
    "others at D": shares_lost.loc[("D", "other"), "lost"],
}
claim(
    "one camera of four breaks nearly all its files: it loses over 70 % of its other "
    "clothes, and the other cameras lose under 25 % of their shirts",
    crossed_over["others at D"] > 0.70 and crossed_over["shirts elsewhere"] < 0.25,
    measured=crossed_over,
)

# %% [markdown]
# It is the camera. Camera D loses other clothes as well as shirts, and the few shirts of the other cameras come through like everything else.
# Camera D stood where most of the shirts were photographed. In the formula above, $b$ is large and $a$ is small, and skipping must tilt the
# balance. Put the numbers in, and compare with the shirts that the block delivered.

# %%
s, b = (numbers == SHIRT).float().mean().item(), by_label["shirt"]
a = lost[thing == "other"].mean()
by_formula = s * (1 - b) / (s * (1 - b) + (1 - s) * (1 - a))
print(f"share of shirts by the formula {by_formula:.4f}", end=", ")
print(f"delivered {(labels == SHIRT).float().mean():.4f}")

# %% [markdown]
# You have found why the shirts are gone, and how many are left, without training anything.
#
# ### One NaN is enough
#
# A blank picture is harmless, you might think: it only teaches nothing. But many recipes standardise each picture, that is, subtract its mean
# and divide by its standard deviation. A blank picture has a standard deviation of zero. NumPy divides zero by zero, prints a warning that
# is easily missed, and goes on with NaN. You can ask it to raise an exception instead.

# %%
samples = (sound.images[:64, 0].numpy() * 255).round()  # [64,28,28], float32
samples[5] = 200.0  # a blank picture
mean, std = samples.mean((1, 2), keepdims=True), samples.std((1, 2), keepdims=True)
try:
    with np.errstate(invalid="raise"):
        (samples - mean) / std
except FloatingPointError as error:
    print("FloatingPointError:", error)
with np.errstate(invalid="ignore"):
    standardised = (samples - mean) / std
print("pictures with NaN:", np.isnan(standardised).any(axis=(1, 2)).sum())

# %% [markdown]
# Feed this batch to the network of the sound backup, the last one you trained. `first_bad` runs it once, forwards and backwards, and names the
# first place where a number stops being finite.

# %%
from labs.hooks import first_bad

poisoned = torch.from_numpy(standardised)[:, None].to(device())  # [64,1,28,28]
first_bad(net, poisoned)

# %% [markdown]
# The input itself is the culprit, and the network is innocent. `fit` also sees that the loss is not finite, and refuses to take the step. So
# the weights stay as they were.
#
# :::{admonition} Predict
# :class: predict
# One picture of 64 was blank. The step was refused. How accurate is the network now?
# :::

# %%
before = accuracy(net, test.images, test.labels)
sgd = torch.optim.SGD(net.parameters(), lr=0.1)
try:
    fit(net, [(poisoned, sound.labels[:64])], sgd)
except FloatingPointError as error:
    print("FloatingPointError:", error)
after = accuracy(net, test.images, test.labels)
print(f"accuracy before {before:.3f}, after {after:.3f}")

# %% tags=["nbval-check-output"]
spoiled = {name for name, b in net.named_buffers() if not b.isfinite().all()}
weights = [p.isfinite().all().item() for p in net.parameters()]
claim(
    "a batch with one NaN picture, the step refused: every weight stays finite, and "
    "the running statistics of batch norm do not",
    all(weights)
    and {n.split(".")[-1] for n in spoiled} == {"running_mean", "running_var"},
    measured=(weights, spoiled),
)
nan = predict(net, test.images).isnan().float().mean().item()
claim(
    "after a batch with one NaN picture, although the step was refused, a network "
    "with batch norm answers NaN to every test picture",
    nan == 1,
    measured=nan,
)

# %% [markdown]
# The weights are sound, and the network is useless. A batch norm in training mode averages over the whole batch, *before* any loss is
# computed, and keeps a running mean for later. One NaN makes the mean NaN, and no good batch will ever mend it: NaN plus anything is NaN.
# `argmax` over NaN still returns a class, so the accuracy looks like that of a bad network and not of a broken one. Check pictures with
# `isfinite` before they enter; the loss is too late.
#
# Wrong *labels* leave no trace in a file at all. They are the subject of the next lesson,
# [Doubt your labels](04_doubt_your_labels).

# %% [markdown]
# ## Experiment: what each policy costs
#
# Now measure the policies on the damaged folder. `RobustImageDataset` knows *stop*, *skip* and *replace*, where a replacement is another
# picture of the same class, or a placeholder. Read the folder once under each, and note which rows were asked for and whose pixels came.
#
# A control tells the two causes apart. Take the sound backup, and lose as many files of it as the shop lost, but by chance, whatever the class
# (*chance, skip* and *chance, next*). If skipping reports too much because *shirts* are lost, it must not do so here. And what the next sample
# still reports too much here is the work of the leak.

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
            samples.append(robust[row])
        except BadImageError:
            break  # the policy is to stop: what came before is all there is
    asked = [row for row, sample in enumerate(samples) if sample.image is not None]
    batch = robust_collate(samples)
    return batch.images, batch.labels, torch.tensor(asked), batch.indices


# %%
def stand_ins(readable):
    """Return for each row the first readable row from there on."""
    good = np.flatnonzero(readable)
    return good[np.searchsorted(good, np.arange(len(readable))) % len(good)]


every_row, GREY = torch.arange(len(rows)), torch.full((1, 28, 28), 0.5)
by_chance = np.random.default_rng(0).permutation(~np.isin(every_row, list(failed)))
luck = every_row[torch.tensor(by_chance)]  # the rows that came through
again = torch.tensor(stand_ins(by_chance))  # the row that came for each row
skipped = deliver("skip")
deliveries = {
    "nothing broken": (backup, numbers, every_row, every_row),
    "chance, skip": (backup[luck], numbers[luck], luck, luck),
    "chance, next": (backup[again], numbers[again], every_row, again),
    "skip": skipped,
    "skip, reweighted": skipped,
    "next sample": (patched_pictures, patched_labels, every_row, shown),
    "same class": deliver("replace"),
    "placeholder": deliver("replace", placeholder=GREY),
}
delivered = {policy: len(one[0]) for policy, one in deliveries.items()}
pd.Series({"stop": len(deliver("stop")[0])} | delivered, name="samples").to_frame()

# %% [markdown]
# The table counts the samples that each policy delivers. *Stop* delivers what came before the first broken file, which is nothing to train on,
# so it is left out from here. *Skip, reweighted* skips too, and then draws the pictures of each class as often as the catalogue says: the files are
# lost, but the catalogue still knows how many shirts there were. Everything else is equal: the split of the rows, the network, the recipe. Each row
# is run with four seeds, to show how much is luck.

# %%
from torch.utils.data import WeightedRandomSampler


def by_catalogue(labels):
    """Draw as many samples as the catalogue has for training, with its balance."""
    there = torch.bincount(labels, minlength=10)
    weights = (torch.bincount(numbers, minlength=10) / there)[labels]
    return WeightedRandomSampler(weights, num_samples=len(rows) * 3 // 4)


def train_and_score(policy):
    pictures, labels, asked, came = deliveries[policy]
    val = torch.isin(asked, torch.randperm(len(rows))[: len(rows) // 4])
    sampler = by_catalogue(labels[~val]) if policy == "skip, reweighted" else None
    net = train(pictures[~val], labels[~val], sampler)
    own, sat = (pictures[val], labels[val]), (test.images, test.labels)
    known = torch.isin(came[val], came[~val & (came >= 0)])  # a placeholder is -1
    return {
        "own validation": accuracy(net, *own),
        "own, by class": np.mean(
            [recall(net, *own, c) for c in labels[val].unique()]
        ),
        "test": accuracy(net, *sat),
        "shirts found": recall(net, *sat),
        "leak": known.float().mean().item(),
        "grey is a shirt": float(predict(net, GREY[None]).argmax(1) == SHIRT),
    }


# %% [markdown]
# *Own, by class* is the mean of the recalls of all classes, so that each class counts the same however many of its pictures are left.
#
# :::{admonition} Predict
# :class: predict
# Which policy gives the highest accuracy on the test, and which the highest on its own validation? Does *skip* report too much, as the patch
# does? And if the files are lost by chance, which of the two still reports too much?
# :::

# %%
from labs.ablation import ablate

policies = list(deliveries)
base = {"policy": policies[0]}
study = ablate(train_and_score, base, vary="policy", values=policies, seeds=range(4))
means = study.frame().groupby("policy", sort=False).mean().drop(columns="seed")
means.round(3)

# %%
figure, axes = plot.new(height=4.2, columns=2)
heights = np.arange(len(means))
axes[0].hlines(heights, means["test"], means["own validation"], color="0.6")
for column, mark, colour in [("test", "o", 0), ("own validation", "s", 4)]:
    axes[0].plot(
        means[column], heights, mark, color=plot.COLOURS[colour], label=column
    )
axes[0].set(xlabel="accuracy")
axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
for policy, found in study.frame().groupby("policy", sort=False)["shirts found"]:
    places = np.full(len(found), means.index.get_loc(policy))
    axes[1].plot(found, places, "o", color=plot.COLOURS[2], alpha=0.7)
axes[1].set(
    xlim=(-0.03, 1), xlabel="share of the test's shirts", title="shirts found"
)
for ax in axes:
    ax.set_yticks(heights, means.index)
    ax.invert_yaxis()
plot.show(
    figure,
    "On the damaged folder every policy reports more accuracy than the test "
    "confirms, and only those that restore the balance still find many shirts; if "
    "as many files are lost by chance, skipping does no such harm.",
    alt="For eight ways to lose and replace files: accuracy on the own validation "
    "set and on the test, and the share of shirts found, one dot for each seed.",
)

# %% tags=["nbval-check-output"]
base, skip, same = (means.loc[n] for n in ("nothing broken", "skip", "same class"))
gap = means["own validation"] - means["test"]
claim(
    "as many files lost by chance: skipping reports within 2.5 points of the test",
    abs(gap["chance, skip"]) < 0.025,
    measured=gap["chance, skip"],
)
claim(
    "as many files lost by chance, each replaced by the next: with a leak over 10 %, "
    "the validation overstates the test by at most half as much as with shirts lost",
    means.loc["chance, next", "leak"] > 0.10
    and gap["chance, next"] < 0.5 * gap["next sample"],
    measured=gap.to_dict(),
)
claim(
    "files lost by chance cost at most half of the shirts that the same number of "
    "files costs where shirts lost most of theirs, both skipped",
    base["shirts found"] - means.loc["chance, skip", "shirts found"]
    <= 0.5 * (base["shirts found"] - skip["shirts found"]),
    measured=means["shirts found"].to_dict(),
)
# %% tags=["nbval-check-output"]
claim(
    "skipping bad files where a class lost most of its files costs under 6 points "
    "of a test accuracy over 75 %",
    base["test"] > 0.75 and base["test"] - skip["test"] < 0.06,
    measured=(base["test"], skip["test"]),
)
claim(
    "skipping bad files where shirts lost most of theirs costs over 35 of 100 "
    "shirts in the test",
    base["shirts found"] - skip["shirts found"] > 0.35,
    measured=(base["shirts found"], skip["shirts found"]),
)
claim(
    "skipping bad files: the own validation reports at least 3 points more than the "
    "test, without any leak",
    gap["skip"] >= 0.03 and skip["leak"] == 0,
    measured=(gap["skip"], skip["leak"]),
)
claim(
    "with no file broken, the own validation is within 2.5 points of a test over "
    "75 %",
    base["test"] > 0.75 and abs(gap["nothing broken"]) < 0.025,
    measured=(base["test"], gap["nothing broken"]),
)

# %% tags=["nbval-check-output"]
claim(
    "skipping bad files: the validation's mean over classes is within 4 points of "
    "a test accuracy over 70 %",
    skip["test"] > 0.7 and abs(skip["own, by class"] - skip["test"]) < 0.04,
    measured=(skip["own, by class"], skip["test"]),
)
for name in ("same class", "skip, reweighted"):
    more = means.loc[name, "shirts found"] - skip["shirts found"]
    claim(
        f"bad files under the policy {name!r}: 20 of 100 shirts more are found than "
        "by skipping alone",
        more >= 0.20,
        measured=more,
    )
claim(
    "replacing bad files by others of their class leaks 10 % of the validation set, "
    "which reports 2 points more than the test",
    same["leak"] >= 0.10 and gap["same class"] >= 0.02,
    measured=(same["leak"], gap["same class"]),
)
claim(
    "trained with grey placeholders for bad shirts, a network calls a grey square a "
    "shirt, with every seed",
    means.loc["placeholder", "grey is a shirt"] == 1,
    measured=means.loc["placeholder", "grey is a shirt"],
)

# %% [markdown]
# Read the table column by column. On the **test** the policies differ by a few points. Somebody who watches only this number will say that bad
# files do not matter much. But of the **shirts** some of these networks find more than half, and others almost none. Accuracy is an average
# over ten classes, and loses at most a tenth when one class is lost.
#
# **Own validation.** *Skip* is correct code and leaks nothing, and still reports more than the test confirms. The control says why. If as many
# files are lost by chance, *skip* reports about what the test confirms, and finds the shirts. So it is not the skipping: the validation set has lost
# the shirts as well. This is **survivorship bias**: you examine only what came through. The famous three lines cause the leak, but compare the
# rows *skip* and *next sample*: most of the symptom is there without them, and with the leak alone (*chance, next*) little of it.
#
# **Own, by class.** The remedy for *skip* costs one line: averaged over classes, its validation is close to the test again. It does not mend a
# leak, as *same class* shows. Nor does it mend a *placeholder*: the grey squares in the validation set are called shirts, and the network has
# learnt to call them so. The last column shows it. In the test, which has no such squares, it finds as few shirts as skipping.
#
# **Same class** and **skip, reweighted** restore the balance, and with it a good part of the shirts, from the few that are left. Nothing is free:
# *same class* repeats pictures across the split, unless you split before you replace.
#
# **Stop** trains nothing. But it tells you that something is wrong before you have asked. It is the right policy for the day on which the data
# arrive.

# %% [markdown]
# ## Reproduce: an exam with known questions
#
# **The paper says.** {cite:t}`barz2020cifair` look for test pictures of CIFAR-10 and CIFAR-100 that have a twin in the training set. They find
# one for about one test picture in thirty, and in ten. Some twins are exact copies; others are the same shot, shifted, scaled or tinted, or
# only very similar. Where new pictures take the place of these test pictures, the networks that they try do worse.
#
# **We measure** what a twin is worth. Split 1,000 test pictures in two halves. Train one network on 1,500 pictures and the first half, and a
# second one on the same pictures and the second half. Each half is then an exam that one network has seen and the other has not, so
# both exams are equally hard. The twin is an exact copy, or it is shifted by one pixel.


# %%
TWINS = {"copy": lambda x: x, "shifted": lambda x: x.roll(1, dims=-1)}


def worth_of_a_twin(twin):
    common = sound.take(torch.randperm(len(sound))[:1500])
    halves = [test.take(part) for part in torch.randperm(len(test))[:1000].chunk(2)]
    right = {"seen": 0.0, "not seen": 0.0}
    for seen, other in [halves, halves[::-1]]:
        pictures = torch.cat([common.images, TWINS[twin](seen.images)])
        net = train(pictures, torch.cat([common.labels, seen.labels]))
        right["seen"] += accuracy(net, seen.images, seen.labels) / 2
        right["not seen"] += accuracy(net, other.images, other.labels) / 2
    return right | {"gain": right["seen"] - right["not seen"]}


# %% [markdown]
# :::{admonition} Predict
# :class: predict
# How many points more does a network score on pictures whose copies it was trained on? And does it help if the copy was shifted
# by one pixel?
# :::

# %%
base = {"twin": "copy"}
twins = ablate(worth_of_a_twin, base, vary="twin", values=list(TWINS), seeds=range(4))
gains = twins.table("gain")
twins.frame().groupby("twin", sort=False).mean().drop(columns="seed").round(3)

# %%
figure, ax = plot.new(height=2.6)
twins.plot(ax, "gain")
ax.set(xlabel="the twin in the training", ylabel="accuracy gained", ylim=(0, None))
plot.show(
    figure,
    "A network scores more on pictures whose twin it was trained on, and more still "
    "if the twin is an exact copy.",
)

# %% tags=["nbval-check-output"]
gain = gains["mean"]
claim(
    "copies of test pictures in the training raise the accuracy on these pictures "
    "by at least 3 points",
    gain["copy"] >= 0.03,
    measured=gain["copy"],
)
claim(
    "an exact copy in the training raises the accuracy on a picture by 1 point more "
    "than one shifted by a pixel",
    gain["copy"] - gain["shifted"] >= 0.01,
    measured=gain.to_dict(),
)

# %% [markdown]
# A picture with an exact copy in the training is right more often, although the two exams are equally hard. A twin that is shifted is worth
# less, and a checksum does not find it. How much did the leak of the patch add to its score, then? One estimate multiplies the share of leaked
# pictures by the gain of one. The control of the experiment has measured it, too: by how much more *chance, next* reports too much than
# *chance, skip*.

# %%
estimate = means.loc["chance, next", "leak"] * gains.loc["copy", "mean"]
too_much = means["own validation"] - means["test"]
added = too_much["chance, next"] - too_much["chance, skip"]
print(f"accuracy that the leak adds: {estimate:.3f} estimated, {added:.3f} measured")
print(f"what skip reports too much, without a leak: {too_much['skip']:.3f}")

# %% [markdown]
# The estimate is the larger one, but both are small beside the last number, which the lost shirts make alone. Do not read the measured one more
# finely: it is a difference of differences, over four seeds and a thousand validation pictures.
#
# **Why they differ.** The direction is the paper's, and the points are not. The paper counts the twins that CIFAR has, few among many
# pictures, and trains large networks that learn their training set by heart. Here each picture of one exam has a twin, and a small network
# is trained for six epochs. The paper also compares two test sets that differ in some pictures; we compare the same pictures, seen and not seen.

# %% [markdown]
# ## Bug hunt: the picture that came twice
#
# **Difficulty** 2 of 3 · **Importance** 3 of 3 · **Time** 30 min
#
# A loader with this `__getitem__` was met in [rom1504/clip-retrieval PR #13](https://github.com/rom1504/clip-retrieval/pull/13), and
# [PR #89](https://github.com/rom1504/clip-retrieval/pull/89) removed it. Here it is as it is usually written.
#
# The contract of `make_loader(read, labels, batch_size)`: it returns a loader and a dict.
#
# - `read(i)` returns picture `i`, or raises `OSError` if its file is broken, always for the same `i`.
# - One pass over the loader is an epoch. It yields pairs `(images, labels)`, and delivers each readable picture exactly once, with its own label,
#   and nothing else. The order is free. A batch may be smaller than `batch_size`, and even empty.
# - After the epoch, the dict maps the number of each broken picture to a reason, and holds no other number.
# - Whatever else `read` raises, a bug in the code or Ctrl-C, reaches the caller.
#
# Edit this cell until the check below it passes. There is more than one good way.

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
# The verdict lists what was probed, and what it saw. Go back to the cell above, change it, and run both cells again.
#
# :::{dropdown} Hint 1
# Write down, for ten files of which number 4 is broken, what each index delivers. Which of the requirements can no `return` of a *picture* fulfil
# for index 4?
# :::
#
# :::{dropdown} Hint 2
# Either find out before the epoch which indices are readable, or let `__getitem__` return something that is not a picture. In the first case,
# think of a folder in which no file is readable: a loader with `shuffle=True` refuses an empty data set. In the second case something has to
# take it out again; look at the arguments of `DataLoader`.
# :::
#
# :::{dropdown} Hint 3
# A batch may lose all of its samples; what does PyTorch make of an empty list? And which exception does the contract speak of: is `Exception` the
# right word for it?
# :::

# %% tags=["hunt-solution", "hide-cell"]
import torch
from torch.utils.data import DataLoader, Dataset, default_collate


class Closet(Dataset):
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


def open_closet(read, labels, batch_size):
    closet = Closet(read, labels)
    loader = DataLoader(closet, batch_size, shuffle=True, collate_fn=keep_readable)
    return loader, closet.failed


# %% tags=["nbval-check-output"]
verdict = check_delivery(open_closet)
claim(
    "the repaired loader of the wardrobe passes every probe",
    verdict.passed,
    measured=verdict,
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** The catalogue lists the pictures in no particular order. Sort it by camera and repeat the count of *Count what was delivered* for
# the patched data set. Predict first: what happens to the share of shirts, and what to the leak?
#
# :::{dropdown} Solution 1
# The neighbours of a broken shirt are now other pictures of camera D, most of them shirts. So the patch replaces shirts mostly by shirts, and a
# good part of their share comes back. But few of them can be read, and each stands in for a long run of broken ones. The leak stays. What one
# line of code does to your classes depends on the order of a list. The next cell counts, with `stand_ins` in the place of the files.
# :::

# %% tags=["hide-cell"]
by_file = rows.assign(row=every_row).sort_values("file", ignore_index=True)
came = torch.tensor(stand_ins(~by_file["row"].isin(list(failed)).to_numpy()))
seed_everything(0)
order = torch.randperm(len(by_file))
kept, held_out = came[order[len(order) // 4 :]], came[order[: len(order) // 4]]
delivered = (by_file["label"].to_numpy()[came] == "shirt").mean()
print(f"most often delivered: {np.bincount(came).max()} times")
print(f"share of shirts {delivered:.3f}", end=", ")
print(f"leak {torch.isin(held_out, kept).float().mean():.0%}")

# %% [markdown]
# **Exercise 2.** The scan could not see the bit rot. Which file, written on the day when the data were sound, would have shown it? `checksums` is such
# a file, and the scan's table has a column `sha256`. Find the rotten pictures among those that decode without a warning.
#
# :::{dropdown} Solution 2
# A list of checksums, like the `SHA256SUMS` file beside many downloads. Compare the checksum of each file with the one on the list, as the next cell
# does.
# :::

# %% tags=["hide-cell", "nbval-check-output"]
then = audit["file"].map(checksums)
quiet = (audit["scan says"] == "sound") & then.notna()
rotten = audit[quiet & (audit["sha256"] != then)]["kind"].value_counts().to_dict()
claim(
    "checksums of the day when the data were sound find every file with bit rot "
    "that a scan misses, and no sound file",
    rotten == {"bit_rot": (answer["kind"] == "bit_rot").sum()},
    measured=rotten,
)

# %% [markdown]
# The shop's folder was temporary. Clean up.

# %%
folder.cleanup()

# %% [markdown]
# ## In practice
#
# - Scan once when the data arrive, with `scan_images` or a tool like it, keep its checksums, and *stop* there. During training *skip* and report;
#   the two do not exclude each other.
# - Let the reasons travel in the batch. A dict or a list in the data set is filled in the process that reads: with `num_workers` above zero that is
#   another process, and yours stays empty.
# - Look at missingness by class, by source and by date before you decide on a policy. If it is not even, restore the balance (a sampler, a weighted
#   loss), and report recall per class.
# - Split by source before you augment, replace or deduplicate. Copies on both sides of a split are a very frequent leak.
# - `ImageFile.LOAD_TRUNCATED_IMAGES = True` silences the error and paints the missing part grey. The scan calls such files *grey band*. Do not set it.
# - Never load data of strangers with `pickle` or `allow_pickle=True`: it runs their code.
# - Look at *how many* files failed before you call them broken. If a disk is not there, every file is bad, and a loader that skips will skip them all.
# - `except Exception` belongs around one call that you do not control. Anything wider hides your own bugs, and a bare `except:` hides your Ctrl-C.
# - NumPy and Pandas do the counting of this lesson; their papers are {cite:t}`harris2020numpy` and {cite:t}`mckinney2010pandas`.

# %% [markdown]
# ## You can now
#
# - write a data set that survives broken files, names each of them, and never delivers a picture twice;
# - scan a folder, join what was found with a catalogue, and see which classes and sources lost their files;
# - tell from two numbers, recall per class and leak, what a policy did to a data set whose accuracy looks fine.
