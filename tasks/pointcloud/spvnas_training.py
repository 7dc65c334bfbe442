"""What SPVCNN, its super network and the searched network share: inputs, loss, schedule, prediction, diagnostics.

See `spvcnn.py` for the training, `spvnas.py` for the search (Tang et al., ECCV 2020).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.specs import LidarSpec
from tasks.base import Batch, Method, Paper, Prediction
from tasks.blocks.scan_augmentation import random_voxels, rotate_and_scale
from tasks.blocks.sparse_convolution import unique_coordinates
from tasks.blocks.sparse_voxels import PointSet, voxelise_set
from tasks.pointcloud.point_segmentation import SMALL_CLASSES, PointSegmentation
from tasks.pointcloud.spvnas_network import SPVCNN, Architecture, MinkUNet
from tasks.pointcloud.spvnas_search import KernelStatistics, macs, share

PAPER = Paper(
    title="Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution",
    venue="ECCV 2020",
    url="https://doi.org/10.1007/978-3-030-58604-1_41",
    code="https://github.com/mit-han-lab/spvnas",
)
ACTIVATED = 0.1


@dataclass
class Inputs:
    """What a network sees of a batch. features: [n, 4] (x, y, z in metres, remission); points: where they lie;
    rows: int64 [n], the batch's points they are; answers: int64 [N], which of the n answers for each point."""

    features: Tensor
    points: PointSet
    rows: Tensor
    answers: Tensor


