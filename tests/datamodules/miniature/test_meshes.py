"""Meshes of household things: closed sizes by hand, parts, and what tells a pair apart."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.base import random_generator
from datamodules.miniature import meshes
from datamodules.pointcloud.off_meshes import Mesh, triangle_areas


def area(surfaces: list[meshes.Surface]) -> float:
    return sum(float(triangle_areas(Mesh(*surface)).sum()) for surface in surfaces)


def rng(*seed: int | str) -> np.random.Generator:
    return random_generator("test", *seed)


def test_areas_by_hand() -> None:
    assert area(meshes.box((1, 2, 3), (5, 5, 5), rng())) == pytest.approx(2 * (2 + 3 + 6))
    cylinder = meshes.revolved([(0, 0), (0.5, 0), (0.5, 2), (0, 2)], 1.0, rng())
    assert area([cylinder]) == pytest.approx(2 * np.pi * 0.25 + 2 * np.pi * 0.5 * 2, rel=0.05)
    ring = meshes.handle((0, 0, 0), 1.0, 2.0, 0.1)
    assert area([ring]) == pytest.approx(np.pi * np.pi * 0.1, rel=0.1)
    assert ring[0][:, 0].max() == pytest.approx(1.05, abs=0.01)
    assert ring[0][:, 0].min() > -0.06


def test_tessellation_is_of_random_density_the_surface_is_not() -> None:
    boxes = [meshes.box((1, 1, 1), (0, 0, 0), rng(i)) for i in range(5)]
    assert len({sum(len(vertices) for vertices, _ in one) for one in boxes}) > 1
    assert [area(one) for one in boxes] == pytest.approx([6] * 5)


@pytest.mark.parametrize("name", meshes.CLASSES)
def test_things_are_whole_and_repeatable(name: str) -> None:
    one, two = meshes.thing(name, rng(name, 1)), meshes.thing(name, rng(name, 1))
    assert np.array_equal(one.vertices, two.vertices)
    assert not np.array_equal(one.vertices.shape, meshes.thing(name, rng(name, 2)).vertices.shape)
    assert one.faces.min() == 0
    assert one.faces.max() == len(one.vertices) - 1
    assert len(one.part) == len(one.faces)
    assert set(one.part) == set(range(len(one.parts)))
    assert np.isfinite(one.vertices).all()
    assert 80 < len(one.faces) < 4000


@pytest.mark.parametrize(
    ("plain", "fine", "extra"),
    [("bowl", "cup", "handle"), ("chair", "bench", "arm")],
)
def test_a_pair_differs_in_a_small_part(plain: str, fine: str, extra: str) -> None:
    shares = []
    for number in range(6):
        thing = meshes.thing(fine, rng(fine, number))
        assert set(thing.parts) - set(meshes.thing(plain, rng(plain, number)).parts) == {extra}
        areas = triangle_areas(Mesh(thing.vertices, thing.faces))
        shares.append(areas[thing.part == thing.parts.index(extra)].sum() / areas.sum())
    assert min(shares) > 0.01
    assert max(shares) < 0.3


def test_bounding_boxes_do_not_tell_pairs_apart() -> None:
    """The ranges of height over width overlap in every pair."""
    ratios = {}
    for name in meshes.CLASSES:
        sides = [np.ptp(meshes.thing(name, rng(name, number)).vertices, axis=0) for number in range(15)]
        ratios[name] = [side[2] / side[:2].max() for side in sides]
    for one, two in (("bowl", "cup"), ("table", "stool"), ("chair", "bench"), ("bottle", "vase")):
        assert max(min(ratios[one]), min(ratios[two])) < min(np.median(ratios[one]), np.median(ratios[two]))
