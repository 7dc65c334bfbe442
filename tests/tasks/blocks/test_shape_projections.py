"""Exact projections of pixel shapes, against each pixel's own trapezoid and figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tasks.blocks.polar_normalisation import turn
from tasks.blocks.shape_projections import Corners, Projections, grouped


def random_shape(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((height, width)) > 0.5)


def footprint(distance: np.ndarray, angle: float) -> np.ndarray:
    """Chord of a unit pixel at a distance from its centre: a trapezoid of area 1."""
    long, short = sorted((abs(math.cos(angle)) / 2, abs(math.sin(angle)) / 2), reverse=True)
    if short < 1e-12:
        return (np.abs(distance) < long) / (2 * long)
    return np.interp(np.abs(distance), [long - short, long + short], [1, 0]) / (2 * long)


def slow_chords(shape: torch.Tensor, angle: torch.Tensor, offset: np.ndarray) -> np.ndarray:
    """Sum of footprints over all pixels, one by one: offset [Q] from the picture's middle -> [A, Q]."""
    chords = np.zeros((len(angle), len(offset)))
    for row, column in shape.nonzero().tolist():
        x, y = column + 0.5 - shape.shape[1] / 2, row + 0.5 - shape.shape[0] / 2
        for place, theta in enumerate(angle.tolist()):
            chords[place] += footprint(offset - x * math.cos(theta) - y * math.sin(theta), theta)
    return chords


@pytest.mark.parametrize("size", [(7, 9), (12, 5), (1, 4)])
def test_chords_are_the_sum_of_the_pixels_footprints(size: tuple[int, int]) -> None:
    shape, angle = random_shape(*size), turn(24)[:12]
    offset = np.linspace(-7, 7, 41) + 0.013  # never on a pixel's edge, where an axis has a step
    projections = Projections(Corners.of([shape]), angle)
    lines = torch.from_numpy(offset).expand(1, 12, -1)
    slow = slow_chords(shape, angle, offset)
    np.testing.assert_allclose(projections.chords(lines)[0].numpy(), slow, atol=1e-11)


def test_a_strip_is_the_mean_of_its_lines() -> None:
    shape, angle = random_shape(6, 8, seed=1), turn(16)[:8]
    offset = np.linspace(-5, 5, 11) + 0.017
    fine = (np.arange(4000) + 0.5) / 4000 * 0.8 - 0.4
    slow = slow_chords(shape, angle, (offset[:, None] + fine).ravel()).reshape(8, 11, -1).mean(-1)
    projections = Projections(Corners.of([shape]), angle)
    fast = projections.chords(torch.from_numpy(offset).expand(1, 8, -1), strip=0.8)
    np.testing.assert_allclose(fast[0].numpy(), slow, atol=2e-3)


def test_rectangle_by_hand() -> None:
    shape = torch.ones(2, 4, dtype=torch.bool)
    angle = torch.tensor([0.0, math.pi / 4, math.pi / 2], dtype=torch.float64)
    projections = Projections(Corners.of([shape]), angle)
    diagonal = 3 / math.sqrt(2)
    torch.testing.assert_close(projections.high[0], torch.tensor([2, diagonal, 1], dtype=torch.float64))
    torch.testing.assert_close(projections.low, -projections.high)
    middle = projections.chords(torch.zeros(1, 3, 1, dtype=torch.float64))
    # Through the middle: down the short side, at 45 degrees across it, along the long side.
    expected = torch.tensor([2, 2 * math.sqrt(2), 4], dtype=torch.float64)
    torch.testing.assert_close(middle[0, :, 0], expected)
    everything = projections.areas(torch.full((1, 3, 1), 50.0, dtype=torch.float64))
    torch.testing.assert_close(everything[0, :, 0], torch.full((3,), 8.0, dtype=torch.float64))


def test_extents_reach_the_edges_of_pixels_not_their_centres() -> None:
    projections = Projections(Corners.of([torch.ones(1, 1, dtype=torch.bool)]), turn(360)[:180])
    angle = turn(360)[:180]
    torch.testing.assert_close(projections.high[0], (angle.cos().abs() + angle.sin().abs()) / 2)


def test_full_turn_is_the_same_lines_from_the_other_side() -> None:
    shape = random_shape(9, 9, seed=2)
    angle = turn(40)
    offset = torch.linspace(-6, 6, 31, dtype=torch.float64).expand(1, 40, -1) + 0.011
    chords = Projections(Corners.of([shape]), angle).chords(offset)
    mirrored = Projections(Corners.of([shape]), angle).chords(-offset)
    torch.testing.assert_close(chords[:, 20:], mirrored[:, :20], atol=1e-10, rtol=0)


def test_moments_are_integrals_over_the_pixels_areas() -> None:
    shape = torch.zeros(6, 10, dtype=torch.bool)
    shape[1:5, 2:9] = True  # [-3, 4] x [-2, 2] from the middle
    moments = Corners.of([shape]).moments(3)[0]
    for p in range(4):
        for q in range(4):
            by_hand = (4 ** (p + 1) - (-3) ** (p + 1)) / (p + 1) * (2 ** (q + 1) - (-2) ** (q + 1)) / (q + 1)
            assert moments[p, q].item() == pytest.approx(by_hand, abs=1e-9)
    centred = Corners.of([shape]).centred().moments(2)[0]
    assert centred[0, 0].item() == pytest.approx(1)
    assert centred[1, 0].item() == pytest.approx(0, abs=1e-12)
    assert centred[2, 0].item() == pytest.approx(7**2 / 12 / 28)  # of a 7 x 4 rectangle, in units of its area


def test_groups_give_what_each_shape_gives_alone() -> None:
    shapes = [random_shape(size, 2 * size, seed=size) for size in (3, 17, 5, 9, 2)]
    angle = turn(12)[:6]
    offset = torch.linspace(-4, 4, 9, dtype=torch.float64).expand(1, 6, -1) + 0.011
    seen = []
    for places, corners in grouped(shapes, limit=400):
        together = Projections(corners, angle)
        chords = together.chords(offset.expand(len(places), -1, -1), strip=0.5)
        for row, place in enumerate(places):
            alone = Projections(Corners.of([shapes[place]]), angle)
            torch.testing.assert_close(chords[row], alone.chords(offset, strip=0.5)[0])
            torch.testing.assert_close(together.low[row], alone.low[0])
            torch.testing.assert_close(corners.moments(3)[row], Corners.of([shapes[place]]).moments(3)[0])
        seen += places
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_what_is_no_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bool \[H, W\], got torch.float32"):
        Corners.of([torch.ones(3, 3)])
    with pytest.raises(ValueError, match="4 x 3 pixels is empty"):
        Corners.of([torch.zeros(3, 4, dtype=torch.bool)])
