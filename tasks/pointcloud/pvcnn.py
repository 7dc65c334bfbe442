"""PVCNN: points beside a dense grid of coarse voxels, the baseline of SPVNAS's Tables 1 and 2.

Liu et al., Point-Voxel CNN for Efficient 3D Deep Learning, NeurIPS 2019. A PVConv adds a point branch (linear, BN,
ReLU) to a voxel branch (means in a dense grid, two 3 x 3 x 3 convolutions, trilinear devoxelisation). A dense grid of
a whole street scene has to be coarse: SPVNAS reports it at 0.78 m.

- Network: PVCNN's for scene segmentation (its S3DIS code): PVConvs of 64, 64, 64 and 128 channels, the first on the
  full grid and the others on one of half its resolution, a point MLP of 1024, the largest of each channel over the
  scan through 256 and 128; all of these concatenated to a classifier of 512, 256, classes with dropout 0.3. With the
  four features of a LiDAR point that is 2.57 million parameters (SPVNAS, Table 2: 2.5).
- Chosen here: how it meets LiDAR scans, which SPVNAS doesn't say. The grid stands around the sensor, 100 x 100 x 10 m,
  and points outside go to its border cells, as PVCNN clamps them. Training as `spvcnn`'s (SGD, cosine, rotation,
  scale), but without a choice of voxels. Cells without points hold zeros.
- PVCNN gives points their coordinates normalised in the block beside the features; here they are x, y, z in metres and
  remission as for `spvcnn`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.specs import LidarSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.scan_augmentation import rotate_and_scale
from tasks.blocks.sparse_convolution import Triple, triple
from tasks.blocks.sparse_voxels import weighted_gather
from tasks.pointcloud.point_segmentation import PointSegmentation

CONVOLUTIONS = ((64, 1), (64, 2), (64, 2), (128, 2))
"""Channels of the PVConvs, and how much coarser than the grid each one's voxels are."""
POINTS, CLOUD, CLASSIFIER = 1024, (256, 128), (512, 256)


class DenseGrid:
    """Where points [N, 3] (metres) of some scans stand in a dense grid; what of a scan lies outside is on its border.

    size: cells an axis; lower: the grid's corner; cell: metres.
    """

    def __init__(
        self, points: Tensor, scan: Tensor, scans: int, size: Triple, lower: Sequence[float], cell: float
    ) -> None:
        self.scans, self.size = scans, size
        most = points.new_tensor(size) - 1
        self.position = ((points - points.new_tensor(lower)) / cell - 0.5).clamp(
            min=points.new_zeros(3), max=most
        )
        self.scan = scan
        self.cells = self._index(self.position.round().long())
        self.count = torch.bincount(self.cells, minlength=scans * math.prod(size))

    def _index(self, place: Tensor) -> Tensor:
        """Cells [..., 3] -> their numbers among the cells of all scans."""
        scan = self.scan.view(-1, *[1] * (place.ndim - 2))
        return ((scan * self.size[0] + place[..., 0]) * self.size[1] + place[..., 1]) * self.size[2] + place[
            ..., 2
        ]

    def voxelise(self, features: Tensor) -> Tensor:
        """[N, C] -> means [B, C, X, Y, Z], 0 in empty cells."""
        total = features.new_zeros(len(self.count), features.shape[1], dtype=torch.float32)
        total = total.index_add(0, self.cells, features.float()) / self.count.clamp(min=1)[:, None]
        return total.to(features.dtype).view(self.scans, *self.size, -1).permute(0, 4, 1, 2, 3)

    def devoxelise(self, volume: Tensor) -> Tensor:
        """[B, C, X, Y, Z] -> trilinear between the cells' centres, [N, C]."""
        lower = self.position.floor()
        corner = torch.cartesian_prod(*[torch.arange(2, device=volume.device)] * 3)
        inside = (self.position - lower)[:, None]
        weights = torch.where(corner.bool(), inside, 1 - inside).prod(-1)
        around = torch.minimum(lower.long()[:, None] + corner, corner.new_tensor(self.size) - 1)
        flat = volume.permute(0, 2, 3, 4, 1).reshape(-1, volume.shape[1])
        return weighted_gather(flat, self._index(around), weights)


