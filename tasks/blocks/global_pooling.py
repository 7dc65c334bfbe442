"""Global pooling of a feature map into one descriptor of unit length, for retrieval.

mac    largest response of each channel (Tolias et al., ICLR 2016)
spoc   mean response (Babenko and Lempitsky, ICCV 2015)
gem    generalised mean with a learned power p, from 3 (Radenovic et al., TPAMI 2019)
rmac   MAC of overlapping regions on three scales, each of unit length, summed (Tolias et al., ICLR 2016)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GlobalPooling = Literal["mac", "spoc", "gem", "rmac"]
LEVELS = 3
OVERLAP = 0.4


def generalised_mean(features: Tensor, power: Tensor, eps: float = 1e-6) -> Tensor:
    """(mean over pixels of x^p)^(1/p): [N, K, H, W], not negative -> [N, K]."""
    return features.float().clamp(min=eps).pow(power).mean((2, 3)).pow(1 / power)


def region_starts(height: int, width: int, levels: int = LEVELS) -> list[tuple[int, list[int], list[int]]]:
    """R-MAC's regions: side, first rows and first columns of each level's squares.

    The longer side holds as many squares of the shorter one as come nearest to an overlap of 40 % (1 to 6 more than
    one, and one where the map is square); level l has squares of 2 min(H, W) / (l + 1), l more of them on the shorter
    side than on level 1.
    """
    shorter, longer = min(height, width), max(height, width)
    extra = 0
    if longer > shorter:
        steps = [(longer - shorter) / count for count in range(1, 7)]
        extra = min(range(6), key=lambda i: abs((shorter - steps[i]) / shorter - OVERLAP)) + 1
    more_rows, more_columns = (extra, 0) if height > width else (0, extra)
    regions = []
    for level in range(1, levels + 1):
        side = max(1, 2 * shorter // (level + 1))
        regions.append(
            (side, _spread(height, side, level + more_rows), _spread(width, side, level + more_columns))
        )
    return regions


def _spread(size: int, side: int, count: int) -> list[int]:
    """`count` starts of stretches of `side`, evenly from 0 to size - side."""
    return [
        int(i * (size - side) / max(1, count - 1)) if count > 1 else (size - side) // 2 for i in range(count)
    ]


def regional_mac(features: Tensor, levels: int = LEVELS) -> Tensor:
    """R-MAC without whitening: [N, K, H, W] -> [N, K]."""
    features = features.float()
    total = features.new_zeros(features.shape[:2])
    for side, rows, columns in region_starts(*features.shape[2:], levels):
        largest = F.max_pool2d(features, side, stride=1)[:, :, rows][:, :, :, columns]
        total = total + F.normalize(largest.flatten(2), dim=1).sum(2)
    return total


class DescriptorPooling(nn.Module):
    """[N, K, H, W], not negative -> unit descriptors [N, K], float32. power: where GeM's learned p starts."""

    def __init__(self, pooling: GlobalPooling = "gem", *, power: float = 3.0) -> None:
        super().__init__()
        self.pooling = pooling
        if pooling == "gem":
            self.power = nn.Parameter(torch.tensor([power]))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            if self.pooling == "gem":
                pooled = generalised_mean(features, self.power)
            elif self.pooling == "mac":
                pooled = features.float().amax((2, 3))
            elif self.pooling == "spoc":
                pooled = features.float().mean((2, 3))
            else:
                pooled = regional_mac(features)
            return F.normalize(pooled, dim=1)

    def combine(self, scales: Tensor) -> Tensor:
        """Descriptors of several scales of a picture, [S, N, K] -> unit [N, K]: GeM's own mean, else the plain one."""
        if self.pooling == "gem":
            mean = scales.clamp(min=0).pow(self.power).mean(0).pow(1 / self.power)
        else:
            mean = scales.mean(0)
        return F.normalize(mean, dim=1)
