"""CIFAR: the miniature and real samples through one reader, python-2 pickles, and what is refused."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from datamodules.base import DataError
from datamodules.recognition.cifar import CIFAR10, CIFAR100, read_pickle, read_pictures


@pytest.fixture
def own_copy(cache: Path, tmp_path: Path) -> Path:
    """A root with the miniature's files that a test may damage."""
    data = CIFAR10(cache=cache)
    data.prepare_data()
    shutil.copytree(data.root, tmp_path / "root")
    return tmp_path / "root"


def test_miniature_of_cifar10_is_balanced_and_typed(cache: Path) -> None:
    data = CIFAR10(cache=cache)
    assert data.spec.classes[:3] == ("striped_disc", "checked_disc", "striped_square")
    assert data.spec.image_size == (32, 32)
    train, val, test = (data.split(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (1500, 0, 500)
    assert np.bincount(train.labels["label"]).tolist() == [150] * 10
    assert np.bincount(test.labels["label"]).tolist() == [50] * 10
    sample = test[3]
    assert set(sample) == {"image", "label", "id"}
    assert sample["image"].shape == (3, 32, 32)
    assert sample["image"].dtype == torch.float32
    assert 0 <= float(sample["image"].min()) < float(sample["image"].max()) <= 1
    assert sample["id"] == "test/00003"
    assert data.verify() == []


def test_miniature_of_cifar100_has_coarse_labels_of_the_silhouettes(cache: Path) -> None:
    fine = CIFAR100(cache=cache)
    samples = fine.split("test")
    assert len(fine.spec.classes) == 20
    assert len(fine.split("train")) == 3000
    assert (samples.labels["coarse_label"] == samples.labels["label"] // 4).all()
    coarse = CIFAR100(cache=cache, labels="coarse")
    assert coarse.spec.classes == ("disc", "square", "triangle", "cross", "star")
    assert coarse.split("test")[7]["label"] == samples[7]["coarse_label"]
    with pytest.raises(ValueError, match="fine"):
        CIFAR100(cache=cache, labels="medium")


def test_renders_the_same_bytes_each_time(cache: Path, tmp_path: Path) -> None:
    data = CIFAR10(cache=cache)
    data.prepare_data()
    CIFAR10.render(tmp_path)
    for file in ("data_batch_2", "test_batch", "batches.meta"):
        again = tmp_path / "cifar-10-batches-py" / file
        assert again.read_bytes() == (data.root / "cifar-10-batches-py" / file).read_bytes()


def test_keys_on_disk_are_bytes_as_published(cache: Path) -> None:
    data = CIFAR10(cache=cache)
    data.prepare_data()
    with (data.files / "data_batch_1").open("rb") as file:
        content = pickle.load(file, encoding="bytes")
    assert set(content) == {b"batch_label", b"labels", b"data", b"filenames"}
    assert content[b"data"].shape == (300, 3072)


def test_planes_are_red_green_blue_row_by_row(own_copy: Path) -> None:
    row = np.zeros((300, 3072), np.uint8)
    row[0, 1024 + 32 * 5 + 7] = 255  # green plane, row 5, column 7
    file = own_copy / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(pickle.dumps({b"data": row, b"labels": [0] * 300}, protocol=2))
    image = CIFAR10(own_copy, "real").split("test")[0]["image"]
    assert torch.nonzero(image).tolist() == [[1, 5, 7]]


def test_holdout_is_fixed_disjoint_and_complete(cache: Path) -> None:
    data = CIFAR10(cache=cache, holdout=200, seed=5)
    train, val = data.split("train"), data.split("val")
    assert (len(train), len(val)) == (1300, 200)
    assert sorted([*train.ids, *val.ids]) == list(range(1500))
    assert (CIFAR10(cache=cache, holdout=200, seed=6).split("val").ids == val.ids).all()
    with pytest.raises(ValueError, match="hold out"):
        CIFAR10(cache=cache, holdout=1500).split("train")


def test_an_empty_validation_split_does_not_stop_lightning(cache: Path) -> None:
    class Plain(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3072, 10)

        def training_step(self, batch: dict, _: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.layer(batch["image"].flatten(1)), batch["label"])

        def validation_step(self, batch: dict, _: int) -> None:
            raise AssertionError("there is nothing to validate on")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Plain(), CIFAR10(cache=cache, batch_size=100))
    assert trainer.global_step == 15


def test_order_of_training_samples_follows_the_seed_alone(cache: Path) -> None:
    def order(seed: int) -> list[str]:
        torch.manual_seed(int(torch.randint(1000, ())))
        loader = CIFAR10(cache=cache, batch_size=100, seed=seed).train_dataloader()
        return [name for batch in loader for name in batch["id"]]

    assert order(1) == order(1) != order(2)


class Intruder:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def test_a_pickle_that_imports_os_is_refused(own_copy: Path) -> None:
    file = own_copy / "cifar-10-batches-py" / "data_batch_4"
    file.write_bytes(pickle.dumps({b"data": Intruder(), b"labels": [0]}, protocol=2))
    data = CIFAR10(own_copy, "real")
    with pytest.raises(DataError, match=r"data_batch_4.*(posix|nt|os)\.system"):
        data.split("train")


@pytest.mark.parametrize("name", ["builtins.eval", "numpy.load", "os.system", "functools.partial"])
def test_every_other_global_is_refused(name: str, tmp_path: Path) -> None:
    module, attribute = name.split(".")
    (tmp_path / "evil").write_bytes(b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b".")
    with pytest.raises(DataError, match=name):
        read_pickle(tmp_path / "evil")


def test_reads_what_python_2_wrote(tmp_path: Path) -> None:
    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value  # SHORT_BINSTRING, which Python 3 never writes

    pixels = bytes(range(256)) * 12
    state = b"(K\x01K\x01M\x00\x0c\x86" + b"cnumpy\ndtype\n" + b"(" + text(b"u1") + b"K\x00K\x01tR"
    state += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb" + b"\x89"
    state += b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R" + state
    )
    written = b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"]K\x07au."
    (tmp_path / "old").write_bytes(written)
    images, labels = read_pictures(tmp_path / "old", ["labels"])
    assert images.shape == (1, 3, 32, 32)
    assert images[0, 0, 0, :4].tolist() == [0, 1, 2, 3]
    assert images[0, 0, 8, 5] == 5  # element 8·32 + 5 = 261 = 256 + 5
    assert labels["labels"].tolist() == [7]


def test_damaged_files_are_named(own_copy: Path) -> None:
    folder = own_copy / "cifar-10-batches-py"
    whole = (folder / "test_batch").read_bytes()
    (folder / "test_batch").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="test_batch cannot be read"):
        CIFAR10(own_copy, "real").split("test")
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": np.zeros((2, 3072), np.uint8)}, protocol=2))
    with pytest.raises(DataError, match="no 'labels', only data"):
        CIFAR10(own_copy, "real").split("test")
    flat = {b"data": np.zeros((2, 1024), np.uint8), b"labels": [0, 0]}
    (folder / "test_batch").write_bytes(pickle.dumps(flat, protocol=2))
    with pytest.raises(DataError, match=r"uint8 \[N, 3072\], got uint8 \(2, 1024\)"):
        CIFAR10(own_copy, "real").split("test")
    short = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}
    (folder / "test_batch").write_bytes(pickle.dumps(short, protocol=2))
    with pytest.raises(DataError, match="'labels' must be 2 integers"):
        CIFAR10(own_copy, "real").split("test")
    alien = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}
    (folder / "test_batch").write_bytes(pickle.dumps(alien, protocol=2))
    with pytest.raises(DataError, match=r"labels must be 0\.\.9"):
        CIFAR10(own_copy, "real").split("test")


def test_missing_files_and_the_folder_itself_as_root(own_copy: Path) -> None:
    direct = CIFAR10(own_copy / "cifar-10-batches-py", "real")
    direct.prepare_data()
    assert len(direct.split("test")) == 500
    assert direct.data_version() == CIFAR10(own_copy, "real").data_version()
    (own_copy / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3"):
        CIFAR10(own_copy, "real").prepare_data()
    with pytest.raises(DataError, match=r"needs? a root"):
        CIFAR10(variant="real")


def test_real_samples_as_they_lie(real_data: Path) -> None:
    data = CIFAR10(real_data, "real")
    data.prepare_data()
    assert data.spec.classes[:2] == ("airplane", "automobile")
    assert (len(data.split("train")), len(data.split("test"))) == (6000, 1200)
    assert data.split("train")[0]["label"] == 7
