"""Fisher vectors of sets of points under a mixture, Gaussian or hybrid Gaussian-Laplacian (HGLMM).

Klein, Lev, Sadeh and Wolf, "Associating Neural Word Embeddings with Deep Image Representations using Fisher
Vectors", CVPR 2015. The density of a point x in R^D is

    p(x) = sum_k w_k prod_d  N(x_d; m_kd, s_kd)  or  L(x_d; m_kd, s_kd),

where each (centre, dimension) is Gaussian with mean m and deviation s, or Laplacian with median m and mean
absolute deviation s: 1 / (2 s) exp(-|x - m| / s), whichever gives the training points more likelihood. Expectation
maximisation: posteriors; then weighted means and deviations, weighted medians and mean absolute deviations, and
the choice between them, which together maximise the expected log-likelihood exactly. So it never falls.

The Fisher vector of a set is the mean over its points of the gradients of log p(x) with respect to m and s,

    g_m = q (x - m) / s^2          g_s = q ((x - m)^2 / s^3 - 1 / s)     (Gaussian)
    g_m = q sign(x - m) / s        g_s = q (|x - m| / s^2 - 1 / s)       (Laplacian)

with q the posterior of the centre, each divided by the root of its Fisher information (w/s^2, 2w/s^2, w/s^2,
w/s^2), then the signed square root of each number, then unit length (Perronnin et al., ECCV 2010). K centres
give 2 K D numbers: all of g_m, centre by centre, then all of g_s.

Left open by the paper and chosen here: k-means starts EM; scales have a lower bound, a hundredth of the mean
deviation of all points; points may carry weights (a word that occurs n times counts n times), which is the same
as to repeat them. A set without points is the zero vector. Everything is computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["hglmm", "gmm"]
CHUNK_NUMBERS = 1 << 23
"""How many float64 numbers a chunk of points may take: 64 MB."""


@dataclass(frozen=True)
class Mixture:
    """weight: [K], sums to 1. location, scale: [K, D]. laplacian: bool [K, D]; False: Gaussian."""

    weight: Tensor
    location: Tensor
    scale: Tensor
    laplacian: Tensor

    def __post_init__(self) -> None:
        shape = self.location.shape
        if not (len(shape) == 2 and self.scale.shape == self.laplacian.shape == shape):
            raise ValueError(
                f"location, scale and laplacian must be [K, D], got {tuple(shape)}, {tuple(self.scale.shape)} and "
                f"{tuple(self.laplacian.shape)}"
            )
        if self.weight.shape != shape[:1]:
            raise ValueError(f"weight must be [{shape[0]}], got {tuple(self.weight.shape)}")

    def joint(self, points: Tensor) -> Tensor:
        """log(w_k p_k(x)) of points [N, D] -> [N, K]."""
        away = (points[:, None] - self.location) / self.scale  # [N, K, D]
        gaussian = -0.5 * away.square() - 0.5 * math.log(2 * math.pi)
        laplacian = -away.abs() - math.log(2)
        each = torch.where(self.laplacian, laplacian, gaussian) - self.scale.log()
        return self.weight.log() + each.sum(2)

    def log_likelihood(self, points: Tensor) -> Tensor:
        """log p(x) of points [N, D] -> [N]."""
        return self.joint(points).logsumexp(1)

    def gradients(self, points: Tensor) -> Tensor:
        """d log p(x) / d location and / d scale, over the roots of their Fisher information: [N, D] -> [N, 2KD]."""
        posterior = self.joint(points).softmax(1)[..., None]  # [N, K, 1]
        away = (points[:, None] - self.location) / self.scale  # [N, K, D]
        by_location = torch.where(self.laplacian, away.sign(), away)
        by_scale = torch.where(self.laplacian, away.abs() - 1, (away.square() - 1) / math.sqrt(2))
        factor = posterior / self.weight.sqrt()[:, None]
        return torch.cat([(factor * by_location).flatten(1), (factor * by_scale).flatten(1)], dim=1)


def weighted_medians(points: Tensor, weight: Tensor) -> Tensor:
    """The smallest value with at least half of the weight at or below it, by dimension.

    points: [N, D]; weight: [N, K], not negative. -> [K, D]
    """
    ordered, order = points.sort(dim=0)
    medians = []
    for each in weight.unbind(1):
        total = each[order].cumsum(0)  # [N, D]
        place = torch.searchsorted(total.T.contiguous(), (0.5 * total[-1])[:, None])  # [D, 1]
        medians.append(ordered.gather(0, place.T.clamp(max=len(points) - 1))[0])
    return torch.stack(medians)


class HGLMMFisher:
    """Fits a mixture to points and turns sets of points into Fisher vectors.

    centres: K. kind: "hglmm", or "gmm" for a plain Gaussian mixture (scikit-learn's). iterations: of EM at most;
    it ends when the mean log-likelihood gains less than `tolerance`. seed: of k-means.
    """

    def __init__(
        self,
        centres: int = 30,
        *,
        kind: Kind = "hglmm",
        iterations: int = 100,
        tolerance: float = 1e-4,
        seed: int = 0,
    ) -> None:
        if centres < 1 or iterations < 1:
            raise ValueError(f"centres and iterations must be positive, got {centres} and {iterations}")
        self.centres = centres
        self.kind = kind
        self.iterations = iterations
        self.tolerance = tolerance
        self.seed = seed
        self.mixture: Mixture | None = None
        self.history: list[float] = []
        """Mean log-likelihood before each step of EM, and at the end."""

    def fit(self, points: Tensor, weight: Tensor | None = None) -> HGLMMFisher:
        """Fit to points [N, D], each counted `weight` [N] times (None: once)."""
        points = points.double()
        counts = torch.ones(len(points), dtype=torch.float64) if weight is None else weight.double()
        counts = counts.to(points.device)
        if points.ndim != 2 or counts.shape != points.shape[:1]:
            raise ValueError(
                f"points must be [N, D] and weight [N], got {tuple(points.shape)} and {tuple(counts.shape)}"
            )
        if len(points) < self.centres:
            raise ValueError(f"{self.centres} centres need as many different points, got {len(points)}")
        if not points.isfinite().all() or (counts < 0).any() or counts.sum() <= 0:
            raise ValueError("points must be finite and weights not negative, with a positive sum")
        self.history = []
        self.mixture = self._gmm(points, counts) if self.kind == "gmm" else self._hglmm(points, counts)
        return self

    def transform(self, points: Tensor, sets: Tensor) -> Tensor:
        """The Fisher vectors of sets of points.

        points: [P, D]; sets: [S, P], how often each point is in each set. -> float32 [S, 2KD] of unit length;
        a set without points is zero.
        """
        if self.mixture is None:
            raise RuntimeError("fit the mixture first")
        return fisher_vectors(self.mixture, points, sets)

    def _hglmm(self, points: Tensor, counts: Tensor) -> Mixture:
        floor = _floor(points, counts)
        mixture = _maximised(points, counts, self._clusters(points, counts), floor)
        for _ in range(self.iterations):
            posterior, likelihood = _expected(mixture, points)
            self.history.append(float((counts * likelihood).sum() / counts.sum()))
            if len(self.history) > 1 and self.history[-1] - self.history[-2] < self.tolerance:
                return mixture
            mixture = _maximised(points, counts, posterior, floor)
        self.history.append(float((counts * _expected(mixture, points)[1]).sum() / counts.sum()))
        return mixture

    def _clusters(self, points: Tensor, counts: Tensor) -> Tensor:
        """Membership, [N, K] of zeros and ones, by k-means."""
        from sklearn.cluster import KMeans

        means = KMeans(self.centres, n_init=1, random_state=self.seed)
        label = means.fit(points.cpu().numpy(), sample_weight=counts.cpu().numpy()).labels_
        return torch.eye(self.centres, dtype=torch.float64)[torch.from_numpy(label).long()].to(points.device)

    def _gmm(self, points: Tensor, counts: Tensor) -> Mixture:
        """scikit-learn's, which knows no weights: on a draw of points in proportion to them."""
        from sklearn.mixture import GaussianMixture

        draws = min(200_000, max(len(points), int(counts.sum())))
        cumulative = counts.cumsum(0) / counts.sum()
        even = (torch.arange(draws, dtype=torch.float64, device=points.device) + 0.5) / draws
        drawn = points[torch.searchsorted(cumulative, even).clamp(max=len(points) - 1)]
        fitted = GaussianMixture(
            self.centres,
            covariance_type="diag",
            max_iter=self.iterations,
            tol=self.tolerance,
            reg_covar=float(_floor(points, counts)) ** 2,
            random_state=self.seed,
        ).fit(drawn.cpu().numpy())
        self.history = [float(fitted.lower_bound_)]
        weight, location, variance = (
            torch.from_numpy(values).to(points.device)
            for values in (fitted.weights_, fitted.means_, fitted.covariances_)
        )
        return Mixture(weight, location, variance.sqrt(), torch.zeros_like(location, dtype=torch.bool))


def fisher_vectors(mixture: Mixture, points: Tensor, sets: Tensor) -> Tensor:
    """See `HGLMMFisher.transform`."""
    if sets.ndim != 2 or sets.shape[1] != len(points):
        raise ValueError(f"sets must be [S, {len(points)}], got {tuple(sets.shape)}")
    centres, size = mixture.location.shape
    total = torch.zeros(len(sets), 2 * centres * size, dtype=torch.float64, device=points.device)
    step = max(1, CHUNK_NUMBERS // (2 * centres * size))
    for start in range(0, len(points), step):
        chunk = slice(start, start + step)
        among = sets[:, chunk].double().to_sparse()  # few of the words are in a sentence
        total += torch.sparse.mm(among, mixture.gradients(points[chunk].double()))
    mean = total / sets.sum(1).clamp(min=1)[:, None]
    rooted = mean.sign() * mean.abs().sqrt()
    return torch.nn.functional.normalize(rooted, dim=1).float()


def _floor(points: Tensor, counts: Tensor) -> Tensor:
    """The smallest admitted scale."""
    share = counts / counts.sum()
    mean = share @ points
    deviation = (share @ (points - mean).square()).sqrt().mean()
    return 0.01 * deviation.clamp(min=1e-8)


def _expected(mixture: Mixture, points: Tensor) -> tuple[Tensor, Tensor]:
    """E step: posteriors [N, K] and log-likelihoods [N]."""
    step = max(1, CHUNK_NUMBERS // mixture.location.numel())
    joint = torch.cat([mixture.joint(chunk) for chunk in points.split(step)])
    return joint.softmax(1), joint.logsumexp(1)


def _maximised(points: Tensor, counts: Tensor, posterior: Tensor, floor: Tensor) -> Mixture:
    """M step: the parameters, and the kind of each (centre, dimension), of largest expected log-likelihood."""
    weight = posterior * counts[:, None]  # [N, K]
    mass = weight.sum(0).clamp(min=1e-10)
    share = weight / mass
    mean = share.T @ points  # [K, D]
    variance, deviation = torch.empty_like(mean), torch.empty_like(mean)
    median = weighted_medians(points, weight)
    for k in range(len(mass)):
        variance[k] = share[:, k] @ (points - mean[k]).square()
        deviation[k] = share[:, k] @ (points - median[k]).abs()
    sigma, b = variance.sqrt().clamp(min=floor), deviation.clamp(min=floor)
    gaussian = -0.5 * math.log(2 * math.pi) - sigma.log() - 0.5 * variance / sigma.square()
    laplacian = -math.log(2) - b.log() - deviation / b
    chosen = laplacian > gaussian
    return Mixture(
        mass / mass.sum(), torch.where(chosen, median, mean), torch.where(chosen, b, sigma), chosen
    )


def principal_components(total: Tensor, scatter: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """The mean [D] and the `size` leading principal axes [size, D] of `count` rows, from their sums.

    total: [D], the sum of the rows; scatter: [D, D], the sum of their outer products. Axes are ordered by variance;
    the largest entry of each is positive, so that they don't depend on the solver.
    """
    if count <= 1 or size > min(count, len(total)):
        raise ValueError(f"{size} principal axes need as many rows and numbers, got {count} of {len(total)}")
    mean = total / count
    covariance = (scatter - count * torch.outer(mean, mean)) / (count - 1)
    _, axes = torch.linalg.eigh(covariance)
    axes = axes[:, -size:].flip(1).T
    peak = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return mean, axes * torch.where(peak < 0, -1.0, 1.0)
