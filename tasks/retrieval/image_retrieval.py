"""Image retrieval: for a query picture, all pictures of the split in the order of their likeness.

Batch
    image     float32 [B, 3, H, W], RGB in [0, 1]
    group     int64 [B]: pictures of the same thing have the same number
    is_query  bool [B]: whether this picture is also asked for
    index     int64 [B]: the picture's position in its split
    id        list of B strings
Prediction
    feature   float [B, D], as the method makes it: the judge brings it to unit length

The judge gathers the features of the whole split and ranks all pictures, queries included, by cosine
similarity to each query; equal ones in the order of the split. A query whose group has no other picture in
what was taken in (a shortened run) is left out.

Measures
    map  mean average precision in %, the query taken out of its ranking; trapezoidal as in the evaluation
         script of Holidays (see tasks/metrics/retrieval.py), where it is the published measure
    ns   mean number of right answers among the first four, the query itself counted: UKBench's N-S score, 0
    to 4
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from datamodules.specs import ImageClassesSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.retrieval import CosineRetrieval

SHOWN = 4
SIDE = 96


class RetrievalJudge(Judge):
    """Gathers features over the split and ranks them when asked."""

    def __init__(self) -> None:
        super().__init__()
        self.retrieval = CosineRetrieval()

    def update(self, prediction: Prediction, batch: Batch) -> None:
        self.retrieval.update(prediction["feature"], batch["group"], batch["is_query"], batch["index"])

    def compute(self) -> dict[str, float]:
        precision, counts = self.retrieval.compute()
        return {"map": 100.0 * float(precision), "ns": float(counts)}


class ImageRetrieval(Task):
    """See the module's docstring for batch, prediction and measures."""

    name: ClassVar[str] = "image-retrieval"
    family: ClassVar[str] = "retrieval"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("map", True, "%"), Measure("ns", True))

    @classmethod
    def judge(cls, spec: Spec) -> RetrievalJudge:
        if not isinstance(spec, ImageClassesSpec):
            raise TypeError(f"image retrieval needs an ImageClassesSpec, not {type(spec).__name__}")
        return RetrievalJudge()

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """The picture and the nearest others of its batch (green frame: same group, red: another)."""
        feature = F.normalize(prediction["feature"].detach().float(), dim=1).cpu()
        similarity = (feature @ feature.T).fill_diagonal_(-torch.inf)
        group = batch["group"].cpu()
        tiles = [_framed(image, (0, 0, 0)) for image in batch["image"]]
        sheets = []
        for row, order in enumerate(similarity[:limit].argsort(dim=1, descending=True, stable=True).tolist()):
            found = [index for index in order if index != row][:SHOWN]
            answers = [
                _framed(batch["image"][i], (0, 150, 0) if group[i] == group[row] else (200, 0, 0))
                for i in found
            ]
            blank = [np.full_like(tiles[row], 255)] * (SHOWN - len(found))
            sheets.append(np.concatenate([tiles[row], *answers, *blank], axis=1))
        return sheets


def _framed(image: torch.Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    """image [3, H, W] in [0, 1] -> uint8 [SIDE, SIDE, 3] with a coloured frame."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    tile = np.full((SIDE, SIDE, 3), colour, dtype=np.uint8)
    tile[4:-4, 4:-4] = np.asarray(
        Image.fromarray(pixels).resize((SIDE - 8, SIDE - 8), Image.Resampling.BILINEAR)
    )
    return tile
