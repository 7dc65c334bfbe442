"""Ranks of person re-identification by the protocol of Market-1501: single query, one gallery for all.

For each query, gallery pictures of the same person under the same camera are taken out, and so is junk (person
-1); distractors (person 0) stay as wrong answers. With R right answers, the j-th of them (from 1) behind w_j
wrong ones,

    AP = 1/R sum_j j / (w_j + j),        first right rank = w_1 + 1.

AP is the mean of the precision at each hit, not interpolated. A wrong answer as near as a right one ranks before
it, so equal embeddings find nothing; where nothing ties, the numbers are those of `eval_market1501` in fast-reid.
A query without a right answer is left out.

Sorting is the cost: only the wrong answers' distances are sorted, without their indices, and the few right ones
looked up among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from tasks.metrics.text_ranks import keys_of

CHUNK = 256
"""Queries ranked at once: bounds the memory to CHUNK x gallery distances."""
JUNK = -1

Distance = Callable[[Tensor], Tensor]
"""Positions of queries, int64 [Q] -> their distances to the whole gallery, float [Q, G]."""


@dataclass(frozen=True)
class Ranks:
    """What the ranking of each query says.

    average_precision: float64 [Q], NaN for a query without a right answer.
    first: int64 [Q], rank of the nearest right answer from 1; 0 for a query without one.
    nearest_wrong_camera: int64 [Q], camera of the nearest wrong answer; -1 where there is none.
    """

    average_precision: Tensor
    first: Tensor
    nearest_wrong_camera: Tensor

    @property
    def valid(self) -> Tensor:
        """bool [Q], whether the query has a right answer."""
        return self.first > 0


def right_and_wrong(
    query_person: Tensor, query_camera: Tensor, person: Tensor, camera: Tensor
) -> tuple[Tensor, Tensor]:
    """Which gallery pictures count for each query: int64 [Q], [Q], [G], [G] -> bool [Q, G] twice.

    What is neither right nor wrong is out of the ranking.

    >>> ids, cameras = torch.tensor([5, 5, 0, -1, 7]), torch.tensor([0, 1, 0, 0, 0])
    >>> right_and_wrong(torch.tensor([5]), torch.tensor([0]), ids, cameras)
    (tensor([[False,  True, False, False, False]]), tensor([[False, False,  True, False,  True]]))
    """
    same = query_person[:, None] == person
    return same & (query_camera[:, None] != camera), ~same & (person != JUNK)


def camera_ranks(
    distance: Tensor, query_person: Tensor, query_camera: Tensor, person: Tensor, camera: Tensor
) -> Ranks:
    """Rank one gallery for some queries.

    distance: float [Q, G], smaller is nearer; query_person, query_camera: int64 [Q]; person, camera: int64 [G].

    >>> ids, cameras = torch.tensor([5, 7, 5]), torch.tensor([1, 0, 2])
    >>> ranks = camera_ranks(torch.tensor([[0.1, 0.2, 0.3]]), ids[:1], cameras[1:2], ids, cameras)
    >>> ranks.average_precision, ranks.first
    (tensor([0.8333], dtype=torch.float64), tensor([1]))
    """
    asked, gallery = distance.shape
    if query_person.shape != (asked,) or query_camera.shape != (asked,):
        raise ValueError(f"distances are of {asked} queries, numbers of {tuple(query_person.shape)}")
    if person.shape != (gallery,) or camera.shape != (gallery,):
        raise ValueError(f"distances are to {gallery} pictures, numbers of {tuple(person.shape)}")
    if distance.isnan().any():
        raise ValueError("distances hold NaN")
    distance = distance.float()
    right, wrong = right_and_wrong(query_person, query_camera, person, camera)
    wrong_distance = distance.masked_fill(~wrong, torch.inf)
    nearest = wrong_distance.argmin(1)
    nearest_camera = torch.where(wrong.any(1), camera[nearest], -1)

    # The right answers' distances, ascending, in a table [Q, R] padded with infinity.
    row, column = right.nonzero(as_tuple=True)
    count = right.count_nonzero(1)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    mine = distance.new_full((asked, max(1, int(count.max()) if asked else 1)), torch.inf)
    mine[row, place] = distance[row, column]
    mine = mine.sort(1).values
    before = torch.searchsorted(_ascending(wrong_distance), mine, right=True).clamp(max=gallery)  # w_j
    number = torch.arange(1, mine.shape[1] + 1, device=mine.device)
    real = number <= count[:, None]
    precision = torch.where(real, number / (before + number).double(), 0.0)
    return Ranks(
        average_precision=precision.sum(1) / count,  # 0 / 0 is NaN
        first=torch.where(count > 0, before[:, 0] + 1, 0),
        nearest_wrong_camera=nearest_camera,
    )


def ranked(
    distance: Distance, query_person: Tensor, query_camera: Tensor, person: Tensor, camera: Tensor
) -> Ranks:
    """`camera_ranks` of all queries, `CHUNK` of them at a time; distance: asked for positions of queries."""
    positions = torch.arange(len(query_person), device=query_person.device)
    parts = [
        camera_ranks(distance(chunk), query_person[chunk], query_camera[chunk], person, camera)
        for chunk in positions.split(CHUNK)
    ]
    return Ranks(
        *(
            torch.cat([getattr(part, name) for part in parts])
            for name in ("average_precision", "first", "nearest_wrong_camera")
        )
    )


def cumulative_match(first: Tensor, ranks: int) -> Tensor:
    """The CMC curve: share of queries whose first right answer is at rank 1..ranks or better.

    first: int64 [Q] from 1, 0 for queries that don't count. -> float64 [ranks]

    >>> cumulative_match(torch.tensor([1, 3, 0, 2]), 3)
    tensor([0.3333, 0.6667, 1.0000], dtype=torch.float64)
    """
    valid = first[first > 0]
    return (valid[:, None] <= torch.arange(1, ranks + 1, device=first.device)).double().mean(0)


def camera_errors(ranks: Ranks, query_camera: Tensor) -> tuple[int, int]:
    """Queries whose nearest answer is wrong: from the query's own camera (ICE), and from another one (CCE)."""
    failed = ranks.first > 1
    own = failed & (ranks.nearest_wrong_camera == query_camera)
    return int(own.sum()), int((failed & ~own).sum())


