"""Corrections equal torchvision's, lead back to the boxes they were made of, and stay finite."""

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from labs.boxes import Deltas

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


def some_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = 200 * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + 5 + 100 * torch.rand(count, 2, generator=generator)], 1)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_equal_to_the_coder_of_torchvision(weights):
    boxes, references = some_boxes(50, 0), some_boxes(50, 1)
    ours, theirs = Deltas(weights), BoxCoder(weights)
    expected = theirs.encode_single(boxes, references)
    torch.testing.assert_close(ours.encode(boxes, references), expected, rtol=1e-5, atol=1e-5)
    wild = 20 * torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    decoded = theirs.decode_single(wild, references)
    torch.testing.assert_close(ours.decode(wild, references), decoded, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_decoding_undoes_encoding(weights):
    boxes, references = some_boxes(50, 3).double(), some_boxes(50, 4).double()
    there = Deltas(weights).encode(boxes, references)
    torch.testing.assert_close(Deltas(weights).decode(there, references), boxes)


def test_numbers_by_hand():
    reference = torch.tensor([[10.0, 10, 30, 50]])  # centre 20, 30; 20 by 40
    box = torch.tensor([[20.0, 10, 60, 30]])  # centre 40, 20; 40 by 20
    found = Deltas((10.0, 10.0, 5.0, 5.0)).encode(box, reference)
    expected = torch.tensor([[10.0, -2.5, 5 * math.log(2), -5 * math.log(2)]])
    torch.testing.assert_close(found, expected)


def test_no_correction_makes_a_box_of_sixteen_pixels_larger_than_a_thousand():
    reference = torch.tensor([[0.0, 0, 16, 16]])
    found = Deltas().decode(torch.full((1, 4), 1e6), reference)
    torch.testing.assert_close(found[:, 2:] - found[:, :2], torch.full((1, 2), 1000.0))
    assert Deltas().decode(torch.full((1, 4), -1e6), reference).isfinite().all()


def test_half_precision_is_widened():
    references = some_boxes(5, 5)
    found = Deltas().decode(torch.zeros(5, 4, dtype=torch.bfloat16), references)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, references)
