"""Tiny ImageNet: the published tree, labels of both splits, and files that are wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import DataError
from datamodules.recognition.tiny_imagenet import ANNOTATIONS, FOLDER, WNIDS, WORDS, TinyImageNet


@pytest.fixture
def own_copy(cache: Path, tmp_path: Path) -> Path:
    data = TinyImageNet(cache=cache)
    data.prepare_data()
    shutil.copytree(data.root, tmp_path / "root")
    return tmp_path / "root"


def test_the_published_tree(cache: Path) -> None:
    data = TinyImageNet(cache=cache)
    data.prepare_data()
    assert data.verify() == []
    wnids = (data.files / WNIDS).read_text().split()
    assert len(wnids) == 20
    assert sorted(folder.name for folder in (data.files / "train").iterdir()) == sorted(wnids) != wnids
    assert len(list((data.files / "train" / wnids[0] / "images").glob(f"{wnids[0]}_*.JPEG"))) == 30
    assert len((data.files / WORDS).read_text().splitlines()) == 21
    assert (data.files / "train" / wnids[0] / f"{wnids[0]}_boxes.txt").is_file()
    assert len(list((data.files / "test" / "images").glob("*.JPEG"))) == 20
    train, val, test = (data.split(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (600, 0, 200)
    assert np.bincount([label for _, label in test.files]).tolist() == [10] * 20
    sample = test[3]
    assert sample["image"].shape == (3, 64, 64)
    assert sample["image"].dtype == torch.float32
    assert 0 <= float(sample["image"].min()) < float(sample["image"].max()) <= 1
    assert sample["id"] == "val_3"
    assert data.spec.image_size == (64, 64)


def test_labels_of_both_splits_name_the_same_class(cache: Path) -> None:
    data = TinyImageNet(cache=cache)
    data.prepare_data()
    words = dict(line.split("\t") for line in (data.files / WORDS).read_text().splitlines())
    rows = [line.split("\t") for line in (data.files / ANNOTATIONS).read_text().splitlines()]
    classes = data.spec.classes
    for index in (0, 57, 199):
        path, label = data.split("test").files[index]
        assert path.name == rows[index][0]
        assert classes[label] == words[rows[index][1]].split(",")[0]
    for path, label in data.split("train").files[::97]:
        assert classes[label] == words[path.parents[1].name].split(",")[0]
    assert len(set(classes)) == 20


def test_renders_the_same_bytes_each_time(cache: Path, tmp_path: Path) -> None:
    data = TinyImageNet(cache=cache)
    data.prepare_data()
    TinyImageNet.render(tmp_path)
    wnid = (data.files / WNIDS).read_text().split()[4]
    for path in (WNIDS, WORDS, ANNOTATIONS, "val/images/val_9.JPEG", f"train/{wnid}/images/{wnid}_7.JPEG"):
        assert (tmp_path / FOLDER / path).read_bytes() == (data.files / path).read_bytes()


def test_held_out_pictures(cache: Path) -> None:
    data = TinyImageNet(cache=cache, holdout=50)
    train, val = data.split("train"), data.split("val")
    assert (len(train), len(val)) == (550, 50)
    assert not {path for path, _ in train.files} & {path for path, _ in val.files}
    with pytest.raises(ValueError, match="cannot hold out 600"):
        TinyImageNet(cache=cache, holdout=600).split("val")
    with pytest.raises(ValueError, match="not be negative"):
        TinyImageNet(cache=cache, holdout=-1)


def test_real_files_and_the_folder_itself_as_root(own_copy: Path) -> None:
    data = TinyImageNet(own_copy, "real")
    data.prepare_data()
    assert len(data.split("train")) == 600
    direct = TinyImageNet(own_copy / FOLDER, "real")
    assert direct.data_version() == data.data_version()
    grey = own_copy / FOLDER / "val/images/val_0.JPEG"
    Image.open(grey).convert("L").save(grey)
    image = data.split("test")[0]["image"]
    assert torch.equal(image[0], image[2])


def test_damaged_files_are_named(own_copy: Path) -> None:
    home = own_copy / FOLDER

    def data() -> TinyImageNet:
        return TinyImageNet(own_copy, "real")

    Image.new("RGB", (64, 32)).save(home / "val/images/val_1.JPEG")
    with pytest.raises(DataError, match=r"val_1\.JPEG is 64x32, expected 64x64"):
        data().split("test")[1]
    (home / "val/images/val_2.JPEG").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"val_2\.JPEG cannot be read"):
        data().split("test")[2]
    (home / "val/images/val_3.JPEG").unlink()
    with pytest.raises(DataError, match=r"val_3\.JPEG is missing"):
        data().split("test")
    lines = (home / ANNOTATIONS).read_text().splitlines()
    (home / ANNOTATIONS).write_text("\n".join([lines[0], "val_1.JPEG n1 0 0 63 63"]))
    with pytest.raises(DataError, match=r"val_annotations\.txt, line 2: 6 fields"):
        data().split("test")
    (home / ANNOTATIONS).write_text("val_0.JPEG\tn99999999\t0\t0\t63\t63\n")
    with pytest.raises(DataError, match=r"val_0\.JPEG is of n99999999, no class"):
        data().split("test")
    wnids = (home / WNIDS).read_text().split()
    words = (home / WORDS).read_text()
    (home / WORDS).write_text(words.replace(wnids[0], "n00000000"))
    with pytest.raises(DataError, match=rf"words\.txt has no line for {wnids[0]}"):
        _ = data().spec
    shutil.rmtree(home / "train" / wnids[1])
    with pytest.raises(DataError, match=rf"{wnids[1]}/images holds no pictures"):
        data().split("train")
    (home / WNIDS).write_text(f"{wnids[0]}\n{wnids[0]}\n")
    with pytest.raises(DataError, match=r"wnids\.txt must name each class once"):
        data().split("train")
    (home / WNIDS).unlink()
    with pytest.raises(DataError, match=r"not found under .*wnids\.txt"):
        data().prepare_data()
