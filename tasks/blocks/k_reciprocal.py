"""k-reciprocal neighbours and their Jaccard distance (Zhong et al., CVPR 2017; ADTC, equations 4 and 5).

R(g, k) holds the points that are among the k nearest of g and have g among their own k nearest; a point is its
own neighbour, so R is never empty. The distance is that of the plain sets,

    J(a, b) = 1 - |R(a) n R(b)| / |R(a) u R(b)|,

without the Gaussian weights, the query expansion and the share of the original distance that re-ranking adds.
Sets are rows of a sparse binary matrix, and intersections its products: only pairs with a common neighbour are
ever touched.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

CHUNK = 1024
"""Points whose distances to all are held at once."""


def nearest_neighbours(points: Tensor, k: int) -> Tensor:
    """The k nearest of each point by Euclidean distance, itself first: float [P, D] -> int64 [P, k]."""
    if not 1 <= k <= len(points):
        raise ValueError(f"k must be in 1..{len(points)}, the number of points, got {k}")
    found = []
    for start in range(0, len(points), CHUNK):
        distance = torch.cdist(points[start : start + CHUNK], points)
        # Equal points would push each other out of their own neighbourhoods.
        row = torch.arange(len(distance), device=points.device)
        distance[row, row + start] = -1.0
        found.append(distance.topk(k, dim=1, largest=False).indices)
    return torch.cat(found)


def k_reciprocal_sets(neighbours: Tensor) -> csr_array:
    """R as rows of a binary matrix: int64 [P, k], as `nearest_neighbours` -> int32 [P, P]."""
    points, k = neighbours.shape
    column = neighbours.cpu().numpy().ravel()
    row = np.repeat(np.arange(points), k)
    near = csr_array((np.ones(len(row), np.int32), (row, column)), shape=(points, points))
    return csr_array(near.multiply(near.T))


def jaccard_distances(
    sets: csr_array, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The pairs of `rows` and `columns` (points) whose sets meet: positions in both and J; all others have J = 1."""
    common = (sets[rows] @ sets[columns].T).tocoo()
    size = sets.sum(axis=1)
    union = size[rows][common.row] + size[columns][common.col] - common.data
    return common.row.astype(np.int64), common.col.astype(np.int64), 1.0 - common.data / union
