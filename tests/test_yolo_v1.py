"""The network of YOLO v1: its counts by arithmetic, its shapes, and its refusals."""

import pytest
import torch
from torch import nn

from labs.export import parity, to_onnx
from labs.models import YOLOv1
from labs.postprocess import YOLOv1Postprocess
from tests.export_candidates import Candidates

# Figure 3 of the paper, column by column: kernel and channels.
FIGURE_3 = [
    *((7, 64), (3, 192)),
    *((1, 128), (3, 256), (1, 256), (3, 512)),
    *((1, 256), (3, 512)) * 4,
    *((1, 512), (3, 1024)),
    *((1, 512), (3, 1024)) * 2,
    *((3, 1024), (3, 1024), (3, 1024), (3, 1024)),
]


def on_meta(**settings):
    with torch.device("meta"):
        return YOLOv1(20, **settings)


def count(model):
    return sum(p.numel() for p in model.parameters())


def mini(**settings):
    given = {"image_size": (64, 96), "stride": 16, "width": 1 / 16, "hidden": 32, "pairs": (1, 1)}
    return YOLOv1(10, **{**given, **settings})


def test_the_paper_network_has_the_parameters_of_figure_3():
    convolutions, c_in = 0, 3
    for kernel, c_out in FIGURE_3:
        convolutions += kernel**2 * c_in * c_out + c_out
        c_in = c_out
    connected = (7 * 7 * 1024 + 1) * 4096 + (4096 + 1) * 7 * 7 * 30
    model = on_meta()
    assert len(FIGURE_3) == sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 24
    assert count(model) == convolutions + connected == 271_703_550
    # Three parameters in four are in one layer: the first fully connected one.
    assert 4096 * 7 * 7 * 1024 / count(model) > 0.75


def test_batch_norm_has_scale_and_shift_where_the_paper_has_a_bias():
    channels = sum(c for _, c in FIGURE_3)
    assert count(on_meta(norm=True)) - count(on_meta()) == channels


def test_the_paper_network_maps_448_pixels_to_7_cells():
    with torch.device("meta"):
        model, images = YOLOv1(20).eval(), torch.rand(2, 3, 448, 448)
        assert model.features(images).shape == (2, 1024, 7, 7)
        (cells,) = model(images)
    assert cells.shape == (2, 2 * 5 + 20, 7, 7)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        pytest.param({"reduction": 32}, (20, 4, 6), id="not square"),
        pytest.param({"reduction": 32, "stride": 32}, (20, 2, 3), id="larger cells"),
        pytest.param({"reduction": 32, "boxes": 3}, (25, 4, 6), id="three boxes"),
        pytest.param({"reduction": 16, "hidden": None}, (20, 4, 6), id="convolution as head"),
        pytest.param({"reduction": 32, "norm": True}, (20, 4, 6), id="batch norm"),
    ],
)
def test_its_settings_change_the_map(settings, shape):
    (cells,) = mini(**settings)(torch.rand(2, 3, 64, 96))
    assert cells.shape == (2, *shape)


def test_it_starts_from_boxes_of_a_quarter_in_the_middle_of_each_cell():
    for settings in ({"reduction": 32}, {"reduction": 16, "hidden": None}):
        model = mini(**settings)
        nn.init.zeros_(model.head[-1].weight)
        boxes, scores = YOLOv1Postprocess(16).candidates(model(torch.rand(1, 3, 64, 96)))
        size = boxes[..., 2:] - boxes[..., :2]
        torch.testing.assert_close(size, torch.tensor([24.0, 16.0]).expand_as(size))
        centre = (boxes[0, :, :2] + boxes[0, :, 2:]) / 2
        torch.testing.assert_close(centre[:2], torch.full((2, 2), 8.0))  # two boxes of one cell
        torch.testing.assert_close(centre[-1], torch.tensor([88.0, 56.0]))
        assert scores.max() == 0


def test_width_scales_every_convolution():
    full = [m.out_channels for m in on_meta().modules() if isinstance(m, nn.Conv2d)]
    half = [m.out_channels for m in on_meta(width=0.5).modules() if isinstance(m, nn.Conv2d)]
    assert [2 * c for c in half] == full


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"image_size": (60, 96), "reduction": 32}, id="does not divide into cells"),
        pytest.param({"reduction": 64}, id="does not divide by the reduction"),
        pytest.param({"reduction": 8}, id="no such reduction"),
        pytest.param({"reduction": 32, "hidden": None}, id="map and grid differ"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings):
    with pytest.raises(ValueError, match=r"expected reduction 16, 32 or 64.*got image_size="):
        mini(**settings)


def test_an_image_of_another_size_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"images of \(64, 96\), got \(96, 64\).*image_size="):
        mini(reduction=32)(torch.rand(1, 3, 96, 64))


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [32, None])
def test_network_and_candidates_export_for_any_batch(tmp_path, hidden):
    network = mini(reduction=16, hidden=hidden, norm=True)
    model = Candidates(network, YOLOv1Postprocess(16)).eval()
    path = to_onnx(model, torch.rand(2, 3, 64, 96), tmp_path / "v1.onnx", dynamic={0: "batch"})
    parity(model, path, [torch.rand(1, 3, 64, 96), torch.rand(5, 3, 64, 96)], atol=1e-4)
