"""Edge detection: where are the boundaries that people would draw?

Batch
    image       float32 [B, 3, H, W], RGB in [0, 1]
    edges       uint8 [B, A, H, W], boundary maps of the annotators, 0 or 1; A is `spec.annotators`, and maps beyond
                the sample's own number are zero
    annotators  int64 [B], how many maps of the sample are real (1..A)
    id          list of str
Prediction
    edge        float32 [B, 1, H, W] in [0, 1], probability of a boundary, of the batch's size. Lines should be thin:
                the judge thins binarised maps, but a method that does not suppress non-maxima loses.

Judged by the BSDS benchmark (`tasks/metrics/edges.py`), with `spec.max_distance` as the tolerance. ODS ranks.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from datamodules.specs import EdgeSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.edges import EdgeScores


class EdgeJudge(Judge):
    """ODS, OIS and AP over all pictures."""

    def __init__(self, max_distance: float) -> None:
        super().__init__()
        self.scores = EdgeScores(max_distance)

    def update(self, prediction: Prediction, batch: Batch) -> None:
        edge = prediction["edge"]
        if edge.shape != (len(batch["image"]), 1, *batch["image"].shape[-2:]):
            raise ValueError(
                f"edge must be [B, 1, H, W] of the images {batch['image'].shape}, got {edge.shape}"
            )
        self.scores.update(edge, batch["edges"], batch["annotators"])

    def compute(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.scores.compute().items()}


class EdgeDetection(Task):
    """Boundaries against several annotators; see the module's docstring for batch and prediction."""

    name = "edge-detection"
    family = "dense"
    measures = (
        Measure("ods", higher_is_better=True, decimals=3),
        Measure("ois", higher_is_better=True, decimals=3),
        Measure("ap", higher_is_better=True, decimals=3),
    )

    @classmethod
    def judge(cls, spec: Spec) -> Judge:
        return EdgeJudge(cast(EdgeSpec, spec).max_distance)

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """Input, share of annotators, prediction; the two maps dark on white."""
        pictures = []
        images = batch["image"].detach().float().cpu().numpy()
        maps = batch["edges"].cpu().numpy()
        edges = prediction["edge"].detach().float().cpu().numpy()
        for sample, number in enumerate(batch["annotators"][:limit].tolist()):
            shares = maps[sample, :number].mean(0)
            panels = [images[sample].transpose(1, 2, 0)]
            panels += [np.repeat(1 - plane[..., None], 3, -1) for plane in (shares, edges[sample, 0])]
            pictures.append((np.clip(np.hstack(panels), 0, 1) * 255 + 0.5).astype(np.uint8))
        return pictures
