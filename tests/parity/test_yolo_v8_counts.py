"""At paper scale YOLOv8 has the published number of parameters, which includes 16 that are none."""

import pytest
import torch

from labs.models import YOLOv8

# The published program keeps the numbers 0, 1, … 15, by which the distribution of a side is
# averaged, as a convolution with 16 weights that never learn. Here they are an arange.
FROZEN = 16


def count(**settings):
    with torch.device("meta"):
        return sum(p.numel() for p in YOLOv8(80, **settings).parameters())


@pytest.mark.parametrize(
    ("scale", "published"),
    [
        ("n", 3_157_200),
        ("s", 11_166_560),
        ("m", 25_902_640),
        ("l", 43_691_520),
        ("x", 68_229_648),
    ],
)
def test_the_published_number_of_parameters(scale, published):
    assert count(scale=scale) + FROZEN == published


def test_the_published_number_of_parameters_with_masks():
    assert count(scale="n", masks=True) + FROZEN == 3_409_968


def conv(c_in, c_out, kernel=3):
    """Count a convolution without bias, and the scale and shift of its batch norm."""
    return c_in * c_out * kernel**2 + 2 * c_out


def test_the_masks_of_n_cost_what_their_layers_cost():
    prototypes = conv(64, 64) + (64 * 64 * 4 + 64) + conv(64, 64) + conv(64, 32, 1)
    mixing = sum(conv(c, 32) + conv(32, 32) + 32 * 32 + 32 for c in (64, 128, 256))
    assert count(masks=True) - count() == prototypes + mixing == 252_768


def test_the_mini_model_of_the_lessons_is_small():
    assert count(width=0.25, strides=(8, 16)) < 1_000_000
