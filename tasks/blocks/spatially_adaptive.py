"""Spatially-adaptive convolution (SAC) and its peers, as drop-in 3x3 convolutions of a range-image network.

Paper: SqueezeSegV3, ECCV 2020, Sec. 4. A static filter is multiplied by an attention map of the coordinates,
W[m, n, p, q, i, j] = W^[m, n, i, j] * A(X0)[n, p, q, i, j] (Eq. 4), with A constant over the dimensions that
a variant does not name: S (pixel), IS (input channel and pixel), SK (pixel and kernel tap), ISK (all three).

- SK and ISK (`adaptive_convolution`): A is read at the *output* pixel, which is Eq. 4 exactly. The channel of
  ISK's map is c * K*K + k, input channel major and then tap, as `torch.nn.functional.unfold` orders it.
- S and IS multiply the features by A before a plain convolution (Sec. 4.3), which reads A at the *neighbour*
  pixel p + i, q + j. That is not Eq. 4 but what the paper says to compute, and what is done here.
- The attention map is sigmoid(BN(conv of the coordinates)); the official code has the batch normalisation,
  the paper does not mention it.
- Peers of Sec. 4.4: `SqueezeExcitation` (A_I), `BlockAttention` (CBAM: A_I, then A_S), `ContextAggregation`
  (CAM: A_IS of the max-pooled features) and `PixelAdaptive` (PAC: A_SK by a fixed Gaussian). Their reduction
  ratios are those of the papers they come from: 16, and at least 4 hidden channels.

`wrap=True` lets a convolution see the last columns left of the first (a scan is a full turn). The paper pads
with zeros; so do the defaults.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Variant = Literal["S", "IS", "SK", "ISK"]

_CHUNK_BYTES = {"cpu": 3 << 20, "other": 1 << 28}
"""Size of the buffer that holds attended patches: what a CPU keeps in its cache, plenty elsewhere."""


def pad_columns(image: Tensor, columns: int, wrap: bool) -> Tensor:
    """Pad left and right, with zeros or around the turn: [B, C, H, W] -> [B, C, H, W + 2 * columns]."""
    if columns == 0:
        return image
    return F.pad(image, (columns, columns, 0, 0), mode="circular" if wrap else "constant")


class RangeConv2d(nn.Conv2d):
    """An odd-sized convolution that keeps the size (up to its stride), padded with zeros or around the turn.

    [B, in_channels, H, W] -> [B, out_channels, ceil(H / stride[0]), ceil(W / stride[1])]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: tuple[int, int] = (1, 1),
        bias: bool = True,
        wrap: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=bias)
        self.wrap = wrap

    def forward(self, image: Tensor) -> Tensor:
        if not self.wrap:
            return super().forward(image)
        rows, columns = (int(size) for size in self.padding)
        return F.conv2d(pad_columns(image, columns, True), self.weight, self.bias, self.stride, (rows, 0))


def adaptive_convolution(
    features: Tensor, attention: Tensor, weight: Tensor, bias: Tensor | None = None, *, wrap: bool = False
) -> Tensor:
    """Convolution whose filter is multiplied by its own map at each output pixel (Eq. 4, SAC-ISK and SAC-SK).

    y[b, o, p, q] = bias[o] + sum over c, i, j of weight[o, c, i, j] * attention[b, c * K*K + i * K + j, p, q]
                    * features[b, c, p + i - K//2, q + j - K//2]

    It equals a 1x1 convolution of `unfold(features) * attention` (Sec. 4.3) but never holds either factor of
    K*K times the features whole: patches are read through a strided view, attended into a small buffer and
    multiplied by the filter there, some rows at a time, and made again in the backward pass.

    features: [B, I, H, W]; attention: [B, I*K*K, H, W] (ISK) or [B, K*K, H, W] (SK, same map for all
    channels); weight: [O, I, K, K] with odd K; bias: [O] or None -> [B, O, H, W]. `ValueError` for other
    shapes. Differentiable once in all tensors.
    """
    _, channels, kernel, columns = weight.shape
    taps = kernel * kernel
    expected = {(features.shape[0], count, *features.shape[2:]) for count in (taps, taps * channels)}
    if kernel != columns or kernel % 2 == 0 or features.shape[1] != channels:
        raise ValueError(f"weight {tuple(weight.shape)} does not fit features {tuple(features.shape)}")
    if tuple(attention.shape) not in expected:
        raise ValueError(f"attention {tuple(attention.shape)} is none of {sorted(expected)}")
    if torch.is_autocast_enabled(features.device.type):
        dtype = torch.get_autocast_dtype(features.device.type)
        features, attention, weight = features.to(dtype), attention.to(dtype), weight.to(dtype)
    output = _AdaptiveConvolution.apply(features, attention, weight, wrap)
    return output if bias is None else output + bias.to(output.dtype).view(1, -1, 1, 1)


