"""PASCAL-Context as edges."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

from datamodules.base import DataError
from datamodules.dense.pascal_context import PascalContext
from datamodules.miniature.contours import boundaries


@pytest.fixture(scope="module")
def data(cache: Path) -> PascalContext:
    data = PascalContext(cache=cache)
    data.prepare_data()
    return data


def test_an_edge_is_where_the_right_or_lower_neighbour_differs() -> None:
    labels = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]])
    assert boundaries(labels).tolist() == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]


def test_the_miniature_trains_on_a_hundred_and_twenty(data: PascalContext) -> None:
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [120, 10, 10]  # type: ignore[arg-type]
    identities = [
        {path.stem for _, path in data.split(split).pairs}  # type: ignore[attr-defined, arg-type]
        for split in ("train", "val", "test")
    ]
    assert len(set.union(*identities)) == 140
    batch = next(iter(data.test_dataloader()))
    assert batch["edges"].shape == (1, 1, *batch["image"].shape[-2:])
    assert batch["annotators"].tolist() == [1]
    labels = loadmat(data.root / f"trainval/{batch['id'][0]}.mat")["LabelMap"]
    assert np.array_equal(batch["edges"][0, 0].numpy(), boundaries(labels))


def test_it_takes_the_options_of_the_other_edge_datasets(data: PascalContext) -> None:
    resized = PascalContext(cache=data.cache, train_size=(48, 56), test_limit=4, batch_size=8)
    batch = next(iter(resized.train_dataloader()))
    assert batch["image"].shape == (8, 3, 48, 56)
    assert batch["edges"].shape == (8, 1, 48, 56)
    assert 0.01 < batch["edges"].float().mean() < 0.3
    assert len(resized.split("test")) == 4  # type: ignore[arg-type]


def test_memory_holds_no_more_than_it_may(data: PascalContext) -> None:
    samples = data.split("val")
    samples.keep = 2  # type: ignore[attr-defined]
    first = [samples[index]["image"] for index in range(5)]
    assert len(samples._kept) == 2  # type: ignore[attr-defined]
    assert all(torch.equal(samples[index]["image"], image) for index, image in enumerate(first))


def test_wrong_files_are_named(data: PascalContext, tmp_path: Path) -> None:
    shutil.copytree(data.root, tmp_path / "copy")
    truths = sorted((tmp_path / "copy/trainval").glob("*.mat"))
    savemat(truths[0], {"LabelMap": np.zeros((3, 4))})
    savemat(truths[1], {"Labels": np.zeros((64, 96))})
    copy = PascalContext(tmp_path / "copy", "real")
    with pytest.raises(DataError, match=r"LabelMap is \(3, 4\)"):
        copy.split("train")[0]
    with pytest.raises(DataError, match="has no 'LabelMap', only Labels"):
        copy.split("train")[1]
    (tmp_path / f"copy/VOCdevkit/VOC2010/JPEGImages/{truths[2].stem}.jpg").unlink()
    with pytest.raises(DataError, match=truths[2].stem):
        PascalContext(tmp_path / "copy", "real").split("train")
    for truth in truths[5:]:
        truth.unlink()
    with pytest.raises(DataError, match="too few"):
        PascalContext(tmp_path / "copy", "real").split("val")
