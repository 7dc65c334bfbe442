"""Rendered cars, aircraft and organisms: shapes, boxes, what tells classes apart, the same bytes each time."""

from __future__ import annotations

import numpy as np

from datamodules.base import random_generator
from datamodules.miniature.fine_classes import BANNER, aircraft, car, organism


def test_a_car_fills_its_box() -> None:
    shown = car(random_generator("car"), 64, cabin=0.2, windows=2, spokes=5)
    x, y, width, height = shown.box
    assert shown.picture.shape == (64, 64, 3)
    assert 0 <= x < x + width <= 64
    assert 0 <= y < y + height <= 64
    assert width > height > 8
    again = car(random_generator("car"), 64, cabin=0.2, windows=2, spokes=5)
    assert np.array_equal(shown.picture, again.picture)


def test_classes_differ_in_small_places_only() -> None:
    cars = [car(random_generator("c"), 64, cabin=0.2, windows=count, spokes=5).picture for count in (1, 3)]
    planes = [
        aircraft(random_generator("p"), 64, sweep=0.3, engines=count, high_tail=False) for count in (1, 2)
    ]
    animals = [
        organism(random_generator("o"), 64, body="disc", mark=mark, pattern="plain")
        for mark in ("disc", "cross")
    ]
    for first, second in (cars, planes, animals):
        share = (abs(first - second).max(-1) > 0.15).mean()
        assert 0.0005 < share < 0.2


def test_the_banner_is_the_last_rows() -> None:
    shown = aircraft(random_generator("p"), 48, sweep=0.0, engines=2, high_tail=True)
    assert shown.shape == (48 + BANNER, 48, 3)
    assert (shown[-1] == 0.95).all()
