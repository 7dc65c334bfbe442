"""Contrastive and triplet losses of tuples by hand; hard negatives beside a slow search."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.blocks.tuple_losses import (
    contrastive_tuple_loss,
    hardest_of_other_labels,
    triplet_tuple_loss,
)

QUERY = torch.tensor([[1.0, 0.0]])
POSITIVE = torch.tensor([[0.6, 0.8]])  # squared distance 0.8
NEGATIVES = torch.tensor([[[0.96, 0.28], [0.0, 1.0]]])  # squared distances 0.08 and 2


def test_contrastive_by_hand() -> None:
    expected = 0.5 * 0.8 + 0.5 * (0.85 - math.sqrt(0.08)) ** 2
    found = contrastive_tuple_loss(QUERY, POSITIVE, NEGATIVES)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    twice = contrastive_tuple_loss(QUERY.repeat(2, 1), POSITIVE.repeat(2, 1), NEGATIVES.repeat(2, 1, 1))
    assert twice.item() == pytest.approx(expected, rel=1e-5)


def test_triplet_by_hand() -> None:
    found = triplet_tuple_loss(QUERY, POSITIVE, NEGATIVES, margin=0.1)
    assert found.item() == pytest.approx(0.5 * (0.1 + 0.8 - 0.08), rel=1e-5)


def test_a_negative_equal_to_its_query_has_a_finite_gradient() -> None:
    query = QUERY.clone().requires_grad_()
    contrastive_tuple_loss(query, POSITIVE, QUERY[:, None]).backward()
    assert query.grad.isfinite().all()


def test_hard_negatives_are_the_slow_search() -> None:
    generator = torch.Generator().manual_seed(0)
    similarity, label = torch.rand(5, 20, generator=generator), torch.randint(6, (20,), generator=generator)
    query_label = torch.tensor([0, 1, 2, 3, 9])
    found = hardest_of_other_labels(similarity, query_label, label, 3)
    for row in range(5):
        chosen, used = [], set()
        for place in similarity[row].argsort(descending=True).tolist():
            kind = label[place].item()
            if kind != query_label[row].item() and kind not in used and len(chosen) < 3:
                chosen.append(place)
                used.add(kind)
        assert found[row].tolist() == chosen
    with pytest.raises(ValueError, match="5 negatives of different landmarks"):
        hardest_of_other_labels(similarity, query_label, label % 3, 5)
