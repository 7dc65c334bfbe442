"""MinkUNet, and SPVCNN, which is MinkUNet with a point branch at full resolution.

Choy et al., 4D Spatio-Temporal ConvNets, CVPR 2019; Tang et al., Searching Efficient 3D Architectures with Sparse
Point-Voxel Convolution, ECCV 2020. The paper names neither widths nor where branches meet: both are the official
code's (github.com/mit-han-lab/spvnas), and so are module names, but for a convolution's `kernel`, here `weight`.

stem      2 x (conv 3, BN, ReLU)                                                     stride 1   x0
stage k   conv 2 stride 2, BN, ReLU; residual blocks                                 stride 2^k xk      k = 1..4
up k      transposed conv 2 stride 2, BN, ReLU; concat the skip; residual blocks     stride 2^(4-k) yk  k = 1..4
Skips are x3, x2, x1, x0. A linear classifier ends it.

SPVCNN's points leave and meet the voxels three times (SPVConv: voxel branch + point branch, summed):
z0 = devoxelise(x0), from which stage 1 is voxelised again; z1 = devoxelise(x4) + MLP(z0), which is voxelised at
stride 16 for up 1; z2 = devoxelise(y2) + MLP(z1), voxelised at stride 4 for up 3; z3 = devoxelise(y4) + MLP(z2), to
the classifier. Dropout falls on the two tensors that are voxelised again in the decoder.

Without decoder (Table 3) the classifier stands on z1, or for MinkUNet on x4: the paper says no more than "removing
the decoder layers".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from tasks.blocks.sparse_convolution import SparseBatchNorm, SparseConv3d, SparseReLU, SparseTensor
from tasks.blocks.sparse_voxels import Align, Mode, PointSet, average_in_voxels, devoxelise, voxelise_set

STEM = 32
OUTPUTS = (32, 64, 128, 256, 256, 128, 96, 96)
"""Widths of MinkUNet42 as the official code has it: of the stem, and of the eight stages."""


@dataclass(frozen=True)
class Stage:
    """Widths of a stage: of the k = 2 convolution that opens it, of its output, and in the middle of each block."""

    transition: int
    output: int
    middles: tuple[int, ...]

    @property
    def depth(self) -> int:
        return len(self.middles)


@dataclass(frozen=True)
class Architecture:
    """All widths and depths of a network.

    stages: four down and four up, or the four down alone. project: the first block of each stage has a convolution in
    its shortcut also where widths agree, as it has in a super network, whose widths vary.
    """

    stem: int
    stages: tuple[Stage, ...]
    project: bool = False

    def __post_init__(self) -> None:
        if len(self.stages) not in (4, 8):
            raise ValueError(f"an architecture has 4 or 8 stages, not {len(self.stages)}")
        numbers = [self.stem]
        for stage in self.stages:
            numbers += [stage.transition, stage.output, min(stage.middles, default=0)]
        if min(numbers) < 1:
            raise ValueError(f"widths and depths must be positive: {self}")

    @classmethod
    def uniform(cls, ratio: float = 1.0, *, decoder: bool = True) -> Architecture:
        """MinkUNet with all channels times `ratio`, rounded down (the official code's cr)."""
        stem, *outputs = [max(1, int(ratio * width)) for width in (STEM, *OUTPUTS)]
        transitions = (stem, *outputs[:3], *outputs[4:])
        stages = tuple(
            Stage(transition, output, (output, output))
            for transition, output in zip(transitions, outputs, strict=True)
        )
        return cls(stem, stages if decoder else stages[:4])

    @property
    def decoder(self) -> bool:
        return len(self.stages) == 8

    def skip(self, stage: int) -> int:
        """Channels that stage 4..7 takes over: x3, x2, x1, x0."""
        return self.stages[6 - stage].output if stage < 7 else self.stem

    def inputs(self, stage: int) -> int:
        """Channels that a stage's k = 2 convolution sees."""
        return self.stages[stage - 1].output if stage else self.stem

    def block_inputs(self, stage: int) -> tuple[int, ...]:
        """Parts of what a stage's first block sees: of its transition, and in the decoder of the skip."""
        own = self.stages[stage].transition
        return (own,) if stage < 4 else (own, self.skip(stage))

    def point_widths(self) -> tuple[int, ...]:
        """Widths of z0, z1, z2, z3 (z0, z1 without decoder)."""
        return (self.stem, *(self.stages[stage].output for stage in ((3, 5, 7) if self.decoder else (3,))))


class ConvolutionBlock(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, *, stride: int = 1, transposed: bool = False
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(
            SparseConv3d(
                inputs,
                outputs,
                kernel_size,
                stride=stride,
                submanifold=stride == 1 and not transposed,
                transposed=transposed,
            ),
            SparseBatchNorm(outputs),
            SparseReLU(),
        )

    def forward(self, voxels: SparseTensor) -> SparseTensor:
        return self.net(voxels)


class ResidualBlock(nn.Module):
    """conv 3, BN, ReLU, conv 3, BN, plus the input, ReLU.

    parts: channels of the tensors that the input is a concatenation of. project: a convolution 1, BN in the shortcut.
    """

    def __init__(self, parts: Sequence[int], middle: int, outputs: int, *, project: bool) -> None:
        super().__init__()
        self.parts = tuple(parts)
        inputs = sum(parts)
        self.net = nn.Sequential(
            SparseConv3d(inputs, middle, 3, submanifold=True),
            SparseBatchNorm(middle),
            SparseReLU(),
            SparseConv3d(middle, outputs, 3, submanifold=True),
            SparseBatchNorm(outputs),
        )
        self.downsample: nn.Module = nn.Identity()
        if project or inputs != outputs:
            self.downsample = nn.Sequential(
                SparseConv3d(inputs, outputs, 1, submanifold=True), SparseBatchNorm(outputs)
            )
        self.relu = SparseReLU()

    def forward(self, voxels: SparseTensor) -> SparseTensor:
        return self.relu(voxels.replace(self.net(voxels).features + self.downsample(voxels).features))


class MinkUNet(nn.Module):
    """The sparse U-Net alone: every point gets the answer of its voxel (without decoder: of stride 16).

    classes: of the output. in_channels: of the points' features.
    """

    def __init__(self, architecture: Architecture, classes: int, *, in_channels: int = 4) -> None:
        super().__init__()
        self.architecture = architecture
        stem = architecture.stem
        self.stem = nn.Sequential(
            SparseConv3d(in_channels, stem, 3, submanifold=True),
            SparseBatchNorm(stem),
            SparseReLU(),
            SparseConv3d(stem, stem, 3, submanifold=True),
            SparseBatchNorm(stem),
            SparseReLU(),
        )
        for number, stage in enumerate(architecture.stages):
            blocks = nn.Sequential(*self._blocks(number, stage))
            inputs = architecture.inputs(number)
            if number < 4:
                down = ConvolutionBlock(inputs, stage.transition, 2, stride=2)
                setattr(self, f"stage{number + 1}", nn.Sequential(down, *blocks))
            else:
                up = ConvolutionBlock(inputs, stage.transition, 2, stride=2, transposed=True)
                setattr(self, f"up{number - 3}", nn.ModuleList([up, blocks]))
        self.classifier = nn.Sequential(nn.Linear(architecture.stages[-1].output, classes))

    def _blocks(self, number: int, stage: Stage) -> Iterator[ResidualBlock]:
        parts = self.architecture.block_inputs(number)
        for place, middle in enumerate(stage.middles):
            yield ResidualBlock(
                (stage.output,) if place else parts,
                middle,
                stage.output,
                project=self.architecture.project and not place,
            )

    def down(self, number: int, voxels: SparseTensor) -> SparseTensor:
        """Down stage 1..4."""
        return getattr(self, f"stage{number}")(voxels)

    def up(self, number: int, voxels: SparseTensor, skip: SparseTensor) -> SparseTensor:
        """Up stage 1..4."""
        transition, blocks = getattr(self, f"up{number}")
        fine = transition(voxels)
        return blocks(fine.replace(torch.cat([fine.features, skip.features], dim=1)))

    def forward(self, features: Tensor, points: PointSet) -> Tensor:
        """Point features [N, in_channels] -> logits [N, classes]."""
        voxels = self.stem(voxelise_set(points, features)[0])
        levels = [voxels]
        for number in range(1, 5):
            levels.append(self.down(number, levels[-1]))
        voxels = levels.pop()
        if self.architecture.decoder:
            for number in range(1, 5):
                voxels = self.up(number, voxels, levels.pop())
        logits = voxels.replace(self.classifier(voxels.features))
        return devoxelise(logits, points, mode="nearest")


class SPVCNN(MinkUNet):
    """MinkUNet with the point branch.

    devox, align: see `devoxelise`. point_stem: z0 also gets Linear, BN, ReLU of the raw features, SPVConv's point
    branch for the first module; the official code has none there, so that two points of a voxel differ only by their
    trilinear weights. dropout: of what is voxelised again in the decoder.
    """

    def __init__(
        self,
        architecture: Architecture,
        classes: int,
        *,
        in_channels: int = 4,
        devox: Mode = "trilinear",
        align: Align = "corner",
        point_stem: bool = False,
        dropout: float = 0.3,
    ) -> None:
        super().__init__(architecture, classes, in_channels=in_channels)
        self.devox: Mode = devox
        self.align: Align = align
        widths = architecture.point_widths()
        self.point_transforms = nn.ModuleList(
            [_point_mlp(inputs, outputs) for inputs, outputs in pairwise(widths)]
        )
        self.point_stem = _point_mlp(in_channels, widths[0]) if point_stem else None
        self.dropout = nn.Dropout(dropout)

    def to_points(self, voxels: SparseTensor, points: PointSet) -> Tensor:
        return devoxelise(voxels, points, mode=self.devox, align=self.align)

    def forward(
        self, features: Tensor, points: PointSet, branches: list[tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """Point features [N, in_channels] -> logits [N, classes].

        branches: takes (point branch, voxel branch) of the last SPVConv, [N, C] each.
        """
        x0 = self.stem(voxelise_set(points, features)[0])
        z0 = self.to_points(x0, points)
        if self.point_stem is not None:
            z0 = z0 + self.point_stem(features)
        x1 = self.down(1, average_in_voxels(z0, points, x0))
        x2 = self.down(2, x1)
        x3 = self.down(3, x2)
        x4 = self.down(4, x3)
        from_points, from_voxels = self.point_transforms[0](z0), self.to_points(x4, points)
        z = from_points + from_voxels
        if self.architecture.decoder:
            y2 = self.up(2, self.up(1, self._again(z, points, x4), x3), x2)
            z = self.to_points(y2, points) + self.point_transforms[1](z)
            y4 = self.up(4, self.up(3, self._again(z, points, y2), x1), x0)
            from_points, from_voxels = self.point_transforms[2](z), self.to_points(y4, points)
            z = from_points + from_voxels
        if branches is not None:
            branches.append((from_points, from_voxels))
        return self.classifier(z)

    def _again(self, z: Tensor, points: PointSet, voxels: SparseTensor) -> SparseTensor:
        """Point features, averaged in the voxels of a coarser level; with dropout."""
        means = average_in_voxels(z, points, voxels)
        return means.replace(self.dropout(means.features))


def _point_mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())


# Published weights.


def published_name(name: str) -> str:
    """A name of torchsparse's layout -> this module's: `kernel` is `weight`, and torchsparse 1.0 keeps a batch
    normalisation under a further `bn`."""
    return name.replace(".bn.", ".").replace(".kernel", ".weight")


def published_value(name: str, value: Tensor) -> Tensor:
    """A tensor of torchsparse's layout -> this module's, by its published name.

    A 1 x 1 x 1 kernel is [in, out] there. Kernels of odd volume list their offsets with x fastest, those of even
    volume with z fastest, as here.
    """
    if value.ndim == 2 and name.endswith(".kernel"):
        return value[None]
    if value.ndim == 3 and len(value) == 27:
        return value.view(3, 3, 3, *value.shape[1:]).transpose(0, 2).reshape(value.shape)
    return value
