"""The renderer of distinct objects: pictures in range, the class in the picture, the same bytes every time."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from datamodules.base import random_generator
from datamodules.miniature.objects import (
    SILHOUETTES,
    TEXTURES,
    World,
    bird,
    flower,
    paint,
    placed,
    places,
    plane,
    save_jpeg,
    scene,
    silhouette,
    texture,
    view,
    vocabulary,
)


def test_plane_holds_pixel_centres() -> None:
    x, y = plane(4)
    np.testing.assert_allclose(x[0], [-0.75, -0.25, 0.25, 0.75])
    np.testing.assert_allclose(y, x.T)


def test_placed_moves_scales_and_turns() -> None:
    u, v = placed(np.array([2.0]), np.array([1.0]), (1.0, 1.0), 0.5, np.pi / 2)
    # One to the right of the centre is two units along, and a quarter turn brings it to -y.
    np.testing.assert_allclose([u[0], v[0]], [0.0, -2.0], atol=1e-12)


def test_paint_covers_exactly_the_inside() -> None:
    picture = np.zeros((32, 32, 3))
    x, y = plane(32)
    paint(picture, np.hypot(x, y) - 0.5, np.array([1.0, 0.5, 0.0]))
    assert picture[16, 16].tolist() == [1.0, 0.5, 0.0]
    assert picture[0, 0].tolist() == [0.0, 0.0, 0.0]
    assert picture[..., 0].sum() == pytest.approx(np.pi * 8**2, rel=0.02)  # a disc of 8 pixels, edges soft


def test_silhouettes_and_textures_differ() -> None:
    x, y = plane(64)
    masks = [silhouette(kind, x, y) < 0 for kind in SILHOUETTES]
    for i, first in enumerate(masks):
        assert 0.1 < first.mean() < 0.8
        for second in masks[i + 1 :]:
            assert (first != second).mean() > 0.05
    patterns = [texture(kind, x, y, 0.5) for kind in TEXTURES]
    assert all(pattern.min() >= 0 and pattern.max() <= 1 for pattern in patterns)
    assert all(abs(a - b).mean() > 0.1 for i, a in enumerate(patterns) for b in patterns[i + 1 :])
    with pytest.raises(ValueError, match="none of"):
        silhouette("blob", x, y)
    with pytest.raises(ValueError, match="none of"):
        texture("fur", x, y, 1.0)


def test_pictures_depend_on_the_seed_alone() -> None:
    def draw(seed: int) -> list[np.ndarray]:
        generator = random_generator("objects", seed)
        return [
            scene(generator, 32, ground="checks", things=("disc", "star")),
            flower(generator, 32, petals=5, petal_hue=0.1, centre_hue=0.6, pointed=True),
            bird(generator, 48, mark="ring", stripes=3).picture,
        ]

    for first, again, other in zip(draw(0), draw(0), draw(1), strict=True):
        np.testing.assert_array_equal(first, again)
        assert abs(first - other).mean() > 0.05
        assert first.std() > 0.05


def test_flower_has_as_many_petals_as_asked() -> None:
    generator = random_generator("petals")
    for petals in (4, 7):
        picture = flower(generator, 96, petals=petals, petal_hue=0.98, centre_hue=0.6, pointed=True)
        red = (picture[..., 0] > 0.45) & (picture[..., 1] < 0.5 * picture[..., 0])
        x, y = plane(96)
        centre = x[red].mean(), y[red].mean()
        radius = np.hypot(x - centre[0], y - centre[1])
        angle = np.arctan2(y - centre[1], x - centre[0])
        ring = red & (abs(radius - 0.75 * radius[red].max()) < 0.06)
        counts = np.histogram(angle[ring], 72, (-np.pi, np.pi))[0]
        spectrum = abs(np.fft.rfft(counts))
        assert spectrum[2:12].argmax() + 2 == petals


def test_bird_box_holds_its_parts() -> None:
    for seed in range(10):
        drawn = bird(random_generator("bird", seed), 96, mark="cross", stripes=7)
        x, y, width, height = drawn.box
        assert width > 20
        assert height > 15
        assert x >= 0
        assert y >= 0
        assert x + width <= 96
        assert y + height <= 96
        px, py = drawn.parts["body"]
        assert x < px < x + width
        assert y < py < y + height


def test_views_of_a_world_are_alike_and_different() -> None:
    things = vocabulary(6, "views")
    assert len({(thing.kind, thing.pattern, thing.hue) for thing in things}) == 6
    assert things[0].hue == things[1].hue
    worlds = [World(("views", i), [(things[i], (0.0, 0.0, 0.6))]) for i in range(2)]
    front = [view(random_generator("front"), 64, world, strength=0.0, turn=0.0) for world in worlds]
    again = view(random_generator("other noise"), 64, worlds[0], strength=0.0, turn=0.0)
    moved = view(random_generator("moved"), 64, worlds[0])
    assert abs(front[0] - again).mean() < 0.05  # noise alone
    assert abs(front[0] - moved).mean() > 0.05
    assert abs(front[0] - front[1]).mean() > 0.1


def test_places_hardly_overlap() -> None:
    spots = places(5, "places")
    distances = [np.hypot(a[0] - b[0], a[1] - b[1]) for i, a in enumerate(spots) for b in spots[i + 1 :]]
    assert len(spots) == 5
    assert min(distances) > 0.35


def test_save_jpeg_makes_folders_and_grey(tmp_path) -> None:
    save_jpeg(np.full((8, 10), 0.5), tmp_path / "a" / "b.jpg")
    with Image.open(tmp_path / "a" / "b.jpg") as file:
        assert file.mode == "L"
        assert file.size == (10, 8)
        assert abs(int(np.asarray(file)[0, 0]) - 128) <= 1
