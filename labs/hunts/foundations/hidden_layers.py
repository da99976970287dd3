"""Check a network with a chosen number of layers: whatever it computes with must belong to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from labs.hunts import Verdict, examine
from labs.hunts.answer import close, module_of, tensor_of

MakeReader = Callable[[int, int], nn.Module]
_PIXELS, _DIGITS = 196, 10
_SHAPES = ((1, 8), (3, 8), (5, 6))  # depth and width; one is odd in each


def check_hidden_layers(reader: MakeReader) -> Verdict:
    """Check a digit reader with a chosen number of hidden layers.

    Args:
        reader: ``reader(depth, width)`` builds a module that maps [N,1,14,14] to [N,10] by
            ``depth`` times linear, batch norm and ReLU, all of ``width`` units, and one linear.

    Returns:
        The verdict of six probes: on what the optimizer gets, what a step moves, eval mode, the
        checkpoint, the size and the answer.
    """
    return examine(
        "the hidden layers",
        reader,
        {
            "the optimizer gets every weight that the answer depends on": _all_are_handed_over,
            "one step moves every weight that the optimizer gets": _all_are_moved,
            "in eval mode, a picture has one answer in any company": _eval_reaches_all,
            "a checkpoint holds all that is needed to answer alike": _checkpoint_is_whole,
            "depth and width are as asked, in layers of their own": _size_is_right,
            "the answer is that of linear, norm and ReLU in this order": _answer_is_right,
        },
        expects="class",
    )


def _batch(n: int = 12) -> Tensor:
    return torch.randn(n, 1, 14, 14, generator=torch.Generator().manual_seed(1)) + 0.5


def _readers(make: MakeReader) -> Iterator[tuple[int, int, Any]]:
    """Yield depth, width and a network in train mode, for each of the shapes."""
    for depth, width in _SHAPES:
        module = module_of(make(depth, width), nn.Module, "the network")
        yield depth, width, module.train()


def _scores(module: nn.Module, images: Tensor) -> Tensor:
    return tensor_of(module(images), (len(images), _DIGITS), "the scores")


def _leaves(output: Tensor) -> list[Tensor]:
    """Return the tensors at which the graph of the output begins: what a gradient arrives at."""
    found: dict[int, Tensor] = {}
    due, seen = [output.grad_fn], set()
    while due:
        node = due.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        due += [following for following, _ in node.next_functions]
    return list(found.values())


def _all_are_handed_over(make: MakeReader) -> str:
    for depth, _, module in _readers(make):
        handed = {id(parameter) for parameter in module.parameters()}
        leaves = _leaves(_scores(module, _batch()))
        assert leaves, f"with depth {depth}, no weight can be learned at all"
        lost = [tuple(leaf.shape) for leaf in leaves if id(leaf) not in handed]
        assert not lost, (
            f"with depth {depth}, {len(lost)} of {len(leaves)} tensors are not in parameters(), "
            f"such as one of shape {lost[0]}"
        )
    return "it does, at each depth"


def _all_are_moved(make: MakeReader) -> str:
    for depth, _, module in _readers(make):
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        sgd = torch.optim.SGD(module.parameters(), lr=1.0)
        labels = torch.arange(12) % _DIGITS
        nn.functional.cross_entropy(_scores(module, _batch()), labels).backward()
        sgd.step()
        still = [name for name, p in module.named_parameters() if torch.equal(p, before[name])]
        assert not still, (
            f"with depth {depth}, {len(still)} of {len(before)} stand still, such as {still[0]}"
        )
    return "it does, at each depth"


def _eval_reaches_all(make: MakeReader) -> str:
    for depth, _, module in _readers(make):
        with torch.no_grad():
            for _ in range(3):
                _scores(module, _batch())
            module.eval()
            together = _scores(module, _batch())
            pairs = torch.cat([_scores(module, two) for two in _batch().split(2)])
        worst = (together - pairs).abs().max().item()
        assert worst < 1e-4, (
            f"with depth {depth}, scores change by up to {worst:.2g} with the other pictures"
        )
    return "alone or in a batch, the same scores"


def _checkpoint_is_whole(make: MakeReader) -> str:
    for depth, width, module in _readers(make):
        with torch.no_grad():
            for _ in range(3):
                _scores(module, _batch())
        copy = module_of(make(depth, width), nn.Module, "the network")
        copy.load_state_dict(module.state_dict())
        with torch.no_grad():
            expected, got = (_scores(net.eval(), _batch()) for net in (module, copy))
        worst = (got - expected).abs().max().item()
        assert worst < 1e-5, (
            f"with depth {depth}, scores of the restored network are off by up to {worst:.2g}"
        )
    return "restored networks give the same scores"


def _size_is_right(make: MakeReader) -> str:
    for depth, width, module in _readers(make):
        expected = sum(p.numel() for p in _reference(depth, width).parameters())
        got = sum(leaf.numel() for leaf in _leaves(_scores(module, _batch())))
        assert got == expected, (
            f"with depth {depth} and width {width}, expected {expected} weights, got {got}"
        )
    return "as many weights as that needs"


def _answer_is_right(make: MakeReader) -> str:
    for depth, width, module in _readers(make):
        with torch.no_grad():
            got, ran = _watched(module)
            reference = _reference(depth, width).train()
            own = [one for one in reference if not isinstance(one, (nn.ReLU, nn.Flatten))]
            kinds = [type(layer).__name__ for layer in ran]
            assert kinds == [type(one).__name__ for one in own], (
                f"with depth {depth}, expected {len(own)} layers with weights to run, "
                f"got {len(kinds)}: {', '.join(kinds) or 'none'}"
            )
            for ours, theirs in zip(own, ran, strict=True):
                ours.load_state_dict(theirs.state_dict())
            close(got, reference(_batch()), f"the scores with depth {depth}", atol=1e-4)
    return "equal to the formula on the network's own weights"


def _watched(module: nn.Module) -> tuple[Tensor, list[nn.Module]]:
    """Return the scores, and the layers with weights in the order in which they ran."""
    ran: list[nn.Module] = []
    handles = [
        layer.register_forward_hook(lambda layer, *_: ran.append(layer))
        for layer in _layers_reached(module)
    ]
    try:
        return _scores(module, _batch()), ran
    finally:
        for handle in handles:
            handle.remove()


def _layers_reached(module: nn.Module) -> list[nn.Module]:
    """Return the linear layers and batch norms, also those that the module does not know of."""
    found: dict[int, nn.Module] = {}
    due: list[Any] = [module]
    seen: set[int] = set()
    while due:
        one = due.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, (nn.Linear, nn.BatchNorm1d)):
            found[id(one)] = one
        elif isinstance(one, nn.Module):
            due += [*one.children(), *vars(one).values()]
        elif isinstance(one, (list, tuple)):
            due += one
        elif isinstance(one, dict):
            due += one.values()
    return list(found.values())


def _reference(depth: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for k in range(depth):
        given = _PIXELS if k == 0 else width
        layers += [nn.Linear(given, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, _DIGITS))
