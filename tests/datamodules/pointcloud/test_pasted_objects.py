"""Pasting objects into scenes: points in boxes and touching boxes by hand (whole scenes: `test_kitti_object.py`)."""

from __future__ import annotations

import math

import numpy as np

from datamodules.pointcloud.pasted_objects import collide, in_box


def test_points_in_a_turned_box_by_hand() -> None:
    box = np.array([10.0, 0, 0, 4, 2, 2, math.pi / 2], "f4")
    points = np.array([[10.0, 1.9, 0], [10.9, 0, 0], [11.1, 0, 0], [10.0, 2.1, 0], [10.0, 0, 1.1]], "f4")
    assert in_box(points, box).tolist() == [True, True, False, False, False]


def test_collisions_by_hand() -> None:
    own = np.array([[0.0, 0, 0, 4, 2, 1, 0]], "f4")
    others = np.array(
        [
            [3.9, 0, 9, 4, 2, 1, 0],  # heights don't matter
            [4.1, 0, 0, 4, 2, 1, 0],
            [2.6, 1.7, 0, 2, 2, 1, math.pi / 4],  # the corner of its square reaches nearer than its sides
            [2.0, 1.0, 0, 0.1, 0.1, 1, 1.0],
            [3.0, 2.0, 0, 2, 2, 1, math.pi / 4],  # apart only along the diagonal
        ],
        "f4",
    )
    expected = [True, False, True, True, False]
    assert collide(own, others)[0].tolist() == expected
    assert collide(others, own)[:, 0].tolist() == expected
    assert collide(own, others[:0]).shape == (1, 0)
