"""The miniature's silhouettes: filling by area, maps as announced, the same bytes again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from datamodules.base import random_generator
from datamodules.miniature.affine_shapes import (
    PERSPECTIVE,
    RATIO,
    affine,
    bent,
    drawn,
    figure,
    fill,
    holes,
    mapped_by,
    part_apart,
    save_silhouette,
    similarity,
)


def test_filling_is_by_area() -> None:
    square = np.array([[2.0, 1.0], [6.0, 1.0], [6.0, 4.0], [2.0, 4.0]])
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:6] = True
    np.testing.assert_array_equal(fill([square], 6, 8), expected)
    np.testing.assert_array_equal(fill([square + 0.2], 6, 8), expected)
    hole = np.array([[3.0, 2.0], [5.0, 2.0], [5.0, 3.0], [3.0, 3.0]])
    expected[2, 3:5] = False
    np.testing.assert_array_equal(fill([square, hole], 6, 8), expected)


def test_area_of_a_disc() -> None:
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    disc = fill([50 + 40 * np.stack([np.cos(angle), np.sin(angle)], 1)], 100, 100)
    # A sample on the edge counts as inside, which is an eighth of a pixel all around.
    assert disc.sum() == pytest.approx(np.pi * 40.125**2, rel=0.003)
    np.testing.assert_array_equal(disc, disc.T)


def test_views_are_as_announced() -> None:
    ratios, signs = [], []
    for number in range(200):
        view = affine(random_generator("test", number))
        values = np.linalg.svd(view[:2, :2], compute_uv=False)
        ratios.append(values[1] / values[0])
        signs.append(np.linalg.det(view[:2, :2]) < 0)
        assert np.abs(view[2, :2]).max() <= PERSPECTIVE
    assert RATIO <= min(ratios) < RATIO + 0.05
    assert max(ratios) > 0.95
    assert 0.35 < np.mean(signs) < 0.65
    turn = similarity(random_generator("test"))[:2, :2]
    np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-12)


def test_homographies_by_hand() -> None:
    view = np.array([[2.0, 0, 0], [0, 1, 0], [0.5, 0, 1]])
    np.testing.assert_allclose(mapped_by(view, np.array([[2.0, 3.0]])), [[4 / 2, 3 / 2]])


def test_regions_have_holes_and_a_part_apart() -> None:
    holed = apart = 0
    for number in range(20):
        generator = random_generator("region", number)
        outline = figure(generator, number)
        contours = [*outline, *part_apart(generator, outline), *holes(generator, outline)]
        shape = drawn(contours, similarity(generator), generator)
        apart += label(shape)[1] >= 2
        holed += label(~shape)[1] >= 2
    assert apart >= 18
    assert holed >= 18


def test_bending_moves_a_little() -> None:
    outline = figure(random_generator("bend"), 0)
    moved = bent(random_generator("bend", 1), outline, 0.05)
    distance = np.hypot(*(moved[0] - outline[0]).T)
    assert 0 < distance.mean() < 0.15


@pytest.mark.parametrize("look", ["plain", "indexed", "inverted"])
def test_looks_hold_the_same_shape(tmp_path: Path, look: str) -> None:
    shape = drawn(figure(random_generator("look"), 1), np.eye(3), random_generator("look", 1))
    save_silhouette(shape, tmp_path / "a.png", look)
    save_silhouette(shape, tmp_path / "b.png", look)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    light = np.asarray(Image.open(tmp_path / "a.png").convert("L")) >= 128
    np.testing.assert_array_equal(light != (look == "inverted"), shape)
