"""The renderer of part arrangements: distinct classes of equal parts, two modes, a fifth outliers."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.base import random_generator
from datamodules.miniature.part_arrangements import arrangements, draw_class


def test_no_arrangement_is_a_shift_of_another() -> None:
    places = arrangements(100, random_generator("test"))
    settled = set()
    for where in places:
        cells = np.array(where)
        assert len({tuple(cell) for cell in where}) == 4
        assert cells.min() >= 0
        assert cells.max() <= 2
        settled.add(tuple(map(tuple, cells - cells.min(0))))
    assert len(settled) == 100
    with pytest.raises(ValueError, match="arrangements, not"):
        arrangements(10_000, random_generator("test"))


def test_pictures_are_reproducible_with_two_modes_and_a_fifth_outliers() -> None:
    where = arrangements(1, random_generator("one"))[0]
    pictures, odd = draw_class(where, 40, random_generator("class"), size=32)
    again, _ = draw_class(where, 40, random_generator("class"), size=32)
    assert pictures.shape == (40, 32, 32, 3)
    assert pictures.dtype == np.uint8
    assert (pictures == again).all()
    assert odd.sum() == 8
    assert not draw_class(where, 40, random_generator("class"), size=32, outliers=False)[1].any()
    corner = pictures[~odd, :2, :2].mean(axis=(1, 2, 3))
    dark = corner < 115
    assert 12 <= dark.sum() <= 20  # half of the forty, less outliers


def test_all_classes_hold_as_much_of_the_parts() -> None:
    """Without nuisance of shift the inked area depends on the mode, not on the class."""
    shares = []
    for number, where in enumerate(arrangements(6, random_generator("six"))):
        pictures, _ = draw_class(where, 40, random_generator("area", number), size=48, outliers=False)
        grey = pictures.mean(axis=3)
        ground = np.median(grey, axis=(1, 2), keepdims=True)
        shares.append(float((np.abs(grey - ground) > 40).mean()))
    assert min(shares) > 0.05
    assert max(shares) < 1.25 * min(shares)
