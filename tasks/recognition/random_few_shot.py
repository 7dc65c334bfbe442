"""`random_few_shot`: the trivial predictor of few-shot classification, which looks at no picture.

All classes are equally probable, so the first is named: right in 1 of M queries of every balanced episode.
"""

from __future__ import annotations

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.recognition.few_shot import FewShotClassification, episodes_of


class RandomFewShot(Method):
    """Answers every query with the uniform posterior."""

    name = "random_few_shot"
    task = FewShotClassification
    paper = Paper(title="Uniform posterior (trivial predictor)", venue="none")
    recipe = Recipe(max_steps=0)
    profiles = {
        "mini": {"data.image_size": 32, "data.queries": 5, "data.test_episodes": 120},
        "smoke": {"data.image_size": 16, "data.queries": 2, "data.test_episodes": 4},
    }

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.ways = episodes_of(spec).ways

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing is learnt."""

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        label = batch["query_label"]
        return {"logits": label.new_zeros((*label.shape, self.ways)).float()}
