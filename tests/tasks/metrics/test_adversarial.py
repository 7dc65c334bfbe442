"""Success rates, patch map, patchiness and rounding: numbers by hand and a slow reference."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.metrics.adversarial import (
    NoiseStatistics,
    VictimErrors,
    error_rates,
    patch_map,
    patchiness,
    quantise,
)


def test_rates_by_hand() -> None:
    clean = torch.tensor([[1, 1], [0, 1], [0, 1], [0, 1]]).bool()
    attacked = torch.tensor([[0, 1], [1, 1], [1, 0], [0, 1]]).bool()
    rounded = torch.tensor([[0, 1], [1, 1], [0, 0], [0, 1]]).bool()
    rates = error_rates(clean, attacked, rounded)
    assert rates.clean.tolist() == [25, 100]
    assert rates.adversarial.tolist() == [50, 75]
    assert rates.quantised.tolist() == [25, 75]
    # Victim 0 gets three right when clean, two of which fall; victim 1 gets none right.
    assert rates.clean_correct[0].item() == pytest.approx(200 / 3)
    assert math.isnan(rates.clean_correct[1])
    with pytest.raises(ValueError, match=r"three \[N, V\]"):
        error_rates(clean, attacked, rounded[:2])


def test_batches_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    wrong = torch.rand(3, 11, 4, generator=generator) < 0.4
    metric = VictimErrors()
    for part in wrong.split(4, dim=1):
        metric.update(*part)
    for gathered, direct in zip(metric.compute(), error_rates(*wrong), strict=True):
        torch.testing.assert_close(gathered, direct)


def test_patch_map_follows_the_footnote() -> None:
    # 15 of 16 -> 240; 16 of 16 -> 256, which a byte cannot hold.
    noise = torch.tensor([-15.0, 16.0, -16.0, 4.0])
    assert patch_map(noise, 16).tolist() == [240, 0, 0, 64]


def test_patchiness_of_known_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    scattered = torch.rand(2, 3, 64, 64, generator=generator)
    blocks = torch.rand(2, 3, 8, 8, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert patchiness(scattered).abs().max() < 0.05
    # Seven of eight neighbours are the same, the eighth independent.
    torch.testing.assert_close(patchiness(blocks), torch.full((2,), 7 / 8), atol=0.06, rtol=0)
    # A chessboard of strengths 0 and 1: each neighbour is the opposite.
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    torch.testing.assert_close(patchiness(board[None, None].float()), torch.tensor([-1.0]))
    # Signs don't matter, and noise of one strength, but for rounding, has no patches.
    signs = 2.0 * (scattered > 0.5) - 1
    torch.testing.assert_close(patchiness(signs * blocks), patchiness(blocks))
    assert patchiness(signs * 16 + 1e-5 * scattered).tolist() == [0, 0]
    # Full noise in patches shows in its signs alone.
    full = 16.0 * (2.0 * (blocks > 0.5) - 1)
    assert patchiness(full).tolist() == [0, 0]
    torch.testing.assert_close(patchiness(full, signed=True), torch.full((2,), 7 / 8), atol=0.06, rtol=0)
    with pytest.raises(ValueError, match="at least 2 x 2"):
        patchiness(torch.zeros(1, 1, 1, 5))


def test_rounding_keeps_the_bound_of_pictures_on_the_grid() -> None:
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (4, 3, 9, 9), generator=generator) / 255
    noise = (torch.rand(image.shape, generator=generator) * 2 - 1) * 16 / 255
    rounded = quantise((image + noise).clamp(0, 1))
    assert ((rounded - image).abs() * 255).max() <= 16 + 1e-3
    assert torch.equal((rounded * 255).round() / 255, rounded)


def test_noise_statistics_by_hand() -> None:
    statistics = NoiseStatistics()
    first = torch.zeros(1, 1, 2, 2)
    first[0, 0, 0, 0] = -8 / 255
    statistics.update(first)
    statistics.update(torch.full((1, 1, 2, 2), 4 / 255))
    found = statistics.compute()
    assert found["max_noise"] == pytest.approx(8, abs=1e-4)
    assert found["mean_noise"] == pytest.approx((2 + 4) / 2, abs=1e-4)
    # One pixel of four: mean 2, variance 12; of the two pairs across, -12 and 4 -> mean -4; down alike.
    assert found["patchiness"] == pytest.approx((-4 / 12 + 0) / 2, abs=1e-4)
