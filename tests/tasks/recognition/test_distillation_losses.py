"""Losses of other distillations: by hand, and against loops."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.recognition.distillation_losses import (
    boundary_loss,
    correlation_loss,
    hint_loss,
    logit_mse,
    sample_relations,
    softened_kl,
)


def test_mean_squares_by_hand() -> None:
    one, two = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert float(logit_mse(one, two)) == float(hint_loss(one, two)) == 2.5


def test_softened_divergence_by_hand() -> None:
    student, teacher = torch.zeros(1, 2), torch.tensor([[4 * math.log(3), 0.0]])
    # At temperature 4 the teacher says 3/4 and 1/4.
    expected = 16 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(softened_kl(student, teacher, 4.0)) == pytest.approx(expected, rel=1e-5)
    assert float(softened_kl(teacher + 3, teacher, 2.0)) == pytest.approx(0, abs=1e-6)


def test_hot_divergence_is_half_the_mean_square_of_centred_logits() -> None:
    """Hinton's limit: for a high temperature, tau^2 KL -> sum (z - z')^2 / (2 C)."""
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    gap = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = gap.square().sum(1).mean() / 10
    assert float(softened_kl(student, teacher, 300.0)) == pytest.approx(float(expected), rel=0.02)


def test_boundaries_by_hand() -> None:
    teacher = torch.tensor([5.0, -0.1, 3.0, -2.0])
    student = torch.tensor([2.0, -1.0, -0.5, 0.5])
    # Right by the margin, right on it, wrong by 1.5, wrong by 1.5.
    assert float(boundary_loss([student], [teacher])) == pytest.approx((2.25 + 2.25) / 4)
    below = torch.zeros(4)
    assert float(boundary_loss([below, student], [teacher, teacher])) == pytest.approx(1.125 + 0.5)


def test_correlation_against_a_loop() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 3, 2, 2), torch.randn(5, 7, 4, 4)
    total = 0.0
    for i in range(5):
        for j in range(5):
            phi = []
            for maps in (teacher, student):
                x, y = (maps[k].flatten() / maps[k].norm() for k in (i, j))
                dot = float(x @ y)
                phi.append(math.exp(-0.8) * sum(0.8**p / math.factorial(p) * dot**p for p in range(3)))
            total += (phi[0] - phi[1]) ** 2
    assert float(correlation_loss(student, teacher)) == pytest.approx(total / 25, rel=1e-4)


def test_relations_come_near_the_gaussian_kernel() -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 8)
    unit = features / features.norm(dim=1, keepdim=True)
    gaussian = torch.exp(-0.4 * torch.cdist(unit, unit).square())
    torch.testing.assert_close(sample_relations(features), gaussian, atol=0.06, rtol=0)
    torch.testing.assert_close(sample_relations(features, "cosine"), unit @ unit.T)
    assert torch.equal(sample_relations(features), sample_relations(features).T)
