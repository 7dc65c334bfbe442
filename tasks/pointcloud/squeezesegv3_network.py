"""The networks of SqueezeSegV3 and RangeNet++: an encoder of five stages and a decoder, over range images.

The height of the image is never reduced; all strides are (1, 2). Two kinds of block share the encoder:

- `RangeNetBlock` (RangeNet++, IROS 2019): 1x1 to half the channels, 3x3 back, each with BN and LeakyReLU 0.1.
- `AdaptiveBlock` (SqueezeSegV3, ECCV 2020, and its official code): SAC, BN, ReLU, 3x3 convolution, BN, ReLU.

Both add their input. In the paper's words a stage begins with its downsampling, as RangeNet's do; the
official code applies the SAC blocks first, at the stage's input channels and resolution. `position` chooses.
The coordinates are halved in width after each downsampling stage by bilinear resampling with aligned corners,
as the official code does, so that each SAC sees them at its own resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from tasks.blocks.spatially_adaptive import (
    BlockAttention,
    ContextAggregation,
    PixelAdaptive,
    PlainConv,
    RangeConv2d,
    SpatiallyAdaptiveConv,
    SqueezeExcitation,
    pad_columns,
)

Adaptive = Literal["none", "plain", "S", "IS", "SK", "ISK", "se", "cbam", "cam", "pac"]
Depth = Literal[21, 53]

BLOCKS: dict[int, tuple[int, ...]] = {21: (1, 1, 2, 2, 1), 53: (1, 2, 8, 8, 4)}
STEM_CHANNELS = 32
PEERS = {
    "plain": PlainConv,
    "se": SqueezeExcitation,
    "cbam": BlockAttention,
    "cam": ContextAggregation,
    "pac": PixelAdaptive,
}


class RangeNetNorm(nn.BatchNorm2d):
    """Batch normalisation outside of SAC blocks; the official code gives it a momentum of its own, 0.01."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is built, as a table of five stages.

    channels: of the stem and of the five stages' outputs.
    strides: of the width, a stage each.
    blocks: a stage each.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    blocks: tuple[int, ...]

    @property
    def reduction(self) -> int:
        """By how much the width shrinks."""
        return math.prod(self.strides)

    @classmethod
    def of(cls, depth: Depth, ds_removal: bool, multiplier: float) -> Layout:
        """Sec. 5.1: without the last two downsamplings the last two stages have 256 channels."""
        deep = (256, 256) if ds_removal else (512, 1024)
        channels = (STEM_CHANNELS, 64, 128, 256, *deep)
        last = 1 if ds_removal else 2
        return cls(
            channels=tuple(max(1, round(count * multiplier)) for count in channels),
            strides=(2, 2, 2, last, last),
            blocks=BLOCKS[depth],
        )


class RangeNetBlock(nn.Module):
    """1x1 to `hidden` channels, 3x3 back, plus the input: [B, channels, H, W] -> the same shape."""

    def __init__(self, channels: int, hidden: int, *, wrap: bool = False) -> None:
        super().__init__()
        self.reduce = _conv_bn(nn.Conv2d(channels, hidden, 1, bias=False))
        self.expand = _conv_bn(RangeConv2d(hidden, channels, 3, bias=False, wrap=wrap))

    def forward(self, features: Tensor, coordinates: Tensor | None = None) -> Tensor:
        return self.expand(self.reduce(features)) + features


