"""Bounds of mutual information: by hand, against slow loops, on Gaussians whose information is known."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.blocks.mutual_information import (
    PairScores,
    Projection,
    clipped_nce,
    donsker_varadhan,
    pair_loss,
    soft_clip,
)

OTHERS = ~torch.eye(3, dtype=torch.bool)


def scores() -> torch.Tensor:
    return torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))


def test_donsker_varadhan_by_hand() -> None:
    # One place; joint scores 1 and 3, marginal ones 0 and log 3: 2 - log((1 + 3) / 2).
    table = torch.tensor([[[1.0], [0.0]], [[math.log(3)], [3.0]]])
    expected = 2 - math.log(2)
    assert pair_loss(table, ~torch.eye(2, dtype=torch.bool), "dv").item() == pytest.approx(-expected)
    assert donsker_varadhan(
        torch.tensor([1.0, 3.0]), torch.tensor([0.0, math.log(3)])
    ).item() == pytest.approx(expected)


def test_jensen_shannon_by_hand() -> None:
    table = torch.zeros(2, 2, 1)
    # All scores 0: joint log 2 - log 2, marginal log 2 - log 2.
    assert pair_loss(table, ~torch.eye(2, dtype=torch.bool), "jsd").item() == pytest.approx(0, abs=1e-6)
    table = torch.tensor([[[2.0], [-1.0]], [[-1.0], [2.0]]])
    expected = math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)) - 2 * math.log(2)
    assert pair_loss(table, ~torch.eye(2, dtype=torch.bool), "jsd").item() == pytest.approx(expected)


def test_contrastive_loss_against_loops() -> None:
    table = scores()
    total = 0.0
    for picture in range(3):
        for place in range(4):
            own = table[picture, picture, place].exp()
            others = sum(table[picture, j].exp().sum() for j in range(3) if j != picture)
            total -= math.log(own / (own + others))
    assert pair_loss(table, OTHERS, "nce").item() == pytest.approx(total / 12, rel=1e-5)
    with_penalty = clipped_nce(table, OTHERS, clip=1e6, penalty=0.05).item()
    assert with_penalty == pytest.approx(total / 12 + 0.05 * table.square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("estimator", ["dv", "jsd", "nce"])
def test_pairs_that_are_no_negatives_do_not_count(estimator: str) -> None:
    table, negative = scores(), OTHERS.clone()
    negative[0, 1] = negative[1, 0] = False  # of one class
    changed = table.clone()
    changed[0, 1] = 50.0
    before, after = (pair_loss(each, negative, estimator).item() for each in (table, changed))  # type: ignore[arg-type]
    assert before == after
    assert pair_loss(changed, OTHERS, estimator).item() > before + 1  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ["dv", "jsd", "nce"])
def test_a_batch_without_negatives_tells_nothing(estimator: str) -> None:
    table = scores().requires_grad_()
    loss = pair_loss(table, torch.zeros(3, 3, dtype=torch.bool), estimator)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert not table.grad.any()


@pytest.mark.parametrize("estimator", ["dv", "nce"])
def test_large_scores_stay_finite(estimator: str) -> None:
    table = (1e4 * scores()).requires_grad_()
    loss = pair_loss(table, OTHERS, estimator)  # type: ignore[arg-type]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(table.grad).all()


def test_wrong_shapes_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores must be \[B, B, P\]"):
        pair_loss(torch.zeros(2, 3, 1), OTHERS, "dv")
    with pytest.raises(ValueError, match="none of dv, jsd, nce"):
        pair_loss(scores(), OTHERS, "mine")  # type: ignore[arg-type]


def test_soft_clip() -> None:
    clipped = soft_clip(torch.tensor([0.01, 1e4, -1e4]), 20.0)
    torch.testing.assert_close(clipped, torch.tensor([0.01, 20.0, -20.0]), atol=1e-4, rtol=0)


def test_the_bound_on_gaussians_comes_near_their_information() -> None:
    # Two standard normals with correlation 0.8 share -log(1 - 0.64) / 2 = 0.51 nats.
    torch.manual_seed(0)
    x = torch.randn(4000)
    y = 0.8 * x + 0.6 * torch.randn(4000)

    # The best statistics network there is: the logarithm of the density's ratio.
    def ratio(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return -0.5 * math.log(0.36) - (0.64 * (a**2 + b**2) - 1.6 * a * b) / 0.72

    bound = donsker_varadhan(ratio(x, y), ratio(x, y.roll(1)))
    assert bound.item() == pytest.approx(-0.5 * math.log(0.36), abs=0.06)


def test_scores_of_all_pairs_are_scaled_dot_products() -> None:
    torch.manual_seed(0)
    network = PairScores(5, 7, 16).eval()
    whole, local = torch.randn(3, 5), torch.randn(2, 7, 2, 3)
    table = network(whole, local)
    assert table.shape == (3, 2, 6)
    vector = network.whole(whole)[2]
    place = network.local(local[1, :, 1, 0][None])[0]  # row 1, column 0: place 3
    assert table[2, 1, 3].item() == pytest.approx((vector @ place / 4).item(), rel=1e-5)


def test_a_projection_starts_near_the_normalised_identity() -> None:
    torch.manual_seed(0)
    projection = Projection(6, 8)
    weight = projection.shortcut.weight
    assert (weight.diagonal() == 1).all()
    assert weight[~torch.eye(8, 6, dtype=torch.bool)].abs().max() <= 0.01
    out = projection(torch.randn(10, 6))
    torch.testing.assert_close(out.mean(1), torch.zeros(10), atol=1e-5, rtol=0)
