"""Load published weights into a network, all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from labs.models.cascade_rcnn import CascadeRCNN
from labs.models.deformable_detr import DeformableDETR
from labs.models.detr import DETR
from labs.models.faster_rcnn import FasterRCNN
from labs.models.mobilenet import MobileNetV2
from labs.models.published import (
    cascade_rcnn,
    darknet,
    deformable_detr,
    detr,
    faster_rcnn,
    ssd,
    vit,
    yolo_v5,
    yolo_v7,
    yolo_v8,
)
from labs.models.published.layout import Layout
from labs.models.published.reading import named_tensors
from labs.models.published.torchvision import same_names
from labs.models.resnet import ResNet
from labs.models.ssd import SSD
from labs.models.vgg import VGG
from labs.models.vit import ViT
from labs.models.yolo_v3 import YOLOv3
from labs.models.yolo_v4 import YOLOv4
from labs.models.yolo_v5 import YOLOv5
from labs.models.yolo_v7 import YOLOv7
from labs.models.yolo_v8 import YOLOv8
from labs.near_miss import did_you_mean

LAYOUTS: Mapping[str, Mapping[type[nn.Module], Callable[[Any], Layout]]] = {
    "torchvision": {
        ResNet: same_names,
        MobileNetV2: same_names,
        VGG: same_names,
        SSD: ssd.layout,
        FasterRCNN: faster_rcnn.layout,
        ViT: vit.of_torchvision,
    },
    "transformers": {
        ViT: vit.of_transformers,
        DETR: detr.of_transformers,
        DeformableDETR: deformable_detr.of_transformers,
    },
    "authors": {DETR: detr.of_authors, DeformableDETR: deformable_detr.of_authors},
    "darknet": {YOLOv3: darknet.layout_v3, YOLOv4: darknet.layout_v4},
    "mmdetection": {CascadeRCNN: cascade_rcnn.layout},
    "ultralytics": {YOLOv5: yolo_v5.layout, YOLOv7: yolo_v7.layout, YOLOv8: yolo_v8.layout},
}
"""The layouts of published files, and for which networks of this book each is known. The program of
YOLOv7 names its entries by the same rule as those of v5 and v8."""
_WITHOUT_NORMS = (
    VGG,
    SSD,
    FasterRCNN,
    CascadeRCNN,
    ViT,
    DETR,
    DeformableDETR,
)  # as they are trained
_SHOWN = 6  # of what does not fit, in an error
_COUNTED = "num_batches_tracked"  # older files lack it, and nothing is computed from it


@dataclass(frozen=True, repr=False)
class Loaded:
    """Hold what came from a file.

    Attributes:
        names: The published name of each entry that was loaded, and ours.
        extras: What the file held besides, such as the anchors it was trained with.
        reasons: Why the network has no place for each of the extras.
    """

    names: Mapping[str, str]
    extras: Mapping[str, Tensor]
    reasons: Mapping[str, str]

    def table(self) -> pd.DataFrame:
        """Return one row per entry of the file: ``published``, ``here`` (None), ``note``."""
        rows: list[tuple[str, str | None, str]]
        rows = [(theirs, ours, "loaded") for theirs, ours in self.names.items()]
        rows += [(theirs, None, self.reasons[theirs]) for theirs in self.extras]
        return pd.DataFrame(rows, columns=["published", "here", "note"])

    def __repr__(self) -> str:
        extras = f" and not {', '.join(self.extras)}" if self.extras else ""
        return f"Loaded({len(self.names)} entries{extras})"


def load_published(
    model: nn.Module,
    state_dict: Mapping[str, Tensor] | Tensor | bytes | str | Path,
    layout: str = "torchvision",
) -> Loaded:
    """Load weights that others published into a network, in place: all of them, or none.

    Everything must fit: names, shapes, and the eps of the batch norms. The weights are cast to the
    precision and copied to the device of the network. See :mod:`labs.models.published` for files.

    Args:
        model: Of the classes of :data:`LAYOUTS`, built with the classes and at the scale of the
            file.
        state_dict: Tensors by name, or the path of a file that holds them, which is read without
            running code. For ``"darknet"`` the path of a ``.weights`` file, its content, or its
            numbers after the header as one flat tensor.
        layout: By which names: ``"torchvision"``, ``"transformers"``, ``"authors"`` (of the
            DETRs),
            ``"darknet"``, ``"ultralytics"`` or ``"mmdetection"``.

    Returns:
        Which entry went where, and what the file held besides.

    Raises:
        ValueError: When the layout or the network is unknown, or anything does not fit; it names
            what is missing, unexpected or of another shape. Nothing was loaded then.
        FileNotFoundError: When there is no such file.
    """
    wanted = _layout(model, layout)
    _refuse_unfit(model, wanted)
    if layout == "darknet":
        if isinstance(state_dict, Mapping):
            raise ValueError(
                "load_published: expected the path or the numbers of a darknet file, which has no "
                f"names, got a state dict of {len(state_dict)} entries"
            )
        entries = darknet.split(state_dict, wanted, model)
    else:
        entries = named_tensors(state_dict)  # type: ignore[arg-type]  # it refuses what is else
    entries = {
        name: _as_here(name, value, wanted)
        for stack, values in entries.items()
        for name, value in _apart(stack, values, wanted)
    }
    if wrong := _what_is_wrong(model.state_dict(), entries, wanted):
        raise ValueError(
            f"load_published: expected the entries of this {type(model).__name__} as {layout} "
            f"names them, got {'; '.join(wrong[:_SHOWN])}; {len(wrong)} in all do not fit, and "
            "nothing was loaded; build the network with the classes and at the scale of the file"
        )
    loaded = {theirs: ours for theirs, ours in wanted.names.items() if theirs in entries}
    model.load_state_dict(
        model.state_dict() | {ours: entries[theirs] for theirs, ours in loaded.items()}
    )
    extras = {name: entries[name] for name in wanted.extras if name in entries}
    return Loaded(loaded, extras, wanted.extras)


def _apart(name: str, value: Tensor, wanted: Layout) -> Iterable[tuple[str, Tensor]]:
    """Return the entries that a published one consists of, by the names of the layout."""
    parts = wanted.stacked.get(name, [name])
    if value.ndim and len(value) % len(parts) == 0:
        return (
            zip(parts, value.chunk(len(parts)), strict=True) if len(parts) > 1 else [(name, value)]
        )
    return [(name, value)]


def _as_here(name: str, value: Tensor, wanted: Layout) -> Tensor:
    """Bring an entry into the form that it has here, where it is of a form to be brought."""
    if name in wanted.flattened and value.shape[:1] == (1,):
        return value[0]
    return value.roll(1, 0) if name in wanted.background_last and value.ndim else value


def _layout(model: nn.Module, layout: str) -> Layout:
    """Return the layout for a network, or say which there are."""
    if layout not in LAYOUTS:
        raise ValueError(
            f"load_published: expected a layout of {', '.join(LAYOUTS)}, got {layout!r}"
            f"{did_you_mean(layout, LAYOUTS)}"
        )
    for kind, make in LAYOUTS[layout].items():
        if isinstance(model, kind):
            _refuse_fused(model)
            return make(model)
    others = [name for name, kinds in LAYOUTS.items() if isinstance(model, tuple(kinds))]
    known = ", ".join(kind.__name__ for kind in LAYOUTS[layout])
    fix = f"; its layout is {others[0]!r}" if others else ""
    raise ValueError(
        f"load_published: expected a network that has weights in the layout {layout!r} ({known}), "
        f"got {type(model).__name__}{fix}"
    )


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]


def _refuse_fused(model: nn.Module) -> None:
    if not _norms(model) and not isinstance(model, _WITHOUT_NORMS):
        raise ValueError(
            f"load_published: expected a {type(model).__name__} as it is trained, got one without "
            "batch norms: load first, and fuse then"
        )


def _refuse_unfit(model: nn.Module, wanted: Layout) -> None:
    """Raise unless the network is one that published weights mean the same in."""
    what = f"load_published: expected a {type(model).__name__}"
    if other := {norm.eps for norm in _norms(model)} - {wanted.eps}:
        raise ValueError(
            f"{what} whose batch norms have the eps that these weights were learnt with, "
            f"{wanted.eps}, got {min(other)}: build it with eps={wanted.eps}"
        )
    if any(value.is_meta for value in model.state_dict().values()):
        raise ValueError(f"{what} that holds numbers, got one on the meta device: use to_empty()")
    mine = {name for name in model.state_dict() if not name.endswith(_COUNTED)}
    if left := sorted(mine - set(wanted.names.values())):
        raise ValueError(f"{what} of published parts alone, got also {', '.join(left[:3])}")


def _what_is_wrong(
    own: Mapping[str, Tensor], entries: Mapping[str, Tensor], wanted: Layout
) -> list[str]:
    """Name what is missing, unexpected, or of another kind, each with what may be meant."""
    known = wanted.names.keys() | wanted.extras.keys()
    unexpected = [name for name in entries if name not in known]
    missing = [n for n in wanted.names if n not in entries and not n.endswith(_COUNTED)]
    # Guessing is slow where hundreds of names do not fit, and only the first few are shown.
    wrong = [f"no {name}{did_you_mean(name, unexpected)}" for name in missing[:_SHOWN]]
    wrong += [f"no {name}" for name in missing[_SHOWN:]]
    wrong += [f"unexpected {name}{_near(name, missing, known)}" for name in unexpected[:_SHOWN]]
    wrong += [f"unexpected {name}" for name in unexpected[_SHOWN:]]
    for theirs, ours in wanted.names.items():
        if theirs in entries:
            wrong += _other_kind(theirs, entries[theirs], own[ours])
    for name, value in wanted.fixed.items():
        if name in entries and not _same(entries[name], value):
            wrong.append(f"{name} with other values than {wanted.extras[name]}")
    return wrong


def _near(name: str, missing: Iterable[str], known: Iterable[str]) -> str:
    """Guess first among what is missing."""
    return did_you_mean(name, missing) or did_you_mean(name, known)


def _other_kind(name: str, found: Tensor, own: Tensor) -> list[str]:
    if found.shape != own.shape:
        return [f"{name} {list(found.shape)} in place of {list(own.shape)}"]
    if found.is_floating_point() != own.is_floating_point() or found.is_meta:
        return [f"{name} as {found.dtype} on {found.device} in place of {own.dtype}"]
    return []


def _same(found: Tensor, value: Tensor) -> bool:
    return found.shape == value.shape and bool((found.to(value).cpu() == value).all())
