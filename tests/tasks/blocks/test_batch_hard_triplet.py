"""The batch-hard triplet loss: by hand, against a loop, its gradient, batches without triplets."""

from __future__ import annotations

import pytest
import torch

from tasks.blocks.batch_hard_triplet import batch_hard_triplet


def test_by_hand() -> None:
    # Points 0, 1, 4 of one label and 3 of another. Squared distances: anchor 0: 16 - 9; 1: 9 - 4; 4: 16 - 1; the
    # single of its label has no positive.
    embedding = torch.tensor([[0.0], [1.0], [4.0], [3.0]])
    label = torch.tensor([0, 0, 0, 1])
    expected = (7.3 + 5.3 + 15.3) / 3
    assert float(batch_hard_triplet(embedding, label, 0.3)) == pytest.approx(expected)
    plain = ((4 - 3 + 0.3) + (3 - 2 + 0.3) + (4 - 1 + 0.3)) / 3
    assert float(batch_hard_triplet(embedding, label, 0.3, squared=False)) == pytest.approx(plain, abs=1e-5)


def test_agrees_with_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(24, 5, generator=generator, dtype=torch.float64).float()
    label = torch.arange(24) % 6
    terms = []
    for i in range(24):
        d = (embedding - embedding[i]).square().sum(1)
        positive = max(d[j] for j in range(24) if label[j] == label[i])
        negative = min(d[j] for j in range(24) if label[j] != label[i])
        terms.append(max(0.0, float(positive - negative) + 0.3))
    assert float(batch_hard_triplet(embedding, label)) == pytest.approx(sum(terms) / 24, rel=1e-5)


def test_gradient_pulls_positives_and_pushes_negatives() -> None:
    embedding = torch.tensor([[0.0], [2.0], [1.0]], requires_grad=True)
    batch_hard_triplet(embedding, torch.tensor([0, 0, 1])).backward()
    assert embedding.grad[0] < 0 < embedding.grad[1]  # a step against it brings both together
    step = embedding.detach() - 0.01 * embedding.grad
    assert batch_hard_triplet(step, torch.tensor([0, 0, 1])) < batch_hard_triplet(
        embedding, torch.tensor([0, 0, 1])
    )


@pytest.mark.parametrize("label", [[0, 0, 0], [0, 1, 2]])
def test_without_triplets_it_is_zero_with_a_gradient(label: list[int]) -> None:
    embedding = torch.randn(3, 2, requires_grad=True)
    loss = batch_hard_triplet(embedding, torch.tensor(label))
    loss.backward()
    assert float(loss) == 0
    assert embedding.grad.tolist() == [[0.0, 0.0]] * 3


def test_long_features_of_16_bits_do_not_overflow() -> None:
    embedding = (
        torch.full((4, 2048), 20.0, dtype=torch.float16) * torch.tensor([[1], [-1], [0.5], [-0.5]]).half()
    )
    assert batch_hard_triplet(embedding, torch.tensor([0, 0, 1, 1])).isfinite()
