"""Trace-transform invariants, affine moment invariants, autoconvolution and the trivial descriptor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from datamodules.miniature.affine_shapes import fill
from datamodules.specs import ShapesSpec
from tasks.blocks.polar_normalisation import turn
from tasks.blocks.shape_projections import Corners
from tasks.retrieval.shape_autoconvolution import ShapeAutoconvolution, autoconvolution, coordinates
from tasks.retrieval.shape_moments import (
    ShapeMoments,
    ShapeSize,
    affine_moment_invariants,
    signed_root,
    size_and_eccentricity,
)
from tasks.retrieval.shape_retrieval import ShapeMethod
from tasks.retrieval.shape_traces import ShapeTraces, circus_functions, circus_numbers

SPEC = ShapesSpec(dataset="test", classes=("a",))
MAPS = [
    [[1.0, 0.7], [0.0, 1.0]],
    [[1.0, 0.0], [0.0, 0.45]],
    [[-1.0, 0.0], [0.0, 1.0]],
    [[0.9, -0.6], [-0.3, -0.7]],
]


def rendered(matrix: list[list[float]] | np.ndarray, size: int = 300) -> torch.Tensor:
    """A lopsided contour under a linear map, in a square picture with a margin."""
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = 1 + 0.3 * np.cos(2 * angle) + 0.25 * np.sin(3 * angle) + 0.1 * np.cos(5 * angle + 1)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1) @ np.array(matrix).T
    low, extent = points.min(0), np.ptp(points, axis=0)
    return torch.from_numpy(fill([(points - low) * (size - 10) / extent.max() + 5], size, size))


@pytest.mark.parametrize("matrix", MAPS)
@pytest.mark.parametrize(
    ("method", "tolerance"),
    [(ShapeTraces(SPEC), 0.02), (ShapeMoments(SPEC), 0.02), (ShapeAutoconvolution(SPEC), 0.03)],
)
def test_affine_maps_change_little(method: ShapeMethod, tolerance: float, matrix: list[list[float]]) -> None:
    plain, mapped = method.describe([rendered(np.eye(2)), rendered(matrix)])
    torch.testing.assert_close(mapped, plain, rtol=tolerance, atol=0.012)


def test_circus_functions_of_a_square_by_hand() -> None:
    # A square of side a seen along an axis: R = a over a width a, so h_q = a^((q + 1) / (q - 1)), h_inf = a.
    shape = torch.ones(20, 20, dtype=torch.bool)
    function = circus_functions(Corners.of([shape]), 8, 100)[0]
    expected = torch.tensor([20.0**3, 20.0**2, 20 ** (5 / 3), 20 ** (7 / 5), 20.0], dtype=torch.float64)
    for column in (0, 2, 4, 6):
        torch.testing.assert_close(function[:, column], expected)
    # At 45 degrees R is a triangle of height a sqrt 2 and half width a / sqrt 2: int R^2 = 2 h^2 w / 3.
    by_hand = 2 * (20 * math.sqrt(2)) ** 2 * (20 / math.sqrt(2)) / 3
    assert function[0, 1].item() == pytest.approx(by_hand, rel=1e-3)


def test_circus_functions_change_as_the_line_integrals_do() -> None:
    """h_g(theta) = const |A^T u|^-1 h_f(angle(A^T u))."""
    linear = torch.tensor(MAPS[3], dtype=torch.float64)
    plain, mapped = (
        circus_functions(Corners.of([rendered(m, 400)]), 720, 128)[0] for m in (np.eye(2), MAPS[3])
    )
    back = linear.T @ torch.stack([turn(720).cos(), turn(720).sin()])
    place = (torch.atan2(back[1], back[0]) * 720 / (2 * math.pi)).round().long() % 720
    ratio = mapped / (plain[:, place] / back.norm(dim=0))
    spread = ratio.std(-1) / ratio.mean(-1)
    assert (spread[:4] < 0.02).all()
    assert spread[4] < 0.05  # a maximum feels single pixels


def test_circus_numbers_by_hand() -> None:
    function = torch.tensor([1.0, 2.0, 3.0, 2.0]) * 5
    expected = torch.tensor([(0.25 + 1 + 2.25 + 1) / 4, (0.0625 + 1 + 5.0625 + 1) / 4, 2.0, 1.5])
    torch.testing.assert_close(circus_numbers(function), expected)
    assert ShapeTraces(SPEC).describe([rendered(np.eye(2), 60)]).shape == (1, 20)


def test_moment_invariants_of_a_symmetric_shape() -> None:
    # Of a rectangle of unit area mu20 mu02 = 1 / 144, whatever its sides; third moments vanish.
    shape = torch.zeros(30, 50, dtype=torch.bool)
    shape[3:23, 5:48] = True
    invariants = affine_moment_invariants(Corners.of([shape]).centred().moments(3))[0]
    expected = torch.tensor([1 / 144, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(invariants, expected, atol=1e-12, rtol=0)


def test_moment_invariants_under_exact_maps_of_the_moments() -> None:
    """Points with weights mapped by random matrices: the invariants of their moments don't change at all."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(40, 2, dtype=torch.float64, generator=generator) ** 3
    points -= points.mean(0)

    def invariants(linear: torch.Tensor) -> torch.Tensor:
        x, y = (points @ linear.T).T
        area = torch.linalg.det(linear).abs()  # each point is a patch that grows with the map
        power = torch.arange(4)
        moments = torch.einsum("np,nq->pq", x[:, None] ** power, y[:, None] ** power) * area
        weight = (power[:, None] + power) / 2 + 1
        return affine_moment_invariants((moments / moments[0, 0] ** weight)[None])[0]

    plain = invariants(torch.eye(2, dtype=torch.float64))
    for _ in range(5):
        linear = torch.randn(2, 2, dtype=torch.float64, generator=generator)
        torch.testing.assert_close(invariants(linear), plain, rtol=1e-6, atol=0)


