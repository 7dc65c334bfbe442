"""tieredImageNet: encoded pictures in pickles, and what the unpickler refuses."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from datamodules.base import DataError
from datamodules.recognition.tiered_imagenet import TieredImageNet, read_encoded


@pytest.fixture
def own_copy(cache: Path, tmp_path: Path) -> Path:
    data = TieredImageNet(cache=cache)
    data.prepare_data()
    shutil.copytree(data.root, tmp_path / "root")
    return tmp_path / "root"


def test_splits_of_the_miniature(cache: Path) -> None:
    data = TieredImageNet(cache=cache, image_size=32, queries=2)
    data.prepare_data()
    assert [len(data.pictures(split).members) for split in ("train", "val", "test")] == [16, 6, 8]
    sample = data.split("train")[0]
    assert sample["support"].shape == (5, 5, 3, 32, 32)
    assert data.pictures("test").picture(0).shape == (3, 32, 32)
    assert TieredImageNet(cache=cache, image_size=84).pictures("test").picture(0).shape == (3, 84, 84)


class Intruder:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def test_bad_files_are_refused_by_name(own_copy: Path) -> None:
    file = own_copy / "test_images_png.pkl"
    encoded = read_encoded(file)
    file.write_bytes(pickle.dumps([Intruder()]))
    with pytest.raises(DataError, match=r"test_images_png\.pkl.*system"):
        TieredImageNet(own_copy, "real").split("test")
    file.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(DataError, match="holds a dict"):
        read_encoded(file)
    file.write_bytes(pickle.dumps([*encoded[:-1], "text"], protocol=2))
    with pytest.raises(DataError, match=f"picture {len(encoded) - 1} is a str"):
        read_encoded(file)
    file.write_bytes(pickle.dumps(encoded[:-1], protocol=2))
    with pytest.raises(DataError, match=f"must be {len(encoded) - 1} labels"):
        TieredImageNet(own_copy, "real").split("test")
    broken = np.frombuffer(b"no picture at all", np.uint8).copy()
    file.write_bytes(pickle.dumps([broken] * len(encoded), protocol=2))
    with pytest.raises(DataError, match="picture 0 cannot be decoded"):
        TieredImageNet(own_copy, "real").pictures("test").picture(0)
    (own_copy / "test_labels.pkl").write_bytes(pickle.dumps({b"label_general": [1]}, protocol=2))
    with pytest.raises(DataError, match="no 'label_specific', only label_general"):
        TieredImageNet(own_copy, "real").split("test")


def test_columns_of_encoded_bytes_as_opencv_writes_them(own_copy: Path) -> None:
    file = own_copy / "val_images_png.pkl"
    encoded = read_encoded(file)
    plain = TieredImageNet(own_copy, "real").pictures("val").picture(3)
    file.write_bytes(pickle.dumps([one[:, None] for one in encoded], protocol=2))
    assert (TieredImageNet(own_copy, "real").pictures("val").picture(3) == plain).all()
