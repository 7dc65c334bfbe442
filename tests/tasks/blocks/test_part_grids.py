"""From clicks to local features: squares by hand, projection against receptive fields."""

from __future__ import annotations

import pytest
import torch

from tasks.blocks.part_grids import Window, click_masks, project, receptive_field

DCGAN = [Window(4, 2, 1)] * 3
ALEX = [Window(3, 1, 1), Window(3, 2, 0), Window(3, 1, 1), Window(3, 2, 0), Window(3, 1, 1)]


def test_a_click_marks_a_square_of_its_side() -> None:
    clicks = torch.tensor([[[[8.0, 5.0, 1.0], [8.0, 5.0, 0.0]], [[2.0, 2.0, 0.0], [0.0, 0.0, 0.0]]]])
    mask = click_masks(clicks, (12, 16), side=4.0)
    assert mask.shape == (1, 2, 12, 16)
    assert mask[0, 0].nonzero().amin(0).tolist() == [3, 6]
    assert mask[0, 0].nonzero().amax(0).tolist() == [6, 9]
    assert mask[0, 0].sum() == 16
    assert not mask[0, 1].any()


def test_clicks_of_several_workers_are_joined_and_cut_at_the_border() -> None:
    clicks = torch.tensor([[[[0.0, 0.0, 1.0], [10.0, 6.0, 1.0], [10.0, 6.0, 1.0], [40.0, 6.0, 1.0]]]])
    mask = click_masks(clicks, (12, 16), side=10.0)[0, 0]
    assert mask[:5, :5].all()
    assert mask[1:11, 5:15].all()
    # The first click's rows do not mix with the second one's columns.
    assert not mask[0, 6:].any()
    assert mask.sum() == 25 + 100


def test_ten_pixels_as_in_the_paper() -> None:
    mask = click_masks(torch.tensor([[[[56.0, 56.0, 1.0]]]]), (112, 112))
    assert mask.sum() == 100


@pytest.mark.parametrize(("windows", "size"), [(DCGAN, 14), (ALEX, 27)])
def test_projection_is_the_receptive_field(windows: list[Window], size: int) -> None:
    # What a place sees, by the gradient of a sum of ones through convolutions of the same geometry.
    mask = torch.zeros(3, 1, 112, 112, dtype=torch.bool)
    mask[0, 0, 50:60, 20:30] = True
    mask[1, 0, 0, 111] = True
    grid = project(mask, windows)
    assert grid.shape == (3, 1, size, size)
    assert grid.dtype == torch.bool
    assert not grid[2].any()
    signal = mask.double()
    for kernel, stride, padding in windows:
        signal = (
            torch.nn.functional.conv2d(
                signal, torch.ones(1, 1, kernel, kernel, dtype=torch.double), stride=stride, padding=padding
            )
            if padding or stride == 1
            else torch.nn.functional.max_pool2d(signal, kernel, stride)
        )
    assert torch.equal(grid, signal > 0)


def test_receptive_fields() -> None:
    assert receptive_field(DCGAN) == (22, 8)
    assert receptive_field([Window(3, 1, 1)]) == (3, 1)
    assert receptive_field(ALEX) == (21, 4)
    whole = [*ALEX, Window(3, 1, 1), Window(3, 1, 1), Window(3, 2, 0), Window(3, 1, 1)]
    # The text has 65 and 85; the table's layers give these.
    assert receptive_field(whole)[0] == 61
    assert receptive_field([*whole, Window(3, 2, 0)])[0] == 77
