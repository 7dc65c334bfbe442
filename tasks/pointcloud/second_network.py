"""The network of SECOND, with or without the point branch of SPVConv: points -> maps of anchors seen from above.

points --mean--> voxels --sparse encoder, 1/8--> view from above, heights folded into channels --RPN--> heads

Layers as in OpenPCDet's SECOND for KITTI. With a point branch each sparse convolution becomes an SPVConv (Tang et al.,
ECCV 2020, Sec. 3.3): beside the voxels go features of all points, which a linear layer, batch normalisation and ReLU
transform at each step; the convolution's voxels, devoxelised by trilinear interpolation, are added to them; voxels
that have points take the mean of theirs. Voxels that only the dilation of a strided convolution has made have no points
and keep what the convolution gave, so that the set of voxels is that of SECOND. `fusion="stage"` exchanges once a stage
of the encoder instead: the voxel branch is then that stage's sequence of convolutions.

The official code's devoxelisation places a voxel's feature at its lower corner. Twelve exchanges one after another
would shift the features by half a voxel each time; here it is placed in the voxel's middle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.blocks.sparse_convolution import SparseConv3d, SparseTensor, Triple, find
from tasks.blocks.sparse_voxels import PointSet, devoxelise, voxelise_set

Fusion = Literal["off", "layer", "stage"]
EPS = 1e-3


@dataclass(frozen=True)
class Sizes:
    """Widths of the network. encoder: of the five convolution stages; encoder_out: of each of the last heights;
    rpn: of its blocks; upsampled: of each block's output; depth: convolutions a block beside its first."""

    encoder: tuple[int, ...] = (16, 16, 32, 64, 64)
    encoder_out: int = 128
    rpn: tuple[int, ...] = (128, 256)
    upsampled: tuple[int, ...] = (256, 256)
    depth: int = 5


