"""Pattern-Net: Orderly Disorder in Point Cloud Domain (Ghahremani et al., ECCV 2020), part segmentation.

The encoder of the classification network (`orderly_disorder_network.py`) describes the whole shape from its clones;
four per-point layers describe each point of the full cloud; both side by side, the point gets its part. Beside Eq. 9's
cross-entropy, here over points, stands the same linear-mapping loss.

Chosen here, where the paper's half sentence ("four MLPs {64,64,64,64} are applied to the input data") is silent: the
four layers see a point's coordinates alone, 3-64-64-64-64, and all four maps are kept (256); the category is given, as
a one-hot vector, as to every method in Table 3; all points are in some clone, the first clones having one point more
where L doesn't divide their number; leaky ReLU, augmentation and recipe are those of the classification.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from datamodules.specs import ObjectPartsSpec
from tasks.base import Batch, Claim, Method, Paper, Prediction, Recipe
from tasks.blocks.cosine_schedule import Optimiser, cosine_optimiser
from tasks.blocks.edge_conv import Metric
from tasks.blocks.point_augmentation import turn_scale_shift
from tasks.blocks.point_mlp import PointMLP
from tasks.pointcloud.orderly_disorder_network import (
    CloneEncoder,
    Clones,
    Graph,
    decompose,
    fixed_order,
    mapping_loss,
    mapping_weights,
    random_orders,
    shape_descriptor,
)
from tasks.pointcloud.part_segmentation import PartSegmentation, object_parts_of

POINT_LAYERS = 4


class OrderlyDisorderParts(Method):
    """Pattern-Net for part segmentation.

    clones: L. neighbours: K. metric, first_metric: of the neighbours in feature space and of the coordinates.
    graph: sought before each edge layer, or once. width: channels of edge layers and per-point layers.
    linkage_layers: of the MLP of linkage patterns. mapping_weight: lambda. ridge: of the pseudo-inverse, relative.
    smoothing: of the labels. votes: decompositions whose logits are averaged in the test.
    """

    name = "orderly_disorder_parts"
    task = PartSegmentation
    paper = Paper(
        title="Orderly Disorder in Point Cloud Domain",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_30",
    )
    recipe = Recipe(batch_size=32, max_epochs=250, validate_every=0, data={"points": 2048})
    profiles = {
        "mini": {
            "neighbours": 8,
            "width": 32,
            "dropout": 0.2,
            "optimiser": "adam",
            "lr": 4e-3,
            "final_lr": 4e-5,
            "max_epochs": 24,
            "batch_size": 8,
            "data.points": 192,
        },
        "smoke": {
            "neighbours": 4,
            "width": 8,
            "max_epochs": 1,
            "max_steps": 2,
            "batch_size": 8,
            "data.points": 66,
        },
    }
    presets = {
        "uncloned": {"clones": 1},
        "unmapped": {"mapping_weight": 0.0},
        "euclid": {"metric": "euclid", "first_metric": "euclid"},
        "static": {"graph": "static"},
        "votes10": {"votes": 10},
    }
    baselines = ("pointnet_parts", "majority_part")
    claims = (
        Claim(
            method="orderly_disorder_parts",
            over="pointnet_parts",
            measure="instance_miou",
            reported="ShapeNet-Part 86.4 against 83.7 % (Table 3)",
        ),
    )

    def __init__(
        self,
        spec: ObjectPartsSpec,
        *,
        clones: int = 4,
        neighbours: int = 30,
        metric: Metric = "hilbert",
        first_metric: Metric = "hilbert",
        graph: Graph = "dynamic",
        width: int = 64,
        linkage_layers: int = 1,
        mapping_weight: float = 0.2,
        smoothing: float = 0.2,
        ridge: float = 1e-4,
        dropout: float = 0.5,
        votes: int = 1,
        optimiser: Optimiser = "sgd",
        lr: float = 0.1,
        final_lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec)
        if clones < 1 or votes < 1 or ridge <= 0:
            raise ValueError(f"clones {clones}, votes {votes} and ridge {ridge} must be positive")
        facts = object_parts_of(spec)
        self.encoder = CloneEncoder(
            neighbours=neighbours,
            metric=metric,
            first_metric=first_metric,
            graph=graph,
            width=width,
            linkage_layers=linkage_layers,
        )
        length, self.categories = self.encoder.length, len(facts.categories)
        self.point_layers = nn.ModuleList(
            [PointMLP(3 if number == 0 else width, width) for number in range(POINT_LAYERS)]
        )
        self.segmenter = nn.Sequential(
            PointMLP(POINT_LAYERS * width + 2 * length + self.categories, length, dropout=dropout),
            PointMLP(length, length, dropout=dropout),
            nn.Linear(length, len(facts.parts)),
        )
        self.clones, self.votes = clones, votes
        self.mapping_weight, self.smoothing, self.ridge = mapping_weight, smoothing, ridge
        self.optimiser, self.lr, self.final_lr = optimiser, lr, final_lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self._sigma: list[Tensor] = []

    def forward(self, points: Tensor, category: Tensor, clones: Clones) -> tuple[Tensor, Tensor]:
        """points [B, M, 3], category int64 [B] and a decomposition -> logits [B, M, S], omega [B, L]."""
        description = self.encoder(points, clones)
        kind = one_hot(category, self.categories).to(points.dtype)
        whole = torch.cat([shape_descriptor(description), kind], -1)
        features, maps = points, []
        for layer in self.point_layers:
            features = layer(features)
            maps.append(features)
        each = torch.cat([*maps, whole[:, None].expand(-1, points.shape[1], -1)], -1)
        return self.segmenter(each), mapping_weights(*description, self.ridge)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        points = turn_scale_shift(batch["points"], self.spec.up)
        clones = decompose(random_orders(*points.shape[:2], points.device), self.clones, "share")
        logits, omega = self(points, batch["category"], clones)
        labels = cross_entropy(
            logits.float().flatten(0, 1), batch["part"].flatten(), label_smoothing=self.smoothing
        )
        sigma = mapping_loss(omega)
        loss = labels + self.mapping_weight * sigma
        numbers = {"train/loss": loss.detach(), "train/sigma": sigma.detach()}
        self.log_dict(numbers, batch_size=len(points))
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
        points = batch["points"]
        logits = []
        for vote in range(self.votes):
            order = fixed_order(*points.shape[:2], points.device, vote)
            answer, omega = self(points, batch["category"], decompose(order, self.clones, "share"))
            logits.append(answer)
            if self._trainer is not None and self.trainer.testing:
                self._sigma.append(omega.detach().std(1, unbiased=False).cpu())
        return {"logits": torch.stack(logits).mean(0)}

    def on_test_start(self) -> None:
        self._sigma = []

    def diagnostics(self) -> dict[str, float]:
        """sigma(omega) over the last test."""
        return {"sigma": float(torch.cat(self._sigma).mean())} if self._sigma else {}
