"""Spherical projection of LiDAR scans to range images (SqueezeSegV3 Eq. 1, SqueezeSeg, RangeNet++).

With range r = |(x, y, z)|, yaw = -atan2(y, x), pitch = asin(z / r) and fov = fov_up - fov_down (degrees),

    column u = floor(0.5 (yaw / pi + 1) W),    row v = floor((1 - (pitch - fov_down) / fov) H),

both clamped to the image, so row 0 looks up and the middle column looks ahead (+x). Eq. 1 prints
`arcsin(z / r) + f_up` inside the bracket; with f_up = +3 degrees that would push the whole image up and waste
most of its rows. What makes the lowest beam land in the last row is + |f_down|, as in the authors' code.

Several points may fall into one pixel. Eq. 1's text keeps "the point with the largest distance"; the authors'
code, like RangeNet++, writes points in order of decreasing range, so that the *nearest* survives.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

EMPTY = -1
"""`index` of a pixel that no point falls into, and the value of its raw channels."""


class RangeImage(NamedTuple):
    """Range images of a batch of B scans with N points in all.

    pixel: int64 [N], where each point falls: (scan * H + row) * W + column, the index into a flat [B, H, W].
    range: float32 [N], metres.
    index: int64 [B, H, W], the point that survives in a pixel, -1 where there is none.
    channels: float32 [B, 5, H, W], (range, x, y, z, remission) of that point, -1 where there is none.
    mask: bool [B, H, W], index >= 0. (Comparing with > 0 would lose the first point.)
    """

    pixel: Tensor
    range: Tensor
    index: Tensor
    channels: Tensor
    mask: Tensor


def pixels(
    points: Tensor, height: int, width: int, fov_up: float, fov_down: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Row [N], column [N] (int64) and range [N] (metres) of points [N, >= 3] in an image of height x width.

    fov_up, fov_down: degrees with sign, +3 and -25 for the HDL-64E.
    """
    x, y, z = points[:, :3].float().unbind(dim=1)
    distance = torch.sqrt(x * x + y * y + z * z)
    yaw = -torch.atan2(y, x)
    # A point in the sensor's origin has no direction; it is read as horizontal.
    pitch = torch.asin((z / distance.clamp(min=1e-12)).clamp(-1.0, 1.0))
    low, field = math.radians(fov_down), math.radians(fov_up - fov_down)
    column = torch.floor(0.5 * (yaw / math.pi + 1.0) * width).long().clamp(0, width - 1)
    row = torch.floor((1.0 - (pitch - low) / field) * height).long().clamp(0, height - 1)
    return row, column, distance


def project(
    points: Tensor,
    scan: Tensor,
    batch: int,
    height: int,
    width: int,
    fov_up: float,
    fov_down: float,
    keep: Literal["near", "far"] = "near",
) -> RangeImage:
    """Project scans: points float32 [N, 4] (x, y, z metres, remission), scan int64 [N] in 0..B-1.

    keep: which of a pixel's points survives: the nearest, or the farthest. Equal ranges: the lowest index.
    The result depends on no write order: it is two `amin` reductions, over range and then over index.
    Raises `ValueError` for other shapes.
    """
    if points.ndim != 2 or points.shape[1] != 4 or scan.shape != points.shape[:1]:
        raise ValueError(
            f"expected points [N, 4] and scan [N], got {tuple(points.shape)} and {tuple(scan.shape)}"
        )
    if keep not in ("near", "far"):
        raise ValueError(f"keep must be 'near' or 'far', not {keep!r}")
    count, size = len(points), batch * height * width
    row, column, distance = pixels(points, height, width, fov_up, fov_down)
    pixel = (scan * height + row) * width + column

    rank = distance if keep == "near" else -distance
    best = rank.new_full((size,), math.inf).scatter_reduce(0, pixel, rank, "amin")
    order = torch.arange(count, device=points.device)
    candidate = torch.where(rank == best[pixel], order, count)
    winner = order.new_full((size,), count).scatter_reduce(0, pixel, candidate, "amin")
    index = torch.where(winner < count, winner, EMPTY).reshape(batch, height, width)

    features = torch.cat([distance[:, None], points.float()], dim=1)
    channels = to_image(features, index, EMPTY).permute(0, 3, 1, 2).contiguous()
    return RangeImage(pixel, distance, index, channels, index >= 0)


def to_image(values: Tensor, index: Tensor, empty: float) -> Tensor:
    """Values of points [N, ...] at the survivors `index` [B, H, W] -> [B, H, W, ...], `empty` elsewhere.

    Labels [N] become an image by `to_image(label, index, 0)`; the way back is `image.flatten()[pixel]`.
    """
    padded = torch.cat([values, values.new_full((1, *values.shape[1:]), empty)])
    return padded[index]  # -1 is the appended row


def normalise(channels: Tensor, mask: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(channels - mean) / std, and 0 in empty pixels: [B, 5, H, W], [B, H, W], [5], [5] -> [B, 5, H, W].

    The order is (range, x, y, z, remission) throughout. (The authors' configuration of their 53-layer network
    swaps the entries of range and z.)
    """
    shape = (1, -1, 1, 1)
    return (channels - mean.reshape(shape)) / std.reshape(shape) * mask[:, None]
