"""Overlaps of oriented boxes: by hand, by a slow clipping of polygons, and what must not change them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tasks.metrics.rotated_iou import (
    bev_intersection,
    bev_iou,
    corners,
    corners_3d,
    iou_3d,
    rectangle_intersection,
    rectangle_iou,
)

Point = tuple[float, float]


def box(
    x: float, y: float, length: float, width: float, yaw: float = 0.0, z: float = 0.0, height: float = 2.0
) -> Tensor:
    return torch.tensor([x, y, z, length, width, height, yaw], dtype=torch.float64)


def random_boxes(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([3, 3, 1, 4, 2, 1, 2 * math.pi], dtype=dtype)
    least = torch.tensor([50, -30, 0, 0.1, 0.1, 0.5, -math.pi], dtype=dtype)
    return torch.rand(count, 7, dtype=dtype, generator=generator) * spread + least


def clipped_area(first: Tensor, second: Tensor) -> float:
    """Sutherland and Hodgman: cut one polygon by the sides of the other, one after another; then the shoelace."""
    polygon: list[Point] = [tuple(corner) for corner in corners(first).tolist()]
    window: list[Point] = [tuple(corner) for corner in corners(second).tolist()]
    for start, end in zip(window, window[1:] + window[:1], strict=True):
        side = [
            (end[0] - start[0]) * (p[1] - start[1]) - (end[1] - start[1]) * (p[0] - start[0]) for p in polygon
        ]
        cut: list[Point] = []
        for k, (p, here) in enumerate(zip(polygon, side, strict=True)):
            q, there = polygon[(k + 1) % len(polygon)], side[(k + 1) % len(polygon)]
            if here >= 0:
                cut.append(p)
            if (here >= 0) != (there >= 0):
                part = here / (here - there)
                cut.append((p[0] + part * (q[0] - p[0]), p[1] + part * (q[1] - p[1])))
        polygon = cut
        if not polygon:
            return 0.0
    return sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True)) / 2


def test_corners_by_hand() -> None:
    turned = corners(box(10, 5, 4, 2, math.pi / 2))
    expected = torch.tensor([[9.0, 7], [9, 3], [11, 3], [11, 7]], dtype=torch.float64)
    torch.testing.assert_close(turned, expected)
    solid = corners_3d(box(0, 0, 4, 2, z=1.0, height=3.0))
    assert solid[:4, 2].tolist() == [-0.5] * 4
    assert solid[4:, 2].tolist() == [2.5] * 4


@pytest.mark.parametrize(
    ("other", "area"),
    [
        (box(0, 0, 4, 2), 8.0),  # itself
        (box(0, 0, 4, 2, math.pi), 8.0),
        (box(0, 0, 2, 4, math.pi / 2), 8.0),  # itself, written otherwise
        (box(1, 0.5, 4, 2), 4.5),  # 3 x 1.5
        (box(0, 0, 4, 2, math.pi / 2), 4.0),  # a cross: 2 x 2
        (box(0, 0, 1, 1, 0.3), 1.0),  # inside
        (box(0, 0, 40, 40, 0.3), 8.0),  # around
        (box(4, 0, 4, 2), 0.0),  # side by side, touching
        (box(9, 0, 4, 2), 0.0),
        (box(2, 1, math.sqrt(2), math.sqrt(2), math.pi / 4), 0.5),  # a diamond on the corner: a quarter of 2
        (box(0, 0, 0, 2), 0.0),
        (box(0, 0, -4, 2), 0.0),
    ],
)
def test_areas_by_hand(other: Tensor, area: float) -> None:
    own = box(0, 0, 4, 2)
    assert float(bev_intersection(own, other)) == pytest.approx(area, abs=1e-6)
    assert float(bev_intersection(other, own)) == pytest.approx(area, abs=1e-6)


def test_a_square_and_itself_turned_by_45_degrees_share_an_octagon() -> None:
    area = float(bev_intersection(box(7, -3, 2, 2), box(7, -3, 2, 2, math.pi / 4)))
    assert area == pytest.approx(8 * (math.sqrt(2) - 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_like_clipping_polygons_one_by_one(dtype: torch.dtype) -> None:
    first, second = random_boxes(200, 0, dtype), random_boxes(200, 1, dtype)
    second[:30] = first[:30]
    second[10:20, 6] += math.pi / 2
    second[20:30, 3] /= 2
    second[30:40] = first[30:40]
    second[30:40, 6] += 1e-7
    second[40:50] = first[40:50]
    second[40:50, :2] += 4e-6
    got = bev_intersection(first, second)
    assert got.dtype == dtype
    expected = torch.tensor(
        [clipped_area(a.double(), b.double()) for a, b in zip(first, second, strict=True)], dtype=dtype
    )
    assert 50 < (expected > 0.01).sum() < 200
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


def test_pairs_broadcast_to_a_matrix_and_moving_both_changes_nothing() -> None:
    first, second = random_boxes(6, 2), random_boxes(5, 3)
    matrix = iou_3d(first[:, None], second[None])
    assert matrix.shape == (6, 5)
    assert float(matrix[3, 2]) == pytest.approx(float(iou_3d(first[3], second[2])))
    torch.testing.assert_close(matrix, iou_3d(second[None], first[:, None]), atol=1e-8, rtol=0)
    angle = 0.7
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    moved = []
    for boxes in (first, second):
        place = boxes[:, :2] @ turn.T + torch.tensor([100.0, -20.0])
        moved.append(torch.cat([place, boxes[:, 2:6], boxes[:, 6:] + angle], dim=1))
    torch.testing.assert_close(matrix, iou_3d(moved[0][:, None], moved[1][None]), atol=1e-7, rtol=0)


def test_volumes_by_hand() -> None:
    low, high = box(0, 0, 4, 2), box(0, 0, 4, 2, z=1.0)
    assert float(iou_3d(low, high)) == pytest.approx(1 / 3)
    assert float(bev_iou(low, high)) == pytest.approx(1.0)
    assert float(iou_3d(low, box(0, 0, 4, 2, z=2.0))) == 0.0
    assert float(iou_3d(low, box(0, 0, 2, 2, z=0.5, height=1.0))) == pytest.approx(4 / 16)


def test_volumes_agree_with_random_points() -> None:
    first = box(0, 0, 4, 2, 0.4)
    second = box(0.7, 0.3, 3, 2.5, -0.5, z=0.6, height=1.5)
    points = torch.rand(400_000, 3, generator=torch.Generator().manual_seed(0)).double() * 8 - 4

    def contains(one: Tensor) -> Tensor:
        offset = points - one[:3]
        cos, sin = one[6].cos(), one[6].sin()
        x, y = cos * offset[:, 0] + sin * offset[:, 1], cos * offset[:, 1] - sin * offset[:, 0]
        return (torch.stack([x, y, offset[:, 2]], 1).abs() <= one[3:6] / 2).all(1)

    a, b = contains(first), contains(second)
    assert float(iou_3d(first, second)) == pytest.approx(float((a & b).sum() / (a | b).sum()), abs=0.01)


def test_image_rectangles_by_hand() -> None:
    first, second = torch.tensor([0.0, 0, 4, 2]), torch.tensor([2.0, 1, 6, 5])
    assert float(rectangle_intersection(first, second)) == 2.0
    assert float(rectangle_iou(first, second)) == pytest.approx(2 / 22)
    assert float(rectangle_iou(first, torch.tensor([5.0, 0, 6, 1]))) == 0.0
    assert float(rectangle_iou(torch.zeros(4), torch.zeros(4))) == 0.0
