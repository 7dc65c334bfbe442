"""Sparse convolutions against torch's dense ones on a densified grid, and their kernel maps by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.blocks.sparse_convolution import (
    KeySpace,
    SparseConv3d,
    SparseTensor,
    find,
    kernel_map,
    sparse_convolution,
    strided_coordinates,
    triple,
    unique_coordinates,
)

GRID = (9, 8, 7)


def scattered(
    channels: int = 5, occupancy: float = 0.2, scans: int = 2, grid: tuple[int, int, int] = GRID
) -> SparseTensor:
    """Random voxels of a grid, in random order."""
    generator = torch.Generator().manual_seed(0)
    coordinates = (torch.rand(scans, *grid, generator=generator) < occupancy).nonzero()
    coordinates = coordinates[torch.randperm(len(coordinates), generator=generator)]
    features = torch.randn(len(coordinates), channels, generator=generator, dtype=torch.float64)
    return SparseTensor(features.float(), coordinates, grid=grid)


def dense(sparse: SparseTensor, scans: int = 2) -> Tensor:
    """[B, C, X, Y, Z] with zeros where there is no voxel; `grid` must be set."""
    assert sparse.grid is not None
    batch, x, y, z = (sparse.coordinates // torch.tensor((1, *sparse.stride))).unbind(1)
    empty = torch.zeros(scans, *sparse.grid, sparse.features.shape[1])
    return empty.index_put((batch, x, y, z), sparse.features).permute(0, 4, 1, 2, 3)


def at(volume: Tensor, sparse: SparseTensor) -> Tensor:
    """Values [M, C] of a dense [B, C, X, Y, Z] at the voxels of a sparse tensor."""
    batch, x, y, z = (sparse.coordinates // torch.tensor((1, *sparse.stride))).unbind(1)
    return volume.permute(0, 2, 3, 4, 1)[batch, x, y, z]


def dense_weight(convolution: SparseConv3d) -> Tensor:
    """[K, in, out] -> Conv3d's [out, in, x, y, z]."""
    shape = (*convolution.kernel_size, convolution.in_channels, convolution.out_channels)
    return convolution.weight.view(shape).permute(4, 3, 0, 1, 2)


CASES = [
    (3, 1, None, True, GRID),
    ((3, 1, 5), 1, None, True, GRID),
    (1, 1, 0, True, GRID),
    (3, 1, 1, False, GRID),
    (2, 2, 0, False, (8, 8, 8)),
    (3, 2, 1, False, GRID),
    ((1, 1, 3), (1, 1, 2), 0, False, GRID),
    (3, 2, (1, 1, 0), False, GRID),
    (2, 2, 0, False, GRID),
]


