"""Set retrieval: for a set of pictures of a product, the product's picture in a catalogue.

Batch (sets have different sizes, so the pictures of all B sets are concatenated, in set order)
    image      float32 [N, 3, H, W]  RGB in [0, 1]
    set        int64 [N]             which set of the batch a picture belongs to, 0..B-1, ascending
    catalogue  float32 [B, 3, H, W]  the catalogue picture of each set's product
    label      int64 [B]             the product, another one for each set of a split
    id         list[str]             one a set
Prediction
    query      float [M, D]  rows of the sets: one a set, or more (one a picture), ascending by set
    query_set  int64 [M]     which set of the batch a row belongs to
    catalogue  float [B, D]

The judge gathers the predictions of the whole split; every set is a query, all catalogue pictures are the database.
They are ranked by the method's own `compare`, asked for some sets and the whole database, with `query_set` numbering
those sets from 0; or else by Euclidean distance, where each set has one row. Ties count against the method.

Measures: recall@k in % for k = 1, 10, 20, 50: sets whose product is among the first k (with fewer products than k it is
100).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import PictureSetsSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.bags import Gathered
from tasks.metrics.text_ranks import first_right_rank, recall_at

CUTS = (1, 10, 20, 50)
CHUNK = 128
"""Sets ranked at once."""
TILE, SHOWN, LISTED = 48, 8, 8
"""Side of a thumbnail; answers of a set; sets of the ranked lists."""
QUERY, RIGHT, WRONG = (0, 0, 0), (0, 150, 0), (200, 0, 0)


class SetRetrievalJudge(Judge):
    """Gathers predictions over the split and ranks them when asked."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = Gathered("query", "label")
        self.catalogue = Gathered("catalogue", "label", "first", "thumbnail")
        self._figure: np.ndarray | None = None

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Take in one batch; `ValueError` where shapes don't fit or numbers aren't finite."""
        query, owner, catalogue = prediction["query"], prediction["query_set"], prediction["catalogue"]
        sets = len(batch["label"])
        if query.ndim != 2 or owner.shape != (len(query),) or catalogue.shape != (sets, query.shape[1]):
            raise ValueError(
                f"expected query [M, D], query_set [M] and catalogue [{sets}, D], got {tuple(query.shape)}, "
                f"{tuple(owner.shape)} and {tuple(catalogue.shape)}"
            )
        if not torch.equal(owner.unique(), torch.arange(sets, device=owner.device)):
            raise ValueError(
                f"each of the {sets} sets must have a row, query_set names {owner.unique().tolist()}"
            )
        if not (query.isfinite().all() and catalogue.isfinite().all()):
            raise ValueError("embeddings hold NaN or infinity")
        self.rows.update(query=query.float(), label=batch["label"][owner])
        first = F.pad(batch["set"].diff(), (1, 0), value=1) > 0
        self.catalogue.update(
            catalogue=catalogue.float(),
            label=batch["label"],
            first=thumbnails(batch["image"][first]),
            thumbnail=thumbnails(batch["catalogue"]),
        )

    def compute(self) -> dict[str, float]:
        rows, database = self.rows.compute(), self.catalogue.compute()
        products, place = database["label"].unique(return_inverse=True)
        kept = place.new_empty(len(products)).scatter_(
            0, place, torch.arange(len(place), device=place.device)
        )
        database = {name: value[kept] for name, value in database.items()}
        owner = torch.searchsorted(products, rows["label"])
        gallery = {"catalogue": database["catalogue"]}

        def distance(sets: Tensor) -> Tensor:
            chosen = torch.isin(owner, sets)
            numbered = torch.searchsorted(sets, owner[chosen])
            return self._distance({"query": rows["query"][chosen], "query_set": numbered}, gallery, len(sets))

        everything = torch.arange(len(products), device=owner.device)
        ranks = torch.cat(
            [first_right_rank(-distance(sets), sets[:, None]) for sets in everything.split(CHUNK)]
        )
        shown = everything[torch.linspace(0, len(products) - 1, min(LISTED, len(products))).long()]
        near = distance(shown)
        self._figure = np.concatenate(
            [
                ranked_list(database["first"][index][None], database["thumbnail"], near[row], index)
                for row, index in enumerate(shown.tolist())
            ]
        )
        return {f"recall_at_{k}": recall_at(ranks, k) for k in CUTS}

    def figures(self) -> dict[str, np.ndarray]:
        """`ranked_lists`: a picture of some sets (black frame) and the nearest catalogue pictures (green: right)."""
        return {} if self._figure is None else {"ranked_lists": self._figure}

    def _distance(self, queries: Prediction, gallery: Prediction, sets: int) -> Tensor:
        own = self.compare and self.compare(queries, gallery)
        if own is None:
            if len(queries["query"]) != sets:
                raise ValueError(
                    "a set has several rows: the method must say how to compare them (Method.compare)"
                )
            return torch.cdist(queries["query"], gallery["catalogue"])
        expected = (sets, len(gallery["catalogue"]))
        if own.shape != expected:
            raise ValueError(f"compare must answer {expected} distances, got {tuple(own.shape)}")
        return own


class SetRetrieval(Task):
    """See the module's docstring for batch, prediction and measures."""

    name: ClassVar[str] = "set-retrieval"
    family: ClassVar[str] = "retrieval"
    measures: ClassVar[tuple[Measure, ...]] = tuple(Measure(f"recall_at_{k}", True, "%") for k in CUTS)

    @classmethod
    def judge(cls, spec: Spec) -> SetRetrievalJudge:
        sets_of(spec)
        return SetRetrievalJudge()

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """A set each: its first pictures (black frame); below, the catalogue pictures of the batch by the Euclidean
        distance to the mean of the set's rows (green: the right one)."""
        tiles, catalogue = thumbnails(batch["image"]), thumbnails(batch["catalogue"])
        embedding, owner = prediction["query"].detach().float(), prediction["query_set"]
        sheets = []
        for number in range(min(limit, len(batch["label"]))):
            mean = embedding[owner == number].mean(dim=0, keepdim=True)
            near = torch.cdist(mean, prediction["catalogue"].detach().float())[0]
            mine = [framed(tile, QUERY) for tile in tiles[batch["set"] == number][: SHOWN + 1]]
            mine += [np.full_like(mine[0], 255)] * (SHOWN + 1 - len(mine))
            answers = ranked_list(tiles[:0], catalogue, near, number)
            answers = np.pad(answers, ((0, 0), (0, mine[0].shape[1]), (0, 0)), constant_values=255)
            sheets.append(np.concatenate([np.concatenate(mine, axis=1), answers]))
        return sheets


