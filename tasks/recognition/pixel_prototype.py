"""`pixel_prototype`: nearest class mean of raw pixels, few-shot classification without anything learnt.

Eq. 3 of prototypical networks (Snell et al., 2017) with the identity as embedding. Its distances are mean squared
differences a pixel, so that the posterior doesn't depend on the size of the pictures.
"""

from __future__ import annotations

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.prototypes import mean_prototypes, squared_distances
from tasks.recognition.few_shot import FewShotClassification, episodes_of


class PixelPrototype(Method):
    """Mean pictures of the supports as prototypes."""

    name = "pixel_prototype"
    task = FewShotClassification
    paper = Paper(title="Nearest class mean of pixels (trivial predictor)", venue="none")
    recipe = Recipe(max_steps=0)
    profiles = {
        "mini": {"data.image_size": 32, "data.queries": 5, "data.test_episodes": 120},
        "smoke": {"data.image_size": 16, "data.queries": 2, "data.test_episodes": 4},
    }

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        episodes_of(spec)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing is learnt."""

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        support, query = batch["support"].flatten(3), batch["query"].flatten(2)
        distance = squared_distances(query, mean_prototypes(support)) / query.shape[2]
        return {"logits": (-distance).log_softmax(dim=2)}
