"""Accuracy over few-shot episodes: its mean and interval, and accuracy of what is answered when unsure ones
are refused. Pure functions, and a torchmetrics Metric on top of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def mean_and_interval(accuracy: Tensor) -> tuple[float, float]:
    """Mean over episodes [E] and half its 95 % interval, 1.96 standard deviations / sqrt(E).

    The deviation is the sample's (E - 1); one episode has no interval: NaN.

    >>> mean, half = mean_and_interval(torch.tensor([0.5, 1.0]))
    >>> mean, round(half, 6)
    (0.75, 0.49)
    """
    values = accuracy.double()
    half = 1.96 * float(values.std()) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return float(values.mean()), half


def coverage_accuracy(confidence: Tensor, correct: Tensor, coverage: Tensor) -> Tensor:
    """Accuracy among the most confident share of answers.

    confidence: [N]; correct: bool [N]; coverage: shares in (0, 1]. Among equally confident ones the expected
    share is taken, so the order of the answers does not matter. -> float64 like coverage.

    >>> coverage_accuracy(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([True, True, False]),
    ...                   torch.tensor([2 / 3, 1.0]))
    tensor([1.0000, 0.6667], dtype=torch.float64)
    """
    levels, group = confidence.double().unique(return_inverse=True)
    counts = torch.bincount(group, minlength=len(levels)).flip(0).double()
    right = torch.bincount(group, weights=correct.double(), minlength=len(levels)).flip(0)
    zero = counts.new_zeros(1)
    answered, hits = torch.cat([zero, counts.cumsum(0)]), torch.cat([zero, right.cumsum(0)])
    wanted = coverage.double() * len(confidence)
    upper = torch.searchsorted(answered, wanted).clamp(1, len(levels))
    part = (wanted - answered[upper - 1]) / (answered[upper] - answered[upper - 1])
    return (hits[upper - 1] + part.clamp(0, 1) * (hits[upper] - hits[upper - 1])) / wanted


class EpisodeScores(Metric):
    """Gathers, query by query, how sure and how right the answers are; see `compute`."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.accuracies: list[Tensor]
        self.confidences: list[Tensor]
        self.corrects: list[Tensor]
        self.add_state("accuracies", [], dist_reduce_fx="cat")
        self.add_state("confidences", [], dist_reduce_fx="cat")
        self.add_state("corrects", [], dist_reduce_fx="cat")
        # Right answers and queries, of classes without and with an outlier among their supports.
        self.add_state("by_outlier", torch.zeros(2, 2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor, outlier: Tensor | None = None) -> None:
        """logits [B, Q, M] of the posterior; label int64 [B, Q]; outlier bool [B, M, K] of the supports."""
        confidence, answer = logits.detach().float().softmax(dim=2).max(dim=2)
        correct = answer == label
        self.accuracies.append(correct.double().mean(dim=1))
        self.confidences.append(confidence.flatten())
        self.corrects.append(correct.flatten())
        if outlier is not None:
            disturbed = outlier.any(dim=2).gather(1, label)
            for group, members in enumerate((~disturbed, disturbed)):
                self.by_outlier[group, 0] += correct[members].sum()
                self.by_outlier[group, 1] += members.sum()

    def compute(self) -> dict[str, Tensor]:
        """accuracies [E] of the episodes; confidence [N] and correct [N] of all queries; by_outlier [2, 2]."""
        return {
            "accuracies": dim_zero_cat(self.accuracies),
            "confidence": dim_zero_cat(self.confidences),
            "correct": dim_zero_cat(self.corrects),
            "by_outlier": self.by_outlier,
        }
