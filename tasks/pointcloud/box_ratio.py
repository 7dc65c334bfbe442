"""The trivial predictors of point-cloud classification: bounding-box ratios, and the most frequent class.

`box_ratio` sees of a cloud only how long, wide and high it is: a Gaussian for each class over the logarithms of two
ratios. What a method scores above it, it has seen in the shape. `majority_cloud` sees nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.specs import PointClassesSpec, Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.pointcloud.point_classification import PointClassification, point_classes_of

LEAST_VARIANCE = 1e-4


def box_ratios(points: Tensor, up: int) -> Tensor:
    """Logarithms of height over the longer horizontal side and of the shorter over the longer: [B, M, 3] -> [B, 2]."""
    sides = (points.amax(1) - points.amin(1)).float().clamp(min=1e-6)
    level = sides[:, [axis for axis in range(3) if axis != up]]
    longer, shorter = level.amax(1), level.amin(1)
    return torch.stack([(sides[:, up] / longer).log(), (shorter / longer).log()], 1)


class BoxRatio(Method):
    """Gaussians with diagonal covariance and the classes' frequencies, counted in one pass; no gradients."""

    name = "box_ratio"
    task = PointClassification
    paper = Paper(title="Gaussian classifier of bounding-box ratios (trivial predictor)", venue="none")
    recipe = Recipe(batch_size=32, max_epochs=1, validate_every=0, data={"points": 2048})
    profiles = {"mini": {"data.points": 256}, "smoke": {"data.points": 64}}
    moments: Tensor

    def __init__(self, spec: PointClassesSpec) -> None:
        super().__init__(spec)
        self.automatic_optimization = False
        # Number, sum and sum of squares of the two ratios, for each class.
        classes = len(point_classes_of(spec).classes)
        self.register_buffer("moments", torch.zeros(classes, 3, 2, dtype=torch.float64))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        ratios = box_ratios(batch["points"], self.spec.up).double()
        rows = torch.stack([torch.ones_like(ratios), ratios, ratios.square()], 1)
        self.moments.index_add_(0, batch["label"], rows)

    def on_train_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            self.moments = self.all_gather(self.moments).sum(dim=0)

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        count = self.moments[:, 0].clamp(min=1)
        mean = self.moments[:, 1] / count
        variance = (self.moments[:, 2] / count - mean.square()).clamp(min=LEAST_VARIANCE)
        off = (box_ratios(batch["points"], self.spec.up).double()[:, None] - mean).square() / variance
        prior = ((self.moments[:, 0, 0] + 1) / (self.moments[:, 0, 0] + 1).sum()).log()
        return {"logits": (prior - 0.5 * (off + variance.log()).sum(-1)).float()}


class MajorityCloud(Method):
    """Answers every cloud with the log frequencies of the training labels, each counted once more."""

    name = "majority_cloud"
    task = PointClassification
    paper = Paper(title="Most frequent class (trivial predictor)", venue="none")
    recipe = Recipe(batch_size=32, max_epochs=1, validate_every=0, data={"points": 2048})
    profiles = {"mini": {"data.points": 256}, "smoke": {"data.points": 64}}
    counts: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.automatic_optimization = False
        self.register_buffer("counts", torch.zeros(len(point_classes_of(spec).classes), dtype=torch.int64))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.counts.scatter_add_(0, batch["label"], torch.ones_like(batch["label"]))

    def on_train_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            self.counts = self.all_gather(self.counts).sum(dim=0)

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        smoothed = self.counts.float() + 1
        return {"logits": (smoothed / smoothed.sum()).log().expand(len(batch["points"]), -1)}
