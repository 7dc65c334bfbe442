"""Edge convolution on a graph of nearest neighbours (DGCNN, Wang et al., ACM TOG 2019), and the graph.

The response of a point i is max_j act(BN(W1 x_i + W2 (x_j - x_i))) over its neighbours j. Features stand last:
[B, N, C].
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear

Metric = Literal["euclid", "hilbert"]


def squared_distances(features: Tensor, metric: Metric = "euclid") -> Tensor:
    """Distances of all pairs of points: [B, N, C] -> float32 [B, N, N], without gradient.

    euclid: |x|^2 + |y|^2 - 2 <x, y>. hilbert: the same of unit vectors, 2 (1 - <x / |x|, y / |y|>), with |x| at
    least 1e-8 (Pattern-Net, Eqs. 7 and 8).
    """
    if metric not in ("euclid", "hilbert"):
        raise ValueError(f"metric {metric!r} is none of euclid, hilbert")
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        x = features.detach().float()
        if metric == "hilbert":
            unit = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-8)
            return 2 * (1 - unit @ unit.transpose(1, 2))
        square = x.square().sum(-1)
        return (square[:, :, None] + square[:, None] - 2 * x @ x.transpose(1, 2)).clamp(min=0)


def feature_neighbours(
    features: Tensor, neighbours: int, metric: Metric = "euclid", valid: Tensor | None = None
) -> Tensor:
    """The nearest points of each point of [B, N, C], itself first -> int64 [B, N, min(neighbours, N)].

    valid: bool [B, N]; other points are nobody's neighbours (each example needs `neighbours` valid ones, or the
    number asked for is cut to the fewest there are).
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be positive, got {neighbours}")
    distance = squared_distances(features, metric)
    most = features.shape[1]
    if valid is not None:
        distance.masked_fill_(~valid[:, None], torch.inf)
        most = int(valid.sum(1).min())
    # A point may have others at distance 0, and rounding may put some before it.
    distance.diagonal(dim1=1, dim2=2).fill_(-1.0)
    return distance.topk(min(neighbours, most), dim=-1, largest=False).indices


class EdgeConv(nn.Module):
    """A shared linear map of [x_i, x_j - x_i], batch normalisation over all edges, leaky ReLU, max over neighbours.

    Equal to doing so edge by edge, but nothing of the size of the edges is kept for the gradient: the map is taken
    apart into (W1 - W2) x_i + W2 x_j; of normalisation and activation, both monotone in each channel, only the
    winning edge is computed; and mean and variance over the edges are those of the two terms and their product.

    slope: of the leaky ReLU below 0. Under DDP the statistics are each process's own.
    """

    def __init__(self, inputs: int, outputs: int, *, slope: float = 0.2) -> None:
        super().__init__()
        self.map = nn.Linear(2 * inputs, outputs, bias=False)
        self.norm = nn.BatchNorm1d(outputs)
        self.slope = slope

    def forward(self, features: Tensor, index: Tensor, valid: Tensor | None = None) -> Tensor:
        """Features [B, N, C] and neighbours int64 [B, N, k] -> float32 [B, N, outputs].

        valid: bool [B, N]; other points count in no statistic, and their response means nothing.
        """
        query, response = self.map.weight.chunk(2, dim=1)
        own = linear(features, query - response)
        other = linear(features, response)
        with torch.autocast(features.device.type, enabled=False):
            own, other = own.float(), other.float()
            mean, variance = self._statistics(own, other, index, valid)
            scale = self.norm.weight * torch.rsqrt(variance + self.norm.eps)
            normalised = (own + self._best(other, index) - mean) * scale + self.norm.bias
            return leaky_relu(normalised, self.slope)

    def _best(self, other: Tensor, index: Tensor) -> Tensor:
        """The neighbour's term that is the maximum of each channel after normalisation: [B, N, outputs]."""
        batch, points, channels = other.shape
        # A negative factor of the normalisation makes the smallest the largest.
        sign = torch.where(self.norm.weight < 0, -1.0, 1.0).detach()
        first = torch.arange(0, batch * points, points, device=index.device)[:, None, None]
        learning = torch.is_grad_enabled() and other.requires_grad
        with torch.no_grad():
            rows = (other * sign).reshape(-1, channels).index_select(0, (index + first).reshape(-1))
            rows = rows.view(batch, points, -1, channels)
            if not learning:
                return rows.amax(2) * sign
            winner = index.gather(2, rows.max(dim=2).indices)
        return other.gather(1, winner)

    def _statistics(
        self, own: Tensor, other: Tensor, index: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance [outputs] over the edges of valid points, or the running ones in evaluation."""
        norm = self.norm
        if not self.training:
            return norm.running_mean, norm.running_var  # type: ignore[return-value]
        edges = torch.zeros(len(own), own.shape[1], own.shape[1], device=own.device)
        edges.scatter_(2, index, 1.0)
        if valid is not None:
            edges = edges * valid[:, :, None]
        leaving, arriving = edges.sum(2)[..., None], edges.sum(1)[..., None]
        count = leaving.sum()
        own_mean = (leaving * own).sum((0, 1)) / count
        other_mean = (arriving * other).sum((0, 1)) / count
        # About the means: the square of a mean would drown a small variance in single precision.
        own, other = own - own_mean.detach(), other - other_mean.detach()
        product = (own * (edges @ other)).sum((0, 1))
        squares = (leaving * own.square()).sum((0, 1)) + (arriving * other.square()).sum((0, 1))
        mean = own_mean + other_mean
        variance = ((squares + 2 * product) / count).clamp(min=0)
        with torch.no_grad():
            norm.num_batches_tracked += 1  # type: ignore[operator]
            norm.running_mean.lerp_(mean, norm.momentum)  # type: ignore[union-attr, arg-type]
            norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)  # type: ignore[union-attr, arg-type]
        return mean, variance
