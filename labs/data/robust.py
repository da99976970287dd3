"""Load images from files that may be broken, and never hide that they were."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

from torch import Tensor
from torch.utils.data import Dataset

from labs.data.batch import Failure, Sample
from labs.data.pictures import read_tensor
from labs.data.scan import list_files
from labs.imagefile import BadImageError
from labs.imagefile.read import MAX_PIXELS
from labs.imagefile.report import SUFFIXES
from labs.near_miss import did_you_mean

Policy = Literal["stop", "skip", "replace"]


class RobustImageDataset(Dataset[Sample]):
    """Read images from files, and let you choose what happens when one cannot be read.

    A handler that quietly returns the next sample instead delivers that one twice, and nobody
    notices (rom1504/clip-retrieval#13, mended in #89). Here a sample is delivered, or left out, or
    replaced by something that says so; never silently.

    Give the loader ``collate_fn=collate`` from :mod:`labs.data.batch`, and go through it with
    ``WatchedLoader`` to have every failure counted, with any number of worker processes. This
    object keeps no list of failures: each worker has its own copy of it.

    Args:
        source: A folder laid out as ``root/class/**/file``, or the paths of the files, for example
            ``scan_images(root).good``. Of a folder every entry with the suffix of an image is
            taken, readable or not, sorted by path.
        labels: One integer per file. By default the class folder's position in ``classes``: the
            folder below the root, or the parent folder of each path.
        classes: The names of the class folders, in the order of their labels. By default they are
            sorted as text, as torchvision does: ``"10"`` comes before ``"2"``, and a split that
            lacks a folder numbers the others differently (pytorch/pytorch#22566,
            pytorch/vision#714). Pass the training set's ``classes`` to the test set.
        transform: From image [3,H,W], float32 in [0, 1], to image. An error in it is your bug, not
            a bad file: it is never caught.
        on_error: ``"stop"`` raises, naming the file. ``"skip"`` leaves the sample out of its batch.
            ``"replace"`` delivers ``placeholder``, or else another sample of the same class.
        placeholder: The image to deliver for a failed one, [3,H,W], as the transform would leave
            it. Only for ``"replace"``.
        max_pixels: A picture that claims more is not decoded, and fails.

    Attributes:
        paths: The files.
        labels: Their labels.
        classes: The class names; empty when ``labels`` were given without them.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        labels: Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        on_error: Policy = "stop",
        placeholder: Tensor | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        _check_policy(on_error, placeholder)
        self.paths, folders = _find(source)
        if not self.paths:
            raise ValueError(f"RobustImageDataset: expected image files, found none in {source}")
        if labels is None:
            self.classes = tuple(classes) if classes is not None else tuple(sorted(set(folders)))
            self.labels = _number(folders, self.paths, self.classes)
        else:
            self.classes = tuple(classes or ())
            self.labels = _check_labels(labels, self.paths)
        self.transform = transform
        self.on_error = on_error
        self.placeholder = placeholder
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample, or what the policy delivers for it.

        Raises:
            BadImageError: When the file cannot be read and the policy is ``"stop"``, or no sample
                of its class is left to replace it.
            IndexError: When there is no such sample.
        """
        index = range(len(self))[index]  # negative indices, and the IndexError
        label = self.labels[index]
        try:
            return Sample(self._image(index), label, index)
        except BadImageError as bad:
            reason = str(bad)
        if self.on_error == "skip":
            return Sample(None, label, index, self._failure(index, reason, "skipped"))
        if self.on_error == "replace":
            return self._replacement(index, reason)
        raise BadImageError(
            f"RobustImageDataset: sample {index}, {self.paths[index]}, gives no pixels ({reason}); "
            "remove the files that scan_images(...).bad lists, or pass on_error='skip'"
        )

    def __repr__(self) -> str:
        classes = len(self.classes) or len(set(self.labels))
        return f"RobustImageDataset({len(self)} files, {classes} classes, on_error={self.on_error})"

    def _image(self, index: int) -> Tensor:
        image = read_tensor(self.paths[index], self.max_pixels)
        return image if self.transform is None else self.transform(image)

    def _failure(self, index: int, reason: str, action: str) -> Failure:
        return Failure(index, self.paths[index], reason, action)

    def _replacement(self, index: int, reason: str) -> Sample:
        label = self.labels[index]
        if self.placeholder is not None:
            failure = self._failure(index, reason, "replaced by a placeholder")
            return Sample(self.placeholder, label, -1, failure)
        peers = [i for i, other in enumerate(self.labels) if other == label and i != index]
        for peer in Random(index).sample(peers, len(peers)):  # the same one in every epoch
            try:
                image = self._image(peer)
            except BadImageError:
                continue
            return Sample(
                image, label, peer, self._failure(index, reason, f"replaced by sample {peer}")
            )
        raise BadImageError(
            f"RobustImageDataset: sample {index}, {self.paths[index]}, gives no pixels ({reason}), "
            f"and neither does any other of its class, {label}; pass a placeholder"
        )


def _find(source: str | Path | Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """Return the files, and the name of the class folder of each."""
    if not isinstance(source, (str, Path)):
        paths = [Path(path) for path in source]
        return paths, [path.parent.name for path in paths]
    root = Path(source)
    listed = list_files(root)
    for path, problem in listed:
        if problem.startswith("no permission"):
            raise PermissionError(f"RobustImageDataset: {path}: {problem}; try chmod u+rx on it")
    paths = [path for path, _ in listed if path.suffix.lower() in SUFFIXES]
    inside = [path.relative_to(root).parts for path in paths]
    return paths, [parts[0] if len(parts) > 1 else "" for parts in inside]


def _number(folders: list[str], paths: list[Path], classes: tuple[str, ...]) -> list[int]:
    numbers = {name: label for label, name in enumerate(classes)}
    for folder, path in zip(folders, paths, strict=True):
        if not folder:
            raise ValueError(
                f"RobustImageDataset: expected root/class/file, but {path} lies in no class "
                "folder; move it, or pass `labels`"
            )
        if folder not in numbers:
            hint = did_you_mean(folder, classes)
            raise ValueError(
                f"RobustImageDataset: class {folder!r} of {path} is not in `classes`, which has "
                f"{', '.join(classes)}{hint}"
            )
    return [numbers[folder] for folder in folders]


def _check_labels(labels: Sequence[Any], paths: list[Path]) -> list[int]:
    if len(labels) != len(paths):
        raise ValueError(
            f"RobustImageDataset: expected one label per file, got {len(labels)} labels for "
            f"{len(paths)} files"
        )
    checked = []
    for index, label in enumerate(labels):
        try:
            checked.append(operator.index(label))
        except TypeError:
            raise ValueError(
                f"RobustImageDataset: expected integer labels, got {label!r} for sample {index}, "
                f"{paths[index]}; is its row missing from your table?"
            ) from None
    return checked


def _check_policy(on_error: str, placeholder: Tensor | None) -> None:
    if on_error not in get_args(Policy):
        hint = did_you_mean(on_error, get_args(Policy))
        raise ValueError(
            f"RobustImageDataset: expected on_error 'stop', 'skip' or 'replace', got "
            f"{on_error!r}{hint}"
        )
    if placeholder is not None and on_error != "replace":
        raise ValueError(
            f"RobustImageDataset: a placeholder is for on_error='replace', got {on_error!r}"
        )
