"""Capsule layers with dynamic routing, as DeepCaps has them (Rajasegaran et al., CVPR 2019; Sabour et al.,
NeurIPS 2017).

A map of capsules is [B, capsules, dimension, H, W], a list of capsules [B, capsules, dimension]. Squash and
routing are done in float32 whatever the precision around them: squared lengths underflow in half.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-7


def squash(s: Tensor, dim: int | tuple[int, ...], epsilon: float = EPSILON) -> Tensor:
    """||s||^2 / (1 + ||s||^2) * s / ||s|| over `dim`: same direction, length below 1. float32, same shape."""
    s = s.float()
    squared = s.square().sum(dim=dim, keepdim=True)
    # One factor a capsule first, so that the full tensor is gone through once.
    return s * (squared / ((1 + squared) * (squared + epsilon).sqrt()))


class ConvCaps(nn.Module):
    """A 3×3 convolution from capsules to capsules, then squash: routing with a single pass.

    [B, in_capsules, in_dim, H, W] -> [B, capsules, dim, ceil(H / stride), ceil(W / stride)].
    gain: of the normal initialisation, weights have standard deviation gain / sqrt(fan-in).
    """

    def __init__(
        self, in_capsules: int, in_dim: int, capsules: int, dim: int, *, stride: int = 1, gain: float = 2**0.5
    ) -> None:
        super().__init__()
        self.capsules, self.dim = capsules, dim
        self.conv = nn.Conv2d(in_capsules * in_dim, capsules * dim, 3, stride=stride, padding=1, bias=False)
        nn.init.normal_(self.conv.weight, std=gain / (9 * in_capsules * in_dim) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        votes = self.conv(x.flatten(1, 2)).unflatten(1, (self.capsules, self.dim))
        return squash(votes, dim=2)


def route_maps(votes: Tensor, bias: Tensor, iterations: int) -> Tensor:
    """Dynamic routing between maps of capsules.

    votes: [B, in, out, dim, H, W] of each input capsule for each output capsule; bias: [out, dim]. An input
    capsule spreads its weight jointly over output capsules and places (softmax over out * H * W), and a
    map's lengths are squashed jointly over dim, H and W, as in DeepCaps' code. -> [B, out, dim, H, W].
    """
    votes = votes.float()
    logits = votes.new_zeros(*votes.shape[:3], *votes.shape[4:])
    activation = votes[:, 0]
    for iteration in range(iterations):
        weights = logits.flatten(2).softmax(dim=2).view_as(logits)
        activation = torch.einsum("biohw,biodhw->bodhw", weights, votes) + bias[:, :, None, None]
        activation = squash(activation, dim=(2, 3, 4))
        if iteration < iterations - 1:
            logits = logits + torch.einsum("biodhw,bodhw->biohw", votes, activation)
    return activation


class ConvCaps3D(nn.Module):
    """Votes by a 3-D convolution of kernel (in_dim, 3, 3) and stride (in_dim, 1, 1), one kernel for all input
    capsules, then dynamic routing: [B, in_capsules, in_dim, H, W] -> [B, capsules, dim, H, W].

    At that stride the 3-D convolution is a 2-D one over each input capsule apart, which is how it is computed.
    """

    def __init__(
        self, in_dim: int, capsules: int, dim: int, *, iterations: int = 3, gain: float = 2**0.5
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"routing needs at least one iteration, got {iterations}")
        self.capsules, self.dim, self.iterations = capsules, dim, iterations
        self.weight = nn.Parameter(torch.empty(capsules * dim, in_dim, 3, 3))
        nn.init.normal_(self.weight, std=gain / (9 * in_dim) ** 0.5)
        self.bias = nn.Parameter(torch.full((capsules, dim), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        batch, capsules = x.shape[:2]
        votes = F.conv2d(x.flatten(0, 1), self.weight, padding=1)
        votes = votes.view(batch, capsules, self.capsules, self.dim, *votes.shape[2:])
        with torch.autocast(x.device.type, enabled=False):
            return route_maps(votes, self.bias, self.iterations)


def route_capsules(votes: Tensor, bias: Tensor, iterations: int) -> Tensor:
    """Dynamic routing between lists of capsules: votes [B, in, out, dim], bias [out, dim] -> [B, out, dim].

    An input capsule spreads its weight over the output capsules (softmax over out).
    """
    votes = votes.float()
    logits = votes.new_zeros(votes.shape[:3])
    activation = votes[:, 0]
    for iteration in range(iterations):
        weights = logits.softmax(dim=2)
        activation = squash(torch.einsum("bio,biod->bod", weights, votes) + bias, dim=2)
        if iteration < iterations - 1:
            logits = logits + torch.einsum("biod,bod->bio", votes, activation)
    return activation


class ClassCaps(nn.Module):
    """Fully connected capsules with dynamic routing: [B, in_capsules, in_dim] -> [B, capsules, dim].

    std: of the normal initialisation of the transformations W_ij.
    """

    def __init__(
        self,
        in_capsules: int,
        in_dim: int,
        capsules: int,
        dim: int,
        *,
        iterations: int = 3,
        std: float = 0.1,
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"routing needs at least one iteration, got {iterations}")
        self.iterations = iterations
        self.weight = nn.Parameter(torch.empty(in_capsules, in_dim, capsules, dim))
        nn.init.normal_(self.weight, std=std)
        self.bias = nn.Parameter(torch.zeros(capsules, dim))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            votes = torch.einsum("nie,ieod->niod", x.float(), self.weight)
            return route_capsules(votes, self.bias, self.iterations)
