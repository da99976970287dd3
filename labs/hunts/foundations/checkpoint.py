"""Check a loader of checkpoints: what was saved must arrive, or the reader must be told."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from labs.hunts import Verdict, examine

State = dict[str, Tensor]
Load = Callable[[nn.Module, State], object]


def check_checkpoint(load: Load) -> Verdict:
    """Check a function that copies a checkpoint into a network.

    Args:
        load: ``load(model, state)`` changes the model in place. The keys of ``state`` are those of
            the model, or those of the same model inside ``nn.DataParallel``.

    Returns:
        The verdict of six probes: on what arrives, what is refused, and what is left alone.
    """
    return examine(
        "the checkpoint",
        load,
        {
            "a checkpoint saved from a wrapped network arrives": _wrapped_arrives,
            "a checkpoint saved without the wrapper arrives": _bare_arrives,
            "it arrives whatever the layers are called": _other_names_arrive,
            "it arrives in whatever order it was saved": _other_order_arrives,
            "a checkpoint of another network is refused": _misfits_are_refused,
            "the checkpoint is the caller's, and stays as it was": _caller_keeps_state,
        },
    )


class _Net(nn.Module):
    """Hold layers under chosen names: two that could be mistaken for each other, and a norm."""

    def __init__(self, names: tuple[str, str, str] = ("first", "second", "norm")) -> None:
        super().__init__()
        self.add_module(names[0], nn.Linear(3, 3))
        self.add_module(names[1], nn.Linear(3, 3))
        self.add_module(names[2], nn.Sequential(OrderedDict(inner=nn.BatchNorm1d(3))))


def _saved(net: nn.Module, wrapped: bool = True) -> State:
    """Return the state of a trained network: no tensor holds what a new one starts with."""
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 8 + 2)
    outer = nn.DataParallel(net) if wrapped else net
    return {name: tensor.clone() for name, tensor in outer.state_dict().items()}


def _lost(net: nn.Module, source: nn.Module) -> list[str]:
    expected, got = source.state_dict(), net.state_dict()
    return [name for name in expected if not torch.equal(expected[name], got[name])]


def _arrives(load: Load, names: tuple[str, str, str], wrapped: bool) -> str:
    source, net = _Net(names), _Net(names)
    load(net, _saved(source, wrapped))
    lost = _lost(net, source)
    assert not lost, f"{len(lost)} of {len(source.state_dict())} tensors did not, such as {lost[0]}"
    return "every weight and every statistic of the norm"


def _wrapped_arrives(load: Load) -> str:
    return _arrives(load, ("first", "second", "norm"), wrapped=True)


def _bare_arrives(load: Load) -> str:
    return _arrives(load, ("first", "second", "norm"), wrapped=False)


def _other_names_arrive(load: Load) -> str:
    # Letters, a whole word and a longer word that also stand in the wrapper's name.
    _arrives(load, ("model", "eldest", "modulus"), wrapped=True)
    _arrives(load, ("module", "second", "module_norm"), wrapped=True)
    outer = nn.Module()
    outer.add_module("body", _Net(("module", "second", "norm")))
    copy = nn.Module()
    copy.add_module("body", _Net(("module", "second", "norm")))
    load(copy, _saved(outer))
    lost = _lost(copy, outer)
    assert not lost, f"{len(lost)} tensors did not, such as {lost[0]}"
    return "three more networks, all complete"


def _other_order_arrives(load: Load) -> str:
    source, net = _Net(), _Net()
    load(net, dict(reversed(_saved(source).items())))
    lost = _lost(net, source)
    assert not lost, f"{len(lost)} tensors did not, such as {lost[0]}"
    return "each tensor under its own name"


def _misfits_are_refused(load: Load) -> str:
    state, other = _saved(_Net()), _saved(_Net(("first", "third", "norm")))
    extra = {**state, "module.third.weight": torch.ones(3, 3)}
    short = {name: tensor for name, tensor in state.items() if name != "module.second.bias"}
    statistic = {name: t for name, t in state.items() if not name.endswith("running_mean")}
    for what, misfit in [
        ("other layers", other),
        ("a tensor too many", extra),
        ("no second.bias", short),
        ("no running_mean", statistic),
    ]:
        try:
            load(_Net(), misfit)
        except (RuntimeError, KeyError, ValueError, AssertionError):
            continue
        raise AssertionError(f"one with {what} was taken without a word")
    return "four misfits, four errors"


def _caller_keeps_state(load: Load) -> str:
    net, state = _Net(), _saved(_Net())
    before = {name: tensor.clone() for name, tensor in state.items()}
    load(net, state)
    assert list(state) == list(before), "its keys changed"
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)  # one step of training
    changed = [name for name in before if not torch.equal(state[name], before[name])]
    assert not changed, f"{len(changed)} of its tensors changed when the network was trained"
    return "same keys, same values"
