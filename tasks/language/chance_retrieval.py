"""`chance_retrieval`: embeddings that know nothing of picture or caption; what every method must beat.

`random`: each picture and each caption has a random direction of its own, the same whenever it is asked
for. Of 200 pictures with five captions each, 0.5, 2.5 and 5 % are found among the first 1, 5 and 10 both
ways: a picture's chance to have one of its five among the first K of 1,000 captions is about 5 K / 1000.
`constant`: all are equal. Every answer ties with every other, and ties count against the method, so nothing
is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import CaptionsSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.language.image_text_retrieval import ImageTextRetrieval, caption_owners, check_captions
from tasks.metrics.text_ranks import key_of


class ChanceRetrieval(Method):
    """See the module's docstring.

    kind: random or constant. dimension: of the embeddings.
    """

    name = "chance_retrieval"
    task = ImageTextRetrieval
    paper = Paper(title="Chance", venue="trivial baseline")
    recipe = Recipe(batch_size=500, max_steps=0, validate_every=0)
    profiles = {"mini": {}, "smoke": {}}
    presets = {"constant": {"kind": "constant"}}

    def __init__(
        self, spec: CaptionsSpec, *, kind: Literal["random", "constant"] = "random", dimension: int = 32
    ) -> None:
        super().__init__(check_captions(spec))
        self.kind, self.dimension = kind, dimension
        self.salt: Tensor
        self.register_buffer("salt", torch.randint(2**31, (1,)))  # another draw for each seed

    def embed(self, kind: str, names: Sequence[str]) -> Tensor:
        """Unit rows [len(names), dimension]; kind: what the names are of."""
        if self.kind == "constant":
            rows = np.ones((len(names), self.dimension), np.float32)
        else:
            salt = int(self.salt)
            draws = [np.random.default_rng((salt, key_of(f"{kind}:{name}"))) for name in names]
            rows = np.stack([draw.standard_normal(self.dimension, np.float32) for draw in draws])
        return F.normalize(torch.from_numpy(rows), dim=1).to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """There is nothing to learn."""

    def configure_optimizers(self) -> Any:
        return None

    def predict(self, batch: Batch) -> Prediction:
        return {
            "image": self.embed("image", batch["image_id"]),
            "text": self.embed("caption", [name for names in batch["caption_ids"] for name in names]),
            "owner": caption_owners(batch).to(self.device),
        }
