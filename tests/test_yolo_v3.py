"""The networks of YOLO v3 and v4: counts by arithmetic, shapes, levels, refusals, export."""

import pytest
import torch
from torch import nn

from labs.assigners import BestAnchor
from labs.export import parity, to_onnx
from labs.models import V2_ANCHORS, V3_ANCHORS, V4_ANCHORS, YOLOv3, YOLOv4
from labs.models.yolo_v3 import FPN, Darknet53, Residual
from labs.models.yolo_v4 import PAN, CSPDarknet53, CSPStage
from labs.postprocess import YOLOv3Postprocess
from tests.export_candidates import Candidates

MINI = {"strides": (8, 16), "depths": (1, 1, 1), "width": 0.25, "stem_stride": 2}


def on_meta(build):
    with torch.device("meta"):
        return build()


def count(model):
    return sum(p.numel() for p in model.parameters())


def statistics(model):
    """Count the running means and variances, which are stored but not trained."""
    return sum(2 * m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def conv(c_in, c_out, kernel=1):
    """Count a convolution without bias, and the scale and shift of its batch norm."""
    return c_in * c_out * kernel**2 + 2 * c_out


def five(c_in, c):
    return conv(c_in, c) + 2 * conv(c, 2 * c, 3) + 2 * conv(2 * c, c)


def heads():
    return sum(conv(c, 2 * c, 3) + (2 * c + 1) * 3 * 85 for c in (128, 256, 512))


STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))  # channels and blocks


