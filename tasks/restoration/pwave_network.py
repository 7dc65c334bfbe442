"""The networks of exemplar-guided face hallucination: ISR trunk, exemplar encoder, pixel weights, small generator.

All layers have an equalised learning rate, as the rate of 3e-3 presumes, but the two weight networks, whose
rate of 1e-4 suits plain layers. Pictures are in [-1, 1] here. Widths are this file's choice: the paper
states none.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.blocks.equalised_lr import EqualisedConv2d
from tasks.restoration.bicubic import bicubic_resize

SLOPE = 0.2
EPS = 1e-6

Fusion = Literal["pwave", "average", "max", "image_level"]
SmallGenerator = Literal["learned", "bicubic"]


class Hallucination(NamedTuple):
    """What the generator makes. image: I_SR [B, 3, H, W]; small: I'_LR [B, 3, 2h, 2w]; both in [-1, 1].

    weights: W at LR scale [B, m, h, w] and at twice that [B, m, 2h, 2w]; None where the fusion has none.
    """

    image: Tensor
    small: Tensor
    weights: tuple[Tensor, Tensor] | None


def to_picture(inputs: int) -> EqualisedConv2d:
    """The last convolution before a tanh, begun near zero: the first pictures are grey, the tanh not saturated."""
    layer = EqualisedConv2d(inputs, 3, 3, gain=1.0)
    with torch.no_grad():
        layer.weight.mul_(0.1)
    return layer


def conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution with equalised learning rate and leaky ReLU."""
    return nn.Sequential(EqualisedConv2d(inputs, outputs, 3, stride=stride), nn.LeakyReLU(SLOPE))


def enlarge(inputs: int, outputs: int) -> nn.Sequential:
    """Twice the size by nearest neighbours, then a convolution."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), *conv(inputs, outputs))


class Residual(nn.Module):
    """Two convolutions beside the identity, over sqrt(2) to keep the variance."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(width, width), EqualisedConv2d(width, width, 3, gain=1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.body(x)) / math.sqrt(2)


class ExemplarEncoder(nn.Module):
    """E_Ex: each exemplar to K channels at LR scale and at twice that.

    halvings: from H to LR scale, log2 of the factor, at least 2. width: channels after the first halving;
    each further one doubles them, up to `features`. features: K.
    """

    def __init__(self, halvings: int, *, width: int, features: int) -> None:
        super().__init__()
        layers, previous = [], 3
        for level in range(halvings - 1):
            wide = min(width * 2**level, features)
            layers += [conv(previous, wide, stride=2), conv(wide, wide)]
            previous = wide
        self.down = nn.Sequential(*layers)
        self.fine = conv(previous, features)
        self.coarse = nn.Sequential(conv(features, features, stride=2), conv(features, features))

    def forward(self, exemplars: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, H, W] -> f at LR scale [N, K, h, w] and at twice that [N, K, 2h, 2w]."""
        fine = self.fine(self.down(exemplars))
        return self.coarse(fine), fine


class WeightNetwork(nn.Module):
    """WNN: one positive score for each place of one exemplar, from its features and the LR picture.

    The same weights serve every exemplar, so that any number of them, in any order, may be given.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(features + 3, width, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, features: Tensor, picture: Tensor) -> Tensor:
        """features [B, m, K, h, w], picture [B, 3, h, w] -> scores [B, m, h, w], positive, float32."""
        count, m = features.shape[:2]
        beside = picture[:, None].expand(-1, m, -1, -1, -1).to(features.dtype)
        scores = self.body(torch.cat([features, beside], dim=2).flatten(0, 1))
        return F.softplus(scores.float()).view(count, m, *picture.shape[-2:]) + EPS


def share(scores: Tensor) -> Tensor:
    """L1-normalised over the exemplars: scores [B, m, h, w], not negative -> W, which sums to 1 over m at each
    place."""
    return scores / scores.sum(dim=1, keepdim=True).clamp(min=EPS)


def combine(weights: Tensor, features: Tensor) -> Tensor:
    """f^c = sum_i W_i f_i: [B, m, h, w], [B, m, K, h, w] -> [B, K, h, w]."""
    return torch.einsum("bmhw,bmkhw->bkhw", weights.to(features.dtype), features)


class PixelWeightedAverage(nn.Module):
    """The features of all exemplars of a sample to one, at one scale, by the chosen fusion.

    The weight network is there in every fusion, used or not: all have as many parameters.
    """

    def __init__(self, features: int, width: int, *, fusion: Fusion, sees_picture: bool) -> None:
        super().__init__()
        self.weigh = WeightNetwork(features, width)
        self.fusion = fusion
        self.sees_picture = sees_picture

    def forward(self, features: Tensor, picture: Tensor) -> tuple[Tensor, Tensor | None]:
        """features [B, m, K, h, w], m > 0; picture [B, 3, h, w] -> f^c [B, K, h, w] and W [B, m, h, w] (None: max)."""
        if self.fusion == "max":
            return features.amax(dim=1), None
        if self.fusion == "average":
            even = features.new_full((*features.shape[:2], *features.shape[-2:]), 1 / features.shape[1])
            return combine(even, features), even
        scores = self.weigh(features, picture if self.sees_picture else torch.zeros_like(picture))
        if self.fusion == "image_level":
            scores = scores.mean(dim=(2, 3), keepdim=True).expand_as(scores)
        weights = share(scores)
        return combine(weights, features), weights