class AdaptiveBlock(nn.Module):
    """SAC or a peer, BN, ReLU, 3x3, BN, ReLU, plus the input.

    [B, channels, H, W], coordinates [B, 3, H, W] -> [B, channels, H, W]
    """

    def __init__(
        self, channels: int, adaptive: Adaptive, attention_kernel: int, *, wrap: bool = False
    ) -> None:
        super().__init__()
        if adaptive in PEERS:
            self.adapt: nn.Module = PEERS[adaptive](channels, channels, wrap=wrap)
        else:
            self.adapt = SpatiallyAdaptiveConv(
                channels, channels, variant=adaptive, attention_kernel=attention_kernel, wrap=wrap
            )
        self.reduce = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.expand = nn.Sequential(
            RangeConv2d(channels, channels, 3, wrap=wrap), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        return self.expand(self.reduce(self.adapt(features, coordinates))) + features


class Stage(nn.Module):
    """Blocks and, where the stage changes resolution or channels, a strided 3x3 convolution before or after.

    [B, in, H, W], coordinates [B, 3, H, W] -> [B, out, H, W / stride], coordinates at that resolution
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int,
        stride: int,
        sac: Adaptive,
        attention_kernel: int,
        position: Literal["before_down", "after_down"],
        dropout: float,
        wrap: bool,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.before = position == "before_down"
        # RangeNet's stages always convolve; SqueezeSegV3's last two keep their size and hold blocks only.
        keeps = in_channels == out_channels and stride == 1 and sac != "none"
        self.down = (
            nn.Identity()
            if keeps
            else _conv_bn(
                RangeConv2d(in_channels, out_channels, 3, stride=(1, stride), bias=False, wrap=wrap)
            )
        )
        channels = in_channels if self.before else out_channels
        self.blocks = nn.ModuleList(
            RangeNetBlock(channels, channels // 2 if self.before else in_channels, wrap=wrap)
            if sac == "none"
            else AdaptiveBlock(channels, sac, attention_kernel, wrap=wrap)
            for _ in range(blocks)
        )
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Tensor, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        if self.before:
            for block in self.blocks:
                features = block(features, coordinates)
        features = self.down(features)
        if self.stride > 1:
            height, width = coordinates.shape[2:]
            size = (height, width // self.stride)
            coordinates = F.interpolate(coordinates, size, mode="bilinear", align_corners=True)
        if not self.before:
            for block in self.blocks:
                features = block(features, coordinates)
        return self.dropout(features), coordinates


class UpStage(nn.Module):
    """Widen by a transposed convolution (or keep the size by a 3x3 one), add the skip, one RangeNet block.

    [B, in, H, W], skip [B, out, H, W * stride] or None -> [B, out, H, W * stride]
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, wrap: bool) -> None:
        super().__init__()
        self.stride = stride
        self.wrap = wrap
        if stride == 2:
            convolution: nn.Module = nn.ConvTranspose2d(in_channels, out_channels, (1, 4), (1, 2), (0, 1))
        else:
            convolution = RangeConv2d(in_channels, out_channels, 3, wrap=wrap)
        self.up = _conv_bn(convolution)
        self.block = RangeNetBlock(out_channels, in_channels, wrap=wrap)

    def forward(self, features: Tensor, skip: Tensor | None) -> Tensor:
        if self.stride == 2 and self.wrap:
            features = self.up(pad_columns(features, 1, True))[..., 2:-2]
        else:
            features = self.up(features)
        features = self.block(features)
        return features if skip is None else features + skip


class SqueezeSegV3Network(nn.Module):
    """Encoder, decoder and one prediction head per decoder output.

    image: [B, 5, H, W] normalised (range, x, y, z, remission), empty pixels 0. Returns logits of the heads,
    finest first: [B, classes, H, W / s] with s = 1, 2, 4, 8, 8 (1, 2, 4, 8, 16 with RangeNet's strides);
    only the finest where `heads` is 1. bn_momentum: of the normalisations outside of SAC blocks.
    """

    def __init__(
        self,
        classes: int,
        layout: Layout,
        *,
        channels: int = 5,
        sac: Adaptive = "ISK",
        attention_kernel: int = 7,
        position: Literal["before_down", "after_down"] = "before_down",
        detach_skips: bool = True,
        heads: Literal[1, 5] = 5,
        dropout: float = 0.01,
        bn_momentum: float = 0.01,
        wrap: bool = False,
    ) -> None:
        super().__init__()
        self.detach_skips = detach_skips
        widths, strides = layout.channels, layout.strides
        self.stem = _conv_bn(RangeConv2d(channels, widths[0], 3, bias=False, wrap=wrap))
        self.encoder = nn.ModuleList(
            Stage(
                widths[number],
                widths[number + 1],
                blocks=layout.blocks[number],
                stride=strides[number],
                sac=sac,
                attention_kernel=attention_kernel,
                position=position,
                dropout=dropout,
                wrap=wrap,
            )
            for number in range(5)
        )
        self.decoder = nn.ModuleList(
            UpStage(widths[number + 1], widths[number], stride=strides[number], wrap=wrap)
            for number in reversed(range(5))
        )
        finest = nn.Sequential(nn.Dropout2d(dropout), RangeConv2d(widths[0], classes, 3, wrap=wrap))
        self.heads = nn.ModuleList(
            [finest, *(nn.Conv2d(widths[number], classes, 1) for number in range(1, heads))]
        )
        for module in self.modules():
            if isinstance(module, RangeNetNorm):
                module.momentum = bn_momentum

    def forward(self, image: Tensor) -> list[Tensor]:
        coordinates = image[:, 1:4]
        features = self.stem(image)
        skips: list[Tensor | None] = []
        for stage in self.encoder:
            skip = features.detach() if self.detach_skips else features
            skips.append(skip if stage.stride > 1 else None)
            features, coordinates = stage(features, coordinates)
        outputs = []
        for stage, skip in zip(self.decoder, reversed(skips), strict=True):
            features = stage(features, skip)
            outputs.append(features)
        # The decoder goes from coarse to fine; the heads are listed from fine to coarse.
        return [head(output) for head, output in zip(self.heads, reversed(outputs), strict=False)]


def _conv_bn(convolution: nn.Module) -> nn.Sequential:
    """A convolution with batch normalisation and LeakyReLU 0.1."""
    return nn.Sequential(convolution, RangeNetNorm(convolution.out_channels), nn.LeakyReLU(0.1))
