"""DGCNN: Dynamic Graph CNN for Learning on Point Clouds (Wang et al., ACM TOG 2019), classification.

Four edge convolutions (64, 64, 128, 256), each on a graph of nearest neighbours sought anew in its input's space; the
four maps side by side are embedded in 1,024 channels, their maximum and mean over the points are classified.
`tasks/blocks/edge_conv.py` has the convolution. 1,809,576 parameters for 40 classes.

The architecture is that of the authors' code (no spatial transformer), with k = 20; augmentation, label smoothing and
recipe are theirs too, and those of the methods it is compared with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datamodules.specs import PointClassesSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.cosine_schedule import Optimiser, cosine_optimiser
from tasks.blocks.edge_conv import EdgeConv, feature_neighbours
from tasks.blocks.point_augmentation import turn_scale_shift
from tasks.blocks.point_mlp import PointMLP
from tasks.pointcloud.point_classification import PointClassification, point_classes_of


class DGCNN(Method):
    """One dynamic graph over the whole cloud.

    neighbours: k, the point itself included. width: factor on all channels. smoothing: of the labels.
    """

    name = "dgcnn"
    task = PointClassification
    paper = Paper(
        title="Dynamic Graph CNN for Learning on Point Clouds",
        venue="ACM Transactions on Graphics 2019",
        url="https://doi.org/10.1145/3326362",
        code="https://github.com/WangYueFt/dgcnn",
    )
    recipe = Recipe(batch_size=32, max_epochs=250, validate_every=0, data={"points": 2048})
    profiles = {
        "mini": {
            "neighbours": 8,
            "width": 0.375,
            "dropout": 0.2,
            "optimiser": "adam",
            "lr": 2e-3,
            "final_lr": 2e-5,
            "max_epochs": 18,
            "batch_size": 16,
            "data.points": 256,
        },
        "smoke": {
            "neighbours": 4,
            "width": 0.125,
            "max_epochs": 1,
            "max_steps": 2,
            "batch_size": 8,
            "data.points": 64,
        },
    }

    def __init__(
        self,
        spec: PointClassesSpec,
        *,
        neighbours: int = 20,
        width: float = 1.0,
        smoothing: float = 0.2,
        dropout: float = 0.5,
        optimiser: Optimiser = "sgd",
        lr: float = 0.1,
        final_lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec)
        if neighbours < 1 or width <= 0:
            raise ValueError(f"neighbours {neighbours} and width {width} must be positive")
        maps, embedding, hidden = (
            [max(1, round(width * channels)) for channels in sizes]
            for sizes in ((64, 64, 128, 256), (1024,), (512, 256))
        )
        self.relations = nn.ModuleList(
            [EdgeConv(inputs, outputs) for inputs, outputs in zip((3, *maps[:-1]), maps, strict=True)]
        )
        self.embedding = PointMLP(sum(maps), embedding[0])
        self.classifier = nn.Sequential(
            PointMLP(2 * embedding[0], hidden[0], dropout=dropout),
            PointMLP(hidden[0], hidden[1], bias=True, dropout=dropout),
            nn.Linear(hidden[1], len(point_classes_of(spec).classes)),
        )
        self.neighbours, self.smoothing = neighbours, smoothing
        self.optimiser, self.lr, self.final_lr = optimiser, lr, final_lr
        self.momentum, self.weight_decay = momentum, weight_decay

    def forward(self, points: Tensor) -> Tensor:
        """points [B, M, 3] -> logits [B, C]."""
        features, maps = points, []
        for relation in self.relations:
            features = relation(features, feature_neighbours(features, self.neighbours))
            maps.append(features)
        embedded = self.embedding(torch.cat(maps, -1))
        return self.classifier(torch.cat([embedded.amax(1), embedded.mean(1)], -1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(turn_scale_shift(batch["points"], self.spec.up))
        loss = cross_entropy(logits.float(), batch["label"], label_smoothing=self.smoothing)
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
        return {"logits": self(batch["points"])}
