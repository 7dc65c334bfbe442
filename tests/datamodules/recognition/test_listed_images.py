"""The reader of listed pictures: sizes, crops, boxes, held-out pictures and messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import DataError
from datamodules.recognition.listed_images import (
    LabelledImagesDataset,
    Listed,
    ListedImages,
    Sizing,
    Subset,
    folders,
    load_image,
    read_lines,
    served_box,
)


class Dots(LabelledImagesDataset):
    """Ten training and four test pictures of one grey value each."""

    name = "dots"
    tasks = ("image-classification",)
    title = url = licence = "test"
    required = ("*.png",)

    @property
    def classes(self) -> tuple[str, ...]:
        return ("dark", "light")

    def published(self, subset: Subset) -> list[Listed]:
        start, stop = (0, 10) if subset == "train" else (10, 14)
        return [Listed(f"{i}", self.root / f"{i}.png", {"label": i % 2}) for i in range(start, stop)]

    @classmethod
    def render(cls, folder: Path) -> None:
        for i in range(14):
            Image.fromarray(np.full((6, 9), 10 * i, np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def gradient(tmp_path: Path) -> Path:
    """A picture 40 wide and 20 high whose red is the column and whose green is the row."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(40), np.arange(20)[:, None]
    path = tmp_path / "gradient.png"
    Image.fromarray(pixels).save(path)
    return path


def test_sizes_are_checked_and_told() -> None:
    assert Sizing((256, 256), 224).served == (224, 224)
    assert Sizing((48, 64), None).served == (48, 64)
    assert Sizing(32, 24).resized(100, 50) == (64, 32)
    assert Sizing(32, 24).resized(50, 100) == (32, 64)
    with pytest.raises(ValueError, match="cannot crop 65"):
        Sizing((64, 80), 65)
    with pytest.raises(ValueError, match="set crop_size"):
        Sizing(32, None)


def test_crop_is_central_and_unscaled_where_sizes_match(gradient: Path) -> None:
    image, original = load_image(gradient, Sizing((20, 40), 10))
    assert original == (20, 40)
    assert image.shape == (3, 10, 10)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image[0, 0] * 255, torch.arange(15.0, 25.0))
    torch.testing.assert_close(image[1, :, 0] * 255, torch.arange(5.0, 15.0))


def test_keeping_the_shape_differs_from_squashing(gradient: Path) -> None:
    kept, _ = load_image(gradient, Sizing(10, 10))  # 20 x 10, of which the middle 10
    squashed, _ = load_image(gradient, Sizing((10, 10), None))
    assert (kept[0].max() - kept[0].min()) * 255 < 22
    assert (squashed[0].max() - squashed[0].min()) * 255 > 33


def test_box_follows_resize_and_crop() -> None:
    # 20 x 40 -> 40 x 40 (twice as high), crop 20 off (10, 10).
    box = served_box((12, 6, 6, 4), (20, 40), Sizing((40, 40), 20))
    torch.testing.assert_close(box, torch.tensor([2.0, 2.0, 8.0, 10.0]))
    whole = served_box((0, 0, 40, 20), (20, 40), Sizing((40, 40), 20))
    torch.testing.assert_close(whole, torch.tensor([0.0, 0.0, 20.0, 20.0]))


def test_grey_pictures_get_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 51, np.uint8)).save(tmp_path / "grey.png")
    image, _ = load_image(tmp_path / "grey.png", Sizing((4, 4), None))
    torch.testing.assert_close(image, torch.full((3, 4, 4), 0.2))


def test_broken_and_missing_files_are_named(tmp_path: Path, gradient: Path) -> None:
    broken = tmp_path / "broken.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(broken)
    broken.write_bytes(broken.read_bytes()[:900])
    for path in (broken, tmp_path / "missing.jpg"):
        with pytest.raises(DataError, match=path.name):
            load_image(path, Sizing((8, 8), None))
    with pytest.raises(DataError, match=r"none\.txt"):
        read_lines(tmp_path / "none.txt")


def test_samples_carry_values_id_and_box(gradient: Path) -> None:
    samples = ListedImages(
        [Listed("a", gradient, {"label": 3, "flag": True}, (0, 0, 40, 10))], Sizing((20, 20), None)
    )
    sample = samples[0]
    assert len(samples) == 1
    assert (sample["label"], sample["flag"], sample["id"]) == (3, True, "a")
    torch.testing.assert_close(sample["box"], torch.tensor([0.0, 0.0, 20.0, 10.0]))


def test_holdout_moves_training_pictures_to_val(cache: Path) -> None:
    whole, held = Dots(cache=cache), Dots(cache=cache, holdout=3)
    whole.prepare_data()
    assert len(whole.split("train")) == 10
    assert len(whole.split("val")) == 0
    train, val = ({listed.id for listed in held.listing(split)} for split in ("train", "val"))
    assert (len(train), len(val)) == (7, 3)
    assert train | val == {str(i) for i in range(10)}
    assert val == {listed.id for listed in Dots(cache=cache, holdout=3, seed=5).listing("val")}
    assert [listed.id for listed in held.listing("test")] == ["10", "11", "12", "13"]
    with pytest.raises(ValueError, match="cannot hold out 10 of 10"):
        Dots(cache=cache, holdout=10).listing("train")
    with pytest.raises(ValueError, match="negative"):
        Dots(cache=cache, holdout=-1)


def test_default_sizes_follow_the_variant(cache: Path, tmp_path: Path) -> None:
    assert Dots(cache=cache).spec.image_size == (64, 64)
    assert Dots(cache=cache, crop_size=56).spec.image_size == (56, 56)
    assert Dots(cache=cache, image_size=[24, 32]).spec.image_size == (24, 32)
    Dots.render(tmp_path)
    real = Dots(tmp_path, "real")
    assert real.spec.image_size == (224, 224)
    assert real.split("test")[0]["image"].shape == (3, 224, 224)
    assert Dots(tmp_path, "real", image_size=48).spec.image_size == (48, 48)
    assert Dots(tmp_path, "real", image_size=48, crop_size=40, keep_shape=True).sizing.resized(6, 9) == (
        48,
        72,
    )
    with pytest.raises(ValueError, match="keep_shape"):
        Dots(tmp_path, "real", image_size=(48, 40), crop_size=40, keep_shape=True)


def test_batches_are_stacked_and_typed(cache: Path) -> None:
    data = Dots(cache=cache, batch_size=4)
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 64, 64)
    assert batch["label"].dtype == torch.int64
    assert len(next(iter(data.test_dataloader()))["id"]) == 4


def test_root_may_hold_a_folder_of_the_dataset(tmp_path: Path) -> None:
    (tmp_path / "dots").mkdir()
    Dots.render(tmp_path / "dots")
    data = Dots(tmp_path, "real")
    data.prepare_data()
    assert data.root == tmp_path / "dots"
    assert Dots(tmp_path / "dots", "real").root == data.root


def test_folders_sort_without_case(tmp_path: Path) -> None:
    for name in ("bird", "Cat", "ant", "Dog"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    assert [folder.name for folder in folders(tmp_path)] == ["ant", "bird", "Cat", "Dog"]
