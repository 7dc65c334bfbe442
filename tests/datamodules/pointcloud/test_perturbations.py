"""What can befall a cloud: strengths and sizes by statistics of large clouds, and what stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.pointcloud.perturbations import (
    CONDITIONS,
    NOISE_LEVELS,
    OUTLIERS,
    density_gradient,
    fewer_points,
    gaussian_noise,
    outliers,
)


def cloud(points: int = 4000) -> np.ndarray:
    drawn = np.random.default_rng(0).normal(size=(points, 3))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def rows(points: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(row) for row in points.tolist()}


def test_the_conditions_are_those_of_the_protocol() -> None:
    assert list(CONDITIONS) == [
        "clean", "noise_0.02", "noise_0.05", "noise_0.08", "noise_0.1", "noise_0.15",
        "half_points", "quarter_points", "density", "outliers",
    ]  # fmt: skip
    sizes = {name: len(change(cloud(100), rng())) for name, change in CONDITIONS.items()}
    assert {name for name, size in sizes.items() if size == 100} == set(CONDITIONS) - {
        "half_points", "quarter_points", "density",
    }  # fmt: skip
    assert (sizes["half_points"], sizes["quarter_points"], sizes["density"]) == (50, 25, 50)
    assert all(change(cloud(100), rng()).dtype == np.float32 for change in CONDITIONS.values())
    assert np.array_equal(CONDITIONS["clean"](cloud(), rng()), cloud())


@pytest.mark.parametrize("sigma", NOISE_LEVELS)
def test_noise_has_its_sigma_in_every_coordinate_and_is_not_scaled_away(sigma: float) -> None:
    off = CONDITIONS[f"noise_{sigma:g}"](cloud(), rng()) - cloud()
    assert off.std(axis=0) == pytest.approx([sigma] * 3, rel=0.05)
    assert off.mean(axis=0) == pytest.approx([0] * 3, abs=0.1 * sigma)
    assert abs(np.corrcoef(off.T)[0, 1]) < 0.05
    assert np.linalg.norm(gaussian_noise(cloud(), sigma, rng()), axis=1).max() > 1  # not normalised again


def test_fewer_points_are_some_of_the_points() -> None:
    kept = fewer_points(cloud(), 4, rng())
    assert len(rows(kept)) == 1000
    assert rows(kept) < rows(cloud())
    assert len(fewer_points(cloud(3), 8, rng())) == 1


def test_density_falls_along_an_axis() -> None:
    whole = cloud()
    seen = []
    for seed in range(5):
        kept = density_gradient(whole, rng(seed))
        assert len(rows(kept)) == 2000
        assert rows(kept) < rows(whole)
        axis = rng(seed).standard_normal(3)
        axis /= np.linalg.norm(axis)
        thick, thin = ((kept @ axis) < -0.3).sum(), ((kept @ axis) > 0.3).sum()
        seen.append(thick / thin)
    assert min(seen) > 1.8
    uniform = fewer_points(whole, 2, rng())
    assert (uniform[:, 2] < -0.3).sum() / (uniform[:, 2] > 0.3).sum() == pytest.approx(1, abs=0.15)


def test_outliers_replace_a_tenth_and_fill_the_cube() -> None:
    changed = outliers(cloud(), OUTLIERS, rng())
    moved = (changed != cloud()).any(axis=1)
    assert moved.sum() == 400
    assert np.abs(changed[moved]).max() <= 1
    assert changed[moved].std(axis=0) == pytest.approx([1 / np.sqrt(3)] * 3, rel=0.1)
    assert len(np.flatnonzero(moved[:400])) < 100  # not the first ones


def test_each_depends_on_its_generator_alone() -> None:
    for name, change in CONDITIONS.items():
        assert np.array_equal(change(cloud(200), rng(3)), change(cloud(200), rng(3)))
        if name != "clean":
            assert not np.array_equal(change(cloud(200), rng(3)), change(cloud(200), rng(4)))


def test_wrong_strengths_are_refused() -> None:
    with pytest.raises(ValueError, match="sigma"):
        gaussian_noise(cloud(9), -0.1, rng())
    with pytest.raises(ValueError, match="divisor"):
        fewer_points(cloud(9), 0, rng())
    with pytest.raises(ValueError, match="share"):
        outliers(cloud(9), 1.1, rng())
