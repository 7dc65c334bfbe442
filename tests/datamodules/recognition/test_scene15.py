"""Scene-15: random splits of the published sizes, both editions' folder names, broken layouts."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from datamodules.base import DataError
from datamodules.recognition.scene15 import CLASSES, Scene15


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """The figshare layout with empty files, 102 a class."""
    for label in range(15):
        folder = tmp_path / "15-Scene" / f"{label:02d}"
        folder.mkdir(parents=True)
        for number in range(102):
            (folder / f"{number}.jpg").touch()
    return tmp_path


def test_miniature(cache: Path) -> None:
    data = Scene15(cache=cache)
    data.prepare_data()
    assert data.spec.classes == CLASSES
    assert data.verify() == []
    train, test = data.listing("train"), data.listing("test")
    assert (len(train), len(test)) == (300, 240)
    assert set(Counter(listed.values["label"] for listed in train).values()) == {20}
    assert not {listed.id for listed in train} & {listed.id for listed in test}
    sample = data.split("test")[-1]
    assert sample["label"] == 14
    assert (sample["image"][0] == sample["image"][2]).all()  # greyscale


def test_real_split_is_100_a_class_drawn_by_its_seed(fake: Path) -> None:
    data = Scene15(fake, "real")
    data.prepare_data()
    train, test = data.listing("train"), data.listing("test")
    assert (len(train), len(test)) == (1500, 30)
    assert set(Counter(listed.values["label"] for listed in train).values()) == {100}
    again, other = Scene15(fake, "real", seed=3), Scene15(fake, "real", split_seed=1)
    assert again.listing("test") == test
    assert other.listing("test") != test


def test_names_give_the_same_labels_and_splits(fake: Path) -> None:
    numbered = [(listed.id, listed.values) for listed in Scene15(fake, "real").listing("test")]
    base = fake / "15-Scene"
    for label, name in enumerate(CLASSES):
        (base / f"{label:02d}").rename(base / name)
    base.rename(fake / "scene_categories")
    data = Scene15(fake, "real")
    data.prepare_data()
    assert [(listed.id, listed.values) for listed in data.listing("test")] == numbered


def test_broken_layouts_are_told(fake: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="102 pictures, but 150"):
        Scene15(fake, "real", train_per_class=150).listing("train")
    shutil.rmtree(fake / "15-Scene" / "03")
    with pytest.raises(DataError, match=r"expected 00 \.\. 14"):
        Scene15(fake, "real").listing("train")
    with pytest.raises(DataError, match="figshare"):
        Scene15(tmp_path / "nothing", "real").prepare_data()
