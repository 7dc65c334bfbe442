"""Person re-identification: for a crop of a person, the crops of the same person that other cameras took.

Batch
    image     float32 [B, 3, H, W], RGB in [0, 1]
    label     int64 [B], the person: in training 0..identities-1; in validation and test the number in the file's
              name, 0 for a distractor (a wrong answer like any other), -1 for junk (neither right nor wrong)
    camera    int64 [B], 0..cameras-1
    is_query  bool [B]: asked for; the others are the gallery
    id        list of B strings
Prediction
    embedding  float [B, D]
    Further tensors [B, ...] are gathered as well, for a method whose `compare` wants them.

The judge gathers the predictions of the whole split and ranks the gallery for each query by Euclidean distance
(or the method's own `compare`, asked for some queries and the whole gallery at a time). Crops of the query's
person under the query's camera are taken out of its ranking, and so is junk; there is no re-ranking. Ties count
against the method. A query that has no right answer in what was taken in (a shortened run) is left out.

Measures (see tasks/metrics/reid.py)
    map                   mean average precision in %, primary
    rank1, rank5, rank10  queries with a right answer among the first 1, 5, 10, in % (CMC)
    ice, cce              queries whose first answer is wrong and from the query's own camera (in-camera error), or
                          from another one (cross-camera error)
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import PersonsSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.reid import GatheredPersons, camera_errors, cumulative_match, ranked, right_and_wrong

TILE = (64, 32)
"""Height and width of a thumbnail."""
SHOWN, LISTED, CURVE = 10, 8, 20
"""Answers of a query, queries of the ranked lists, and ranks of the CMC curve."""
QUERY, RIGHT, WRONG, SAME_CAMERA = (0, 0, 0), (0, 150, 0), (200, 0, 0), (150, 150, 150)
THUMBNAIL = "thumbnail"


class ReIdJudge(Judge):
    """Gathers predictions over the split and ranks them when asked."""

    def __init__(self) -> None:
        super().__init__()
        self.persons = GatheredPersons()
        self._figures: dict[str, np.ndarray] = {}

    def update(self, prediction: Prediction, batch: Batch) -> None:
        embedding = prediction["embedding"]
        if embedding.ndim != 2 or len(embedding) != len(batch["label"]):
            raise ValueError(
                f"embedding must be [{len(batch['label'])}, D], got {tuple(embedding.shape)} for the batch"
            )
        if not embedding.isfinite().all():
            raise ValueError("embeddings hold NaN or infinity")
        gathered = {**prediction, "embedding": embedding.float(), THUMBNAIL: thumbnails(batch["image"])}
        self.persons.update(gathered, batch["label"], batch["camera"], batch["is_query"], batch["id"])

    def compute(self) -> dict[str, float]:
        predicted, person, camera, is_query = self.persons.compute()
        tiles = predicted[THUMBNAIL]
        keys = [key for key in predicted if key != THUMBNAIL]
        queries = {key: predicted[key][is_query] for key in keys}
        gallery = {key: predicted[key][~is_query] for key in keys}
        asked, seen_by = person[is_query], camera[is_query]
        if not len(asked) or len(asked) == len(person):
            raise ValueError(f"of {len(person)} crops {len(asked)} are queries: nothing to rank")

        def distance(chunk: Tensor) -> Tensor:
            return self._distance({key: value[chunk] for key, value in queries.items()}, gallery)

        ranks = ranked(distance, asked, seen_by, person[~is_query], camera[~is_query])
        if not ranks.valid.any():
            raise ValueError("no query has a right answer in the gallery")
        match = cumulative_match(ranks.first, max(CURVE, 10))
        own, other = camera_errors(ranks, seen_by)

        # Queries evenly spread over the split, so that the same are shown for every method.
        valid = ranks.valid.nonzero()[:, 0]
        spread = torch.linspace(0, len(valid) - 1, min(LISTED, len(valid))).round().long()
        chosen = valid[spread.to(valid.device)]
        right, wrong = right_and_wrong(asked[chosen], seen_by[chosen], person[~is_query], camera[~is_query])
        near = distance(chosen).float().masked_fill(~(right | wrong), torch.inf)
        self._figures = {
            "ranked_lists": np.concatenate(
                [
                    _ranked_list(tiles[is_query][query], tiles[~is_query], near[row], right[row])
                    for row, query in enumerate(chosen.tolist())
                ]
            ),
            "cmc": _curve(match[:CURVE]),
        }
        return {
            "map": 100.0 * float(ranks.average_precision[ranks.valid].mean()),
            **{f"rank{k}": 100.0 * float(match[k - 1]) for k in (1, 5, 10)},
            "ice": float(own),
            "cce": float(other),
        }

    def figures(self) -> dict[str, np.ndarray]:
        """`ranked_lists` of some queries (black frame; green: the same person, red: another) and `cmc`."""
        return self._figures

    def _distance(self, queries: Prediction, gallery: Prediction) -> Tensor:
        own = self.compare and self.compare(queries, gallery)
        if own is None:
            return torch.cdist(queries["embedding"], gallery["embedding"])
        expected = (len(queries["embedding"]), len(gallery["embedding"]))
        if own.shape != expected:
            raise ValueError(f"compare must answer {expected} distances, got {tuple(own.shape)}")
        return own


class PersonReId(Task):
    """See the module's docstring for batch, prediction and measures."""

    name: ClassVar[str] = "person-reid"
    family: ClassVar[str] = "retrieval"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("map", True, "%"),
        Measure("rank1", True, "%"),
        Measure("rank5", True, "%"),
        Measure("rank10", True, "%"),
        Measure("ice", False, decimals=0),
        Measure("cce", False, decimals=0),
    )

    @classmethod
    def judge(cls, spec: Spec) -> ReIdJudge:
        persons_of(spec)
        return ReIdJudge()

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """The crop and the nearest others of its batch by embedding (green: same person, another camera; grey:
        same person and camera, which the judge takes out; red: another person)."""
        embedding = prediction["embedding"].detach().float()
        distance = torch.cdist(embedding, embedding).fill_diagonal_(torch.inf)
        tiles, person, camera = thumbnails(batch["image"]), batch["label"], batch["camera"]
        same = person == person[:, None]
        aside = same & (camera == camera[:, None])
        return [
            _ranked_list(tiles[row], tiles, distance[row], same[row], aside[row])
            for row in range(min(limit, len(embedding)))
        ]