def test_v3_has_the_published_number_of_parameters():
    backbone = conv(3, 32, 3) + sum(
        conv(c // 2, c, 3) + n * (conv(c, c // 2) + conv(c // 2, c, 3)) for c, n in STAGES
    )
    neck = five(1024, 512) + five(512 + 256, 256) + five(256 + 128, 128)
    neck += conv(512, 256) + conv(256, 128)
    model = on_meta(YOLOv3)
    assert count(model.backbone) == backbone
    assert count(model.neck) == neck
    assert count(model) == backbone + neck + heads() == 61_949_149
    # The file of weights that its authors published holds 62,001,757 numbers: these and the
    # running statistics.
    assert count(model) + statistics(model) == 62_001_757


def test_v4_has_the_published_number_of_parameters():
    # The first stage gives each path all 64 channels; the others half of theirs.
    first = conv(32, 64, 3) + 3 * conv(64, 64) + conv(64, 32) + conv(32, 64, 3) + conv(128, 64)
    backbone = conv(3, 32, 3) + first
    for c, n in STAGES[1:]:
        half = c // 2
        blocks = n * (conv(half, half) + conv(half, half, 3))
        backbone += conv(half, c, 3) + 2 * conv(c, half) + blocks + conv(half, half) + conv(c, c)
    top = 2 * conv(1024, 512) + 2 * conv(512, 1024, 3) + conv(2048, 512) + conv(1024, 512)
    up = conv(512, 256) + conv(512, 256) + five(512, 256)
    up += conv(256, 128) + conv(256, 128) + five(256, 128)
    down = conv(128, 256, 3) + five(512, 256) + conv(256, 512, 3) + five(1024, 512)
    model = on_meta(YOLOv4)
    assert count(model.backbone) == backbone
    assert count(model.neck) == top + up + down
    assert count(model) == backbone + top + up + down + heads() == 64_363_101
    # yolov4.weights has 257,717,640 bytes: a header of 20, then 4 for each of 64,429,405 numbers.
    assert count(model) + statistics(model) == 64_429_405 == (257_717_640 - 20) // 4


def test_darknet_53_has_53_layers_with_its_classifier():
    convolutions = [m for m in on_meta(Darknet53).modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 53


@pytest.mark.parametrize("build", [YOLOv3, YOLOv4])
def test_the_paper_networks_map_608_pixels_to_three_levels(build):
    with torch.device("meta"):
        maps = build().eval()(torch.rand(1, 3, 608, 608))
    assert [tuple(m.shape) for m in maps] == [(1, 255, s, s) for s in (76, 38, 19)]


@pytest.mark.parametrize("build", [YOLOv3, YOLOv4])
@pytest.mark.parametrize("strides", [(16,), (8, 16), (4, 8, 16)])
def test_levels_can_be_chosen_and_images_need_not_be_square(build, strides):
    settings = MINI | {"strides": strides}
    maps = build(5, anchors=2, **settings)(torch.rand(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 20, 64 // s, 96 // s) for s in strides]


@pytest.mark.parametrize("build", [YOLOv3, YOLOv4])
@pytest.mark.parametrize("size", [(100, 150), (65, 90), (17, 130)], ids=str)
def test_sides_that_do_not_divide_are_rounded_up(build, size):
    strides = (4, 8, 16)
    maps = build(5, anchors=2, **(MINI | {"strides": strides})).eval()(torch.rand(1, 3, *size))
    expected = [(1, 20, -(-size[0] // s), -(-size[1] // s)) for s in strides]
    assert [tuple(m.shape) for m in maps] == expected


def test_the_backbone_is_the_same_for_one_two_and_three_levels():
    counts = {
        count(YOLOv3(5, **(MINI | {"strides": strides})).backbone)
        for strides in ((16,), (8, 16), (4, 8, 16))
    }
    assert len(counts) == 1


def test_v2_predicts_with_five_anchors_on_one_level():
    with torch.device("meta"):
        (only,) = YOLOv3(80, anchors=5, strides=(32,)).eval()(torch.rand(1, 3, 416, 416))
    assert only.shape == (1, 5 * 85, 13, 13)
    assert len(V2_ANCHORS[0]) == 5


@pytest.mark.parametrize("build", [YOLOv3, YOLOv4])
def test_minis_are_small_and_all_parameters_learn(build):
    model = build(10, **MINI)
    assert count(model) < 1_000_000
    sum(m.square().sum() for m in model(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_residual_block_adds_its_input_after_the_activation():
    block, x = Residual(8, 4).eval(), torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(block(x), x + block.expand(block.squeeze(x)))
    nn.init.zeros_(block.expand.conv.weight)
    assert torch.equal(block(x), x)  # negative values pass: the sum is not activated


def test_a_csp_stage_sends_a_half_past_the_blocks():
    stage = CSPStage(8, 16, 2, nn.Mish).eval()
    for block in stage.blocks:
        nn.init.constant_(block.expand.conv.weight, 100.0)
    with torch.no_grad():
        stage.join.conv.weight[:, :8] = 0  # hears only what went past
    x = torch.randn(1, 8, 8, 8)
    before = stage(x)
    for block in stage.blocks:
        nn.init.constant_(block.expand.conv.weight, -3.0)
    assert before.shape == (1, 16, 4, 4)
    assert torch.equal(stage(x), before)


def changed(module, level):
    """Return which output levels depend on the map of one level."""
    torch.manual_seed(0)
    maps = [torch.randn(1, c, 16 // 2**i, 16 // 2**i) for i, c in enumerate((8, 16, 32))]
    with torch.no_grad():
        before = module.eval()(maps)
        maps[level] = maps[level] + 1
        after = module(maps)
    return [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]


@pytest.mark.parametrize("level", range(3))
def test_what_a_level_knows_goes_up_in_fpn_and_both_ways_in_pan(level):
    assert changed(FPN((8, 16, 32)), level) == [level >= i for i in range(3)]
    assert changed(PAN((8, 16, 32)), level) == [True, True, True]


def test_what_comes_from_above_is_enlarged_by_repeating_and_comes_first():
    neck = FPN((4, 8)).eval()
    fine, coarse = torch.randn(1, 4, 4, 6), torch.randn(1, 8, 2, 3)
    top = neck.mix[1](coarse)
    above = neck.lead[0](top).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(neck([fine, coarse])[0], neck.mix[0](torch.cat([above, fine], 1)))


@pytest.mark.parametrize("activation", [nn.Mish, nn.ReLU, nn.SiLU])
def test_the_activation_of_the_backbone_is_an_argument(activation):
    model = YOLOv4(5, activation=activation, **MINI)
    kinds = {type(m.act) for m in model.backbone.modules() if hasattr(m, "act")}
    assert kinds == {activation}
    assert {type(m.act) for m in model.neck.modules() if hasattr(m, "act")} == {nn.LeakyReLU}
    model = YOLOv4(5, neck_activation=activation, **MINI)
    parts = [*model.neck.modules(), *model.head.modules()]
    assert {type(m.act) for m in parts if hasattr(m, "act")} == {activation}
    assert {
        type(m.act) for m in YOLOv3(5, activation=activation, **MINI).modules() if hasattr(m, "act")
    } == {activation}


def test_every_convolution_has_an_activation_of_its_own_to_hook():
    for backbone in (Darknet53(**MINI), CSPDarknet53(**MINI)):
        found = [m.act for m in backbone.modules() if hasattr(m, "act")]
        assert len(found) == len(set(map(id, found)))


@pytest.mark.parametrize("build", [YOLOv3, YOLOv4])
def test_objectness_starts_at_one_in_a_hundred(build):
    model = build(3, anchors=2, **MINI)
    for head in model.head:
        nn.init.zeros_(head[-1].weight)
    fine = model(torch.rand(1, 3, 32, 32))[0].view(1, 2, 8, 4, 4)
    torch.testing.assert_close(fine[:, :, 4].sigmoid(), torch.full((1, 2, 4, 4), 0.01))


@pytest.mark.parametrize(
    ("strides", "depths"),
    [((8, 32), (1, 1, 1, 1, 1)), ((8, 16), (1, 1, 1)), ((), (1,)), ((16, 8), (1, 1, 1))],
)
@pytest.mark.parametrize("build", [YOLOv3, YOLOv4])
def test_strides_and_depths_that_do_not_fit_are_refused(build, strides, depths):
    with pytest.raises(ValueError, match=r"expected strides that double.*got strides="):
        build(5, strides=strides, depths=depths)


@pytest.mark.parametrize("anchors", [V2_ANCHORS, V3_ANCHORS, V4_ANCHORS])
def test_the_published_anchors_grow_and_each_fits_itself_best(anchors):
    flat = torch.tensor([shape for level in anchors for shape in level], dtype=torch.float32)
    boxes = torch.cat([torch.zeros_like(flat), flat], 1)
    fit = BestAnchor(anchors, (8, 16, 32)[-len(anchors) :]).fit(boxes)
    assert fit.argmax(1).tolist() == list(range(len(flat)))
    means = [torch.tensor(level, dtype=torch.float32).prod(1).mean() for level in anchors]
    assert means == sorted(means)  # coarse levels have the large anchors


@pytest.mark.slow
@pytest.mark.parametrize("build", [YOLOv3, YOLOv4])
def test_network_and_candidates_export_for_any_batch(tmp_path, build):
    anchors = (((10, 20), (20, 30)), ((30, 40), (60, 50)))
    postprocess = YOLOv3Postprocess(anchors, (8, 16), 1.05)
    model = Candidates(build(4, anchors=2, **MINI), postprocess).eval()
    path = to_onnx(model, torch.rand(2, 3, 64, 96), tmp_path / "yolo.onnx", dynamic={0: "batch"})
    parity(model, path, [torch.rand(1, 3, 64, 96), torch.rand(5, 3, 64, 96)], atol=1e-4)
