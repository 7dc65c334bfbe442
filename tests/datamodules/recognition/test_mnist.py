"""MNIST: idx files plain and gzipped, real layouts and the miniature through one reader, and what is refused."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError
from datamodules.miniature.stroke_digits import draw_digits
from datamodules.recognition.mnist import MNIST, read_idx, write_idx

FILES = [
    f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
]


@pytest.fixture
def own_copy(cache: Path, tmp_path: Path) -> Path:
    """A root with the miniature's files that a test may damage."""
    data = MNIST(cache=cache)
    data.prepare_data()
    shutil.copytree(data.root, tmp_path / "root")
    return tmp_path / "root"


def test_the_miniature_is_balanced_and_typed(cache: Path) -> None:
    data = MNIST(cache=cache)
    assert data.spec.classes == tuple("0123456789")
    assert (data.spec.channels, data.spec.image_size) == (1, (28, 28))
    train, val, test = (data.split(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (3667, 333, 1000)
    assert np.bincount(test.digits.labels).tolist() == [100] * 10
    sample = test[7]
    assert set(sample) == {"image", "label", "id"}
    assert sample["image"].shape == (1, 28, 28)
    assert sample["image"].dtype == torch.float32
    assert 0 <= float(sample["image"].min()) < float(sample["image"].max()) <= 1
    assert sample["id"] == "t10k/00007"
    assert not set(train.digits.ids.tolist()) & set(val.digits.ids.tolist())
    assert data.verify() == []
    assert len(MNIST(cache=cache, val_share=0).split("val")) == 0


def test_the_miniature_looks_like_mnist(cache: Path) -> None:
    """Its pixels have MNIST's mean and deviation, and a class has many faces: nearest neighbours mix some up."""
    train = MNIST(cache=cache).split("train").digits
    test = MNIST(cache=cache).split("test").digits
    assert train.images.mean() / 255 == pytest.approx(0.13, abs=0.02)
    assert train.images.std() / 255 == pytest.approx(0.31, abs=0.03)
    reference = torch.from_numpy(train.images[:800].copy()).flatten(1).float()
    asked = torch.from_numpy(test.images[:300].copy()).flatten(1).float()
    guess = train.labels[torch.cdist(asked, reference).argmin(1).numpy()]
    assert 0.6 < (guess == test.labels[:300]).mean() < 0.99


def test_drawing_is_deterministic_and_of_each_digit() -> None:
    label = np.arange(40) % 10
    first, second = (draw_digits(label, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, second)
    assert (first.reshape(40, -1).max(1) == 255).all()
    assert not np.array_equal(first[0], first[10])


def test_rendered_files_are_as_published_and_always_the_same(cache: Path, tmp_path: Path) -> None:
    data = MNIST(cache=cache)
    data.prepare_data()
    assert {path.name for path in data.root.glob("*.gz")} == {f"{file}.gz" for file in FILES}
    content = gzip.decompress((data.root / "t10k-images-idx3-ubyte.gz").read_bytes())
    assert content[:16] == bytes([0, 0, 8, 3, 0, 0, 3, 232, 0, 0, 0, 28, 0, 0, 0, 28])
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for name in ("a", "a.gz"):
        write_idx(tmp_path / name, values)
        assert np.array_equal(read_idx(tmp_path / name, axes=3), values)
    first = (tmp_path / "a.gz").read_bytes()
    write_idx(tmp_path / "a.gz", values)
    assert (tmp_path / "a.gz").read_bytes() == first


@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw", "MNIST"])
def test_real_layouts(own_copy: Path, tmp_path: Path, folder: str) -> None:
    home = tmp_path / "real" / folder
    home.mkdir(parents=True)
    for file in FILES:
        plain = gzip.decompress((own_copy / f"{file}.gz").read_bytes())
        (home / file.replace("-idx", ".idx" if folder == "mnist" else "-idx")).write_bytes(plain)
    data = MNIST(tmp_path / "real", "real", val_share=0.25)
    data.prepare_data()
    assert (len(data.split("train")), len(data.split("val"))) == (3000, 1000)
    assert data.data_version().startswith("real-1-")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images.idx3-ubyte"):
        MNIST(tmp_path, "real").prepare_data()
    with pytest.raises(ValueError, match="val_share"):
        MNIST(val_share=1.0)


def test_broken_files_are_named(own_copy: Path) -> None:
    def read(split: str = "test") -> None:
        MNIST(own_copy, "real").split(split)  # type: ignore[arg-type]

    labels = own_copy / "t10k-labels-idx1-ubyte.gz"
    whole = labels.read_bytes()
    labels.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: cannot be read"):
        read()
    labels.write_bytes(b"not gzip")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: cannot be read"):
        read()
    labels.unlink()
    plain = own_copy / "t10k-labels-idx1-ubyte"
    plain.write_bytes(gzip.decompress(whole)[:-3])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: 997 bytes of data, expected 1000"):
        read()
    plain.write_bytes(b"\0\0\x08\x03" + gzip.decompress(whole)[4:])
    with pytest.raises(DataError, match=r"begins with 00000803.*00000801"):
        read()
    plain.write_bytes(b"")
    with pytest.raises(DataError, match="begins with nothing"):
        read()
    write_idx(plain, np.full(1000, 10, np.uint8))
    with pytest.raises(DataError, match="labels up to 10"):
        read()
    write_idx(plain, np.zeros(999, np.uint8))
    with pytest.raises(DataError, match=r"t10k images \(1000, 28, 28\) and labels \(999,\)"):
        read()
    plain.unlink()
    with pytest.raises(DataError, match=r"has no t10k-labels-idx1-ubyte, plain or \.gz"):
        MNIST(own_copy, "miniature", cache=own_copy.parent)._file("t10k-labels?idx1-ubyte")