@pytest.mark.parametrize("at_once", [0, 1 << 22])
@pytest.mark.parametrize(("kernel", "stride", "padding", "submanifold", "grid"), CASES)
def test_matches_a_dense_convolution_forward_and_backward(  # type: ignore[no-untyped-def]
    kernel, stride, padding, submanifold, grid, at_once, monkeypatch
):
    monkeypatch.setattr("tasks.blocks.sparse_convolution.AT_ONCE", at_once)
    torch.manual_seed(1)
    inputs = scattered(grid=grid)
    inputs.features.requires_grad_()
    convolution = SparseConv3d(
        5, 4, kernel, stride=stride, padding=padding, submanifold=submanifold, bias=True
    )
    output = convolution(inputs)
    volume = F.conv3d(dense(inputs), dense_weight(convolution), stride=stride, padding=convolution.padding)
    expected = at(volume, output) + convolution.bias
    torch.testing.assert_close(output.features, expected, atol=1e-5, rtol=1e-5)
    if submanifold:
        assert output.coordinates is inputs.coordinates
    else:
        assert output.grid == tuple(volume.shape[2:])
        reached = at(torch.ones_like(volume[:, :1]), output)
        assert len(reached) == len(torch.unique(output.coordinates, dim=0))
        untouched = volume.clone()
        batch, x, y, z = (output.coordinates // torch.tensor((1, *output.stride))).unbind(1)
        untouched[batch, :, x, y, z] = 0
        assert untouched.abs().max() == 0, "a site that inputs reach is missing"
    direction = torch.randn_like(expected)
    wanted = [inputs.features, convolution.weight]
    ours = torch.autograd.grad((output.features * direction).sum(), wanted)
    theirs = torch.autograd.grad((expected * direction).sum(), wanted)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_transposed_matches_conv_transpose3d_at_the_finer_voxels():
    torch.manual_seed(2)
    grid = (8, 8, 8)
    inputs = scattered(grid=grid)
    down = SparseConv3d(5, 6, 2, stride=2)
    up = SparseConv3d(6, 3, 2, stride=2, transposed=True)
    coarse = down(inputs)
    coarse = coarse.replace(torch.randn_like(coarse.features).requires_grad_())
    fine = up(coarse)
    assert fine.coordinates is inputs.coordinates
    assert fine.stride == (1, 1, 1)
    weight = up.weight.view(2, 2, 2, 6, 3).permute(3, 4, 0, 1, 2)
    expected = at(F.conv_transpose3d(dense(coarse), weight, stride=2), fine)
    torch.testing.assert_close(fine.features, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(expected)
    ours = torch.autograd.grad((fine.features * direction).sum(), [coarse.features, up.weight])
    theirs = torch.autograd.grad((expected * direction).sum(), [coarse.features, up.weight])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_transposed_needs_the_convolution_that_it_undoes():
    with pytest.raises(ValueError, match="transposed one needs"):
        SparseConv3d(5, 3, 2, stride=2, transposed=True)(scattered())


def test_strided_sites_are_the_floors_of_half_also_below_zero():
    rows = torch.tensor([[0, -1, 0, 3], [0, -2, 1, 2], [0, -3, 0, 0], [1, -1, 0, 3]])
    coarse, _ = strided_coordinates(rows, 2, 2)
    assert coarse.tolist() == [[0, -4, 0, 0], [0, -2, 0, 2], [1, -2, 0, 2]]
    twice, _ = strided_coordinates(coarse, 2, 2, input_stride=2)
    assert twice.tolist() == [[0, -4, 0, 0], [1, -4, 0, 0]]


def test_kernel_map_by_hand():
    # Two voxels along z in scan 0, one beside them in x; the same place in scan 1.
    rows = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 1]])
    pairs = kernel_map(rows, rows, 3, padding=1)
    # Each to itself; (0, 0, 1) above (0, 0, 0); (1, 0, 0) beside it in x; and the slanted pair, (1, 0, -1) apart.
    counts = dict.fromkeys(range(27), 0) | {13: 4, 12: 1, 14: 1, 4: 1, 22: 1, 21: 1, 5: 1}
    assert pairs.counts == tuple(counts[tap] for tap in range(27))
    assert pairs.pairs == 10
    first = sum(pairs.counts[:14])
    assert (pairs.inputs[first], pairs.outputs[first]) == (1, 0), (
        "tap (0, 0, +1): the input lies above the output"
    )


def test_kernel_map_equals_comparing_all_with_all():
    rows = scattered().coordinates - torch.tensor([0, 5, 5, 5])
    pairs = kernel_map(rows, rows, 3, padding=1)
    taps = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3)
    start = 0
    for tap, count in zip(taps, pairs.counts, strict=True):
        sides = (side[start : start + count].tolist() for side in (pairs.inputs, pairs.outputs))
        found = set(zip(*sides, strict=True))
        apart = rows[:, None, :] - rows[None]
        same = (apart == torch.cat([torch.zeros(1, dtype=torch.int64), tap])).all(-1)
        assert found == {(i, o) for i, o in same.nonzero().tolist()}
        start += count


def test_scans_of_a_batch_do_not_leak_into_each_other():
    torch.manual_seed(3)
    layers = nn.ModuleList(
        [
            SparseConv3d(5, 8, 3, submanifold=True),
            SparseConv3d(8, 8, 2, stride=2),
            SparseConv3d(8, 8, 3, stride=2),
        ]
    )

    def run(sparse: SparseTensor) -> SparseTensor:
        for layer in layers:
            sparse = layer(sparse)
        return sparse

    both = scattered(occupancy=0.5)
    both.grid = None
    first = both.coordinates[:, 0] == 0
    alone = run(SparseTensor(both.features[first], both.coordinates[first]))
    together = run(both)
    mine = together.coordinates[:, 0] == 0
    assert torch.equal(together.coordinates[mine], alone.coordinates)
    torch.testing.assert_close(together.features[mine], alone.features)


