"""Voxelisation and devoxelisation by hand, their gradients, and their invariances."""

from __future__ import annotations

import pytest
import torch

from tasks.blocks.sparse_convolution import SparseTensor
from tasks.blocks.sparse_voxels import (
    PointSet,
    average_in_voxels,
    devoxelise,
    interpolation,
    voxelise,
    voxelise_set,
)


def test_voxelise_takes_means_by_floor():
    points = torch.tensor([[0.05, 0.05, 0.05], [0.15, 0.05, 0.05], [-0.05, 0.05, 0.05], [0.05, 0.05, 0.05]])
    batch = torch.tensor([0, 0, 0, 1])
    features = torch.tensor([[1.0], [3.0], [10.0], [7.0]])
    sparse, inverse = voxelise(points, batch, features, 0.2)
    assert sparse.coordinates.tolist() == [[0, -1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert sparse.features.flatten().tolist() == [10, 2, 7]
    assert inverse.tolist() == [1, 1, 0, 2]


def test_voxel_sizes_origin_and_grid_per_axis():
    points = torch.tensor([[1.0, 2.0, 3.0], [1.9, 2.0, 3.0]])
    sparse, _ = voxelise(
        points, torch.zeros(2), torch.ones(2, 1), (0.5, 1.0, 2.0), origin=(1.0, 0.0, -1.0), grid=(2, 3, 3)
    )
    assert sparse.coordinates.tolist() == [[0, 0, 2, 2], [0, 1, 2, 2]]
    assert sparse.grid == (2, 3, 3)
    with pytest.raises(ValueError, match="1 of 2 points lie outside"):
        voxelise(points, torch.zeros(2), torch.ones(2, 1), 0.5, origin=(1.0, 0.0, 0.0), grid=(1, 9, 9))


def test_devoxelise_by_hand():
    # Voxels at x = 0 and x = 1 with 10 and 20; the point at x = 0.25 in cells, on the lower corners of y and z.
    voxels = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]])
    sparse = SparseTensor(torch.tensor([[10.0], [20.0]]), voxels)
    points = PointSet(
        torch.tensor([[0.25, 0.0, 0.0], [0.25, 0.5, 0.5], [1.75, 0.0, 0.0], [9.0, 9.0, 9.0]]),
        torch.zeros(4).long(),
    )
    # Second: half the weight is on voxels that don't exist; renormalised, it is the first again.
    # Third: between 1 and the missing 2, so all of 1. Fourth: nothing around.
    assert devoxelise(sparse, points).flatten().tolist() == pytest.approx([12.5, 12.5, 20.0, 0.0], abs=1e-5)
    assert devoxelise(sparse, points, mode="nearest").flatten().tolist() == [10, 10, 20, 0]
    # Centres at 0.5 and 1.5: x = 0.25 lies before the first.
    centred = devoxelise(sparse, points, align="center").flatten()
    assert centred[:3].tolist() == pytest.approx([10.0, 10.0, 20.0], abs=1e-5)


def test_devoxelise_at_a_coarser_stride():
    voxels = torch.tensor([[0, -4, 0, 0], [0, 0, 0, 0]])
    sparse = SparseTensor(torch.tensor([[8.0], [0.0]]), voxels, stride=(4, 4, 4))
    points = PointSet(torch.tensor([[-1.0, 0.0, 0.0], [-3.0, 0.0, 0.0]]), torch.zeros(2).long())
    assert devoxelise(sparse, points).flatten().tolist() == pytest.approx([2.0, 6.0], abs=1e-5)


def test_weights_sum_to_one_where_the_own_voxel_exists():
    torch.manual_seed(0)
    points = PointSet(20 * torch.rand(200, 3) - 10, torch.randint(0, 2, (200,)))
    sparse, _ = voxelise_set(points, torch.ones(200, 1))
    _, weights = interpolation(sparse, points)
    # Less what the 1e-8 takes where a point's only voxels weigh little.
    torch.testing.assert_close(weights.sum(1), torch.ones(200), atol=1e-3, rtol=0)
    torch.testing.assert_close(devoxelise(sparse, points), torch.ones(200, 1), atol=1e-3, rtol=0)


def test_both_ways_are_differentiable():
    torch.manual_seed(1)
    points = PointSet((6 * torch.rand(12, 3) - 3).double(), torch.randint(0, 2, (12,)))
    frame, _ = voxelise_set(points, torch.ones(12, 1))
    features = torch.randn(12, 3, requires_grad=True)
    voxels = torch.randn(len(frame.coordinates), 3, requires_grad=True)
    mean = torch.zeros(len(voxels), 12)
    place = points.cached(frame, ("inside",), lambda: pytest.fail("not cached"))[0]
    mean[place, torch.arange(12)] = 1
    mean /= mean.sum(1, keepdim=True)
    torch.testing.assert_close(average_in_voxels(features, points, frame).features, mean @ features)
    places, weights = interpolation(frame, points)
    spread = torch.zeros(12, len(voxels)).scatter_add_(1, places, weights.float())
    torch.testing.assert_close(devoxelise(frame.replace(voxels), points), spread @ voxels)
    direction = torch.randn(12, 3)
    (devoxelise(frame.replace(voxels), points) * direction).sum().backward()
    torch.testing.assert_close(voxels.grad, spread.T @ direction)
    along = torch.randn(len(voxels), 3)
    (average_in_voxels(features, points, frame).features * along).sum().backward()
    torch.testing.assert_close(features.grad, mean.T @ along)


def test_order_of_the_points_and_other_scans_do_not_matter():
    torch.manual_seed(2)
    points, batch, features = 4 * torch.randn(60, 3), torch.randint(0, 3, (60,)), torch.randn(60, 5)
    order = torch.randperm(60)
    one, _ = voxelise(points, batch, features, 0.9)
    two, _ = voxelise(points[order], batch[order], features[order], 0.9)
    assert torch.equal(one.coordinates, two.coordinates)
    torch.testing.assert_close(one.features, two.features)
    own = batch == 1
    alone, _ = voxelise(points[own], batch[own], features[own], 0.9)
    torch.testing.assert_close(alone.features, one.features[one.coordinates[:, 0] == 1])
    back = devoxelise(one, PointSet.of(points, batch, 0.9))
    torch.testing.assert_close(devoxelise(alone, PointSet.of(points[own], batch[own], 0.9)), back[own])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="must be"):
        voxelise(torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, 1), 0.1)
    with pytest.raises(ValueError, match="not finite"):
        voxelise(torch.full((2, 3), torch.nan), torch.zeros(2), torch.zeros(2, 1), 0.1)
    with pytest.raises(ValueError, match="positive"):
        voxelise(torch.zeros(3, 3), torch.zeros(3), torch.zeros(3, 1), 0.0)
    points = PointSet(torch.tensor([[5.0, 5.0, 5.0]]), torch.zeros(1).long())
    sparse = SparseTensor(torch.ones(1, 1), torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="lie in no voxel"):
        average_in_voxels(torch.ones(1, 1), points, sparse)
    with pytest.raises(ValueError, match="unknown mode"):
        devoxelise(sparse, points, mode="cubic")  # type: ignore[arg-type]
