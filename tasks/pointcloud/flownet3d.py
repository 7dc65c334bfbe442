"""A network in the manner of FlowNet3D: Learning Scene Flow in 3D Point Clouds (Liu, Qi and Guibas, CVPR 2019).

The peer that FLOT is compared with: the clouds meet once, at a coarse scale, in a learned mixing function instead of
a transport plan, within an encoder and decoder.

- set conv (Sec. 4.1): features of the points around a coarser point, with their offsets, through an MLP, then the
  maximum. Two for each cloud (shared), two more behind the embedding.
- flow embedding (Sec. 4.2): for each point the features of both clouds and the offset to each point of the second
  cloud nearby through an MLP, then the maximum.
- set upconv (Sec. 4.3): the same from a coarse set to the finer one, with a skip; a linear layer gives the flow.
- loss: Huber's between the flows of valid points, as in the paper, without its cycle term (which it calls optional).

Here neighbourhoods are the k nearest points instead of k points in a ball, and coarser sets are the first points
instead of the farthest ones: the order of the points is random, so these are random subsets. There are no colours.
Batch norm follows each linear layer, as in the paper; samples of other sizes than their batch-mates go through alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import SceneFlowSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.point_neighbours import gather, nearest
from tasks.pointcloud.scene_flow import SceneFlow, without_padding

Level = tuple[Tensor, Tensor | None]
"""Points [B, n, 3] and their features [B, C, n]; None: no features yet."""


def masked_huber(flow: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean over the coordinates of valid points of Huber's loss: d^2 / 2 below 1 m, |d| - 1/2 above; 0 without any.

    flow, truth: [B, n, 3]; mask: bool [B, n].
    """
    loss = F.smooth_l1_loss(flow.float(), truth.float(), reduction="none") * mask[..., None]
    return loss.sum() / (3 * mask.sum()).clamp(min=1)


class Mlp(nn.Sequential):
    """1x1 convolutions of these widths, each with batch norm and ReLU, on [B, C, n, k]."""

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        super().__init__(*layers)


def surroundings(at: Tensor, level: Level, neighbours: int) -> Tensor:
    """Offsets and features of the points of `level` nearest to `at` [B, n, 3] -> [B, 3 + C, n, k]."""
    points, features = level
    index = nearest(at, points, neighbours)
    offsets = gather(points.transpose(1, 2), index) - at.transpose(1, 2)[..., None]
    return offsets if features is None else torch.cat([offsets, gather(features, index)], 1)


class SetDown(nn.Module):
    """Set conv to a coarser set. points: of it (at most all there are)."""

    def __init__(self, points: int, neighbours: int, channels: int, *widths: int) -> None:
        super().__init__()
        self.points, self.neighbours = points, neighbours
        self.mlp = Mlp(3 + channels, *widths)

    def forward(self, level: Level) -> Level:
        coarse = level[0][:, : self.points]
        return coarse, self.mlp(surroundings(coarse, level, self.neighbours)).amax(-1)