def test_moving_all_voxels_below_zero_and_shuffling_them_changes_nothing():
    torch.manual_seed(4)
    convolution, down = SparseConv3d(5, 6, 3, submanifold=True), SparseConv3d(6, 6, 3, stride=2)
    sparse = scattered()
    sparse.grid = None
    here = down(convolution(sparse))
    shift = torch.tensor([0, 40, 12, 8])
    order = torch.randperm(len(sparse.coordinates))
    there = down(convolution(SparseTensor(sparse.features[order], (sparse.coordinates - shift)[order])))
    assert torch.equal(there.coordinates + shift, here.coordinates)
    torch.testing.assert_close(there.features, here.features)


def test_maps_are_made_once_a_forward():
    sparse = scattered()
    one, two = SparseConv3d(5, 5, 3, submanifold=True), SparseConv3d(5, 7, 3, submanifold=True)
    assert one.outputs(sparse)[1] is two.outputs(one(sparse))[1]
    assert one.outputs(sparse)[1] is not one.outputs(scattered())[1]


def test_a_submanifold_convolution_keeps_a_line_a_line_and_a_regular_one_dilates():
    line = torch.tensor([[0, 5, 5, z] for z in range(4)])
    sparse = SparseTensor(torch.ones(4, 1), line)
    assert len(SparseConv3d(1, 1, 3, submanifold=True)(sparse).coordinates) == 4
    assert len(SparseConv3d(1, 1, 3)(sparse).coordinates) == 3 * 3 * 6


def test_no_voxel_gives_no_voxel():
    empty = SparseTensor(torch.zeros(0, 5), torch.zeros(0, 4, dtype=torch.int64))
    coarse = SparseConv3d(5, 6, 2, stride=2)(SparseConv3d(5, 5, 3, submanifold=True)(empty))
    assert coarse.features.shape == (0, 6)


def test_unique_and_find():
    rows = torch.tensor([[0, 1, 1, -1], [0, 0, 0, 0], [0, 1, 1, -1]])
    unique, inverse = unique_coordinates(rows)
    assert unique.tolist() == [[0, 0, 0, 0], [0, 1, 1, -1]]
    assert inverse.tolist() == [1, 0, 1]
    queries = torch.tensor([[0, 1, 1, -1], [1, 1, 1, -1], [0, 99, -99, 5], [0, 0, 0, 0]])
    assert find(queries, rows[:2].flip(0)).tolist() == [1, -1, -1, 0]


def test_key_space_refuses_what_does_not_fit():
    far = torch.tensor([[0, -(2**40), 0, 0], [0, 2**40, 2**30, 2**30]])
    with pytest.raises(ValueError, match="don't fit one int64 key"):
        KeySpace([far])


def test_initial_weights_lie_in_the_stated_bound():
    convolution = SparseConv3d(4, 64, 3, submanifold=True)
    bound = 1 / (4 * 27) ** 0.5
    assert convolution.weight.detach().abs().max() <= bound
    assert float(convolution.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="int64"):
        SparseTensor(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"features must be \[2, C\]"):
        SparseTensor(torch.zeros(3, 3), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="submanifold"):
        SparseConv3d(3, 3, 3, stride=2, submanifold=True)
    with pytest.raises(ValueError, match="three"):
        triple((1, 2))
    sparse = scattered()
    pairs = kernel_map(sparse.coordinates, sparse.coordinates, 3)
    with pytest.raises(ValueError, match="don't fit a map"):
        sparse_convolution(torch.zeros(3, 5), torch.zeros(27, 5, 5), pairs)


def test_mixed_precision_sums_in_float32():
    torch.manual_seed(5)
    sparse, convolution = scattered(channels=16), SparseConv3d(16, 16, 3, submanifold=True)
    exact = convolution(sparse).features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = convolution(sparse)
    assert half.features.dtype == torch.bfloat16
    assert (half.features.float() - exact).abs().max() < 0.02 * exact.abs().max()
    half.features.float().square().sum().backward()
    assert convolution.weight.grad is not None
    assert bool(torch.isfinite(convolution.weight.grad).all())
