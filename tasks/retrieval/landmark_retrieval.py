"""Landmark retrieval: for a picture of a building, the gallery's pictures of the same building (Revisited Oxford and
Paris).

Batch of validation and test
    image      float32 [B, 3, H, W], RGB in [0, 1], in its own shape (so B is 1 where shapes differ); a query is cut
               out of its picture
    index      int64 [B]: the picture's position in its split
    is_query   bool [B]: asked for; the others are the gallery
    relevance  int64 [P, 3], of the batch's queries: rows (index of the query, index of a gallery picture, grade), grade
               1 easy, 2 hard, 3 junk; what isn't named is wrong
    id         list of B strings
Batch of training
    image, index and id as above, all of one square shape, and label int64 [B], the landmark (absent where a dataset
    has none). The training split may name `pairs`, int64 [P, 2]: a query's and a right answer's index.
Prediction
    feature  float [B, D], as the method makes it. Further tensors [B, ...] are gathered as well, for a method whose
             `compare` wants them.

The judge gathers the predictions of the whole split and ranks the gallery for each query by cosine similarity, or by
the method's own `compare`, asked for all queries and the whole gallery; equal ones in the order of the split.
Descriptors of the gallery never see the queries. A query without a right answer in a setup, as in what a shortened
run took in, is left out there; where that leaves none, the setup's number is 0 for `map_medium` and absent else.

Measures (see tasks/metrics/landmarks.py), mean average precision in %
    map_medium  easy and hard pictures are right, junk is taken out; primary
    map_hard    hard ones are right, easy ones and junk are taken out
    map_easy    easy ones are right, hard ones and junk are taken out
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import LandmarksSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.landmarks import EASY, HARD, JUNK, GatheredLandmarks, revisited_average_precision

TILE = 48
"""Side of a thumbnail."""
SHOWN, LISTED = 8, 8
"""Answers of a query, and queries, of the ranked lists."""
COLOURS = {0: (200, 0, 0), EASY: (0, 150, 0), HARD: (0, 90, 200), JUNK: (150, 150, 150)}
QUERY = (0, 0, 0)
THUMBNAIL = "thumbnail"


class LandmarkJudge(Judge):
    """Gathers predictions over the split and ranks them when asked."""

    def __init__(self) -> None:
        super().__init__()
        self.landmarks = GatheredLandmarks()
        self._figures: dict[str, np.ndarray] = {}

    def update(self, prediction: Prediction, batch: Batch) -> None:
        feature = prediction["feature"]
        if feature.ndim != 2 or len(feature) != len(batch["index"]):
            raise ValueError(
                f"feature must be [{len(batch['index'])}, D], got {tuple(feature.shape)} for the batch"
            )
        if not feature.isfinite().all():
            raise ValueError("features hold NaN or infinity")
        gathered = {**prediction, "feature": feature.float(), THUMBNAIL: thumbnails(batch["image"])}
        self.landmarks.update(gathered, batch["index"], batch["is_query"], batch["relevance"])

    def compute(self) -> dict[str, float]:
        split = self.landmarks.compute()
        grades = split.grades
        if not grades.numel():
            raise ValueError(
                f"{grades.shape[0]} queries and a gallery of {grades.shape[1]} were taken in: nothing to rank"
            )
        shown, tiles = split.queries[THUMBNAIL], split.gallery[THUMBNAIL]
        queries, gallery = (
            {key: value for key, value in side.items() if key != THUMBNAIL}
            for side in (split.queries, split.gallery)
        )
        order = self._distance(queries, gallery).argsort(dim=1, stable=True)
        ranked = grades.gather(1, order)
        # Queries evenly spread over the split, so that the same are shown for every method.
        chosen = torch.linspace(0, len(order) - 1, min(LISTED, len(order))).round().long().tolist()
        lists = [
            ranked_list(shown[query], tiles[order[query, :SHOWN]], ranked[query, :SHOWN]) for query in chosen
        ]
        self._figures = {"ranked-lists": np.concatenate(lists)}
        scores = {}
        for setup, precision in revisited_average_precision(ranked).items():
            answered = precision[~precision.isnan()]
            if len(answered):
                scores[f"map_{setup}"] = 100.0 * float(answered.mean())
        return {"map_medium": 0.0, **scores}

    def figures(self) -> dict[str, np.ndarray]:
        """`ranked-lists` of some queries (black frame; green: easy, blue: hard, grey: junk, red: wrong)."""
        return self._figures

    def _distance(self, queries: Prediction, gallery: Prediction) -> Tensor:
        own = self.compare and self.compare(queries, gallery)
        if own is None:
            unit = [F.normalize(side["feature"], dim=1) for side in (queries, gallery)]
            return -unit[0] @ unit[1].T
        expected = (len(queries["feature"]), len(gallery["feature"]))
        if own.shape != expected:
            raise ValueError(f"compare must answer {expected} distances, got {tuple(own.shape)}")
        return own


class LandmarkRetrieval(Task):
    """See the module's docstring for batch, prediction and measures."""

    name: ClassVar[str] = "landmark-retrieval"
    family: ClassVar[str] = "retrieval"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("map_medium", True, "%"),
        Measure("map_hard", True, "%"),
        Measure("map_easy", True, "%"),
    )

    @classmethod
    def judge(cls, spec: Spec) -> LandmarkJudge:
        landmarks_of(spec)
        return LandmarkJudge()

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """The picture over the numbers of its descriptor as bars, and the nearest others of its batch, framed by what
        they are to it (see `LandmarkJudge.figures`) where it is a query."""
        feature = F.normalize(prediction["feature"].detach().float(), dim=1).cpu()
        similarity = (feature @ feature.T).fill_diagonal_(-torch.inf)
        index, relevance = batch["index"].cpu(), batch["relevance"].cpu()
        tiles = thumbnails(batch["image"]).cpu()
        sheets = []
        for row in range(min(limit, len(feature))):
            near = similarity[row].argsort(descending=True, stable=True)[: min(SHOWN, len(feature) - 1)]
            own = relevance[relevance[:, 0] == index[row]]
            grades = ((index[near][:, None] == own[None, :, 1]) * own[None, :, 2]).sum(1)
            sheet = ranked_list(tiles[row], tiles[near], grades)
            sheets.append(np.concatenate([sheet, _bars(feature[row], sheet.shape[1])]))
        return sheets


