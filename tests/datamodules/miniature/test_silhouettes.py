"""The silhouettes: outlines of the right area, grains of the right period, the same bytes for a seed."""

from __future__ import annotations

import numpy as np

from datamodules.miniature.silhouettes import GRAINS, OUTLINES, _depths, _grains, draw_silhouettes


def test_draws_the_same_bytes_for_a_seed() -> None:
    outline, grain = np.arange(20) // 4, np.arange(20) % 4
    first, second = (draw_silhouettes(outline, grain, np.random.default_rng(3)) for _ in range(2))
    assert first.shape == (20, 32, 32, 3)
    assert first.dtype == np.uint8
    assert (first == second).all()
    assert (draw_silhouettes(outline, grain, np.random.default_rng(4)) != first).any()


def test_outlines_have_the_areas_of_their_shapes() -> None:
    grid = np.linspace(-1.5, 1.5, 601)
    across, along = np.meshgrid(grid, grid)
    cell = (grid[1] - grid[0]) ** 2
    areas = dict(zip(OUTLINES, (_depths(across, along) > 0).sum(axis=(1, 2)) * cell, strict=True))
    assert abs(areas["disc"] - np.pi * 0.81) < 0.03
    assert abs(areas["square"] - 1.56**2) < 0.03
    assert abs(areas["cross"] - (2 * 1.9 * 0.6 - 0.6**2)) < 0.03
    assert abs(areas["triangle"] - 3**1.5 / 4) < 0.03  # equilateral with circumradius 1
    assert 0 < areas["star"] < areas["disc"]


def test_grains_have_the_stated_period_and_differ() -> None:
    random = np.random.default_rng(0)
    patterns = _grains(np.repeat(np.arange(len(GRAINS)), 8), random, 96, (3.0, 3.0)).reshape(4, 8, 96, 96)
    assert np.abs(patterns).max() <= 0.5
    assert (patterns[GRAINS.index("plain")] == 0).all()
    for pattern in patterns[GRAINS.index("striped")]:
        power = np.abs(np.fft.fft2(pattern - pattern.mean()))
        row, column = np.unravel_index(power.argmax(), power.shape)
        frequency = np.hypot(min(row, 96 - row), min(column, 96 - column)) / 96
        assert abs(1 / frequency - 3.0) < 0.15
