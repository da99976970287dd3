"""One planted fault in any one block is seen in the maps: the parity tests can fail."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import nn

from labs.models import YOLOv4, YOLOv5, YOLOv8
from labs.models.blocks import SPP, SPPF, Bottleneck
from labs.models.yolo_v3 import FPN, Residual
from labs.models.yolo_v4 import PAN, CSPStage
from labs.models.yolo_v5 import C3
from labs.models.yolo_v7 import ELAN, MP, SPPCSPC
from labs.models.yolo_v8 import C2f
from tests.parity import test_darknet, test_modules, test_yolo_v1
from tests.parity.plain import close, images
from tests.parity.test_modules import RELATIVE

MODULES = ["v5n", "v7, narrow", "v8n", "v8n with masks"]
DARKNET = ["v3", "v4"]
ALL = [*MODULES, *DARKNET, "v1"]
OF = dict.fromkeys(MODULES, test_modules) | dict.fromkeys(DARKNET, test_darknet)


LOOSE, STRICT = torch.float32, torch.float64
ANY = [pytest.param(9, id="every ninth"), pytest.param(1, id="every one", marks=pytest.mark.slow)]


def healthy(case, dtype):
    """Return a network that equals its table, to be broken."""
    pair = test_yolo_v1.pair(True, (64, 128))[:2] if case == "v1" else OF[case].pair(case)
    return deepcopy(pair[-1]).to(dtype)


@cache
def truth(case, dtype):
    """Return images and the maps of the published table."""
    if case == "v1":
        weights, _, settings = test_yolo_v1.pair(True, (64, 128))
        weights.dtype, x = dtype, images(1, 64, 128, dtype)
        with torch.no_grad():
            return x, [test_yolo_v1.run(weights, x, *settings)]
    x = images(1, 32, 64, dtype) if dtype == STRICT else images(1, 32, 512, dtype)
    return x, OF[case].plain_maps(case, x)


def seen(case, network):
    """Say whether the parity test of this network fails, by its own bound."""
    dtype = next(network.parameters()).dtype
    x, expected = truth(case, dtype)
    with torch.no_grad():
        found = network(x)
    bound = RELATIVE[dtype]
    return not all(close(a, b, bound) for a, b in zip(found, expected, strict=True))


def parts(network, kind):
    return [name for name, part in network.named_modules() if type(part) is kind]


@pytest.mark.parametrize("case", ALL)
def test_without_a_fault_nothing_is_seen(case):
    assert not seen(case, healthy(case, LOOSE))
    assert not seen(case, healthy(case, STRICT))


@pytest.mark.parametrize("case", ["v5n", "v8n"])
def test_a_wrong_shortcut_in_any_bottleneck_is_seen(case):
    network = healthy(case, LOOSE)
    added = [name for name in parts(network, Bottleneck) if network.get_submodule(name).add]
    # Yes in the backbone, no in the neck: 1, 2, 3 and 1 of them in v5; 1, 2, 2 and 1 in v8.
    assert len(added) == {"v5n": 7, "v8n": 6}[case]
    assert all(name.startswith("backbone") for name in added)
    for name in parts(network, Bottleneck):
        block = network.get_submodule(name)
        block.add = not block.add
        assert seen(case, network), name
        block.add = not block.add


def without_addition(self, x):
    return self.expand(self.squeeze(x))


@pytest.mark.parametrize("case", DARKNET)
def test_a_missing_shortcut_in_any_residual_block_is_seen(case):
    network = healthy(case, LOOSE)
    assert len(parts(network, Residual)) == 23
    for name in parts(network, Residual):
        block = network.get_submodule(name)
        block.forward = without_addition.__get__(block)
        assert seen(case, network), name
        del block.forward


OTHER = {nn.LeakyReLU: nn.LeakyReLU(0.01), nn.Mish: nn.SiLU(), nn.SiLU: nn.Mish()}


@pytest.mark.parametrize("step", ANY)
@pytest.mark.parametrize("case", ALL)
def test_another_slope_or_activation_after_any_layer_is_seen(case, step):
    network = healthy(case, STRICT)
    acts = [name for kind in OTHER for name in parts(network, kind)]
    assert len(acts) >= 25
    for name in acts[::step]:
        parent, _, last = name.rpartition(".")
        block, right = network.get_submodule(parent), network.get_submodule(name)
        setattr(block, last, OTHER[type(right)])
        assert seen(case, network), name
        setattr(block, last, right)


@pytest.mark.parametrize("step", ANY)
@pytest.mark.parametrize("case", ALL)
def test_another_eps_in_any_batch_norm_is_seen(case, step):
    network = healthy(case, STRICT)
    norms = parts(network, nn.BatchNorm2d)
    assert len(norms) >= 24
    for name in norms[::step]:
        norm = network.get_submodule(name)
        right, norm.eps = norm.eps, 1e-3 if norm.eps == 1e-5 else 1e-5
        assert seen(case, network), name
        norm.eps = right


@pytest.mark.parametrize("case", [*MODULES, *DARKNET])
def test_the_eps_of_another_version_is_seen_in_float32(case):
    network = healthy(case, LOOSE)
    for name in parts(network, nn.BatchNorm2d):
        norm = network.get_submodule(name)
        norm.eps = 1e-3 if norm.eps == 1e-5 else 1e-5
    assert seen(case, network)


def turned(sizes):
    """Return what reverses a stack of parts of these sizes along the channels."""
    return lambda module, args: (torch.cat(args[0].split(sizes, 1)[::-1], 1),)


def stacks(network):
    """Yield, for each layer that is given a stack, its name and the sizes of the parts."""
    for name, block in network.named_modules():
        if isinstance(block, C3 | CSPStage | SPPCSPC):
            last = "join" if isinstance(block, CSPStage) else "mix"
            half = block.get_submodule(last).conv.in_channels // 2
            yield f"{name}.{last}", [half, half]
        elif isinstance(block, C2f | ELAN):
            c = (
                (block.split.conv.out_channels // 2)
                if isinstance(block, C2f)
                else (block.around.conv.out_channels)
            )
            total = block.mix.conv.in_channels
            inner = c if isinstance(block, C2f) else block.row[0].conv.out_channels
            first = [inner] * ((total - 2 * c) // inner)
            yield f"{name}.mix", [*first, c, c] if isinstance(block, ELAN) else [c, c, *first]
        elif isinstance(block, SPP | SPPF):
            yield f"{name}.mix", [block.mix.conv.in_channels // 4] * 4
        if isinstance(block, SPPCSPC):
            yield f"{name}.after.0", [block.after[0].conv.in_channels // 4] * 4


@pytest.mark.parametrize("case", ["v5n", "v7, narrow", "v8n", "v4"])
def test_another_order_in_any_stack_is_seen(case):
    network = healthy(case, LOOSE)
    found = list(stacks(network))
    assert len(found) == {"v5n": 9, "v7, narrow": 10, "v8n": 9, "v4": 6}[case]
    for name, sizes in found:
        hook = network.get_submodule(name).register_forward_pre_hook(turned(sizes))
        assert seen(case, network), name
        hook.remove()


def neck_inputs(network):
    """Yield the layers of the neck that are given two maps, one beside the other."""
    neck = network.neck
    if isinstance(neck, FPN):
        yield from ((mix[0], mix[0].conv.in_channels // 3) for mix in list(neck.mix)[:-1])
        return
    levels = [*neck.up, *(neck.down if isinstance(neck, PAN) else neck.merge)]
    for block in levels:
        first = block[0] if isinstance(block, nn.Sequential) else block
        yield first, None


@pytest.mark.parametrize("case", [*MODULES[:3], *DARKNET])
def test_another_order_of_two_maps_in_the_neck_is_seen(case):
    network = healthy(case, LOOSE)
    found = list(neck_inputs(network))
    assert len(found) == (2 if case == "v3" else 4)
    for block, size in found:

        def swap(module, args, size=size):
            (x,) = args
            sizes = [size or x.shape[1] // 2, x.shape[1] - (size or x.shape[1] // 2)]
            return (torch.cat(x.split(sizes, 1)[::-1], 1),)

        hook = block.register_forward_pre_hook(swap)
        assert seen(case, network)
        hook.remove()


def test_the_other_order_of_the_two_ways_to_halve_is_seen():
    network = healthy("v7, narrow", LOOSE)
    halves = parts(network, MP)
    assert len(halves) == 5
    for name in halves:
        block = network.get_submodule(name)
        hook = block.register_forward_hook(
            lambda module, args, out: torch.cat(out.chunk(2, 1)[::-1], 1)
        )
        assert seen("v7, narrow", network), name
        hook.remove()


@pytest.mark.parametrize(
    ("build", "case", "kernel"), [(YOLOv5, "v5n", 5), (YOLOv8, "v8n", 5), (YOLOv4, "v4", 5)]
)
def test_another_pool_is_seen(build, case, kernel):
    network = healthy(case, LOOSE)
    assert type(network) is build
    for name in [*parts(network, SPPF), *parts(network, SPP)]:
        block = network.get_submodule(name)
        if isinstance(block, SPP):
            assert block.kernels == (5, 9, 13)
            block.kernels = (3, 9, 13)
        else:
            assert block.kernel == kernel
            block.kernel = 3
    assert seen(case, network)


def test_another_pool_in_v7_is_seen():
    network = healthy("v7, narrow", LOOSE)
    network.neck.pool.kernels = (5, 9, 11)
    assert seen("v7, narrow", network)


@pytest.mark.parametrize("step", ANY)
@pytest.mark.parametrize("case", ALL)
def test_another_kernel_in_any_layer_is_seen(case, step):
    """Kernels of the same shape, turned over: as if rows and columns were taken for each other."""
    network = healthy(case, STRICT)
    convolutions = map(network.get_submodule, parts(network, nn.Conv2d))
    for conv in [conv for conv in convolutions if conv.kernel_size != (1, 1)][::step]:
        with torch.no_grad():
            conv.weight.copy_(conv.weight.transpose(2, 3).clone())
            assert seen(case, network)
            conv.weight.copy_(conv.weight.transpose(2, 3).clone())
