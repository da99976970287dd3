import math

import pytest
import torch

from labs.export import parity, to_onnx
from labs.models import C2f, YOLOv8
from labs.postprocess import YOLOv8Postprocess
from tests.export_candidates import Candidates


def mini(**settings):
    torch.manual_seed(0)
    return YOLOv8(3, **{"width": 0.125, "strides": (8, 16), "image_size": 64} | settings)


@pytest.mark.parametrize(
    ("scale", "channels", "published"),
    [
        ("n", 16, 3_157_200),
        ("s", 32, 11_166_560),
        ("m", 48, 25_902_640),
        ("l", 64, 43_691_520),
        ("x", 80, 68_229_648),
    ],
)
def test_a_scale_has_its_width(scale, channels, published):
    with torch.device("meta"):  # it is counted, not filled: a wrong width can need gigabytes
        network = YOLOv8(80, scale)
    parameters = [*network.parameters()]
    assert len(parameters[0]) == channels
    assert sum(p.numel() for p in parameters) == published - 16  # the bins 0 to 15 are no weights


def test_c2f_stacks_both_halves_and_every_bottleneck():
    block = C2f(6, 8, repeats=2, shortcut=True).eval()
    x = torch.rand(2, 6, 5, 7)
    first, second = block.split(x)[:, :4], block.split(x)[:, 4:]
    third = second + block.blocks[0].second(block.blocks[0].first(second))
    fourth = third + block.blocks[1].second(block.blocks[1].first(third))
    expected = block.mix(torch.cat([first, second, third, fourth], 1))
    torch.testing.assert_close(block(x), expected)
    assert not C2f(6, 8).blocks[0].add


@pytest.mark.parametrize("strides", [(8,), (8, 16), (4, 8, 16), (8, 16, 32), (4, 8, 16, 32)])
def test_one_map_per_stride(strides):
    network = mini(strides=strides, reg_max=8).eval()
    raw = network(torch.rand(2, 3, 64, 96))
    assert [list(level.shape) for level in raw] == [[2, 35, 64 // s, 96 // s] for s in strides]
    assert network.strides == strides


def test_masks_add_coefficients_and_prototypes():
    raw = mini(masks=True).eval()(torch.rand(1, 3, 64, 96))
    shapes = [[1, 64 + 3 + 32, 8, 12], [1, 64 + 3 + 32, 4, 6], [1, 32, 16, 24]]
    assert [list(part.shape) for part in raw] == shapes


def test_odd_sizes_are_rounded_up():
    raw = mini().eval()(torch.rand(1, 3, 65, 90))
    assert [list(level.shape[2:]) for level in raw] == [[9, 12], [5, 6]]


def test_classes_begin_where_a_level_expects_five_objects():
    for branch, stride in zip(mini().head.classes, (8, 16), strict=True):
        probability = branch[-1].bias.sigmoid()
        cells = (64 / stride) ** 2
        assert (probability * 3 * cells).tolist() == pytest.approx([5] * 3)
    assert all((branch[-1].bias == 1).all() for branch in mini().head.sides)


def test_a_small_image_does_not_begin_above_one_half():
    bias = mini(image_size=16).head.classes[1][-1].bias
    assert bias.tolist() == [0, 0, 0]


def test_every_setting_changes_the_network():
    def count(**settings):
        return sum(p.numel() for p in mini(**settings).parameters())

    plain = count()
    for settings in [
        {"width": 0.25},
        {"depth": 1.0},
        {"strides": (4, 8, 16)},
        {"reg_max": 8},
        {"in_channels": 1},
        {"masks": True},
    ]:
        assert count(**settings) != plain
    assert sum(p.numel() for p in YOLOv8(3, "s").parameters()) > 3 * sum(
        p.numel() for p in YOLOv8(3, "n").parameters()
    )


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="expected a scale of n, s, m, l, x, got 'tiny'"):
        YOLOv8(3, "tiny")
    for strides in [(), (8, 32), (2, 4), (16, 8), (6, 12)]:
        with pytest.raises(ValueError, match="expected strides that double, from 4 on"):
            YOLOv8(3, strides=strides)


def test_network_and_candidates_export_with_any_batch(tmp_path):
    pytest.importorskip("onnxruntime")
    model = Candidates(mini(), YOLOv8Postprocess(3, (8, 16))).eval()
    path = to_onnx(model, torch.rand(2, 3, 64, 96), tmp_path / "v8.onnx", dynamic={0: "batch"})
    # Boxes are up to 100 pixels large: 1e-3 of a pixel.
    result = parity(model, path, [torch.rand(n, 3, 64, 96) for n in (1, 2, 5)], atol=1e-3)
    assert result.ok
    assert math.isfinite(result.worst.max_abs)
