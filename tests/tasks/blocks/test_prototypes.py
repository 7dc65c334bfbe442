"""Prototypes and their losses, with numbers worked out by hand and against loops."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.blocks.prototypes import (
    attentive_prototypes,
    episode_nll,
    mean_prototypes,
    random_negatives,
    score_mse,
    squared_distances,
    triplet_loss,
)


def test_attention_by_hand() -> None:
    """A query at 0 and supports at 1 and 2 with sigma 1: weights exp(-1/2) to exp(-2), prototype their mean."""
    support = torch.tensor([[[[1.0], [2.0]]]])
    weights, prototypes = attentive_prototypes(support, torch.zeros(1, 1, 1), sigma=1.0)
    near = math.exp(-0.5) / (math.exp(-0.5) + math.exp(-2))
    assert weights.flatten().tolist() == [pytest.approx(near), pytest.approx(1 - near)]
    assert float(prototypes) == pytest.approx(near + 2 * (1 - near))


def test_each_query_and_class_has_its_own_prototype_as_in_loops() -> None:
    torch.manual_seed(0)
    support, query = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 5)
    weights, prototypes = attentive_prototypes(support, query, sigma=0.7)
    assert weights.shape == (2, 6, 3, 4)
    assert prototypes.shape == (2, 6, 3, 5)
    for b, q, m in [(0, 0, 0), (1, 5, 2), (1, 2, 1)]:
        raw = [math.exp(-float((query[b, q] - s).square().sum()) / (2 * 0.49)) for s in support[b, m]]
        expected = sum(r / sum(raw) * s for r, s in zip(raw, support[b, m], strict=True))
        torch.testing.assert_close(prototypes[b, q, m], expected, atol=1e-5, rtol=1e-4)


def test_limits_of_sigma_and_of_a_single_shot() -> None:
    torch.manual_seed(0)
    support, query = torch.randn(1, 2, 3, 4), torch.randn(1, 5, 4)
    wide = attentive_prototypes(support, query, sigma=1e4)
    torch.testing.assert_close(wide.prototypes, mean_prototypes(support)[:, None].expand(-1, 5, -1, -1))
    far = attentive_prototypes(100 * support, 100 * query, sigma=0.1)  # exp(-1e6) would underflow
    nearest = squared_distances(query, support.flatten(1, 2)).view(1, 5, 2, 3).argmin(3)
    assert torch.equal(far.weights.argmax(3), nearest)
    torch.testing.assert_close(far.weights.sum(3), torch.ones(1, 5, 2))
    one = attentive_prototypes(support[:, :, :1], query, sigma=0.1)
    assert (one.weights == 1).all()


def test_an_outlier_pulls_the_mean_and_not_the_attentive_prototype() -> None:
    support = torch.tensor([[[[0.0], [0.1], [5.0]]]])
    query = torch.tensor([[[0.05]]])
    assert float(mean_prototypes(support)) == pytest.approx(1.7)
    assert float(attentive_prototypes(support, query, 0.1).prototypes) == pytest.approx(0.05, abs=1e-4)


def test_distances_are_right_and_differentiable_where_they_are_zero() -> None:
    query = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]], requires_grad=True)
    distance = squared_distances(query, torch.zeros(1, 1, 2))
    assert distance.flatten().tolist() == [25.0, 0.0]
    distance.sum().backward()
    assert query.grad is not None
    assert query.grad.tolist() == [[[6.0, 8.0], [0.0, 0.0]]]


def test_gradients_flow_through_weights_supports_and_queries() -> None:
    torch.manual_seed(0)
    support = torch.randn(1, 2, 3, 4, requires_grad=True)
    query = torch.randn(1, 5, 4, requires_grad=True)
    weights, prototypes = attentive_prototypes(support, query, 1.0)
    (through_weights,) = torch.autograd.grad(weights[..., 0].sum(), support, retain_graph=True)
    assert through_weights.abs().sum() > 0
    squared_distances(query, prototypes).sum().backward()
    assert support.grad is not None
    assert query.grad is not None
    # The query moves its prototypes too: without that its gradient would be 2 * (M q - sum of prototypes).
    direct = 2 * (2 * query - prototypes.sum(2))
    assert not torch.allclose(query.grad, direct.detach())


def test_triplet_loss_by_hand() -> None:
    """Two queries of class 0 and 1 with negatives 1 and 2, and 0 and 2; margin 0.5."""
    distance = torch.tensor([[[1.0, 1.2, 3.0], [2.0, 1.0, 0.5]]])
    label, negatives = torch.tensor([[0, 1]]), torch.tensor([[[1, 2], [0, 2]]])
    # Hinges: 1 - 1.2 + .5 = .3 and 1 - 3 + .5 < 0; 1 - 2 + .5 < 0 and 1 - .5 + .5 = 1.
    assert float(triplet_loss(distance, label, negatives, 0.5, mining=False)) == pytest.approx(1.3 / 4)
    assert float(triplet_loss(distance, label, negatives, 0.5)) == pytest.approx(1.3 / 2)
    assert float(triplet_loss(distance, label, negatives[:, :, :1], 0.5)) == pytest.approx(0.3)


def test_an_episode_without_hard_triplets_is_zero_and_not_nan() -> None:
    easy = torch.tensor([[[0.0, 9.0]]], requires_grad=True)
    loss = triplet_loss(easy, torch.tensor([[0]]), torch.tensor([[[1]]]), 0.5)
    loss.backward()
    assert float(loss) == 0
    assert easy.grad is not None
    assert easy.grad.abs().sum() == 0
    # Beside an episode with loss 2 it counts as zero: each episode has its own average.
    two = torch.tensor([[[0.0, 9.0]], [[2.0, 0.5]]])
    both = triplet_loss(two, torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1, 1, dtype=torch.long), 0.5)
    assert float(both) == pytest.approx(1.0)


def test_negatives_are_different_other_classes_all_of_them_possible() -> None:
    torch.manual_seed(0)
    label = torch.randint(0, 5, (40, 30))
    negatives = random_negatives(label, 5, 3)
    assert negatives.shape == (40, 30, 3)
    assert not (negatives == label[:, :, None]).any()
    assert (negatives.sort(dim=2).values.diff(dim=2) > 0).all()
    counts = torch.bincount(negatives[label == 0].flatten(), minlength=5).float()
    assert counts[0] == 0
    assert counts[1:].min() > 0.8 * counts[1:].mean()
    with pytest.raises(ValueError, match="negative classes"):
        random_negatives(label, 5, 5)


def test_the_other_losses_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]]])
    assert float(episode_nll(logits, torch.tensor([[1]]))) == pytest.approx(-math.log(0.75))
    assert float(score_mse(torch.tensor([[[0.5, 0.9]]]), torch.tensor([[1]]))) == pytest.approx(0.13)
