"""SECOND's network: sizes counted by hand, the view from above, and what the point branch adds."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from tasks.blocks.sparse_convolution import SparseTensor
from tasks.blocks.sparse_voxels import PointSet, voxelise_set
from tasks.pointcloud.second_network import (
    RegionProposals,
    SECONDNetwork,
    Sizes,
    SparseEncoder,
    encoder_grid,
    mean_where_points,
    seen_from_above,
)

RANGE, VOXEL = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0), (0.05, 0.05, 0.1)
SMALL = Sizes(encoder=(4, 4, 6, 8, 8), encoder_out=8, rpn=(8, 12), upsampled=(8, 8), depth=1)
SMALL_RANGE = (0.0, -3.2, -3.0, 6.4, 3.2, 1.0)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small_network(fusion: str = "off", seed: int = 0) -> SECONDNetwork:
    torch.manual_seed(seed)
    return SECONDNetwork(3, 4, SMALL_RANGE, (0.1, 0.1, 0.1), SMALL, fusion, 0.1)


def cloud(points: int = 300, scans: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    spread, start = torch.tensor([6.3, 6.3, 3.9, 1.0]), torch.tensor([0.0, -3.15, -3.0, 0.0])
    scan = torch.arange(scans).repeat_interleave(points // scans)
    return torch.rand(points, 4, generator=generator) * spread + start, scan


def test_parameters_counted_by_hand() -> None:
    with torch.device("meta"):
        network = SECONDNetwork(3, 4, RANGE, VOXEL, Sizes(), "off", 0.01)
    assert network.grid == (1408, 1600, 41)
    assert network.coarse == (176, 200, 2)
    convolutions = (
        27 * (4 * 16 + 16 * 16 + 16 * 32 + 2 * 32 * 32 + 32 * 64 + 2 * 64 * 64 + 3 * 64 * 64) + 3 * 64 * 128
    )
    norms = 2 * (16 + 16 + 3 * 32 + 3 * 64 + 3 * 64 + 128)
    assert parameters(network.encoder) == convolutions + norms == 711_872
    first = 9 * (256 * 128 + 5 * 128 * 128) + 6 * 2 * 128
    second = 9 * (128 * 256 + 5 * 256 * 256) + 6 * 2 * 256
    up = 128 * 256 + 2 * 256 + 2 * 2 * 256 * 256 + 2 * 256
    assert parameters(network.rpn) == first + second + up == 4_576_768
    heads = 512 * 6 * (3 + 7 + 2) + 6 * (3 + 7 + 2)
    assert parameters(network) == 711_872 + 4_576_768 + heads == 5_325_576


@pytest.mark.parametrize(("fusion", "widths"), [
    ("layer", [4, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64, 128]),
    ("stage", [4, 16, 32, 64, 64, 128]),
])  # fmt: skip
def test_the_point_branch_adds_a_linear_layer_and_a_norm_a_step(fusion: str, widths: list[int]) -> None:
    with torch.device("meta"):
        encoder = SparseEncoder(4, Sizes(), fusion, 0.01)
    more = sum(a * b + b + 2 * b for a, b in pairwise(widths))
    assert parameters(encoder) == 711_872 + more
    assert more < 0.06 * 711_872


def test_grids() -> None:
    assert encoder_grid((1408, 1600, 41)) == (176, 200, 2)
    assert encoder_grid((256, 256, 41)) == (32, 32, 2)
    with pytest.raises(ValueError, match="isn't a whole number of voxels"):
        SECONDNetwork(3, 4, RANGE, (0.07, 0.05, 0.1), Sizes(), "off", 0.01)
    with pytest.raises(ValueError, match="too small for the encoder"):
        SECONDNetwork(3, 4, SMALL_RANGE, (0.1, 0.1, 0.4), SMALL, "off", 0.01)


def test_heights_become_channels() -> None:
    coordinates = torch.tensor([[0, 8, 16, 0], [1, 0, 0, 16]])
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    voxels = SparseTensor(features, coordinates, stride=(8, 8, 16), grid=(2, 3, 2))
    above = seen_from_above(voxels, 2, (2, 3, 2))
    assert above.shape == (2, 4, 3, 2)
    # Channels (feature, height): feature 0 at heights 0 and 1, then feature 1.
    assert above[0, :, 2, 1].tolist() == [1.0, 0.0, 2.0, 0.0]
    assert above[1, :, 0, 0].tolist() == [0.0, 3.0, 0.0, 4.0]
    assert int((above != 0).sum()) == 4


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_both_scales_of_the_rpn_have_one_size(size: tuple[int, int]) -> None:
    rpn = RegionProposals(6, SMALL, 0.1).eval()
    assert rpn(torch.rand(2, 6, *size)).shape == (2, 16, *size)


def test_the_encoder_is_a_dense_convolution_at_its_voxels() -> None:
    """Its first two layers against Conv3d on a filled grid: submanifold, then strided with dilation."""
    torch.manual_seed(0)
    network = small_network()
    points, scan = cloud(60, 1)
    places = PointSet.of(points[:, :3], scan, network.voxel_size, network.origin)
    voxels, _ = voxelise_set(places, points, grid=network.grid)
    strided = network.encoder.steps[2].layers[0].conv
    conv = nn.Conv3d(4, 6, 3, stride=2, padding=1, bias=False)
    with torch.no_grad():
        weight = strided.weight.view(3, 3, 3, 4, 6).permute(4, 3, 0, 1, 2)
        conv.weight.copy_(weight)
        dense = torch.zeros(1, 4, *network.grid)
        x, y, z = voxels.coordinates[:, 1:].T
        dense[0, :, x, y, z] = voxels.features.T
        expected, got = conv(dense)[0], strided(voxels)
    assert got.grid == tuple(expected.shape[1:])
    x, y, z = (got.coordinates[:, 1:] // 2).T
    torch.testing.assert_close(expected[:, x, y, z].T, got.features, atol=1e-5, rtol=1e-4)
    filled = torch.zeros_like(expected[0], dtype=torch.bool)
    filled[x, y, z] = True
    assert not expected[:, ~filled].any()
    assert len(got.coordinates) > len(voxels.coordinates)


def test_voxels_without_points_keep_what_they_have() -> None:
    positions = torch.tensor([[0.5, 0.5, 0.5], [1.5, 0.5, 0.5], [9.0, 0.5, 0.5]])
    places = PointSet(positions, torch.zeros(3, dtype=torch.int64))
    coordinates = torch.tensor([[0, 0, 0, 0], [0, 2, 0, 0]])
    voxels = SparseTensor(torch.tensor([[1.0], [2.0]]), coordinates, stride=(2, 2, 2))
    features = torch.tensor([[10.0], [20.0], [99.0]], requires_grad=True)
    mixed = mean_where_points(voxels, features, places)
    assert mixed.features.tolist() == [[15.0], [2.0]]  # the third point's voxel isn't there
    mixed.features.sum().backward()
    assert features.grad.tolist() == [[0.5], [0.5], [0.0]]


@pytest.mark.parametrize("fusion", ["off", "layer", "stage"])
def test_every_network_trains_whole_and_keeps_scans_apart(fusion: str) -> None:
    network = small_network(fusion)
    points, scan = cloud()
    outputs = network(points, scan, 2)
    count = 8 * 8 * 3 * 2
    assert [tuple(one.shape) for one in outputs] == [(2, count, 3), (2, count, 7), (2, count, 2)]
    sum(one.square().sum() for one in outputs).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.eval()
    with torch.no_grad():
        both = network(points, scan, 2)
        alone = network(points[scan == 1], torch.zeros(int((scan == 1).sum()), dtype=torch.int64), 1)
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(1))
        shuffled = network(points[order], scan[order], 2)
    for one, other, mixed in zip(both, alone, shuffled, strict=True):
        torch.testing.assert_close(one[1:], other, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one, mixed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion", ["layer", "stage"])
def test_the_voxels_are_those_of_second(fusion: str) -> None:
    points, scan = cloud()
    found = []
    for kind in ("off", fusion):
        network = small_network(kind).eval()
        places = PointSet.of(points[:, :3], scan, network.voxel_size, network.origin)
        voxels, _ = voxelise_set(places, points, grid=network.grid)
        found.append(network.encoder(voxels, points, places))
    assert torch.equal(found[0].coordinates, found[1].coordinates)
    assert not torch.allclose(found[0].features, found[1].features)


def test_the_point_branch_sees_where_in_its_voxel_a_point_lies() -> None:
    """Two points that move apart inside their voxel leave its mean, and so SECOND, as they were."""
    points = torch.tensor([[1.03, 0.05, -1.05, 0.5], [1.07, 0.05, -1.05, 0.5], [1.15, 0.05, -1.05, 0.5]])
    spread = points.clone()
    spread[0, 0], spread[1, 0] = 1.01, 1.09
    scan = torch.zeros(3, dtype=torch.int64)
    changes = {}
    for fusion in ("off", "layer"):
        network = small_network(fusion).eval()
        seen: list[Tensor] = []
        for one in (points, spread):
            places = PointSet.of(one[:, :3], scan, network.voxel_size, network.origin)
            voxels, _ = voxelise_set(places, one, grid=network.grid)
            seen.append(network.encoder.steps[0](voxels, one, places)[0].features.detach())
        changes[fusion] = float((seen[0] - seen[1]).abs().max() / seen[0].abs().max())
    assert changes["off"] < 1e-5
    assert changes["layer"] > 1e-3


def test_an_untrained_net_says_one_percent() -> None:
    network = small_network()
    nn.init.zeros_(network.to_logits.weight)
    logits, residuals, _ = network(*cloud(), 2)
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.01))
    assert residuals.view(2, -1, 6, 7).std(dim=1).max() < 0.05  # all but the biases
