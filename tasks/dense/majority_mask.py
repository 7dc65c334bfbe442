"""Majority mask: the trivial predictor of semantic segmentation.

Every pixel of every picture gets the class that is most frequent among the labelled training pixels (on
natural pictures: the background). What a method scores above this, it has seen in the picture.
"""

from __future__ import annotations

from typing import Any

import torch

from datamodules.specs import PixelClassesSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.dense.semantic_segmentation import SemanticSegmentation


class MajorityMask(Method):
    """Counts labels in one pass over the training split; no gradients."""

    name = "majority_mask"
    task = SemanticSegmentation
    paper = Paper(title="Most frequent class everywhere (trivial predictor)", venue="none")
    recipe = Recipe(batch_size=1, max_epochs=1)
    profiles = {"mini": {"batch_size": 8}, "smoke": {"batch_size": 8}}

    def __init__(self, spec: PixelClassesSpec) -> None:
        super().__init__(spec)
        self.automatic_optimization = False
        self.register_buffer("counts", torch.zeros(len(spec.classes), dtype=torch.int64))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        labels = batch["mask"][batch["mask"] != self.spec.ignore_index]
        # Integer scatter_add_ is exact everywhere; bincount has no deterministic form on CUDA.
        self.counts.scatter_add_(0, labels, torch.ones_like(labels))

    def configure_optimizers(self) -> Any:
        return None

    def predict(self, batch: Batch) -> Prediction:
        """Log-frequency logits [B, C, H, W], the same at every pixel."""
        samples, _, height, width = batch["image"].shape
        counts = self.counts.to(torch.float32) + 1.0
        logits = (counts / counts.sum()).log()
        return {"logits": logits.view(1, -1, 1, 1).expand(samples, -1, height, width)}
