"""iNaturalist 2017: COCO-style lists, super classes in the names, broken lists, the miniature."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from datamodules.base import DataError
from datamodules.recognition.inaturalist2017 import INaturalist2017

CATEGORIES = [
    {"id": 7, "name": "Zonotrichia", "supercategory": "Aves"},
    {"id": 3, "name": "Abies", "supercategory": "Plantae"},
]


def listing(**changes: object) -> dict[str, object]:
    file = "train_val_images/Aves/Zonotrichia/a.jpg"
    return {
        "images": [{"id": 1, "file_name": file}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7}],
        "categories": CATEGORIES,
        **changes,
    }


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    folder = tmp_path / "train_val_images/Aves/Zonotrichia"
    folder.mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(folder / "a.jpg")
    for name in ("train2017.json", "val2017.json"):
        (tmp_path / name).write_text(json.dumps(listing()))
    return tmp_path


def test_labels_are_in_the_order_of_super_class_and_species(fake: Path) -> None:
    data = INaturalist2017(fake, "real", image_size=16)
    data.prepare_data()
    assert data.spec.classes == ("Aves/Zonotrichia", "Plantae/Abies")
    (listed,) = data.listing("test")
    assert listed.values["label"] == 0
    assert data.split("test")[0]["image"].shape == (3, 16, 16)
    assert data.data_version().startswith("real-1-")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        (json.dumps({"images": []}), "has no list 'annotations'"),
        (
            json.dumps(listing(annotations=[{"image_id": 2, "category_id": 7}])),
            "an annotation is of image 2",
        ),
        (
            json.dumps(listing(annotations=[{"image_id": 1, "category_id": 9}])),
            "image 1 is of category 9",
        ),
        (json.dumps(listing(annotations=[{"image_id": 1}])), "an annotation image_id or category_id"),
        (
            json.dumps(listing(annotations=[{"image_id": 1, "category_id": 7}] * 2)),
            "image 1 has two labels",
        ),
    ],
)
def test_broken_lists_are_named(fake: Path, content: str, message: str) -> None:
    (fake / "val2017.json").write_text(content)
    with pytest.raises(DataError, match=rf"val2017\.json.*{message}"):
        INaturalist2017(fake, "real").listing("test")


def test_broken_categories_and_missing_files_are_named(fake: Path) -> None:
    (fake / "train2017.json").write_text(json.dumps(listing(categories=[{"id": 1, "name": "x"}])))
    with pytest.raises(DataError, match=r"train2017\.json: a category lacks .*supercategory"):
        _ = INaturalist2017(fake, "real").classes
    (fake / "train2017.json").unlink()
    with pytest.raises(DataError, match=r"train2017\.json"):
        INaturalist2017(fake, "real").prepare_data()


def test_miniature(cache: Path, tmp_path: Path) -> None:
    data = INaturalist2017(cache=cache)
    assert {name.split("/")[0] for name in data.spec.classes} == {"Aves", "Insecta", "Plantae"}
    assert data.verify() == []
    for split, each in (("train", 16), ("test", 8)):
        labels = Counter(listed.values["label"] for listed in data.listing(split))
        assert labels == dict.fromkeys(range(9), each)
    for listed in data.listing("test")[::9]:
        assert data.spec.classes[listed.values["label"]] in listed.id  # the folder says the class
    again = INaturalist2017(cache=tmp_path)
    again.prepare_data()
    assert (again.root / "manifest.json").read_text() == (data.root / "manifest.json").read_text()