class SmallNet(nn.Module):
    """G_S: I_LR to I'_LR of twice the size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(3, width),
            Residual(width),
            Residual(width),
            enlarge(width, width),
            to_picture(width),
            nn.Tanh(),
        )

    def forward(self, low: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, 3, 2h, 2w] in (-1, 1)"""
        return self.body(low)


class Generator(nn.Module):
    """ISR with PWAve and G_S.

    factor: 4, 8, 16 ...; M1 is its log2. channels: of the trunk at LR scale and after each enlargement, M1 +
    1 of them are used. residual_blocks: M2. features: K. encoder_width, weight_width, small_width: of E_Ex,
    WNN, G_S. detach_small: no gradient from I_SR into G_S.
    """

    def __init__(
        self,
        factor: int,
        *,
        channels: tuple[int, ...],
        residual_blocks: int,
        features: int,
        encoder_width: int,
        weight_width: int,
        small_width: int,
        fusion: Fusion,
        small: SmallGenerator,
        wnn_lr_input: bool,
        detach_small: bool,
    ) -> None:
        super().__init__()
        enlargements = round(math.log2(factor))
        if 2**enlargements != factor or enlargements < 2:
            raise ValueError(f"the factor must be 4, 8, 16 ..., not {factor}")
        if len(channels) < enlargements + 1:
            raise ValueError(f"factor {factor} needs {enlargements + 1} widths of the trunk, got {channels}")
        self.factor = factor
        self.features = features
        self.detach_small = detach_small
        self.encoder = ExemplarEncoder(enlargements, width=encoder_width, features=features)
        options = {"fusion": fusion, "sees_picture": wnn_lr_input}
        self.pwave_1 = PixelWeightedAverage(features, weight_width, **options)
        self.pwave_2 = PixelWeightedAverage(features, weight_width, **options)
        self.small = SmallNet(small_width) if small == "learned" else None
        first, second, *rest = channels[: enlargements + 1]
        self.stem = conv(3, first)
        self.join_1 = nn.Sequential(
            conv(first + features, first), *(Residual(first) for _ in range(residual_blocks))
        )
        self.first_enlargement = enlarge(first, second)
        self.join_2 = conv(second + features, second)
        self.enlargements = nn.Sequential(
            *(enlarge(before, after) for before, after in zip([second, *rest], rest, strict=False))
        )
        self.out = to_picture((second, *rest)[-1])
        # Channels last: convolutions this narrow take about half the time so on a CPU.
        self.to(memory_format=torch.channels_last)

    def weight_parameters(self) -> list[nn.Parameter]:
        """Those of the two WNNs, which have a rate of their own."""
        return [*self.pwave_1.weigh.parameters(), *self.pwave_2.weigh.parameters()]

    def enlarged(self, low: Tensor) -> Tensor:
        """I'_LR: [B, 3, h, w] in [-1, 1] -> [B, 3, 2h, 2w] in [-1, 1]."""
        if self.small is not None:
            return self.small(low)
        return bicubic_resize(low, (2 * low.shape[-2], 2 * low.shape[-1])).clamp(-1, 1)

    def forward(self, low: Tensor, exemplars: Tensor) -> Hallucination:
        """low [B, 3, h, w]; exemplars [B, m, 3, H, W], any m, 0 too; all in [-1, 1]."""
        count, m = exemplars.shape[:2]
        low = low.contiguous(memory_format=torch.channels_last)
        small = self.enlarged(low)
        if m:
            encoded = self.encoder(exemplars.flatten(0, 1).contiguous(memory_format=torch.channels_last))
            coarse, fine = (features.unflatten(0, (count, m)) for features in encoded)
            combined_1, weights_1 = self.pwave_1(coarse, low)
            combined_2, weights_2 = self.pwave_2(fine, small.detach() if self.detach_small else small)
        else:
            combined_1 = low.new_zeros(count, self.features, *low.shape[-2:])
            combined_2 = small.new_zeros(count, self.features, *small.shape[-2:])
            weights_1 = weights_2 = None
        x = self.join_1(torch.cat([self.stem(low), combined_1], dim=1))
        x = self.join_2(torch.cat([self.first_enlargement(x), combined_2], dim=1))
        image = torch.tanh(self.out(self.enlargements(x)).float())
        weights = None if weights_1 is None or weights_2 is None else (weights_1, weights_2)
        return Hallucination(image, small.float(), weights)
