"""3D-NAS: the search space over SPVCNN, its super network, the cost of a candidate, and the search (Sec. 4).

A candidate is a tuple of genes, five a stage: width of the k = 2 transition, of the output, in the middle of the two
residual blocks, and depth. Candidates share the super network's weights: `shared_state` cuts the tensors of a plain
static network out of the largest one's, so that what is trained, scored and finally extracted is one and the same
network, and gradients and running statistics fall on the slices they belong to.

The ranges are the official code's, whose search and super-network training were never published: those follow the
paper's text, and where it is silent (sizes of the population, rates) what is said at each function was chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tasks.blocks.sparse_convolution import SparseConv3d, SparseTensor
from tasks.blocks.sparse_voxels import PointSet
from tasks.pointcloud.spvnas_network import OUTPUTS, SPVCNN, STEM, Architecture, ResidualBlock, Stage

Genes: TypeAlias = tuple[int, ...]
LOWER = (16, 32, 64, 128, 128, 64, 48, 48)
UPPER = (48, 96, 192, 384, 384, 192, 128, 128)
MULTIPLE, LEAST_RATIO, DEPTH = 16, 0.125, 2
STRIDES = (1, 2, 4, 8, 16)
TRIALS, PATIENCE = 5_000, 100
PER_STAGE = 3 + DEPTH


# Sec. 4.1: the design space.


@dataclass(frozen=True)
class SearchSpace:
    """Widths of every layer, in multiples, and depths of every stage (Sec. 4.1).

    upper, lower: of the stages' outputs. Transitions and middles are a ratio in U(0.125, 1) of the largest; all is
    rounded down to a multiple, and at least one. fine_grained: False fixes outputs and transitions at MinkUNet's
    widths and leaves the middles and depths, as coarser search spaces do.
    """

    stem: int = STEM
    lower: tuple[int, ...] = LOWER
    upper: tuple[int, ...] = UPPER
    multiple: int = MULTIPLE
    fine_grained: bool = True

    @classmethod
    def of(cls, width: float = 1.0, *, fine_grained: bool = True, decoder: bool = True) -> SearchSpace:
        """All widths, and their step, times `width`; four stages without decoder."""
        stages = 8 if decoder else 4
        lower, upper = (
            tuple(max(1, int(width * size)) for size in sizes[:stages]) for sizes in (LOWER, UPPER)
        )
        return cls(max(1, int(width * STEM)), lower, upper, max(1, int(width * MULTIPLE)), fine_grained)

    @property
    def stages(self) -> int:
        return len(self.upper)

    @property
    def base(self) -> tuple[int, ...]:
        """MinkUNet's outputs at this space's scale."""
        return tuple(self.round(width * self.stem / STEM) for width in OUTPUTS[: self.stages])

    def round(self, width: float) -> int:
        """Down to a multiple, at least one of it."""
        return max(self.multiple, int(width) // self.multiple * self.multiple)

    def widest_transition(self, stage: int) -> int:
        if stage >= 4:
            return self.upper[stage]
        return self.upper[stage - 1] if stage else self.stem

    def largest(self) -> Architecture:
        """The network that all candidates are slices of."""
        stages = [
            Stage(self.widest_transition(number), width, (width,) * DEPTH)
            for number, width in enumerate(self.upper)
        ]
        return Architecture(self.stem, tuple(stages), project=True)

    def decode(self, genes: Sequence[int]) -> Architecture:
        """Genes [5 * stages] -> widths and depths."""
        if len(genes) != PER_STAGE * self.stages:
            raise ValueError(f"{len(genes)} genes, expected {PER_STAGE * self.stages}")
        stages = []
        for number in range(self.stages):
            transition, output, *rest = (
                int(gene) for gene in genes[PER_STAGE * number : PER_STAGE * (number + 1)]
            )
            middles, depth = rest[:DEPTH], rest[DEPTH]
            stages.append(Stage(transition, output, tuple(middles[:depth])))
        return Architecture(self.stem, tuple(stages), project=True)

    def draw(
        self, place: int, chance: np.random.Generator, depths: Sequence[int] = (1, 2), cap: float = 1.0
    ) -> int:
        """One gene, drawn uniformly; cap: widths up to so much of the largest only."""
        stage, kind = divmod(place, PER_STAGE)
        if kind == PER_STAGE - 1:
            return int(chance.choice(depths))
        ratio = chance.uniform(LEAST_RATIO, max(LEAST_RATIO, cap))
        if kind >= 2:
            return self.round(ratio * self.upper[stage])
        if not self.fine_grained:
            return self.uniform(1.0)[place]
        if kind == 1:
            lower = self.lower[stage]
            return self.round(chance.integers(lower, max(lower, int(cap * self.upper[stage])), endpoint=True))
        return self.round(ratio * self.widest_transition(stage))

    def sample(self, chance: np.random.Generator, depths: Sequence[int] = (1, 2), cap: float = 1.0) -> Genes:
        """A candidate: each layer's width, then each stage's depth, uniformly (Sec. 4.2)."""
        return tuple(self.draw(place, chance, depths, cap) for place in range(PER_STAGE * self.stages))

    def uniform(self, ratio: float) -> Genes:
        """MinkUNet's widths times `ratio`, rounded like all others, in full depth: the baseline of Fig. 6."""
        outputs = [self.round(ratio * width) for width in self.base]
        genes: list[int] = []
        for number, output in enumerate(outputs):
            before = outputs[number - 1] if number else self.stem
            genes += [output if number >= 4 else before, output, *(output,) * DEPTH, DEPTH]
        return tuple(genes)


