"""Sparse 3D convolution in plain PyTorch: only occupied voxels are stored, and only pairs of them are multiplied.

A `SparseTensor` holds features [M, C] at unique coordinates [M, 4] (batch, x, y, z). Coordinates are counted in cells
of the *finest* grid also after downsampling: at stride s they are multiples of s, and its voxel spans [c, c + s).
A convolution follows torch.nn.Conv3d: the output at q takes tap t from the input at q + s (t - padding), per axis,
and stands at a multiple of s * stride. Which outputs exist is the caller's choice:

submanifold   outputs = inputs (Graham et al., CVPR 2018): the set of voxels stays as it is
strided       outputs = all sites that some input reaches. Kernel 2, stride 2, no padding: the unique floor(c / 2), as
              in MinkUNet; kernel 3, stride 2, padding 1: dilates, as in SECOND's encoder
transposed    outputs = the voxels that the strided convolution of the same kernel came from; its map, reversed

A `KernelMap` lists for each tap the pairs (input, output). Coordinates become one int64 key each, batch included,
shifted to >= 0 with a margin as wide as the kernel, so that a tap is a constant added to the key and never wraps into
another row or scan. Keys are sorted and searched: O(M log M) a column of taps, no [M, M] matrix. Maps are kept in
a cache that all tensors of one forward share; they are found again by the identity of the coordinate tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Triple: TypeAlias = tuple[int, int, int]
Found = TypeVar("Found")


def triple(value: int | Sequence[int]) -> Triple:
    """One number for all axes, or (x, y, z)."""
    if isinstance(value, int):
        return (value, value, value)
    if len(value) != 3:
        raise ValueError(f"expected one number or three (x, y, z), not {tuple(value)}")
    return (int(value[0]), int(value[1]), int(value[2]))


@dataclass
class SparseTensor:
    """Features at occupied voxels.

    features: [M, C]. coordinates: int64 [M, 4], (batch, x, y, z), unique rows, in cells of the finest grid, multiples
    of `stride`. grid: cells of its own stride an axis (x, y, z) where the space is bounded, from 0; None: unbounded,
    also below 0. cache: shared by all tensors made from one another, so it lives for one forward.
    """

    features: Tensor
    coordinates: Tensor
    stride: Triple = (1, 1, 1)
    grid: Triple | None = None
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        features, coordinates = self.features, self.coordinates
        if coordinates.ndim != 2 or coordinates.shape[1] != 4 or coordinates.dtype != torch.int64:
            raise ValueError(
                f"coordinates must be int64 [M, 4], not {coordinates.dtype} {tuple(coordinates.shape)}"
            )
        if features.ndim != 2 or len(features) != len(coordinates):
            raise ValueError(f"features must be [{len(coordinates)}, C], not {tuple(features.shape)}")

    def replace(self, features: Tensor) -> SparseTensor:
        """Other features [M, C'] at the same voxels, with the same cache."""
        return replace(self, features=features)

    def cached(self, key: tuple[Any, ...], build: Callable[[], Found]) -> Found:
        """What `build` makes for these coordinates and this key, made once."""
        full = (id(self.coordinates), *key)
        if full not in self.cache:
            # The tensor is kept beside it, so that its identity isn't given away while the cache lives.
            self.cache[full] = (self.coordinates, build())
        return self.cache[full][1]


class KeySpace:
    """One int64 for each (batch, x, y, z) of a box: ascending in lexicographic order.

    coordinates: int64 [M, 4] tensors that must fit, not all empty; margin: cells that may be added an axis.
    Raises ValueError where the box has more than 2^63 cells.
    """

    def __init__(self, coordinates: Sequence[Tensor], margin: Sequence[int] = (0, 0, 0)) -> None:
        occupied = [one for one in coordinates if len(one)]
        low = torch.stack([one.amin(0) for one in occupied]).amin(0).tolist()
        high = torch.stack([one.amax(0) for one in occupied]).amax(0).tolist()
        wide = (0, *margin)
        self.low = [edge - extra for edge, extra in zip(low, wide, strict=True)]
        self.size = [
            top - bottom + 1 + extra for top, bottom, extra in zip(high, self.low, wide, strict=True)
        ]
        if math.prod(self.size) >= 2**63:
            raise ValueError(
                f"coordinates from {low} to {high} don't fit one int64 key; are some of them not finite?"
            )
        self.step = [math.prod(self.size[axis + 1 :]) for axis in range(4)]

    def keys(self, coordinates: Tensor) -> Tensor:
        """int64 [M, 4] -> int64 [M]."""
        keys = coordinates[:, 3] - self.low[3]
        for axis in range(3):
            keys = keys + (coordinates[:, axis] - self.low[axis]) * self.step[axis]
        return keys

    def coordinates(self, keys: Tensor) -> Tensor:
        """int64 [M] -> int64 [M, 4]."""
        return torch.stack(
            [keys // self.step[axis] % self.size[axis] + self.low[axis] for axis in range(4)], dim=1
        )


def unique_coordinates(coordinates: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [N, 4] -> unique rows [M, 4] in lexicographic order, and the row [N] that each became."""
    if not len(coordinates):
        return coordinates, coordinates.new_zeros(0)
    space = KeySpace([coordinates])
    keys, inverse = torch.unique(space.keys(coordinates), return_inverse=True)
    return space.coordinates(keys), inverse


def find(queries: Tensor, coordinates: Tensor) -> Tensor:
    """For each row of `queries` [N, 4] its place in the unique rows of `coordinates` [M, 4], or -1; int64 [N]."""
    if not len(coordinates) or not len(queries):
        return queries.new_full((len(queries),), -1)
    space = KeySpace([queries, coordinates])
    keys, order = _sorted(space.keys(coordinates))
    wanted = space.keys(queries)
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, order[place], -1)


@dataclass
class KernelMap:
    """Which input meets which output under which tap of a kernel; taps in the order of Conv3d's weight, z fastest.

    inputs, outputs: int64 [P], pairs sorted by tap; within a tap no input and no output comes twice. counts: pairs
    of each tap. sizes: voxels of input and output. identity: the tap that joins each voxel to itself, if any.
    """

    inputs: Tensor
    outputs: Tensor
    counts: tuple[int, ...]
    sizes: tuple[int, int]
    identity: int | None = None

    @property
    def pairs(self) -> int:
        """P, what a convolution's cost goes with: P * C_in * C_out multiplications."""
        return sum(self.counts)

    @cached_property
    def reversed(self) -> KernelMap:
        """The map of the transposed convolution."""
        return KernelMap(self.outputs, self.inputs, self.counts, self.sizes[::-1], self.identity)

    @cached_property
    def taps(self) -> list[tuple[int, Tensor, Tensor]]:
        """Taps that have pairs, but for the identity: number, inputs [P_k], outputs [P_k]."""
        sides = zip(self.inputs.split(self.counts), self.outputs.split(self.counts), strict=True)
        return [
            (tap, *side)
            for tap, (side, count) in enumerate(zip(sides, self.counts, strict=True))
            if count and tap != self.identity
        ]

    @cached_property
    def bags(self) -> tuple[Tensor, Tensor]:
        """The pairs of all `taps` sorted by output, int64 [P'], and where each output's begin, int64 [N]."""
        outputs = torch.cat([self.outputs[:0], *(output for _, _, output in self.taps)])
        ends = torch.bincount(outputs, minlength=self.sizes[1]).cumsum(0)
        return outputs.argsort(stable=True), torch.cat([ends.new_zeros(1), ends[:-1]])


def kernel_map(
    inputs: Tensor,
    outputs: Tensor,
    kernel_size: int | Sequence[int],
    *,
    input_stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
) -> KernelMap:
    """The pairs of voxels with input = output + input_stride * (tap - padding).

    inputs [M, 4], outputs [N, 4]: coordinates in cells of the finest grid, multiples of `input_stride`. Where both are
    one tensor and the kernel is odd and centred, half of the taps is searched and the rest mirrored.
    """
    kernel, cell, pad = triple(kernel_size), triple(input_stride), triple(padding)
    volume = math.prod(kernel)
    sizes = (len(inputs), len(outputs))
    if not all(sizes):
        empty = inputs.new_zeros(0)
        return KernelMap(empty, empty, (0,) * volume, sizes)
    if inputs is outputs and volume == 1 and not any(pad):
        here = torch.arange(len(inputs), device=inputs.device)
        return KernelMap(here, here, (len(inputs),), sizes, identity=0)
    mirrored = inputs is outputs and all(k == 2 * p + 1 for k, p in zip(kernel, pad, strict=True))
    unit = inputs.new_tensor((1, *cell))
    source = inputs.div(unit, rounding_mode="floor")
    target = source if inputs is outputs else outputs.div(unit, rounding_mode="floor")
    space = KeySpace([source, target], margin=[max(k, p) for k, p in zip(kernel, pad, strict=True)])
    keys, order = _sorted(space.keys(source))
    wanted, output_order = (keys, order) if source is target else _sorted(space.keys(target))
    keys = torch.cat([keys, keys.new_full((1,), torch.iinfo(torch.int64).max)])

    middle = volume // 2
    found: list[tuple[Tensor, Tensor]] = []
    for column in range(kernel[0] * kernel[1]):
        if mirrored and len(found) > middle:
            break
        x, y = divmod(column, kernel[1])
        first = (x - pad[0]) * space.step[1] + (y - pad[1]) * space.step[2] - pad[2]
        # Taps along z are neighbouring keys: after the place of one in the sorted list comes that of the next.
        place = torch.searchsorted(keys, wanted + first)
        for z in range(kernel[2]):
            hit = keys[place] == wanted + (first + z)
            output = hit.nonzero().squeeze(1)
            found.append((place[output], output))
            place = place + hit
    if mirrored:
        found = found[: middle + 1]
        found += [(output, place) for place, output in reversed(found[:middle])]
    return KernelMap(
        order[torch.cat([place for place, _ in found])],
        output_order[torch.cat([output for _, output in found])],
        tuple(len(place) for place, _ in found),
        sizes,
        identity=middle if mirrored else None,
    )


def strided_coordinates(
    inputs: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    *,
    input_stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    grid: Triple | None = None,
) -> tuple[Tensor, Triple | None]:
    """The sites that a strided convolution of occupied voxels [M, 4] reaches, and the grid they lie in.

    -> int64 [N, 4] in lexicographic order, multiples of input_stride * stride, in cells of the finest grid; and the
    coarse grid where `grid`, the fine one in cells of `input_stride`, bounds the space (sites outside are dropped).
    """
    kernel, steps, cell, pad = triple(kernel_size), triple(stride), triple(input_stride), triple(padding)
    coarse = None
    if grid is not None:
        coarse = triple(
            [(g + 2 * p - k) // s + 1 for g, p, k, s in zip(grid, pad, kernel, steps, strict=True)]
        )
    reached = inputs
    for axis in range(3):
        taps = torch.arange(kernel[axis], device=inputs.device)
        numerator = reached[:, axis + 1].div(cell[axis], rounding_mode="floor")[:, None] + pad[axis] - taps
        site = numerator.div(steps[axis], rounding_mode="floor")
        valid = numerator == site * steps[axis]
        if coarse is not None:
            valid &= (site >= 0) & (site < coarse[axis])
        row, tap = valid.nonzero(as_tuple=True)
        reached = reached[row]
        reached[:, axis + 1] = site[row, tap] * (cell[axis] * steps[axis])
        if kernel[axis] > steps[axis]:
            reached = unique_coordinates(reached)[0]
    return unique_coordinates(reached)[0], coarse


def _sorted(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Keys in ascending order, and where each was; a list that is in order already isn't sorted again."""
    if bool((keys[1:] > keys[:-1]).all()):
        return keys, torch.arange(len(keys), device=keys.device)
    return keys.sort()


AT_ONCE = 1 << 22
"""Up to so many products (pairs * channels) are kept, and summed in one pass; beyond, added tap by tap."""


class _GatherMatmulScatter(torch.autograd.Function):
    """The sum over taps of gathered rows times the tap's matrix, added at their outputs; sums in float32."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.pairs = pairs
        return _convolve(features, weight, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        pairs: KernelMap = ctx.pairs
        to_features = to_weight = None
        if ctx.needs_input_grad[0]:
            to_features = _convolve(gradient, weight.transpose(1, 2), pairs.reversed)
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros_like(weight)
            if pairs.identity is not None:
                torch.mm(features.T, gradient, out=to_weight[pairs.identity])
            for tap, inputs, outputs in pairs.taps:
                left, right = features.index_select(0, inputs), gradient.index_select(0, outputs)
                torch.mm(left.T, right, out=to_weight[tap])
        return to_features, to_weight, None


def _convolve(features: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    """features [M, C], weight [K, C, C'] -> [N, C'], in the features' dtype."""
    if pairs.identity is None:
        total = features.new_zeros(pairs.sizes[1], weight.shape[2], dtype=torch.float32)
    else:
        total = (features @ weight[pairs.identity]).float()
    rows = [len(inputs) for _, inputs, _ in pairs.taps]
    if 0 < sum(rows) * weight.shape[2] <= AT_ONCE:
        products = features.new_empty(sum(rows), weight.shape[2])
        for (tap, inputs, _), product in zip(pairs.taps, products.split(rows), strict=True):
            torch.mm(features.index_select(0, inputs), weight[tap], out=product)
        order, begins = pairs.bags
        total += F.embedding_bag(order, products.float(), begins, mode="sum")
    else:
        for tap, inputs, outputs in pairs.taps:
            total.index_add_(0, outputs, (features.index_select(0, inputs) @ weight[tap]).float())
    return total.to(features.dtype)


def sparse_convolution(features: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    """features [M, C_in], weight [K, C_in, C_out] -> [N, C_out]: gather, one product a tap, scatter-add.

    Under autocast in its dtype. Raises ValueError where sizes don't match the map.
    """
    if (
        len(features) != pairs.sizes[0]
        or len(weight) != len(pairs.counts)
        or weight.shape[1] != features.shape[1]
    ):
        raise ValueError(
            f"features {tuple(features.shape)} and weight {tuple(weight.shape)} don't fit a map of "
            f"{len(pairs.counts)} taps from {pairs.sizes[0]} to {pairs.sizes[1]} voxels"
        )
    device = features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
        with torch.autocast(device, enabled=False):
            return _GatherMatmulScatter.apply(features, weight, pairs)
    return _GatherMatmulScatter.apply(features, weight, pairs)


class SparseConv3d(nn.Module):
    """A sparse convolution; see the module's docstring for its three kinds.

    kernel_size, stride, padding: one number or (x, y, z). padding: None for (k - 1) // 2 where the kernel is odd, else
    0. submanifold: outputs = inputs; needs stride 1. transposed: undoes the strided convolution of the same kernel,
    stride and padding that made its input's coordinates, within the same forward.
    weight: [K, in, out], taps as in Conv3d's, z fastest; starts in U(+-1 / sqrt(in * K)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | None = None,
        submanifold: bool = False,
        transposed: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride = triple(kernel_size), triple(stride)
        centred = triple([(k - 1) // 2 if k % 2 else 0 for k in self.kernel_size])
        self.padding = centred if padding is None else triple(padding)
        if min(self.kernel_size + self.stride) < 1 or min(self.padding) < 0:
            raise ValueError(f"kernel_size {kernel_size}, stride {stride} or padding {padding} is too small")
        if submanifold and (transposed or self.stride != (1, 1, 1)):
            raise ValueError(
                f"a submanifold convolution has stride 1 and isn't transposed, not stride {stride}"
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.submanifold, self.transposed = submanifold, transposed
        taps = math.prod(self.kernel_size)
        bound = 1 / math.sqrt(in_channels * taps)
        self.weight = nn.Parameter(torch.empty(taps, in_channels, out_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def extra_repr(self) -> str:
        kind = "submanifold" if self.submanifold else "transposed" if self.transposed else "strided"
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, {kind}"
        )

    def outputs(self, inputs: SparseTensor) -> tuple[SparseTensor, KernelMap]:
        """The voxels of the output, with features [N, 0], and the map from the input's; cached."""
        key = (self.kernel_size, self.stride, self.padding)
        if self.transposed:
            stands, pairs = inputs.cached(("finer", *key), _no_finer(self, inputs))
            return stands, pairs.reversed
        if self.submanifold:
            pairs = inputs.cached(
                ("submanifold", *key),
                lambda: kernel_map(
                    inputs.coordinates,
                    inputs.coordinates,
                    self.kernel_size,
                    input_stride=inputs.stride,
                    padding=self.padding,
                ),
            )
            return inputs, pairs

        def strided() -> tuple[SparseTensor, KernelMap]:
            coordinates, grid = strided_coordinates(
                inputs.coordinates,
                self.kernel_size,
                self.stride,
                input_stride=inputs.stride,
                padding=self.padding,
                grid=inputs.grid,
            )
            pairs = kernel_map(
                inputs.coordinates,
                coordinates,
                self.kernel_size,
                input_stride=inputs.stride,
                padding=self.padding,
            )
            stride = triple([s * t for s, t in zip(inputs.stride, self.stride, strict=True)])
            nothing = inputs.features.new_zeros(len(coordinates), 0)
            coarse = SparseTensor(nothing, coordinates, stride, grid, inputs.cache)
            finer = inputs.replace(inputs.features.new_zeros(len(inputs.coordinates), 0))
            coarse.cached(("finer", *key), lambda: (finer, pairs))
            return coarse, pairs

        return inputs.cached(("strided", *key), strided)

    def forward(self, inputs: SparseTensor) -> SparseTensor:
        """Features [M, in] -> [N, out] at the voxels that `outputs` names."""
        stands, pairs = self.outputs(inputs)
        features = sparse_convolution(inputs.features, self.weight, pairs)
        if self.bias is not None:
            features = features + self.bias.to(features.dtype)
        return stands.replace(features)


class SparseBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the voxels of a sparse tensor."""

    def forward(self, inputs: SparseTensor) -> SparseTensor:  # type: ignore[override]
        return inputs.replace(super().forward(inputs.features))


class SparseReLU(nn.Module):
    """max(0, x) at each voxel."""

    def forward(self, inputs: SparseTensor) -> SparseTensor:
        return inputs.replace(F.relu(inputs.features))


def _no_finer(layer: SparseConv3d, inputs: SparseTensor) -> Callable[[], Any]:
    def fail() -> Any:
        raise ValueError(
            f"no convolution of kernel {layer.kernel_size}, stride {layer.stride}, padding {layer.padding} made the "
            f"voxels at stride {inputs.stride} in this forward; a transposed one needs it to undo"
        )

    return fail
