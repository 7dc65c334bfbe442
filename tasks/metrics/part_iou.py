"""Intersection over union of the parts of shapes, as ShapeNet-Part is scored."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class PartScores(NamedTuple):
    """Percentages. instance: mean IoU over all shapes; category: mean over categories of the mean over their shapes;
    by_category: [K], NaN where there is no shape; accuracy: share of points that are right."""

    instance: Tensor
    category: Tensor
    by_category: Tensor
    accuracy: Tensor


def restricted_argmax(logits: Tensor, allowed: Tensor) -> Tensor:
    """The best part of those that a shape's category has: logits [B, M, S], allowed bool [B, S] -> int64 [B, M]."""
    return logits.float().masked_fill(~allowed[:, None], -torch.inf).argmax(-1)


def shape_iou(prediction: Tensor, truth: Tensor, allowed: Tensor) -> Tensor:
    """Mean IoU of each shape over the parts of its category, 0..1: int64 [B, M] twice, bool [B, S] -> float64 [B].

    A part that neither truth nor prediction has counts 1. Raises `ValueError` for other shapes and for a truth
    outside of the category's parts.

    >>> shape_iou(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 1]]), torch.ones(1, 3).bool()).tolist()
    [0.7222222222222222]
    """
    if prediction.ndim != 2 or prediction.shape != truth.shape or len(allowed) != len(truth):
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} must be equal and [B, M], "
            f"allowed {tuple(allowed.shape)} [B, S]"
        )
    if not bool(allowed.gather(1, truth).all()):
        raise ValueError("a true part isn't one of its shape's category")
    one = torch.ones_like(truth, dtype=torch.float64)
    empty = torch.zeros(allowed.shape, dtype=torch.float64, device=truth.device)
    predicted, true = empty.scatter_add(1, prediction, one), empty.scatter_add(1, truth, one)
    both = empty.scatter_add(1, truth, (prediction == truth).double())
    union = predicted + true - both
    iou = torch.where(union > 0, both / union.clamp(min=1), 1.0)
    return (iou * allowed).sum(1) / allowed.sum(1)


class PartIoU(Metric):
    """IoUs of shapes, summed by category over batches and processes."""

    higher_is_better = True
    full_state_update = False
    total: Tensor
    shapes: Tensor
    right: Tensor
    points: Tensor

    def __init__(self, categories: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(categories, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("shapes", torch.zeros(categories, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("right", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("points", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor, allowed: Tensor, category: Tensor) -> None:
        """Parts int64 [B, M], which parts a shape may have bool [B, S], category int64 [B]."""
        iou = shape_iou(prediction, truth, allowed)
        self.total.scatter_add_(0, category, iou)
        self.shapes.scatter_add_(0, category, torch.ones_like(iou))
        self.right += (prediction == truth).sum()
        self.points += truth.numel()

    def compute(self) -> PartScores:
        by_category = 100 * self.total / self.shapes
        return PartScores(
            instance=100 * self.total.sum() / self.shapes.sum(),
            category=by_category.nanmean(),
            by_category=by_category,
            accuracy=100 * self.right / self.points,
        )
