"""Check a pre-activation residual block: the skip must carry its input as it came."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from labs.hunts import Verdict, examine
from labs.hunts.answer import close, module_of, tensor_of

MakeBlock = Callable[[int], nn.Module]
_CHANNELS = 5


def check_skip_connection(block: MakeBlock) -> Verdict:
    """Check a block that should compute ``x + conv(relu(conv(relu(x))))``.

    Args:
        block: ``block(channels)`` builds a module with two 3x3 convolutions of equal width.

    Returns:
        The verdict of five probes: on the skip, the input, the branch, the gradient and the size.
    """
    return examine(
        "the skip connection",
        block,
        {
            "with a silent branch, the block returns its input": _skip_is_identity,
            "the caller's tensor is the same after the call": _input_is_untouched,
            "the output is x + conv(relu(conv(relu(x))))": _output_is_right,
            "the gradient of the input is that of this formula": _gradient_is_right,
            "there are two convolutions, and nothing else to train": _size_is_right,
        },
        expects="class",
    )


def _batch() -> Tensor:
    """Draw a batch with negative values; its height and width differ, so a swap would show."""
    return torch.randn(3, _CHANNELS, 6, 7, generator=torch.Generator().manual_seed(0))


def _built(block: MakeBlock) -> nn.Module:
    module: nn.Module = module_of(block(_CHANNELS), nn.Module, "the block")
    return module


def _skip_is_identity(block: MakeBlock) -> str:
    module, x = _built(block), _batch()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        out = tensor_of(module(x.clone()), x.shape)
    worst = (out - x).abs().max().item()
    assert worst < 1e-6, (
        f"input and output differ; smallest input {x.min():.2f}, output {out.min():.2f}"
    )
    return "it does, negative values too"


def _input_is_untouched(block: MakeBlock) -> str:
    module, x = _built(block), _batch()
    before = x.clone()
    with torch.no_grad():
        tensor_of(module(x), x.shape)
    changed = (x != before).float().mean().item()
    assert changed == 0, f"{changed:.0%} of its values were overwritten"
    return "no value was overwritten"


def _output_is_right(block: MakeBlock) -> str:
    module, x = _built(block), _batch()
    with torch.no_grad():
        close(tensor_of(module(x.clone()), x.shape), _formula(module, x), "the output")
    return "equal to the formula on the block's own weights"


def _gradient_is_right(block: MakeBlock) -> str:
    module, gradients = _built(block), []
    for function in (module, lambda x: _formula(module, x)):
        leaf = _batch().requires_grad_()
        out = tensor_of(function(leaf + 0), leaf.shape)  # + 0: a leaf may not be changed in place
        assert out.requires_grad, "no gradient comes back from the output"
        out.square().sum().backward()
        assert leaf.grad is not None, "no gradient reaches the input"
        gradients.append(leaf.grad)
    got, expected = gradients
    close(got, expected, "the gradient of the input")
    return "equal, also through the skip"


def _size_is_right(block: MakeBlock) -> str:
    module = _built(block)
    trained = sum(p.numel() for p in module.parameters())
    expected = sum(p.numel() for conv in _convolutions(module) for p in conv.parameters())
    assert trained == expected, f"{trained} parameters, of which {expected} in two convolutions"
    return "only the two convolutions"


def _formula(module: nn.Module, x: Tensor) -> Tensor:
    first, second = _convolutions(module)
    return x + second(torch.relu(first(torch.relu(x))))


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    found = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert len(found) == 2, f"expected two convolutions, got {len(found)}"
    return found