def test_signed_root() -> None:
    value = torch.tensor([[-8.0, 16.0, 0.0]])
    assert signed_root(value, torch.tensor([3.0, 4.0, 2.0]))[0].tolist() == pytest.approx([-2, 2, 0])


def test_autoconvolution_coordinates() -> None:
    triples = coordinates()
    assert triples.shape == (29, 3)
    torch.testing.assert_close(triples.sum(1), torch.ones(29, dtype=torch.float64))
    assert (triples.abs() <= 1).all()
    assert len({tuple(sorted(row)) for row in triples.tolist()}) == 29
    assert [0.0, 0.0, 1.0] not in triples.tolist()


def test_autoconvolution_of_a_square_by_hand() -> None:
    """F(1/2, 1/2) with c = 0: the middle of two points of a convex shape lies in it. F with (-1, 1, 1): along each
    axis x1 + x2 - x0 of three uniform numbers lies in [0, 1] with chance 2/3, so 4/9 for a square."""
    method = ShapeAutoconvolution(SPEC, samples=1 << 14)
    triples = torch.tensor([[0.0, 0.5, 0.5], [-1.0, 1.0, 1.0]], dtype=torch.float64)
    value = autoconvolution(torch.ones(64, 64, dtype=torch.bool), triples, method.where)
    assert value[0] == 1
    assert value[1].item() == pytest.approx(4 / 9, abs=0.01)


def test_autoconvolution_outside_the_picture_counts_as_outside() -> None:
    shape = torch.zeros(3, 9, dtype=torch.bool)
    shape[:, 0] = True
    where = torch.full((1, 3, 3), 0.5, dtype=torch.float64)
    where[0, :, 0] = torch.tensor([0.0, 0.99, 0.99])  # the corners lie in rows 0, 2, 2
    triples = torch.tensor([[-1.0, 1.0, 1.0], [0.0, 0.5, 0.5]], dtype=torch.float64)
    assert autoconvolution(shape, triples, where).tolist() == [0.0, 1.0]  # row 4 isn't there


def test_size_and_eccentricity_by_hand() -> None:
    shape = torch.zeros(20, 40, dtype=torch.bool)
    shape[5:15, 5:35] = True
    size, eccentricity = size_and_eccentricity(Corners.of([shape]))[0].tolist()
    assert size == pytest.approx(math.log(300))
    assert eccentricity == pytest.approx(math.sqrt(1 - 1 / 9))
    assert ShapeSize(SPEC).describe([shape, shape.mT]).shape == (2, 2)


@pytest.mark.parametrize("method", [ShapeTraces(SPEC), ShapeMoments(SPEC), ShapeAutoconvolution(SPEC)])
def test_baselines_divide_by_the_spread_over_the_gallery(method: ShapeMethod) -> None:
    gallery = torch.tensor([[0.0, 0.0], [1.0, 100.0]], dtype=torch.float64)
    distance = method.compare({"descriptor": gallery}, {"descriptor": gallery})
    assert distance.tolist() == [[0.0, pytest.approx(4.0)], [pytest.approx(4.0), 0.0]]
    assert math.isfinite(method.diagnostics()["retrieval_ms"])


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="angles must be even"):
        ShapeTraces(SPEC, angles=181)
    with pytest.raises(ValueError, match="samples must be positive"):
        ShapeAutoconvolution(SPEC, samples=0)
