"""The revisited protocol of Oxford and Paris buildings: average precision at three levels of difficulty.

Each picture of the gallery has a grade for each query: wrong, easy, hard or junk. A setup says which grades are right
answers and which are taken out of the ranking before it is judged (Radenovic et al., "Revisiting Oxford and Paris:
large-scale image retrieval benchmarking", CVPR 2018, section 3):

    setup    right         taken out
    easy     easy          hard, junk
    medium   easy, hard    junk
    hard     hard          easy, junk

Average precision is by trapezoids (see tasks/metrics/retrieval.py). A query without a right answer in a setup is left
out of its mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from tasks.metrics.retrieval import average_precision

WRONG, EASY, HARD, JUNK = 0, 1, 2, 3
SETUPS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "medium": ((EASY, HARD), (JUNK,)),
    "hard": ((HARD,), (EASY, JUNK)),
    "easy": ((EASY,), (HARD, JUNK)),
}
"""Setup -> grades that are right, grades that are taken out."""


def revisited_average_precision(ranked_grade: Tensor) -> dict[str, Tensor]:
    """Average precision of rankings in each setup.

    ranked_grade: int [Q, N], the grade of the picture at each rank, best rank first.
    -> float64 [Q] in [0, 1] by setup, NaN for a query without a right answer in it.

    >>> revisited_average_precision(torch.tensor([[EASY, JUNK, HARD]]))["medium"]
    tensor([1.], dtype=torch.float64)
    """
    if ranked_grade.ndim != 2:
        raise ValueError(f"rankings must be [Q, N], got {tuple(ranked_grade.shape)}")
    return {
        setup: average_precision(_among(ranked_grade, right), _among(ranked_grade, aside))
        for setup, (right, aside) in SETUPS.items()
    }


def _among(grade: Tensor, wanted: tuple[int, ...]) -> Tensor:
    return torch.isin(grade, torch.tensor(wanted, device=grade.device, dtype=grade.dtype))


def grade_matrix(relevance: Tensor, queries: Tensor, gallery: Tensor) -> Tensor:
    """Grades of gallery pictures for queries: int64 [Q, G], 0 where none is given.

    relevance: int64 [P, 3], rows (index of the query, index of the picture, grade); queries [Q] and gallery [G]: the
    indices of those that were taken in, ascending. Rows of others are passed over.
    """
    grades = torch.zeros(len(queries), len(gallery), dtype=torch.long, device=queries.device)
    if len(relevance) and len(queries) and len(gallery):
        row, row_known = _positions(queries, relevance[:, 0])
        column, column_known = _positions(gallery, relevance[:, 1])
        known = row_known & column_known
        grades[row[known], column[known]] = relevance[known, 2]
    return grades


def _positions(ascending: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Where each value stands among ascending ones, and whether it does."""
    place = torch.searchsorted(ascending, values.contiguous()).clamp(max=len(ascending) - 1)
    return place, ascending[place] == values


class GatheredSplit:
    """Predictions [Q, ...] of the queries and [G, ...] of the other pictures by key, each in the order of their
    indices, and the grades int64 [Q, G]. A plain class: torchmetrics would make numbers of tensors that hold one."""

    def __init__(self, queries: dict[str, Tensor], gallery: dict[str, Tensor], grades: Tensor) -> None:
        self.queries, self.gallery, self.grades = queries, gallery, grades


class GatheredLandmarks(Metric):
    """Gathers predictions and what is known of the pictures over a split; a picture that comes twice (a distributed
    sampler pads with repeats) counts once, and the order of arrival doesn't matter."""

    full_state_update = False
    FACTS = ("indices", "queries", "relevance")

    def __init__(self) -> None:
        super().__init__()
        for state in self.FACTS:
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self.indices: list[Tensor] | Tensor
        self.predicted: tuple[str, ...] = ()

    def update(
        self, prediction: Mapping[str, Tensor], index: Tensor, is_query: Tensor, relevance: Tensor
    ) -> None:
        """prediction: tensors [B, ...] by key, the same keys each time; index int64 [B], is_query bool [B]; relevance
        int64 [P, 3], see `grade_matrix`."""
        for key, value in prediction.items():
            if len(value) != len(index):
                raise ValueError(f"{key!r} is of {len(value)} pictures, the batch holds {len(index)}")
        if relevance.ndim != 2 or relevance.shape[1] != 3:
            raise ValueError(f"relevance must be [P, 3], got {tuple(relevance.shape)}")
        if not self.predicted:
            self.predicted = tuple(sorted(prediction))
            for key in self.predicted:
                self.add_state(f"of_{key}", default=[], dist_reduce_fx="cat")
        if tuple(sorted(prediction)) != self.predicted:
            raise ValueError(f"expected predictions {self.predicted}, got {tuple(sorted(prediction))}")
        for key, value in prediction.items():
            getattr(self, f"of_{key}").append(value.detach())
        for state, value in zip(self.FACTS, (index.long(), is_query.bool(), relevance.long()), strict=True):
            getattr(self, state).append(value)

    def compute(self) -> GatheredSplit:
        """What has been taken in; a `ValueError` where nothing has."""
        if isinstance(self.indices, list) and not self.indices:
            raise ValueError("nothing has been taken in")
        gathered = {
            state: torch.cat(list(value)) if isinstance(value := getattr(self, state), list) else value
            for state in (*self.FACTS, *(f"of_{key}" for key in self.predicted))
        }
        order = gathered["indices"].argsort(stable=True)
        index = gathered["indices"][order]
        first = torch.ones_like(index, dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        order, index = order[first], index[first]
        is_query = gathered["queries"][order]
        asked, others = order[is_query], order[~is_query]
        grades = grade_matrix(gathered["relevance"], index[is_query], index[~is_query])
        return GatheredSplit(
            {key: gathered[f"of_{key}"][asked] for key in self.predicted},
            {key: gathered[f"of_{key}"][others] for key in self.predicted},
            grades,
        )
