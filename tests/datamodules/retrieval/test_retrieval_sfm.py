"""Retrieval-SfM-120k: where pictures lie, pairs, clusters, the published validation part, broken lists."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.base import DataError
from datamodules.retrieval.retrieval_sfm import RetrievalSfM120k, picture_path

NAMES = ["aaaa112233", "bbbb112244", "cccc112255"]
PART = {"cids": NAMES, "cluster": [7, 7, 9], "qidxs": [1, 1], "pidxs": [0, 0]}


def write(root: Path, **changes: object) -> None:
    content = {"train": {**PART, **changes}, "val": PART}
    (root / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    root = tmp_path / "retrieval-SfM-120k"
    for name in NAMES:
        path = picture_path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(path, format="JPEG")
    write(root)
    return root


def test_names_say_where_pictures_lie() -> None:
    assert picture_path(Path("r"), "abcdef123456") == Path("r/ims/56/34/12/abcdef123456")


def test_training_and_test(fake: Path) -> None:
    data = RetrievalSfM120k(fake.parent, "real", image_size=20, train_size=8)
    assert data.spec.landmarks == 2
    train = data.split("train")
    assert train.labels.tolist() == [0, 0, 1]
    assert train.pairs.tolist() == [[1, 0], [1, 0]]
    assert train[2]["image"].shape == (3, 8, 8)
    assert train[2]["label"] == 1
    test = data.split("test")
    assert len(test) == 4  # the gallery, and the one query
    query = test[3]
    assert query["image"].shape == (3, 10, 20)
    assert query["relevance"].tolist() == [[3, 0, 1], [3, 1, 3]]  # the other of its cluster; itself is junk


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster": [1, 2]}, "'train' has 3 cids for 2 clusters"),
        ({"pidxs": [0]}, "2 qidxs for 1 pidxs"),
        ({"pidxs": [0, 3]}, r"outside 0 \.\. 2"),
        ({"cluster": ["x", "y", "z"]}, "no integers"),
    ],
)
def test_broken_lists_are_named(fake: Path, changes: dict[str, object], message: str) -> None:
    write(fake, **changes)
    with pytest.raises(DataError, match=rf"retrieval-SfM-120k\.pkl: .*{message}"):
        RetrievalSfM120k(fake.parent, "real").split("train")


def test_missing_parts_are_named(fake: Path) -> None:
    (fake / "retrieval-SfM-120k.pkl").write_bytes(pickle.dumps({"train": {"cids": []}}))
    with pytest.raises(DataError, match=r"'train' has no cluster, qidxs, pidxs"):
        RetrievalSfM120k(fake.parent, "real").split("train")
    (fake / "retrieval-SfM-120k.pkl").unlink()
    with pytest.raises(DataError, match=r"retrieval-SfM-120k\.pkl"):
        RetrievalSfM120k(fake.parent, "real").prepare_data()


def test_miniature(cache: Path, tmp_path: Path) -> None:
    data = RetrievalSfM120k(cache=cache)
    assert data.spec.landmarks == 32
    assert data.verify() == []
    train, test = data.split("train"), data.split("test")
    counts = np.bincount(train.labels)
    assert 4 <= counts.min() < counts.max() <= 10
    assert (train.labels[train.pairs[:, 0]] == train.labels[train.pairs[:, 1]]).all()
    assert (train.pairs[:, 0] != train.pairs[:, 1]).all()
    assert len(test) == 48 + 24
    again = RetrievalSfM120k(cache=tmp_path)
    again.prepare_data()
    assert (again.root / "manifest.json").read_text() == (data.root / "manifest.json").read_text()
