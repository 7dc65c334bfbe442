"""Random rotation, scale and shift of point clouds, for training."""

from __future__ import annotations

import torch
from torch import Tensor

SCALES = (2 / 3, 3 / 2)
SHIFT = 0.2


def turn_about(points: Tensor, angle: Tensor, up: int) -> Tensor:
    """Turn clouds [B, M, 3] by angles [B] (radians) about the axis `up`, counter-clockwise seen from its tip."""
    if up not in (0, 1, 2):
        raise ValueError(f"up must be an axis 0, 1 or 2, not {up}")
    first, second = (up + 1) % 3, (up + 2) % 3
    cosine, sine = angle.cos()[:, None], angle.sin()[:, None]
    turned = points.clone()
    turned[..., first] = cosine * points[..., first] - sine * points[..., second]
    turned[..., second] = sine * points[..., first] + cosine * points[..., second]
    return turned


def turn_scale_shift(points: Tensor, up: int) -> Tensor:
    """Each cloud of [B, M, 3] turned about `up` by U(0, 2 pi), then each of its axes scaled by U(2/3, 3/2) and shifted
    by U(-0.2, 0.2): the ranges of DGCNN's code. Draws from torch's global generator."""
    batch, device = len(points), points.device
    angle = 2 * torch.pi * torch.rand(batch, device=device)
    scale = torch.empty(batch, 1, 3, device=device).uniform_(*SCALES)
    shift = torch.empty(batch, 1, 3, device=device).uniform_(-SHIFT, SHIFT)
    return turn_about(points, angle, up) * scale + shift
