"""Say what each entry of a published file is called here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

Inner = Mapping[type[nn.Module], Mapping[str, str]]
"""For the parts of a block, by its class: our name, and the published one."""


@dataclass(frozen=True)
class Layout:
    """Hold what each entry of a published file is called here.

    Attributes:
        names: Published name, and ours; every entry of the network occurs once.
        eps: Of the batch norms that the weights were learnt with.
        flattened: Published names of what has one axis of length 1 more there, the first.
        background_last: Published names of what has a row for each class, and that of background
            last; here it is the first.
        stacked: Published names of what holds several entries of ours, one below the other, and
            how those are called in ``names``.
        extras: What a file may hold besides, and what it is.
        fixed: Extras with the one value that the network here counts on.
    """

    names: Mapping[str, str]
    eps: float
    flattened: frozenset[str] = frozenset()
    background_last: frozenset[str] = frozenset()
    stacked: Mapping[str, Sequence[str]] = field(default_factory=dict)
    extras: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Tensor] = field(default_factory=dict)


def spell(network: nn.Module, rows: Mapping[str, str], inner: Inner) -> dict[str, str]:
    """Return the published name of each entry of the state dict, and ours.

    Args:
        network: Of this book.
        rows: The published name of a part, and ours.
        inner: How the parts of blocks are called there; others keep their names.

    Raises:
        ValueError: When the network has no part of that name.
    """
    names = {}
    for theirs, ours in rows.items():
        try:
            part = network.get_submodule(ours)
        except AttributeError as error:
            raise ValueError(
                f"load_published: expected a {type(network).__name__} with the parts of the "
                f"published one, got none that is called {ours!r}, which is {theirs!r} there"
            ) from error
        for name in part.state_dict():
            names[f"{theirs}.{_respell(part, name, inner)}"] = f"{ours}.{name}"
    return names


def translate(network: nn.Module, rows: Mapping[str, str]) -> dict[str, str]:
    """Return the published name of each entry of the state dict that a row covers, and ours.

    Args:
        network: Of this book.
        rows: How the names of entries begin there, and here; the first row that fits counts.
    """
    names = {}
    for ours in network.state_dict():
        for theirs, here in rows.items():
            if ours.startswith(here):
                names[theirs + ours.removeprefix(here)] = ours
                break
    return names


def stacked(attentions: Mapping[str, str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return names of queries, keys and values that ``nn.MultiheadAttention`` keeps in one matrix.

    Args:
        attentions: How the names of each begin there, and here.

    Returns:
        The names, as if there were three matrices; and of which the one that is published consists.
    """
    names: dict[str, str] = {}
    parts: dict[str, list[str]] = {}
    for theirs, ours in attentions.items():
        for kind in ("weight", "bias"):
            own = {f"{theirs}in_proj_{kind}[{part}]": part for part in ("query", "key", "value")}
            names |= {name: f"{ours}{part}.{kind}" for name, part in own.items()}
            parts[f"{theirs}in_proj_{kind}"] = list(own)
    return names, parts


def refuse_other_strides(network: nn.Module, strides: Sequence[int]) -> None:
    """Raise ValueError unless the levels are those of the published network."""
    if tuple(strides) != (8, 16, 32):
        raise ValueError(
            f"load_published: expected a {type(network).__name__} with the published strides "
            f"(8, 16, 32), got {tuple(strides)}"
        )


def _respell(part: nn.Module, name: str, inner: Inner) -> str:
    """Translate the dotted name of an entry of a part, from the outside to the inside."""
    for ours, theirs in inner.get(type(part), {}).items():
        if name.startswith(f"{ours}."):
            rest = name.removeprefix(f"{ours}.")
            return f"{theirs}.{_respell(part.get_submodule(ours), rest, inner)}"
    head, dot, rest = name.partition(".")
    return f"{head}.{_respell(part.get_submodule(head), rest, inner)}" if dot else head
