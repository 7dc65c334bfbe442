"""Accuracy of a classifier under each of several test conditions, and the area under its curve over noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torchmetrics import Metric


def condition_confusion(
    prediction: Tensor, truth: Tensor, condition: Tensor, classes: int, conditions: int
) -> Tensor:
    """Count (condition, truth, prediction) triples of int64 [B] each -> int64 [conditions, classes, classes].

    Raises `ValueError` for other shapes and for labels or conditions out of range.

    >>> condition_confusion(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0, 1]), 2, 2).tolist()
    [[[1, 0], [0, 0]], [[0, 1], [0, 0]]]
    """
    if prediction.ndim != 1 or not prediction.shape == truth.shape == condition.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)}, truth {tuple(truth.shape)} and condition "
            f"{tuple(condition.shape)} must be equal and [B]"
        )
    for name, value, limit in (
        ("prediction", prediction, classes),
        ("truth", truth, classes),
        ("condition", condition, conditions),
    ):
        if value.numel() and (int(value.min()) < 0 or int(value.max()) >= limit):
            raise ValueError(f"{name} holds {int(value.min())}..{int(value.max())}, expected 0..{limit - 1}")
    triple = (condition * classes + truth) * classes + prediction
    count = torch.bincount(triple, minlength=conditions * classes * classes)
    return count.view(conditions, classes, classes)


def area_under_curve(levels: Sequence[float], values: Sequence[float]) -> float:
    """Mean height of the polygon through (level, value), by trapezia: its area over the length of its base.

    levels: ascending, two or more. A classifier whose accuracy doesn't fall has that accuracy.

    >>> area_under_curve([0.0, 0.1, 0.3], [100.0, 80.0, 0.0])
    56.666666666666664
    """
    if len(levels) < 2 or len(levels) != len(values):
        raise ValueError(
            f"{len(levels)} levels and {len(values)} values: expected as many of both, 2 or more"
        )
    if any(after <= before for before, after in pairwise(levels)):
        raise ValueError(f"levels must ascend: {list(levels)}")
    steps = range(len(levels) - 1)
    area = sum((levels[i + 1] - levels[i]) * (values[i] + values[i + 1]) / 2 for i in steps)
    return area / (levels[-1] - levels[0])


class ConditionAccuracy(Metric):
    """Confusion matrices of all conditions, summed over batches and processes.

    `compute` answers [2, conditions] in percent, NaN for a condition that no sample had: overall accuracy, and the
    mean of per-class accuracies over the classes that have truth.
    """

    higher_is_better = True
    full_state_update = False
    confusion: Tensor

    def __init__(self, classes: int, conditions: int) -> None:
        super().__init__()
        self.classes, self.conditions = classes, conditions
        empty = torch.zeros(conditions, classes, classes, dtype=torch.int64)
        self.add_state("confusion", empty, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor, condition: Tensor) -> None:
        """Take in int64 [B] each."""
        self.confusion += condition_confusion(prediction, truth, condition, self.classes, self.conditions)

    def compute(self) -> Tensor:
        counts = self.confusion.double()
        hits, truth = counts.diagonal(dim1=1, dim2=2), counts.sum(2)
        overall = 100 * hits.sum(1) / truth.sum(1)
        by_class = 100 * torch.nanmean(hits / truth, dim=1)
        return torch.stack([overall, by_class])
