"""`random_reid`: what person re-identification scores without looking, or at a glance.

`random` (default): each crop has a random direction of its own, the same whenever it is asked for; its mAP is about
the share of right answers in the gallery.
`:mean_colour`: the mean colour of four horizontal stripes, 12 numbers: clothes, and even more so the camera's
background.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from datamodules.specs import PersonsSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.metrics.text_ranks import key_of
from tasks.retrieval.person_reid import PersonReId, persons_of

STRIPES = 4


class RandomReId(Method):
    """See the module's docstring.

    kind: random or mean_colour. dimension: of the random embeddings.
    """

    name = "random_reid"
    task = PersonReId
    paper = Paper(title="Chance", venue="trivial baseline")
    recipe = Recipe(max_steps=0, validate_every=0)
    profiles = {"mini": {"data.image_size": (64, 32)}, "smoke": {"data.image_size": (64, 32)}}
    presets = {"mean_colour": {"kind": "mean_colour"}}

    def __init__(
        self, spec: PersonsSpec, *, kind: Literal["random", "mean_colour"] = "random", dimension: int = 32
    ) -> None:
        super().__init__(persons_of(spec))
        self.kind, self.dimension = kind, dimension
        self.salt: torch.Tensor
        self.register_buffer("salt", torch.randint(2**31, (1,)))  # another draw for each seed

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """There is nothing to learn."""

    def configure_optimizers(self) -> Any:
        return None

    def predict(self, batch: Batch) -> Prediction:
        if self.kind == "mean_colour":
            return {"embedding": F.adaptive_avg_pool2d(batch["image"], (STRIPES, 1)).flatten(1)}
        salt = int(self.salt)
        rows = [
            np.random.default_rng((salt, key_of(name))).standard_normal(self.dimension, np.float32)
            for name in batch["id"]
        ]
        return {"embedding": torch.from_numpy(np.stack(rows)).to(batch["image"].device)}
