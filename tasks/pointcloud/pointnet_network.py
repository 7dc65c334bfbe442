"""PointNet's layers (Qi, Su, Mo and Guibas, CVPR 2017): shared per-point layers, two alignment networks, a maximum.

Features stand last: [B, M, C].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tasks.blocks.point_mlp import PointMLP


class PointFeatures(NamedTuple):
    """maps: outputs of all per-point layers, [B, M, c_i]; shape: their last one's maximum over points [B, D];
    alignment: of the features, [B, c, c]."""

    maps: list[Tensor]
    shape: Tensor
    alignment: Tensor


class AlignmentNet(nn.Module):
    """T-Net: a matrix for a cloud's points [B, M, channels] -> [B, channels, channels], the identity at the start."""

    def __init__(self, channels: int, widths: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.points = nn.Sequential(*(PointMLP(i, o, slope=0.0) for i, o in ((channels, a), (a, b), (b, c))))
        self.shape = nn.Sequential(PointMLP(c, d, slope=0.0), PointMLP(d, e, slope=0.0))
        self.matrix = nn.Linear(e, channels * channels)
        nn.init.zeros_(self.matrix.weight)
        nn.init.zeros_(self.matrix.bias)
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.shape(self.points(features).amax(1))
        offset = self.matrix(hidden).view(-1, self.channels, self.channels)
        return offset + torch.eye(self.channels, device=features.device)


class PointEncoder(nn.Module):
    """Coordinates [B, M, 3], aligned, through shared layers, aligned again after the layer `align_after`.

    widths: outputs of the per-point layers. width: factor on the alignment networks' channels.
    """

    def __init__(self, widths: tuple[int, ...], align_after: int, width: float) -> None:
        super().__init__()
        inner = tuple(max(1, round(width * channels)) for channels in (64, 128, 1024, 512, 256))
        self.layers = nn.ModuleList(
            [PointMLP(i, o, slope=0.0) for i, o in zip((3, *widths[:-1]), widths, strict=True)]
        )
        self.align_points = AlignmentNet(3, inner)  # type: ignore[arg-type]
        self.align_features = AlignmentNet(widths[align_after], inner)  # type: ignore[arg-type]
        self.align_after = align_after

    def forward(self, points: Tensor) -> PointFeatures:
        features = points @ self.align_points(points)
        maps: list[Tensor] = []
        alignment = None
        for number, layer in enumerate(self.layers):
            features = layer(features)
            maps.append(features)
            if number == self.align_after:
                alignment = self.align_features(features)
                features = features @ alignment
        assert alignment is not None
        return PointFeatures(maps, features.amax(1), alignment)


def alignment_loss(alignment: Tensor) -> Tensor:
    """||I - A A^T||_F^2 of each feature alignment [B, c, c] (Eq. 2 of the paper), averaged over examples."""
    with torch.autocast(alignment.device.type, enabled=False):
        matrix = alignment.float()
        eye = torch.eye(matrix.shape[1], device=matrix.device)
        return (eye - matrix @ matrix.transpose(1, 2)).square().sum((1, 2)).mean()
