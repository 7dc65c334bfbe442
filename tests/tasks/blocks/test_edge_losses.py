"""The balanced cross-entropy with relaxed pixels: numbers by hand, exact zeros, stability, HED's balance."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from tasks.blocks.edge_losses import balanced_cross_entropy, image_balance


def test_loss_by_hand() -> None:
    logits = torch.tensor([math.log(3.0), math.log(3.0), 5.0, 0.0])  # sigmoid(log 3) = 3/4
    target = torch.tensor([1, 0, 2, 1])
    loss = balanced_cross_entropy(logits, target, 9.0, 1.0, reduction="none")
    expected = torch.tensor([9 * math.log(4 / 3), math.log(4.0), 0.0, 9 * math.log(2.0)])
    assert torch.allclose(loss, expected)
    assert float(balanced_cross_entropy(logits, target, 9.0, 1.0)) == pytest.approx(float(expected.sum()))
    mean = balanced_cross_entropy(logits, target, 9.0, 1.0, reduction="mean")
    assert float(mean) == pytest.approx(float(expected.sum()) / 4)


def test_gradient_is_that_of_the_paper_and_exactly_zero_where_relaxed() -> None:
    logits = torch.linspace(-4, 4, 30).requires_grad_()
    target = torch.arange(30) % 3
    balanced_cross_entropy(logits, target, 9.0, 1.0).backward()
    probability = logits.detach().sigmoid()
    expected = torch.where(target == 1, 9 * (probability - 1), probability)
    assert torch.allclose(logits.grad[target != 2], expected[target != 2], atol=1e-6)
    assert torch.equal(logits.grad[target == 2], torch.zeros(10))


def test_infinite_logits_where_relaxed_stay_out() -> None:
    logits = torch.tensor([math.inf, -math.inf, math.nan, 1.0], requires_grad=True)
    loss = balanced_cross_entropy(logits, torch.tensor([2, 2, 2, 0]), 9.0, 1.0)
    loss.backward()
    assert float(loss) == pytest.approx(math.log(1 + math.e))
    assert torch.equal(logits.grad[:3], torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_large_logits_are_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([-500.0, 500.0, 500.0, -500.0], dtype=dtype, requires_grad=True)
    loss = balanced_cross_entropy(logits, torch.tensor([1, 0, 1, 0]), 9.0, 1.0, reduction="none")
    assert loss.tolist() == [4500.0, 500.0, 0.0, 0.0]
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_equals_weighted_bce_without_relaxed_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    target = torch.randint(0, 2, logits.shape, generator=generator)
    weight = torch.where(target == 1, 0.7, 0.3)
    reference = F.binary_cross_entropy_with_logits(logits, target.float(), weight)
    assert torch.allclose(balanced_cross_entropy(logits, target, 0.7, 0.3, reduction="mean"), reference)


def test_balance_of_each_map_by_hand() -> None:
    target = torch.tensor([[[[1, 0, 0, 0]], [[1, 1, 2, 0]]], [[[2, 2, 2, 2]], [[0, 0, 0, 0]]]])
    positive, negative = image_balance(target)
    assert positive.shape == negative.shape == (2, 2, 1, 1)
    assert torch.allclose(positive.flatten(), torch.tensor([3 / 4, 1 / 3, 1.0, 1.0]))
    assert torch.allclose(negative.flatten(), torch.tensor([1 / 4, 2 / 3, 0.0, 0.0]))
    # With HED's weights, edges and non-edges weigh the same at even odds.
    loss = balanced_cross_entropy(torch.zeros(2, 2, 1, 4), target, positive, negative, reduction="none")
    first = loss[0, 0, 0]
    assert float(first[0]) == pytest.approx(float(first[1:].sum()))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        balanced_cross_entropy(torch.zeros(2, 5, 4, 4), torch.zeros(2, 1, 4, 4), 1.0, 1.0)
