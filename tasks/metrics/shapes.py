"""Scores of shape retrieval: knee-point (R-precision), MPEG-7's bull's-eye, and precision-recall curves.

In this field a query that lies in the gallery usually counts as one of its own right answers; functions take
rankings as they are, so that a caller ranks with the query or without.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _validate(relevant: Tensor) -> None:
    if relevant.ndim != 2:
        raise ValueError(f"rankings must be bool [Q, N], best rank first, got {tuple(relevant.shape)}")


def knee_point(relevant: Tensor) -> Tensor:
    """Share of right answers among the first V of a query with V of them: precision = recall = R-precision.

    relevant: bool [Q, N], best rank first. -> float64 [Q] in [0, 1]; NaN for a query with no right answer.

    >>> knee_point(torch.tensor([[True, False, True, True]]))
    tensor([0.6667], dtype=torch.float64)
    """
    return _found_within(relevant, factor=1)


def bulls_eye(relevant: Tensor) -> Tensor:
    """Share of the right answers found among the first 2 V of a query with V of them (MPEG-7 CE-1, part B).

    relevant: bool [Q, N], best rank first. -> float64 [Q] in [0, 1]; NaN for a query with no right answer.

    >>> bulls_eye(torch.tensor([[True, False, False, False, True]]))
    tensor([0.5000], dtype=torch.float64)
    """
    return _found_within(relevant, factor=2)


def _found_within(relevant: Tensor, factor: int) -> Tensor:
    _validate(relevant)
    count = relevant.sum(1)
    rank = torch.arange(relevant.shape[1], device=relevant.device)
    found = (relevant & (rank < factor * count[:, None])).sum(1)
    return found.double() / count


def precision_recall(relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall at every cut-off (Wang & Gao, ECCV 2020, Eq. 27), means over the queries.

    relevant: bool [Q, N], best rank first; queries with no right answer are left out.
    -> float64 [N] each, NaN where no query has one.
    """
    _validate(relevant)
    relevant = relevant[relevant.any(1)]
    found = relevant.cumsum(1).double()
    rank = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    return (found / rank).mean(0), (found / relevant.sum(1, keepdim=True)).mean(0)


def without(relevant: Tensor, taken: Tensor) -> Tensor:
    """Rankings without one entry each: bool [Q, N], taken bool [Q, N] with one True a row -> [Q, N - 1]."""
    _validate(relevant)
    if taken.shape != relevant.shape or not (taken.sum(1) == 1).all():
        raise ValueError(
            f"one entry a row of {tuple(relevant.shape)} must be taken, got {tuple(taken.shape)}"
        )
    return relevant[~taken].view(len(relevant), -1)
