"""Recognise the layout of a folder of labelled pictures: COCO, Pascal VOC or YOLO."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from labs.data.folders import CocoFolder, VocFolder, YoloFolder
from labs.data.folders.fields import read_text
from labs.data.folders.xml import parse_xml

_ROLES = {
    "train": ("train", "training", "train2017", "trainval"),
    "val": ("val", "valid", "validation", "val2017"),
    "test": ("test", "test2017", "testing"),
}
_LAYOUTS = """\
COCO: annotations/instances_train.json and train/*.jpg, or train/_annotations.coco.json; \
Pascal VOC: Annotations/*.xml and JPEGImages/*.jpg; \
YOLO: images/*.jpg, labels/*.txt and classes.txt, or a data.yaml with `names`"""
_SHOWN = 8  # names in an error
_OTHER_JSON = ("captions_", "person_keypoints_", "image_info_", "stuff_", "panoptic_")


class Folder(Protocol):
    """Describe what reads one part of a folder, whatever the layout."""

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    faults: tuple[str, ...]
    notices: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many sound pictures there are."""
        ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a picture and its truth."""
        ...


def open_layout(root: Path, classes: Sequence[str] | None) -> tuple[str, dict[str, Folder]]:
    """Find out the layout of a folder: its name, and a reader of each part, by its role.

    Args:
        root: The folder.
        classes: The names of the labels; those that the folder tells when None.

    Returns:
        ``"COCO"``, ``"Pascal VOC"`` or ``"YOLO"``, and what reads ``"train"``, ``"val"`` and
        ``"test"``, as far as they are there. Damaged pictures are left out, and told in ``faults``.

    Raises:
        FileNotFoundError: When something that belongs to the layout is missing.
        ValueError: When there is no known layout, or its names contradict each other.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `notices` say the same
        for layout, read in (("COCO", _coco), ("Pascal VOC", _voc), ("YOLO", _yolo)):
            if found := read(root, classes):
                return layout, _by_role(root, found)
    inside = ", ".join(sorted(path.name for path in root.iterdir())[:_SHOWN]) or "nothing"
    raise ValueError(f"{root}: expected one of these layouts: {_LAYOUTS}; got {inside}")


def _by_role(root: Path, found: Mapping[str, Folder]) -> dict[str, Folder]:
    role_of = {name: role for role, names in _ROLES.items() for name in names}
    roles = {role_of[name.lower()]: part for name, part in found.items() if name.lower() in role_of}
    if "train" not in roles:
        rest = [part for name, part in found.items() if name.lower() not in role_of]
        if len(rest) != 1:
            raise ValueError(
                f"{root}: expected a part named train, got {', '.join(found)}; rename one, or "
                "give a folder with one part alone, which is split"
            )
        roles["train"] = rest[0]
    return {role: roles[role] for role in _ROLES if role in roles}


def _coco(root: Path, classes: Sequence[str] | None) -> dict[str, Folder]:
    inside = {path.parent.name: path for path in sorted(root.glob("*/_annotations.coco.json"))}
    files = [*sorted((root / "annotations").glob("*.json")), *sorted(root.glob("*.json"))]
    found: dict[str, Folder] = {
        name: CocoFolder(path.parent, path, name, masks=False, strict=False)
        for name, path in inside.items()
    }
    for path in files:
        if not path.stem.startswith(_OTHER_JSON):
            name = path.stem.removeprefix("instances_").strip("_")
            places = (root / name, root / "images" / name, root / "images", root)
            images = next(place for place in places if place.is_dir())
            found[name] = CocoFolder(images, path, name, masks=False, strict=False)
    if classes is not None and any(tuple(classes) != part.classes for part in found.values()):
        told = next(iter(found.values())).classes
        raise ValueError(
            f"--classes: expected the names of the annotations in their order, "
            f"{' '.join(told)}, got {' '.join(classes)}; leave it out"
        )
    return found


