"""Check a network that takes pictures of any size: its ONNX file must take them too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from labs.export import session, to_onnx
from labs.hooks import capture
from labs.hunts import Verdict, examine
from labs.hunts.answer import module_of, tensor_of

MakeNet = Callable[[], nn.Module]
_STRIDE = 4
_SIZES = (3, 32, 32), (1, 30, 30), (2, 29, 38), (3, 40, 27)
_DYNAMIC = {0: "batch", 2: "height", 3: "width"}


def check_any_size(net: MakeNet) -> Verdict:
    """Check a network that pads to strides of 4, maps [N,1,H,W] to [N,1,H,W], and is exported.

    Args:
        net: ``net()`` builds a module with a convolution and a transposed one, stride 4 each.

    Returns:
        The verdict of five probes: on the size, the values, the work, and two ONNX files.
    """
    return examine(
        "a network for any size",
        net,
        {
            "in PyTorch, every map has the size of its picture": _size_is_kept,
            "in PyTorch, the values are those of zeros at the right and the bottom": _values_agree,
            "the padding is as small as it can be": _padding_is_small,
            "the file made from 32x32 is right for other sizes": partial(_file_agrees, (32, 32)),
            "the file made from 30x35 is right for other sizes": partial(_file_agrees, (30, 35)),
        },
        expects="class",
    )


def _build(net: MakeNet) -> nn.Module:
    module: nn.Module = module_of(net(), nn.Module, "the network").eval()
    kinds = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    shapes = [tuple(m.weight.shape) for m in kinds]
    assert shapes == [(4, 1, 4, 4), (4, 1, 4, 4)], f"weights of shapes {shapes}; they must stay"
    with torch.no_grad():
        for parameter in module.parameters():  # wide: no mistake drowns in a ReLU that is off
            parameter.normal_() if parameter.ndim > 1 else parameter.uniform_(0.5, 1)
    return module


def _pictures() -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.rand(n, 1, h, w, generator=random) for n, h, w in _SIZES]


def _formula(module: nn.Module, x: Tensor) -> Tensor:
    down, up = (m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)))
    height, width = x.shape[-2:]
    whole = pad(x, (0, -width % _STRIDE, 0, -height % _STRIDE))
    return up(down(whole).relu())[..., :height, :width]


@torch.no_grad()
def _size_is_kept(net: MakeNet) -> str:
    module = _build(net)
    for x in _pictures():
        tensor_of(module(x.clone()), x.shape)
    return f"at {len(_SIZES)} sizes"


@torch.no_grad()
def _values_agree(net: MakeNet) -> str:
    module = _build(net)
    for x in _pictures():
        _same(module(x.clone()), _formula(module, x), x)
    return f"at {len(_SIZES)} sizes"


@torch.no_grad()
def _padding_is_small(net: MakeNet) -> str:
    module = _build(net)
    name = next(n for n, m in module.named_modules() if isinstance(m, nn.Conv2d))
    for x in _pictures():
        with capture(module, name) as maps:
            module(x.clone())
        expected = [-(-side // _STRIDE) for side in x.shape[-2:]]
        got = list(maps[name].shape[-2:])
        assert got == expected, f"{tuple(x.shape[-2:])} gave {got} cells, {expected} hold it all"
    return "no cell too many"


def _file_agrees(example: tuple[int, int], net: MakeNet) -> str:
    module = _build(net)
    with tempfile.TemporaryDirectory() as folder:
        path = to_onnx(module, torch.rand(2, 1, *example), Path(folder) / "net.onnx", _DYNAMIC)
        run = session(path, ["CPUExecutionProvider"])
    declared = next(iter(run.inputs.values()))
    free = [declared[dim] for dim in _DYNAMIC]
    assert free == list(_DYNAMIC.values()), f"the file takes {list(declared)} only"
    for x in _pictures():
        with torch.no_grad():
            _same(run(x)[0], _formula(module, x), x)
    return f"at {len(_SIZES)} sizes"


def _same(answer: Tensor, expected: Tensor, x: Tensor) -> None:
    size = tuple(x.shape[-2:])
    got = tensor_of(answer, expected.shape)
    off = ((got - expected).abs() > 1e-4 + 1e-4 * expected.abs()).float().mean().item()
    assert off == 0, f"at {size}, {off:.0%} of the values differ"
