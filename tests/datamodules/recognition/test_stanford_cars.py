"""Stanford Cars: annotations, boxes, broken MATLAB files, the miniature."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from datamodules.base import DataError
from datamodules.recognition.stanford_cars import FIELDS, StanfordCars


def write(root: Path, rows: list[tuple[object, ...]], subset: str, folder: str = "devkit") -> None:
    name = "cars_train_annos.mat" if subset == "train" else "cars_test_annos_withlabels.mat"
    table = np.array(rows, dtype=[(field, object) for field in FIELDS])
    savemat(root / folder / name, {"annotations": table[None]})


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    (tmp_path / "devkit").mkdir()
    savemat(
        tmp_path / "devkit/cars_meta.mat",
        {"class_names": np.array(["AM General 2000", "BMW M3"], dtype=object)},
    )
    write(tmp_path, [(11, 6, 30, 15, 2, "00001.jpg"), (1, 1, 40, 20, 1, "00002.jpg")], "train")
    write(tmp_path, [(1, 1, 2, 2, 1, "00001.jpg")], "test")
    for folder in ("cars_train", "cars_test"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 20)).save(tmp_path / folder / "00001.jpg")
    return tmp_path


def test_annotations_count_from_one(fake: Path) -> None:
    data = StanfordCars(fake, "real", image_size=(10, 20))
    data.prepare_data()
    assert data.spec.classes == ("AM General 2000", "BMW M3")
    first, second = data.listing("train")
    assert (first.id, first.values["label"], first.box) == (
        "cars_train/00001.jpg",
        1,
        (10.0, 5.0, 20.0, 10.0),
    )
    assert second.values["label"] == 0
    sample = data.split("train")[0]
    assert sample["image"].shape == (3, 10, 20)
    assert sample["box"].tolist() == [5.0, 2.5, 15.0, 7.5]


def test_the_test_labels_may_lie_beside_the_kit(fake: Path) -> None:
    (fake / "devkit/cars_test_annos_withlabels.mat").rename(fake / "cars_test_annos_withlabels.mat")
    data = StanfordCars(fake, "real")
    data.prepare_data()
    assert len(data.listing("test")) == 1


def test_broken_files_are_named(fake: Path) -> None:
    write(fake, [(1, 1, 2, 2, 3, "00001.jpg")], "train")
    with pytest.raises(DataError, match=r"cars_train_annos\.mat: 00001\.jpg has class 3, not 1 \.\. 2"):
        StanfordCars(fake, "real").listing("train")
    write(fake, [(9, 1, 2, 2, 1, "00001.jpg")], "train")
    with pytest.raises(DataError, match=r"00001\.jpg has the box .* of no extent"):
        StanfordCars(fake, "real").listing("train")
    unlabelled = np.array([(1, 1, 2, 2, "a.jpg")], dtype=[(f, object) for f in (*FIELDS[:4], "fname")])
    savemat(fake / "devkit/cars_test_annos_withlabels.mat", {"annotations": unlabelled[None]})
    with pytest.raises(DataError, match=r"annotations have no class.*cars_test_annos_withlabels"):
        StanfordCars(fake, "real").listing("test")
    (fake / "devkit/cars_meta.mat").write_bytes(b"no matlab")
    with pytest.raises(DataError, match=r"cars_meta\.mat cannot be read"):
        _ = StanfordCars(fake, "real").classes
    savemat(fake / "devkit/cars_meta.mat", {"names": 1})
    with pytest.raises(DataError, match=r"cars_meta\.mat has no 'class_names', only names"):
        _ = StanfordCars(fake, "real").classes
    (fake / "devkit/cars_meta.mat").unlink()
    with pytest.raises(DataError, match=r"devkit/cars_meta\.mat"):
        StanfordCars(fake, "real").prepare_data()


def test_miniature(cache: Path, tmp_path: Path) -> None:
    data = StanfordCars(cache=cache)
    assert len(data.spec.classes) == 8
    assert data.verify() == []
    for split, each in (("train", 12), ("test", 8)):
        labels = Counter(listed.values["label"] for listed in data.listing(split))
        assert labels == dict.fromkeys(range(8), each)
    sample = data.split("test")[0]
    assert sample["image"].shape == (3, 64, 64)
    x1, y1, x2, y2 = sample["box"].tolist()
    assert 0 <= x1 < x2 <= 64
    assert 0 <= y1 < y2 <= 64
    again = StanfordCars(cache=tmp_path)
    again.prepare_data()
    assert (again.root / "manifest.json").read_text() == (data.root / "manifest.json").read_text()
