"""Episode scores: interval, coverage curve, the split by outliers."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from tasks.metrics.episodes import EpisodeScores, coverage_accuracy, mean_and_interval


def test_mean_and_interval_by_hand() -> None:
    mean, half = mean_and_interval(torch.tensor([0.2, 0.4, 0.6, 0.8]))
    deviation = math.sqrt((0.09 + 0.01 + 0.01 + 0.09) / 3)
    assert mean == pytest.approx(0.5)
    assert half == pytest.approx(1.96 * deviation / 2)
    assert math.isnan(mean_and_interval(torch.tensor([0.2]))[1])


def test_coverage_keeps_the_sure_ones() -> None:
    confidence = torch.tensor([0.3, 0.9, 0.5, 0.7])
    correct = torch.tensor([False, True, False, True])
    curve = coverage_accuracy(confidence, correct, torch.tensor([0.25, 0.5, 0.75, 1.0]))
    assert curve.tolist() == pytest.approx([1, 1, 2 / 3, 0.5])


def test_equal_confidence_makes_a_flat_curve_in_any_order() -> None:
    correct = torch.tensor([True] * 10 + [False] * 40)
    coverage = torch.tensor([0.1, 0.5, 0.8, 1.0])
    for order in (torch.arange(50), torch.arange(50).flip(0)):
        curve = coverage_accuracy(torch.full((50,), 0.2), correct[order], coverage)
        assert curve.tolist() == pytest.approx([0.2] * 4)


def test_scores_agree_with_torchmetrics_episode_by_episode_and_split_by_outliers() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(6, 10, 5), torch.randint(0, 5, (6, 10))
    outlier = torch.zeros(6, 5, 3, dtype=torch.bool)
    outlier[:, 2, 1] = True
    scores = EpisodeScores()
    scores.update(logits[:2], label[:2], outlier[:2])
    scores.update(logits[2:], label[2:], outlier[2:])
    found = scores.compute()
    for episode in range(6):
        expected = multiclass_accuracy(logits[episode], label[episode], num_classes=5, average="micro")
        assert float(found["accuracies"][episode]) == pytest.approx(float(expected))
    right = logits.argmax(2) == label
    hit, count = found["by_outlier"][1].tolist()
    assert count == int((label == 2).sum())
    assert hit == int(right[label == 2].sum())
    assert found["by_outlier"].sum(0).tolist() == [int(right.sum()), 60]