class SparseLayer(nn.Module):
    """Sparse convolution, batch normalisation, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        momentum: float,
        *,
        kernel: Triple = (3, 3, 3),
        stride: Triple = (1, 1, 1),
        padding: Triple = (1, 1, 1),
        submanifold: bool = False,
    ) -> None:
        super().__init__()
        self.conv = SparseConv3d(
            inputs, outputs, kernel, stride=stride, padding=padding, submanifold=submanifold
        )
        self.norm = nn.BatchNorm1d(outputs, eps=EPS, momentum=momentum)

    def forward(self, voxels: SparseTensor) -> SparseTensor:
        voxels = self.conv(voxels)
        return voxels.replace(F.relu(self.norm(voxels.features)))


class PointVoxelStep(nn.Module):
    """Sparse layers, and beside them the point branch of SPVConv, if there is one."""

    def __init__(
        self, layers: Sequence[SparseLayer], inputs: int, outputs: int, points: bool, momentum: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.points = (
            nn.Sequential(
                nn.Linear(inputs, outputs),
                nn.BatchNorm1d(outputs, eps=EPS, momentum=momentum),
                nn.ReLU(),
            )
            if points
            else None
        )

    def forward(
        self, voxels: SparseTensor, features: Tensor, points: PointSet
    ) -> tuple[SparseTensor, Tensor]:
        """voxels, point features [N, C] and places -> voxels and point features [N, C'] (without branch: as given)."""
        for layer in self.layers:
            voxels = layer(voxels)
        if self.points is None:
            return voxels, features
        features = self.points(features) + devoxelise(voxels, points, align="center")
        return mean_where_points(voxels, features, points), features


def mean_where_points(voxels: SparseTensor, features: Tensor, points: PointSet) -> SparseTensor:
    """Voxels [M, C] with the mean of their points' features [N, C] where they have any; the others as they are.

    A point whose voxel isn't there, at the border of a strided grid, takes no part.
    """

    def build() -> tuple[Tensor, Tensor, Tensor]:
        place = find(points.coordinates(voxels.stride), voxels.coordinates)
        row = (place >= 0).nonzero().squeeze(1)
        count = torch.bincount(place[row], minlength=len(voxels.coordinates)).float()
        return row, place[row], count[:, None]

    row, place, count = points.cached(voxels, ("has points",), build)
    total = features.new_zeros(len(count), features.shape[1], dtype=torch.float32)
    total = total.index_add(0, place, features[row].float())
    mean = (total / count.clamp(min=1)).to(voxels.features.dtype)
    return voxels.replace(torch.where(count > 0, mean, voxels.features))


class SparseEncoder(nn.Module):
    """Twelve sparse convolutions down to an eighth seen from above and, twice three high, to a few heights.

    inputs: channels of a voxel; sizes.encoder: a, b, c, d, e. Convolutions (k = 3 but for the last):
    inputs -> a, a -> b | b -> c /2, c, c | c -> d /2, d, d | d -> e /2 without padding in height, e, e | e -> out,
    three high, stride 2 in height. All but those with a stride are submanifold.
    """

    def __init__(self, inputs: int, sizes: Sizes, fusion: Fusion, momentum: float) -> None:
        super().__init__()
        a, b, c, d, e = sizes.encoder
        half, flat = (2, 2, 2), (1, 1, 0)

        def same(before: int, after: int) -> SparseLayer:
            return SparseLayer(before, after, momentum, submanifold=True)

        def strided(before: int, after: int, padding: Triple = (1, 1, 1)) -> SparseLayer:
            return SparseLayer(before, after, momentum, stride=half, padding=padding)

        last = SparseLayer(
            e, sizes.encoder_out, momentum, kernel=(1, 1, 3), stride=(1, 1, 2), padding=(0, 0, 0)
        )
        stages = [
            [same(inputs, a), same(a, b)],
            [strided(b, c), same(c, c), same(c, c)],
            [strided(c, d), same(d, d), same(d, d)],
            [strided(d, e, flat), same(e, e), same(e, e)],
            [last],
        ]
        groups = stages if fusion == "stage" else [[layer] for stage in stages for layer in stage]
        self.steps = nn.ModuleList(
            PointVoxelStep(
                group,
                group[0].conv.in_channels,
                group[-1].conv.out_channels,
                points=fusion != "off",
                momentum=momentum,
            )
            for group in groups
        )

    def forward(self, voxels: SparseTensor, features: Tensor, points: PointSet) -> SparseTensor:
        for step in self.steps:
            voxels, features = step(voxels, features, points)
        return voxels


def encoder_grid(grid: Triple) -> Triple:
    """Cells (x, y, z) of the encoder's output for those of its input."""

    def halve(cells: int, padding: int = 1) -> int:
        return (cells + 2 * padding - 3) // 2 + 1

    x, y = (halve(halve(halve(cells))) for cells in grid[:2])
    return x, y, halve(halve(halve(halve(grid[2])), 0), 0)


def seen_from_above(voxels: SparseTensor, scans: int, grid: Triple) -> Tensor:
    """Voxels of a bounded grid (x, y, z) as a map [scans, C * z, y, x], channel-major."""
    channels = voxels.features.shape[1]
    scan, x, y, z = (voxels.coordinates // voxels.coordinates.new_tensor((1, *voxels.stride))).unbind(1)
    dense = voxels.features.new_zeros(scans, grid[2], grid[1], grid[0], channels)
    dense = dense.index_put((scan, z, y, x), voxels.features)
    return dense.permute(0, 4, 1, 2, 3).reshape(scans, channels * grid[2], grid[1], grid[0])


class RegionProposals(nn.Module):
    """SECOND's RPN: blocks of convolutions, the second at half the size, both brought to one size and concatenated.

    [B, C, H, W] -> [B, sum of upsampled, H, W].
    """

    def __init__(self, inputs: int, sizes: Sizes, momentum: float) -> None:
        super().__init__()

        def normed(channels: int) -> list[nn.Module]:
            return [nn.BatchNorm2d(channels, eps=EPS, momentum=momentum), nn.ReLU()]

        blocks, ups = [], []
        before = inputs
        for number, (width, up) in enumerate(zip(sizes.rpn, sizes.upsampled, strict=True)):
            stride = 1 if number == 0 else 2
            layers = [nn.Conv2d(before, width, 3, stride, padding=1, bias=False), *normed(width)]
            for _ in range(sizes.depth):
                layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), *normed(width)]
            blocks.append(nn.Sequential(*layers))
            factor = 2**number
            ups.append(nn.Sequential(nn.ConvTranspose2d(width, up, factor, factor, bias=False), *normed(up)))
            before = width
        self.blocks, self.ups = nn.ModuleList(blocks), nn.ModuleList(ups)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        outputs = []
        for block, up in zip(self.blocks, self.ups, strict=True):
            x = block(x)
            outputs.append(up(x)[..., :height, :width])
        return torch.cat(outputs, dim=1)


