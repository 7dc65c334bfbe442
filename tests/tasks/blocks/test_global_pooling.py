"""MAC, SPoC, GeM and R-MAC by hand and beside a slow loop."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tasks.blocks.global_pooling import (
    DescriptorPooling,
    generalised_mean,
    region_starts,
    regional_mac,
)

MAP = torch.tensor([[[[1.0, 3.0], [0.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]]])


def test_the_three_simple_ones_by_hand() -> None:
    for pooling, expected in (("mac", [3.0, 2.0]), ("spoc", [1.0, 2.0])):
        torch.testing.assert_close(
            DescriptorPooling(pooling)(MAP), F.normalize(torch.tensor([expected]), dim=1)
        )
    gem = generalised_mean(MAP, torch.tensor([3.0]))
    torch.testing.assert_close(gem, torch.tensor([[(28 / 4) ** (1 / 3), 2.0]]))


def test_gem_lies_between_the_mean_and_the_maximum() -> None:
    torch.testing.assert_close(
        generalised_mean(MAP, torch.tensor([1.0])), MAP.mean((2, 3)), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        generalised_mean(MAP, torch.tensor([60.0])), MAP.amax((2, 3)), atol=0.1, rtol=0
    )
    pooling = DescriptorPooling("gem")
    pooling(MAP).sum().backward()
    assert pooling.power.grad.abs() > 0


def test_regions_of_a_square_and_of_a_long_map() -> None:
    assert region_starts(6, 6) == [(6, [0], [0]), (4, [0, 2], [0, 2]), (3, [0, 1, 3], [0, 1, 3])]
    levels = region_starts(6, 10)
    assert [side for side, _, _ in levels] == [6, 4, 3]
    assert levels[0][1:] == ([0], [0, 4])  # two squares of 6 in 10 overlap by a third
    for side, rows, columns in levels:
        assert rows[-1] + side <= 6
        assert columns[-1] + side <= 10


@pytest.mark.parametrize("size", [(7, 7), (5, 9), (9, 4)])
def test_rmac_is_the_slow_loop(size: tuple[int, int]) -> None:
    features = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, 3)
    for side, rows, columns in region_starts(*size):
        for top in rows:
            for left in columns:
                region = features[:, :, top : top + side, left : left + side].amax((2, 3))
                expected += region / region.norm(dim=1, keepdim=True)
    torch.testing.assert_close(regional_mac(features), expected)


@pytest.mark.parametrize("pooling", ["mac", "spoc", "gem", "rmac"])
def test_descriptors_are_of_unit_length_over_scales_too(pooling: str) -> None:
    head = DescriptorPooling(pooling)
    one = head(MAP)
    torch.testing.assert_close(one.norm(dim=1), torch.ones(1))
    torch.testing.assert_close(head.combine(torch.stack([one, one, one])), one)
