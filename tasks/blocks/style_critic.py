"""The critic of StyleGAN and the WGAN-GP losses it is trained with.

Critic: Karras et al., "A Style-Based Generator Architecture for GANs", CVPR 2019, whose discriminator is
that of "Progressive Growing of GANs" (ICLR 2018) with a binomial blur before each halving. Losses: Gulrajani
et al., "Improved Training of Wasserstein GANs", NeurIPS 2017, equation 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.blocks.equalised_lr import EqualisedConv2d, EqualisedLinear

LAST_SIDE = 4
SLOPE = 0.2


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append the deviation within groups of samples as one more channel, [B, C, H, W] -> [B, C + 1, H, W].

    The deviation of each number over the group's samples, averaged to one number a group. Groups have
    `group` samples where that divides the batch, else they are the whole batch.
    """
    count, channels, height, width = x.shape
    size = group if count % group == 0 else count
    grouped = x.float().view(size, -1, channels, height, width)
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # [B / size]
    channel = deviation.repeat(size).view(count, 1, 1, 1).expand(-1, 1, height, width)
    return torch.cat([x, channel.to(x.dtype)], dim=1)


class Blur(nn.Module):
    """The binomial filter [1 2 1] in both directions, each channel by itself."""

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.kernel: Tensor
        self.register_buffer("kernel", line[:, None] * line, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.to(x).expand(channels, 1, 3, 3), padding=1, groups=channels)


class StyleCritic(nn.Module):
    """A picture to one unbounded number: fromRGB, halving blocks down to 4 x 4, minibatch deviation, two layers.

    side: of the pictures, 4 times a power of 2. base, widest: a block at side s has min(base / s * 2,
    widest) channels (StyleGAN: 8192 and 512).
    """

    def __init__(self, side: int, channels: int = 3, *, base: int = 8192, widest: int = 512) -> None:
        super().__init__()
        levels = round(math.log2(side / LAST_SIDE))
        if LAST_SIDE * 2**levels != side or levels < 0:
            raise ValueError(f"the critic needs pictures of 4, 8, 16 ... pixels a side, not {side}")

        def width(at: int) -> int:
            return max(1, min(2 * base // at, widest))

        self.side = side
        self.from_rgb = EqualisedConv2d(channels, width(side), 1)
        blocks = []
        for level in range(levels):
            here = side // 2**level
            blocks.append(
                nn.Sequential(
                    EqualisedConv2d(width(here), width(here), 3),
                    nn.LeakyReLU(SLOPE),
                    Blur(),
                    EqualisedConv2d(width(here), width(here // 2), 3),
                    nn.AvgPool2d(2),
                    nn.LeakyReLU(SLOPE),
                )
            )
        self.blocks = nn.Sequential(*blocks)
        last = width(LAST_SIDE)
        self.last = EqualisedConv2d(last + 1, last, 3)
        self.hidden = EqualisedLinear(last * LAST_SIDE**2, last)
        self.score = EqualisedLinear(last, 1, gain=1.0)
        # Channels last: on a CPU a step of a narrow critic with its penalty takes a quarter less time so.
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Tensor:
        """[B, channels, side, side] -> [B]"""
        x = F.leaky_relu(self.from_rgb(image), SLOPE)
        x = minibatch_deviation(self.blocks(x))
        x = F.leaky_relu(self.last(x), SLOPE)
        x = F.leaky_relu(self.hidden(x.flatten(1)), SLOPE)
        return self.score(x).squeeze(1)


def critic_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Minimised by the critic: mean D(fake) - mean D(real); both [B]."""
    return fake.mean() - real.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], fake: Tensor, real: Tensor, mix: Tensor) -> Tensor:
    """Mean (||grad D(x)||_2 - 1)^2 at x = mix real + (1 - mix) fake; in float32 whatever the precision around.

    fake, real: [B, C, H, W], no gradient flows into them; mix: [B, 1, 1, 1] in [0, 1].
    """
    with torch.autocast(fake.device.type, enabled=False):
        between = mix * real.detach().float() + (1 - mix) * fake.detach().float()
        between.requires_grad_(True)
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        return ((slope.flatten(1).square().sum(dim=1) + 1e-12).sqrt() - 1).square().mean()
