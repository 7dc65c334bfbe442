"""ImageNet: the published layout, the development kit's ids, crops, and files that are wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError
from datamodules.recognition.imagenet import META, TRUTH, ImageNet, read_leaves


@pytest.fixture
def own_copy(cache: Path, tmp_path: Path) -> Path:
    data = ImageNet(cache=cache)
    data.prepare_data()
    shutil.copytree(data.root, tmp_path / "root")
    return tmp_path / "root"


def test_miniature_in_the_published_layout(cache: Path) -> None:
    data = ImageNet(cache=cache)
    data.prepare_data()
    assert data.verify() == []
    wnids = sorted(folder.name for folder in (data.root / "train").iterdir())
    leaves = read_leaves(data.root / META)
    assert sorted(wnid for wnid, _ in leaves.values()) == wnids
    assert [leaves[i][0] for i in range(1, 7)] != wnids  # ids are not in the order of the wnids
    assert len(data.spec.classes) == 6
    assert data.spec.image_size == (64, 64)
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(test), len(data.split("val"))) == (300, 90, 0)
    sample = test[0]
    assert sample["image"].shape == (3, 64, 64)
    assert sample["image"].dtype == torch.float32
    assert sample["id"] == "ILSVRC2012_val_00000001"


def test_labels_of_both_splits_name_the_same_class(cache: Path) -> None:
    data = ImageNet(cache=cache)
    data.prepare_data()
    leaves = read_leaves(data.root / META)
    truth = [int(line) for line in (data.root / TRUTH).read_text().split()]
    words = {wnid: text.split(",")[0] for wnid, text in leaves.values()}
    for index in (0, 17, 89):
        assert data.spec.classes[data.split("test")[index]["label"]] == words[leaves[truth[index]][0]]
    train = data.split("train")
    for index in (0, 120, 299):
        assert data.spec.classes[train[index]["label"]] == words[train.files[index].parent.name]


def test_renders_the_same_bytes_each_time(cache: Path, tmp_path: Path) -> None:
    data = ImageNet(cache=cache)
    data.prepare_data()
    ImageNet.render(tmp_path)
    for path in (META, TRUTH, "val/ILSVRC2012_val_00000009.JPEG"):
        assert (tmp_path / path).read_bytes() == (data.root / path).read_bytes()


def test_training_crops_move_and_mirror_and_follow_the_seed(cache: Path) -> None:
    def views(seed: int) -> list[torch.Tensor]:
        train = ImageNet(cache=cache, seed=seed).read("train")
        return [train[0]["image"] for _ in range(12)]

    first = views(0)
    assert all(torch.equal(a, b) for a, b in zip(first, views(0), strict=True))
    assert len({image.numpy().tobytes() for image in first}) > 6
    whole = ImageNet(cache=cache, crop_size=72).read("train")
    picture = whole[0]["image"]
    both = (picture, picture.flip(2))
    windows = [full[:, y : y + 64, x : x + 64] for full in both for y in range(9) for x in range(9)]
    found = [[torch.equal(view, window) for window in windows] for view in first]
    assert all(sum(row) == 1 for row in found)
    assert {row.index(True) // 81 for row in found} == {0, 1}  # mirrored and not


def test_test_pictures_are_cut_in_the_centre(cache: Path) -> None:
    full = ImageNet(cache=cache, image_size=72, crop_size=72).split("test")[4]["image"]
    centre = ImageNet(cache=cache).split("test")[4]["image"]
    assert torch.equal(centre, full[:, 4:68, 4:68])
    with pytest.raises(ValueError, match="cannot cut"):
        ImageNet(cache=cache, image_size=32, crop_size=64)


def test_real_files_default_to_the_papers_sizes(own_copy: Path) -> None:
    data = ImageNet(own_copy, "real")
    assert data.spec.image_size == (224, 224)
    assert data.split("test")[0]["image"].shape == (3, 224, 224)


def test_grey_pictures_become_rgb(own_copy: Path) -> None:
    from PIL import Image

    path = own_copy / "val" / "ILSVRC2012_val_00000001.JPEG"
    Image.fromarray(np.full((50, 60), 128, np.uint8)).save(path)
    image = ImageNet(own_copy, "real").split("test")[0]["image"]
    torch.testing.assert_close(image, torch.full((3, 224, 224), 128 / 255))


def test_holdout_is_fixed_and_disjoint(cache: Path) -> None:
    data = ImageNet(cache=cache, holdout=50, seed=1)
    train, val = data.split("train"), data.split("val")
    assert (len(train), len(val)) == (250, 50)
    assert not set(train.files) & set(val.files)
    assert ImageNet(cache=cache, holdout=50, seed=2).split("val").files == val.files
    assert torch.equal(val[0]["image"], val[0]["image"])


def test_wrong_files_are_named(own_copy: Path) -> None:
    truth = own_copy / TRUTH
    lines = truth.read_text().splitlines()
    truth.write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match=r"90 pictures.*89 lines"):
        ImageNet(own_copy, "real").split("test")
    truth.write_text("\n".join([*lines[:-1], "7"]))  # the inner synset
    with pytest.raises(DataError, match="line 90: '7'"):
        ImageNet(own_copy, "real").split("test")
    (own_copy / "train" / "n99999999x").mkdir()
    some = next((own_copy / "val").glob("*.JPEG"))
    shutil.copy(some, own_copy / "train" / "n99999999x" / "a.JPEG")
    with pytest.raises(DataError, match="n99999999x is no class"):
        ImageNet(own_copy, "real").split("train")
    (own_copy / META).write_bytes(b"no mat file")
    with pytest.raises(DataError, match=r"meta\.mat"):
        ImageNet(own_copy, "real").split("test")


def test_truncated_picture_is_named(own_copy: Path) -> None:
    path = own_copy / "val" / "ILSVRC2012_val_00000003.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="00000003"):
        ImageNet(own_copy, "real").split("test")[2]


def test_missing_kit_is_told(own_copy: Path) -> None:
    (own_copy / META).unlink()
    with pytest.raises(DataError, match=r"devkit_t12/data/meta\.mat"):
        ImageNet(own_copy, "real").prepare_data()
