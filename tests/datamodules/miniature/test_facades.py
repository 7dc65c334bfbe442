"""Rendered landmarks: look-alikes, difficulty, boxes, the same bytes each time."""

from __future__ import annotations

import numpy as np

from datamodules.base import random_generator
from datamodules.miniature.facades import facade, photograph


def test_a_lookalike_differs_in_windows_and_ornament_alone() -> None:
    for number in range(10):
        own = facade(random_generator("facade", number))
        other = own.lookalike(random_generator("other", number))
        assert other.window != own.window
        assert other.ornament != own.ornament
        kept = ("hue", "rows", "columns", "roof", "masonry")
        assert [getattr(other, name) for name in kept] == [getattr(own, name) for name in kept]


def test_views_are_deterministic_and_harder_ones_vary_more() -> None:
    own = facade(random_generator("facade"))
    spread = {}
    for difficulty in ("easy", "hard"):
        views = [photograph(random_generator("view", i), 48, own, difficulty) for i in range(12)]
        spread[difficulty] = np.std([view.picture for view in views], axis=0).mean()
        for view in views:
            x1, y1, x2, y2 = view.box
            assert 0 <= x1 < x2 <= 48
            assert 0 <= y1 < y2 <= 48
    assert spread["hard"] > 1.1 * spread["easy"]
    first, again = (photograph(random_generator("view"), 48, own, "junk").picture for _ in range(2))
    assert np.array_equal(first, again)
