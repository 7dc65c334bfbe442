"""Rendered faces: always the same, look-alikes from afar, told apart up close."""

from __future__ import annotations

import numpy as np

from datamodules.miniature.faces import LOOKS, draw_faces, people


def test_the_same_each_time_and_other_for_other_seeds() -> None:
    persons = np.array([0, 1, 1])
    first, masks = draw_faces(people(3, "a"), persons, 40, 32, "a")
    again, _ = draw_faces(people(3, "a"), persons, 40, 32, "a")
    other, _ = draw_faces(people(3, "a"), persons, 40, 32, "b")
    assert first.shape == (3, 40, 32, 3)
    assert first.dtype == np.uint8
    assert masks.shape == (3, 40, 32)
    assert (first == again).all()
    assert (first != other).any()
    assert (first[1] != first[2]).any()  # one person, two pictures


def test_look_alikes_share_coarse_traits_only() -> None:
    traits = people(2 * LOOKS, "a").traits
    for name in ("skin", "hair", "width"):
        assert (traits[name][:LOOKS] == traits[name][LOOKS:]).all()
    fine = np.stack([traits[name] for name in ("brow_slant", "lip_width", "iris_size", "strands")])
    assert (fine[:, :LOOKS] != fine[:, LOOKS:]).all()


def test_about_as_many_pictures_hide_a_region_as_stated() -> None:
    _, masks = draw_faces(people(1, "a"), np.zeros(300, np.int64), 32, 32, "a")
    share = masks.reshape(300, -1).any(axis=1).mean()
    assert 0.5 < share < 0.7
    assert masks.mean() < 0.12
