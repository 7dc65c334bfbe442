"""k-reciprocal sets and their Jaccard distance against plain Python sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tasks.blocks import k_reciprocal
from tasks.blocks.k_reciprocal import jaccard_distances, k_reciprocal_sets, nearest_neighbours


def sets_by_definition(points: torch.Tensor, k: int) -> list[set[int]]:
    """R of each point (equation 4), a point its own neighbour."""
    distance = (points[:, None] - points[None]).square().sum(2)
    near = [set(row.argsort()[:k].tolist()) for row in distance]
    return [{j for j in near[i] if i in near[j]} for i in range(len(points))]


def test_line_of_points_by_hand() -> None:
    # 0, 1, 3 and 10 on a line with k = 2: 0 and 1 have each other, 3 wants 1, 10 wants 3.
    points = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    near = nearest_neighbours(points, 2)
    assert near.tolist() == [[0, 1], [1, 0], [2, 1], [3, 2]]
    sets = k_reciprocal_sets(near).toarray()
    assert sets.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    row, column, distance = jaccard_distances(k_reciprocal_sets(near), np.array([0, 2]), np.arange(4))
    assert sorted(zip(row.tolist(), column.tolist(), distance.tolist(), strict=True)) == [
        (0, 0, 0.0),
        (0, 1, 0.0),
        (1, 2, 0.0),
    ]


def test_agrees_with_sets() -> None:
    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k, rows, columns = 7, np.arange(50, 60), np.arange(50)
    expected = sets_by_definition(points, k)
    found = k_reciprocal_sets(nearest_neighbours(points, k))
    assert [set(found[[i]].indices.tolist()) for i in range(60)] == expected
    row, column, distance = jaccard_distances(found, rows, columns)
    dense = np.ones((len(rows), len(columns)))
    dense[row, column] = distance
    for i, m in enumerate(rows):
        for j, x in enumerate(columns):
            a, b = expected[m], expected[x]
            assert dense[i, j] == pytest.approx(1 - len(a & b) / len(a | b))
    assert (distance < 1).all()


def test_equal_points_keep_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k_reciprocal, "CHUNK", 4)
    near = nearest_neighbours(torch.ones(10, 2), 3)
    assert near[:, 0].tolist() == list(range(10))
    assert (k_reciprocal_sets(near).diagonal() == 1).all()


def test_k_must_fit() -> None:
    with pytest.raises(ValueError, match=r"1\.\.3"):
        nearest_neighbours(torch.zeros(3, 1), 4)