def landmarks_of(spec: Spec) -> LandmarksSpec:
    """The spec, if it is of landmarks; otherwise a `TypeError`."""
    if not isinstance(spec, LandmarksSpec):
        raise TypeError(f"landmark retrieval needs a LandmarksSpec, not {type(spec).__name__}")
    return spec


def thumbnails(image: Tensor) -> Tensor:
    """float [B, 3, H, W] in [0, 1] -> uint8 [B, 3, TILE, TILE]"""
    small = F.interpolate(image.detach().float(), (TILE, TILE), mode="bilinear", antialias=True)
    return (small.clamp(0, 1) * 255).round().byte()


def ranked_list(query: Tensor, answers: Tensor, grades: Tensor) -> np.ndarray:
    """The query's thumbnail and those of its answers: uint8 [3, h, w], [A, 3, h, w], int [A] -> uint8 [H, W, 3]."""
    sheet = [_framed(query, QUERY)]
    sheet += [_framed(tile, COLOURS[grade]) for tile, grade in zip(answers, grades.tolist(), strict=True)]
    sheet += [np.full_like(sheet[0], 255)] * (1 + SHOWN - len(sheet))
    return np.concatenate(sheet, axis=1)


def _framed(tile: Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    height, width = tile.shape[1:]
    framed = np.full((height + 8, width + 8, 3), 255, np.uint8)
    framed[1:-1, 1:-1] = colour
    framed[4:-4, 4:-4] = tile.permute(1, 2, 0).cpu().numpy()
    return framed


def _bars(feature: Tensor, width: int, height: int = 40) -> np.ndarray:
    """The largest numbers of each of `width` stretches of a descriptor, upwards from the lower edge."""
    pooled = F.adaptive_max_pool1d(feature.abs()[None, None], min(width, len(feature)))[0, 0].numpy()
    column = np.arange(width) * len(pooled) // width
    tall = np.round(pooled[column] / max(float(pooled.max()), 1e-12) * height)
    dark = np.arange(height)[::-1, None] < tall[None]
    return np.where(dark[..., None], np.uint8(70), np.uint8(255)).repeat(3, axis=2)