class _AdaptiveConvolution(torch.autograd.Function):
    """`adaptive_convolution` without bias. Saves its three inputs and nothing else."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, attention: Tensor, weight: Tensor, wrap: bool) -> Tensor:
        ctx.save_for_backward(features, attention, weight)
        ctx.wrap = wrap
        patches, maps, filters = _views(features, attention, weight, wrap)
        batch, channels, kernel, _, height, width = patches.shape
        rows = _rows_of_a_chunk(features, kernel, channels)
        output = features.new_empty(batch, weight.shape[0], height * width)
        buffer = features.new_empty(channels * kernel * kernel * rows * width)
        with torch.autocast(features.device.type, enabled=False):
            for sample in range(batch):
                for top in range(0, height, rows):
                    bottom = min(top + rows, height)
                    attended = _part(buffer, channels, kernel, bottom - top, width)
                    torch.mul(
                        patches[sample, ..., top:bottom, :], maps[sample, ..., top:bottom, :], out=attended
                    )
                    pixels = slice(top * width, bottom * width)
                    torch.mm(filters, attended.view(filters.shape[1], -1), out=output[sample, :, pixels])
        return output.view(batch, -1, height, width)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, attention, weight = ctx.saved_tensors
        patches, maps, filters = _views(features, attention, weight, ctx.wrap)
        batch, channels, kernel, _, height, width = patches.shape
        pad = kernel // 2
        rows = _rows_of_a_chunk(features, kernel, channels)
        shared = maps.shape[1] == 1
        wants_features, wants_attention, wants_weight, _ = ctx.needs_input_grad
        gradient = gradient.contiguous().view(batch, -1, height * width)
        # Summed in single precision at least: a half-precision sum over all chunks would lose small terms.
        precise = torch.promote_types(weight.dtype, torch.float32) if wants_weight else weight.dtype
        to_weight = torch.zeros(filters.shape, dtype=precise, device=weight.device)
        to_maps = torch.empty_like(maps) if wants_attention else None
        to_padded = features.new_zeros(batch, channels, height + 2 * pad, width + 2 * pad)
        buffers = [features.new_empty(channels * kernel * kernel * rows * width) for _ in range(2)]
        with torch.autocast(features.device.type, enabled=False):
            for sample in range(batch):
                for top in range(0, height, rows):
                    bottom = min(top + rows, height)
                    patch, here = patches[sample, ..., top:bottom, :], maps[sample, ..., top:bottom, :]
                    attended, back = (_part(b, channels, kernel, bottom - top, width) for b in buffers)
                    outgoing = gradient[sample, :, top * width : bottom * width]
                    if wants_weight:
                        torch.mul(patch, here, out=attended)
                        to_weight += outgoing @ attended.view(filters.shape[1], -1).t()
                    if not (wants_features or wants_attention):
                        continue
                    torch.mm(filters.t(), outgoing, out=back.view(filters.shape[1], -1))
                    if to_maps is not None and shared:
                        torch.mul(back, patch, out=attended)
                        torch.sum(attended, 0, keepdim=True, out=to_maps[sample, ..., top:bottom, :])
                    elif to_maps is not None:
                        torch.mul(back, patch, out=to_maps[sample, ..., top:bottom, :])
                    if wants_features:
                        back.mul_(here)
                        for i in range(kernel):
                            for j in range(kernel):
                                to_padded[sample, :, top + i : bottom + i, j : j + width] += back[:, i, j]
        if ctx.wrap:
            to_padded[..., width : width + pad] += to_padded[..., :pad]
            to_padded[..., pad : 2 * pad] += to_padded[..., width + pad :]
        return (
            to_padded[..., pad : pad + height, pad : pad + width] if wants_features else None,
            to_maps.view_as(attention) if to_maps is not None else None,
            to_weight.view_as(weight).to(weight.dtype) if wants_weight else None,
            None,
        )


def _views(features: Tensor, attention: Tensor, weight: Tensor, wrap: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Patches [B, I, K, K, H, W] as overlapping windows of the padded features, maps [B, I or 1, K, K, H, W]
    and filters [O, I*K*K]."""
    batch, _, height, width = features.shape
    outputs, channels, kernel, _ = weight.shape
    pad = kernel // 2
    padded = F.pad(pad_columns(features, pad, wrap), (0, 0, pad, pad)).contiguous()
    a_sample, a_channel, a_row, a_column = padded.stride()
    patches = padded.as_strided(
        (batch, channels, kernel, kernel, height, width),
        (a_sample, a_channel, a_row, a_column, a_row, a_column),
    )
    maps = attention.contiguous().view(batch, -1, kernel, kernel, height, width)
    return patches, maps, weight.reshape(outputs, channels * kernel * kernel)