class PVConv(nn.Module):
    """Point branch plus dense voxel branch."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [
                nn.Conv3d(channels, outputs, 3, padding=1),
                nn.BatchNorm3d(outputs, eps=1e-4),
                nn.LeakyReLU(0.1),
            ]
        self.voxels = nn.Sequential(*layers)
        self.points = nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())

    def forward(self, features: Tensor, grid: DenseGrid) -> Tensor:
        """[N, inputs] -> [N, outputs]."""
        return grid.devoxelise(self.voxels(grid.voxelise(features))) + self.points(features)


class PVCNNNetwork(nn.Module):
    """PVCNN for scenes. width: of all channels."""

    def __init__(self, classes: int, *, in_channels: int = 4, width: float = 1.0) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(1, int(width * channels))

        before, features = in_channels, 0
        self.convolutions = nn.ModuleList()
        for channels, _ in CONVOLUTIONS:
            self.convolutions.append(PVConv(before, scaled(channels)))
            before = scaled(channels)
            features += before
        self.points = _linear(before, scaled(POINTS))
        one, two = (scaled(channels) for channels in CLOUD)
        self.cloud = nn.Sequential(_linear(scaled(POINTS), one), _linear(one, two))
        inputs = features + scaled(POINTS) + two
        hidden = [scaled(channels) for channels in CLASSIFIER]
        self.classifier = nn.Sequential(
            _linear(inputs, hidden[0]),
            nn.Dropout(0.3),
            _linear(hidden[0], hidden[1]),
            nn.Dropout(0.3),
            nn.Linear(hidden[1], classes),
        )

    def forward(self, features: Tensor, grids: dict[int, DenseGrid]) -> Tensor:
        """Point features [N, in_channels], grids by coarseness -> logits [N, classes]."""
        grid = grids[1]
        seen = []
        for convolution, (_, coarser) in zip(self.convolutions, CONVOLUTIONS, strict=True):
            features = convolution(features, grids[coarser])
            seen.append(features)
        features = self.points(features)
        index = grid.scan[:, None].expand_as(features)
        largest = features.new_full((grid.scans, features.shape[1]), -math.inf)
        largest = largest.scatter_reduce(0, index, features, "amax")
        cloud = self.cloud(largest)
        return self.classifier(torch.cat([*seen, features, cloud[grid.scan]], dim=1))


def _linear(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), _PointNorm(outputs), nn.ReLU())


class _PointNorm(nn.BatchNorm1d):
    """Batch normalisation; a single row (of a whole scan, one scan a batch) takes the running statistics."""

    def forward(self, features: Tensor) -> Tensor:
        if self.training and len(features) == 1:
            return F.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(features)


class PVCNN(Method):
    """PVCNN on whole LiDAR scans.

    voxel_size: of the finest grid in metres. extent: of the grid around the sensor in metres, (x, y, z); lowest: its
    bottom, in metres over the sensor. width: of all channels. Training: see `spvcnn`.
    """

    name = "pvcnn"
    task = PointSegmentation
    paper = Paper(
        title="Point-Voxel CNN for Efficient 3D Deep Learning",
        venue="NeurIPS 2019",
        url="https://arxiv.org/abs/1907.03739",
        code="https://github.com/mit-han-lab/pvcnn",
    )
    recipe = Recipe(batch_size=2, accumulate=8, max_epochs=15, validate_every=0, precision="16-mixed")
    profiles = {
        "mini": {
            "width": 0.125,
            "learning_rate": 0.06,
            "batch_size": 1,
            "accumulate": 1,
            "max_epochs": 3,
            "precision": "32-true",
        },
        "smoke": {
            "width": 0.0625,
            "voxel_size": 3.12,
            "learning_rate": 0.03,
            "batch_size": 2,
            "accumulate": 1,
            "max_epochs": 1,
            "max_steps": 2,
            "precision": "32-true",
        },
    }
    baselines = ("position_prior", "majority_points")

    def __init__(
        self,
        spec: LidarSpec,
        *,
        voxel_size: float = 0.78,
        extent: tuple[float, float, float] = (100.0, 100.0, 10.0),
        lowest: float = -4.0,
        width: float = 1.0,
        rotate: bool = True,
        scale: tuple[float, float] = (0.95, 1.05),
        learning_rate: float = 0.24,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec)
        if voxel_size <= 0 or min(extent) <= 0 or width <= 0:
            raise ValueError(f"voxel_size {voxel_size}, extent {extent} and width {width} must be positive")
        self.voxel_size, self.extent = voxel_size, tuple(float(side) for side in extent)
        self.lower = (-self.extent[0] / 2, -self.extent[1] / 2, lowest)
        self.rotate, self.scale = rotate, (float(scale[0]), float(scale[1]))
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.network = PVCNNNetwork(len(spec.classes) - 1, width=width)

    def forward(self, points: Tensor, scan: Tensor, scans: int) -> Tensor:
        """Points [N, 4] of a batch -> logits [N, classes]."""
        grids = {}
        for coarser in {coarser for _, coarser in CONVOLUTIONS}:
            cell = self.voxel_size * coarser
            size = triple([max(1, math.ceil(side / cell)) for side in self.extent])
            grids[coarser] = DenseGrid(points[:, :3], scan, scans, size, self.lower, cell)
        return self.network(points, grids)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        scans = len(batch["id"])
        points = rotate_and_scale(batch["points"], batch["scan"], scans, rotate=self.rotate, scale=self.scale)
        logits = self(points, batch["scan"], scans).float()
        labelled = (batch["label"] > 0).sum().clamp(min=1)
        loss = F.cross_entropy(logits, batch["label"] - 1, ignore_index=-1, reduction="sum") / labelled
        self.log("train/loss", loss.detach(), batch_size=scans)
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.SGD(
            self.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def predict(self, batch: Batch) -> Prediction:
        return {"label": self(batch["points"], batch["scan"], len(batch["id"])).argmax(1) + 1}
