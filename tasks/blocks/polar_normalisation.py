"""Angular profiles of shapes, normalised by their second moments so that an affine map only turns them.

A profile p(theta) over the full turn bounds the polar region W = {r p(theta) u : r in [0, 1]}, u = (cos, sin). If a
map of the shape acts on W as a linear map, then after normalisation by W's own second moments it acts as a
turn, with a reflection where it reflects, and one factor: Wang & Gao, ECCV 2020, Eqs. 15-26.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

import torch
from torch import Tensor

Interpolation = Literal["linear", "cubic"]
SINGULAR = 1e-10
"""A moment matrix is singular where its determinant is less than this share of its squared trace."""


def turn(count: int, device: torch.device | None = None) -> Tensor:
    """`count` angles from 0 over the full turn, in radians, float64."""
    return torch.arange(count, dtype=torch.float64, device=device) * (2 * math.pi / count)


def moment_matrix(profile: Tensor) -> Tensor:
    """Second moments of the polar region that a profile bounds (Eq. 17): [..., N] -> [..., 2, 2].

    The radial integral has the closed form 1/4 int p(theta)^4 u u^T dtheta.
    """
    angle = turn(profile.shape[-1], profile.device)
    direction = torch.stack([angle.cos(), angle.sin()])  # [2, N]
    outer = direction[:, None] * direction  # [2, 2, N]
    step = 2 * math.pi / profile.shape[-1]
    return torch.einsum("...n,ijn->...ij", profile**4, outer) * (step / 4)


def symmetric_root(matrix: Tensor) -> Tensor:
    """The symmetric positive root of symmetric positive 2 x 2 matrices, [..., 2, 2] -> [..., 2, 2].

    By Cayley-Hamilton (M + sqrt(det M) I) / sqrt(tr M + 2 sqrt(det M)): the root of the eigenvalue method, without
    its iterations.
    """
    determinant = torch.linalg.det(matrix).clamp(min=0).sqrt()[..., None, None]
    trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    identity = torch.eye(2, dtype=matrix.dtype, device=matrix.device)
    return (matrix + determinant * identity) / (trace + 2 * determinant).sqrt()


def normalise_profile(profile: Tensor, count: int, interpolation: Interpolation = "linear") -> Tensor:
    """p'(theta) = p(angle(D u)) / |D u| at `count` angles (Eq. 24), D the root of the profile's moments.

    profile: float64 [..., N], not negative. A profile whose region has no width (or no area) has a ridge added
    to its moments, and a warning says so. -> [..., count].
    """
    # Eq. 24 is homogeneous: p' of a multiple s p is p' / s, which is put back at the end.
    scale = profile.mean(-1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    profile = profile / scale
    moments = moment_matrix(profile)
    trace = moments.diagonal(dim1=-2, dim2=-1).sum(-1)
    singular = torch.linalg.det(moments) <= SINGULAR * trace.square()
    if singular.any():
        warnings.warn(f"{int(singular.sum())} profiles have singular moments; a ridge is added", stacklevel=2)
        ridge = torch.where(singular, 1e-3 * trace + (trace == 0), 0.0)
        moments = moments + ridge[..., None, None] * torch.eye(2, dtype=profile.dtype, device=profile.device)
    angle = turn(count, profile.device)
    direction = torch.stack([angle.cos(), angle.sin()])  # [2, count]
    mapped = symmetric_root(moments) @ direction  # [..., 2, count]
    read = periodic(profile, torch.atan2(mapped[..., 1, :], mapped[..., 0, :]), interpolation)
    return read / mapped.norm(dim=-2) / scale


def periodic(profile: Tensor, angle: Tensor, interpolation: Interpolation = "linear") -> Tensor:
    """A profile over the full turn, read between its samples: [..., N], angle [..., M] in radians -> [..., M]."""
    size = profile.shape[-1]
    place = angle * (size / (2 * math.pi))
    left = place.floor()
    part = place - left
    left = left.long()
    if interpolation == "linear":
        taps = {0: 1 - part, 1: part}
    else:  # Catmull-Rom
        taps = {
            -1: ((2 - part) * part - 1) * part / 2,
            0: ((3 * part - 5) * part**2 + 2) / 2,
            1: ((4 - 3 * part) * part + 1) * part / 2,
            2: (part - 1) * part**2 / 2,
        }
    total = torch.zeros_like(part)
    for shift, weight in taps.items():
        total = total + weight * profile.gather(-1, (left + shift) % size)
    return total
