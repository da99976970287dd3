"""Check the fusion of a convolution with the batch norm behind it: one layer, the same answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from labs.hunts import Verdict, examine
from labs.hunts.answer import module_of, tensor_of

Fuse = Callable[[nn.Conv2d, nn.BatchNorm2d], nn.Conv2d]


def check_fused_conv(fuse: Fuse) -> Verdict:
    """Check a function that works a batch norm in eval mode into the convolution before it.

    Args:
        fuse: ``fuse(conv, bn)`` returns one convolution that computes what both compute in a row,
            and leaves both as they were.

    Returns:
        The verdict of seven probes: on kinds of layers, on a network, and on what must not change.
    """
    return examine(
        "the fused convolution",
        fuse,
        {
            "a convolution without bias": lambda f: _same(f, bias=False),
            "strides, groups and dilation": _geometry,
            "a large eps and a small variance": _eps,
            "a convolution with bias": lambda f: _same(f, bias=True),
            "three of them in a row": _row,
            "one convolution comes back, and no more": _one_convolution,
            "both layers are as they were": _untouched,
        },
    )


def _layers(seed: int = 0, eps: float = 1e-3, **conv: Any) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Make two layers in eval mode whose every number has been moved by some training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = nn.Conv2d(8, 8, 3, padding=1, **conv)
        norm = nn.BatchNorm2d(8, eps=eps)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 3)
        nn.init.uniform_(norm.weight, 0.3, 2)
        nn.init.normal_(norm.bias)
        if first.bias is not None:
            nn.init.normal_(first.bias)
    return first.eval(), norm.eval()


def _fused(fuse: Fuse, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Module:
    layer: nn.Module = module_of(fuse(conv, norm), nn.Module, "the fused layer")
    return layer


def _picture() -> Tensor:
    return torch.randn(2, 8, 9, 11, generator=torch.Generator().manual_seed(1))


def _compare(fuse: Fuse, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> str:
    x = _picture()
    with torch.no_grad():
        expected = norm(conv(x))
        got = tensor_of(_fused(fuse, conv, norm)(x), expected.shape)
    worst = (got - expected).abs().amax((0, 2, 3))
    wrong = int((worst > 1e-4).sum())
    assert wrong == 0, f"{wrong} of {len(worst)} channels differ, by up to {worst.max():.2f}"
    return "equal to the two layers in a row"


def _same(fuse: Fuse, bias: bool) -> str:
    return _compare(fuse, *_layers(bias=bias))


def _geometry(fuse: Fuse) -> str:
    for conv in ({"stride": 2}, {"groups": 4}, {"dilation": 2}):
        _compare(fuse, *_layers(seed=2, bias=False, **conv))
    return "each of them is kept"


def _eps(fuse: Fuse) -> str:
    conv, norm = _layers(seed=3, eps=0.1, bias=False)
    assert norm.running_var is not None
    norm.running_var.mul_(0.01)
    return _compare(fuse, conv, norm)


def _row(fuse: Fuse) -> str:
    pairs = [_layers(seed, bias=seed > 0) for seed in range(3)]
    x = _picture()
    expected = got = x
    with torch.no_grad():
        for conv, norm in pairs:
            expected, got = norm(conv(expected)).relu(), _fused(fuse, conv, norm)(got).relu()
    worst = (got - expected).abs().max().item()
    assert worst < 1e-3, f"after three layers the output is off by up to {worst:.2f}"
    return "equal after three layers too"


def _one_convolution(fuse: Fuse) -> str:
    for bias in (False, True):
        fused = module_of(fuse(*_layers(bias=bias)), nn.Conv2d, "the fused layer")
        count = sum(p.numel() for p in fused.parameters())
        assert count == 8 * 8 * 9 + 8, f"expected 8*8*9 + 8 parameters, got {count}"
    return "weights, a bias, and nothing else"


def _untouched(fuse: Fuse) -> str:
    for bias in (False, True):
        layers = nn.ModuleList(_layers(bias=bias))
        before = {name: value.clone() for name, value in layers.state_dict().items()}
        conv, norm = layers
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        fuse(conv, norm)
        after = layers.state_dict()
        moved = [name for name in before if not before[name].equal(after[name])]
        assert before.keys() == after.keys(), "a layer gained or lost a parameter"
        assert not moved, f"{', '.join(moved)} changed"
    return "no number moved"
