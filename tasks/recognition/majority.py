"""`majority`: the trivial predictor of image classification, the class frequencies of the training labels.

It looks at no picture. On a balanced dataset of C classes its top-1 error is 100·(1 - 1/C) %.
"""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.recognition.image_classification import ImageClassification, classes_of


class Majority(Method):
    """Answers every picture with the log frequencies of the training labels, each counted once more."""

    name = "majority"
    task = ImageClassification
    paper = Paper(title="Most frequent class (trivial predictor)", venue="none")
    recipe = Recipe(batch_size=100, max_epochs=1, validate_every=0)
    profiles = {"mini": {}, "smoke": {}}

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.automatic_optimization = False
        self.counts: Tensor
        self.register_buffer("counts", torch.zeros(len(classes_of(spec)), dtype=torch.long))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.counts += torch.bincount(batch["label"], minlength=len(self.counts))

    def on_train_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            self.counts = self.all_gather(self.counts).sum(dim=0)

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        smoothed = self.counts.float() + 1.0
        logits = (smoothed / smoothed.sum()).log()
        return {"logits": logits.expand(len(batch["image"]), -1)}
