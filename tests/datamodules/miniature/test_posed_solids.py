"""The renderer of small solids: half-spaces by hand, hiding, a slow ray by ray reference, what classes share."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.base import random_generator
from datamodules.miniature.posed_solids import (
    HOUSEHOLD,
    VEHICLES,
    VIEW,
    Solid,
    box,
    camera,
    disc,
    household,
    moved,
    prism,
    shoot,
    side_view,
    texture,
    vehicle,
)

RED, GREEN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
BLACK = np.zeros((32, 32, 3), np.float32)


def holds(solid: Solid, point: tuple[float, float, float]) -> bool:
    return bool((solid.normals @ np.array(point) <= solid.offsets + 1e-6).all())


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_a_prism_holds_its_inside_along_every_axis(axis: str) -> None:
    triangle = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]
    solid = prism(triangle, axis, -1.0, 1.0, RED)
    np.testing.assert_allclose(np.linalg.norm(solid.normals, axis=1), 1, atol=1e-6)
    along = "xyz".index(axis)

    def point(first: float, second: float, third: float) -> tuple[float, float, float]:
        values = [0.0, 0.0, 0.0]
        values[(along + 1) % 3], values[(along + 2) % 3], values[along] = first, second, third
        return tuple(values)

    assert holds(solid, point(0.25, 0.25, 0.9))
    assert not holds(solid, point(0.6, 0.6, 0.0))
    assert not holds(solid, point(0.25, 0.25, 1.1))
    assert all(holds(solid, tuple(corner)) for corner in solid.corners)


def test_side_view_box_disc_and_moved() -> None:
    wedge = side_view([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)], 0.5, RED)
    assert holds(wedge, (0.9, 0.4, 0.5))
    assert not holds(wedge, (0.1, 0.0, 0.5))
    assert holds(moved(wedge, (1.0, 2.0, 3.0)), (1.9, 2.4, 3.5))
    wheel = disc("y", (0.5, 1.0), 0.5, 0.0, 0.2, RED)  # centre at z 0.5, x 1
    assert holds(wheel, (1.0, 0.1, 0.95))
    assert not holds(wheel, (1.0, 0.3, 0.5))
    assert holds(box((0, 1), (2, 3), (4, 5), RED), (0.5, 2.5, 4.5))


def test_a_cube_from_the_side_is_a_square_of_its_size_and_the_nearer_solid_hides_the_other() -> None:
    cube = box((-0.5, 0.5), (-0.5, 0.5), (-0.5, 0.5), RED)
    shot = shoot([cube], 0.0, 0.0, 32, BLACK)
    side = round(32 * 0.5 / VIEW)
    assert abs(shot.mask.sum() - side**2) <= 2 * side
    assert shot.picture[16, 16, 0] > 0
    assert shot.picture[0, 0].sum() == 0
    behind = box((-2.0, -1.5), (-0.9, 0.9), (-0.9, 0.9), GREEN)
    front, back = shoot([cube, behind], 0.0, 0.0, 32, BLACK), shoot([cube, behind], 180.0, 0.0, 32, BLACK)
    assert front.picture[16, 16].argmax() == 0
    assert back.picture[16, 16].argmax() == 1
    assert front.mask.sum() == back.mask.sum() > shot.mask.sum()


def test_camera_axes_are_orthonormal_and_look_where_they_say() -> None:
    axes = camera(90.0, 0.0)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(axes[2], [0, 1, 0], atol=1e-12)  # the left side faces the camera
    np.testing.assert_allclose(camera(0.0, 90.0)[2], [0, 0, 1], atol=1e-12)


def test_rendering_agrees_with_single_rays() -> None:
    solids = vehicle("tank", random_generator("reference"))
    size, yaw, elevation = 24, 33.0, 25.0
    shot = shoot(solids, yaw, elevation, size, BLACK[:size, :size])
    right, up, towards = camera(yaw, elevation)
    steps = np.linspace(2.5, -2.5, 2001)
    across = ((np.arange(size) + 0.5) / size * 2 - 1) * VIEW
    wrong = 0
    for row in range(0, size, 3):
        for column in range(0, size, 3):
            ray = across[column] * right - across[row] * up + steps[:, None] * towards
            inside = [((ray @ s.normals.T) <= s.offsets).all(1) for s in solids]
            wrong += bool(np.any(inside)) != shot.mask[row, column]
            first = [each.argmax() if each.any() else 9999 for each in inside]
            if shot.mask[row, column] and min(first) < 9999:
                colour = np.array(solids[int(np.argmin(first))].colour)
                seen = shot.picture[row, column]
                wrong += not np.allclose(seen / seen.max(), colour / colour.max(), atol=1e-3)
    assert wrong <= 1  # a step of the slow ray may jump over a corner


@pytest.mark.parametrize("kind", [*VEHICLES, *HOUSEHOLD])
def test_objects_are_in_view_from_all_sides_and_repeat(kind: str) -> None:
    make = vehicle if kind in VEHICLES else household
    solids = make(kind, random_generator("seen", kind))
    again = make(kind, random_generator("seen", kind))
    masks = []
    for yaw in (45.0, 90.0, 180.0):
        shot = shoot(solids, yaw, 20.0, 32, BLACK)
        np.testing.assert_array_equal(shot.picture, shoot(again, yaw, 20.0, 32, BLACK).picture)
        border = np.concatenate([shot.mask[0], shot.mask[-1], shot.mask[:, 0], shot.mask[:, -1]])
        assert not border.any()
        assert 8 < shot.mask.sum() < 0.6 * shot.mask.size
        masks.append(shot.mask)
    assert (masks[1] != masks[2]).any()


def test_colours_are_of_the_instance_not_of_the_class() -> None:
    colours = {
        kind: np.array([vehicle(kind, random_generator("paint", i))[0].colour for i in range(3)])
        for kind in ("van", "bus", "car")
    }
    np.testing.assert_array_equal(colours["van"], colours["bus"])
    np.testing.assert_array_equal(colours["van"], colours["car"])
    assert np.abs(colours["van"][0] - colours["van"][1]).max() > 0.1
    picture = texture(random_generator("ground"), 32)
    assert picture.shape == (32, 32, 3)
    assert 0 <= picture.min() < picture.max() <= 1