def _rows_of_a_chunk(features: Tensor, kernel: int, channels: int) -> int:
    """How many image rows of attended patches fit the buffer; at least one."""
    height, width = features.shape[2:]
    bytes_of_a_row = channels * kernel * kernel * width * features.element_size()
    budget = _CHUNK_BYTES["cpu" if features.device.type == "cpu" else "other"]
    chunks = -(-height // max(1, budget // bytes_of_a_row))
    return -(-height // chunks)


def _part(buffer: Tensor, channels: int, kernel: int, rows: int, width: int) -> Tensor:
    """The beginning of a buffer as [I, K, K, rows, W]."""
    count = channels * kernel * kernel * rows * width
    return buffer[:count].view(channels, kernel, kernel, rows, width)


class SpatiallyAdaptiveConv(nn.Module):
    """SAC-S, -IS, -SK or -ISK with a 3x3 filter (Eqs. 3 and 4; Sec. 4.3).

    variant: which dimensions the attention keeps: 1, I, K*K or I*K*K maps.
    attention_kernel: odd size of the convolution that makes the maps (7 in the paper).

    features [B, in_channels, H, W], coordinates [B, 3, H, W] (normalised x, y, z) -> [B, out_channels, H, W]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        variant: Variant = "ISK",
        kernel_size: int = 3,
        attention_kernel: int = 7,
        coordinates: int = 3,
        wrap: bool = False,
    ) -> None:
        super().__init__()
        taps = kernel_size * kernel_size
        maps = {"S": 1, "IS": in_channels, "SK": taps, "ISK": in_channels * taps}
        if variant not in maps:
            raise ValueError(f"variant {variant!r} is none of {', '.join(maps)}")
        if attention_kernel % 2 == 0:
            raise ValueError(f"attention_kernel must be odd, not {attention_kernel}")
        self.variant = variant
        self.wrap = wrap
        self.attention = nn.Sequential(
            RangeConv2d(coordinates, maps[variant], attention_kernel, wrap=wrap),
            nn.BatchNorm2d(maps[variant]),
            nn.Sigmoid(),
        )
        self.filter = RangeConv2d(in_channels, out_channels, kernel_size, wrap=wrap)

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        return self.attend(features, self.attention(coordinates))

    def attend(self, features: Tensor, attention: Tensor) -> Tensor:
        """The convolution under given maps [B, maps, H, W]."""
        if self.variant in ("S", "IS"):
            return self.filter(features * attention)
        return adaptive_convolution(features, attention, self.filter.weight, self.filter.bias, wrap=self.wrap)


class PlainConv(nn.Module):
    """The same filter with attention 1 everywhere: what SAC is when its maps are constant."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, wrap: bool = False
    ) -> None:
        super().__init__()
        self.filter = RangeConv2d(in_channels, out_channels, kernel_size, wrap=wrap)

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        """[B, in_channels, H, W], coordinates (unused) -> [B, out_channels, H, W]"""
        return self.filter(features)


class SqueezeExcitation(PlainConv):
    """SE (Hu et al., CVPR 2018): channels gated by two layers on their global means, then the filter."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, wrap: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size=kernel_size, wrap=wrap)
        self.gate = _bottleneck(in_channels)

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        """[B, in_channels, H, W], coordinates (unused) -> [B, out_channels, H, W]"""
        gate = torch.sigmoid(self.gate(features.mean((2, 3), keepdim=True)))
        return self.filter(features * gate)


class BlockAttention(PlainConv):
    """CBAM (Woo et al., ECCV 2018): a channel gate of global mean and maximum through shared layers, then a
    pixel gate by a 7x7 convolution of the channels' mean and maximum, then the filter."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, wrap: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size=kernel_size, wrap=wrap)
        self.gate = _bottleneck(in_channels)
        self.pixels = nn.Sequential(RangeConv2d(2, 1, 7, bias=False, wrap=wrap), nn.BatchNorm2d(1))

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        """[B, in_channels, H, W], coordinates (unused) -> [B, out_channels, H, W]"""
        mean, largest = features.mean((2, 3), keepdim=True), features.amax((2, 3), keepdim=True)
        features = features * torch.sigmoid(self.gate(mean) + self.gate(largest))
        summary = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], 1)
        return self.filter(features * torch.sigmoid(self.pixels(summary)))


