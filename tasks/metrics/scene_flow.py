"""End-point error, accuracies and outliers of scene flow, per example, then averaged over examples.

As HPLFlowNet (Gu et al., CVPR 2019) and those after it count. With e = |f_est - f| and r = e / (|f| + 1e-4):
EPE is the mean of e, AS the share of points with e < 0.05 m or r < 0.05, AR with e < 0.1 m or r < 0.1, and
outliers those with e > 0.3 m or r > 0.1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

NAMES = ("epe", "as", "ar", "outliers")


def scene_flow_scores(flow: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """flow, truth [B, n, 3] in metres and mask bool [B, n] -> float64 [B, 4]: EPE (m), AS, AR, outliers (%).

    Only masked points count; an example without any is NaN. Raises `ValueError` for other shapes.

    >>> truth = torch.tensor([[[1.0, 0, 0], [1.0, 0, 0]]])
    >>> flow = torch.tensor([[[1.04, 0, 0], [1.5, 0, 0]]])
    >>> [round(x, 2) for x in scene_flow_scores(flow, truth, torch.ones(1, 2).bool())[0].tolist()]
    [0.27, 50.0, 50.0, 50.0]
    """
    if flow.shape != truth.shape or flow.ndim != 3 or flow.shape[-1] != 3 or mask.shape != flow.shape[:2]:
        raise ValueError(
            f"flow {tuple(flow.shape)} and truth {tuple(truth.shape)} must be [B, n, 3], mask "
            f"{tuple(mask.shape)} [B, n]"
        )
    error = (flow.double() - truth.double()).norm(dim=-1)
    relative = error / (truth.double().norm(dim=-1) + 1e-4)
    per_point = torch.stack(
        [
            error,
            100.0 * ((error < 0.05) | (relative < 0.05)),
            100.0 * ((error < 0.1) | (relative < 0.1)),
            100.0 * ((error > 0.3) | (relative > 0.1)),
        ],
        dim=-1,
    )
    valid = mask.bool()
    # A point that doesn't count may be anything, NaN included.
    return torch.where(valid[..., None], per_point, 0.0).sum(1) / valid.sum(1, keepdim=True)


class SceneFlowScores(Metric):
    """Means over examples, in the order of `NAMES`; examples without a valid point are left out and counted."""

    full_state_update = False
    total: Tensor
    examples: Tensor
    empty: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(len(NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("examples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("empty", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, flow: Tensor, truth: Tensor, mask: Tensor) -> None:
        """Take in a batch, shapes as for `scene_flow_scores`."""
        judged = mask.any(1)
        self.total += scene_flow_scores(flow, truth, mask)[judged].sum(0)
        self.examples += judged.sum()
        self.empty += (~judged).sum()

    def compute(self) -> dict[str, float]:
        """EPE in metres, the rest in percent; NaN where there was no example."""
        return dict(zip(NAMES, (self.total / self.examples).tolist(), strict=True))


class MatchHits(Metric):
    """Share of points (%) whose answered partner is the true one, over points whose true one is known."""

    full_state_update = False
    hits: Tensor
    known: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("known", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, match: Tensor, truth: Tensor) -> None:
        """match, truth: int64 [B, n], indices in the second cloud; truth -1: unknown."""
        if match.shape != truth.shape:
            raise ValueError(f"match {tuple(match.shape)} and truth {tuple(truth.shape)} must be equal")
        known = truth >= 0
        self.known += known.sum()
        self.hits += (known & (match == truth)).sum()

    def compute(self) -> Tensor:
        return 100.0 * self.hits.double() / self.known