class SECONDNetwork(nn.Module):
    """Points of a batch -> logits, residuals and directions of all anchors.

    classes: C; channels: of a point; point_range, voxel_size: metres, (x, y, z, x, y, z) and (x, y, z).
    fusion: "off" is SECOND; "layer" replaces each sparse convolution by SPVConv; "stage": each stage of them.
    Raises ValueError where the range isn't a whole number of voxels, or too low for the encoder.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        point_range: Sequence[float],
        voxel_size: Sequence[float],
        sizes: Sizes,
        fusion: Fusion,
        bn_momentum: float,
        rotations: int = 2,
    ) -> None:
        super().__init__()
        extent = [high - low for low, high in zip(point_range[:3], point_range[3:], strict=True)]
        cells = [round(e / s) for e, s in zip(extent, voxel_size, strict=True)]
        if any(abs(n * s - e) > 1e-3 for n, s, e in zip(cells, voxel_size, extent, strict=True)):
            raise ValueError(
                f"the range {tuple(point_range)} isn't a whole number of voxels {tuple(voxel_size)}"
            )
        self.origin, self.voxel_size = tuple(point_range[:3]), tuple(voxel_size)
        # One height more, as in the public code: 41, 21, 11, 5, 2.
        self.grid: Triple = (cells[0], cells[1], cells[2] + 1)
        self.coarse = encoder_grid(self.grid)
        if min(self.coarse) < 1:
            raise ValueError(f"a grid of {self.grid} voxels is too small for the encoder")
        self.classes, self.anchors = classes, classes * rotations
        self.encoder = SparseEncoder(channels, sizes, fusion, bn_momentum)
        self.rpn = RegionProposals(sizes.encoder_out * self.coarse[2], sizes, bn_momentum)
        features = sum(sizes.upsampled)
        self.to_logits = nn.Conv2d(features, self.anchors * classes, 1)
        self.to_residuals = nn.Conv2d(features, self.anchors * 7, 1)
        self.to_directions = nn.Conv2d(features, self.anchors * 2, 1)
        nn.init.constant_(self.to_logits.bias, -math.log(99))  # a probability of 0.01
        nn.init.normal_(self.to_residuals.weight, std=0.001)

    def forward(self, points: Tensor, scan: Tensor, scans: int) -> tuple[Tensor, Tensor, Tensor]:
        """points [N, channels] inside the range (x, y, z in metres first) of `scan` [N] in 0..scans-1.

        -> logits [B, A, C], residuals [B, A, 7], directions [B, A, 2]; anchors in the order (y, x, class, rotation).
        """
        places = PointSet.of(points[:, :3], scan, self.voxel_size, self.origin)
        voxels, _ = voxelise_set(places, points, grid=self.grid)
        voxels = self.encoder(voxels, points, places)
        features = self.rpn(seen_from_above(voxels, scans, self.coarse))
        maps = (self.to_logits(features), self.to_residuals(features), self.to_directions(features))
        return tuple(  # type: ignore[return-value]
            one.permute(0, 2, 3, 1).reshape(scans, -1, one.shape[1] // self.anchors) for one in maps
        )
