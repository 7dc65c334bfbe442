"""Locally-connected fusion: one learned weight for each element of a map and each branch, nothing shared.

CFN (thesis chapter 2, Eq. 2.3) fuses S feature vectors of K elements with it; its fully convolutional form
(Eqs. 2.7, 2.8, 2.10) fuses score maps with a weight for every class and pixel. Both are the same sum over
branches, so the block is general over the shape of the fused element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["relu", "none"]


def locally_connected(stack: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Weighted sum over branches with unshared weights, before any activation.

    stack: [B, S, *E]; weight: [S, *E]; bias: [*E] or None. Returns [B, *E]:
    `out[b, e] = sum_s weight[s, e] * stack[b, s, e] + bias[e]` (inside of Eq. 2.3).
    """
    fused = (stack * weight).sum(dim=1)
    return fused if bias is None else fused + bias


class LocallyConnectedFusion(nn.Module):
    """g^f = act(sum_s W^(s) * g^(s) + b): `weight` [S, *E] and `bias` [*E], (S + 1)·|E| parameters (Eq. 2.3).

    branches: S, the number of branches that are fused.
    element_shape: E, the shape of one branch without the batch: (K,) for vectors, (C, H, W) for one weight a
        class and pixel, (H, W) for one a pixel.
    init: initial value of all weights; None: 1/S, the mean of the branches.
    bias_init: initial value of the bias. bias: False leaves the bias out.
    activation: "relu" as the equation has it, or "none".
    """

    def __init__(
        self,
        branches: int,
        element_shape: Sequence[int],
        init: float | None = None,
        bias_init: float = 0.0,
        activation: Activation = "relu",
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if branches < 1 or not element_shape or min(element_shape) < 1:
            raise ValueError(f"cannot fuse {branches} branches of element shape {tuple(element_shape)}")
        if activation not in ("relu", "none"):
            raise ValueError(f"activation {activation!r} is neither 'relu' nor 'none'")
        self.branches = branches
        self.element_shape = tuple(element_shape)
        self.activation = activation
        value = 1.0 / branches if init is None else init
        self.weight = nn.Parameter(torch.full((branches, *self.element_shape), value))
        self.bias = nn.Parameter(torch.full(self.element_shape, bias_init)) if bias else None

    def forward(self, stack: Tensor) -> Tensor:
        """[B, S, *E] -> [B, *E]; a `ValueError` names a stack of another shape."""
        expected = (self.branches, *self.element_shape)
        if stack.shape[1:] != expected:
            raise ValueError(f"locally-connected fusion of [B, {expected}] got {tuple(stack.shape)}")
        fused = locally_connected(stack, self.weight, self.bias)
        return torch.relu(fused) if self.activation == "relu" else fused

    @torch.no_grad()
    def branch_means(self) -> Tensor:
        """The mean weight of each branch, [S] (Fig. 2.8)."""
        return self.weight.flatten(start_dim=1).mean(dim=1)

    def extra_repr(self) -> str:
        parameters = math.prod(self.element_shape) * (self.branches + (self.bias is not None))
        return f"{self.branches}, {self.element_shape}, {self.activation}, parameters={parameters}"