def _voc(root: Path, classes: Sequence[str] | None) -> dict[str, Folder]:
    files = sorted((root / "Annotations").glob("*.xml"))
    if not files:
        return {}
    lists = root / "ImageSets" / "Main"
    known = {name for names in _ROLES.values() for name in names}
    splits = [path.stem for path in sorted(lists.glob("*.txt")) if path.stem in known]
    if "train" in splits and "trainval" in splits:
        splits.remove("trainval")  # it holds the validation pictures as well
    names = _names_of(files) if classes is None else tuple(classes)
    if not splits:
        stems = [path.stem for path in files]
        return {"all": VocFolder(root, "all", names, names=stems, strict=False)}
    return {split: VocFolder(root, split, names, strict=False) for split in splits}


def _names_of(files: Sequence[Path]) -> tuple[str, ...]:
    """Return the names of all objects, sorted; a file that cannot be parsed is reported later."""
    names = set()
    for path in files:
        try:
            names |= {(name.text or "").strip() for name in parse_xml(path).iterfind("object/name")}
        except ValueError:
            continue
    return tuple(sorted(names - {""}))


def _yolo(root: Path, classes: Sequence[str] | None) -> dict[str, Folder]:
    places: dict[str, tuple[Path, Path]] = {}
    if (root / "images").is_dir():
        known = {name for names in _ROLES.values() for name in names}
        parts = [path.name for path in sorted((root / "images").iterdir()) if path.name in known]
        places = {name: (root / "images" / name, root / "labels" / name) for name in parts}
        places = places or {"all": (root / "images", root / "labels")}
    else:
        for path in sorted(root.glob("*/images")):
            places[path.parent.name] = (path, path.with_name("labels"))
    if not places and any(root.glob("*.txt")) and any(root.glob("*.[jp][pn]*g")):
        places = {"all": (root, root)}
    if not places:
        return {}
    names = _one_order(root) if classes is None else tuple(classes)
    return {
        name: YoloFolder(images, labels, name, names, strict=False)
        for name, (images, labels) in places.items()
    }


def _one_order(root: Path) -> tuple[str, ...] | None:
    """Return the class names; refuse two files of names that tell two orders."""
    found: dict[str, tuple[str, ...]] = {}
    for path in (root / "classes.txt", root / "labels" / "classes.txt"):
        if path.is_file():
            lines = (line.strip() for line in read_text(path).splitlines())
            found[str(path)] = tuple(line for line in lines if line)
    for path in (root / "data.yaml", root / "data.yml"):
        if path.is_file():
            found[str(path)] = _names_in_yaml(path)
    if len(set(found.values())) > 1:
        told = "; ".join(f"{path} says {', '.join(names)}" for path, names in found.items())
        raise ValueError(
            f"{root}: expected one order of the classes, got two: {told}. Nothing in the rows "
            "tells which is right: pass it with --classes, or remove one file"
        )
    return next(iter(found.values()), None)


def _names_in_yaml(path: Path) -> tuple[str, ...]:
    """Read ``names`` as ``[a, b]``, as rows ``- a``, or as rows ``0: a``."""
    text = re.sub(r"\s#.*$", "", read_text(path), flags=re.MULTILINE)
    match = re.search(r"^names:[ \t]*(.*(?:\n(?:[ \t]+|-).*)*)", text, re.MULTILINE)
    body = (match[1] if match else "").strip()
    if body.startswith(("[", "{")):
        cells = body.strip("[]{}").replace("\n", " ").split(",")
    else:
        cells = [line.strip().removeprefix("-") for line in body.splitlines()]
    rows = [re.sub(r"^\d+\s*:", "", cell.strip()).strip().strip("'\"") for cell in cells]
    numbers = [int(m[1]) for cell in cells if (m := re.match(r"\s*(\d+)\s*:", cell))]
    if not all(rows) or (numbers and numbers != list(range(len(rows)))):
        raise ValueError(
            f"{path}: expected `names` as a list, or numbered from 0 on, got {body[:60]!r}; pass "
            "the names with --classes"
        )
    return tuple(rows)
