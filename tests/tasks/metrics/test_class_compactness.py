"""Class compactness by hand, against SciPy's distances, and where it means nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from tasks.metrics.class_compactness import class_compactness


def test_by_hand() -> None:
    features = torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 5.0], [6.0, 1.0]])
    # Centres (0, 1), (3, 5), (6, 1): distances 5, 6 and 5; within: 1, 1, 0, 0.
    found = class_compactness(features, torch.tensor([4, 4, 0, 9]))
    assert found == pytest.approx(0.5 / (16 / 3))


def test_against_scipy_and_whatever_the_scale() -> None:
    random = np.random.default_rng(0)
    features, label = random.normal(size=(40, 5)), random.integers(0, 4, 40)
    centres = np.stack([features[label == c].mean(0) for c in range(4)])
    expected = cdist(features, centres)[np.arange(40), label].mean() / pdist(centres).mean()
    for scale in (1.0, 30.0):
        assert class_compactness(
            torch.from_numpy(scale * features), torch.from_numpy(label)
        ) == pytest.approx(expected)


def test_without_two_centres_it_is_undefined() -> None:
    assert math.isnan(class_compactness(torch.rand(3, 2), torch.zeros(3, dtype=torch.long)))
    assert math.isnan(class_compactness(torch.ones(4, 2), torch.tensor([0, 0, 1, 1])))
    with pytest.raises(ValueError, match=r"\[n, K\]"):
        class_compactness(torch.rand(3, 2), torch.zeros(2, dtype=torch.long))
