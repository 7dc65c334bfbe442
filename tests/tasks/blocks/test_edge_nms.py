"""Thinning: analytic lines at any angle, border damping, and the toolbox's own loops as a reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tasks.blocks.edge_nms import orientation, thin, triangle_filter


def ridge(angle: float, size: int = 41, width: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A Gaussian ridge through the centre whose normal has `angle`, and the signed distance from it."""
    y, x = torch.meshgrid(*[torch.arange(float(size)) - size // 2] * 2, indexing="ij")
    distance = x * math.cos(angle) + y * math.sin(angle)
    return torch.exp(-(distance**2) / (2 * width**2))[None, None], distance


@pytest.mark.parametrize("angle", np.linspace(0, math.pi, 13)[:-1])
def test_lines_at_any_angle_become_one_pixel_thin(angle: float) -> None:
    edges, distance = ridge(float(angle))
    thinned = thin(edges)[0, 0]
    inside = thinned[8:-8, 8:-8] > 0.2
    assert distance[8:-8, 8:-8][inside].abs().max() <= 0.75
    # A line of length L crosses L max(|cos|, |sin|) rows or columns; a diagonal one may be 4-connected.
    assert 25 <= int(inside.sum()) <= 38


def test_peak_survives_with_its_smoothed_value() -> None:
    edges = torch.zeros(1, 1, 20, 24)
    edges[..., 9, :], edges[..., 10, :], edges[..., 11, :] = 0.5, 1.0, 0.5
    expected = torch.zeros(20)
    expected[10] = (0.5 + 2 * 1.0 + 0.5) / 4
    assert torch.allclose(thin(edges)[0, 0, :, 12], expected)
    assert torch.allclose(thin(edges.mT)[0, 0, 12, :], expected)


def test_border_is_damped_linearly() -> None:
    edges = torch.zeros(1, 1, 20, 24)
    edges[..., 10, :] = 1.0
    line = thin(edges, smooth_radius=0)[0, 0, 10]
    assert torch.allclose(line[:7], torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0]))
    assert torch.allclose(line.flip(0), line)


def test_orientation_of_axes_and_diagonals() -> None:
    for angle in (0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4):
        found = float(orientation(ridge(angle)[0])[0, 0, 20, 20])
        assert min(abs(found - angle), math.pi - abs(found - angle)) < 0.02


def test_triangle_filter_by_hand_with_mirrored_border() -> None:
    image = torch.tensor([[1.0, 0.0, 0.0, 4.0]])
    # Radius 1 is [1 2 1] / 4; the border value is repeated, rows are constant.
    assert torch.allclose(triangle_filter(image, 1), torch.tensor([[0.75, 0.25, 1.0, 3.0]]))
    assert torch.allclose(triangle_filter(torch.full((3, 2), 0.3), 4), torch.full((3, 2), 0.3))


def toolbox_nms(edges: np.ndarray, angles: np.ndarray, factor: float = 1.01, border: int = 5) -> np.ndarray:
    """edgesNmsMex.cpp of the toolbox, loop by loop."""
    height, width = edges.shape

    def interpolate(x: float, y: float) -> float:
        x, y = min(max(x, 0.0), width - 1.001), min(max(y, 0.0), height - 1.001)
        x0, y0 = int(x), int(y)
        dx, dy = x - x0, y - y0
        return (
            edges[y0, x0] * (1 - dx) * (1 - dy)
            + edges[y0, x0 + 1] * dx * (1 - dy)
            + edges[y0 + 1, x0] * (1 - dx) * dy
            + edges[y0 + 1, x0 + 1] * dx * dy
        )

    result = edges.copy()
    for y in range(height):
        for x in range(width):
            for step in (-1, 1):
                across = interpolate(x + step * math.cos(angles[y, x]), y + step * math.sin(angles[y, x]))
                if edges[y, x] * factor < across:
                    result[y, x] = 0
                    break
    for i in range(border):
        result[:, i] *= i / border
        result[:, -1 - i] *= i / border
        result[i] *= i / border
        result[-1 - i] *= i / border
    return result


def test_equals_the_toolbox_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    edges = triangle_filter(torch.rand(2, 1, 23, 31, generator=generator), 2)
    for index, thinned in enumerate(thin(edges, smooth_radius=0)):
        angles = orientation(edges[index, 0]).double().numpy()
        reference = toolbox_nms(edges[index, 0].double().numpy(), angles)
        assert np.allclose(thinned[0].numpy(), reference, atol=1e-5)
        assert 0.05 < (reference > 0).mean() < 0.7


@pytest.mark.parametrize("size", [(2, 2), (2, 3), (7, 200)])
def test_small_pictures_and_half_precision(size: tuple[int, int]) -> None:
    thinned = thin(torch.rand(3, 1, *size).half())
    assert thinned.shape == (3, 1, *size)
    assert thinned.dtype == torch.float32
    assert bool(((thinned >= 0) & (thinned <= 1)).all())


def test_nothing_in_nothing_out_and_wrong_shapes() -> None:
    assert not thin(torch.zeros(1, 1, 16, 16)).any()
    with pytest.raises(ValueError, match=r"\[B, 1, H, W\]"):
        thin(torch.zeros(1, 2, 16, 16))
    with pytest.raises(ValueError, match="at least 2x2"):
        thin(torch.zeros(1, 1, 1, 16))
