"""Edge detectors that learn nothing, judged like those that do.

* canny: Canny, "A Computational Approach to Edge Detection", TPAMI 1986. One run gives a binary map; to draw a curve,
  its thresholds are swept: a pixel's probability is the share of `levels` at which Canny still fires there. The
  upper threshold is the quantile q of the gradient magnitude, q from .5 to .99, the lower one max(0, 2q - 1), that
  is, the weak pixels are twice as many as the strong.
* gradient: Gaussian gradient magnitude of the grey picture, thinned, by the picture's maximum.
* se_surrogate: the stand-in for Structured Edges (Dollar & Zitnick, TPAMI 2015) of `tasks/blocks/edge_sources.py`.
* blank: no edge anywhere; F is 0.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from skimage.color import rgb2gray

from datamodules.specs import EdgeSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.edge_sources import canny_edges, gradient_probability, structured_edge_surrogate
from tasks.dense.edge_detection import EdgeDetection

Filter = Literal["canny", "gradient", "se_surrogate", "blank"]


def canny_probability(gray: np.ndarray, sigma: float, levels: int = 20) -> np.ndarray:
    """Share of thresholds at which Canny fires: float [H, W] -> float32 [H, W] in [0, 1]."""
    fired = [
        canny_edges(gray, sigma, max(0.0, 2 * quantile - 1), quantile)
        for quantile in np.linspace(0.5, 0.99, levels)
    ]
    return np.mean(fired, axis=0, dtype=np.float32)


class EdgeFilter(Method):
    """A fixed filter.

    filter: which, see above.
    sigma: standard deviation in pixels of the smoothing of "canny" and "gradient".
    levels: thresholds of Canny's sweep.
    """

    name = "edge_filter"
    task = EdgeDetection
    paper = Paper(
        title="A Computational Approach to Edge Detection",
        venue="TPAMI 1986",
        url="https://doi.org/10.1109/TPAMI.1986.4767851",
    )
    recipe = Recipe(max_steps=0, validate_every=0)
    profiles = {"mini": {"levels": 10}, "smoke": {"levels": 3}}
    presets = {
        "canny": {"filter": "canny"},
        "gradient": {"filter": "gradient"},
        "se_surrogate": {"filter": "se_surrogate"},
        "blank": {"filter": "blank"},
    }

    def __init__(
        self, spec: EdgeSpec, *, filter: Filter = "canny", sigma: float = 2.0, levels: int = 20
    ) -> None:
        super().__init__(spec)
        if filter not in self.presets:
            raise ValueError(f"filter must be one of {', '.join(self.presets)}, got {filter!r}")
        if sigma <= 0 or levels < 1:
            raise ValueError(f"sigma and levels must be positive, got {sigma} and {levels}")
        self.filter, self.sigma, self.levels = filter, sigma, levels
        self.automatic_optimization = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing to learn."""

    def configure_optimizers(self) -> Any:
        return None

    def predict(self, batch: Batch) -> Prediction:
        pictures = batch["image"].detach().float().permute(0, 2, 3, 1).cpu().numpy()
        maps = np.stack([self._edges(picture) for picture in pictures])[:, None]
        return {"edge": torch.from_numpy(maps.astype(np.float32)).to(batch["image"].device)}

    def _edges(self, picture: np.ndarray) -> np.ndarray:
        """RGB [H, W, 3] -> [H, W]."""
        if self.filter == "canny":
            return canny_probability(rgb2gray(picture), self.sigma, self.levels)
        if self.filter == "gradient":
            return gradient_probability(picture, self.sigma)
        if self.filter == "se_surrogate":
            return structured_edge_surrogate(picture)
        return np.zeros(picture.shape[:2])