def point_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy over labelled points. logits: [N, C]; label: int64 [N], 0 = unlabelled, else 1..C."""
    total = F.cross_entropy(logits.float(), label - 1, ignore_index=-1, reduction="sum")
    return total / (label > 0).sum().clamp(min=1)


def cosine(progress: float) -> float:
    """From 1 to 0 over a progress of 0..1."""
    return (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


class PointVoxelMethod(Method):
    """What the three methods share: from points to inputs, loss, schedule, prediction and diagnostics.

    voxel_size: in metres. unique_points: one point a voxel, quantised by rounding (the official code). max_voxels: so
    many random ones a scan are trained on. rotate, scale: augmentation. momentum, weight_decay: of SGD.
    """

    task = PointSegmentation
    paper = PAPER

    def __init__(
        self,
        spec: LidarSpec,
        *,
        voxel_size: float,
        unique_points: bool,
        max_voxels: int,
        rotate: bool,
        scale: tuple[float, float],
        learning_rate: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        super().__init__(spec)
        if voxel_size <= 0 or max_voxels < 1 or not 0 < scale[0] <= scale[1]:
            raise ValueError(
                f"voxel_size {voxel_size}, max_voxels {max_voxels} and scale {scale} must be positive, scale ascending"
            )
        self.voxel_size, self.unique_points, self.max_voxels = voxel_size, unique_points, max_voxels
        self.rotate, self.scale = rotate, (float(scale[0]), float(scale[1]))
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.statistics: list[KernelStatistics] = []
        self.activated = ActivatedPoints(len(spec.classes))

    @property
    def classes(self) -> int:
        """Outputs of the network: all but the unlabelled class."""
        return len(self.spec.classes) - 1

    @property
    @abstractmethod
    def tested(self) -> MinkUNet:
        """The network that predicts."""

    def inputs(self, batch: Batch, augment: bool = False) -> Inputs:
        """The points of a batch as the network sees them; augment: training's random changes."""
        points, scan, scans = batch["points"], batch["scan"], len(batch["id"])
        if augment:
            points = rotate_and_scale(points, scan, scans, rotate=self.rotate, scale=self.scale)
        rows = answers = torch.arange(len(points), device=points.device)
        positions = PointSet.of(points[:, :3], scan, self.voxel_size)
        if self.unique_points:
            positions = quantised(positions, scans)
            voxels, answers = unique_coordinates(positions.coordinates())
            # The first point of each voxel stands for it.
            rows = torch.full((len(voxels),), len(points), device=points.device)
            rows = rows.scatter_reduce(0, answers, torch.arange(len(points), device=points.device), "amin")
            positions = PointSet(positions.positions[rows], scan[rows])
        if augment:
            kept = random_voxels(positions.coordinates(), scans, self.max_voxels)
            rows, positions = rows[kept], PointSet(positions.positions[kept], positions.batch[kept])
        return Inputs(points[rows], positions, rows, answers)

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.SGD(
            self.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: self.rate(step / steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, progress: float) -> float:
        """The factor on the learning rate at a progress of 0..1."""
        return cosine(progress)

    def progress(self) -> float:
        """How much of the training is done, 0..1."""
        return self.trainer.global_step / max(1, int(self.trainer.estimated_stepping_batches))

    def record(self, loss: Tensor, batch: Batch) -> Tensor:
        """Log the loss and the rate in use, and hand the loss on."""
        rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        self.log_dict({"train/loss": loss.detach(), "train/lr": rate}, batch_size=len(batch["id"]))
        return loss

    def predict(self, batch: Batch) -> Prediction:
        inputs = self.inputs(batch)
        network, testing = self.tested, self._trainer is not None and self.trainer.testing
        branches: list[tuple[Tensor, Tensor]] = []
        if isinstance(network, SPVCNN):
            logits = network(inputs.features, inputs.points, branches if testing else None)
        else:
            logits = network(inputs.features, inputs.points)
        if testing:
            self.statistics.append(self.kernel_statistics(inputs, len(batch["id"])))
            for pair in branches:
                self.activated.update(pair, inputs.points.batch, batch["label"][inputs.rows])
        return {"label": (logits.argmax(1) + 1)[inputs.answers]}

    def kernel_statistics(self, inputs: Inputs, scans: int) -> KernelStatistics:
        """Of a batch; the network's own kernel maps where it has run on these inputs."""
        frame, _ = voxelise_set(inputs.points, inputs.features[:, :0])
        return KernelStatistics.of(frame, len(inputs.rows), scans)

    def macs_of(
        self, architecture: Architecture, statistics: KernelStatistics, network: MinkUNet
    ) -> dict[str, float]:
        """Multiply-accumulates of an architecture by part."""
        return macs(
            architecture,
            statistics,
            self.classes,
            point_branch=isinstance(network, SPVCNN),
            point_stem=getattr(network, "point_stem", None) is not None,
        )

    # Costs, and the branch analysis of Sec. 6.1.

    def on_test_start(self) -> None:
        self.statistics = []
        self.activated.reset()

    def diagnostics(self) -> dict[str, float]:
        """Of the tested network: million parameters, and from the kernel maps of the test scans 10^9 MACs a scan and
        the upsampling stages' and point branch's share of them (%); small classes' share of activated points (%)."""
        network = self.tested
        numbers = {"parameters_m": sum(parameter.numel() for parameter in network.parameters()) / 1e6}
        if self.statistics:
            parts = self.macs_of(network.architecture, KernelStatistics.mean(self.statistics), network)
            numbers |= {
                "macs_g": sum(parts.values()) / 1e9,
                "macs_upsampling": share(parts, "up"),
                "macs_points": share(parts, "points"),
            }
        small = [label for label, name in enumerate(self.spec.classes) if name in SMALL_CLASSES]
        for branch, shares in self.activated.shares().items():
            seen = shares[small][~shares[small].isnan()]
            if len(seen):
                numbers[f"activated_small_{branch}"] = float(seen.mean())
        return numbers

    def figures(self) -> dict[str, np.ndarray]:
        """Fig. 4: the share of each class's points that each branch activates."""
        shares = self.activated.shares()
        return {"activated_points": _bars(shares, self.spec.classes)} if shares else {}


class ActivatedPoints:
    """How many points of each class are among the most activated of their scan, in each branch (Fig. 4)."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.reset()

    def reset(self) -> None:
        self.points = torch.zeros(self.classes)
        self.hits = {"point": torch.zeros(self.classes), "voxel": torch.zeros(self.classes)}

    def update(self, branches: tuple[Tensor, Tensor], scan: Tensor, label: Tensor) -> None:
        """branches: features [N, C] of points and of voxels at the points; scan, label: [N]."""
        self.points += torch.bincount(label, minlength=self.classes).cpu()
        for hits, features in zip(self.hits.values(), branches, strict=True):
            norm = features.float().norm(dim=1)
            for own in (scan == number for number in scan.unique()):
                most = norm[own].topk(max(1, int(ACTIVATED * int(own.sum())))).indices
                hits += torch.bincount(label[own][most], minlength=self.classes).cpu()

    def shares(self) -> dict[str, Tensor]:
        """Percent of each class's points, NaN for a class without any; empty where nothing was taken in."""
        if not self.points.any():
            return {}
        return {branch: 100 * hits / self.points for branch, hits in self.hits.items()}


def quantised(positions: PointSet, scans: int) -> PointSet:
    """The official code's voxels: positions rounded, less the least of each scan."""
    rounded = positions.positions.round()
    least = rounded.new_full((scans, 3), math.inf)
    index = positions.batch[:, None].expand(-1, 3)
    least = least.scatter_reduce(0, index, rounded, "amin")
    return PointSet(rounded - least[positions.batch], positions.batch)


def training_scans(method: PointVoxelMethod, most: int | None) -> Iterator[Inputs]:
    """Inputs of at most so many training scans, spread evenly, one at a time, without augmentation."""
    data = method.trainer.datamodule  # type: ignore[attr-defined]
    scans = data.split("train")
    places = np.linspace(0, len(scans) - 1, min(most or len(scans), len(scans))).round().astype(int)
    for place in places.tolist():
        batch = method.transfer_batch_to_device(data.collate([scans[place]]), method.device, 0)
        yield method.inputs(batch)


# Pictures.


def picture(figure: Figure) -> np.ndarray:
    """A matplotlib figure, uint8 [H, W, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _bars(shares: Mapping[str, Tensor], classes: Sequence[str]) -> np.ndarray:
    """Two bars a class; uint8 [H, W, 3]."""
    figure = Figure(figsize=(11, 5), dpi=80, layout="constrained")
    axis = figure.add_subplot()
    shown = [label for label in range(1, len(classes)) if not bool(shares["point"][label].isnan())]
    places = np.arange(len(shown))
    for offset, (branch, colour) in zip(
        (-0.2, 0.2), (("point", "tab:red"), ("voxel", "tab:blue")), strict=True
    ):
        axis.bar(places + offset, shares[branch][shown].numpy(), 0.4, color=colour, label=f"{branch} branch")
    axis.axhline(100 * ACTIVATED, color="grey", linewidth=1, linestyle=":")
    axis.set_xticks(places, [classes[label] for label in shown], rotation=60, ha="right")
    axis.set(ylabel="activated points (%)", title="Points of a class among the tenth with the largest norm")
    axis.legend()
    return picture(figure)
