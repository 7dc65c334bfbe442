"""Eqs. 3 and 4 by hand, and the triplets that are drawn for them."""

from __future__ import annotations

import pytest
import torch

from tasks.blocks.warp_consistency import Triplets, consistency_loss, draw_triplets


def one_triplet() -> tuple[torch.Tensor, Triplets]:
    """Three maps of 2 channels and 1 x 2 pixels."""
    warped = torch.tensor(
        [
            [[[1.0, 0.0]], [[0.0, 2.0]]],  # anchor
            [[[1.0, 1.0]], [[2.0, 2.0]]],  # positive: squared distances 4 and 1
            [[[0.0, 3.0]], [[0.0, 2.0]]],  # negative: 1 and 9
        ]
    )
    return warped, Triplets(torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))


def test_the_hinge_is_taken_at_each_pixel() -> None:
    warped, triplets = one_triplet()
    # Pixels: 4 - 1 + 2 = 5, and 1 - 9 + 2 = -6, which counts 0; the hinge of the sum would be 0.
    assert consistency_loss(warped, triplets, alpha=2.0).item() == pytest.approx(5.0)
    assert consistency_loss(warped, triplets, alpha=2.0, reduction="mean").item() == pytest.approx(2.5)
    assert consistency_loss(warped, triplets, alpha=9.0).item() == pytest.approx(12.0 + 1.0)


def test_the_square_loss() -> None:
    warped, triplets = one_triplet()
    assert consistency_loss(warped, triplets, alpha=2.0, form="square").item() == pytest.approx(5.0)
    assert consistency_loss(torch.ones(3, 2, 1, 2), triplets, alpha=2.0, form="square").item() == 0.0
    # A constant map does not make Eq. 4 vanish.
    assert consistency_loss(torch.ones(3, 2, 1, 2), triplets, alpha=2.0).item() == pytest.approx(4.0)


def test_it_averages_over_triplets_and_is_zero_without_any() -> None:
    warped, triplets = one_triplet()
    twice = Triplets(*(index.repeat(2) for index in triplets))
    assert consistency_loss(warped, twice, alpha=2.0).item() == pytest.approx(5.0)
    warped.requires_grad_()
    none = Triplets(*(index[:0] for index in triplets))
    loss = consistency_loss(warped, none, alpha=2.0)
    loss.backward()
    assert loss.item() == 0.0
    assert not warped.grad.any()


def test_half_precision_is_computed_in_full() -> None:
    warped, triplets = one_triplet()
    large = (100 * warped).half()
    assert consistency_loss(large, triplets, alpha=2.0).isfinite()


def test_triplets_are_what_they_should_be_and_random() -> None:
    label = torch.tensor([0, 0, 0, 1, 1, 1, 2, 3, 3])
    seen = set()
    for seed in range(30):
        triplets = draw_triplets(label, torch.Generator().manual_seed(seed))
        assert triplets.anchor.tolist() == [0, 1, 2, 3, 4, 5, 7, 8]  # 6 has no other of its class
        assert (label[triplets.positive] == label[triplets.anchor]).all()
        assert (triplets.positive != triplets.anchor).all()
        assert (label[triplets.negative] != label[triplets.anchor]).all()
        seen |= {(triplets.positive[0].item(), triplets.negative[0].item())}
    assert {pair[0] for pair in seen} == {1, 2}
    assert {pair[1] for pair in seen} >= {3, 4, 5, 6, 7, 8}
    again = [draw_triplets(label, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*again, strict=True))


def test_one_class_alone_gives_no_triplet() -> None:
    assert len(draw_triplets(torch.tensor([1, 1])).anchor) == 0
    assert len(draw_triplets(torch.tensor([1, 2])).anchor) == 0
