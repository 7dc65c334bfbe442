"""SUN Attribute for zero-shot learning: class means of the pictures' attributes, disagreeing files, the miniature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.base import DataError
from datamodules.recognition.sun_zsl import SUNZeroShot
from datamodules.recognition.zero_shot_images import ProposedSplit, save_mat, string_cell

FILES = ("a/abbey/sun_1.jpg", "a/abbey/sun_2.jpg", "h/hotel/outdoor/sun_3.jpg")
PROPOSED = ProposedSplit(("abbey", "hotel_outdoor"), FILES, np.array([0, 0, 1]), {})


def write(folder: Path, pictures: list[str], share: np.ndarray) -> None:
    base = folder / "SUNAttributeDB"
    base.mkdir(exist_ok=True)
    save_mat(base / "images.mat", {"images": string_cell(pictures)})
    save_mat(base / "attributes.mat", {"attributes": string_cell(["open", "cold"])})
    save_mat(base / "attributeLabels_continuous.mat", {"labels_cv": share})


def test_a_class_has_the_mean_of_its_pictures(tmp_path: Path) -> None:
    write(tmp_path, list(reversed(FILES)), np.array([[0.0, 1.0], [1 / 3, 0.0], [1.0, 0.0]]))
    found = SUNZeroShot(tmp_path, "real").semantics(PROPOSED)
    assert found.attributes == ("open", "cold")
    np.testing.assert_allclose(found.values, [[2 / 3, 0], [0, 1]])
    assert found.present is None


def test_wrong_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, list(FILES), np.zeros((3, 3)))
    with pytest.raises(DataError, match=r"labels_cv must be 3 pictures x 2 attributes, got \(3, 3\)"):
        SUNZeroShot(tmp_path, "real").semantics(PROPOSED)
    write(tmp_path, ["a/abbey/sun_1.jpg"], np.zeros((1, 2)))
    with pytest.raises(DataError, match=r"images\.mat has no .a/abbey/sun_2\.jpg"):
        SUNZeroShot(tmp_path, "real").semantics(PROPOSED)
    empty = ProposedSplit(("abbey", "zoo"), FILES[:2], np.array([0, 0]), {})
    write(tmp_path, list(FILES), np.zeros((3, 2)))
    with pytest.raises(DataError, match="no picture of 'zoo'"):
        SUNZeroShot(tmp_path, "real").semantics(empty)


def test_miniature(cache: Path) -> None:
    data = SUNZeroShot(cache=cache)
    spec = data.spec
    assert data.verify() == []
    assert (spec.seen, len(spec.classes), len(spec.attributes), spec.parts) == (10, 14, 11, ())
    # One ground and two kinds of things a class, as most of the workers saw.
    assert {sum(value > 0.5 for value in row) for row in spec.values} == {3}
    assert data.split("train")[0]["image"].shape == (3, 56, 56)
