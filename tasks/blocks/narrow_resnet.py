"""ResNets of any depth and width for small pictures, and all that distillation reads of them.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), with a 3x3 first convolution of stride 1 and
a max-pool of stride 1, so that 32 pixels end as 4x4 and 64 as 8x8. Modules are named as in torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

LAYOUTS: Mapping[int, tuple[int, int, int, int]] = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks of the four stages by depth; from 50 on they are bottlenecks."""
STAGES = 4


class Stages(NamedTuple):
    """What a network computes for pictures on the way.

    before: outputs of the four stages before their last ReLU, [B, C, H, W] each. pooled: [B, K]. logits: [B, classes].
    """

    before: tuple[Tensor, ...]
    pooled: Tensor
    logits: Tensor

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """Outputs of the four stages, [B, C, H, W] each."""
        return tuple(before.relu() for before in self.before)

    @property
    def map(self) -> Tensor:
        """Output of the last stage, before pooling, [B, C, H, W]."""
        return self.before[-1].relu()


class _Block(nn.Module):
    """What both kinds share: the shortcut, a 1x1 convolution with BN where shapes differ."""

    expansion: int

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """-> the sum before the ReLU, which the network takes."""
        return self.residual(x) + (x if self.downsample is None else self.downsample(x))


class BasicBlock(_Block):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))


class Bottleneck(_Block):
    """1x1, 3x3 (which has the stride, as in torchvision) and 1x1 to four times the width."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)

    def residual(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.bn3(self.conv3(self.bn2(self.conv2(x)).relu()))


class NarrowResNet(nn.Module):
    """A ResNet with channels reduced to a ratio.

    depth: a key of `LAYOUTS`. ratio: of the stages' widths to 64, 128, 256, 512. pool_stride: of the max-pool behind
    the first convolution (1 for small pictures; 2 makes all maps half as wide, and a step about three times cheaper).
    Convolutions start with Kaiming's normal weights by fan-out.
    """

    def __init__(
        self, depth: int, ratio: float, classes: int, *, channels: int = 3, pool_stride: int = 1
    ) -> None:
        super().__init__()
        if depth not in LAYOUTS:
            raise ValueError(f"no ResNet of depth {depth}; known: {', '.join(map(str, LAYOUTS))}")
        if pool_stride not in (1, 2):
            raise ValueError(f"pool_stride must be 1 or 2, got {pool_stride}")
        first = round(64 * ratio)
        if first < 1:
            raise ValueError(f"ratio {ratio} leaves no channel of 64")
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = nn.Conv2d(channels, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.maxpool = nn.MaxPool2d(3, pool_stride, 1)
        self.pool_stride = pool_stride
        inputs = first
        self.channels: list[int] = []
        """Channels of the four stages' outputs."""
        for stage, blocks in enumerate(LAYOUTS[depth]):
            width = first * 2**stage
            layers = []
            for number in range(blocks):
                layers.append(block(inputs, width, 2 if stage > 0 and number == 0 else 1))
                inputs = block.expansion * width
            self.add_module(f"layer{stage + 1}", nn.ModuleList(layers))
            self.channels.append(inputs)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # A third faster on a CPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def stages(self, image: Tensor) -> Stages:
        """[B, channels, H, W] -> everything on the way."""
        image = image.contiguous(memory_format=torch.channels_last)
        x = self.maxpool(self.bn1(self.conv1(image)).relu())
        before = []
        for stage in range(STAGES):
            for block in self.get_submodule(f"layer{stage + 1}").children():
                summed = block(x)
                x = summed.relu()
            before.append(summed)
        pooled = x.mean(dim=(2, 3))
        return Stages(tuple(before), pooled, self.fc(pooled))

    def forward(self, image: Tensor) -> Tensor:
        """[B, channels, H, W] -> logits [B, classes]."""
        return self.stages(image).logits

    @classmethod
    def like(cls, state: Mapping[str, Tensor], *, pool_stride: int = 1) -> NarrowResNet:
        """A network of the depth, width and classes of a state dict, with its weights.

        Raises `ValueError` where it is of no ResNet in `LAYOUTS`, or has missing, unexpected or misshaped keys.
        """
        for key in ("conv1.weight", "fc.weight"):
            if key not in state:
                raise ValueError(f"no weights of a ResNet: {key} is missing")
        blocks = tuple(
            len({key.split(".")[1] for key in state if key.startswith(f"layer{stage + 1}.")})
            for stage in range(STAGES)
        )
        bottleneck = "layer1.0.conv3.weight" in state
        depth = next(
            (d for d, layout in LAYOUTS.items() if layout == blocks and (d >= 50) == bottleneck), None
        )
        if depth is None:
            kind = "bottlenecks" if bottleneck else "basic blocks"
            raise ValueError(f"no known ResNet has {blocks} {kind} in its stages")
        first, channels = state["conv1.weight"].shape[:2]
        network = cls(depth, first / 64, len(state["fc.weight"]), channels=channels, pool_stride=pool_stride)
        try:
            network.load_state_dict(dict(state))
        except RuntimeError as error:
            raise ValueError(f"the weights don't fit ResNet-{depth}: {error}") from None
        return network
