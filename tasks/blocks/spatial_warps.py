"""Warps of a feature map by one field for all its channels, and the sampling that all warps share.

A field holds, for each target position i, the displacement (x, y) in pixels of the feature map to the position that
is read: V(i) = U(i + G(i)), bilinear, positions outside being moved to the border. Every module here takes
U [N, K, H, W] and answers V of the same shape with its field [N, 1, H, W, 2], and is the identity, or as near to it
as its form allows, when it is built, so that it can be put into a trained network:

- `AffineWarp`: spatial transformer networks (Jaderberg et al., NeurIPS 2015), one affine map a picture;
- `SaliencyWarp`: the saliency-based sampler (Recasens et al., ECCV 2018), positions drawn towards salient ones;
- `AttentionWarp`: the attention-based sampler of TASN (Zheng et al., CVPR 2019), marginals of an attention map
  inverted.

`DeformableConvolution` (Dai et al., ICCV 2017) has a displacement for each tap of a convolution instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d


def sample_groups(features: Tensor, field: Tensor) -> Tensor:
    """V_k(i) = U_k(i + G_c(i)): every channel of a group is read by the group's field, bilinearly.

    features: [N, K, H, W]; field: [N, C, H, W, 2], (x, y) in pixels, C a divisor of K; the K channels fall in order
    into C equal groups. -> [N, K, H, W]. Differentiable in both. Positions outside read the border.
    Raises ValueError where the shapes don't fit.
    """
    count, channels, height, width = features.shape
    groups = field.shape[1]
    if field.shape != (count, groups, height, width, 2) or channels % groups:
        raise ValueError(
            f"a field [N, C, H, W, 2] with C a divisor of the channels is needed for features "
            f"{tuple(features.shape)}, got {tuple(field.shape)}"
        )
    position = field + pixel_grid(height, width, field)
    extent = position.new_tensor([width, height])
    grid = (2 * position + 1) / extent - 1  # pixel centres, as grid_sample has them without align_corners
    folded = features.reshape(count * groups, channels // groups, height, width)
    warped = F.grid_sample(
        folded,
        grid.reshape(count * groups, height, width, 2).to(folded.dtype),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return warped.view(count, channels, height, width)


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """(x, y) of each pixel, [H, W, 2], with the type and device of `like`."""
    y, x = torch.meshgrid(
        torch.arange(height, device=like.device), torch.arange(width, device=like.device), indexing="ij"
    )
    return torch.stack([x, y], dim=-1).to(like.dtype)


class AffineWarp(nn.Module):
    """One affine map of the positions for all channels, from a small localisation network.

    The network: two 3x3 convolutions of 64 channels with BN and ReLU, 2x2 max-pooling after the first, average
    pooling to 4x4, and two linear layers of 32 and 6; the last starts at the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.localisation = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(64, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 16, 32),
            nn.ReLU(),
        )
        self.affine = nn.Linear(32, 6)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))

    def field(self, features: Tensor) -> Tensor:
        """[N, K, H, W] -> [N, 1, H, W, 2]"""
        height, width = features.shape[2:]
        theta = self.affine(self.localisation(features)).float().view(-1, 2, 3)
        grid = F.affine_grid(theta, [len(theta), 1, height, width], align_corners=False)
        position = ((grid + 1) * grid.new_tensor([width, height]) - 1) / 2
        return (position - pixel_grid(height, width, position))[:, None]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        field = self.field(features)
        return sample_groups(features, field), field


def saliency_positions(saliency: Tensor, sigma: float) -> Tensor:
    """The positions that a saliency map draws the grid to (Recasens et al., Eq. 3).

        u(x, y) = sum_q S(q) k(p, q) q_x / sum_q S(q) k(p, q), v alike;   p = (x, y)

    k is a Gaussian whose deviation is `sigma` of the map's height and width, and 0 beyond one height and width; the
    map is continued by its border as far, so that a constant S leaves every position where it is.
    saliency: positive [N, H, W] -> (u, v) in pixels, [N, H, W, 2], inside the map.
    """
    height, width = saliency.shape[1:]
    padded = F.pad(saliency[:, None], (width, width, height, height), mode="replicate")[:, 0]
    down, rows = _gaussian_rows(height, sigma, saliency)
    across, columns = _gaussian_rows(width, sigma, saliency)
    total = torch.einsum("ip,npq,jq->nij", down, padded, across)
    u = torch.einsum("ip,npq,jq->nij", down, padded * columns, across) / total
    v = torch.einsum("ip,npq,jq->nij", down, padded * rows[:, None], across) / total
    return torch.stack([u.clamp(0, width - 1), v.clamp(0, height - 1)], dim=-1)


