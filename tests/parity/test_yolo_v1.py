"""YOLO v1 computes what figure 3 of its paper says; the other side knows nothing of `labs`.

No weights were published for the network of the paper, so each row says what it is called here.
"""

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch.nn.functional import conv2d, linear

from labs.models import YOLOv1
from labs.postprocess import YOLOv1Postprocess
from tests.parity import boxes
from tests.parity.plain import Weights, activate, close, images, pool, torch_norm

# Redmon et al. 2016, figure 3, column by column: (kernel, channels, stride, our name), or a pool.
FIGURE_3 = [
    (7, 64, 2, "features.0"),  # column 1
    "pool",
    (3, 192, 1, "features.2"),  # column 2
    "pool",
    (1, 128, 1, "features.4"),  # column 3
    (3, 256, 1, "features.5"),
    (1, 256, 1, "features.6"),
    (3, 512, 1, "features.7"),
    "pool",
    (1, 256, 1, "features.9"),  # column 4: four times
    (3, 512, 1, "features.10"),
    (1, 256, 1, "features.11"),
    (3, 512, 1, "features.12"),
    (1, 256, 1, "features.13"),
    (3, 512, 1, "features.14"),
    (1, 256, 1, "features.15"),
    (3, 512, 1, "features.16"),
    (1, 512, 1, "features.17"),
    (3, 1024, 1, "features.18"),
    "pool",
    (1, 512, 1, "features.20"),  # column 5: twice
    (3, 1024, 1, "features.21"),
    (1, 512, 1, "features.22"),
    (3, 1024, 1, "features.23"),
    (3, 1024, 1, "features.24"),
    (3, 1024, 2, "features.25"),
    (3, 1024, 1, "features.26"),  # column 6
    (3, 1024, 1, "features.27"),
]
CONNECTED = ("head.1", "head.4")  # columns 7 and 8, with dropout between them
RELATIVE = {torch.float32: 1e-5, torch.float64: 1e-12}


def run(w, x, width, hidden, norm, classes=20):
    """Return the map [N,30,rows,columns]."""
    rows, columns = x.shape[2] // 64, x.shape[3] // 64
    for row in FIGURE_3:
        if row == "pool":
            x = pool(x, 2, 2)
            continue
        k, channels, stride, name = row
        kernel = w.kernel(f"{name}.0.weight", round(channels * width), x.shape[1], k, gain=1.4)
        x = conv2d(x, kernel, None, stride, k // 2)
        if norm:
            x = torch_norm(w, x, f"{name}.1", 1e-5)
        else:
            x = x + w(f"{name}.0.bias", x.shape[1], scale=0.3).view(1, -1, 1, 1)
        x = activate(x, "leaky")
    x = x.flatten(1)
    for name, out in zip(CONNECTED, (hidden, rows * columns * (10 + classes)), strict=True):
        matrix = w(f"{name}.weight", out, x.shape[1], scale=x.shape[1] ** -0.5)
        x = linear(x, matrix, w(f"{name}.bias", out, scale=0.3))
        x = activate(x, "leaky") if name == CONNECTED[0] else x
    return x.view(-1, 10 + classes, rows, columns)


@cache
def pair(norm, size, width=0.0625, hidden=32):
    """Return drawn weights, and the network of `labs` that has loaded them."""
    weights, settings = Weights(), (width, hidden, norm)
    with torch.no_grad():
        run(weights, images(2, *size, seed=0), *settings)
    network = YOLOv1(image_size=size, width=width, hidden=hidden, norm=norm).double()
    network.load_state_dict(weights.tensors, strict=True)
    return weights, network.eval(), settings


def differs(norm, size, batch, dtype, **sizes):
    """Say whether the map differs from that of the figure."""
    weights, network, settings = pair(norm, size, **sizes)
    weights.dtype, x = dtype, images(batch, *size, dtype)
    with torch.no_grad():
        expected = run(weights, x, *settings)
        return not close(deepcopy(network).to(dtype)(x)[0], expected, RELATIVE[dtype])


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize(("batch", "size"), [(1, (128, 192)), (3, (192, 64))], ids=str)
@pytest.mark.parametrize("norm", [False, True], ids=["as in the paper", "with batch norm"])
def test_the_map_is_that_of_figure_3(norm, size, batch, dtype):
    assert not differs(norm, size, batch, dtype)


@pytest.mark.slow
def test_the_map_is_that_of_figure_3_with_the_channels_of_the_paper():
    paper = {"width": 1.0, "hidden": 4096}
    assert not differs(False, (64, 128), 1, torch.float32, **paper)
    pair.cache_clear()


def test_every_box_is_where_the_paper_puts_it():
    weights, network, settings = pair(False, (128, 192))
    weights.dtype, x = torch.float64, images(2, 128, 192)
    with torch.no_grad():
        expected = boxes.v1(run(weights, x, *settings))
        found, _ = YOLOv1Postprocess(64).candidates(network(x))
    size = (expected[..., 2:] - expected[..., :2]).amax(-1, keepdim=True).clamp(min=1)
    assert ((found - expected).abs() / size).max() < 1e-12
