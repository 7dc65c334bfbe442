"""Lower bounds of the mutual information of global and local features, on scores of all pairs of a batch.

Deep InfoMax (Hjelm et al., ICLR 2019) and its augmented multiscale form (Bachman et al., NeurIPS 2019), whose public
codes the score network, the scaling and the clipping follow. Shapes: G global features, L pictures with P local
features each, U units of the common space; `scores[g, l, p]` is high where a global and a local feature go together.
All bounds are averages over pictures and over places, in float32.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Estimator = Literal["dv", "jsd", "nce"]


class Projection(nn.Module):
    """Features into the common space: linear, BN, ReLU, linear, plus a linear shortcut, then layer normalisation.

    [N, inputs] -> [N, units]. On local features it is a 1 x 1 convolution. The shortcut starts as the identity as far
    as it goes, the rest of it near zero, as in the code of Deep InfoMax.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(inputs, units, bias=False), nn.BatchNorm1d(units), nn.ReLU(), nn.Linear(units, units)
        )
        self.shortcut = nn.Linear(inputs, units)
        self.norm = nn.LayerNorm(units)
        with torch.no_grad():
            self.shortcut.weight.uniform_(-0.01, 0.01)
            same = torch.arange(min(inputs, units), device=self.shortcut.weight.device)
            self.shortcut.weight[same, same] = 1.0

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.hidden(features) + self.shortcut(features))


class PairScores(nn.Module):
    """Scores of all pairs of a global vector and a local feature: projections' dot product over sqrt(units).

    AMDIM's code has the root, that of Deep InfoMax takes the plain product: of normalised vectors of 2048 units it
    starts at a bound of minus tens of nats and takes long to come back.
    """

    def __init__(self, global_inputs: int, local_inputs: int, units: int) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(units)
        self.whole = Projection(global_inputs, units)
        self.local = Projection(local_inputs, units)

    def embed_local(self, local: Tensor) -> Tensor:
        """[L, C, h, w] -> [L, P, U], P = h w."""
        places = local.flatten(2).transpose(1, 2)
        return self.local(places.flatten(0, 1)).unflatten(0, places.shape[:2])

    def pairs(self, whole: Tensor, local: Tensor) -> Tensor:
        """Embedded features: [G, U] and [L, P, U] -> scores [G, L, P], float32."""
        scores = whole @ local.flatten(0, 1).T
        return scores.float().unflatten(1, local.shape[:2]) * self.scale

    def forward(self, whole: Tensor, local: Tensor) -> Tensor:
        """Global [G, D] and local features [L, C, h, w] -> scores [G, L, P]."""
        return self.pairs(self.whole(whole), self.embed_local(local))


def pair_loss(scores: Tensor, negative: Tensor, estimator: Estimator) -> Tensor:
    """Minus a lower bound of the mutual information; scalar. Zero where a batch has no negatives.

    scores: [B, B, P]; those of (i, i) are of the joint distribution. negative: bool [B, B], the pairs of the product
    of the marginals.
    dv: E_joint[T] - log E_marg[exp T] (Donsker and Varadhan; the paper's Eq. 4.4.1).
    jsd: E_joint[-softplus(-T)] - E_marg[softplus(T)], plus 2 log 2 (of Jensen and Shannon; not in nats of information).
    nce: mean over joint pairs of the log-share of a pair's own exp T in its sum with those of the negative places of
        all pictures with the same global feature; plus the log of how many there are, it bounds the information.
    """
    if scores.ndim != 3 or scores.shape[0] != scores.shape[1] or negative.shape != scores.shape[:2]:
        raise ValueError(
            f"scores must be [B, B, P] with negative [B, B], got {tuple(scores.shape)} and {tuple(negative.shape)}"
        )
    scores = scores.float()
    positive = scores.diagonal(dim1=0, dim2=1).T  # [B, P]
    places = scores.shape[2]
    count = negative.sum() * places
    if not bool(negative.any()):
        return scores.sum() * 0
    if estimator == "dv":
        others = scores.masked_fill(~negative[..., None], -torch.inf)
        return -(positive.mean() - (others.flatten().logsumexp(0) - count.float().log()))
    if estimator == "jsd":
        joint = math.log(2) - F.softplus(-positive).mean()
        marginal = (F.softplus(scores) * negative[..., None]).sum() / count - math.log(2)
        return marginal - joint
    if estimator == "nce":
        others = scores.masked_fill(~negative[..., None], -torch.inf).flatten(1).logsumexp(1)  # [B]
        return (torch.logaddexp(positive, others[:, None].expand_as(positive)) - positive).mean()
    raise ValueError(f"estimator {estimator!r} is none of dv, jsd, nce")


def soft_clip(scores: Tensor, limit: float) -> Tensor:
    """limit tanh(scores / limit): scores near 0 stay, none exceeds the limit."""
    return limit * torch.tanh(scores / limit)


def clipped_nce(scores: Tensor, negative: Tensor, *, clip: float = 20.0, penalty: float = 0.05) -> Tensor:
    """AMDIM's loss: `pair_loss(..., "nce")` on softly clipped scores, plus penalty x mean(scores^2)."""
    return pair_loss(soft_clip(scores, clip), negative, "nce") + penalty * scores.float().square().mean()


def donsker_varadhan(joint: Tensor, marginal: Tensor) -> Tensor:
    """The bound itself in nats (Eq. 4.4.1) of scores of any shape: mean(joint) - log mean(exp(marginal))."""
    return joint.float().mean() - (marginal.float().flatten().logsumexp(0) - math.log(marginal.numel()))
