"""The checker must fail the planted bug, pass the lesson's own fix, and see through wrong ones."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from labs.hunts.detection import check_fused_conv
from tests.hunts.lesson_cells import run_cell
from tests.hunts.refusals import marks

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


def forgets_stride(conv, bn):
    one = fuse_conv_bn_eval(conv, bn)
    one.stride = (1, 1)
    return one


def mixes_the_groups(conv, bn):
    one = fuse_conv_bn_eval(conv, bn)
    if conv.groups > 1:
        one.weight.data = one.weight.data.flip(1)
    return one


def limits_eps(conv, bn):
    bn = copy.deepcopy(bn)
    bn.eps = min(bn.eps, 0.01)
    return fuse_conv_bn_eval(conv, bn)


def plain(conv, bn):
    return bn.eps == 1e-3 and (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)


def a_little_off(bias):
    def fuse(conv, bn):
        one = fuse_conv_bn_eval(conv, bn)
        if plain(conv, bn) and (conv.bias is not None) is bias:
            one.bias.data[0] += 2e-4
        return one

    return fuse


def limits_the_bias(conv, bn):
    conv = copy.deepcopy(conv)
    if conv.bias is not None:
        conv.bias.data.clamp_(max=LARGEST)
    return fuse_conv_bn_eval(conv, bn)


def holds_one_more(conv, bn):
    one = fuse_conv_bn_eval(conv, bn)
    one.register_parameter("spare", nn.Parameter(torch.zeros(1)))
    return one


def resets_the_statistics(conv, bn):
    one = fuse_conv_bn_eval(conv, bn)
    bn.running_mean.zero_()
    return one


def gives_conv_a_bias(conv, bn):
    one = fuse_conv_bn_eval(conv, bn)
    conv.bias = nn.Parameter(torch.zeros(8)) if conv.bias is None else conv.bias
    return one


def returns_a_number(conv, bn):
    return 0.0


LARGEST = 2.6  # of the layers that are asked alone none has more, and one of those in a row has
WRONG = {
    a_little_off(bias=False): "✗✓✓✓✓✓✓",
    forgets_stride: "✓✗✓✓✓✓✓",
    mixes_the_groups: "✓✗✓✓✓✓✓",
    forgets_dilation: "✓✗✓✓✓✓✓",
    limits_eps: "✓✓✗✓✓✓✓",
    a_little_off(bias=True): "✓✓✓✗✓✓✓",
    limits_the_bias: "✓✓✓✓✗✓✓",
    keeps_both: "✓✓✓✓✓✗✓",
    holds_one_more: "✓✓✓✓✓✗✓",
    works_in_place: "✓✓✓✓✓✓✗",
    resets_the_statistics: "✓✓✓✓✓✓✗",
    gives_conv_a_bias: "✓✓✓✓✓✓✗",
    drops_the_bias: "✓✓✓✗✗✓✓",
    forgets_the_variance: "✓✓✓✗✗✓✓",
    forgets_gamma: "✓✓✓✗✗✓✓",
    subtracts_the_bias: "✓✓✓✗✗✓✓",
    scales_beta_too: "✗✗✗✗✗✓✓",
    default_eps: "✗✗✗✗✗✓✓",
    returns_a_number: "✗✗✗✗✗✗✓",
}


def test_the_planted_bug_fails():
    verdict = check_fused_conv(run_cell(LESSON, "hunt-bug")["fuse_conv_bn"])
    passed = [probe.passed for probe in verdict.probes]
    assert passed == [True, True, True, False, False, True, True], verdict


def test_the_solution_passes():
    verdict = check_fused_conv(run_cell(LESSON, "hunt-solution")["fuse_with_norm"])
    assert verdict, verdict


@pytest.mark.parametrize("fix", [fuse_conv_bn_eval, other_right])
def test_other_right_fixes_pass(fix):
    verdict = check_fused_conv(fix)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("fix", "refused"), WRONG.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_wrong_fixes_are_refused_by_the_right_probes(fix, refused):
    verdict = check_fused_conv(fix)
    assert marks(verdict) == refused, verdict
