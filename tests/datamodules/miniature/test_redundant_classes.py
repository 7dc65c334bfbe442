"""Three codes of a class, each where it should be, and none but the outline shared by look-alikes."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.base import random_generator
from datamodules.miniature.redundant_classes import CLASSES, Contrast, redundant_picture

ONLY = {
    "outline": Contrast(outline=0.2, grain=0, mark=0, faintest=1, noise=0),
    "grain": Contrast(outline=0, grain=0.3, mark=0, faintest=1, noise=0),
    "mark": Contrast(outline=0, grain=0, mark=0.2, faintest=1, noise=0),
}
BLANK = Contrast(outline=0, grain=0, mark=0, faintest=1, noise=0)


def mean_code(label: int, code: str, pictures: int = 24) -> np.ndarray:
    """Mean brightness that one code adds to pictures of a class, [48, 48]."""
    total = np.zeros((48, 48))
    for number in range(pictures):
        # The same chance with the code and without it.
        with_code, without = (
            redundant_picture(random_generator("code", number), label, contrast=contrast)
            for contrast in (ONLY[code], BLANK)
        )
        total += (with_code - without).mean(2)
    return total / pictures


def test_ten_classes_in_pairs_of_look_alikes() -> None:
    assert len(CLASSES) == 10
    assert CLASSES[:3] == ("disc_a", "disc_b", "square_a")
    for first in range(0, 10, 2):
        np.testing.assert_allclose(mean_code(first, "outline"), mean_code(first + 1, "outline"), atol=1e-9)


@pytest.mark.parametrize("label", [0, 3, 7])
def test_mark_lies_at_the_classes_place_in_the_surroundings(label: int) -> None:
    code = mean_code(label, "mark")
    y, x = np.unravel_index(code.argmax(), code.shape)
    angle = 2 * np.pi * label / 10
    assert abs(x - (23.5 + 0.82 * 24 * np.cos(angle))) < 4
    assert abs(y - (23.5 + 0.82 * 24 * np.sin(angle))) < 4
    assert abs(code[18:30, 18:30]).max() < 1e-9


def test_outline_and_texture_lie_in_the_centre() -> None:
    assert mean_code(0, "outline")[20:28, 20:28].min() > 0.15
    for code in ("outline", "grain"):
        ring = mean_code(4, code)
        assert abs(ring[[0, -1]]).max() < 1e-9
        assert abs(ring[:, [0, -1]]).max() < 1e-9


def test_textures_of_look_alikes_differ() -> None:
    """Not by more than their contrast, and clearly more than pictures of one class do after the mean is taken."""
    contrast = ONLY["grain"]
    for first in range(0, 10, 2):
        a, b = (
            redundant_picture(random_generator("one", first), label, contrast=contrast)
            for label in (first, first + 1)
        )
        assert 0.05 < np.abs(a - b).max() <= 0.3 + 1e-9


def test_pictures_follow_the_generator() -> None:
    one, same, other = (redundant_picture(random_generator("x", seed), 5) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert np.abs(one - other).max() > 0.05
    assert one.shape == (48, 48, 3)