def _gaussian_rows(size: int, sigma: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [size, 3 size] of the padded positions for each position, and the padded positions [3 size]."""
    padded = torch.arange(-size, 2 * size, device=like.device, dtype=like.dtype)
    distance = padded - padded[size : 2 * size, None]
    weight = torch.exp(-0.5 * (distance / (sigma * size)) ** 2)
    return weight * (distance.abs() <= size), padded


class SaliencyWarp(nn.Module):
    """Positions drawn towards what a learned saliency map shows, the same for all channels.

    The map: a 3x3 convolution to 64 channels with BN and ReLU and one to a single channel, which starts at zero;
    softmax over the positions. sigma: deviation of the Gaussian in map widths, a third as in the paper.
    """

    def __init__(self, channels: int, *, sigma: float = 1 / 3) -> None:
        super().__init__()
        self.sigma = sigma
        self.trunk = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        )
        self.saliency = nn.Conv2d(64, 1, 3, padding=1)
        nn.init.zeros_(self.saliency.weight)
        nn.init.zeros_(self.saliency.bias)

    def field(self, features: Tensor) -> Tensor:
        """[N, K, H, W] -> [N, 1, H, W, 2]"""
        score = self.saliency(self.trunk(features))[:, 0].float()
        saliency = score.flatten(1).softmax(1).view_as(score)
        position = saliency_positions(saliency, self.sigma)
        return (position - pixel_grid(*score.shape[1:], position))[:, None]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        field = self.field(features)
        return sample_groups(features, field), field


def inverse_cdf_positions(density: Tensor) -> Tensor:
    """Where the quantiles of a density over n pixels lie: the piecewise linear CDF inverted at (k + 1/2) / n.

    density: positive [N, n], of any sum -> pixel positions [N, n], increasing; a constant density gives 0, 1 .. n-1.
    Differentiable in the density.
    """
    size = density.shape[1]
    density = density / density.sum(1, keepdim=True)
    upper = density.cumsum(1)
    quantile = (torch.arange(size, device=density.device, dtype=density.dtype) + 0.5) / size
    quantile = quantile.expand(len(density), -1).contiguous()
    cell = torch.searchsorted(upper.detach().contiguous(), quantile).clamp(max=size - 1)
    mass = density.gather(1, cell)
    inside = ((quantile - (upper.gather(1, cell) - mass)) / mass).clamp(0, 1)
    return cell + inside - 0.5


class AttentionWarp(nn.Module):
    """Rows and columns resampled in proportion to the marginals of an attention map, the same for all channels.

    Trilinear attention (TASN, Eq. 2): softmax(softmax(X) X^T) X with X the [K, HW] map, softmax over positions and
    then over channels; its mean over channels is the map, and the marginals are the largest entry of each column
    and row (Eq. 5). It has no parameters. floor: share of the map's mean that is added to each marginal, so that
    no row of a sparse map vanishes (chosen here).
    """

    def __init__(self, *, floor: float = 0.1) -> None:
        super().__init__()
        self.floor = floor

    def attention(self, features: Tensor) -> Tensor:
        """[N, K, H, W], after ReLU -> [N, H, W], not negative."""
        x = features.float().flatten(2)
        relation = torch.einsum("nkp,nlp->nkl", x.softmax(2), x).softmax(2)
        return torch.einsum("nkl,nlp->np", relation / x.shape[1], x).view(-1, *features.shape[2:])

    def field(self, features: Tensor) -> Tensor:
        """[N, K, H, W] -> [N, 1, H, W, 2]"""
        attention = self.attention(features).clamp(min=0)
        floor = self.floor * attention.mean((1, 2))[:, None] + 1e-6
        u = inverse_cdf_positions(attention.amax(1) + floor)
        v = inverse_cdf_positions(attention.amax(2) + floor)
        height, width = features.shape[2:]
        position = torch.stack(
            [u[:, None].expand(-1, height, -1), v[:, :, None].expand(-1, -1, width)], dim=-1
        )
        return (position - pixel_grid(height, width, position))[:, None]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        field = self.field(features)
        return sample_groups(features, field), field


class DeformableConvolution(nn.Module):
    """A convolution whose taps are displaced by learned offsets: takes the place of a trained one, and equals it at
    first.

    convolution: its weight, bias, stride and padding are taken over; one group. Offsets come of a second
    convolution of the same kind that starts at zero. [N, K, H, W] -> [N, K', H', W'].
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        if convolution.groups != 1 or isinstance(convolution.padding, str):
            raise ValueError(f"one group and a padding in numbers are needed, got {convolution}")
        taps = convolution.kernel_size[0] * convolution.kernel_size[1]
        self.convolution = convolution
        self.offset = nn.Conv2d(
            convolution.in_channels,
            2 * taps,
            convolution.kernel_size,
            stride=convolution.stride,
            padding=convolution.padding,
            dilation=convolution.dilation,
        )
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, features: Tensor) -> Tensor:
        offset = self.offset(features).float()
        convolution = self.convolution
        with torch.autocast(features.device.type, enabled=False):
            return deform_conv2d(
                features.float(),
                offset,
                convolution.weight,
                convolution.bias,
                convolution.stride,
                convolution.padding,
                convolution.dilation,
            )
