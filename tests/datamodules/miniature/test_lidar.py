"""The LiDAR renderer: ray hits worked out by hand, and what scenes promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from datamodules.base import random_generator
from datamodules.miniature import lidar
from datamodules.pointcloud.semantic_kitti import LEARNING_MAP
from tasks.blocks.spherical_projection import project

ORIGIN = np.array([0.0, 0.0, 1.73])
AHEAD = np.array([[1.0, 0.0, 0.0]])


@pytest.fixture(scope="module")
def scans() -> list[tuple[np.ndarray, np.ndarray]]:
    return [lidar.render_scan(random_generator("lidar test", number)) for number in range(6)]


def test_box_hits_by_hand() -> None:
    straight = (10.0, 0.0, 1.0, 2.0, 1.0, 1.0, 0.0)
    diamond = (10.0, 0.0, 1.0, 1.0, 1.0, 1.0, math.pi / 4)
    low = (10.0, 0.0, 0.5, 2.0, 1.0, 0.5, 0.0)
    behind = (-10.0, 0.0, 1.0, 2.0, 1.0, 1.0, 0.0)
    hits = lidar._hit_boxes(ORIGIN, AHEAD, np.array([straight, diamond, low, behind]))
    assert hits[0].tolist() == pytest.approx([8.0, 10.0 - math.sqrt(2), np.inf, np.inf])


def test_cylinder_hits_by_hand() -> None:
    up = np.array([[1.0, 0.0, 0.5]]) / math.sqrt(1.25)
    cylinders = np.array([(10.0, 0.0, 0.5, 0.0, 2.0), (10.0, 0.6, 0.5, 0.0, 2.0), (10.0, 0.3, 0.5, 0.0, 2.0)])
    assert lidar._hit_cylinders(ORIGIN, AHEAD, cylinders)[0].tolist() == pytest.approx([9.5, np.inf, 9.6])
    assert lidar._hit_cylinders(ORIGIN, up, cylinders)[0].tolist() == [np.inf] * 3  # over its top


def test_blob_hits_by_hand() -> None:
    blobs = np.array([(10.0, 0.0, 1.73, 2.0, 1.0, 1.0), (10.0, 0.0, 5.0, 2.0, 1.0, 1.0)])
    assert lidar._hit_blobs(ORIGIN, AHEAD, blobs)[0].tolist() == pytest.approx([8.0, np.inf])


def test_ground_hits_by_hand() -> None:
    heights = {
        lidar.ROAD: 0.0,
        lidar.PARKING: 0.0,
        lidar.SIDEWALK: 0.13,
        lidar.TERRAIN: 0.05,
        lidar.ISLAND: 0.13,
    }
    sides = tuple(lidar.Side(sign, 5.0, 7.0, 9.0, 12.0, [(-5.0, 5.0)]) for sign in (1, -1))
    street = lidar.Street((sides[0], sides[1]), 0.0, (8.0, 9.0, 1.0), heights)

    def down_to(x: float, y: float, z: float) -> np.ndarray:
        way = np.array([x, y, z]) - ORIGIN
        return way / np.linalg.norm(way)

    targets = [(3.0, 3.0, 0.0), (4.0, 6.0, 0.0), (20.0, -6.0, 0.13), (0.0, 8.0, 0.13), (0.0, -11.0, 0.05)]
    targets += [(8.5, 0.5, 0.13), (14.0, 0.0, 0.0)]
    rays = np.array([down_to(*target) for target in targets] + [[1.0, 0.0, 0.0]])
    distance, label = lidar._hit_ground(ORIGIN, rays, street)
    expected = [np.linalg.norm(np.array(target) - ORIGIN) for target in targets]
    assert distance[:7].tolist() == pytest.approx(expected)
    assert label[:7].tolist() == [
        lidar.ROAD,
        lidar.PARKING,
        lidar.SIDEWALK,
        lidar.SIDEWALK,
        lidar.TERRAIN,
        lidar.ISLAND,
        lidar.LANE_MARKING,
    ]
    assert distance[7] == np.inf  # a level ray meets no ground


def test_the_same_seed_gives_the_same_scan_and_another_another(
    scans: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    points, label = lidar.render_scan(random_generator("lidar test", 2))
    assert points.tobytes() == scans[2][0].tobytes()
    assert label.tobytes() == scans[2][1].tobytes()
    assert points.tobytes() != scans[3][0].tobytes()


def test_scans_look_like_a_32_beam_sensors(scans: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for points, label in scans:
        assert points.dtype == np.float32
        assert label.dtype == np.uint32
        assert 10_000 < len(points) == len(label) <= lidar.BEAMS * lidar.AZIMUTHS
        distance = np.linalg.norm(points[:, :3], axis=1)
        pitch = np.degrees(np.arcsin(points[:, 2] / distance))
        assert distance.max() < lidar.REACH + 1
        assert -28 < pitch.min() < -24
        assert 2 < pitch.max() < 5
        assert points[:, 3].min() >= 0
        assert points[:, 3].max() < 1


def test_points_collide_in_the_small_range_image(scans: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for points, _ in scans:
        scan = torch.zeros(len(points), dtype=torch.int64)
        image = project(torch.from_numpy(points), scan, 1, 32, 256, 3.0, -25.0)
        assert int(image.mask.sum()) < 0.6 * len(points)
        assert float(image.mask.float().mean()) > 0.8


def test_ground_classes_differ_by_centimetres_and_not_by_remission(
    scans: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    points = np.concatenate([scan for scan, _ in scans])
    raw = np.concatenate([label for _, label in scans]) & 0xFFFF
    means = {}
    for ground, low, high in (
        (lidar.ROAD, -0.02, 0.02),
        (lidar.SIDEWALK, 0.09, 0.16),
        (lidar.TERRAIN, 0.03, 0.09),
    ):
        chosen = points[raw == ground]
        height = chosen[:, 2] + lidar.SENSOR_HEIGHT
        assert low < np.median(height) < high
        means[ground] = chosen[:, 3].mean()
    spread = points[raw == lidar.ROAD, 3].std()
    assert max(means.values()) - min(means.values()) < spread


def test_thin_things_stand_closer_to_others_than_a_voxel(scans: list[tuple[np.ndarray, np.ndarray]]) -> None:
    classes = np.zeros(1 << 16, dtype=np.int64)
    classes[list(LEARNING_MAP)] = list(LEARNING_MAP.values())
    ground = (9, 10, 11, 12, 17)
    near: dict[int, list[np.ndarray]] = {6: [], 16: [], 18: []}  # person, trunk, pole
    for points, label in scans:
        own = classes[label & 0xFFFF]
        standing = ~np.isin(own, ground)
        for thin, distances in near.items():
            others = cKDTree(points[standing & (own != thin), :3])
            distances.append(others.query(points[own == thin, :3])[0])
    share = {thin: (np.concatenate(distances) < 0.2).mean() for thin, distances in near.items()}
    assert share[18] > 0.25
    assert min(share.values()) > 0.04


def test_every_class_appears_and_things_carry_instances() -> None:
    raw, instance = [], []
    for number in range(12):
        _, label = lidar.render_scan(random_generator("lidar classes", number))
        raw.append(label & 0xFFFF)
        instance.append(label >> 16)
    raw, instance = np.concatenate(raw), np.concatenate(instance)
    assert {LEARNING_MAP[value] for value in np.unique(raw).tolist()} == set(range(20))
    assert set(lidar.MOVING.values()) & set(np.unique(raw).tolist())
    things = np.isin(raw, [*lidar.MOVING, *lidar.MOVING.values(), lidar.BICYCLE, lidar.MOTORCYCLE])
    assert (instance[things] > 0).all()
    assert (instance[~things] == 0).all()
