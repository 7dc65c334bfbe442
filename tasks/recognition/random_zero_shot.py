"""`random_zero_shot`: the trivial predictor of zero-shot classification, which looks at no picture.

All classes score alike, so the first candidate is named: class-averaged accuracy is 1 / U over U unseen classes. Where
people have clicked on parts, it says at every place of a grid that all of them are in sight, or (`all_negative`) that
none is: F1 is then 2 r / (1 + r) for a part with a share r of the places, or 0.
"""

from __future__ import annotations

from typing import Literal

import torch

from datamodules.specs import ZeroShotSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.part_grids import Window, click_masks, project
from tasks.recognition.zero_shot import ZeroShotClassification, zero_shot_of


class RandomZeroShot(Method):
    """See the module's docstring.

    parts: what it says of them. cell, reach: step of the grid and side of what a place sees, in pixels (defaults: of
    the basic encoder's third convolution). click_side: of the square around a click in pixels.
    """

    name = "random_zero_shot"
    task = ZeroShotClassification
    paper = Paper(title="Equal scores (trivial predictor)", venue="none")
    recipe = Recipe(max_steps=0)
    _halved = {"cell": 4, "reach": 12, "click_side": 5.0}
    profiles = {"mini": _halved, "smoke": _halved}
    presets = {"all_negative": {"parts": "all_negative"}}

    def __init__(
        self,
        spec: ZeroShotSpec,
        *,
        parts: Literal["all_positive", "all_negative"] = "all_positive",
        cell: int = 8,
        reach: int = 22,
        click_side: float = 10.0,
    ) -> None:
        super().__init__(zero_shot_of(spec))
        if not 1 <= cell <= reach:
            raise ValueError(f"cell {cell} and reach {reach}: a place sees at least its own cell")
        self.classes = len(zero_shot_of(spec).classes)
        self.parts, self.click_side = parts, click_side
        self.window = Window(reach, cell, (reach - cell) // 2)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing is learnt."""

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        image = batch["image"]
        prediction = {"logits": image.new_zeros(len(image), self.classes)}
        if "clicks" in batch:
            size = (image.shape[2], image.shape[3])
            truth = project(click_masks(batch["clicks"], size, self.click_side), [self.window])
            say = 1.0 if self.parts == "all_positive" else -1.0
            prediction |= {"parts": torch.full(truth.shape, say, device=image.device), "parts_truth": truth}
        return prediction
