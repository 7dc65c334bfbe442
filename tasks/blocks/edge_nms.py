"""Non-maximal suppression of edge probabilities, as HED, RDS and their successors thin their maps.

A vectorised copy of what the Structured Edge toolbox does (Dollar and Zitnick, "Fast Edge Detection Using
Structured Forests", TPAMI 2015; `edgesDetect.m`, `edgesNmsMex.cpp`) with the triangle smoothing that the
released HED evaluation puts before it: the direction across an edge comes from second derivatives of the
smoothed map, a pixel survives unless a neighbour at distance 1 across the edge is larger by the factor 1.01,
and a border of 5 pixels is damped.

One deviation: the toolbox takes the direction's sign from sign(-Oxy), which is 0 on a perfectly horizontal
ridge and turns its normal by 90 degrees; here the sign of 0 is 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def thin(
    probability: Tensor,
    *,
    smooth_radius: int = 1,
    orientation_radius: int = 4,
    radius: int = 1,
    factor: float = 1.01,
    border: int = 5,
) -> Tensor:
    """Edge probabilities [B, 1, H, W] in [0, 1] to thinned ones [B, 1, H, W]: smoothed values on ridges, 0
    elsewhere. Defaults: the toolbox's and HED's."""
    if probability.ndim != 4 or probability.shape[1] != 1 or min(probability.shape[-2:]) < 2:
        raise ValueError(f"thin expects [B, 1, H, W] of at least 2x2 pixels, got {tuple(probability.shape)}")
    edges = triangle_filter(probability.float(), smooth_radius)
    across = orientation(edges, orientation_radius)
    cosine, sine = across.cos(), across.sin()
    keep = edges > 0
    for distance in [step for step in range(-radius, radius + 1) if step]:
        neighbour = _interpolate(edges, distance * cosine, distance * sine)
        keep &= factor * edges >= neighbour
    damping = _ramp(edges.shape[-2], border, edges)[:, None] * _ramp(edges.shape[-1], border, edges)
    return (edges * keep * damping).clamp(0.0, 1.0)


def triangle_filter(image: Tensor, radius: int) -> Tensor:
    """Separable filter [1 .. r, r+1, r .. 1] / (r + 1)^2 with symmetric borders over the last two axes."""
    if radius == 0:
        return image
    weights = [(radius + 1 - abs(shift)) / (radius + 1) ** 2 for shift in range(-radius, radius + 1)]
    for axis in (-2, -1):
        length = image.shape[axis]
        position = torch.arange(-radius, length + radius, device=image.device) % (2 * length)
        padded = image.index_select(axis, torch.where(position < length, position, 2 * length - 1 - position))
        image = sum(weight * padded.narrow(axis, shift, length) for shift, weight in enumerate(weights))
    return image


def orientation(edges: Tensor, radius: int = 4) -> Tensor:
    """Angle across the edge at each pixel, in [0, pi) from the x axis, y down; [..., H, W] -> [..., H, W]."""
    smooth = triangle_filter(edges, radius)
    along_y, along_x = torch.gradient(smooth, dim=(-2, -1))
    xx = torch.gradient(along_x, dim=-1)[0]
    xy, yy = torch.gradient(along_y, dim=-1)[0], torch.gradient(along_y, dim=-2)[0]
    sign = torch.where(xy > 0, -1.0, 1.0)
    return torch.remainder(torch.atan(yy * sign / (xx + 1e-5)), math.pi)


def _interpolate(image: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Bilinear values of `image` [B, 1, H, W] at each pixel moved by (right, down), clamped inside."""
    height, width = image.shape[-2:]
    rows = torch.arange(height, device=image.device, dtype=image.dtype)[:, None]
    columns = torch.arange(width, device=image.device, dtype=image.dtype)
    y = (rows + down).clamp(0.0, height - 1.001)
    x = (columns + right).clamp(0.0, width - 1.001)
    below, beside = y.frac(), x.frac()
    top, left = y.long(), x.long()
    bottom, next_left = top + 1, left + 1
    flat = image.flatten(-2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return flat.gather(-1, (row * width + column).flatten(-2)).view_as(image)

    upper = at(top, left) * (1 - beside) + at(top, next_left) * beside
    lower = at(bottom, left) * (1 - beside) + at(bottom, next_left) * beside
    return upper * (1 - below) + lower * below


def _ramp(length: int, border: int, like: Tensor) -> Tensor:
    """1 inside, rising from 0 as x / border over the first `border` pixels at both ends; [length]."""
    border = min(border, length // 2)
    if border == 0:
        return like.new_ones(length)
    position = torch.arange(length, device=like.device, dtype=like.dtype)
    ends = torch.minimum(position, length - 1 - position)
    return (ends / border).clamp(max=1.0)
