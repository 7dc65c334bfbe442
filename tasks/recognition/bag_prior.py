"""`bag_prior`: the trivial predictor of multiple instance learning, the most frequent label of the training bags.

It looks at no picture: 50 % error on balanced binary labels, 1 - 1/6 on counts that are uniform over 0..5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.recognition.multiple_instance import MultipleInstance, bags_of

LARGEST_COUNT = 10_000


class BagPrior(Method):
    """Answers every bag with the label that most training bags have, the smallest of several."""

    name = "bag_prior"
    task = MultipleInstance
    paper = Paper(title="Most frequent bag label (trivial predictor)", venue="none")
    recipe = Recipe(batch_size=20, max_epochs=1, validate_every=0)
    profiles = {"mini": {}, "smoke": {"max_steps": 2}}

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.counting = bags_of(spec).rule == "count"
        self.automatic_optimization = False
        self.counts: Tensor
        self.register_buffer("counts", torch.zeros(LARGEST_COUNT if self.counting else 2, dtype=torch.long))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        if int(batch["label"].max()) >= len(self.counts):
            raise ValueError(f"labels must be below {len(self.counts)}, got {batch['label'].tolist()}")
        self.counts += torch.bincount(batch["label"], minlength=len(self.counts))

    def on_train_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            self.counts = self.all_gather(self.counts).sum(dim=0)

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        label = self.counts.argmax().expand(len(batch["id"]))
        if self.counting:
            return {"label": label, "score": label.float()}
        share = self.counts[1] / self.counts.sum().clamp(min=1)
        return {"label": label, "score": share.expand(len(batch["id"]))}
