"""Five small classifiers of different design, in the manner of VGG, ResNet, Inception, DenseNet and of nets
with large depthwise kernels, and the residual one with a feature-denoising block (Xie et al., CVPR 2019).

Each takes float [B, 3, H, W], halves the size three times, and ends in a global average and one linear layer,
so that any picture of at least 16 x 16 fits.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Design = Literal["plain", "residual", "branch", "dense", "large_kernel"]
Denoise = Literal["none", "mean", "non_local"]


def unit(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU; "same" padding."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity, or beside a 1x1 convolution where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            unit(inputs, outputs, stride=stride),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Branches(nn.Module):
    """Parallel 1x1, 3x3, 5x5 (two 3x3) and pooled branches, a quarter of the channels each."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        quarter = outputs // 4
        self.branches = nn.ModuleList(
            [
                unit(inputs, quarter, 1),
                nn.Sequential(unit(inputs, quarter, 1), unit(quarter, quarter)),
                nn.Sequential(unit(inputs, quarter, 1), unit(quarter, quarter), unit(quarter, quarter)),
                nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(inputs, quarter, 1)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class DenseBlock(nn.Module):
    """`layers` 3x3 convolutions of `growth` channels, each reading all before it."""

    def __init__(self, inputs: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(unit(inputs + i * growth, growth) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class LargeKernel(nn.Module):
    """A depthwise 7x7 convolution and two 1x1 ones beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width, bias=False)
        self.pointwise = nn.Sequential(
            nn.BatchNorm2d(width), nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(self.depthwise(x))


class Denoising(nn.Module):
    """x + conv1x1(filter(x)), Xie et al., Fig. 4: a 3x3 mean or a non-local filter; starts as the identity.

    embed: non-local weights are a softmax of embedded features over sqrt(channels) ("Gaussian"); without it,
    the plain dot product over the number of positions, as in the DenoiseAll networks. size: of the mean
    filter.
    """

    def __init__(
        self, width: int, kind: Literal["mean", "non_local"], *, embed: bool = True, size: int = 3
    ) -> None:
        super().__init__()
        self.kind, self.embed, self.size = kind, embed, size
        if kind == "non_local" and embed:
            self.theta = nn.Conv2d(width, width // 2, 1)
            self.phi = nn.Conv2d(width, width // 2, 1)
            for layer in (self.theta, self.phi):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        self.mix = nn.Conv2d(width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "mean":
            filtered = F.avg_pool2d(x, self.size, 1, self.size // 2, count_include_pad=False)
        else:
            filtered = self.non_local(x)
        return x + self.norm(self.mix(filtered))

    def non_local(self, x: Tensor) -> Tensor:
        """[B, C, H, W]: each position becomes a weighted mean of all."""
        if not self.embed:
            # (x^T x) x = x^T (x x^T) without the H W x H W matrix.
            flat = x.flatten(2)
            return (flat @ flat.transpose(1, 2) @ flat).view_as(x) / flat.shape[2]
        query, key = self.theta(x).flatten(2), self.phi(x).flatten(2)
        weight = (query.transpose(1, 2) @ key / query.shape[1] ** 0.5).softmax(2)
        return (x.flatten(2) @ weight.transpose(1, 2)).view_as(x)


def network(design: Design, classes: int, width: int = 16, denoise: Denoise = "none") -> nn.Sequential:
    """float [B, 3, H, W] -> logits [B, classes]. width: channels of the first stage, a multiple of 4.

    denoise: block after the second stage.
    """
    w = width
    if design == "plain":
        stages = [
            nn.Sequential(unit(3, w, stride=2), unit(w, w)),
            nn.Sequential(unit(w, 2 * w), nn.MaxPool2d(2), unit(2 * w, 2 * w)),
            nn.Sequential(unit(2 * w, 4 * w), nn.MaxPool2d(2), unit(4 * w, 4 * w)),
        ]
    elif design == "residual":
        stages = [
            nn.Sequential(unit(3, w, stride=2), Residual(w, w)),
            Residual(w, 2 * w, 2),
            Residual(2 * w, 4 * w, 2),
        ]
    elif design == "branch":
        stages = [
            nn.Sequential(unit(3, w, stride=2), unit(w, w), nn.MaxPool2d(3, 2, 1)),
            Branches(w, 4 * w),
            nn.Sequential(nn.MaxPool2d(3, 2, 1), Branches(4 * w, 4 * w)),
        ]
    elif design == "dense":
        half = w // 2
        stages = [
            nn.Sequential(unit(3, w, 5, stride=2), DenseBlock(w, half, 2)),
            nn.Sequential(unit(2 * w, w, 1), nn.AvgPool2d(2), DenseBlock(w, w, 3)),
            nn.Sequential(unit(4 * w, 2 * w, 1), nn.AvgPool2d(2), DenseBlock(2 * w, w, 2)),
        ]
    elif design == "large_kernel":
        stages = [
            nn.Sequential(unit(3, w, 4 - 1, stride=2), LargeKernel(w)),
            nn.Sequential(unit(w, 2 * w, 3, stride=2), LargeKernel(2 * w)),
            nn.Sequential(unit(2 * w, 4 * w, 3, stride=2), LargeKernel(4 * w), nn.BatchNorm2d(4 * w)),
        ]
    else:
        raise ValueError(f"no network of design {design!r}")
    if denoise != "none":
        channels = {"plain": 2, "residual": 2, "branch": 4, "dense": 4, "large_kernel": 2}[design] * w
        stages.insert(2, Denoising(channels, denoise))
    features = 4 * w
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))
