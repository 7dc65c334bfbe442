"""The bi-rank loss: by hand, against loops over all pairs, its negatives, its divisor and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.blocks.ranking_losses import bi_rank_loss, bidirectional_loss, hardest_negatives, other_items


def units(*degrees: float) -> Tensor:
    """Unit vectors in the plane."""
    angle = torch.tensor(degrees) * math.pi / 180
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def embeddings(seed: int, size: int = 12, width: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = F.normalize(torch.randn(size, width, generator=generator), dim=1)
    text = F.normalize(image + 0.7 * torch.randn(size, width, generator=generator), dim=1)
    return image, text, torch.randint(size // 2, (size,), generator=generator)


def looped(
    image: Tensor, text: Tensor, item: Tensor, margin: float, negatives: int, weights: tuple[float, ...]
) -> float:
    """The definition, pair by pair."""
    size, total = len(item), 0.0
    s = lambda a, b: float(a @ b)  # noqa: E731
    for i in range(size):
        pair = s(image[i], text[i])
        others = [j for j in range(size) if item[j] != item[i]]
        for found, across, within in (
            (lambda j, i=i: s(image[i], text[j]), weights[0], (weights[1], text)),
            (lambda j, i=i: s(image[j], text[i]), weights[2], (weights[3], image)),
        ):
            hard = sorted((j for j in others if margin - pair + found(j) > 0), key=found, reverse=True)
            for j in hard[:negatives]:
                total += across * (margin - pair + found(j))
                total += within[0] * max(0.0, margin - pair + s(within[1][i], within[1][j]))
    return total / (negatives * size)


def test_two_pairs_by_hand() -> None:
    # x0 = 0, y0 = 60, x1 = 90, y1 = 90 degrees: S(x0,y0) = 0.5, S(x1,y1) = 1, S(x0,y1) = 0, S(x1,y0) = cos 30.
    image, text = units(0, 90), units(60, 90)
    item, c30 = torch.tensor([0, 1]), math.cos(math.pi / 6)
    # m = 0.6. x0 asks: 0.6 - 0.5 + S(x0,y1) = 0.1 violates; within: 0.6 - 0.5 + S(y0,y1) = 0.1 + c30.
    # x1 asks: 0.6 - 1 + S(x1,y0) = c30 - 0.4; within the same with S(y1,y0) = c30.
    # y0 asks: 0.6 - 0.5 + S(x1,y0) = 0.1 + c30; within: 0.1 + S(x0,x1) = 0.1. y1 asks: 0.6 - 1 + 0 < 0: none.
    expected = (1 * 0.1 + 0.5 * (0.1 + c30) + 1.5 * (c30 - 0.4) + 2 * (0.1 + c30) + 1 * 0.1) / (1 * 2)
    loss = bi_rank_loss(image, text, item, margin=0.6, negatives=1)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    # With N = 50 the same hinges are divided by 50 B, although one violates.
    loss = bi_rank_loss(image, text, item, margin=0.6, negatives=50)
    assert loss.item() == pytest.approx(expected / 50, rel=1e-6)


def test_bidirectional_by_hand() -> None:
    image, text = units(0, 90), units(60, 90)
    c30 = math.cos(math.pi / 6)
    expected = (0.1 + (c30 - 0.4) + 3 * (0.1 + c30)) / 2
    loss = bidirectional_loss(image, text, torch.tensor([0, 1]), margin=0.6, negatives=1, alpha=3.0)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weights", [(1, 0.5, 2, 1), (2, 1, 1, 0.5), (1, 0, 2, 0), (0, 0, 1, 0)])
@pytest.mark.parametrize("negatives", [1, 3, 50])
def test_like_loops_over_pairs(weights: tuple[float, ...], negatives: int) -> None:
    image, text, item = embeddings(seed=1)
    expected = looped(image, text, item, 0.3, negatives, weights)
    loss = bi_rank_loss(image, text, item, margin=0.3, negatives=negatives, weights=weights)
    assert expected > 0
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_separated_pairs_lose_nothing() -> None:
    corners = torch.eye(4)
    assert bi_rank_loss(corners, corners, torch.arange(4)).item() == 0.0
    # Swapped, every pair is wrong: the sign of the hinge.
    assert bi_rank_loss(corners, corners.roll(1, 0), torch.arange(4)).item() > 0.0


def test_captions_of_the_same_picture_are_no_negatives() -> None:
    image, text = units(0, 0, 90), units(5, 10, 95)
    apart = bi_rank_loss(image, text, torch.tensor([0, 1, 2]), margin=0.2)
    together = bi_rank_loss(image, text, torch.tensor([0, 0, 2]), margin=0.2)
    assert apart.item() > 0.0
    assert together.item() == 0.0
    assert bi_rank_loss(image, text, torch.zeros(3, dtype=torch.long)).item() == 0.0


def test_the_hardest_come_first_and_only_violators() -> None:
    similarity = torch.tensor([[0.5, 0.45, 0.1, 0.6], [0.0, 0.9, 0.2, 0.3], [0.4, 0.4, 0.4, 0.4], [0.0] * 4])
    allowed = other_items(torch.tensor([0, 1, 2, 2]))
    index, chosen = hardest_negatives(similarity, allowed, 0.1, 2)
    assert index[0].tolist() == [3, 1]
    assert chosen.tolist() == [[True, True], [False, False], [True, True], [True, True]]
    assert set(index[2].tolist()) == {0, 1}  # not 3, which shows the same picture
    assert hardest_negatives(similarity, allowed, 0.1, 50)[0].shape == (4, 4)


def test_gradient_brings_pairs_together() -> None:
    image, text, item = embeddings(seed=2)
    image, text = image.double().requires_grad_(), text.double().requires_grad_()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return bi_rank_loss(F.normalize(x, dim=1), F.normalize(y, dim=1), item, margin=0.3, negatives=3)

    before = loss(image, text)
    slope = torch.autograd.grad(before, (image, text))
    after = loss(image - 0.1 * slope[0], text - 0.1 * slope[1])
    assert all(part.abs().sum() > 0 for part in slope)
    assert after < before


def test_order_of_pairs_is_no_matter() -> None:
    image, text, item = embeddings(seed=3)
    order = torch.randperm(len(item), generator=torch.Generator().manual_seed(0))
    first = bi_rank_loss(image, text, item, negatives=4)
    second = bi_rank_loss(image[order], text[order], item[order], negatives=4)
    assert first.item() == pytest.approx(second.item(), rel=1e-5)


def test_float32_under_mixed_precision() -> None:
    image, text, item = embeddings(seed=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = bi_rank_loss(image, text, item)
    assert mixed.dtype == torch.float32
    assert mixed.item() == bi_rank_loss(image, text, item).item()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\), \(2, 2\) and \(3,\)"):
        bi_rank_loss(torch.rand(3, 2), torch.rand(2, 2), torch.zeros(3, dtype=torch.long))
