"""Purity as the mean over clusters, k-means, and rates of instances, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import recall_score

from tasks.metrics.bags import Gathered, cluster_purity, clusters_of, true_rates


def test_purity_is_the_mean_over_clusters() -> None:
    cluster = torch.tensor([0] * 8 + [1] * 2)
    label = torch.tensor([4] * 7 + [2] + [2, 4])
    assert cluster_purity(cluster, label) == pytest.approx((7 / 8 + 1 / 2) / 2)
    pooled = (7 + 1) / 10
    assert cluster_purity(cluster, label) != pytest.approx(pooled)
    assert cluster_purity(torch.zeros(5).long(), torch.tensor([1, 1, 1, 7, 9])) == pytest.approx(0.6)


def test_purity_depends_neither_on_names_nor_on_order() -> None:
    generator = torch.Generator().manual_seed(0)
    cluster = torch.randint(0, 4, (50,), generator=generator)
    label = torch.randint(0, 3, (50,), generator=generator)
    order = torch.randperm(50, generator=generator)
    renamed = cluster_purity(9 - 2 * cluster[order], 5 + label[order])
    assert renamed == pytest.approx(cluster_purity(cluster, label))
    slow = [
        max(int(((cluster == k) & (label == c)).sum()) for c in range(3)) / int((cluster == k).sum())
        for k in range(4)
    ]
    assert cluster_purity(cluster, label) == pytest.approx(sum(slow) / 4)


def test_k_means_finds_what_is_apart_and_is_repeatable() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(3).repeat(20)
    features = 10 * torch.eye(3)[label] + torch.randn(60, 3, generator=generator)
    found = clusters_of(features, 3)
    assert cluster_purity(found, label) == 1.0
    assert len(found.unique()) == 3
    assert torch.equal(found, clusters_of(features, 3))
    with pytest.raises(ValueError, match="2 features"):
        clusters_of(features[:2], 3)


def test_rates_against_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    positive, truth = torch.rand(2, 40, generator=generator) > 0.4
    tpr, tnr = true_rates(positive, truth)
    assert tpr == pytest.approx(recall_score(truth, positive))
    assert tnr == pytest.approx(recall_score(truth, positive, pos_label=0))
    assert math.isnan(true_rates(positive, torch.zeros(40).bool())[0])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        cluster_purity(torch.zeros(2).long(), torch.zeros(3).long())
    with pytest.raises(ValueError, match="bool"):
        true_rates(torch.zeros(2), torch.zeros(2).bool())
    metric = Gathered("a", "b")
    with pytest.raises(ValueError, match="a, b"):
        metric.update(a=torch.zeros(2))
    metric.update(a=torch.ones(2, 3), b=torch.zeros(2))
    metric.update(a=torch.ones(1, 3), b=torch.zeros(1))
    assert metric.compute()["a"].shape == (3, 3)
