"""PointNet (Qi, Su, Mo and Guibas, CVPR 2017), part segmentation; and the trivial predictor, a category's main part.

As in the paper's supplement: layers 64, 128, 128 (aligned after), 512, 2048, the maximum over points; each point is
given all five maps, the shape's descriptor and the category one-hot, then 256, 256, 128 and its part. Label smoothing,
augmentation, optimiser and points are those of the methods it is compared with. `pointnet_network.py` has the layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from datamodules.specs import ObjectPartsSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.cosine_schedule import Optimiser, cosine_optimiser
from tasks.blocks.point_augmentation import turn_scale_shift
from tasks.blocks.point_mlp import PointMLP
from tasks.pointcloud.part_segmentation import PartSegmentation, object_parts_of
from tasks.pointcloud.pointnet_network import PointEncoder, alignment_loss


class PointNetParts(Method):
    """width: factor on all channels. alignment_weight: of the regulariser. smoothing: of the labels.
    dropout: behind the first two layers of the segmentation."""

    name = "pointnet_parts"
    task = PartSegmentation
    paper = Paper(
        title="PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation",
        venue="CVPR 2017",
        url="https://doi.org/10.1109/CVPR.2017.16",
        code="https://github.com/charlesq34/pointnet",
    )
    recipe = Recipe(batch_size=32, max_epochs=250, validate_every=0, data={"points": 2048})
    profiles = {
        "mini": {
            "width": 0.25,
            "dropout": 0.2,
            "optimiser": "adam",
            "lr": 4e-3,
            "final_lr": 4e-5,
            "max_epochs": 24,
            "batch_size": 8,
            "data.points": 192,
        },
        "smoke": {"width": 0.0625, "max_epochs": 1, "max_steps": 2, "batch_size": 8, "data.points": 66},
    }

    def __init__(
        self,
        spec: ObjectPartsSpec,
        *,
        width: float = 1.0,
        alignment_weight: float = 1e-3,
        smoothing: float = 0.2,
        dropout: float = 0.2,
        optimiser: Optimiser = "sgd",
        lr: float = 0.1,
        final_lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec)
        if width <= 0:
            raise ValueError(f"width must be positive, got {width}")
        facts = object_parts_of(spec)
        self.categories = len(facts.categories)
        sizes = tuple(max(1, round(width * channels)) for channels in (64, 128, 128, 512, 2048))
        a, b, c = (max(1, round(width * channels)) for channels in (256, 256, 128))
        self.encoder = PointEncoder(sizes, 2, width)
        self.segmenter = nn.Sequential(
            PointMLP(sum(sizes) + sizes[-1] + self.categories, a, slope=0.0, dropout=dropout),
            PointMLP(a, b, slope=0.0, dropout=dropout),
            PointMLP(b, c, slope=0.0),
            nn.Linear(c, len(facts.parts)),
        )
        self.alignment_weight, self.smoothing = alignment_weight, smoothing
        self.optimiser, self.lr, self.final_lr = optimiser, lr, final_lr
        self.momentum, self.weight_decay = momentum, weight_decay

    def forward(self, points: Tensor, category: Tensor) -> tuple[Tensor, Tensor]:
        """points [B, M, 3], category int64 [B] -> logits [B, M, S] and the feature alignment [B, c, c]."""
        described = self.encoder(points)
        kind = one_hot(category, self.categories).to(points.dtype)
        whole = torch.cat([described.shape, kind], -1)[:, None].expand(-1, points.shape[1], -1)
        return self.segmenter(torch.cat([*described.maps, whole], -1)), described.alignment

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits, alignment = self(turn_scale_shift(batch["points"], self.spec.up), batch["category"])
        loss = cross_entropy(
            logits.float().flatten(0, 1), batch["part"].flatten(), label_smoothing=self.smoothing
        )
        loss = loss + self.alignment_weight * alignment_loss(alignment)
        self.log("train/loss", loss, batch_size=len(logits))
        return loss

    def configure_optimizers(self) -> Any:
        return cosine_optimiser(
            self.parameters(),
            int(self.trainer.estimated_stepping_batches),
            optimiser=self.optimiser,
            lr=self.lr,
            final_lr=self.final_lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": self(batch["points"], batch["category"])[0]}


class MajorityPart(Method):
    """Answers every point with the log frequencies of its category's parts in training, each counted once more."""

    name = "majority_part"
    task = PartSegmentation
    paper = Paper(title="Most frequent part of a category (trivial predictor)", venue="none")
    recipe = Recipe(batch_size=32, max_epochs=1, validate_every=0, data={"points": 2048})
    profiles = {"mini": {"data.points": 192}, "smoke": {"data.points": 66}}
    counts: Tensor

    def __init__(self, spec: ObjectPartsSpec) -> None:
        super().__init__(spec)
        self.automatic_optimization = False
        facts = object_parts_of(spec)
        shape = len(facts.categories), len(facts.parts)
        self.register_buffer("counts", torch.zeros(shape, dtype=torch.int64))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        entry = batch["category"][:, None] * self.counts.shape[1] + batch["part"]
        self.counts.view(-1).scatter_add_(0, entry.flatten(), torch.ones_like(entry.flatten()))

    def on_train_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            self.counts = self.all_gather(self.counts).sum(dim=0)

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        smoothed = self.counts.float() + 1
        score = (smoothed / smoothed.sum(1, keepdim=True)).log()[batch["category"]]
        return {"logits": score[:, None].expand(-1, batch["points"].shape[1], -1)}
