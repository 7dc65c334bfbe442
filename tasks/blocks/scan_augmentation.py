"""Random changes of whole LiDAR scans, several scans at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tasks.blocks.sparse_convolution import unique_coordinates


def rotate_and_scale(
    points: Tensor,
    scan: Tensor,
    scans: int,
    *,
    rotate: bool = True,
    scale: tuple[float, float] = (0.95, 1.05),
) -> Tensor:
    """Turn each scan about z by an angle in U(0, 2 pi) and scale it by U(*scale); from torch's global generator.

    points: [N, 3 + F], x, y, z first, further columns stay; scan: int64 [N], which of `scans` a point is of.
    """
    angle, size = torch.rand(2, scans, device=points.device)
    angle = angle * (2 * math.pi if rotate else 0.0)
    size = scale[0] + (scale[1] - scale[0]) * size
    cos, sin = (size * angle.cos())[scan], (size * angle.sin())[scan]
    x, y, z = points[:, 0], points[:, 1], points[:, 2]
    moved = torch.stack([cos * x - sin * y, sin * x + cos * y, size[scan] * z], dim=1)
    return torch.cat([moved, points[:, 3:]], dim=1)


def random_voxels(coordinates: Tensor, scans: int, most: int) -> Tensor:
    """Which points lie in at most `most` randomly chosen voxels of their scan, bool [N].

    coordinates: int64 [N, 4], (scan, x, y, z) of each point's voxel; from torch's global generator.
    """
    unique, inverse = unique_coordinates(coordinates)
    scan = unique[:, 0]
    counts = torch.bincount(scan, minlength=scans)
    if not len(scan) or int(counts.max()) <= most:
        return torch.ones_like(inverse, dtype=torch.bool)
    # Rank of each voxel among its scan's, in random order: sort by scan, then by chance.
    chance = torch.rand(len(scan), device=scan.device, dtype=torch.float64)
    order = (scan + chance).argsort()
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(scan)
    rank[order] = torch.arange(len(scan), device=scan.device) - first[scan[order]]
    return (rank < most)[inverse]
