"""Scene attributes: quarters of rendered scenes, one coloured shape each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError
from datamodules.language.scene_attributes import CLASSES, EACH, SceneAttributes
from datamodules.miniature.captioned_scenes import COLOURS


@pytest.fixture(scope="module")
def data(cache: Path) -> SceneAttributes:
    dataset = SceneAttributes(cache=cache)
    dataset.prepare_data()
    return dataset


def test_splits_hold_as_many_of_each_class(data: SceneAttributes) -> None:
    assert len(CLASSES) == 60 == len(set(CLASSES))
    for split, each in EACH.items():
        labels = [label for _, label in data.split(split).files]
        assert np.bincount(labels, minlength=60).tolist() == [each] * 60
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (32, 3, 48, 48)
    assert batch["image"].dtype == torch.float32
    assert len(set(batch["id"])) == 32


def test_pictures_show_the_colour_and_the_size_of_their_class(data: SceneAttributes) -> None:
    """Most pixels that are near a class colour are near the picture's own; a large thing has more of them."""
    colours = torch.tensor(list(COLOURS.values()))
    area = {"small": [], "large": []}
    right = 0
    for sample in data.split("test"):
        size, colour, _ = CLASSES[sample["label"]].split("_")
        pixels = sample["image"].permute(1, 2, 0).reshape(-1, 1, 3)
        near = (pixels - 0.93 * colours).abs().sum(2) < 0.35
        right += list(COLOURS)[int(near.sum(0).argmax())] == colour
        area[size].append(int(near[:, list(COLOURS).index(colour)].sum()))
    assert right > 0.98 * len(data.split("test"))
    assert np.mean(area["large"]) > 2 * np.mean(area["small"])


def test_a_class_that_lacks_a_picture_or_has_a_broken_one_is_named(tmp_path: Path) -> None:
    data = SceneAttributes(cache=tmp_path)
    folder = data.miniature_folder
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=f"{CLASSES[0]}: holds 0 pictures, expected 60"):
        data.split("train")
    for name in CLASSES:
        for number in range(EACH["val"]):
            path = folder / "val" / name / f"{number:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"000\.jpg: cannot be read as a picture"):
        data.split("val")[0]


def test_it_is_rendered_only() -> None:
    with pytest.raises(ValueError, match="none of miniature"):
        SceneAttributes("/nowhere", "real")
