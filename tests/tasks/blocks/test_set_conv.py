"""Set convolution: against the obvious implementation, and what it must not depend on."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tasks.blocks.set_conv import NeighbourGraph, SetConv


def clouds(batch: int = 2, points: int = 30) -> torch.Tensor:
    return 5 * torch.rand(batch, points, 3, generator=torch.Generator().manual_seed(0))


def lively(inputs: int, outputs: int) -> SetConv:
    """With norms that do something."""
    torch.manual_seed(1)
    layer = SetConv(inputs, outputs)
    for norm in layer.norms:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    return layer


def obvious(layer: SetConv, signal: torch.Tensor, points: torch.Tensor, neighbours: int) -> torch.Tensor:
    """As the text and the official code have it: neighbours' signal beside p_j - p_i, three convolutions."""
    outputs = []
    for one_signal, cloud in zip(signal, points, strict=True):
        rows = []
        for point in cloud:
            near = (cloud - point).norm(dim=1).argsort()[:neighbours]
            rows.append(torch.cat([one_signal[:, near], (cloud[near] - point).T]))  # [C + 3, k]
        x = torch.stack(rows, dim=1)[None]  # [1, C + 3, n, k]
        for convolution, norm in zip(layer.convolutions, layer.norms, strict=True):
            x = F.leaky_relu(norm(convolution(x)), 0.1)
        outputs.append(x.max(dim=3).values)
    return torch.cat(outputs)


def test_it_equals_the_obvious_implementation_and_its_gradients() -> None:
    points = clouds()
    layer = lively(4, 6)
    signal = torch.randn(2, 4, 30, requires_grad=True)
    probe = torch.randn(2, 6, 30)
    fast = layer(signal, NeighbourGraph.of(points, 7))
    slow = obvious(layer, signal, points, 7)
    assert fast.shape == (2, 6, 30)
    torch.testing.assert_close(fast, slow, atol=2e-5, rtol=1e-4)
    inputs = [signal, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad((fast * probe).sum(), inputs),
        torch.autograd.grad((slow * probe).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=5e-4, rtol=1e-3)


def test_edges_are_offsets_and_a_point_is_its_own_neighbour() -> None:
    points = clouds(1)
    graph = NeighbourGraph.of(points, 4)
    assert torch.equal(graph.index[0, :, 0], torch.arange(30))
    assert not graph.edge[..., 0].any()
    expected = points[0, graph.index[0, 5, 2]] - points[0, 5]
    torch.testing.assert_close(graph.edge[0, :, 5, 2], expected)
    assert NeighbourGraph.of(points, 99).index.shape == (1, 30, 30)


def test_shifting_the_cloud_changes_nothing_and_the_order_of_points_only_the_order() -> None:
    points, layer = clouds(), lively(3, 5)
    signal = torch.randn(2, 3, 30)
    before = layer(signal, NeighbourGraph.of(points, 6))
    moved = layer(signal, NeighbourGraph.of(points + torch.tensor([3.0, -2.0, 8.0]), 6))
    torch.testing.assert_close(before, moved, atol=1e-4, rtol=1e-3)
    order = torch.randperm(30)
    mixed = layer(signal[..., order], NeighbourGraph.of(points[:, order], 6))
    torch.testing.assert_close(before[..., order], mixed, atol=1e-5, rtol=1e-4)


def test_no_sample_depends_on_another_nor_evaluation_on_training() -> None:
    points, layer = clouds(), lively(3, 5)
    signal = torch.randn(2, 3, 30)
    both = layer(signal, NeighbourGraph.of(points, 6))
    alone = layer.eval()(signal[1:], NeighbourGraph.of(points[1:], 6))
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)
    assert not list(layer.buffers())


def test_a_cloud_of_one_point_has_an_answer() -> None:
    layer = lively(3, 5)
    answer = layer(torch.randn(1, 3, 1), NeighbourGraph.of(torch.randn(1, 1, 3), 6))
    expected = F.leaky_relu(layer.norms[2].bias, 0.1)
    torch.testing.assert_close(answer[0, :, 0], expected)
