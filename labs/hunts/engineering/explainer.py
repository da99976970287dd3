"""Check a class that draws Grad-CAM maps: every call on its own, and the model left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from labs.hunts import Verdict, examine
from labs.hunts.answer import described, tensor_of

Explain = Callable[[Tensor, int], Tensor]
MakeExplainer = Callable[[nn.Module, str], Explain]

CLASSES = 3


def check_explainer(explainer: MakeExplainer) -> Verdict:
    """Check a Grad-CAM class that is used more than once.

    Args:
        explainer: ``explainer(model, layer)`` returns an object; ``object(images, label)`` returns
            ``relu(sum_k alpha_k A^k)``, [N,h,w], of the feature maps ``A`` of that layer, where
            ``alpha_k`` is the mean gradient of the sum of all scores of that label.

    Returns:
        The verdict of eight probes: on the maps of several calls, and on what stays behind.
    """
    return examine(
        "the explainer",
        explainer,
        {
            "the first map is right": _first_map,
            "so is the map of another picture, of another size": _second_map,
            "and that of the same picture for another class": _other_class,
            "two explainers of one model do not disturb each other": _two_at_once,
            "after three calls, the model has as many hooks as before": _no_hook_stays,
            "nor does one stay when the model raises": _no_hook_after_error,
            "a hook of somebody else goes on working": _spares_other_hooks,
            "every .grad is as it was": _leaves_grad,
        },
        expects="class",
    )


class _Net(nn.Module):
    """A layer in the middle whose maps are neither all positive nor the last thing computed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 5, 3, padding=1)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.middle(torch.tanh(self.stem(x)))
        logits: Tensor = self.head(torch.sigmoid(3 * maps).square().mean((2, 3)))
        return logits


def _net() -> _Net:
    return _Net().eval()


def _made(explainer: MakeExplainer, net: nn.Module) -> Explain:
    explain = explainer(net, "middle")
    assert callable(explain), f"expected an object to call, got {described(explain)}"
    return explain


def _expected(net: _Net, images: Tensor, label: int) -> Tensor:
    """Compute the map without any hook."""
    maps = net.middle(torch.tanh(net.stem(images))).detach().requires_grad_()
    scores = net.head(torch.sigmoid(3 * maps).square().mean((2, 3)))
    (gradient,) = torch.autograd.grad(scores[:, label].sum(), maps)
    return (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu().detach()


def _compare(explain: Explain, net: _Net, images: Tensor, label: int, which: str) -> None:
    wanted = _expected(net, images, label)
    got = tensor_of(explain(images, label), wanted.shape, which)
    off = (got - wanted).abs().max().item() / wanted.max().item()
    assert off < 1e-4, f"{which} is off by {off:.0%} of its peak"


def _first_map(explainer: MakeExplainer) -> str:
    net = _net()
    _compare(_made(explainer, net), net, torch.randn(2, 2, 7, 6), 1, "the map")
    return "equal to the formula"


def _second_map(explainer: MakeExplainer) -> str:
    net = _net()
    explain = _made(explainer, net)
    for number, size in enumerate([(7, 6), (7, 6), (5, 8)], 1):
        _compare(explain, net, torch.randn(1, 2, *size), 1, f"map {number}")
    return "three pictures, three maps"


def _other_class(explainer: MakeExplainer) -> str:
    net, images = _net(), torch.randn(1, 2, 7, 6)
    explain = _made(explainer, net)
    for label in range(CLASSES):
        _compare(explain, net, images, label, f"the map of class {label}")
    return f"{CLASSES} classes, {CLASSES} maps"


def _two_at_once(explainer: MakeExplainer) -> str:
    net = _net()
    pair = _made(explainer, net), _made(explainer, net)
    for turn in range(4):
        _compare(pair[turn % 2], net, torch.randn(1, 2, 7, 6), 0, f"the map of turn {turn}")
    return "four maps in turn"


def _hooks(net: nn.Module) -> int:
    tables = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, table)) for module in net.modules() for table in tables)


def _no_hook_stays(explainer: MakeExplainer) -> str:
    net = _net()
    explain = _made(explainer, net)
    for _ in range(3):
        explain(torch.randn(1, 2, 7, 6), 0)
    assert _hooks(net) == 0, f"{_hooks(net)} more than before"
    return "none more"


def _no_hook_after_error(explainer: MakeExplainer) -> str:
    net = _net()
    explain = _made(explainer, net)
    cause = RuntimeError("the head is broken")

    def fail(*_: Any) -> None:
        raise cause

    handle = net.head.register_forward_pre_hook(fail)
    raised: BaseException | None = None
    try:
        explain(torch.randn(1, 2, 7, 6), 0)
    except RuntimeError as error:
        raised = error
    finally:
        handle.remove()
    assert raised is cause, f"the model raised, and the caller got {raised!r}"
    assert _hooks(net) == 0, f"{_hooks(net)} stayed"
    _compare(explain, net, torch.randn(1, 2, 7, 6), 0, "the map after the error")
    return "none stays, and the next map is right"


def _spares_other_hooks(explainer: MakeExplainer) -> str:
    net, seen = _net(), []
    net.middle.register_forward_hook(lambda *_: seen.append(1))
    explain = _made(explainer, net)
    for _ in range(2):
        explain(torch.randn(1, 2, 7, 6), 0)
    before = len(seen)
    net(torch.randn(1, 2, 7, 6))
    assert len(seen) == before + 1, "it is no longer called"
    return "it does"


def _leaves_grad(explainer: MakeExplainer) -> str:
    net, images = _net(), torch.randn(1, 2, 7, 6)
    _made(explainer, net)(images, 0)
    filled = [name for name, p in net.named_parameters() if p.grad is not None]
    assert not filled, f"{len(filled)} were filled, {filled[0]} among them"
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    _made(explainer, net)(images, 0)
    kept = [p.grad is not None and bool((p.grad == 1).all()) for p in net.parameters()]
    assert all(kept), f"{len(kept) - sum(kept)} that held a gradient were changed"
    assert all(p.requires_grad for p in net.parameters()), "parameters no longer require gradients"
    return "none was filled, none was changed"
