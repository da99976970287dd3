"""Tell tokens where they are: attention alone reads a set, in which no token is next to another."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from labs.models.settings import refuse_counts


def sine_positions(places: Tensor, width: int, temperature: float = 10000.0) -> Tensor:
    """Return a code of each place: sines and cosines of ever longer waves, in turn, [...,width].

    After Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5.

    Args:
        places: Numbers of any shape, [...]; whole ones are not needed.
        width: Of the code, even.
        temperature: The longest wave is nearly so many times longer than the shortest, which is 2π.

    Raises:
        ValueError: When the width is odd.
    """
    if width % 2 or width < 2:
        raise ValueError(f"sine_positions: expected an even width, got {width}")
    pair = torch.arange(0, width, 2, device=places.device, dtype=places.dtype)
    angle = places[..., None] / temperature ** (pair / width)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)  # sine, cosine, sine, ...


class SinePositions(nn.Module):
    """Code row and column of each cell of a map, half of the channels each, the row first.

    After Carion et al. 2020, https://arxiv.org/abs/2005.12872, appendix A.4. Rows and columns are
    counted in the part of the map that is no padding, and measured in shares of it, so that the
    code does not depend on how large the picture is.

    Args:
        width: Channels of the code, a multiple of 4.
        temperature: As in :func:`sine_positions`.
        offset: Is taken from the count of rows and columns, which begins with 1. With 0.5 the code
            is that of the centre of a cell, as in Deformable DETR.
    """

    def __init__(self, width: int, temperature: float = 10000.0, offset: float = 0.0) -> None:
        super().__init__()
        if width % 4 or width < 4:
            raise ValueError(f"SinePositions: expected a width that 4 divides, got {width}")
        self.width, self.temperature, self.offset = width, temperature, offset

    def forward(self, padding: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the codes of a map, [N,H,W,width].

        Args:
            padding: Cells that are no part of the picture, True in [N,H,W].
            dtype: Of the codes; half precision is only what they are rounded to.
        """
        inside = (~padding).to(torch.promote_types(dtype, torch.float32))
        codes = []
        for axis in (1, 2):
            count = inside.cumsum(axis)
            whole = count.select(axis, -1).unsqueeze(axis)
            place = (count - self.offset) / (whole + 1e-6) * 2 * math.pi
            codes.append(sine_positions(place, self.width // 2, self.temperature))
        return torch.cat(codes, -1).to(dtype)


class LearntPositions(nn.Module):
    """Learn a code for each row and each column of a map; the column's channels come first.

    After the authors' program of DETR, where it is the alternative to :class:`SinePositions`.

    Args:
        width: Channels of the code, even.
        rows: Most rows of a map.
        columns: Most columns of a map.
    """

    def __init__(self, width: int, rows: int = 50, columns: int = 50) -> None:
        super().__init__()
        refuse_counts("LearntPositions", {"rows": rows, "columns": columns, "width": width})
        if width % 2:
            raise ValueError(f"LearntPositions: expected an even width, got {width}")
        self.rows = nn.Parameter(torch.rand(rows, width // 2))
        self.columns = nn.Parameter(torch.rand(columns, width // 2))

    def forward(self, padding: Tensor) -> Tensor:
        """Return the codes of a map, [N,H,W,width]; of ``padding`` [N,H,W] only the shape is read.

        Raises:
            ValueError: When the map has more rows or columns than were learnt.
        """
        images, h, w = padding.shape
        if h > len(self.rows) or w > len(self.columns):
            raise ValueError(
                f"LearntPositions: expected at most {len(self.rows)} rows and "
                f"{len(self.columns)} columns, got a map of {h}x{w}; build it with more, or use "
                "SinePositions"
            )
        across = self.columns[:w].expand(h, -1, -1)
        down = self.rows[:h, None].expand(-1, w, -1)
        return torch.cat([across, down], -1).expand(images, -1, -1, -1)


def resize_positions(
    table: Tensor, grid: tuple[int, int], to: tuple[int, int], extra: int = 0
) -> Tensor:
    """Return the codes of a grid of another size, interpolated: [extra+rows*columns,D].

    Bicubic, as Dosovitskiy et al. 2020 (https://arxiv.org/abs/2010.11929, section 3.2) ask for:
    the codes are a picture of ``grid`` pixels with D channels.

    Args:
        table: Codes row by row, [extra+T,D].
        grid: Rows and columns that the table has.
        to: Rows and columns that are wanted.
        extra: Codes in front that belong to no place, such as that of the class token; they stay.

    Raises:
        ValueError: When the table does not have the grid that is said.
    """
    rows, columns = grid
    if len(table) != extra + rows * columns:
        raise ValueError(
            f"resize_positions: expected {extra} + {rows}x{columns} codes, got {len(table)}; say "
            "the rows and columns of the table, and how many codes have no place"
        )
    if grid == to:  # the same number of tokens would not be enough: 2x8 is no 4x4
        return table
    picture = table[extra:].T.unflatten(1, grid)[None]  # [1,D,rows,columns]
    resized = interpolate(picture, size=to, mode="bicubic", align_corners=False)
    return torch.cat([table[:extra], resized[0].flatten(1).T])
