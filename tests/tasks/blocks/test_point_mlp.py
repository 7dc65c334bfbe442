"""The shared per-point layer: against its parts, and rows that don't count."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import leaky_relu

from tasks.blocks.point_mlp import PointMLP


def test_it_is_linear_normalisation_and_activation_over_all_points() -> None:
    torch.manual_seed(0)
    layer = PointMLP(3, 5)
    features = torch.randn(2, 7, 4, 3)
    rows = features.reshape(-1, 3) @ layer.linear.weight.T
    expected = leaky_relu(nn.BatchNorm1d(5)(rows), 0.2).view(2, 7, 4, 5)
    torch.testing.assert_close(layer(features), expected)
    assert layer.linear.bias is None
    assert PointMLP(3, 5, bias=True).linear.bias is not None
    assert (PointMLP(3, 5, slope=0.0)(features) >= 0).all()


def test_rows_that_are_not_valid_count_in_no_statistic() -> None:
    torch.manual_seed(0)
    layer = PointMLP(3, 5)
    features, valid = torch.randn(2, 6, 3), torch.arange(6).expand(2, -1) < 4
    answer = layer(features, valid)
    torch.testing.assert_close(answer[:, :4], layer(features[:, :4]))
    assert not answer[:, 4:].any()
    features[:, 4:] = 1e6
    torch.testing.assert_close(layer(features, valid), answer)
    assert layer.norm.running_mean.abs().max() < 10


def test_dropout_is_for_training() -> None:
    layer = PointMLP(3, 50, dropout=0.5)
    features = torch.randn(40, 3)
    assert 0.4 < (layer(features) == 0).float().mean() < 0.6
    assert not (layer.eval()(features) == 0).any()
