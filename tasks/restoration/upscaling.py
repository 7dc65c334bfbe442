"""`upscaling`: enlargement without learning, and the trivial answers of super-resolution with exemplars.

`bicubic` (the paper's baseline, Table 6.1) enlarges the given picture as MATLAB's `imresize` does; on Set5's
published pairs it gives the published luma PSNR. `first_exemplar` and `mean_exemplar` answer the first
exemplar, or the mean of all, as they are; `mean_face` the mean of all true training pictures, counted in one
pass; `exemplar_base` the mean of exemplars with the low frequencies of the given picture: mean +
bicubic(given - shrunk mean). Where there are no exemplars, what would answer them answers bicubic.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.restoration.bicubic import bicubic_resize
from tasks.restoration.super_resolution import SuperResolution, facts_of

Answer = Literal["bicubic", "first_exemplar", "mean_exemplar", "mean_face", "exemplar_base"]


class Upscaling(Method):
    """See the module's docstring. answer: which of them."""

    name = "upscaling"
    task = SuperResolution
    paper = Paper(
        title="Cubic convolution interpolation for digital image processing",
        venue="IEEE Transactions on Acoustics, Speech, and Signal Processing, 1981",
        url="https://doi.org/10.1109/TASSP.1981.1163711",
    )
    recipe = Recipe(batch_size=32, max_steps=0, validate_every=0)
    profiles = {"mini": {}, "smoke": {}}
    presets = {
        "bicubic": {"answer": "bicubic"},
        "first_exemplar": {"answer": "first_exemplar"},
        "mean_exemplar": {"answer": "mean_exemplar"},
        "exemplar_base": {"answer": "exemplar_base"},
        "mean_face": {"answer": "mean_face"},
    }

    def __init__(self, spec: Spec, *, answer: Answer = "bicubic") -> None:
        super().__init__(spec)
        facts = facts_of(spec)
        self.factor = facts.factor
        self.answer = answer
        if answer == "mean_face" and facts.image_size == (0, 0):
            raise ValueError(f"a mean picture needs pictures of one size, those of {spec.dataset} differ")
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(3, *facts.image_size))

    @torch.no_grad()
    def on_test_start(self) -> None:
        """Average the true pictures of the training split."""
        if self.answer != "mean_face":
            return
        total, count = torch.zeros_like(self.mean, dtype=torch.float64), 0
        for batch in self.trainer.datamodule.in_order("train"):  # type: ignore[attr-defined]
            total += batch["high"].to(total).sum(dim=0)
            count += len(batch["high"])
        self.mean.copy_(total / count)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing is learnt."""

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        low, exemplars = batch["low"], batch["exemplars"]
        size = (low.shape[-2] * self.factor, low.shape[-1] * self.factor)
        if self.answer == "mean_face":
            image = self.mean.expand(len(low), -1, -1, -1)
        elif self.answer == "bicubic" or exemplars.shape[1] == 0:
            image = bicubic_resize(low, size)
        elif self.answer == "first_exemplar":
            image = exemplars[:, 0]
        else:
            image = exemplars.mean(dim=1)
            if self.answer == "exemplar_base":
                image = image + bicubic_resize(low - bicubic_resize(image, tuple(low.shape[-2:])), size)
        return {"image": image.clamp(0, 1)}
