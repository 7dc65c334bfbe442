"""Pictures of fields: their size, and dots where positions are read."""

from __future__ import annotations

import numpy as np
import torch

from tasks.blocks.field_pictures import SIDE, draw_fields


def test_a_row_a_picture_and_a_column_a_group() -> None:
    drawn = draw_fields(torch.rand(2, 3, 16, 16), torch.zeros(2, 8, 4, 4, 2))
    assert drawn.dtype == np.uint8
    assert drawn.shape == (2 * SIDE, 5 * SIDE, 3)
    assert draw_fields(torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 4, 4, 2)).shape == (SIDE, 2 * SIDE, 3)


def test_dots_lie_at_the_sources() -> None:
    field = torch.zeros(1, 1, 4, 4, 2)
    field[..., 0] = 1.0  # all read one pixel to the right
    still = draw_fields(torch.ones(1, 3, 16, 16), torch.zeros(1, 1, 4, 4, 2))[:, SIDE:]
    moved = draw_fields(torch.ones(1, 3, 16, 16), field)[:, SIDE:]
    step = SIDE // 4
    inside = slice(0, SIDE - 2 * step)
    assert not np.array_equal(still, moved)
    assert np.array_equal(still[:, inside], moved[:, step : SIDE - step])
