"""Flowers-102: .mat files as published, splits by picture number, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from datamodules.base import DataError
from datamodules.recognition.flowers102 import Flowers102


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Six pictures (empty files) of three classes in the published layout, numbers not in order."""
    (tmp_path / "jpg").mkdir()
    for number in range(1, 7):
        (tmp_path / "jpg" / f"image_{number:05d}.jpg").touch()
    savemat(tmp_path / "imagelabels.mat", {"labels": np.uint8([[3, 1, 2, 2, 3, 1]])})
    savemat(tmp_path / "setid.mat", {"trnid": [[6, 1]], "valid": [[4]], "tstid": [[2, 5, 3]]})
    return tmp_path


def test_splits_by_picture_number(fake: Path) -> None:
    data = Flowers102(fake, "real")
    data.prepare_data()
    assert data.classes == ("class_00001", "class_00002", "class_00003")
    assert [(item.id, item.values["label"]) for item in data.listing("train")] == [
        ("image_00006", 0),
        ("image_00001", 2),
        ("image_00004", 1),
    ]
    assert [item.values["label"] for item in data.listing("test")] == [0, 2, 1]


def test_holdout_takes_the_published_validation_first(fake: Path) -> None:
    data = Flowers102(fake, "real", holdout=1)
    assert [item.id for item in data.listing("val")] == ["image_00004"]
    assert [item.id for item in data.listing("train")] == ["image_00006", "image_00001"]


def test_miniature(cache: Path) -> None:
    data = Flowers102(cache=cache)
    assert len(data.spec.classes) == 20
    assert data.verify() == []
    train, test = data.listing("train"), data.listing("test")
    assert (len(train), len(test)) == (400, 400)
    assert np.bincount([item.values["label"] for item in test]).tolist() == [20] * 20
    assert len(Flowers102(cache=cache, holdout=200).listing("val")) == 200
    assert data.split("test")[3]["image"].shape == (3, 64, 64)


def test_miniature_is_the_same_bytes(tmp_path: Path, cache: Path) -> None:
    data = Flowers102(cache=cache)
    data.prepare_data()
    Flowers102.render(tmp_path)
    for name in ("setid.mat", "imagelabels.mat", "jpg/image_00017.jpg"):
        assert (tmp_path / name).read_bytes() == (data.root / name).read_bytes()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("setid.mat", {"trnid": [[1]], "valid": [[2]]}, "has no 'tstid'"),
        ("setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[9]]}, "9, but imagelabels.mat has 6"),
        ("imagelabels.mat", {"labels": [[1, 2], [3, 4]]}, "one row of numbers"),
        ("imagelabels.mat", {"labels": [[0, 1, 2, 2, 1, 1]]}, "count from 1"),
    ],
)
def test_wrong_contents_are_named(fake: Path, file: str, content: dict, message: str) -> None:
    savemat(fake / file, content)
    with pytest.raises(DataError, match=rf"(?s)mat.*{message}"):
        Flowers102(fake, "real").listing("test")


def test_truncated_file_is_named(fake: Path) -> None:
    written = (fake / "setid.mat").read_bytes()
    (fake / "setid.mat").write_bytes(written[:150])
    with pytest.raises(DataError, match=r"setid\.mat"):
        Flowers102(fake, "real").listing("test")
