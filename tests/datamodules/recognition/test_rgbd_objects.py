"""RGB-D Object Dataset: frames to poses, training sets of one to three poses, names, the miniature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.base import DataError
from datamodules.recognition.rgbd_objects import FIFTEEN, HARD, RGBDObjects, RGBDObjects1, RGBDObjects2


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Two instances a category, 18 frames (20 degrees apart) of videos 1 and 2, and a depth file beside each."""
    for kind in HARD:
        for instance in (1, 2):
            folder = tmp_path / "rgbd-dataset" / kind / f"{kind}_{instance}"
            folder.mkdir(parents=True)
            for video in (1, 2):
                for frame in range(1, 19):
                    stem = folder / f"{kind}_{instance}_{video}_{frame}"
                    Image.fromarray(np.full((5, 9, 3), 10 * frame, np.uint8)).save(f"{stem}_crop.png")
                    Path(f"{stem}_depthcrop.png").touch()
    return tmp_path


def test_frames_to_poses() -> None:
    data = RGBDObjects(tolerance=10.0)
    assert [data.pose_of(frame, 36) for frame in (1, 2, 3, 6, 7, 8, 9, 13, 36)] == [
        1,
        1,
        None,
        2,
        2,
        2,
        None,
        3,
        1,
    ]
    assert RGBDObjects(tolerance=30.0).pose_of(4, 36) in (
        1,
        2,
    )  # with the largest tolerance no frame is left out
    with pytest.raises(ValueError, match="tolerance"):
        RGBDObjects(tolerance=31.0)


def test_published_names(fake: Path) -> None:
    data = RGBDObjects(fake, "real", image_size=8, training_set="p-b")
    assert data.spec.classes == HARD
    assert (len(data.listing("train")), len(data.listing("test"))) == (36, 36)
    assert {p.path.name.split("_")[-3] for p in data.listing("test")} == {"1"}
    (pose4,) = [p for p in data.listing("test") if p.kind == "comb" and p.pose == (4, 1)]
    assert pose4.path.name.endswith("_1_10_crop.png")  # 180 degrees
    assert data.split("test")[0]["image"].shape == (3, 8, 8)


@pytest.mark.parametrize(("training_set", "poses"), [("p-ub-1", 1), ("p-ub-2", 2), ("p-ub-3", 3), ("p-b", 6)])
def test_training_sets(fake: Path, training_set: str, poses: int) -> None:
    data = RGBDObjects(fake, "real", image_size=8, training_set=training_set)
    assert [len(numbers) for numbers in data.spec.seen] == [poses] * 6
    assert len(data.listing("train")) == 6 * poses
    assert len(data.listing("test")) == 36
    more = RGBDObjects(fake, "real", image_size=8, training_set="p-ub-3").spec.seen
    assert all(set(a) <= set(b) for a, b in zip(data.spec.seen, more, strict=True)) or poses == 6


@pytest.mark.parametrize(("dataset", "poses"), [(RGBDObjects1, 1), (RGBDObjects2, 2), (RGBDObjects, 3)])
def test_smaller_training_sets_have_datasets_of_their_own(
    fake: Path, dataset: type[RGBDObjects], poses: int
) -> None:
    data = dataset(fake, "real", image_size=8)
    same = RGBDObjects(fake, "real", image_size=8, training_set=f"p-ub-{poses}")
    assert data.spec.seen == same.spec.seen
    assert data.listing("train") == same.listing("train")
    assert data.listing("test") == same.listing("test")
    assert data.split("test").target == same.split("test").target
    assert len(dataset(fake, "real", training_set="p-b").listing("train")) == 36


def test_wrong_names_and_missing_categories_are_named(fake: Path) -> None:
    with pytest.raises(DataError, match="no pictures of 'binder'"):
        RGBDObjects(fake, "real", categories="fifteen").listing("train")
    assert set(HARD) < set(FIFTEEN)
    folder = fake / "rgbd-dataset" / "comb" / "comb_1"
    (folder / "comb_1_1_1_crop.png").rename(folder / "comb_2_1_1_crop.png")
    with pytest.raises(DataError, match=r"comb_2_1_1_crop\.png: expected a name such as comb_1_1_23_crop"):
        RGBDObjects(fake, "real").listing("train")


def test_miniature(cache: Path) -> None:
    data = RGBDObjects(cache=cache)
    data.prepare_data()
    assert data.verify() == []
    assert len(data.split("train")) == 6 * 5 * 3
    assert len(data.split("test")) == 6 * 3 * 6
    batch = next(iter(data.test_dataloader()))
    assert bool(batch["paired"].all())
    assert batch["mask"].any(dim=(1, 2)).all()
    assert sorted({pose for p in data.listing("test") for pose in [p.pose]}) == [
        (yaw, 1) for yaw in range(1, 7)
    ]
