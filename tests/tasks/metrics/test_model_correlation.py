"""Correlation of measures over models."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.metrics.model_correlation import correlation_of_measures


def test_against_numpy_and_what_lacks_a_measure_is_left_out() -> None:
    ratio, accuracy = [0.6, 0.7, 0.9, 1.1], [40.0, 33.0, 30.0, 12.0]
    rows = [{"tre_ratio": a, "accuracy": b} for a, b in zip(ratio, accuracy, strict=True)]
    rows += [{"accuracy": 16.7}, {"tre_ratio": float("nan"), "accuracy": 50.0}]
    found = correlation_of_measures(rows, "tre_ratio", "accuracy")
    assert found.r == pytest.approx(np.corrcoef(ratio, accuracy)[0, 1])
    assert found.r < -0.9
    assert 0 < found.p_value < 0.1
    assert found.models == 4


def test_too_few_models_and_constant_measures_are_refused() -> None:
    rows = [{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 2.0}]
    with pytest.raises(ValueError, match="2 models have both 'a' and 'b'"):
        correlation_of_measures(rows, "a", "b")
    with pytest.raises(ValueError, match=r"'b' is 2\.0 for all 3 models"):
        correlation_of_measures([*rows, {"a": 3.0, "b": 2.0}], "a", "b")
