"""PointNet: Deep Learning on Point Sets (Qi, Su, Mo and Guibas, CVPR 2017), classification.

Each point by itself through shared layers, then the maximum over all: no neighbours at all, the control for what noise
does to a graph of them. With both alignment networks and their regulariser (weight 0.001). About 3.5 M parameters
(paper); `pointnet_network.py` has the layers.

Label smoothing, augmentation, optimiser and points are those of the methods it is compared with, not PointNet's own;
its dropout of 0.3 before the classifier is.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datamodules.specs import PointClassesSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.cosine_schedule import Optimiser, cosine_optimiser
from tasks.blocks.point_augmentation import turn_scale_shift
from tasks.blocks.point_mlp import PointMLP
from tasks.pointcloud.point_classification import PointClassification, point_classes_of
from tasks.pointcloud.pointnet_network import PointEncoder, alignment_loss


class PointNet(Method):
    """width: factor on all channels. alignment_weight: of the regulariser. smoothing: of the labels."""

    name = "pointnet"
    task = PointClassification
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
            "lr": 2e-3,
            "final_lr": 2e-5,
            "max_epochs": 18,
            "batch_size": 16,
            "data.points": 256,
        },
        "smoke": {"width": 0.125, "max_epochs": 1, "max_steps": 2, "batch_size": 8, "data.points": 64},
    }

    def __init__(
        self,
        spec: PointClassesSpec,
        *,
        width: float = 1.0,
        alignment_weight: float = 1e-3,
        smoothing: float = 0.2,
        dropout: float = 0.3,
        optimiser: Optimiser = "sgd",
        lr: float = 0.1,
        final_lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec)
        if width <= 0:
            raise ValueError(f"width must be positive, got {width}")
        sizes = tuple(max(1, round(width * channels)) for channels in (64, 64, 64, 128, 1024))
        hidden = [max(1, round(width * channels)) for channels in (512, 256)]
        self.encoder = PointEncoder(sizes, 1, width)
        self.classifier = nn.Sequential(
            PointMLP(sizes[-1], hidden[0], slope=0.0),
            PointMLP(hidden[0], hidden[1], slope=0.0, dropout=dropout),
            nn.Linear(hidden[1], len(point_classes_of(spec).classes)),
        )
        self.alignment_weight, self.smoothing = alignment_weight, smoothing
        self.optimiser, self.lr, self.final_lr = optimiser, lr, final_lr
        self.momentum, self.weight_decay = momentum, weight_decay

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """points [B, M, 3] -> logits [B, C] and the feature alignment [B, c, c]."""
        described = self.encoder(points)
        return self.classifier(described.shape), described.alignment

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits, alignment = self(turn_scale_shift(batch["points"], self.spec.up))
        loss = cross_entropy(logits.float(), batch["label"], label_smoothing=self.smoothing)
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
        return {"logits": self(batch["points"])[0]}