def segment_depths(progress: float, shrink: bool = True) -> tuple[int, ...]:
    """Depths allowed at a progress in 0..1 of the training: in segment k of m, m - k + 1 to m (progressive shrinking).

    Without it, all: then the largest network is drawn with probability m^-n.
    """
    segment = min(int(progress * DEPTH), DEPTH - 1) if shrink else DEPTH - 1
    return tuple(range(DEPTH - segment, DEPTH + 1))


# Sec. 4.2: weight sharing.


def shared_state(network: SPVCNN, candidate: SPVCNN) -> dict[str, Tensor]:
    """The candidate's parameters and buffers, as slices of the largest network's (Sec. 4.2).

    The first channels of kernels, linear layers and batch normalisations, and the first blocks of a stage. What sees a
    concatenation takes the first channels of each of its parts.
    """
    parts: dict[str, list[tuple[int, int]]] = {}
    for name, module in candidate.named_modules():
        if isinstance(module, ResidualBlock):
            largest = network.get_submodule(name)
            begins = np.cumsum([0, *largest.parts[:-1]]).tolist()  # type: ignore[union-attr]
            cuts = [(begin, begin + size) for begin, size in zip(begins, module.parts, strict=True)]
            parts[f"{name}.net.0"] = parts[f"{name}.downsample.0"] = cuts
    state: dict[str, Tensor] = {}
    for name, module in candidate.named_modules():
        largest = network.get_submodule(name)
        own = dict(largest.named_parameters(recurse=False)) | dict(largest.named_buffers(recurse=False))
        if isinstance(module, SparseConv3d):
            weight = own["weight"]
            cuts = parts.get(name, [(0, module.in_channels)])
            rows = [weight[:, begin:end, : module.out_channels] for begin, end in cuts]
            state[f"{name}.weight"] = rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
        elif isinstance(module, nn.Linear):
            state[f"{name}.weight"] = own["weight"][: module.out_features, : module.in_features]
            state[f"{name}.bias"] = own["bias"][: module.out_features]
        elif isinstance(module, nn.BatchNorm1d):
            for key, value in own.items():
                state[f"{name}.{key}"] = value[: module.num_features] if value.ndim else value
        elif own:
            raise TypeError(f"no rule for sharing {name}, a {type(module).__name__}")
    return state


