"""Moment normalisation of angular profiles: by hand, against NumPy, and what an affine map does to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tasks.blocks.polar_normalisation import (
    moment_matrix,
    normalise_profile,
    periodic,
    symmetric_root,
    turn,
)


def smooth_profile(count: int) -> torch.Tensor:
    angle = turn(count)
    return 3 + (angle + 0.4).cos() + 0.7 * (2 * angle).cos() + 0.4 * (3 * angle - 1).sin()


def mapped(matrix: torch.Tensor, count: int) -> torch.Tensor:
    """The profile that bounds the image under `matrix` of the region that `smooth_profile` bounds."""
    angle = turn(count)
    back = torch.linalg.inv(matrix) @ torch.stack([angle.cos(), angle.sin()])
    theta = torch.atan2(back[1], back[0])
    value = 3 + (theta + 0.4).cos() + 0.7 * (2 * theta).cos() + 0.4 * (3 * theta - 1).sin()
    return value / back.norm(dim=0)


def test_moments_of_a_disc() -> None:
    # Of a disc of radius r the second moments are pi r^4 / 4 and 0.
    expected = math.pi / 4 * 81 * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(moment_matrix(torch.full((12,), 3.0, dtype=torch.float64)), expected)


def test_moments_against_a_fine_grid() -> None:
    profile = smooth_profile(720)
    grid = (np.arange(1200) + 0.5) / 1200 * 12 - 6
    x, y = np.meshgrid(grid, grid)
    angle = np.arctan2(y, x)
    edge = np.interp(angle % (2 * np.pi), turn(720).numpy(), profile.numpy(), period=2 * np.pi)
    inside = np.hypot(x, y) <= edge
    slow = [[(a * b * inside).sum() for b in (x, y)] for a in (x, y)]
    cell = (12 / 1200) ** 2
    np.testing.assert_allclose(moment_matrix(profile).numpy(), np.array(slow) * cell, atol=0.02)


def test_root_is_that_of_the_eigenvalue_method() -> None:
    random = torch.randn(50, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = random @ random.mT + 0.01 * torch.eye(2, dtype=torch.float64)
    root = symmetric_root(matrix)
    values, vectors = torch.linalg.eigh(matrix)
    torch.testing.assert_close(root, vectors @ torch.diag_embed(values.sqrt()) @ vectors.mT)
    torch.testing.assert_close(root @ root.mT, matrix)
    assert (torch.linalg.det(root) > 0).all()


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_reading_between_samples(interpolation: str) -> None:
    profile = torch.tensor([[1.0, 2.0, 4.0, 2.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    on_grid = turn(8)[None]
    torch.testing.assert_close(periodic(profile, on_grid, interpolation), profile)
    torch.testing.assert_close(periodic(profile, on_grid - 2 * math.pi, interpolation), profile)
    between = periodic(
        profile, torch.tensor([[math.pi / 8, -math.pi / 8]], dtype=torch.float64), interpolation
    )
    if interpolation == "linear":
        by_hand = [1.5, 0.5]
    else:  # (-p0 + 9 p1 + 9 p2 - p3) / 16
        by_hand = [(0 + 9 + 18 - 4) / 16, (0 + 0 + 9 - 2) / 16]
    torch.testing.assert_close(between[0], torch.tensor(by_hand, dtype=torch.float64))


@pytest.mark.parametrize(
    "matrix",
    [[[1.0, 0.0], [0.0, 0.4]], [[1.0, 0.8], [0.0, 1.0]], [[-0.5, 0.3], [0.2, 0.9]], [[2.0, 0.0], [0.0, 2.0]]],
)
def test_an_affine_map_only_turns_reflects_and_scales(matrix: list[list[float]]) -> None:
    linear = torch.tensor(matrix, dtype=torch.float64)
    one, other = (
        normalise_profile(profile, 720, "cubic") for profile in (smooth_profile(1440), mapped(linear, 1440))
    )
    # det A^(-1/2) is left, as in Eq. 25 with W mapped by A itself.
    scale = torch.linalg.det(linear).abs() ** 0.5
    first, second = torch.fft.rfft(one).abs(), torch.fft.rfft(other).abs() * scale
    torch.testing.assert_close(second[:12], first[:12], atol=0.02, rtol=1e-4)
    # The very values: Eq. 25 or 26, at the turn that fits best.
    turned = other.flip(0).roll(1) if torch.linalg.det(linear) < 0 else other
    correlation = torch.fft.irfft(torch.fft.rfft(one) * torch.fft.rfft(turned).conj(), n=720)
    best = turned.roll(int(correlation.argmax())) * scale
    assert (best - one).abs().max() < 0.01 * one.max()


def test_homogeneous_of_degree_minus_one() -> None:
    profile = smooth_profile(180)
    once, thrice = normalise_profile(profile, 180), normalise_profile(3 * profile, 180)
    torch.testing.assert_close(thrice, once / 3)


def test_an_empty_or_flat_profile_warns_and_stays_finite() -> None:
    flat = torch.zeros(2, 180, dtype=torch.float64)
    flat[1, 0] = flat[1, 90] = 5.0
    with pytest.warns(UserWarning, match="2 profiles have singular moments"):
        normalised = normalise_profile(flat, 180)
    assert normalised.isfinite().all()
    assert (normalised[0] == 0).all()
