"""The picture is the map that varies most, or the image itself."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from labs.diagram.thumbnail import strongest_map, to_uri


def test_the_map_that_varies_most():
    maps = torch.zeros(2, 5, 4, 6)
    maps[:, 0] = 7.0  # large, and the same everywhere
    maps[0, 3, :, 2:] = 1.0
    maps[0, 2, 0, 0] = 1.0
    maps[1, 4] = torch.arange(24.0).view(4, 6)  # of another image
    torch.testing.assert_close(strongest_map(maps), maps[0, 3])


def test_an_image_keeps_its_channels():
    image = torch.rand(1, 3, 20, 10)
    found = strongest_map(image)
    assert found.shape == (3, 20, 10)
    assert found.min() == 0
    assert found.max() == 1


def test_large_maps_shrink_and_keep_their_shape():
    found = strongest_map(torch.rand(1, 1, 256, 128))
    assert found.shape == (64, 32)
    assert strongest_map(torch.rand(1, 1, 65, 2)).shape == (64, 2)
    assert strongest_map(torch.rand(1, 1, 64, 2)).shape == (64, 2)
    assert strongest_map(torch.rand(1, 3, 256, 128)).shape == (3, 128, 64)
    assert strongest_map(torch.rand(1, 3, 100, 128)).shape == (3, 100, 128)
    assert strongest_map(torch.rand(1, 1, 1000, 2)).shape == (64, 1)
    assert strongest_map(torch.rand(1, 1, 2, 1000)).shape == (1, 64)


def test_a_constant_map_is_dark():
    assert (strongest_map(torch.full((1, 2, 4, 4), 5.0)) == 0).all()


@pytest.mark.parametrize(
    "value",
    [torch.rand(2, 5), torch.rand(2, 5, 6), torch.rand(1, 8, 1, 1), torch.ones(1, 1, 4, 4).long()],
)
def test_what_is_no_map_has_no_picture(value):
    assert strongest_map(value) is None


def read(uri):
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_the_uri_holds_the_pixels():
    image = torch.zeros(3, 2, 3)
    image[0, 0, 1] = 1.0
    pixels = read(to_uri(image))
    assert pixels.shape == (2, 3, 3)
    assert pixels[0, 1].tolist() == [255, 0, 0]
    assert pixels.sum() == 255


def test_a_map_is_brighter_where_it_is_larger():
    pixels = read(to_uri(torch.tensor([[0.0, 0.5, 1.0]]))).astype(int)
    brightness = pixels.sum(-1)[0]
    assert brightness[0] < brightness[1] < brightness[2]
