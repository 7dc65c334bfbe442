"""Rotation, scale and shift: by hand, and their ranges over many draws."""

from __future__ import annotations

import pytest
import torch

from tasks.blocks.point_augmentation import turn_about, turn_scale_shift


def test_quarter_turns_by_hand() -> None:
    points = torch.tensor([[[1.0, 2, 3]]])
    quarter = torch.tensor([torch.pi / 2])
    for up, expected in ((0, [1, -3, 2]), (1, [3, 2, -1]), (2, [-2, 1, 3])):
        torch.testing.assert_close(turn_about(points, quarter, up)[0, 0], torch.tensor(expected).float())
    with pytest.raises(ValueError, match="axis"):
        turn_about(points, quarter, 3)


def test_turning_keeps_distances_and_the_height() -> None:
    torch.manual_seed(0)
    points = torch.randn(4, 9, 3)
    turned = turn_about(points, torch.rand(4) * 6, 1)
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(turned, turned), atol=1e-5, rtol=1e-4)
    assert torch.equal(points[..., 1], turned[..., 1])
    assert not torch.allclose(points[..., 0], turned[..., 0])


def test_ranges_and_one_draw_a_cloud() -> None:
    torch.manual_seed(0)
    clouds = torch.tensor([[0.0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]).expand(3000, -1, -1)
    changed = turn_scale_shift(clouds, 2)
    shift = changed[:, 0]
    assert -0.2 <= shift.min() < -0.19
    assert 0.19 < shift.max() <= 0.2
    height = changed[:, 1, 2] - shift[:, 2]
    assert 2 / 3 <= height.min() < 0.68
    assert 1.48 < height.max() <= 1.5
    across = changed[:, 2] - shift
    assert across[:, 2].abs().max() < 1e-6  # turned about z alone
    angle = torch.atan2(across[:, 1], across[:, 0])
    assert angle.min() < -3
    assert angle.max() > 3
    assert (changed.std(0)[0] > 0.1).all()
