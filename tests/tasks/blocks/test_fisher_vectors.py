"""Hybrid Gaussian-Laplacian mixtures, their Fisher vectors, and PCA from sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.blocks import fisher_vectors as module
from tasks.blocks.fisher_vectors import (
    HGLMMFisher,
    Mixture,
    fisher_vectors,
    principal_components,
    weighted_medians,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def mixture(generator: torch.Generator, centres: int = 3, size: int = 4) -> Mixture:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    return Mixture(
        uniform(centres).softmax(0),
        2 * uniform(centres, size) - 1,
        0.3 + uniform(centres, size),
        uniform(centres, size) > 0.5,
    )


def density(x: float, location: float, scale: float, laplacian: bool) -> float:
    if laplacian:
        return math.exp(-abs(x - location) / scale) / (2 * scale)
    return math.exp(-0.5 * ((x - location) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))


def test_the_likelihood_is_that_of_products_of_densities(generator: torch.Generator) -> None:
    given = mixture(generator)
    points = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    for x, seen in zip(points.tolist(), given.log_likelihood(points).tolist(), strict=True):
        total = sum(
            float(given.weight[k])
            * math.prod(
                density(
                    x[d], float(given.location[k, d]), float(given.scale[k, d]), bool(given.laplacian[k, d])
                )
                for d in range(4)
            )
            for k in range(3)
        )
        assert seen == pytest.approx(math.log(total))


def test_gradients_are_those_of_the_log_likelihood(generator: torch.Generator) -> None:
    """Against central differences in each location and scale, over the root of the Fisher information."""
    given = mixture(generator)
    points = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    seen = given.gradients(points).view(6, 2, 3, 4)
    step = 1e-6
    for which, name in enumerate(("location", "scale")):
        for k in range(3):
            for d in range(4):
                values = []
                for sign in (1, -1):
                    moved = getattr(given, name).clone()
                    moved[k, d] += sign * step
                    parts = {"location": given.location, "scale": given.scale, name: moved}
                    changed = Mixture(given.weight, parts["location"], parts["scale"], given.laplacian)
                    values.append(changed.log_likelihood(points))
                slope = (values[0] - values[1]) / (2 * step)
                twice = which == 1 and not given.laplacian[k, d]
                information = given.weight[k] / given.scale[k, d] ** 2 * (2 if twice else 1)
                torch.testing.assert_close(
                    seen[:, which, k, d], slope / information.sqrt(), atol=1e-6, rtol=1e-5
                )


@pytest.mark.parametrize("laplacian", [False, True])
def test_the_fisher_information_is_that_of_the_density(laplacian: bool, generator: torch.Generator) -> None:
    """One centre: normalised gradients of points drawn from it have mean 0 and mean square 1."""
    shape = (200_000, 1)
    if laplacian:
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5
        points = -2.0 * uniform.sign() * torch.log1p(-2 * uniform.abs()) + 1
    else:
        points = 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1
    one = torch.ones(1, 1, dtype=torch.float64)
    given = Mixture(one[0], one, 2 * one, torch.tensor([[laplacian]]))
    gradients = given.gradients(points)
    torch.testing.assert_close(gradients.mean(0), torch.zeros(2).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(gradients.square().mean(0), torch.ones(2).double(), atol=0.03, rtol=0)


def test_planted_gaussian_and_laplacian_dimensions_are_recovered() -> None:
    random = np.random.default_rng(0)
    gaussian = random.normal(0, 1, (4000, 2)) * [1.0, 0.5]
    laplacian = random.laplace(0, 1, (4000, 2)) * [0.7, 1.2]
    near, far = np.hstack([gaussian, laplacian]), np.hstack([laplacian + 12, gaussian - 12])
    fitted = HGLMMFisher(2, seed=0).fit(torch.from_numpy(np.vstack([near, far[:2000]])))
    assert fitted.mixture is not None
    order = fitted.mixture.location[:, 0].argsort()
    at = {
        name: getattr(fitted.mixture, name)[order].numpy()
        for name in ("weight", "location", "scale", "laplacian")
    }
    assert at["laplacian"].tolist() == [[False, False, True, True], [True, True, False, False]]
    np.testing.assert_allclose(at["weight"], [2 / 3, 1 / 3], atol=1e-3)
    np.testing.assert_allclose(at["location"], [[0, 0, 0, 0], [12, 12, -12, -12]], atol=0.08)
    np.testing.assert_allclose(at["scale"], [[1, 0.5, 0.7, 1.2], [0.7, 1.2, 1, 0.5]], rtol=0.06)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_expectation_maximisation_never_loses_likelihood(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = torch.from_numpy(random.standard_t(3, (400, 6)) + random.integers(0, 3, (400, 1)))
    fitted = HGLMMFisher(4, seed=seed, iterations=40, tolerance=0.0).fit(points)
    gains = np.diff(fitted.history)
    assert len(gains) > 5
    assert gains.min() > -1e-9
    assert gains.max() > 1e-3
    assert fitted.mixture is not None
    assert float(fitted.mixture.log_likelihood(points).mean()) >= fitted.history[-2] - 1e-9


def test_weights_count_as_repetitions(generator: torch.Generator) -> None:
    points = torch.randn(60, 3, generator=generator)
    counts = torch.randint(1, 4, (60,), generator=generator)
    weighted = HGLMMFisher(1, tolerance=0).fit(points, counts).mixture
    repeated = HGLMMFisher(1, tolerance=0).fit(points.repeat_interleave(counts, dim=0)).mixture
    assert weighted is not None
    assert repeated is not None
    for name in ("weight", "location", "scale"):
        torch.testing.assert_close(getattr(weighted, name), getattr(repeated, name))


def test_weighted_medians_by_hand() -> None:
    points = torch.tensor([[3.0, 0.0], [1.0, 5.0], [2.0, 9.0]])
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.2], [1.0, 0.8]])
    assert weighted_medians(points, weight).tolist() == [[2.0, 5.0], [2.0, 9.0]]


def test_a_fisher_vector_by_hand() -> None:
    """One centre; a Gaussian dimension of mean 0 and deviation 2, a Laplacian one of median 1 and scale 2.

    Points (2, 5) and (4, 1): by location (1, 1), (2, 0) -> mean (1.5, 0.5); by scale ((1 - 1) / sqrt 2, 2 - 1),
    ((4 - 1) / sqrt 2, -1) -> mean (3 / (2 sqrt 2), 0)."""
    given = Mixture(
        torch.ones(1).double(),
        torch.tensor([[0.0, 1.0]]).double(),
        torch.full((1, 2), 2.0).double(),
        torch.tensor([[False, True]]),
    )
    seen = fisher_vectors(
        given, torch.tensor([[2.0, 5.0], [4.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    )
    rooted = np.sqrt([1.5, 0.5, 3 / (2 * math.sqrt(2)), 0.0])
    np.testing.assert_allclose(seen[0], rooted / np.linalg.norm(rooted), rtol=1e-6)
    assert seen[1].tolist() == [0.0] * 4  # a set without points


def test_order_and_chunks_don_t_matter(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    given = mixture(generator)
    points = torch.randn(30, 4, generator=generator)
    sets = torch.randint(0, 3, (7, 30), generator=generator).float()
    whole = fisher_vectors(given, points, sets)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(7))
    order = torch.randperm(30, generator=generator)
    torch.testing.assert_close(fisher_vectors(given, points[order], sets[:, order]), whole)
    monkeypatch.setattr(module, "CHUNK_NUMBERS", 100)
    torch.testing.assert_close(fisher_vectors(given, points, sets), whole)


def test_a_plain_gaussian_mixture_agrees_with_scikit_learn() -> None:
    from sklearn.mixture import GaussianMixture

    random = np.random.default_rng(0)
    points = np.vstack([random.normal(0, 1, (200, 3)), random.normal(6, 2, (100, 3))])
    fitted = HGLMMFisher(2, kind="gmm", tolerance=1e-6).fit(torch.from_numpy(points)).mixture
    assert fitted is not None
    assert not fitted.laplacian.any()
    reference = GaussianMixture(2, covariance_type="diag", tol=1e-6, random_state=0).fit(points)
    np.testing.assert_allclose(
        fitted.log_likelihood(torch.from_numpy(points)), reference.score_samples(points), rtol=1e-2
    )


def test_what_cannot_be_fitted_is_refused() -> None:
    points = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="4 centres need"):
        HGLMMFisher(4).fit(points)
    with pytest.raises(ValueError, match="finite"):
        HGLMMFisher(1).fit(points / 0)
    with pytest.raises(ValueError, match=r"weight \[N\]"):
        HGLMMFisher(1).fit(points, torch.ones(2))
    with pytest.raises(RuntimeError, match="fit the mixture first"):
        HGLMMFisher(1).transform(points, torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"sets must be \[S, 3\]"):
        HGLMMFisher(1).fit(torch.rand(3, 2)).transform(points, torch.ones(1, 2))


def test_principal_components_from_sums_are_scikit_learn_s(generator: torch.Generator) -> None:
    from sklearn.decomposition import PCA

    rows = torch.randn(80, 9, generator=generator, dtype=torch.float64) * torch.arange(1, 10) + 3
    mean, axes = principal_components(rows.sum(0), rows.T @ rows, len(rows), 4)
    reference = PCA(4).fit(rows.numpy())
    np.testing.assert_allclose(mean, reference.mean_)
    signs = np.sign((axes.numpy() * reference.components_).sum(1, keepdims=True))
    np.testing.assert_allclose(axes, signs * reference.components_, atol=1e-9)
    assert (axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all()
    with pytest.raises(ValueError, match="10 principal axes"):
        principal_components(rows.sum(0), rows.T @ rows, len(rows), 10)
