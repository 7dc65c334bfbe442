"""The networks of CFN: plain trunks A, B, 11 and 19 with taps at their pooling layers, and the fusion on top.

Thesis chapter 2: Table 2.1 and Fig. 2.6 (A, B), Figs. 2.9-2.11 (11, DSN-11, ResNet-11), Eqs. 2.1-2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from tasks.blocks.locally_connected import Activation, LocallyConnectedFusion

TrunkName = Literal["a", "b", "11", "19"]
Fusion = Literal["none", "sum", "conv", "lc"]
Strategy = Literal["eflp", "eplf"]
Init = Literal["gaussian", "xavier", "kaiming"]

FULL_FEATURES = {"a": 192, "b": 192, "11": 1024, "19": 1024}
"""K, the channels of every 1×1 branch."""


def convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, norm: bool, relu: bool = True
) -> nn.Module:
    """Convolution that keeps the size (at stride 1), then BN if `norm`, then ReLU if `relu`."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    if relu:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class ResidualStage(nn.Module):
    """Convolutions with a linear 1×1 shortcut around them, added before the last ReLU (Fig. 2.11)."""

    def __init__(self, inputs: int, outputs: int, depth: int) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * depth
        self.body = nn.Sequential(
            *(
                convolution(before, after, 3, norm=True, relu=i < depth - 1)
                for i, (before, after) in enumerate(pairwise(widths))
            )
        )
        self.shortcut = convolution(inputs, outputs, 1, norm=True, relu=False)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]"""
        return torch.relu(self.body(maps) + self.shortcut(maps))


class Trunk(nn.Module):
    """A plain CNN up to its last convolution: stages with a pooling layer between them.

    stages: one module a stage; pools: one a gap, the dropout behind it included, so that a side branch reads
    what the next stage reads. tapped: indices of the pools that side branches may start from.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        pools: Sequence[nn.Module],
        tapped: Sequence[int],
        channels: Sequence[int],
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.pools = nn.ModuleList(pools)
        self.tapped = tuple(tapped)
        self.side_channels = tuple(channels[i] for i in tapped)
        self.out_channels = channels[-1]

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """[B, channels, H, W] -> (pooled maps bottom to top, map of the last convolution)."""
        taps = []
        maps = image
        for i, stage in enumerate(self.stages):
            maps = stage(maps)
            if i < len(self.pools):
                maps = self.pools[i](maps)
                if i in self.tapped:
                    taps.append(maps)
        return taps, maps


def build_trunk(
    name: TrunkName,
    *,
    image_channels: int = 3,
    width: float = 1.0,
    wide_stem: bool = False,
    dropout: float = 0.5,
    residual: bool = False,
) -> Trunk:
    """A trunk by its name; pooling is in ceil mode as in Caffe (32 -> 16 -> 8).

    width: factor on all channels. wide_stem: first two convolutions of B with 192 channels instead of 96.
    dropout: behind the pools of A and B. residual: a shortcut around each stage of 11 or 19.
    """

    def scaled(*channels: int) -> list[int]:
        return [max(1, round(width * c)) for c in channels]

    if name in ("a", "b"):
        if residual:
            raise ValueError("shortcuts are defined for the trunks 11 and 19")
        channels = scaled(64, 64, 64) if name == "a" else scaled(192 if wide_stem else 96, 192, 192)
        inputs = [image_channels, *channels[:-1]]
        if name == "a":
            stages = [convolution(i, o, 5, norm=False) for i, o in zip(inputs, channels, strict=True)]
        else:
            stages = [
                nn.Sequential(convolution(i, o, 3, norm=False), convolution(o, o, 3, norm=False))
                for i, o in zip(inputs, channels, strict=True)
            ]
        pools = [
            nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(dropout)),
            nn.Sequential(nn.AvgPool2d(3, 2, ceil_mode=True), nn.Dropout(dropout)),
        ]
        return Trunk(stages, pools, (0, 1), channels)

    depth = 2 if name == "11" else 4
    channels = scaled(64, 64, 128, 256, 512)
    stages = [convolution(image_channels, channels[0], 7, stride=2, norm=True)]
    for i, o in pairwise(channels):
        if residual:
            stages.append(ResidualStage(i, o, depth))
        else:
            stages.append(
                nn.Sequential(*(convolution(i if n == 0 else o, o, 3, norm=True) for n in range(depth)))
            )
    pools = [nn.MaxPool2d(3, 2, ceil_mode=True) for _ in range(4)]
    return Trunk(stages, pools, (1, 2, 3), channels)


