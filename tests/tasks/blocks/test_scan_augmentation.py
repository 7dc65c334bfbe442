"""Rotation, scale and voxel choice of scans: by hand, each scan for itself, from torch's generator."""

from __future__ import annotations

import torch

from tasks.blocks.scan_augmentation import random_voxels, rotate_and_scale


def test_a_scan_turns_and_scales_as_a_whole_and_keeps_its_other_columns() -> None:
    torch.manual_seed(0)
    points, scan = torch.randn(200, 4), torch.arange(2).repeat_interleave(100)
    moved = rotate_and_scale(points, scan, 2)
    assert torch.equal(moved[:, 3], points[:, 3])
    factors = []
    for number in range(2):
        own = scan == number
        ratio = moved[own, :3].norm(dim=1) / points[own, :3].norm(dim=1)
        factors.append(float(ratio[0]))
        torch.testing.assert_close(ratio, torch.full((100,), factors[-1]))
        assert 0.95 <= factors[-1] <= 1.05
        torch.testing.assert_close(moved[own, 2], points[own, 2] * factors[-1])
        turn = torch.atan2(moved[own, 1], moved[own, 0]) - torch.atan2(points[own, 1], points[own, 0])
        torch.testing.assert_close(turn.cos(), turn.cos()[:1].expand(100), atol=1e-4, rtol=0)
    assert factors[0] != factors[1]


def test_nothing_moves_without_rotation_and_scale() -> None:
    points, scan = torch.randn(10, 4), torch.zeros(10, dtype=torch.int64)
    torch.testing.assert_close(rotate_and_scale(points, scan, 1, rotate=False, scale=(1.0, 1.0)), points)


def test_so_many_voxels_of_each_scan_stay_whole() -> None:
    torch.manual_seed(1)
    rows = torch.cat([torch.randint(0, 2, (500, 1)), torch.randint(-3, 3, (500, 3))], dim=1)
    kept = random_voxels(rows, 2, 20)
    for scan in range(2):
        own = rows[:, 0] == scan
        chosen = torch.unique(rows[own & kept], dim=0)
        assert len(chosen) == 20
        left = torch.unique(rows[own & ~kept], dim=0)
        assert len(torch.unique(torch.cat([chosen, left]), dim=0)) == len(chosen) + len(left)
    assert not torch.equal(kept, random_voxels(rows, 2, 20))
    assert bool(random_voxels(rows, 2, 1000).all())
