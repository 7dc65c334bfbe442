"""Bicubic resizing as MATLAB's `imresize` does it, with which super-resolution is published.

Each axis is one matrix product. An output pixel at u (in input pixels, centres at whole numbers) weighs the
input by Keys' cubic of a = -0.5,
    h(x) = 1.5 |x|^3 - 2.5 |x|^2 + 1             for |x| <= 1,
          -0.5 |x|^3 + 2.5 |x|^2 - 4 |x| + 2     for 1 < |x| <= 2, else 0;
downwards the kernel is widened by the factor (`antialias`), the weights are brought to sum 1, and the
picture is mirrored at its border, the border pixel repeated. PyTorch's own bicubic differs: a = -0.75
without antialiasing, clamped borders; with antialiasing a = -0.5, and what reaches over the border is left
out.

Source: R. Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 1981.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

A = -0.5
SUPPORT = 2


def cubic(x: Tensor) -> Tensor:
    """Keys' kernel h(x) with a = -0.5, elementwise."""
    x = x.abs()
    near = (A + 2) * x**3 - (A + 3) * x**2 + 1
    far = A * x**3 - 5 * A * x**2 + 8 * A * x - 4 * A
    return torch.where(x <= 1, near, torch.where(x <= SUPPORT, far, torch.zeros_like(x)))


def bicubic_matrix(size: int, new_size: int, *, antialias: bool = True) -> Tensor:
    """The weights of `size` input pixels for each of `new_size` output ones, float64 [new_size, size]; rows sum
    to 1."""
    if size < 1 or new_size < 1:
        raise ValueError(f"sizes must be positive, got {size} -> {new_size}")
    scale = new_size / size
    widening = max(1.0, 1 / scale) if antialias else 1.0
    reach = math.ceil(2 * SUPPORT * widening) + 2
    centre = (torch.arange(new_size, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centre - SUPPORT * widening)
    taps = first[:, None] + torch.arange(reach)
    weights = cubic((centre[:, None] - taps) / widening)
    weights /= weights.sum(dim=1, keepdim=True)
    # Mirrored with the border repeated: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ...
    index = taps.long() % (2 * size)
    index = torch.where(index < size, index, 2 * size - 1 - index)
    return torch.zeros(new_size, size, dtype=torch.float64).scatter_add_(1, index, weights)


def bicubic_resize(image: Tensor, size: tuple[int, int], *, antialias: bool = True) -> Tensor:
    """image float [..., H, W] -> float32 [..., *size]; may overshoot the range of the input. Differentiable."""
    with torch.autocast(image.device.type, enabled=False):
        image = image.float()
        rows, columns = (
            bicubic_matrix(old, new, antialias=antialias).to(image)
            for old, new in zip(image.shape[-2:], size, strict=True)
        )
        return rows @ image @ columns.T
