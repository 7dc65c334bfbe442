"""NIPS 2017: the miniature's layout and codes, labels that start at 1, and what is refused."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import DataError
from datamodules.robustness.nips2017 import COLUMNS, TABLE, Nips2017


@pytest.fixture
def own_copy(cache: Path, tmp_path: Path) -> Path:
    """A root with the miniature's published files that a test may damage; no training folder."""
    data = Nips2017(cache=cache)
    data.prepare_data()
    root = tmp_path / "nips2017"
    shutil.copytree(data.root / "images", root / "images")
    shutil.copy(data.root / TABLE, root / TABLE)
    return root


def rows(root: Path) -> list[dict[str, str]]:
    with (root / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


def rewrite(root: Path, changed: list[dict[str, str]]) -> None:
    with (root / TABLE).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(changed)


def test_miniature_is_balanced_and_typed(cache: Path) -> None:
    data = Nips2017(cache=cache)
    assert data.spec.image_size == (48, 48)
    assert len(data.spec.classes) == 10
    train, val, test = (data.split(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (1350, 150, 100)
    assert np.bincount([listed.values["label"] for listed in test.listing]).tolist() == [10] * 10
    sample = test[3]
    assert set(sample) == {"image", "label", "id"}
    assert sample["image"].shape == (3, 48, 48)
    assert sample["image"].dtype == torch.float32
    assert 0 <= sample["image"].min() < sample["image"].max() <= 1
    # On the grid of 256 levels, also when read again from memory.
    assert torch.equal(test[3]["image"], sample["image"])
    torch.testing.assert_close((sample["image"] * 255).round() / 255, sample["image"])
    assert data.verify() == []


def test_table_is_as_published_and_labels_start_at_1(cache: Path) -> None:
    data = Nips2017(cache=cache)
    samples = data.split("test")
    with (data.root / TABLE).open(newline="") as file:
        assert tuple(next(csv.reader(file))) == COLUMNS
    table = rows(data.root)
    assert [row["ImageId"] for row in table] == [listed.id for listed in samples.listing]
    assert [int(row["TrueLabel"]) - 1 for row in table] == [s.values["label"] for s in samples.listing]
    assert all(row["TrueLabel"] != row["TargetClass"] for row in table)


def test_validation_is_held_out_of_the_training_folder(cache: Path) -> None:
    data = Nips2017(cache=cache, holdout=300, seed=4)
    train, val = ([listed.id for listed in data.split(split).listing] for split in ("train", "val"))
    assert (len(train), len(val)) == (1200, 300)
    assert not set(train) & set(val)
    again = Nips2017(cache=cache, holdout=300, seed=5)
    assert [listed.id for listed in again.split("val").listing] == val
    with pytest.raises(ValueError, match="hold out 1500 of 1500"):
        Nips2017(cache=cache, holdout=1500).split("train")


def test_renders_the_same_bytes_each_time(cache: Path, tmp_path: Path) -> None:
    data = Nips2017(cache=cache)
    data.prepare_data()
    Nips2017.render(tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 1 + 100 + 1500
    for file in files[::97]:
        assert (tmp_path / file).read_bytes() == (data.root / file).read_bytes()


def test_published_files_alone_serve_the_test_split(own_copy: Path) -> None:
    data = Nips2017(own_copy, "real")
    data.prepare_data()
    assert len(data.spec.classes) == 1000
    assert len(data.split("test")) == 100
    assert data.test_batch_size == 10
    with pytest.raises(DataError, match=r"no pictures for 'train'.*[\s\S]*train/<wnid>"):
        data.split("train")
    before = data.data_version()
    folder = own_copy / "train" / "n01440764"
    folder.mkdir(parents=True)
    Image.new("RGB", (60, 50), (9, 9, 9)).save(folder / "a.png")
    assert data.data_version() != before


def test_training_pictures_are_resized_and_test_pictures_are_not(own_copy: Path) -> None:
    for label in range(10):
        folder = own_copy / "train" / f"n{label:08d}"
        folder.mkdir(parents=True)
        Image.new("RGB", (60, 50), (label, 9, 9)).save(folder / "a.png")
    data = Nips2017(own_copy, "real", holdout=0)
    assert data.split("train")[0]["image"].shape == (3, 48, 48)
    name = rows(own_copy)[4]["ImageId"]
    Image.new("RGB", (60, 50)).save(own_copy / "images" / f"{name}.png")
    with pytest.raises(DataError, match=rf"{name}.png: is \(50, 60\) pixels, expected \(48, 48\)"):
        data.split("test")[4]


def test_bad_files_are_named(own_copy: Path) -> None:
    table = rows(own_copy)
    picture = own_copy / "images" / f"{table[1]['ImageId']}.png"
    picture.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(DataError, match=rf"{picture.name}: cannot be read"):
        Nips2017(own_copy, "real").split("test")[1]
    picture.unlink()
    with pytest.raises(DataError, match=rf"{picture.name}: cannot be read"):
        Nips2017(own_copy, "real").split("test")[1]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("TrueLabel", "0", r"line 4: column TrueLabel holds '0'"),
        ("TrueLabel", "dog", r"column TrueLabel holds 'dog'"),
        ("TrueLabel", "1001", r"TrueLabel 1001 of .* 1000 classes"),
        ("ImageId", "", r"column ImageId holds ''"),
        ("ImageId", "../etc", r"column ImageId holds '\.\./etc'"),
    ],
)
def test_bad_rows_are_named(own_copy: Path, column: str, value: str, message: str) -> None:
    table = rows(own_copy)
    table[2][column] = value
    rewrite(own_copy, table)
    with pytest.raises(DataError, match=message):
        Nips2017(own_copy, "real").split("test")


def test_a_table_without_rows_and_missing_files(own_copy: Path) -> None:
    table = rows(own_copy)
    rewrite(own_copy, [*table, table[0]])
    with pytest.raises(DataError, match="names a picture twice"):
        Nips2017(own_copy, "real").split("test")
    rewrite(own_copy, [])
    with pytest.raises(DataError, match="has no rows"):
        Nips2017(own_copy, "real").split("test")
    (own_copy / TABLE).unlink()
    with pytest.raises(DataError, match=TABLE):
        Nips2017(own_copy, "real").prepare_data()
