"""Equalised learning rate: scale, variance, shapes."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.blocks.equalised_lr import EqualisedConv2d, EqualisedLinear


def test_weights_are_scaled_by_hes_constant_at_run_time() -> None:
    layer = EqualisedConv2d(2, 1, 3, gain=3.0)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(0.5)
    # Inside, 2 * 9 ones times 3 / sqrt(18).
    found = float(layer(torch.ones(1, 2, 5, 5))[0, 0, 2, 2])
    assert found == pytest.approx(18 * 3 / math.sqrt(18) + 0.5)


def test_linear_by_hand() -> None:
    layer = EqualisedLinear(4, 1, gain=1.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2, 3, 4]]))
    assert float(layer(torch.ones(1, 4))) == 5.0  # 10 / sqrt(4)


def test_variance_is_kept_and_weights_are_standard_normal() -> None:
    torch.manual_seed(0)
    layer = EqualisedConv2d(64, 256, 3, gain=1.0)
    assert abs(float(layer.weight.std()) - 1) < 0.02
    out = layer(torch.randn(4, 64, 16, 16))
    assert abs(float(out[..., 1:-1, 1:-1].std()) - 1) < 0.05
    assert EqualisedConv2d(3, 8, 3, stride=2)(torch.zeros(1, 3, 16, 12)).shape == (1, 8, 8, 6)


def test_adam_moves_wide_and_narrow_layers_by_the_same_share() -> None:
    for width in (4, 400):
        layer = EqualisedLinear(width, 8)
        before = layer.weight.detach() * layer.scale
        optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
        layer(torch.ones(2, width)).sum().backward()
        optimiser.step()
        moved = (layer.weight.detach() * layer.scale - before).abs().mean()
        assert float(moved / layer.scale) == pytest.approx(0.01, rel=1e-2)
