"""Frozen features in which two pictures are compared as people compare them, with gradients to the pictures.

Layers of a trained network, each position brought to unit length over the channels as in LPIPS (R. Zhang et
al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018; here without LPIPS'
learnt weights of the channels), and the feature of a network that tells identities apart, of unit length.

The layers are those of VGG-16 where its ImageNet weights are given; else the middle layers of the adopted
identity network. `kind` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.base import Method
from tasks.blocks.vgg import VGG16Trunk, normalise


@runtime_checkable
class HasFeatureMaps(Protocol):
    """A trained network with layers and a transferable feature; it preprocesses pictures itself."""

    def feature_maps(self, image: Tensor) -> Sequence[Tensor]:
        """[B, 3, H, W] in [0, 1] -> maps [B, C, H', W'] of several depths."""
        ...

    def feature_of(self, maps: Sequence[Tensor]) -> Tensor:
        """The feature that belongs to such maps, [B, K]"""
        ...


def unit_channels(features: Tensor, eps: float = 1e-8) -> Tensor:
    """[B, C, ...] brought to unit length over C, float32."""
    features = features.float()
    return features * (features.square().sum(dim=1, keepdim=True) + eps).rsqrt()


def perceptual_distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Sum over layers of the mean over pictures and places of the squared distance of unit vectors; a scalar.

    one, other: maps [B, C, ...] of the same layers, not yet of unit length.
    """
    layers = [
        (unit_channels(a) - unit_channels(b)).square().sum(dim=1).mean()
        for a, b in zip(one, other, strict=True)
    ]
    return torch.stack(layers).sum()


class PerceptualFeatures(nn.Module):
    """See the module's docstring.

    vgg_weights: file of VGG-16's ImageNet weights (see tasks/blocks/vgg.py); empty: the identity network's
    layers. smallest: pictures with a shorter side are enlarged to it first (bilinear).
    """

    def __init__(self, *, vgg_weights: str = "", smallest: int = 64) -> None:
        super().__init__()
        self.vgg: VGG16Trunk | None = None
        if vgg_weights:
            self.vgg = VGG16Trunk()
            self.vgg.load_imagenet(vgg_weights)
            self.vgg.requires_grad_(False).eval()
        self.smallest = smallest
        self.identity: Method | None = None

    @property
    def kind(self) -> str:
        """Which layers are compared: "vgg16", "identity" or "none"."""
        return "vgg16" if self.vgg is not None else "identity" if self.identity is not None else "none"

    def adopt(self, trained: Method) -> None:
        """Take the identity network and freeze it; a `TypeError` for one without layers to compare."""
        if not isinstance(trained, HasFeatureMaps):
            raise TypeError(
                f"{trained.name} has no feature_maps(image) and feature_of(maps) to compare faces in"
            )
        self.identity = trained.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PerceptualFeatures:
        """Stays in evaluation mode: batch statistics must not move."""
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """image [B, 3, H, W] in [0, 1] -> maps of the layers, and the identity feature [B, K] last where there is
        one. A `RuntimeError` where there is no network at all."""
        if self.vgg is None and self.identity is None:
            raise RuntimeError(
                "the perceptual loss has no network: give `vgg_weights`, adopt an identity network, or switch it off"
            )
        shorter = min(image.shape[-2:])
        if shorter < self.smallest:
            size = [round(side * self.smallest / shorter) for side in image.shape[-2:]]
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        maps: list[Tensor] = []
        image = image.contiguous(memory_format=torch.channels_last)  # faster on a CPU
        if self.vgg is not None:
            maps += self.vgg(normalise(image, "torchvision"))
        if self.identity is not None:
            own = self.identity.feature_maps(image)  # type: ignore[operator]
            if self.vgg is None:
                maps += own
            maps.append(self.identity.feature_of(own))  # type: ignore[operator]
        return maps
