"""Edge convolution against the obvious way, edge by edge; distances and neighbours by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from tasks.blocks.edge_conv import EdgeConv, feature_neighbours, squared_distances


def edge_by_edge(layer: EdgeConv, features: Tensor, index: Tensor, valid: Tensor | None = None) -> Tensor:
    """[x_i, x_j - x_i] through the linear map, nn.BatchNorm1d, leaky ReLU and the maximum."""
    batch, points, _ = features.shape
    neighbour = torch.stack([features[b][index[b]] for b in range(batch)])
    query = features[:, :, None].expand_as(neighbour)
    edges = torch.cat([query, neighbour - query], -1) @ layer.map.weight.T
    kept = torch.ones(batch, points, dtype=torch.bool) if valid is None else valid
    normed = torch.zeros_like(edges)
    normed[kept] = layer.norm(edges[kept].flatten(0, 1)).view(-1, *edges.shape[2:])
    return leaky_relu(normed, layer.slope).amax(2)


def layers(inputs: int = 5, outputs: int = 7) -> tuple[EdgeConv, EdgeConv]:
    """Two alike, with factors of both signs."""
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        layer = EdgeConv(inputs, outputs)
        nn.init.normal_(layer.norm.weight)
        nn.init.normal_(layer.norm.bias)
        made.append(layer)
    return made[0], made[1]


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_edge_by_edge_convolution(masked: bool) -> None:
    fast, slow = layers()
    torch.manual_seed(0)
    features = (torch.randn(3, 11, 5) + 4).requires_grad_()
    again = features.detach().clone().requires_grad_()
    valid = torch.arange(11) < torch.tensor([[11], [8], [9]]) if masked else None
    index = feature_neighbours(features, 4, valid=valid)
    kept = torch.ones(3, 11).bool() if valid is None else valid
    weight = torch.randn(3, 11, 7) * kept[..., None]
    for _ in range(2):
        one, two = fast(features, index, valid), edge_by_edge(slow, again, index, valid)
        torch.testing.assert_close(one[kept], two[kept], atol=1e-4, rtol=1e-4)
    (one * weight).sum().backward()
    (two * weight).sum().backward()
    torch.testing.assert_close(features.grad, again.grad, atol=1e-4, rtol=1e-3)
    for mine, theirs in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-4, rtol=1e-3)
    for name, value in fast.norm.named_buffers():
        torch.testing.assert_close(value, dict(slow.norm.named_buffers())[name], atol=1e-4, rtol=1e-4)
    fast.eval(), slow.eval()
    with torch.no_grad():
        one, two = fast(features, index, valid), edge_by_edge(slow, again, index, valid)
    torch.testing.assert_close(one[kept], two[kept], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast(features, index, valid), one)  # with gradients or without


def test_distances_by_hand() -> None:
    points = torch.tensor([[[3.0, 0, 0], [0, 2, 0], [6, 0, 0], [-1, 0, 0]]])
    euclid, hilbert = squared_distances(points)[0], squared_distances(points, "hilbert")[0]
    assert euclid[0].tolist() == [0, 13, 9, 16]
    assert hilbert[0].tolist() == pytest.approx([0, 2, 0, 4])
    unit = points / points.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(
        squared_distances(points, "hilbert"), squared_distances(unit), atol=1e-6, rtol=0
    )
    with pytest.raises(ValueError, match="none of euclid, hilbert"):
        squared_distances(points, "cosine")  # type: ignore[arg-type]


def test_a_point_at_the_origin_has_finite_directions() -> None:
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0]]])
    assert squared_distances(points, "hilbert").tolist() == [[[2, 2], [2, 0]]]


def test_neighbours_are_the_nearest_and_the_point_itself_is_first() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 40, 6)
    index = feature_neighbours(features, 5)
    assert index.shape == (2, 40, 5)
    expected = torch.cdist(features, features).argsort(-1)[..., :5]
    assert torch.equal(index, expected)
    assert torch.equal(index[..., 0], torch.arange(40).expand(2, -1))
    same = feature_neighbours(torch.zeros(1, 6, 3), 2)
    assert torch.equal(same[0, :, 0], torch.arange(6))  # also among equals
    assert feature_neighbours(features, 99).shape == (2, 40, 40)
    with pytest.raises(ValueError, match="positive"):
        feature_neighbours(features, 0)


def test_points_that_are_not_valid_are_nobodys_neighbours() -> None:
    features = torch.zeros(2, 6, 3)
    valid = torch.arange(6) < torch.tensor([[4], [5]])
    index = feature_neighbours(features, 5, valid=valid)
    assert index.shape == (2, 6, 4)
    assert all(set(row) <= set(range(4)) for row in index[0, :4].tolist())


def test_small_variances_around_large_means_survive_single_precision() -> None:
    layer = EdgeConv(3, 4)
    torch.manual_seed(0)
    features = 300 + 0.5 * torch.randn(2, 60, 3)
    answer = layer(features, feature_neighbours(features, 6))
    torch.manual_seed(0)
    slow = EdgeConv(3, 4).double()
    slow.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
    index = feature_neighbours(features, 6)
    expected = edge_by_edge(slow, features.double(), index)
    assert (answer - expected).abs().max() < 2e-2
    assert math.isfinite(answer.sum().item())


def test_mixed_precision_gives_single_precision() -> None:
    layer = EdgeConv(3, 4)
    features = torch.randn(2, 20, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        answer = layer(features, feature_neighbours(features, 6))
    answer.sum().backward()
    assert answer.dtype == torch.float32
    assert torch.isfinite(features.grad).all()
