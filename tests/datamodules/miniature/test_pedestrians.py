"""Rendered persons: deterministic, masks and joints on the person, cameras that show, doubles."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.miniature.pedestrians import (
    JOINTS,
    Crops,
    draw_cameras,
    draw_crops,
    draw_grounds,
    draw_persons,
)

SIZE = (96, 48)


def crops(seed: int = 0, count: int = 40) -> tuple[Crops, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    persons, cameras = draw_persons(10, "summer", random), draw_cameras(3, "summer", SIZE, random)
    person, camera = np.arange(count) % 10, np.arange(count) // 2 % 3
    return draw_crops(persons, cameras, person, camera, SIZE, random), person, camera


def test_shapes_and_determinism() -> None:
    first, again = crops()[0], crops()[0]
    assert first.pictures.shape == (40, *SIZE, 3)
    assert first.pictures.dtype == np.uint8
    assert first.masks.shape == (40, *SIZE)
    assert first.joints.shape == (40, 13, 2) == (40, len(JOINTS), 2)
    assert (first.pictures == again.pictures).all()
    assert (first.pictures != crops(1)[0].pictures).any()


def test_masks_cover_the_joints_and_not_the_corners() -> None:
    drawn = crops()[0]
    assert 0.15 < drawn.masks.mean() < 0.5
    assert drawn.masks[:, ::95, :3].mean() < 0.02
    inside = 0
    for mask, joints in zip(drawn.masks, drawn.joints, strict=True):
        x, y = np.clip(joints.round().astype(int), 0, np.array(SIZE[::-1]) - 1).T
        inside += mask[y, x].mean() / len(drawn.masks)
    assert inside > 0.95


def test_background_tells_the_camera() -> None:
    drawn, _, camera = crops(count=60)
    outside = ~drawn.masks[..., None]
    ground = (drawn.pictures * outside).sum((1, 2)) / outside.sum((1, 2))
    centre = np.stack([ground[camera == c].mean(0) for c in range(3)])
    nearest = np.linalg.norm(ground[:, None] - centre, axis=2).argmin(1)
    assert (nearest == camera).mean() > 0.95


def test_doubles_differ_in_pattern_and_bag_only() -> None:
    persons = draw_persons(8, "winter", np.random.default_rng(0))
    assert (persons.shirt[3] == persons.shirt[2]).all()
    assert (persons.trousers[7] == persons.trousers[6]).all()
    assert persons.pattern[3] != persons.pattern[2]
    assert persons.bag[3] != persons.bag[2]
    assert (persons.shirt[1] != persons.shirt[0]).any()


@pytest.mark.parametrize("style", ["summer", "winter"])
def test_empty_scenes_are_the_cameras(style: str) -> None:
    random = np.random.default_rng(2)
    cameras = draw_cameras(2, style, SIZE, random)
    scenes = draw_grounds(cameras, np.array([0, 0, 1]), SIZE, random).astype(float)
    assert abs(scenes[0].mean((0, 1)) - scenes[1].mean((0, 1))).max() < 25
    assert scenes.shape == (3, *SIZE, 3)