class FlowEmbedding(nn.Module):
    """Mixes two clouds of `channels` features -> features of the first one's points."""

    def __init__(self, neighbours: int, channels: int, *widths: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.mlp = Mlp(3 + 2 * channels, *widths)

    def forward(self, first: Level, second: Level) -> Level:
        points, features = first
        around = surroundings(points, second, self.neighbours)
        own = features[..., None].expand(-1, -1, -1, around.shape[-1])
        return points, self.mlp(torch.cat([around, own], 1)).amax(-1)


class SetUp(nn.Module):
    """Set upconv: features of a coarse set brought to a finer one, joined with what is known there.

    channels: of the coarse features; skip: of the fine ones; before: widths up to the maximum; after: widths after it.
    """

    def __init__(
        self, neighbours: int, channels: int, skip: int, before: Sequence[int], after: Sequence[int]
    ) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.before = Mlp(3 + channels, *before) if before else nn.Identity()
        self.after = Mlp((before[-1] if before else 3 + channels) + skip, *after)

    def forward(self, coarse: Level, fine: Level) -> Level:
        points, features = fine
        x = self.before(surroundings(points, coarse, self.neighbours)).amax(-1)
        if features is not None:
            x = torch.cat([x, features], 1)
        return points, self.after(x[..., None])[..., 0]


class FlowNet3DNetwork(nn.Module):
    """points: of the finest coarser set (the paper: 1024 of 2048); width: factor on all channels."""

    def __init__(self, points: int, neighbours: int, width: float) -> None:
        super().__init__()

        def c(*channels: int) -> tuple[int, ...]:
            return tuple(max(1, round(width * channel)) for channel in channels)

        few = max(1, neighbours // 2)
        self.down1 = SetDown(points, few, 0, *c(32, 32, 64))
        self.down2 = SetDown(max(4, points // 4), few, *c(64), *c(64, 64, 128))
        self.embedding = FlowEmbedding(2 * neighbours, *c(128), *c(128, 128, 128))
        self.down3 = SetDown(max(4, points // 16), few // 2 or 1, *c(128), *c(128, 128, 256))
        self.down4 = SetDown(max(4, points // 64), few // 2 or 1, *c(256), *c(256, 256, 512))
        self.up1 = SetUp(8, *c(512), *c(256), (), c(256, 256))
        skip = c(128)[0] + c(128)[0]
        self.up2 = SetUp(8, *c(256), skip, c(128, 128, 256), c(256))
        self.up3 = SetUp(8, *c(256), *c(64), c(128, 128, 256), c(256))
        self.up4 = SetUp(8, *c(256), 0, (), c(256, 256))
        self.head = nn.Sequential(Mlp(*c(256, 128)), nn.Conv2d(*c(128), 3, 1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """[B, n, 3], [B, m, 3] -> flow [B, n, 3]."""
        fine1, fine2 = (self.down1((points, None)) for points in (first, second))
        coarse1, coarse2 = self.down2(fine1), self.down2(fine2)
        mixed = self.embedding(coarse1, coarse2)
        third = self.down3(mixed)
        fourth = self.down4(third)
        third = self.up1(fourth, third)
        with_skip = (mixed[0], torch.cat([mixed[1], coarse1[1]], 1))
        fine = self.up3(self.up2(third, with_skip), fine1)
        _, features = self.up4(fine, (first, None))
        return self.head(features[..., None])[..., 0].transpose(1, 2)


class FlowNet3D(Method):
    """See the module's docstring.

    coarse_points: of the first coarser set. neighbours: 32 as in FlowNet3D's embedding are half of what it looks at.
    width: factor on the channels. learning_rate: of Adam.
    """

    name = "flownet3d"
    task = SceneFlow
    paper = Paper(
        title="FlowNet3D: Learning Scene Flow in 3D Point Clouds",
        venue="CVPR 2019",
        url="https://arxiv.org/abs/1806.01411",
        code="https://github.com/xingyul/flownet3d",
    )
    recipe = Recipe(batch_size=4, max_epochs=40, data={"points": 2048, "draws": 5})
    profiles = {
        "mini": {
            "neighbours": 16,
            "width": 0.5,
            "coarse_points": 128,
            "max_epochs": 5,
            "data.points": 256,
            "data.draws": 2,
            "validate_every": 0,
        },
        "smoke": {
            "neighbours": 4,
            "width": 0.125,
            "coarse_points": 32,
            "batch_size": 2,
            "max_epochs": 1,
            "max_steps": 2,
            "data.points": 64,
            "data.draws": 1,
        },
    }
    baselines = ("rigid_flow", "rigid_flow:nearest", "rigid_flow:zero")

    def __init__(
        self,
        spec: SceneFlowSpec,
        *,
        coarse_points: int = 1024,
        neighbours: int = 32,
        width: float = 1.0,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(spec)
        if coarse_points < 1 or neighbours < 1 or width <= 0:
            raise ValueError(
                f"coarse_points {coarse_points}, neighbours {neighbours} and width {width} must be positive"
            )
        self.learning_rate = learning_rate
        self.network = FlowNet3DNetwork(coarse_points, neighbours, width)

    def forward(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Clouds [B, n, 3], [B, m, 3] without padding, metres -> flow [B, n, 3]."""
        return {"flow": self.network(first, second).float()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = masked_huber(without_padding(batch, self)["flow"], batch["flow"], batch["mask"])
        self.log("train/loss", loss, batch_size=len(batch["id"]))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def predict(self, batch: Batch) -> Prediction:
        return without_padding(batch, self)
