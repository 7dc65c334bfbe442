"""The network of ADTC: a trunk, one attention after it, global max pooling and batch normalisation (section 3.1,
Fig. 2B), shared by its supervised start on the source and its rounds on the target.

    f = trunk(x)   [B, c, h, w]      ResNet-50: c = 2048, 16 x 8 for 256 x 128 crops with a last stride of 1
    a = v f                          see tasks/blocks/voxel_attention.py
    g = BN(max over positions of a)  [B, c]

Besides the voxel attention and its parts, two peers at the same place, as in Table 2: harmonious attention
(Li et al., CVPR 2018; the soft part, without HA-CNN's hard regional branches, which need a network of several
branches) and CBAM (Woo et al., ECCV 2018).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.blocks.published_weights import load_renamed, read_published
from tasks.blocks.voxel_attention import ChannelAttention, VoxelAttention

Attention = Literal["voxel", "channel", "spatial", "none", "ha", "cbam"]
Backbone = Literal["resnet50", "small"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, by which pictures are normalised."""


class HarmoniousAttention(nn.Module):
    """A spatial map and a channel gate, multiplied, mixed by a 1 x 1 convolution and squashed: [B, c, h, w] -> the
    same. width: of the channel gate's bottleneck."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(1, 1, 3, stride=2, padding=1)
        self.refine = nn.Conv2d(1, 1, 1)
        self.channel = ChannelAttention(channels, width)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        shrunk = F.relu(self.spatial(features.mean(1, keepdim=True)))
        grown = F.interpolate(shrunk, features.shape[2:], mode="bilinear", align_corners=False)
        where = F.relu(self.refine(grown))
        return features * torch.sigmoid(self.mix(where * self.channel(features)))


class CBAM(nn.Module):
    """A channel gate of the mean and the largest activation, then a spatial one by a 7 x 7 convolution: [B, c, h, w]
    -> the same. width: of the channel gate's bottleneck."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, width)
        self.excite = nn.Linear(width, channels)
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, features: Tensor) -> Tensor:
        pooled = torch.stack([features.mean((2, 3)), features.amax((2, 3))])
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))).sum(0))
        features = features * gate[:, :, None, None]
        summary = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], dim=1)
        return features * torch.sigmoid(self.spatial(summary))


class SmallTrunk(nn.Sequential):
    """Four convolutions for small crops: [B, 3, H, W] -> [B, channels, H / 4, W / 4]."""

    def __init__(self, channels: int) -> None:
        widths = (3, 24, 48, 64, channels)
        layers: list[nn.Module] = []
        for number, (inside, outside) in enumerate(pairwise(widths)):
            layers += [
                nn.Conv2d(inside, outside, 3, stride=2 if number < 2 else 1, padding=1, bias=False),
                nn.BatchNorm2d(outside),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


def resnet50_trunk(last_stride: int, weights: str | None) -> nn.Module:
    """ResNet-50 without pooling and classifier: [B, 3, H, W] -> [B, 2048, H / 16, W / 16], or / 32 with a last stride
    of 2. weights: file of torchvision's ImageNet weights."""
    from torchvision.models import resnet50

    network = resnet50(weights=None)
    if weights is not None:
        load_renamed(network, read_published(weights), lambda name: name)
    if last_stride == 1:
        network.layer4[0].conv2.stride = (1, 1)
        network.layer4[0].downsample[0].stride = (1, 1)
    return nn.Sequential(*list(network.children())[:-2])


def build_attention(kind: Attention, channels: int, width: int) -> nn.Module:
    """The module between trunk and pooling."""
    if kind == "none":
        return nn.Identity()
    if kind == "ha":
        return HarmoniousAttention(channels, width)
    if kind == "cbam":
        return CBAM(channels, width)
    return VoxelAttention(channels, width, kind)


class ADTCNetwork(nn.Module):
    """Crops in [0, 1] to the embedding g: [B, 3, H, W] -> float32 [B, channels].

    attention: between trunk and pooling. attention_width: d of its channel gate. channels: of the small trunk.
    weights: file of the ImageNet weights of a ResNet-50.
    """

    def __init__(
        self,
        *,
        attention: Attention = "voxel",
        attention_width: int = 800,
        backbone: Backbone = "resnet50",
        last_stride: Literal[1, 2] = 1,
        channels: int = 96,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if last_stride not in (1, 2):
            raise ValueError(f"last_stride must be 1 or 2, got {last_stride}")
        if backbone == "small":
            if weights is not None:
                raise ValueError("there are no ImageNet weights of the small trunk")
            self.trunk: nn.Module = SmallTrunk(channels)
        else:
            channels = 2048
            self.trunk = resnet50_trunk(last_stride, weights)
        self.channels = channels
        self.attention = build_attention(attention, channels, attention_width)
        # S divides by the number of positions; the usual 1e-5 would outweigh the variance of what it leaves.
        softmaxed = attention in ("voxel", "spatial")
        self.norm = nn.BatchNorm1d(channels, eps=1e-9 if softmaxed else 1e-5)
        for name, value in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def feature_map(self, image: Tensor) -> Tensor:
        """f: [B, 3, H, W] -> [B, c, h, w]"""
        return self.trunk((image - self.mean) / self.std)

    def forward(self, image: Tensor) -> Tensor:
        attended = self.attention(self.feature_map(image))
        return self.norm(attended.float().amax((2, 3)))


def saliency(network: ADTCNetwork, image: Tensor) -> Tensor:
    """Where the embedding looks: mean over channels of the attended map, each scaled to [0, 1]; [B, h, w]."""
    attended = network.attention(network.feature_map(image)).float().clamp(min=0).mean(1)
    return attended / attended.amax((1, 2), keepdim=True).clamp(min=1e-12)
