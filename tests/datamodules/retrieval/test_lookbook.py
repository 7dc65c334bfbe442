"""LookBook: names of files, splits by product, occlusion of worn pictures only, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError, Visit
from datamodules.retrieval.lookbook import LookBook, LookBookOccluded, hide_cells, products_in


@pytest.fixture
def few(cache: Path, tmp_path: Path) -> Path:
    """A real root with eight products that a test may damage."""
    data = LookBook(cache=cache)
    data.prepare_data()
    home = tmp_path / "root" / "lookbook" / "data"
    home.mkdir(parents=True)
    for path in (data.root / "data").glob("PID00000[0-7]_*.jpg"):
        shutil.copy(path, home / path.name)
    return tmp_path / "root"


def test_the_miniature(cache: Path) -> None:
    data = LookBook(cache=cache)
    assert data.spec.image_size == (48, 48)
    splits = {split: data.split(split) for split in ("train", "val", "test")}
    assert {split: len(sets) for split, sets in splits.items()} == {"train": 73, "val": 11, "test": 36}
    numbers = [product.number for sets in splits.values() for product in sets.products]
    assert len(numbers) == len(set(numbers)) == 120
    sample = splits["test"][0]
    assert 5 <= len(sample["image"]) <= 8
    assert sample["catalogue"].shape == (3, 48, 48)
    assert 0 <= float(sample["image"].min()) < float(sample["image"].max()) <= 1
    assert sample["catalogue"][:, 0, 0].min() > 0.9  # white ground
    assert data.verify() == []
    assert LookBookOccluded(cache=cache).root == data.root
    assert len(products_in(data.root, 1)) == 126  # some have too few pictures


def test_batches_are_ragged(cache: Path) -> None:
    data = LookBook(cache=cache, batch_size=6, train_pictures=3)
    batch = next(iter(data.train_dataloader()))
    assert torch.bincount(batch["set"]).tolist() == [3] * 6
    batch = next(iter(data.test_dataloader()))
    sizes = torch.bincount(batch["set"])
    assert len(sizes) == len(batch["catalogue"]) == len(batch["label"]) == len(batch["id"]) == 8
    assert len(batch["image"]) == int(sizes.sum())
    assert len(set(sizes.tolist())) > 1


def test_training_draws_order_and_pictures_anew(cache: Path) -> None:
    data = LookBook(cache=cache)
    train, test = data.split("train"), data.split("test")
    first, second = (train[Visit(0, epoch)]["image"] for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.allclose(first.sum(0), second.sum(0), atol=1e-4)  # the same pictures
    assert torch.equal(test[Visit(0, 0)]["image"], test[Visit(0, 1)]["image"])
    fixed = LookBook(cache=cache, shuffle=False).split("train")
    assert torch.equal(fixed[Visit(0, 0)]["image"], fixed[Visit(0, 1)]["image"])


def test_twelve_of_sixteen_cells_are_black(cache: Path) -> None:
    whole, occluded = LookBook(cache=cache, shuffle=False), LookBookOccluded(cache=cache, shuffle=False)
    train = occluded.split("train")
    first, second = train[Visit(0, 0)], train[Visit(0, 1)]
    plain = whole.split("train")[Visit(0, 0)]
    assert torch.equal(first["catalogue"], plain["catalogue"])
    assert not torch.equal(first["image"], second["image"])
    test = occluded.split("test")
    assert torch.equal(test[Visit(0, 0)]["image"], test[Visit(0, 1)]["image"])
    for picture, original in zip(first["image"], plain["image"], strict=True):
        cells = picture.unfold(1, 12, 12).unfold(2, 12, 12)
        black = cells.amax(dim=(0, 3, 4)) == 0
        assert black.sum() == 12
        shown = original.unfold(1, 12, 12).unfold(2, 12, 12)
        assert torch.equal(cells[:, ~black], shown[:, ~black])


def test_cells_of_sides_that_do_not_divide() -> None:
    hidden = hide_cells(torch.ones(3, 10, 9), np.random.default_rng(0))
    assert set(hidden.unique().tolist()) == {0.0, 1.0}
    assert hidden.shape == (3, 10, 9)


def test_real_layout(few: Path) -> None:
    data = LookBook(few, "real")
    data.prepare_data()
    assert data.spec.image_size == (224, 224)
    assert sum(len(data.split(split)) for split in ("train", "val", "test")) == 8
    assert data.split("train")[0]["image"].shape[1:] == (3, 224, 224)


def test_broken_files_are_named(few: Path) -> None:
    home = few / "lookbook" / "data"
    first = next(home.glob("PID000003_CLEAN1_*.jpg"))
    copy = home / "PID000003_CLEAN1_IID999999.jpg"
    shutil.copy(first, copy)
    with pytest.raises(DataError, match="product 3 has another catalogue picture"):
        LookBook(few, "real").split("test")
    copy.rename(home / "PID000003_CLEAN7_IID999999.jpg")
    with pytest.raises(DataError, match=r"CLEAN7.*files are named"):
        LookBook(few, "real").split("test")
    (home / "PID000003_CLEAN7_IID999999.jpg").unlink()
    for path in home.glob("PID*_CLEAN0_*.jpg"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"PID.*\.jpg: cannot be read as a picture"):
        LookBook(few, "real").split("test")[0]
    with pytest.raises(DataError, match="0 products have 50 worn pictures"):
        LookBook(few, "real", least=50).split("test")
    with pytest.raises(DataError, match="CLEAN1"):
        LookBook(few / "elsewhere", "real").prepare_data()
    with pytest.raises(ValueError, match="least"):
        LookBook(least=0)
