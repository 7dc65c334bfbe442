"""Nearest neighbours: by hand, against SciPy, and what is gathered at them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from tasks.blocks.point_neighbours import gather, nearest, pairwise_distance


def test_neighbours_on_a_line_by_hand() -> None:
    cloud = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0], [7.0, 0, 0]]])
    assert nearest(cloud, cloud, 2).tolist() == [[[0, 1], [1, 0], [2, 1], [3, 2]]]
    assert nearest(torch.tensor([[[2.6, 0, 0]]]), cloud, 3).tolist() == [[[2, 1, 0]]]
    assert nearest(cloud, cloud, 9).shape == (1, 4, 4)  # all there are
    with pytest.raises(ValueError, match="positive"):
        nearest(cloud, cloud, 0)


def test_neighbours_agree_with_a_tree_on_each_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = 10 * torch.rand(3, 40, 3, generator=generator)
    cloud = 10 * torch.rand(3, 60, 3, generator=generator)
    found = nearest(queries, cloud, 5)
    for sample in range(3):
        distance, index = KDTree(cloud[sample].numpy()).query(queries[sample].numpy(), 5)
        assert np.array_equal(found[sample].numpy(), index)
        assert np.allclose(
            pairwise_distance(queries, cloud)[sample].gather(1, found[sample]), distance, atol=1e-5
        )


def test_distances_far_from_the_origin_keep_their_millimetres() -> None:
    first = torch.tensor([[[30.0, 2.0, 35.0]]])
    second = first + torch.tensor([0.003, 0.0, 0.0])
    assert float(pairwise_distance(first, second)) == pytest.approx(0.003, rel=2e-3)


def test_gathering_by_hand() -> None:
    values = torch.tensor([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]])
    index = torch.tensor([[[2, 0], [1, 1]]])
    assert gather(values, index).tolist() == [[[[3, 1], [2, 2]], [[30, 10], [20, 20]]]]
