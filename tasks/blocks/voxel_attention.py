"""Voxel attention: a kernel over positions and channels that re-weights a feature map (ADTC, section 3.1).

For a feature map f [B, c, h, w] (the paper's equations 1 to 3),

    I(i, j) = mean over channels of f(i, j, .),    S = softmax of I over all positions     (no parameters)
    C = sigmoid(W2 ReLU(W1 mean over positions of f)),  W1 [d, c], W2 [c, d], no biases    (2 c d parameters)
    v(i, j, l) = S(i, j) C(l),                     a = v f                                 (elementwise)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Parts = Literal["voxel", "spatial", "channel"]


def spatial_attention(features: Tensor) -> Tensor:
    """S: [B, c, h, w] -> [B, 1, h, w], sums to 1 for each picture."""
    intensity = features.mean(1, keepdim=True)
    return intensity.flatten(2).softmax(dim=2).view_as(intensity)


class ChannelAttention(nn.Module):
    """C: [B, c, h, w] -> [B, c, 1, 1] in (0, 1). width: d, of the bottleneck."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, width, bias=False)
        self.excite = nn.Linear(width, channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(features.mean((2, 3))))))
        return gate[:, :, None, None]


class VoxelAttention(nn.Module):
    """a = v f, or with one part of the kernel only: [B, c, h, w] -> the same.

    width: d of the channel part.
    """

    def __init__(self, channels: int, width: int, parts: Parts = "voxel") -> None:
        super().__init__()
        self.parts = parts
        self.channel = None if parts == "spatial" else ChannelAttention(channels, width)

    def forward(self, features: Tensor) -> Tensor:
        features = features.float()  # S is of order 1 / (h w): too small for 16 bits after the product
        attended = features
        if self.parts != "channel":
            attended = attended * spatial_attention(features)
        if self.channel is not None:
            attended = attended * self.channel(features)
        return attended
