"""Between points and sparse voxels, both ways differentiable: voxelisation and devoxelisation of SPVConv.

Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution (ECCV 2020), Eqs. 1-2: a voxel's feature is the
mean of its points'; a point's feature is interpolated between the voxels around it. Both take time O(points + voxels)
beside a sort: voxels are found by sorted int64 keys (`sparse_convolution`), not by comparing all with all.

A voxel c of stride s spans [c, c + s). The official code places its feature at the lower corner c (`align="corner"`,
the default); `align="center"` places it at c + s / 2, the mean position of points spread evenly in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tasks.blocks.sparse_convolution import Found, SparseTensor, Triple, find, unique_coordinates

Mode = Literal["trilinear", "nearest"]
Align = Literal["corner", "center"]


@dataclass
class PointSet:
    """Where the points of a batch lie. positions: float [N, 3] in cells of the finest grid; batch: int64 [N].

    cache: which voxels they belong to, found once for each set of voxels.
    """

    positions: Tensor
    batch: Tensor
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        points: Tensor,
        batch: Tensor,
        voxel_size: float | Sequence[float],
        origin: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> PointSet:
        """Points [N, 3] in metres; voxel_size in metres, one number or (x, y, z); origin: of the grid, in metres.

        Raises ValueError on other shapes, points that are not finite and voxels without extent.
        """
        if points.ndim != 2 or points.shape[1] != 3 or batch.shape != points.shape[:1]:
            raise ValueError(
                f"points must be [N, 3] with batch [N], not {tuple(points.shape)} and {tuple(batch.shape)}"
            )
        size = points.new_tensor([voxel_size] * 3 if isinstance(voxel_size, (int, float)) else voxel_size)
        if size.shape != (3,) or not bool((size > 0).all()):
            raise ValueError(f"voxel_size must be one or three positive numbers, not {voxel_size}")
        if not bool(torch.isfinite(points).all()):
            raise ValueError(f"{int((~torch.isfinite(points)).any(1).sum())} points are not finite")
        return cls((points - points.new_tensor(origin)) / size, batch.long())

    def coordinates(self, stride: Triple = (1, 1, 1)) -> Tensor:
        """The voxel of a stride that each point lies in, int64 [N, 4]; floor, also below 0."""
        cell = self.positions.new_tensor(stride)
        lowest = (self.positions / cell).floor().long() * self.batch.new_tensor(stride)
        return torch.cat([self.batch[:, None], lowest], dim=1)

    def cached(self, sparse: SparseTensor, key: tuple[Any, ...], build: Callable[[], Found]) -> Found:
        """What `build` makes of these points and the voxels of `sparse`, made once."""
        full = (id(sparse.coordinates), *key)
        if full not in self.cache:
            self.cache[full] = (sparse.coordinates, build())
        return self.cache[full][1]


def voxelise(
    points: Tensor,
    batch: Tensor,
    features: Tensor,
    voxel_size: float | Sequence[float],
    *,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    grid: Triple | None = None,
) -> tuple[SparseTensor, Tensor]:
    """Points [N, 3] in metres with features [N, C] -> the means in their voxels (Eqs. 1-2), and the voxel [N] of each.

    batch: int64 [N], which cloud a point is of. origin, grid: corner of the space in metres, and its cells an axis
    where it is bounded. Raises ValueError where a point lies outside the bounds.
    """
    return voxelise_set(PointSet.of(points, batch, voxel_size, origin), features, grid=grid)


def voxelise_set(
    points: PointSet, features: Tensor, *, grid: Triple | None = None
) -> tuple[SparseTensor, Tensor]:
    """`voxelise` for points that stand in cells already; their voxels and kernel maps are found once for each set."""

    def frame() -> tuple[SparseTensor, Tensor]:
        coordinates = points.coordinates()
        if grid is not None and len(coordinates):
            outside = ((coordinates[:, 1:] < 0) | (coordinates[:, 1:] >= coordinates.new_tensor(grid))).any(1)
            if bool(outside.any()):
                raise ValueError(f"{int(outside.sum())} of {len(outside)} points lie outside the grid {grid}")
        unique, inverse = unique_coordinates(coordinates)
        sparse = SparseTensor(features.new_zeros(len(unique), 0), unique, grid=grid)
        points.cached(sparse, ("inside",), lambda: _inside(inverse, len(unique)))
        return sparse, inverse

    key = ("frame", grid)
    if key not in points.cache:
        points.cache[key] = frame()
    sparse, inverse = points.cache[key]
    return average_in_voxels(features, points, sparse), inverse


def average_in_voxels(features: Tensor, points: PointSet, sparse: SparseTensor) -> SparseTensor:
    """Point features [N, C] -> their means in the voxels of `sparse` (its own features are replaced).

    A voxel without points becomes 0. Sums are float32. Raises ValueError where a point's voxel doesn't exist.
    """

    def build() -> tuple[Tensor, Tensor]:
        place = find(points.coordinates(sparse.stride), sparse.coordinates)
        if bool((place < 0).any()):
            raise ValueError(f"{int((place < 0).sum())} points lie in no voxel of stride {sparse.stride}")
        return _inside(place, len(sparse.coordinates))

    place, share = points.cached(sparse, ("inside",), build)
    total = features.new_zeros(len(share), features.shape[1], dtype=torch.float32)
    return sparse.replace((total.index_add(0, place, features.float()) * share).to(features.dtype))


def _inside(place: Tensor, voxels: int) -> tuple[Tensor, Tensor]:
    """The voxel of each point, and 1 / (points in it) of each voxel, float32 [M, 1]."""
    return place, torch.bincount(place, minlength=voxels).clamp(min=1).float().reciprocal()[:, None]


def devoxelise(
    sparse: SparseTensor, points: PointSet, *, mode: Mode = "trilinear", align: Align = "corner"
) -> Tensor:
    """Voxel features [M, C] -> point features [N, C].

    trilinear: between the 8 grid points around a point; voxels that don't exist weigh nothing and the others' weights
    are divided by their sum (+ 1e-8, as in the official code). nearest: the voxel that the point lies in. A point
    with no voxel around gets 0.
    """
    places, weights = points.cached(
        sparse, ("around", mode, align), lambda: interpolation(sparse, points, mode=mode, align=align)
    )
    return weighted_gather(sparse.features, places, weights)


def interpolation(
    sparse: SparseTensor, points: PointSet, *, mode: Mode = "trilinear", align: Align = "corner"
) -> tuple[Tensor, Tensor]:
    """The voxels that a point is interpolated from, int64 [N, 8] (nearest: [N, 1]), and their weights, float32.

    Where a voxel doesn't exist its weight is 0 (and its place 0).
    """
    if mode not in ("trilinear", "nearest") or align not in ("corner", "center"):
        raise ValueError(f"unknown mode {mode!r} or align {align!r}")
    if not len(sparse.coordinates):
        corners = 8 if mode == "trilinear" else 1
        shape = (len(points.batch), corners)
        return points.batch.new_zeros(shape), points.positions.new_zeros(shape, dtype=torch.float32)
    if mode == "nearest":
        place = find(points.coordinates(sparse.stride), sparse.coordinates)[:, None]
        return place.clamp(min=0), (place >= 0).float()
    cell = points.positions.new_tensor(sparse.stride)
    scaled = points.positions / cell - (0.5 if align == "center" else 0.0)
    lower = scaled.floor()
    corner = torch.cartesian_prod(*[torch.arange(2, device=cell.device)] * 3)  # [8, 3], z fastest
    inside = (scaled - lower)[:, None]  # [N, 1, 3]
    weights = torch.where(corner.bool(), inside, 1 - inside).prod(-1)  # [N, 8]
    # Points of one cell have the same corners: these are looked up once a cell, in ascending order.
    stride = points.batch.new_tensor((1, *sparse.stride))
    cells, own = unique_coordinates(torch.cat([points.batch[:, None], lower.long()], dim=1) * stride)
    around = cells + F.pad(corner, (1, 0))[:, None] * stride  # [8, cells, 4]
    places = find(around.flatten(0, 1), sparse.coordinates).view(8, -1).T[own]
    weights = weights.float() * (places >= 0)
    return places.clamp(min=0), weights / (weights.sum(1, keepdim=True) + 1e-8)


def weighted_gather(features: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """features [M, C], places int64 [N, K], weights float32 [N, K] -> sum over K of weights * features[places], [N, C].

    Keeps no [N, K, C]; in float32; weights get no gradient.
    """
    return _WeightedGather.apply(features.float(), places, weights).to(features.dtype)


class _WeightedGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(places, weights)
        ctx.voxels = len(features)
        if not len(features):
            return features.new_zeros(len(places), features.shape[1])
        return F.embedding_bag(places, features, mode="sum", per_sample_weights=weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        places, weights = ctx.saved_tensors
        total = gradient.new_zeros(ctx.voxels, gradient.shape[1])
        if ctx.voxels:
            for place, weight in zip(places.unbind(1), weights.unbind(1), strict=True):
                total.index_add_(0, place, gradient * weight[:, None])
        return total, None, None