class Branch(nn.Module):
    """1×1 convolution to K channels, ReLU, global average pooling (Eq. 2.1)."""

    def __init__(self, inputs: int, features: int, *, norm: bool) -> None:
        super().__init__()
        self.project = convolution(inputs, features, 1, norm=norm)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, inputs, H, W] -> g [B, K]"""
        return self.project(maps).mean(dim=(2, 3))


class SumFusion(nn.Module):
    """Sum of the branches, no weights (Fig. 2.5a)."""

    def forward(self, stack: Tensor) -> Tensor:
        """[B, S, K] -> [B, K]"""
        return stack.sum(dim=1)


class ConvFusion(nn.Module):
    """One weight a branch, shared by all elements, and one bias: S + 1 parameters (Fig. 2.5b)."""

    def __init__(self, branches: int, init: float | None, activation: Activation) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((branches,), 1.0 / branches if init is None else init))
        self.bias = nn.Parameter(torch.zeros(()))
        self.activation = activation

    def forward(self, stack: Tensor) -> Tensor:
        """[B, S, K] -> [B, K]"""
        fused = torch.einsum("bsk,s->bk", stack, self.weight) + self.bias
        return torch.relu(fused) if self.activation == "relu" else fused


class NormedFusion(nn.Module):
    """The fusion of the published ImageNet networks: locally connected without bias, then BN and ReLU."""

    def __init__(self, branches: int, elements: int, init: float | None, activation: Activation) -> None:
        super().__init__()
        self.locally_connected = LocallyConnectedFusion(
            branches, (elements,), init, activation="none", bias=False
        )
        self.norm = nn.BatchNorm1d(elements)
        self.activation = activation

    def forward(self, stack: Tensor) -> Tensor:
        """[B, S, K] -> [B, K]"""
        fused = self.norm(self.locally_connected(stack))
        return torch.relu(fused) if self.activation == "relu" else fused


class FusionNetwork(nn.Module):
    """A trunk, its 1×1 branches, their fusion and the classifier.

    trunk: the plain CNN. classes: C. features: K, equal for all branches.
    fusion: "none" is the plain CNN (main branch only). strategy: "eflp" fuses the features and has one
        classifier; "eplf" has one classifier a branch and fuses their predictions.
    branches: which side branches, 1 the lowest; None: all. The main branch is always the last.
    init: of convolutions and classifiers. dropout: before each classifier. norm: BN in the branches.
    lc_init, lc_act, lc_norm: initial weights (None: 1/S), activation and published-code form of the fusion.
    deep_supervision: side classifiers that only serve a loss each (DSN); needs fusion "none".
    """

    def __init__(
        self,
        trunk: Trunk,
        classes: int,
        features: int,
        *,
        fusion: Fusion,
        strategy: Strategy,
        branches: Sequence[int] | None,
        init: Init,
        dropout: float,
        norm: bool,
        lc_init: float | None,
        lc_act: Activation,
        lc_norm: bool,
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        available = range(1, len(trunk.side_channels) + 1)
        chosen = list(available) if branches is None else list(branches)
        if sorted(set(chosen)) != chosen or not set(chosen) <= set(available) or not chosen:
            raise ValueError(f"side branches must be an ascending choice of {list(available)}, got {chosen}")
        self.fusion_kind = fusion
        self.strategy = strategy
        self.dropout = nn.Dropout(dropout)
        # The parts that all variants share are drawn first, so that they start alike for a seed.
        self.trunk = initialise(trunk, init)
        self.main = initialise(Branch(trunk.out_channels, features, norm=norm), init)
        self.classifier = initialise(nn.Linear(features, classes), init)
        has_sides = fusion != "none" or deep_supervision
        self.chosen = tuple(chosen) if has_sides else ()
        has_classifiers = deep_supervision or (strategy == "eplf" and fusion != "none")
        # What a variant adds draws from a copy of the generator: the dropout that follows is alike, too.
        with torch.random.fork_rng(devices=[]):
            self.sides = nn.ModuleList(
                initialise(Branch(trunk.side_channels[i - 1], features, norm=norm), init) for i in self.chosen
            )
            self.side_classifiers = nn.ModuleList(
                initialise(nn.Linear(features, classes), init)
                for _ in (self.chosen if has_classifiers else ())
            )
        elements = classes if strategy == "eplf" else features
        # Fused predictions stay signed: a ReLU on logits would leave classes without a gradient.
        activation: Activation = "none" if strategy == "eplf" else lc_act
        self.fusion: nn.Module | None = None
        if fusion == "sum":
            self.fusion = SumFusion()
        elif fusion == "conv":
            self.fusion = ConvFusion(self.branch_count, lc_init, activation)
        elif fusion == "lc":
            make = NormedFusion if lc_norm else _plain_fusion
            self.fusion = make(self.branch_count, elements, lc_init, activation)

    @property
    def branch_count(self) -> int:
        """S, the main branch included."""
        return len(self.chosen) + 1

    def branches(self, image: Tensor) -> Tensor:
        """[B, channels, H, W] -> g^(1..S) stacked [B, S, K], bottom to top, the main branch last."""
        taps, last = self.trunk(image)
        sides = [side(taps[i - 1]) for side, i in zip(self.sides, self.chosen, strict=True)]
        return torch.stack([*sides, self.main(last)], dim=1)

    def feature(self, stack: Tensor) -> Tensor:
        """g [B, S, K] -> the feature that the classifier reads and that transfers [B, K]: g^f (Eq. 2.3) for
        early fusion, otherwise the main branch's g^(S)."""
        early = self.fusion is not None and self.strategy == "eflp"
        return self.fusion(stack) if early else stack[:, -1]

    def side_logits(self, stack: Tensor) -> Tensor:
        """g [B, S, K] -> the side classifiers' logits [B, S - 1, C]."""
        return torch.stack(
            [head(self.dropout(stack[:, i])) for i, head in enumerate(self.side_classifiers)], dim=1
        )

    def logits(self, stack: Tensor) -> Tensor:
        """g [B, S, K] -> logits [B, C]."""
        main = self.classifier(self.dropout(self.feature(stack)))
        if self.fusion is None or self.strategy == "eflp":
            return main
        return self.fusion(torch.cat([self.side_logits(stack), main[:, None]], dim=1))

    def forward(self, image: Tensor) -> Tensor:
        """[B, channels, H, W] -> logits [B, C]"""
        return self.logits(self.branches(image))

    def fusion_means(self) -> Tensor | None:
        """Mean fusion weight of each branch [S], or None where the fusion has no weights (Fig. 2.8)."""
        if isinstance(self.fusion, ConvFusion):
            return self.fusion.weight.detach().clone()
        layer = self.fusion.locally_connected if isinstance(self.fusion, NormedFusion) else self.fusion
        return layer.branch_means() if isinstance(layer, LocallyConnectedFusion) else None

    def parameter_split(self) -> dict[str, int]:
        """Numbers of parameters: the plain CNN (basic), added branches and classifiers (side), the fusion."""

        def size(*modules: nn.Module | None) -> int:
            return sum(p.numel() for module in modules if module is not None for p in module.parameters())

        return {
            "basic": size(self.trunk, self.main, self.classifier),
            "side": size(self.sides, self.side_classifiers),
            "fusion": size(self.fusion),
        }


def _plain_fusion(branches: int, elements: int, init: float | None, activation: Activation) -> nn.Module:
    return LocallyConnectedFusion(branches, (elements,), init, activation=activation)


def initialise(module: nn.Module, scheme: Init) -> nn.Module:
    """Draw the weights of all convolutions and linear layers in place and return the module.

    "gaussian": N(0, 0.05) and N(0, 0.1) for linear layers, biases 0 (the published CIFAR networks);
    "xavier": Glorot uniform, biases 0.2 (Caffe's GoogLeNet); "kaiming": He normal over the fan-in, biases 0.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        if scheme == "gaussian":
            nn.init.normal_(layer.weight, std=0.1 if isinstance(layer, nn.Linear) else 0.05)
        elif scheme == "xavier":
            nn.init.xavier_uniform_(layer.weight)
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.constant_(layer.bias, 0.2 if scheme == "xavier" and isinstance(layer, nn.Conv2d) else 0.0)
    return module
