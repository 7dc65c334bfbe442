"""iLab-20M: names, pose folders, training sets, pairs, pitch levels, broken files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import DataError
from datamodules.recognition.ilab20m import BALANCED, CLASSES, ROTATIONS, ILab20M, ILab20MPitch
from datamodules.specs import PosesSpec, Spec


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Two instances of each class, one picture a pose, in the published names, a class that isn't served beside."""
    for rotation in ROTATIONS:
        folder = tmp_path / "ilab-20m" / f"c00_r{rotation:02d}"
        folder.mkdir(parents=True)
        for kind in (*CLASSES, "helicopter"):
            for instance in (8, 9):
                name = f"{kind}-i{instance:04d}-b0077-c00-r{rotation:02d}-l0-f1.jpg"
                Image.fromarray(np.full((6, 8, 3), 20 * rotation, np.uint8)).save(folder / name)
    return tmp_path


def test_published_names(fake: Path) -> None:
    data = ILab20M(fake, "real", image_size=8)
    assert data.spec.image_size == (8, 8)
    assert data.spec.classes == CLASSES
    train, test = data.listing("train"), data.listing("test")
    assert (len(train), len(test)) == (5 * 6 + 5 * 2, 60)
    assert len({(p.kind, p.instance) for p in test}) == 10
    assert not {(p.kind, p.instance) for p in test} & {(p.kind, p.instance) for p in train}
    sample = data.split("test")[0]
    assert "mask" not in sample
    assert sample["image"].mean() == pytest.approx(20 / 255, abs=0.01)  # rotation 1 is pose 1
    assert sample["pose"].tolist() == [1.0, 1.0]
    yaw = int(sample["target_pose"][0])
    assert sample["target_image"].mean() == pytest.approx(20 * ROTATIONS[yaw - 1] / 255, abs=0.01)
    assert sample["target_class"] == yaw - 1


def test_real_size_is_the_papers(fake: Path) -> None:
    assert ILab20M(fake, "real").spec.image_size == (256, 256)


@pytest.mark.parametrize("name", ["boat.jpg", "boat-i0008-b0077-c00-r02-l0-f1.jpg"])
def test_a_wrong_name_is_named(fake: Path, name: str) -> None:
    folder = fake / "ilab-20m" / "c00_r01"
    next(folder.glob("boat-*.jpg")).rename(folder / name)
    with pytest.raises(DataError, match=rf"{name}: expected a name such as boat-i0008"):
        ILab20M(fake, "real").listing("train")


def test_missing_and_broken_files_are_named(fake: Path) -> None:
    folder = fake / "ilab-20m" / "c00_r04"
    picture = next(folder.glob("boat-*.jpg"))
    picture.write_bytes(b"\xff\xd8broken")
    data = ILab20M(fake, "real", image_size=8)
    samples = (
        split[index] for split in (data.split("train"), data.split("test")) for index in range(len(split))
    )
    with pytest.raises(DataError, match=rf"{picture.name}: cannot be read as a picture"):
        list(samples)
    for path in fake.glob("ilab-20m/*/boat-i0009*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match=r"1 instance\(s\) of 'boat'"):
        ILab20M(fake, "real").listing("train")
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"(?s)not found under .*c00_r04.*research use"):
        ILab20M(fake, "real").prepare_data()


def test_miniature(cache: Path) -> None:
    data = ILab20M(cache=cache)
    data.prepare_data()
    assert data.verify() == []
    assert len(data.split("train")) == 320
    assert len(data.split("test")) == 240
    assert len(data.split("val")) == 0
    both = ILab20M(cache=cache, training_set="p-b")
    assert len(both.split("train")) == 480
    assert both.listing("test") == data.listing("test")
    assert {p.id for p in data.listing("train")} < {p.id for p in both.listing("train")}
    found = Counter((p.kind, p.pose[0]) for p in data.listing("train"))
    assert found == {
        (kind, yaw): 8 for kind in CLASSES for yaw in (range(1, 7) if kind in BALANCED else (2, 5))
    }
    assert data.spec.seen[0] == (0, 1, 2, 3, 4, 5)
    assert data.spec.seen[1] == (1, 4)
    spec = Spec.from_json(json.loads(json.dumps(data.spec.to_json())))
    assert isinstance(spec, PosesSpec)
    assert spec == data.spec


def test_pairs_of_the_miniature_and_its_masks(cache: Path) -> None:
    data = ILab20M(cache=cache, image_size=64)
    data.prepare_data()
    test = data.split("test")
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape == batch["target_image"].shape == (32, 3, 64, 64)
    assert bool(batch["paired"].all())
    assert bool((batch["pose_class"] != batch["target_class"]).all())
    share = batch["mask"].float().mean(dim=(1, 2))
    assert 0.02 < float(share.min()) < float(share.max()) < 0.6
    first = test[0]
    other = next(
        i
        for i, p in enumerate(test.pictures)
        if p.scene == test.pictures[0].scene and p.pose[0] == first["target_pose"][0]
    )
    torch.testing.assert_close(test[other]["image"], first["target_image"])
    # The background of a scene doesn't turn: outside both objects, source and target agree.
    outside = ~(first["mask"] | next(test[i] for i in range(6) if test.target[i] == 0)["mask"])
    assert float((first["image"] - first["target_image"]).abs()[:, outside].mean()) < 0.02


def test_pitch_levels(cache: Path) -> None:
    data = ILab20MPitch(cache=cache)
    spec = data.spec
    assert (spec.yaws, spec.pitches) == (6, 3)
    assert spec.seen[0] == tuple(range(18))
    assert spec.seen[1] == (1, 4, 7, 10, 13, 16)
    assert len(data.listing("train")) == 4 * 3 * (5 * 6 + 5 * 2)
    assert {p.pose[1] for p in data.listing("test")} == {1, 2, 3}
    assert len({p.scene for p in data.listing("test")}) == 20
    sample = data.split("test")[0]
    assert (sample["pose"] != sample["target_pose"]).any()
    assert ILab20MPitch(cache=cache, cameras=(0, 2)).spec.pitches == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cameras": ()}, "cameras must be"),
        ({"cameras": (0, 0)}, "cameras must be"),
        ({"test_share": 1.0}, "test_share"),
    ],
)
def test_wrong_options(cache: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ILab20M(cache=cache, **options)
