"""Codes of places: waves, tables, and other grids."""

import math

import pytest
import torch
from torch.nn.functional import interpolate
from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding

from labs.models import LearntPositions, SinePositions, resize_positions, sine_positions


def test_a_wave_is_the_formula_of_the_paper():
    codes = sine_positions(torch.arange(50.0).double(), 8)
    for place in (0, 3, 49):
        for i in range(4):
            angle = place / 10000 ** (2 * i / 8)
            assert codes[place, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-9)
            assert codes[place, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-9)


def test_products_of_codes_depend_on_the_distance_alone():
    codes = sine_positions(torch.arange(40.0).double(), 32)
    products = codes @ codes.T
    for distance in (0, 1, 5):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))


def padding(kind):
    hidden = torch.zeros(2, 5, 7, dtype=torch.bool)
    if kind == "padded":
        hidden[0, 3:], hidden[0, :, 5:] = True, True
    return hidden


@pytest.mark.parametrize("kind", ["whole", "padded"])
def test_rows_and_columns_are_coded_as_in_transformers(kind):
    hidden = padding(kind)
    theirs = DetrSinePositionEmbedding(8, normalize=True)
    expected = theirs((2, 16, 5, 7), "cpu", torch.float32, mask=~hidden)
    found = SinePositions(16)(hidden)
    torch.testing.assert_close(found.movedim(-1, 1), expected)


def test_the_code_of_a_picture_does_not_depend_on_what_it_is_padded_with():
    alone = SinePositions(16)(torch.zeros(1, 3, 5, dtype=torch.bool))
    beside = SinePositions(16)(padding("padded"))
    torch.testing.assert_close(beside[0, :3, :5], alone[0])
    # Measured in shares: the last row of a picture has the same code, however many it has.
    other = SinePositions(16)(torch.zeros(1, 9, 5, dtype=torch.bool))
    torch.testing.assert_close(other[0, -1], alone[0, -1], rtol=0, atol=1e-4)


def test_an_offset_of_a_half_codes_the_centres_of_cells():
    codes = SinePositions(4, offset=0.5)(torch.zeros(1, 4, 2, dtype=torch.bool))
    centres = (torch.arange(4) + 0.5) / 4 * 2 * math.pi
    torch.testing.assert_close(codes[0, :, 0, 0], centres.sin(), rtol=0, atol=1e-5)


def test_learnt_codes_of_rows_and_columns():
    learnt = LearntPositions(6, rows=4, columns=5)
    codes = learnt(torch.zeros(2, 3, 5, dtype=torch.bool))
    assert codes.shape == (2, 3, 5, 6)
    torch.testing.assert_close(codes[1, 2, 4], torch.cat([learnt.columns[4], learnt.rows[2]]))
    with pytest.raises(ValueError, match="at most 4 rows and 5 columns, got a map of 5x5"):
        learnt(torch.zeros(1, 5, 5, dtype=torch.bool))


@pytest.mark.parametrize(("grid", "to"), [((2, 8), (4, 4)), ((3, 5), (6, 4)), ((4, 4), (4, 4))])
def test_a_table_is_resized_as_a_picture(grid, to):
    table = torch.randn(1 + grid[0] * grid[1], 6, generator=torch.Generator().manual_seed(0))
    found = resize_positions(table, grid, to, extra=1)
    picture = table[1:].view(*grid, 6).movedim(-1, 0)[None]
    expected = interpolate(picture, to, mode="bicubic", align_corners=False)[0].flatten(1).T
    torch.testing.assert_close(found[1:], expected)
    torch.testing.assert_close(found[0], table[0], rtol=0, atol=0)


def test_every_grid_is_reached():
    table = torch.randn(16, 2)
    for side in range(1, 140):
        assert resize_positions(table, (4, 4), (side, 3)).shape == (side * 3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sine_positions(torch.arange(3.0), 5), "an even width, got 5"),
        (lambda: SinePositions(6), "a width that 4 divides, got 6"),
        (lambda: LearntPositions(5), "an even width, got 5"),
        (lambda: resize_positions(torch.rand(17, 2), (4, 4), (2, 2)), r"0 \+ 4x4 codes, got 17"),
    ],
)
def test_wrong_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
