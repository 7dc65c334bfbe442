"""Majority points and position prior: the trivial predictors of point-cloud segmentation.

`majority_points` gives every point the class that is most frequent among the labelled training points (in
street scans: road). `position_prior` gives it the class that is most frequent at its pixel of the range
image, whatever was measured there: the spatial prior that SqueezeSegV3's Fig. 3 shows, and nothing else.
What a method scores above the first it has learnt; above the second, it has seen it in the scan.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datamodules.specs import LidarSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.spherical_projection import pixels
from tasks.pointcloud.point_segmentation import PointSegmentation


class MajorityPoints(Method):
    """Counts labels in one pass over the training split; no gradients."""

    name = "majority_points"
    task = PointSegmentation
    paper = Paper(title="Most frequent class everywhere (trivial predictor)", venue="none")
    recipe = Recipe(batch_size=1, max_epochs=1)
    profiles = {"mini": {}, "smoke": {}}
    counts: Tensor

    def __init__(self, spec: LidarSpec) -> None:
        super().__init__(spec)
        self.automatic_optimization = False
        self.register_buffer("counts", torch.zeros(len(spec.classes), dtype=torch.int64))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        # Integer scatter_add_ is exact everywhere; bincount has no deterministic form on CUDA.
        self.counts.scatter_add_(0, batch["label"], torch.ones_like(batch["label"]))

    def configure_optimizers(self) -> Any:
        return None

    def predict(self, batch: Batch) -> Prediction:
        return {"label": most_frequent(self.counts).expand_as(batch["label"])}


class PositionPrior(Method):
    """Counts labels for each pixel of a range image, over all points that fall into it; no gradients.

    height, width: of the range image. A pixel without labelled training points has the overall majority.
    """

    name = "position_prior"
    task = PointSegmentation
    paper = Paper(title="Most frequent class at a range-image pixel (trivial predictor)", venue="none")
    recipe = Recipe(batch_size=1, max_epochs=1)
    profiles = {"mini": {"height": 32, "width": 256}, "smoke": {"height": 32, "width": 256}}
    counts: Tensor

    def __init__(self, spec: LidarSpec, *, height: int = 64, width: int = 2048) -> None:
        super().__init__(spec)
        self.automatic_optimization = False
        self.height, self.width = height, width
        counts = torch.zeros(height * width, len(spec.classes), dtype=torch.int64)
        self.register_buffer("counts", counts)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        classes = self.counts.shape[1]
        entry = self._pixel(batch) * classes + batch["label"]
        self.counts.view(-1).scatter_add_(0, entry, torch.ones_like(entry))

    def configure_optimizers(self) -> Any:
        return None

    def predict(self, batch: Batch) -> Prediction:
        overall = most_frequent(self.counts.sum(dim=0))
        seen = self.counts[:, 1:].sum(dim=1) > 0
        prior = torch.where(seen, most_frequent(self.counts), overall)
        return {"label": prior[self._pixel(batch)]}

    def _pixel(self, batch: Batch) -> Tensor:
        spec = self.spec
        row, column, _ = pixels(batch["points"], self.height, self.width, spec.fov_up, spec.fov_down)
        return row * self.width + column


def most_frequent(counts: Tensor) -> Tensor:
    """The labelled class with the largest count, the lowest of equal ones: [..., C + 1] -> [...] in 1..C.

    >>> most_frequent(torch.tensor([[9, 1, 3], [0, 2, 2]])).tolist()
    [2, 1]
    """
    labelled = counts[..., 1:]
    best = labelled.amax(dim=-1, keepdim=True)
    order = torch.arange(labelled.shape[-1], device=counts.device)
    return torch.where(labelled == best, order, len(order)).amin(dim=-1) + 1
