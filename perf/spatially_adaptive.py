"""Spatially-adaptive convolution against its plain unfold formulation and a standard convolution of the same size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from perf.ratio import Ratio, alternate
from tasks.blocks.spatially_adaptive import adaptive_convolution

SIZES = ((2, 32, 64, 512), (1, 64, 64, 512), (1, 128, 64, 256))
"""Batch, channels, height, width: the first stages of SqueezeSegV3 on 64 x 512 and wider images."""


def unfolded(features: Tensor, attention: Tensor, weight: Tensor) -> Tensor:
    """SAC-ISK as Sec. 4.3 writes it: unfold, multiply, 1x1 convolution."""
    batch, _, height, width = features.shape
    patches = F.unfold(features, 3, padding=1).view(batch, -1, height, width)
    return F.conv2d(patches * attention, weight.flatten(1)[:, :, None, None])


def measure() -> list[Ratio]:
    """Forward and backward passes, one thread, the attention map given."""
    ratios = []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for batch, channels, height, width in SIZES:
        generator = torch.Generator().manual_seed(0)
        tensors = [
            torch.randn(*shape, generator=generator).to(device).requires_grad_()
            for shape in (
                (batch, channels, height, width),
                (batch, 9 * channels, height, width),
                (channels, channels, 3, 3),
            )
        ]
        features, attention, weight = tensors

        def run(function: Callable[[], Tensor], inputs: list[Tensor] = tensors) -> Callable[[], None]:
            def both() -> None:
                for tensor in inputs:
                    tensor.grad = None
                function().sum().backward()
                if device == "cuda":
                    torch.cuda.synchronize()

            return both

        best = alternate(
            {
                "sac": run(lambda f=features, a=attention, w=weight: adaptive_convolution(f, a, w)),  # type: ignore[misc]
                "unfold": run(lambda f=features, a=attention, w=weight: unfolded(f, a, w)),  # type: ignore[misc]
                "conv": run(lambda f=features, w=weight: F.conv2d(f, w, padding=1)),  # type: ignore[misc]
            }
        )
        what = f"SAC-ISK {channels} channels, {batch} x {height} x {width}"
        ratios.append(Ratio(what, "unfold formulation", best["sac"], best["unfold"], "forward and backward"))
        ratios.append(Ratio(what, "3x3 convolution", best["sac"], best["conv"], "forward and backward"))
    return ratios
