"""Sparse convolution against torch's dense one on the same voxels, and what its kernel map costs beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from perf.ratio import Ratio, alternate
from tasks.blocks.sparse_convolution import SparseConv3d, SparseTensor, kernel_map, sparse_convolution

GRID, SCANS, CHANNELS = 48, 2, 32
OCCUPANCIES = (0.01, 0.05, 0.2)


def measure() -> list[Ratio]:
    """Forward and backward of a submanifold convolution, kernel map included; outputs are compared on the way."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def timed(step: Callable[[], Tensor], *leaves: Tensor) -> Callable[[], None]:
        def run() -> None:
            torch.autograd.grad(step().sum(), leaves)
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    ratios = []
    for occupancy in OCCUPANCIES:
        generator = torch.Generator().manual_seed(0)
        occupied = torch.rand(SCANS, GRID, GRID, GRID, generator=generator) < occupancy
        coordinates = occupied.nonzero().to(device)
        features = torch.randn(len(coordinates), CHANNELS, generator=generator).to(device).requires_grad_()
        convolution = SparseConv3d(CHANNELS, CHANNELS, 3, submanifold=True).to(device)
        weight = convolution.weight.detach().view(3, 3, 3, CHANNELS, CHANNELS).permute(4, 3, 0, 1, 2)
        weight = weight.contiguous().requires_grad_()
        volume = torch.zeros(SCANS, GRID, GRID, GRID, CHANNELS, device=device)
        volume[tuple(coordinates.unbind(1))] = features.detach()
        volume = volume.permute(0, 4, 1, 2, 3).contiguous().requires_grad_()

        def sparse(
            features: Tensor = features,
            coordinates: Tensor = coordinates,
            convolution: SparseConv3d = convolution,
        ) -> Tensor:
            return convolution(SparseTensor(features, coordinates)).features

        def dense(volume: Tensor = volume, weight: Tensor = weight) -> Tensor:
            return F.conv3d(volume, weight, padding=1)

        expected = dense().permute(0, 2, 3, 4, 1)[tuple(coordinates.unbind(1))]
        if not torch.allclose(sparse(), expected, atol=1e-4):
            raise RuntimeError("the sparse and the dense convolution disagree")
        pairs = kernel_map(coordinates, coordinates, 3, padding=1)

        def mapped(
            features: Tensor = features, convolution: SparseConv3d = convolution, pairs: object = pairs
        ) -> Tensor:
            return sparse_convolution(features, convolution.weight, pairs)  # type: ignore[arg-type]

        def build(coordinates: Tensor = coordinates) -> None:
            kernel_map(coordinates, coordinates, 3, padding=1)
            if device == "cuda":
                torch.cuda.synchronize()

        best = alternate(
            {
                "sparse": timed(sparse, features, convolution.weight),
                "dense": timed(dense, volume, weight),
                "mapped": timed(mapped, features, convolution.weight),
                "map": build,
            },
            rounds=3,
        )
        name = f"{len(coordinates)} voxels, {100 * occupancy:g} % of {GRID}^3, {CHANNELS} channels"
        ratios += [
            Ratio(
                f"sparse convolution, {name}",
                "dense Conv3d",
                best["sparse"],
                best["dense"],
                "forward and backward, map included",
            ),
            Ratio(
                f"kernel map, {name}",
                "the convolution without it",
                best["map"],
                best["mapped"],
                "made once a stride and forward",
            ),
        ]
    return ratios
