"""miniImageNet: layout and outliers of the miniature, the same bytes each time, missing files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from datamodules.base import DataError
from datamodules.recognition.mini_imagenet import MiniImageNet


def test_layout_sizes_and_outliers(cache: Path) -> None:
    data = MiniImageNet(cache=cache, queries=8, image_size=32, test_episodes=20)
    data.prepare_data()
    assert data.verify() == []
    sizes = {split: [len(m) for m in data.pictures(split).members] for split in ("train", "val", "test")}
    assert {split: len(members) for split, members in sizes.items()} == {"train": 20, "val": 6, "test": 10}
    assert set(sizes["test"]) == {40}
    outlier = data.pictures("test").outlier
    assert outlier is not None
    assert int(outlier.sum()) == 10 * 8
    sample = data.split("test")[0]
    assert sample["support"].shape == (5, 5, 3, 32, 32)
    assert sample["query"].shape == (40, 3, 32, 32)
    assert sample["outlier"].shape == (5, 5)
    assert sample["support"].dtype == torch.float32
    assert 0 <= float(sample["support"].min()) < float(sample["support"].max()) <= 1
    assert data.spec.image_size == (32, 32)
    share = torch.stack([data.split("test")[i]["outlier"].float().mean() for i in range(20)]).mean()
    assert 0.12 < float(share) < 0.28
    (batch,) = [next(iter(data.test_dataloader()))]
    assert batch["support"].shape == (2, 5, 5, 3, 32, 32)


def test_classes_of_the_splits_are_disjoint_and_files_are_jpeg_of_84(cache: Path) -> None:
    from PIL import Image

    data = MiniImageNet(cache=cache)
    data.prepare_data()
    labels = [
        {line.split(",")[1] for line in (data.root / f"{split}.csv").read_text().splitlines()[1:]}
        for split in ("train", "val", "test")
    ]
    assert len(set.union(*labels)) == 36
    with Image.open(next((data.root / "images").glob("*.jpg"))) as image:
        assert (image.format, image.size) == ("JPEG", (84, 84))


def test_published_files_know_no_outliers_and_missing_ones_are_named(cache: Path, tmp_path: Path) -> None:
    data = MiniImageNet(cache=cache)
    data.prepare_data()
    shutil.copytree(data.root, tmp_path / "mini-imagenet")
    (tmp_path / "mini-imagenet" / "outliers.csv").unlink()
    real = MiniImageNet(tmp_path, "real", queries=1, image_size=8)
    real.prepare_data()
    assert "outlier" not in real.split("test")[0]
    name = (real.root / "test.csv").read_text().splitlines()[1].split(",")[0]
    (real.root / "images" / name).unlink()
    with pytest.raises(DataError, match=name):
        real.pictures("test").picture(0)
    (tmp_path / "mini-imagenet" / "val.csv").unlink()
    with pytest.raises(DataError, match=r"val\.csv"):
        MiniImageNet(tmp_path, "real").prepare_data()


def test_pictures_are_read_once(cache: Path) -> None:
    data = MiniImageNet(cache=cache, image_size=8)
    data.prepare_data()
    read = data.pictures("val").picture
    assert read(5) is read(5)
    assert read(5).shape == (3, 8, 8)
