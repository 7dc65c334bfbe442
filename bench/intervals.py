"""Means over few seeds: Student's 95 % confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """mean ± half_width from n values; NaN for a half width where there is none (n = 1, infinite values)."""

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width


def half_width(deviation: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Half of the 95 % t-interval of a mean: t_{0.975, n-1} s / sqrt(n), elementwise; NaN where n < 2.

    deviation: sample standard deviations (n - 1 in the denominator). n: numbers of values.
    """
    n = np.asarray(n, dtype=float)
    quantile = stdtrit(np.where(n > 1, n - 1, np.nan), 0.5 + CONFIDENCE / 2)
    return quantile * deviation / np.sqrt(n)


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of values with its 95 % t-interval; raises `ValueError` where there are none."""
    n = len(values)
    if not n:
        raise ValueError("no values, no mean")
    if not all(map(math.isfinite, values)):
        return Interval(sum(values) / n, math.nan, n)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Interval(mean, float(half_width(np.asarray(deviation), np.asarray(n))), n)
