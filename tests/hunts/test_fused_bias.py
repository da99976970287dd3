"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from labs.hunts.detection import check_fused_conv
from tests.hunts.lesson_cells import run_cell

LESSON = "lessons/02_detection/06_plan_the_gradient_path"


def fused(conv, weight, bias):
    """Return a convolution like ``conv`` with this weight and bias."""
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    one = nn.Conv2d(conv.in_channels, conv.out_channels, *geometry)
    with torch.no_grad():
        one.weight.copy_(weight)
        one.bias.copy_(bias)
    return one


def parts(conv, bn):
    """Return the scale of each channel, and the old bias."""
    old = bn.bias * 0 if conv.bias is None else conv.bias
    return bn.weight / (bn.running_var + bn.eps).sqrt(), old


def scaled(conv, scale):
    return conv.weight * scale[:, None, None, None]


def other_right(conv, bn):
    """Let the batch norm itself say what it makes of the old bias."""
    scale, old = parts(conv, bn)
    return fused(conv, scaled(conv, scale), bn(old[None, :, None, None])[0, :, 0, 0])


def drops_the_bias(conv, bn):
    scale, _ = parts(conv, bn)
    return fused(conv, scaled(conv, scale), bn.bias - bn.running_mean * scale)


def forgets_the_variance(conv, bn):
    scale, old = parts(conv, bn)
    return fused(conv, scaled(conv, scale), bn.bias - bn.running_mean * scale + old * bn.weight)


def forgets_gamma(conv, bn):
    scale, old = parts(conv, bn)
    std = (bn.running_var + bn.eps).sqrt()
    return fused(conv, scaled(conv, scale), bn.bias - bn.running_mean * scale + old / std)


def subtracts_the_bias(conv, bn):
    scale, old = parts(conv, bn)
    return fused(conv, scaled(conv, scale), bn.bias - (bn.running_mean + old) * scale)


def scales_beta_too(conv, bn):
    scale, old = parts(conv, bn)
    return fused(conv, scaled(conv, scale), (old - bn.running_mean + bn.bias) * scale)


def default_eps(conv, bn):
    scale = bn.weight / (bn.running_var + 1e-5).sqrt()
    _, old = parts(conv, bn)
    return fused(conv, scaled(conv, scale), bn.bias + (old - bn.running_mean) * scale)


def forgets_dilation(conv, bn):
    one = fuse_conv_bn_eval(conv, bn)
    one.dilation = (1, 1)
    return one


def works_in_place(conv, bn):
    one = fuse_conv_bn_eval(conv, bn)
    conv.weight.data, conv.bias = one.weight.data, one.bias
    return conv


def keeps_both(conv, bn):
    return nn.Sequential(conv, bn)


def test_the_planted_bug_fails():
    verdict = check_fused_conv(run_cell(LESSON, "hunt-bug")["fuse_conv_bn"])
    passed = [probe.passed for probe in verdict.probes]
    assert passed == [True, True, True, False, False, True, True], verdict


def test_the_solution_passes():
    verdict = check_fused_conv(run_cell(LESSON, "hunt-solution")["fuse_conv_bn"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", [fuse_conv_bn_eval, other_right])
def test_other_right_fixes_pass(fix):
    verdict = check_fused_conv(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    "fix",
    [
        drops_the_bias,
        forgets_the_variance,
        forgets_gamma,
        subtracts_the_bias,
        scales_beta_too,
        default_eps,
        forgets_dilation,
        works_in_place,
        keeps_both,
    ],
)
def test_wrong_fixes_fail(fix):
    assert not check_fused_conv(fix)
