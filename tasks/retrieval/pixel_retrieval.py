"""`pixel_retrieval`: the trivial predictors of image retrieval, a picture's pixels or its colours.

`feature="pixels"`: the picture averaged down to a small one, minus its mean: finds what has the same layout.
`feature="histogram"`: the joint histogram of red, green and blue, under a square root (so that the cosine is
the Bhattacharyya coefficient of two histograms): finds what has the same colours, wherever they are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.retrieval.image_retrieval import ImageRetrieval


def small_pixels(image: Tensor, side: int) -> Tensor:
    """image [B, C, H, W] -> its side x side means less the mean of each channel, [B, C side side]."""
    small = F.adaptive_avg_pool2d(image.float(), side)
    return (small - small.mean(dim=(2, 3), keepdim=True)).flatten(1)


def colour_histogram(image: Tensor, bins: int) -> Tensor:
    """image [B, C, H, W] in [0, 1] -> roots of the shares of the bins^C colours, [B, bins^C]."""
    batch, channels = image.shape[:2]
    level = (image.float() * bins).long().clamp(0, bins - 1).flatten(2)  # [B, C, HW]
    place = bins ** torch.arange(channels, device=image.device)
    colour = (level * place[:, None]).sum(1)  # [B, HW]
    # Integer scatter_add_ is exact everywhere; bincount has no deterministic form on CUDA.
    counts = torch.zeros(batch, bins**channels, dtype=torch.long, device=image.device)
    counts.scatter_add_(1, colour, torch.ones_like(colour))
    return (counts / colour.shape[1]).sqrt()


class PixelRetrieval(Method):
    """See the module's docstring. side: of the small picture; bins: of the histogram, a channel."""

    name = "pixel_retrieval"
    task = ImageRetrieval
    paper = Paper(title="Small pictures and colour histograms (trivial predictor)", venue="none")
    recipe = Recipe(max_steps=0, validate_every=0)
    profiles = {"mini": {}, "smoke": {}}
    presets = {"histogram": {"feature": "histogram"}}

    def __init__(
        self, spec: Spec, *, feature: Literal["pixels", "histogram"] = "pixels", side: int = 8, bins: int = 8
    ) -> None:
        super().__init__(spec)
        if side < 1 or bins < 1:
            raise ValueError(f"side and bins must be positive, got {side} and {bins}")
        self.feature = feature
        self.side = side
        self.bins = bins

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing is learnt."""

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        image = batch["image"]
        if self.feature == "pixels":
            return {"feature": small_pixels(image, self.side)}
        return {"feature": colour_histogram(image, self.bins)}
