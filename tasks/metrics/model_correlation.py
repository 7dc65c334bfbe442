"""How two measures go together over trained models, as in a scatter plot with a point for each model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import scipy.stats


class Correlation(NamedTuple):
    """Pearson's r, the probability of one as large by chance, and over how many models."""

    r: float
    p_value: float
    models: int


def correlation_of_measures(results: Sequence[Mapping[str, float]], first: str, second: str) -> Correlation:
    """Pearson correlation of two measures over the metrics of several models.

    results: one mapping a model; those that lack a measure, or where it isn't finite, are left out. Sylvain et al.
    (ICLR 2020) report `tre_ratio` and `accuracy` in Fig. 4.5, `parts_f1` and `accuracy` in Fig. 4.2.
    Raises `ValueError` where fewer than three models are left, or a measure is constant over them.

    >>> rows = [{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 2.0}, {"a": 3.0, "b": 1.0}, {"a": 9.0}]
    >>> round(correlation_of_measures(rows, "a", "b").r, 6)
    -1.0
    """
    pairs = [
        (float(row[first]), float(row[second]))
        for row in results
        if first in row and second in row and math.isfinite(row[first]) and math.isfinite(row[second])
    ]
    if len(pairs) < 3:
        raise ValueError(f"{len(pairs)} models have both {first!r} and {second!r}; a correlation needs three")
    columns = list(zip(*pairs, strict=True))
    for name, column in zip((first, second), columns, strict=True):
        if len(set(column)) == 1:
            raise ValueError(f"{name!r} is {column[0]} for all {len(pairs)} models: no correlation")
    found = scipy.stats.pearsonr(*columns)
    return Correlation(float(found.statistic), float(found.pvalue), len(pairs))
