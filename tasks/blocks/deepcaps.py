"""The modified DeepCaps embedding: four cells of convolutional capsules, flat capsules, class capsules.

DeepCaps (Rajasegaran et al., CVPR 2019) without decoder and margin loss: a picture's embedding is the activity
vector of the longest class capsule. The class capsules are no classes of an episode; those are new.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from tasks.blocks.capsules import ClassCaps, ConvCaps, ConvCaps3D

Embedding = Literal["winner", "all"]


class CapsCell(nn.Module):
    """A ConvCaps of stride 2; from it a main path of two ConvCaps and a skip, which are added.

    routed: the skip is a ConvCaps3D with that many routing iterations instead of a ConvCaps; 0: it is not.
    """

    def __init__(
        self, in_capsules: int, in_dim: int, capsules: int, dim: int, *, routed: int = 0, gain: float = 2**0.5
    ) -> None:
        super().__init__()
        self.reduce = ConvCaps(in_capsules, in_dim, capsules, dim, stride=2, gain=gain)
        self.main = nn.Sequential(
            ConvCaps(capsules, dim, capsules, dim, gain=gain),
            ConvCaps(capsules, dim, capsules, dim, gain=gain),
        )
        self.skip = (
            ConvCaps3D(dim, capsules, dim, iterations=routed, gain=gain)
            if routed
            else ConvCaps(capsules, dim, capsules, dim, gain=gain)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        return self.main(x) + self.skip(x)


def flat_capsules(x: Tensor) -> Tensor:
    """Every place of every capsule's map as a capsule: [B, C, D, H, W] -> [B, H * W * C, D]."""
    return x.permute(0, 3, 4, 1, 2).flatten(1, 3)


def winner(capsules: Tensor) -> Tensor:
    """The longest capsule of each sample, P_m with m = argmax_i ||P_i||^2: [B, b, d] -> [B, d]."""
    longest = capsules.square().sum(dim=2).argmax(dim=1)
    return capsules[torch.arange(len(capsules), device=capsules.device), longest]


class DeepCaps(nn.Module):
    """Pictures [B, channels, H, W] -> embedding float32 [B, d], or [B, b * d] with `embedding="all"`.

    image_size: (height, width), which fixes the number of flat capsules: at 64×64 and 32 capsules a map,
    4*4*32 + 8*8*32 = 2560. stem: channels of the first convolution. capsules: a map. dims: dimension of the
    capsules of cell 1 and of cells 2 to 4. class_capsules, class_dim: b and d. routing_iterations: of cell 4's
    skip and of the class capsules. gain: of the convolutions' initialisation.
    """

    def __init__(
        self,
        channels: int,
        image_size: tuple[int, int],
        *,
        stem: int = 128,
        capsules: int = 32,
        dims: tuple[int, int] = (4, 8),
        class_capsules: int = 10,
        class_dim: int = 32,
        routing_iterations: int = 3,
        embedding: Embedding = "winner",
        gain: float = 2**0.5,
    ) -> None:
        super().__init__()
        first, dim = dims
        self.embedding = embedding
        self.stem = nn.Sequential(nn.Conv2d(channels, stem, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(stem))
        self.cell1 = CapsCell(stem, 1, capsules, first, gain=gain)
        self.cell2 = CapsCell(capsules, first, capsules, dim, gain=gain)
        self.cell3 = CapsCell(capsules, dim, capsules, dim, gain=gain)
        self.cell4 = CapsCell(capsules, dim, capsules, dim, routed=routing_iterations, gain=gain)
        height, width = image_size
        self.flat = sum(capsules * -(-height // s) * -(-width // s) for s in (8, 16))
        self.classes = ClassCaps(self.flat, dim, class_capsules, class_dim, iterations=routing_iterations)
        self.features = class_dim if embedding == "winner" else class_capsules * class_dim

    def class_capsules(self, image: Tensor) -> Tensor:
        """Activity vectors of the class capsules: [B, b, d], each shorter than 1."""
        x = self.stem(image).unsqueeze(2)  # channels read as capsules of dimension 1
        x = self.cell3(self.cell2(self.cell1(x)))
        flat = torch.cat([flat_capsules(self.cell4(x)), flat_capsules(x)], dim=1)
        return self.classes(flat)

    def forward(self, image: Tensor) -> Tensor:
        capsules = self.class_capsules(image)
        return winner(capsules) if self.embedding == "winner" else capsules.flatten(1)
