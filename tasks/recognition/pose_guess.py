"""`pose_guess`: what the pose transformation earns without any transformation.

`copy_input` hands the source back as it is; `mean_pose_image` answers the mean of all training pictures of the target
pose (between two known poses, the nearest), whatever the source shows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.recognition.pose_transformation import PoseTransformation, poses_of


class PoseGuess(Method):
    """See the module's docstring. answer: which of the two."""

    name = "pose_guess"
    task = PoseTransformation
    paper = Paper(title="No pose transformation (trivial predictors)", venue="none")
    recipe = Recipe(batch_size=32, max_epochs=1, validate_every=0)
    profiles = {"mini": {}, "smoke": {}}
    presets = {"copy_input": {"answer": "copy_input"}, "mean_pose_image": {"answer": "mean_pose_image"}}

    def __init__(
        self, spec: Spec, *, answer: Literal["copy_input", "mean_pose_image"] = "copy_input"
    ) -> None:
        super().__init__(spec)
        facts = poses_of(spec)
        self.automatic_optimization = False
        self.answer, self.yaws = answer, facts.yaws
        poses = facts.yaws * facts.pitches
        self.total: Tensor
        self.count: Tensor
        self.register_buffer("total", torch.zeros(poses, facts.channels, *facts.image_size))
        self.register_buffer("count", torch.zeros(poses))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.total.index_add_(0, batch["pose_class"], batch["image"])
        self.count += torch.bincount(batch["pose_class"], minlength=len(self.count))

    def on_train_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            self.total = self.all_gather(self.total).sum(dim=0)
            self.count = self.all_gather(self.count).sum(dim=0)

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        if self.answer == "copy_input":
            return {"image": batch["image"]}
        pose = batch["target_pose"].round().long()
        number = (pose[:, 1] - 1) * self.yaws + pose[:, 0] - 1
        return {"image": self.total[number] / self.count[number].clamp(min=1).view(-1, 1, 1, 1)}
