"""What can befall a point cloud between training and test: noise, fewer points, uneven density, outliers.

Each takes an already normalised cloud float32 [M, 3] (centred, in the unit sphere) and a generator, changes the
positions or the choice of points, and nothing else: the result isn't normalised again. `CONDITIONS` is the test
protocol: the Gaussian noise levels of Pattern-Net's Table 2 (ECCV 2020), and the irregularities that its text
promises without a table. Their strengths are chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Cloud = NDArray[np.float32]
Perturbation = Callable[[Cloud, np.random.Generator], Cloud]

NOISE_LEVELS = (0.02, 0.05, 0.08, 0.1, 0.15)
SPARSEST = 0.05
"""Keep probability at the thin end of `density_gradient`, against 1 at the other."""
OUTLIERS = 0.1


def gaussian_noise(cloud: Cloud, sigma: float, rng: np.random.Generator) -> Cloud:
    """Add independent N(0, sigma^2) to every coordinate: [M, 3] -> [M, 3]."""
    if sigma < 0:
        raise ValueError(f"sigma must not be negative, got {sigma}")
    return (cloud + sigma * rng.standard_normal(cloud.shape)).astype(np.float32)


def fewer_points(cloud: Cloud, divisor: int, rng: np.random.Generator) -> Cloud:
    """Keep M // divisor points, at least one, drawn uniformly: [M, 3] -> [M // divisor, 3]."""
    if divisor < 1:
        raise ValueError(f"divisor must be positive, got {divisor}")
    return cloud[rng.permutation(len(cloud))[: max(1, len(cloud) // divisor)]]


def density_gradient(cloud: Cloud, rng: np.random.Generator) -> Cloud:
    """Keep half of the points, with a probability that falls linearly along a random axis: [M, 3] -> [M // 2, 3].

    From 1 at one end of the cloud to `SPARSEST` at the other. Half are kept whatever the axis, so that clouds stay
    of one size and differ from `fewer_points` in their density alone.
    """
    axis = rng.standard_normal(3)
    place = cloud @ (axis / np.linalg.norm(axis))
    span = max(float(place.max() - place.min()), 1e-12)
    keep = 1 - (1 - SPARSEST) * (place - place.min()) / span
    kept = rng.choice(len(cloud), max(1, len(cloud) // 2), replace=False, p=keep / keep.sum())
    return cloud[kept]


def outliers(cloud: Cloud, share: float, rng: np.random.Generator) -> Cloud:
    """Replace a share of the points by uniform ones of the cube [-1, 1]^3: [M, 3] -> [M, 3]."""
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in 0..1, got {share}")
    changed = cloud.copy()
    replaced = rng.permutation(len(cloud))[: round(share * len(cloud))]
    changed[replaced] = rng.uniform(-1, 1, (len(replaced), 3))
    return changed


def _unchanged(cloud: Cloud, rng: np.random.Generator) -> Cloud:
    return cloud


def _noise(sigma: float) -> Perturbation:
    return lambda cloud, rng: gaussian_noise(cloud, sigma, rng)


CONDITIONS: Mapping[str, Perturbation] = {
    "clean": _unchanged,
    **{f"noise_{sigma:g}": _noise(sigma) for sigma in NOISE_LEVELS},
    "half_points": lambda cloud, rng: fewer_points(cloud, 2, rng),
    "quarter_points": lambda cloud, rng: fewer_points(cloud, 4, rng),
    "density": density_gradient,
    "outliers": lambda cloud, rng: outliers(cloud, OUTLIERS, rng),
}
"""The conditions of a test by name, the clean one first."""