class SuperNetwork(nn.Module):
    """All candidates of a space in one set of weights, those of the largest.

    options: of every SPVCNN (in_channels, devox, align, point_stem, dropout).
    """

    def __init__(self, space: SearchSpace, classes: int, **options: object) -> None:
        super().__init__()
        self.space, self.classes, self.options = space, classes, options
        self.network = SPVCNN(space.largest(), classes, **options)  # type: ignore[arg-type]

    def _shell(self, architecture: Architecture) -> SPVCNN:
        """A candidate without weights."""
        with torch.device("meta"):
            return SPVCNN(architecture, self.classes, **self.options).train(self.training)  # type: ignore[arg-type]

    def forward(self, features: Tensor, points: PointSet, architecture: Architecture) -> Tensor:
        """A candidate's logits [N, classes]; gradients and batch statistics reach the shared weights."""
        candidate = self._shell(architecture)
        return functional_call(candidate, shared_state(self.network, candidate), (features, points))

    @torch.no_grad()
    def extract(self, architecture: Architecture) -> SPVCNN:
        """A candidate as a static network of its own, with copied weights and the same outputs."""
        candidate = self._shell(architecture)
        state = {name: value.clone() for name, value in shared_state(self.network, candidate).items()}
        candidate = candidate.to_empty(device=next(iter(state.values())).device)
        candidate.load_state_dict(state)
        return candidate


@torch.no_grad()
def reestimate_statistics(network: nn.Module, batches: Iterable[tuple[Tensor, PointSet]]) -> None:
    """Replace the running statistics of all batch normalisations by the mean over batches; ends in evaluation mode.

    A super network's own statistics mix all its candidates and rank none of them.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for features, points in batches:
        network(features, points)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


# Sec. 4.3: the resource constraint.


@dataclass(frozen=True)
class KernelStatistics:
    """What a network's cost on a scan goes with: points, and at each of the five strides voxels and the pairs of a
    submanifold convolution. A k = 2 convolution has one pair for each finer voxel."""

    points: float
    voxels: tuple[float, ...]
    pairs: tuple[float, ...]

    @classmethod
    def of(cls, sparse: SparseTensor, points: int, scans: int = 1) -> KernelStatistics:
        """Of the voxels at stride 1 of a batch, a scan; kernel maps that its cache has aren't built again."""
        with torch.device("meta"):
            same, down = SparseConv3d(1, 1, 3, submanifold=True), SparseConv3d(1, 1, 2, stride=2)
        voxels, pairs = [], []
        for stride in STRIDES:
            voxels.append(len(sparse.coordinates) / scans)
            pairs.append(same.outputs(sparse)[1].pairs / scans)
            if stride != STRIDES[-1]:
                sparse = down.outputs(sparse)[0]
        return cls(points / scans, tuple(voxels), tuple(pairs))

    @classmethod
    def mean(cls, several: Sequence[KernelStatistics]) -> KernelStatistics:
        """The average scan."""
        voxels, pairs = (
            np.mean([getattr(one, name) for one in several], axis=0) for name in ("voxels", "pairs")
        )
        points = float(np.mean([one.points for one in several]))
        return cls(points, tuple(voxels.tolist()), tuple(pairs.tolist()))


def macs(
    architecture: Architecture,
    statistics: KernelStatistics,
    classes: int,
    *,
    in_channels: int = 4,
    point_branch: bool = True,
    point_stem: bool = False,
) -> dict[str, float]:
    """Multiply-accumulates of a scan by part: stem, down, up, points (the MLPs) and classifier (Sec. 4.3).

    pairs * C_in * C_out for a convolution, points * C_in * C_out for a linear layer. Batch normalisation, averaging
    and interpolation aren't counted.
    """
    voxels, pairs, stem = statistics.voxels, statistics.pairs, architecture.stem
    parts = {"stem": pairs[0] * stem * (in_channels + stem), "down": 0.0, "up": 0.0}
    for number, stage in enumerate(architecture.stages):
        side = "down" if number < 4 else "up"
        level = number + 1 if number < 4 else 7 - number
        fine = level - 1 if number < 4 else level
        parts[side] += voxels[fine] * architecture.inputs(number) * stage.transition
        inputs = sum(architecture.block_inputs(number))
        for place, middle in enumerate(stage.middles):
            parts[side] += pairs[level] * middle * (inputs + stage.output)
            if inputs != stage.output or (architecture.project and not place):
                parts[side] += voxels[level] * inputs * stage.output
            inputs = stage.output
    parts["points"] = 0.0
    rows = voxels[0 if architecture.decoder else 4]
    if point_branch:
        widths = architecture.point_widths()
        weights = sum(one * two for one, two in pairwise(widths))
        parts["points"] = statistics.points * (weights + (in_channels * stem if point_stem else 0))
        rows = statistics.points
    parts["classifier"] = rows * architecture.stages[-1].output * classes
    return parts


