"""Find the layers of a network by name, and make sure that hooks on them will run."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from labs.near_miss import did_you_mean


def find_layers(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return the modules with these names, as ``model.named_modules()`` spells them.

    Args:
        model: Any module; wrappers (see :func:`bare`) are no part of the names.
        names: Names, or patterns that stand for several; see :func:`expand`.

    Raises:
        KeyError: When there is no such layer; the message names the nearest ones.
        TypeError: When a name is not a string, or the layer runs where no hook can see it.
    """
    _refuse_other(model)
    _refuse_replicas(model)
    known, names = dict(bare(model).named_modules(remove_duplicate=False)), list(names)
    for name in names:
        refuse_other_than_name(known, name)
    expanded = dict.fromkeys(layer for name in names for layer in expand(name, known))
    for layer in expanded:
        _refuse_torchscript(known, layer)
    return {layer: known[layer] for layer in expanded}


def expand(pattern: str, known: Collection[str], what: str = "layer") -> list[str]:
    """Return the names that a pattern stands for, in the order of ``known``.

    A name stands for itself. ``*``, ``?`` and ``[12]`` match as file names do in a shell, except
    that ``*`` also crosses dots: ``layer*.conv1`` is every ``conv1`` in ``layer1``, ``layer2``...

    Raises:
        KeyError: When nothing matches; the message names the nearest ones.
    """
    if pattern in known:
        return [pattern]
    matching = [name for name in known if name and fnmatchcase(name, pattern)]
    if not matching:
        raise KeyError(f"{what} {pattern!r} not found{_suggestion(known, pattern)}")
    return matching


def bare(model: nn.Module) -> nn.Module:
    """Return the network inside ``torch.compile`` and the wrappers of distributed training.

    Raises:
        TypeError: When it is no module.
    """
    _refuse_other(model)
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return bare(model.module)
    original = getattr(model, "_orig_mod", None)  # set by torch.compile
    return bare(original) if isinstance(original, nn.Module) else model


def eager() -> AbstractContextManager[object]:
    """Run compiled code eagerly inside the block, because it ignores hooks that came later."""
    if "torch._dynamo" not in sys.modules:  # nothing can have been compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def _refuse_other(model: object) -> None:
    """Raise when this is no module.

    Raises:
        TypeError: It says what was given in its place.
    """
    if not isinstance(model, nn.Module):
        hint = "; call the class first" if isinstance(model, type) else ""
        raise TypeError(f"expected an nn.Module, got {_kind(model)}{hint}")


def refuse_other_than_name(
    known: Mapping[str, object], name: object, what: str = "a layer"
) -> None:
    """Raise when this is no string; where it is what a name stands for, say that name.

    Raises:
        TypeError: It says what was given in its place.
    """
    if not isinstance(name, str):
        own = [known_name for known_name, held in known.items() if held is name]
        hint = f"; its name is {own[0]!r}" if own else ""
        raise TypeError(f"expected the name of {what}, got {_kind(name)}{hint}")


def named_inputs(verb: str, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a model is to be called with by name.

    Raises:
        TypeError: When it is no mapping from names.
    """
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise TypeError(
            f"{verb}: expected kwargs to be a dict from the names of the model's inputs, such as "
            f"{{'pixel_values': x}}, got {_kind(kwargs)}"
        )
    return dict(kwargs)


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _refuse_torchscript(known: dict[str, nn.Module], name: str) -> None:
    if any(isinstance(known[outer], torch.jit.ScriptModule) for outer in _path(name)):
        raise TypeError(
            f"layer {name!r} is TorchScript, which runs no Python hooks; "
            "use the module from which it was scripted or traced"
        )


def _suggestion(known: Collection[str], name: str) -> str:
    if guesses := did_you_mean(name, known, most=3, cutoff=0.4):
        return guesses
    children = [known_name for known_name in known if known_name and "." not in known_name]
    if not children:
        return "; the model has no layers inside; its own name is ''"
    return f"; the layers at the top are {', '.join(children)}"


def _path(name: str) -> list[str]:
    """Return the names of a layer and of all modules around it: "", "a", "a.b" for "a.b"."""
    parts = name.split(".") if name else []
    return [".".join(parts[:length]) for length in range(len(parts) + 1)]


def _refuse_replicas(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise TypeError(
                f"expected one copy of the model, got a DataParallel over {len(module.device_ids)} "
                "devices, whose copies would mix their calls; use its `.module`"
            )


def refuse_train_mode(verb: str, model: nn.Module) -> None:
    """Raise when a module of the model is in train mode.

    Raises:
        ValueError: It names the verb that refuses and the first modules in train mode.
    """
    training = [name or "the model itself" for name, m in model.named_modules() if m.training]
    if training:
        raise ValueError(
            f"{verb}: expected every module in eval mode, got {len(training)} in train mode "
            f"({', '.join(training[:3])}{', ...' if len(training) > 3 else ''}); dropout draws "
            "at random there, and batch norms mix the samples; call model.eval() first"
        )


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, by one name for each module that holds them.

    ``torch.func.functional_call`` given a module under both of its names would leave the copies in
    it; with these names and ``tie_weights=False`` it does not.
    """
    return {
        f"{prefix}.{name}" if prefix else name: tensor
        for prefix, module in model.named_modules()
        for held in (module._parameters, module._buffers)
        for name, tensor in held.items()
        if tensor is not None
    }
