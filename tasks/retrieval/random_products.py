"""`random_products`: what set retrieval scores without looking: recall@k is about k over the number of products."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.metrics.text_ranks import key_of
from tasks.retrieval.set_retrieval import SetRetrieval, sets_of


class RandomProducts(Method):
    """A random direction for each set and another for each catalogue picture, the same whenever they are asked for.

    dimension: of the embeddings.
    """

    name = "random_products"
    task = SetRetrieval
    paper = Paper(title="Chance", venue="trivial baseline")
    recipe = Recipe(max_steps=0, validate_every=0)
    profiles = {"mini": {}, "smoke": {}}

    def __init__(self, spec: Spec, *, dimension: int = 32) -> None:
        super().__init__(spec)
        sets_of(spec)
        self.dimension = dimension
        self.salt: torch.Tensor
        self.register_buffer("salt", torch.randint(2**31, (1,)))  # another draw for each seed

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """There is nothing to learn."""

    def configure_optimizers(self) -> Any:
        return None

    def predict(self, batch: Batch) -> Prediction:
        salt, device = int(self.salt), batch["set"].device
        rows = {
            kind: torch.from_numpy(
                np.stack(
                    [
                        np.random.default_rng((salt, key_of(f"{kind}/{name}"))).standard_normal(
                            self.dimension, np.float32
                        )
                        for name in batch["id"]
                    ]
                )
            ).to(device)
            for kind in ("query", "catalogue")
        }
        return {**rows, "query_set": torch.arange(len(batch["id"]), device=device)}
