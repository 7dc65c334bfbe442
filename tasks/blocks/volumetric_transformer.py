"""Volumetric transformer: a dense warping field for each group of a feature map's channels (ECCV 2020, section 3.3).

Symbols, in shapes: U [N, K, H, W] the map; C groups of K / C channels in order; D features and k groups inside the
estimator; w x w candidates a pixel.

    group sampling      X_c = (max, mean over the channels of group c), normalised over its 2 x H x W numbers
    spatial convolution one 3x3 conv-BN-ReLU for all groups: groups are folded into the batch
    channel squeeze     Z[n, k', d, h, w] = sum_k Y[n, k, d, h, w] W_cs[k, k'], and W_ce likewise on the way up
    estimator           4 x (convolution, squeeze, 2x2 max-pooling), 4 x (convolution, expansion, upsampling)
    Eq. 2               P_c(i, j) = softmax_j((U_c^max(j) + U_c^avg(j) + E_c(i, j)) / beta)
    Eq. 1               G_c(i) = sum_j P_c(i, j) (j - i)
    sampling            V_k(i) = U_k(i + G_c(i))

The paper leaves open, and chosen here: D = 16, 32, 64, 64 | 64, 32, 32, 16 and group axes C/2, C/2, C/4, C/4 |
C/4, C/2, C/2, C; pooling that rounds up (14, 7, 4, 2, 1) and bilinear upsampling to the sizes met on the way down;
no skip links; mixing matrices drawn from N(0, 1/k); candidates outside the map get no weight. The sentence that
introduces W_ce is lost in the printed text: it is the reverse of W_cs. "K" in the section on grouping means C.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.blocks.spatial_warps import sample_groups

ENCODER_WIDTHS = (16, 32, 64, 64)
DECODER_WIDTHS = (64, 32, 32, 16)


class GroupSamples(NamedTuple):
    """What group sampling answers: largest and mean response [N, C, H, W], and the input X [N, C, P, H, W]."""

    largest: Tensor
    mean: Tensor
    normalised: Tensor

    @property
    def response(self) -> Tensor:
        """U_c^max + U_c^avg, as they are: [N, C, H, W]."""
        return self.largest + self.mean


def group_samples(features: Tensor, groups: int) -> GroupSamples:
    """Group sampling and normalisation: [N, K, H, W] -> X with 2 maps a group, of mean 0 and variance 1 a group.

    With a group for each channel (groups = K) there is nothing to pool or to normalise: X is the channel itself,
    one map, and the response twice the channel. Raises ValueError where K is no multiple of `groups`.
    """
    count, channels, height, width = features.shape
    if channels % groups:
        raise ValueError(f"{channels} channels don't fall into {groups} equal groups")
    split = features.float().view(count, groups, channels // groups, height, width)
    largest, mean = split.amax(2), split.mean(2)
    if groups == channels:
        return GroupSamples(largest, mean, split)
    pooled = torch.stack([largest, mean], dim=2)
    # Group norm without weights, one norm group for each channel group.
    normalised = F.group_norm(pooled.view(count * groups, 2, height, width), 1)
    return GroupSamples(largest, mean, normalised.view_as(pooled))


class GroupMixing(nn.Module):
    """Channel squeeze or expansion: mixes the group axis alone, Z = W^T Y. [N, k, D, H, W] -> [N, k', D, H, W]."""

    def __init__(self, groups_in: int, groups_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(groups_in, groups_out) / math.sqrt(groups_in))

    def forward(self, features: Tensor) -> Tensor:
        return torch.einsum("nkdhw,kl->nldhw", features, self.weight)


class SharedConvolution(nn.Module):
    """One 3x3 conv-BN-ReLU for all groups, BN statistics over batch, groups and pixels: [N, k, D, H, W] -> D'."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width_in, width_out, 3, padding=1, bias=False), nn.BatchNorm2d(width_out), nn.ReLU()
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.flatten(0, 1)).unflatten(0, features.shape[:2])


class TransformationEstimator(nn.Module):
    """E from X: [N, C, P, H, W] -> [N, C, outputs, H, W], all zero until it is trained.

    inputs: P. outputs: candidates, or 2 where the field is regressed. squeeze: mix the groups by W_cs and W_ce; else
    the group axis stays C and groups never meet.
    """

    def __init__(self, groups: int, inputs: int, outputs: int, *, squeeze: bool = True) -> None:
        super().__init__()
        half, quarter = max(1, groups // 2), max(1, groups // 4)
        axes = (groups, half, half, quarter, quarter, quarter, half, half, groups)
        widths = (inputs, *ENCODER_WIDTHS, *DECODER_WIDTHS)
        self.convolutions = nn.ModuleList(
            SharedConvolution(before, after) for before, after in pairwise(widths)
        )
        self.mixings = nn.ModuleList(
            GroupMixing(before, after) if squeeze else nn.Identity() for before, after in pairwise(axes)
        )
        self.head = nn.Conv2d(DECODER_WIDTHS[-1], outputs, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, samples: Tensor) -> Tensor:
        features, sizes = samples, []
        layers = list(zip(self.convolutions, self.mixings, strict=True))
        for convolution, mixing in layers[: len(ENCODER_WIDTHS)]:
            features = mixing(convolution(features))
            sizes.append(tuple(features.shape[3:]))
            features = _each_group(features, partial(F.max_pool2d, kernel_size=2, ceil_mode=True))
        for convolution, mixing in layers[len(ENCODER_WIDTHS) :]:
            features = mixing(convolution(features))
            features = _each_group(features, partial(F.interpolate, size=sizes.pop(), mode="bilinear"))
        return _each_group(features, self.head)


def _each_group(features: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    """A layer of [B, D, H, W] on [N, k, D, H, W], with the groups folded into the batch."""
    return layer(features.flatten(0, 1)).unflatten(0, features.shape[:2])


def candidate_offsets(window: int, like: Tensor) -> Tensor:
    """j - i for the candidates of a pixel as (x, y), row by row as `unfold` lists them: [window^2, 2]."""
    steps = torch.arange(window, device=like.device) - window // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y], dim=-1).view(-1, 2).to(like.dtype)


def transformation_probability(response: Tensor, residual: Tensor, window: int, beta: float) -> Tensor:
    """Eq. 2: the weight of each candidate, in float32.

    response: U_c^max + U_c^avg [N, C, H, W]; residual: E [N, C, window^2, H, W], candidates in the order of
    `candidate_offsets`. -> [N, C, window^2, H, W], sums to 1 over candidates, 0 for those outside the map.
    """
    count, groups, height, width = response.shape
    maps = response.float().reshape(count * groups, 1, height, width)
    candidates = F.unfold(maps, window, padding=window // 2).view(count, groups, window**2, height, width)
    inside = F.unfold(torch.ones_like(maps[:1]), window, padding=window // 2).view(-1, height, width) > 0
    logits = ((candidates + residual.float()) / beta).masked_fill(~inside, -torch.inf)
    return logits.softmax(2)


def expected_displacement(probability: Tensor) -> Tensor:
    """Eq. 1: G = sum_j P (j - i), [N, C, window^2, H, W] -> [N, C, H, W, 2], (x, y) in pixels."""
    window = math.isqrt(probability.shape[2])
    return torch.einsum("ncjhw,jx->nchwx", probability, candidate_offsets(window, probability))


def uniform_field(height: int, width: int, window: int, like: Tensor) -> Tensor:
    """The field of equal weights, which the mask makes point inwards at the border: [1, 1, H, W, 2]. A module whose
    field stays there is doing nothing."""
    zeros = torch.zeros(1, 1, height, width, device=like.device)
    residual = torch.zeros(1, 1, window**2, height, width, device=like.device)
    return expected_displacement(transformation_probability(zeros, residual, window, 1.0))


class VolumetricTransformer(nn.Module):
    """Warps each channel group of U by a field of its own: [N, K, H, W] -> V [N, K, H, W], field [N, C, H, W, 2].

    channels: K. groups: C. window: side of the square of candidates, odd. beta: sharpness of Eq. 2.
    use_squeeze: let groups meet through W_cs and W_ce. use_group: pool channels in groups; else a field for each
    channel, which is its own group. prob: Eqs. 1 and 2; else the head regresses G itself, in pixels, from zero.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 32,
        window: int = 11,
        beta: float = 10.0,
        use_squeeze: bool = True,
        use_group: bool = True,
        prob: bool = True,
    ) -> None:
        super().__init__()
        if window % 2 == 0 or window < 1 or beta <= 0:
            raise ValueError(f"window must be odd and beta positive, got window {window} and beta {beta}")
        self.groups = groups if use_group else channels
        if channels % self.groups:
            raise ValueError(f"{channels} channels don't fall into {groups} equal groups")
        self.window, self.beta, self.prob = window, beta, prob
        pooled = 1 if self.groups == channels else 2
        self.estimator = TransformationEstimator(
            self.groups, pooled, window**2 if prob else 2, squeeze=use_squeeze
        )

    def field(self, features: Tensor) -> Tensor:
        """G of U: [N, K, H, W] -> [N, C, H, W, 2], in pixels."""
        samples = group_samples(features, self.groups)
        residual = self.estimator(samples.normalised)
        if not self.prob:
            return residual.float().permute(0, 1, 3, 4, 2)
        probability = transformation_probability(samples.response, residual, self.window, self.beta)
        return expected_displacement(probability)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        field = self.field(features)
        return sample_groups(features, field), field
