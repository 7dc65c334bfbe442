"""FGVC-Aircraft: lists, the banner, boxes, the published validation list, broken files, the miniature."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.base import DataError
from datamodules.recognition.fgvc_aircraft import FGVCAircraft

LISTS = {
    "variants.txt": "707-320\nA300B4\n",
    "images_variant_train.txt": "0000001 707-320\n",
    "images_variant_val.txt": "0000002 A300B4\n",
    "images_variant_trainval.txt": "0000001 707-320\n0000002 A300B4\n",
    "images_variant_test.txt": "0000003 A300B4\n",
    "images_box.txt": "0000001 1 1 10 10\n0000002 11 21 30 40\n0000003 1 1 40 40\n",
}


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    (data / "images").mkdir(parents=True)
    for name, text in LISTS.items():
        (data / name).write_text(text)
    pixels = np.zeros((60, 40, 3), np.uint8)
    pixels[40:] = 255  # the banner
    for number in (1, 2, 3):
        Image.fromarray(pixels).save(data / "images" / f"{number:07d}.jpg", quality=100)
    return data


def test_lists_boxes_and_the_banner(fake: Path) -> None:
    data = FGVCAircraft(fake.parents[1], "real", image_size=40)
    data.prepare_data()
    assert data.spec.classes == ("707-320", "A300B4")
    assert [item.values["label"] for item in data.listing("train")] == [0, 1]
    sample = data.split("train")[1]
    assert sample["image"].shape == (3, 40, 40)
    assert sample["image"].max() < 0.1  # nothing of the banner
    assert sample["box"].tolist() == [10.0, 20.0, 30.0, 40.0]
    (test,) = data.listing("test")
    assert test.id == "0000003"


def test_boxes_may_be_absent(fake: Path) -> None:
    (fake / "images_box.txt").unlink()
    data = FGVCAircraft(fake.parents[1], "real", image_size=40)
    assert "box" not in data.split("test")[0]


def test_the_published_validation_pictures_are_held_out_first(fake: Path) -> None:
    data = FGVCAircraft(fake.parents[1], "real", holdout=1)
    assert [item.id for item in data.listing("val")] == ["0000002"]
    assert [item.id for item in data.listing("train")] == ["0000001"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("images_variant_test.txt", "0000003 Spitfire\n", "line 1: 'Spitfire' is no variant"),
        ("images_box.txt", "0000003 1 1 40\n", "line 1: expected a number and x1"),
        ("images_box.txt", "0000001 1 1 40 40\n", "no box of picture 0000003"),
    ],
)
def test_broken_lists_are_named(fake: Path, file: str, text: str, message: str) -> None:
    (fake / file).write_text(text)
    with pytest.raises(DataError, match=rf"(?s){file}.*{message}"):
        FGVCAircraft(fake.parents[1], "real").listing("test")


def test_broken_pictures_are_named(fake: Path) -> None:
    picture = fake / "images" / "0000003.jpg"
    Image.new("RGB", (40, 20)).save(picture)
    data = FGVCAircraft(fake.parents[1], "real", image_size=40)
    with pytest.raises(DataError, match=r"0000003\.jpg: 20 rows leave nothing above the banner"):
        data.split("test")[0]
    picture.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0000003\.jpg: cannot be read as a picture"):
        data.split("test")[0]
    picture.unlink()
    with pytest.raises(DataError, match=r"0000003\.jpg"):
        data.split("test")[0]


def test_miniature(cache: Path, tmp_path: Path) -> None:
    data = FGVCAircraft(cache=cache)
    assert len(data.spec.classes) == 8
    assert data.verify() == []
    for split, each in (("train", 12), ("test", 8)):
        labels = Counter(listed.values["label"] for listed in data.listing(split))
        assert labels == dict.fromkeys(range(8), each)
    assert data.split("test")[0]["image"].shape == (3, 64, 64)
    again = FGVCAircraft(cache=tmp_path)
    again.prepare_data()
    assert (again.root / "manifest.json").read_text() == (data.root / "manifest.json").read_text()