def sets_of(spec: Spec) -> PictureSetsSpec:
    """The spec, if it is of sets of pictures; otherwise a `TypeError`."""
    if not isinstance(spec, PictureSetsSpec):
        raise TypeError(f"set retrieval needs a PictureSetsSpec, {spec.dataset} has {type(spec).__name__}")
    return spec


def thumbnails(image: Tensor) -> Tensor:
    """float [B, 3, H, W] in [0, 1] -> uint8 [B, 3, TILE, TILE]"""
    small = F.interpolate(
        image.detach().float(), (TILE, TILE), mode="bilinear", antialias=True, align_corners=False
    )
    return (small.clamp(0, 1) * 255).round().byte()


def ranked_list(queries: Tensor, tiles: Tensor, distance: Tensor, right: int) -> np.ndarray:
    """Thumbnails uint8 [q, 3, h, w] and the nearest of [G, 3, h, w] by distance [G], in a row; right: the right one."""
    found = distance.argsort(stable=True)[:SHOWN].tolist()
    sheet = [framed(query, QUERY) for query in queries]
    sheet += [framed(tiles[index], RIGHT if index == right else WRONG) for index in found]
    blank = np.full_like(sheet[0], 255)
    return np.concatenate(sheet + [blank] * (SHOWN - len(found)), axis=1)


def framed(tile: Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    """uint8 [3, h, w] -> uint8 [h + 8, w + 8, 3] with a frame."""
    height, width = tile.shape[1:]
    frame = np.full((height + 8, width + 8, 3), 255, np.uint8)
    frame[1:-1, 1:-1] = colour
    frame[4:-4, 4:-4] = tile.permute(1, 2, 0).cpu().numpy()
    return frame