def persons_of(spec: Spec) -> PersonsSpec:
    """The spec, if it is of crops of persons; otherwise a `TypeError`."""
    if not isinstance(spec, PersonsSpec):
        raise TypeError(f"person re-identification needs a PersonsSpec, not {type(spec).__name__}")
    return spec


def thumbnails(image: Tensor) -> Tensor:
    """float [B, 3, H, W] in [0, 1] -> uint8 [B, 3, *TILE]"""
    small = F.interpolate(image.detach().float(), TILE, mode="bilinear", antialias=True, align_corners=False)
    return (small.clamp(0, 1) * 255).round().byte()


def _ranked_list(
    query: Tensor, tiles: Tensor, distance: Tensor, right: Tensor, aside: Tensor | None = None
) -> np.ndarray:
    """The query's thumbnail and those of its nearest answers, uint8 [H, W, 3].

    query: uint8 [3, h, w]; tiles: uint8 [G, 3, h, w]; distance: [G], infinite where not to be shown; right, aside:
    bool [G], framed green and grey.
    """
    order = distance.argsort(stable=True)
    found = order[distance[order].isfinite()][:SHOWN].tolist()
    sheet = [_framed(query, QUERY)]
    for index in found:
        grey = aside is not None and bool(aside[index])
        sheet.append(_framed(tiles[index], SAME_CAMERA if grey else RIGHT if right[index] else WRONG))
    sheet += [np.full_like(sheet[0], 255)] * (SHOWN - len(found))
    return np.concatenate(sheet, axis=1)


def _framed(tile: Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    height, width = tile.shape[1:]
    framed = np.full((height + 8, width + 8, 3), 255, np.uint8)
    framed[1:-1, 1:-1] = colour
    framed[4:-4, 4:-4] = tile.permute(1, 2, 0).cpu().numpy()
    return framed


def _curve(match: Tensor) -> np.ndarray:
    """The CMC curve as a picture, uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(range(1, len(match) + 1), 100 * match.cpu().numpy(), marker=".", color="tab:blue")
    axes.set(
        xlim=(0.5, len(match) + 0.5), ylim=(0, 101), xlabel="rank", ylabel="queries matched, %", title="CMC"
    )
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.grid(alpha=0.3)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