# Sec. 4.3: the search.


@dataclass
class Search:
    """A search's winner, its score, and the scores of each generation's candidates."""

    genes: Genes
    score: float
    generations: list[list[float]] = field(default_factory=list)

    def best(self) -> list[float]:
        """The best score of each generation (Fig. 7)."""
        return [max(scores) for scores in self.generations]


def _within(draw: Callable[[float], Genes], fits: Callable[[Genes], bool]) -> Genes:
    """The first draw that is within the budget; ValueError where none of many is.

    A draw takes a cap on widths. It is 1, and falls by a tenth after every `PATIENCE` rejections in a row: random
    candidates cost about half of the uniform network, and nearly none meets a small budget by itself.
    """
    for trial in range(TRIALS):
        genes = draw(0.9 ** (trial // PATIENCE))
        if fits(genes):
            return genes
    raise ValueError(f"none of {TRIALS} candidates is within the budget of MACs; raise it")


def evolve(
    space: SearchSpace,
    fits: Callable[[Genes], bool],
    score: Callable[[Genes], float],
    chance: np.random.Generator,
    *,
    population: int = 50,
    parents: int = 10,
    mutation: float = 0.1,
    generations: int = 20,
) -> Search:
    """Evolutionary search: the best of the last generation wins (Sec. 4.3).

    Each generation after the first is half mutations of one of the `parents` best, each gene drawn anew with
    probability `mutation`, half crossovers of two of them, each gene of either. What exceeds the budget after that is
    drawn again. A candidate that came before keeps its score.
    """
    known: dict[Genes, float] = {}
    curve: list[list[float]] = []
    now = [_within(lambda cap: space.sample(chance, cap=cap), fits) for _ in range(population)]
    for generation in range(generations):
        if generation:
            elite = sorted(now, key=known.__getitem__, reverse=True)[:parents]

            def mutant(cap: float, elite: list[Genes] = elite) -> Genes:
                one = elite[chance.integers(len(elite))]
                return tuple(
                    space.draw(place, chance, cap=cap) if chance.random() < mutation else gene
                    for place, gene in enumerate(one)
                )

            def child(cap: float, elite: list[Genes] = elite) -> Genes:
                pair = chance.choice(len(elite), 2, replace=len(elite) < 2)
                return tuple(
                    elite[pair[side]][place]
                    for place, side in enumerate(chance.integers(0, 2, len(elite[0])))
                )

            half = population // 2
            now = [_within(mutant, fits) for _ in range(half)]
            now += [_within(child, fits) for _ in range(population - half)]
        for genes in now:
            if genes not in known:
                known[genes] = score(genes)
        curve.append([known[genes] for genes in now])
    best = max(now, key=known.__getitem__)
    return Search(best, known[best], curve)


def random_search(
    space: SearchSpace,
    fits: Callable[[Genes], bool],
    score: Callable[[Genes], float],
    chance: np.random.Generator,
    *,
    population: int = 50,
    generations: int = 20,
) -> Search:
    """As many candidates within the budget, all drawn at random; the best of all wins (Fig. 7's control)."""
    found = [
        _within(lambda cap: space.sample(chance, cap=cap), fits) for _ in range(population * generations)
    ]
    scores = [score(genes) for genes in found]
    best = int(np.argmax(scores))
    curve = [scores[start : start + population] for start in range(0, len(scores), population)]
    return Search(found[best], scores[best], curve)


def widest_uniform(space: SearchSpace, fits: Callable[[Genes], bool], steps: int = 256) -> Genes:
    """MinkUNet's widths, shrunk uniformly until they are within the budget; ValueError where none is."""
    for step in range(steps, 0, -1):
        genes = space.uniform(step / steps)
        if fits(genes):
            return genes
    raise ValueError("no uniform network is within the budget of MACs; raise it")


def share(parts: Mapping[str, float], part: str) -> float:
    """A part's share of the MACs, in percent."""
    return 100 * parts[part] / sum(parts.values())