class ContextAggregation(PlainConv):
    """CAM (SqueezeSegV2, ICRA 2019): 7x7 maximum, two 1x1 convolutions, a gate per channel and pixel."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int = 3, wrap: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size=kernel_size, wrap=wrap)
        self.gate = _bottleneck(in_channels)

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        """[B, in_channels, H, W], coordinates (unused) -> [B, out_channels, H, W]"""
        if self.filter.wrap:
            context = F.max_pool2d(pad_columns(features, 3, True), 7, stride=1, padding=(3, 0))
        else:
            context = F.max_pool2d(features, 7, stride=1, padding=3)
        return self.filter(features * torch.sigmoid(self.gate(context)))


class PixelAdaptive(PlainConv):
    """PAC (Su et al., CVPR 2019): each tap weighs exp(-|x0(p + tap) - x0(p)|^2 / 2), a fixed Gaussian of the
    normalised coordinates; nothing is learnt but the filter."""

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        """[B, in_channels, H, W], [B, 3, H, W] -> [B, out_channels, H, W]"""
        kernel = self.filter.kernel_size[0]
        maps = gaussian_taps(coordinates, kernel, wrap=self.filter.wrap).to(features.dtype)
        weight, bias = self.filter.weight, self.filter.bias
        return adaptive_convolution(features, maps, weight, bias, wrap=self.filter.wrap)


def gaussian_taps(coordinates: Tensor, kernel: int = 3, *, wrap: bool = False) -> Tensor:
    """exp(-|x0(p + tap) - x0(p)|^2 / 2) of every tap: [B, D, H, W] -> [B, kernel * kernel, H, W]."""
    batch, _, height, width = coordinates.shape
    pad = kernel // 2
    padded = F.pad(pad_columns(coordinates, pad, wrap), (0, 0, pad, pad))
    squared = [
        (padded[..., i : i + height, j : j + width] - coordinates).square().sum(1)
        for i in range(kernel)
        for j in range(kernel)
    ]
    return torch.exp(-0.5 * torch.stack(squared, 1)).view(batch, kernel * kernel, height, width)


def _bottleneck(channels: int, reduction: int = 16) -> nn.Sequential:
    """Two 1x1 convolutions through max(4, channels / reduction) channels, ReLU between."""
    hidden = max(4, channels // reduction)
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1))
