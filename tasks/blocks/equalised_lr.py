"""Layers with an equalised learning rate (Karras et al., "Progressive Growing of GANs", ICLR 2018, section 4.1).

Weights are drawn from N(0, 1) and multiplied at run time by He's constant gain / sqrt(fan-in), so that
Adam's step, which is as large for each weight, changes each layer by the same share. StyleGAN's learning
rate of 3e-3 presumes it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EqualisedConv2d(nn.Module):
    """A square convolution of stride 1 or more with `kernel // 2` padding, [B, inputs, H, W] -> [B, outputs, H', W'].

    gain: sqrt(2) before a (leaky) ReLU, 1 before anything linear.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, gain: float = math.sqrt(2)
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(inputs * kernel**2)
        self.stride, self.padding = stride, kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, stride=self.stride, padding=self.padding)


class EqualisedLinear(nn.Module):
    """[B, inputs] -> [B, outputs]; gain as in `EqualisedConv2d`."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = math.sqrt(2)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)