class GatheredPersons(Metric):
    """Gathers predictions and what is known of the pictures over a split; a picture that comes twice (a
    distributed sampler pads with repeats) counts once."""

    full_state_update = False
    FACTS = ("keys", "persons", "cameras", "queries")

    def __init__(self) -> None:
        super().__init__()
        for state in self.FACTS:
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.predicted: tuple[str, ...] = ()

    def update(
        self,
        prediction: dict[str, Tensor],
        person: Tensor,
        camera: Tensor,
        is_query: Tensor,
        ids: Sequence[str],
    ) -> None:
        """prediction: tensors [B, ...] by key, the same keys each time; person, camera int64 [B]; is_query bool
        [B]; ids: names of the B pictures."""
        for key, value in prediction.items():
            if len(value) != len(person):
                raise ValueError(f"{key!r} is of {len(value)} pictures, the batch holds {len(person)}")
        if not self.predicted:
            self.predicted = tuple(sorted(prediction))
            for key in self.predicted:
                self.add_state(f"of_{key}", default=[], dist_reduce_fx="cat")
        if tuple(sorted(prediction)) != self.predicted:
            raise ValueError(f"expected predictions {self.predicted}, got {tuple(sorted(prediction))}")
        for key, value in prediction.items():
            getattr(self, f"of_{key}").append(value.detach())
        for state, value in zip(
            self.FACTS, (keys_of(ids, person), person.long(), camera.long(), is_query.bool()), strict=True
        ):
            getattr(self, state).append(value)

    def compute(self) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Predictions [N, ...] by key, persons, cameras int64 [N] and queries bool [N], in order of arrival."""
        if not self.predicted:
            raise ValueError("nothing has been taken in")
        gathered = {
            state: torch.cat(list(value)) if isinstance(value := getattr(self, state), list) else value
            for state in (*self.FACTS, *(f"of_{key}" for key in self.predicted))
        }
        kept = _first_of_each(gathered["keys"])
        if len(kept) < len(gathered["keys"]):
            gathered = {state: value[kept] for state, value in gathered.items()}
        prediction = {key: gathered[f"of_{key}"] for key in self.predicted}
        return prediction, gathered["persons"], gathered["cameras"], gathered["queries"]


def _ascending(values: Tensor) -> Tensor:
    """Rows sorted; NumPy's sort without indices is many times faster than torch's on a CPU."""
    if values.device.type != "cpu":
        return values.sort(1).values
    ordered = values.numpy().copy()
    ordered.sort(axis=1)
    return torch.from_numpy(ordered)


def _first_of_each(keys: Tensor) -> Tensor:
    """Positions, ascending, of the first of equal keys."""
    order = keys.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = keys[order][1:] != keys[order][:-1]
    return order[first].sort().values
