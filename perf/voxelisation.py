"""Voxelisation and devoxelisation against a Python loop over points, and one map of a real scan's size."""

from __future__ import annotations

import torch
from torch import Tensor

from perf.ratio import Ratio, alternate
from tasks.blocks.sparse_voxels import PointSet, devoxelise, voxelise_set

POINTS, SCAN, CHANNELS = 3000, 120_000, 32


def cloud(points: int) -> tuple[PointSet, Tensor]:
    """Points in cells of 0.2 m, spread as flat as a street, with features."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(points, 3, generator=generator) * torch.tensor([75.0, 75.0, 5.0])
    return PointSet(spread, torch.zeros(points, dtype=torch.int64)), torch.randn(
        points, CHANNELS, generator=generator
    )


def loop_voxelise(points: PointSet, features: Tensor) -> dict[tuple[int, ...], Tensor]:
    """Means of the points in each voxel, one point at a time."""
    sums: dict[tuple[int, ...], tuple[Tensor, int]] = {}
    for place, feature in zip(points.coordinates().tolist(), features, strict=True):
        total, count = sums.get(tuple(place), (torch.zeros(CHANNELS), 0))
        sums[tuple(place)] = (total + feature, count + 1)
    return {place: total / count for place, (total, count) in sums.items()}


def loop_devoxelise(points: PointSet, voxels: dict[tuple[int, ...], Tensor]) -> Tensor:
    """Trilinear interpolation, one point and one corner at a time."""
    found = []
    for position, scan in zip(points.positions.tolist(), points.batch.tolist(), strict=True):
        total, weights = torch.zeros(CHANNELS), 0.0
        lower = [int(value // 1) for value in position]
        for corner in range(8):
            offset = (corner >> 2 & 1, corner >> 1 & 1, corner & 1)
            feature = voxels.get((scan, *(low + up for low, up in zip(lower, offset, strict=True))))
            if feature is not None:
                weight = 1.0
                for value, low, up in zip(position, lower, offset, strict=True):
                    weight *= value - low if up else 1 - (value - low)
                total, weights = total + weight * feature, weights + weight
        found.append(total / (weights + 1e-8))
    return torch.stack(found)


def measure() -> list[Ratio]:
    """Both ways for a few thousand points, checked against the loop; then a whole scan, which the loop isn't asked."""
    points, features = cloud(POINTS)
    sparse, _ = voxelise_set(points, features)
    voxels = loop_voxelise(points, features)
    if not torch.allclose(devoxelise(sparse, points), loop_devoxelise(points, voxels), atol=1e-3):
        raise RuntimeError("the vectorised interpolation and the loop disagree")

    def fresh(points: PointSet = points) -> PointSet:
        return PointSet(points.positions, points.batch)

    best = alternate(
        {
            "voxelise": lambda: voxelise_set(fresh(), features),
            "devoxelise": lambda: devoxelise(sparse, fresh()),
            "loop voxelise": lambda: loop_voxelise(points, features),
            "loop devoxelise": lambda: loop_devoxelise(points, voxels),
        },
        rounds=2,
    )
    name = f"{POINTS} points, {CHANNELS} channels"
    ratios = [
        Ratio(f"{what}, {name}", "loop over points", best[what], best[f"loop {what}"], "indexing included")
        for what in ("voxelise", "devoxelise")
    ]
    scan, features = cloud(SCAN)
    frame, _ = voxelise_set(scan, features)
    best = alternate(
        {
            "voxelise": lambda: voxelise_set(fresh(scan), features),
            "devoxelise": lambda: devoxelise(frame, fresh(scan)),
        },
        rounds=2,
    )
    name = f"{SCAN} points, {len(frame.coordinates)} voxels, {CHANNELS} channels"
    return ratios + [Ratio(f"{what}, {name}", "", best[what], None) for what in ("voxelise", "devoxelise")]
