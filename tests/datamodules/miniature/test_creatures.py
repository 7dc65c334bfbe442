"""Rendered creatures: classes of looks, colours that tell little, parts where they are said to be, noisy clicks."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.base import random_generator
from datamodules.miniature.creatures import (
    LOOKS,
    PARTS,
    attribute_names,
    combinations,
    creature,
    indicators,
    worker_clicks,
)

BLUE_HEAD = next(look for look in range(LOOKS) if attribute_names()[look].startswith("has_head::blue"))


def test_classes_are_combinations_of_looks_far_apart() -> None:
    classes = combinations(30, random_generator("test"))
    assert len(set(classes)) == 30
    distance = (np.array(classes)[:, None] != np.array(classes)).sum(-1)
    assert distance[~np.eye(30, dtype=bool)].min() >= 3
    present = np.stack([indicators(looks) for looks in classes])
    assert present.shape == (30, 24)
    assert (present.sum(1) == len(PARTS)).all()
    assert present.reshape(30, 6, 4).sum(2).max() == 1


def test_every_part_has_every_colour_once() -> None:
    names = attribute_names()
    assert len(set(names)) == 24
    for part in range(6):
        colours = {name.split("::")[1].split("_")[0] for name in names[4 * part : 4 * part + 4]}
        assert len(colours) == 4


def test_a_part_lies_where_it_is_said_to_and_has_its_colour() -> None:
    hits = 0
    for index in range(20):
        drawn = creature(random_generator("test", index), (BLUE_HEAD, 0, 0, 0, 0, 0))
        assert drawn.picture.shape == (64, 80, 3)
        if "head" in drawn.hidden:
            continue
        x, y = drawn.parts["head"]
        red, green, blue = drawn.picture[int(y), int(x)]
        hits += blue > 1.3 * max(red, green)
    assert hits >= 14


def test_the_creature_covers_a_quarter_to_half_of_the_picture() -> None:
    shares = []
    for index in range(30):
        x, y, width, height = creature(random_generator("size", index), (0,) * 6).box
        assert x >= 0
        assert y >= 0
        assert x + width <= 80
        assert y + height <= 64
        shares.append(width * height / (64 * 80))
    assert 0.15 < min(shares) < max(shares) < 0.7


def test_same_seed_same_picture_and_none_too_high() -> None:
    pictures = [creature(random_generator("same"), (1,) * 6).picture for _ in range(2)]
    assert np.array_equal(*pictures)
    with pytest.raises(ValueError, match="at least as wide as high"):
        creature(random_generator("x"), (0,) * 6, size=(80, 64))


def test_workers_click_near_visible_parts_and_nowhere_on_hidden_ones() -> None:
    for index in range(20):
        drawn = creature(random_generator("clicks", index), (2,) * 6)
        clicks = worker_clicks(random_generator("workers", index), drawn)
        assert len(clicks) == 30
        for part, x, y, visible in clicks:
            if PARTS[part] in drawn.hidden:
                assert (x, y, visible) == (0, 0, 0)
            if visible:
                assert np.hypot(x - drawn.parts[PARTS[part]][0], y - drawn.parts[PARTS[part]][1]) < 8
