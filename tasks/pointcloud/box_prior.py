"""Box prior: the trivial predictor of LiDAR detection. It never looks at a scan.

It counts where the objects of each class stand in the training scans, seen from above, and how they head, and answers
for every scan the same: at each class's most frequent places a box of its mean size on the ground, scored by the
place's count. What a method scores above it, it has seen in the scan.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from datamodules.specs import LidarBoxesSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.pointcloud.lidar_detection import LidarDetection


class BoxPrior(Method):
    """Counts places in one pass over the training split; no gradients.

    cell: side of a place in metres. places: boxes a class; fewer where fewer places have been seen.
    """

    name = "box_prior"
    task = LidarDetection
    paper = Paper(title="Mean boxes at the most frequent places (trivial predictor)", venue="none")
    recipe = Recipe(batch_size=1, max_epochs=1, validate_every=0)
    profiles = {"mini": {}, "smoke": {}}
    counts: Tensor
    headings: Tensor
    bottoms: Tensor

    def __init__(self, spec: LidarBoxesSpec, *, cell: float = 2.0, places: int = 40) -> None:
        super().__init__(spec)
        if cell <= 0 or places < 1:
            raise ValueError(f"cell {cell} and places {places} must be positive")
        self.automatic_optimization = False
        x0, y0, _, x1, y1, _ = spec.point_range
        self.cell, self.places = cell, places
        self.columns, self.rows = math.ceil((x1 - x0) / cell), math.ceil((y1 - y0) / cell)
        classes = len(spec.classes)
        self.register_buffer("counts", torch.zeros(classes, self.rows * self.columns, dtype=torch.int64))
        self.register_buffer("headings", torch.zeros(classes, 2, dtype=torch.float64))
        self.register_buffer("bottoms", torch.zeros(classes, dtype=torch.float64))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        truth = ~batch["neighbour"]
        boxes, label = batch["boxes"][truth].double(), batch["label"][truth]
        column = ((boxes[:, 0] - self.spec.point_range[0]) / self.cell).long().clamp(0, self.columns - 1)
        row = ((boxes[:, 1] - self.spec.point_range[1]) / self.cell).long().clamp(0, self.rows - 1)
        place = label * self.counts.shape[1] + row * self.columns + column
        self.counts.view(-1).scatter_add_(0, place, torch.ones_like(place))
        # Headings are taken as axes: doubled angles add up where opposite ones would cancel.
        doubled = torch.stack([(2 * boxes[:, 6]).cos(), (2 * boxes[:, 6]).sin()], dim=1)
        self.headings.index_add_(0, label, doubled)
        self.bottoms.index_add_(0, label, boxes[:, 2] - boxes[:, 5] / 2)

    def configure_optimizers(self) -> Any:
        return None

    def predict(self, batch: Batch) -> Prediction:
        order = self.counts.argsort(dim=1, descending=True, stable=True)[:, : self.places]
        seen = self.counts.gather(1, order)
        label, rank = (seen > 0).nonzero(as_tuple=True)
        place = order[label, rank]
        sizes = torch.tensor(self.spec.mean_boxes, device=place.device)[:, :3]
        bottom = (self.bottoms / self.counts.sum(dim=1).clamp(min=1)).float()
        yaw = (torch.atan2(self.headings[:, 1], self.headings[:, 0]) / 2).float()
        x = self.spec.point_range[0] + self.cell * (place % self.columns + 0.5)
        y = self.spec.point_range[1] + self.cell * (place // self.columns + 0.5)
        z = bottom[label] + sizes[label, 2] / 2
        boxes = torch.cat([torch.stack([x, y, z], dim=1), sizes[label], yaw[label][:, None]], dim=1)
        scans = len(batch["id"])
        return {
            "boxes": boxes.repeat(scans, 1),
            "score": (seen[label, rank] / self.counts.sum().clamp(min=1)).float().repeat(scans),
            "label": label.repeat(scans),
            "box_scan": torch.arange(scans, device=place.device).repeat_interleave(len(label)),
        }
