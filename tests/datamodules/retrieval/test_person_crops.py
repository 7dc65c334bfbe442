"""Market-1501 and DukeMTMC-reID: published names, labels, cameras, splits, flips, the holdout, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import DataError, Visit
from datamodules.retrieval.duke_mtmc import DukeMTMC
from datamodules.retrieval.market1501 import Market1501
from datamodules.retrieval.person_crops import PersonCrops

SMALL = (64, 32)


def write_crop(path: Path, colour: tuple[int, int, int] = (10, 20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((128, 64, 3), colour, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A few files with the names of the published archive, under its folder."""
    market = tmp_path / "Market-1501-v15.09.15"
    for name in ("0002_c1s1_000451_03", "0002_c3s1_000776_01", "0007_c6s3_077392_02"):
        write_crop(market / "bounding_box_train" / f"{name}.jpg")
    for name in ("-1_c1s1_000401_03", "0000_c1s1_000151_01", "0003_c4s6_015641_02"):
        write_crop(market / "bounding_box_test" / f"{name}.jpg")
    write_crop(market / "query" / "0003_c1s6_015971_00.jpg")
    (market / "bounding_box_train" / "Thumbs.db").write_bytes(b"published with it")
    return tmp_path


def test_published_names(root: Path) -> None:
    data = Market1501(root, "real")
    spec = data.spec
    assert (spec.identities, spec.cameras, spec.image_size) == (2, 6, (256, 128))
    train, test = data.split("train"), data.split("test")
    assert [(s["label"], s["camera"]) for s in train] == [(0, 0), (0, 2), (1, 5)]
    assert [(s["label"], s["camera"], s["is_query"]) for s in test] == [
        (3, 0, True),
        (-1, 0, False),
        (0, 0, False),
        (3, 3, False),
    ]
    assert test[0]["id"] == "query/0003_c1s6_015971_00"
    assert test[0]["image"].shape == (3, 256, 128)
    batch = next(iter(data.test_dataloader()))
    assert batch["is_query"].dtype == torch.bool
    assert batch["label"].dtype == batch["camera"].dtype == torch.int64
    assert batch["image"].dtype == torch.float32


def test_names_of_duke(tmp_path: Path) -> None:
    for folder in ("bounding_box_train", "bounding_box_test", "query"):
        write_crop(tmp_path / folder / "0001_c8_f0046182.jpg", (255, 0, 0))
    data = DukeMTMC(tmp_path, "real", image_size=(8, 4))
    sample = data.split("train")[0]
    assert (sample["label"], sample["camera"]) == (0, 7)
    assert sample["image"][:, 4, 2].tolist() == pytest.approx([1, 0, 0], abs=0.02)  # RGB


@pytest.mark.parametrize("reader", [Market1501, DukeMTMC])
def test_miniature(reader: type[PersonCrops], cache: Path) -> None:
    data = reader(cache=cache, image_size=SMALL)
    assert (data.spec.identities, data.spec.cameras) == (40, 4)
    train, test = data.split("train"), data.split("test")
    assert len(data.split("val")) == 0
    assert {crop.label for crop in train.crops} == set(range(40))
    assert {crop.person for crop in train.crops}.isdisjoint({crop.person for crop in test.crops})
    queries = [crop for crop in test.crops if crop.is_query]
    assert test.crops[: len(queries)] == queries
    assert len({crop.person for crop in queries}) == 20
    assert {0, -1} <= {crop.person for crop in test.crops}
    for query in queries:
        assert any(
            crop.person == query.person and crop.camera != query.camera
            for crop in test.crops
            if not crop.is_query
        )
    assert data.verify() == []


def test_flips_in_training_only(cache: Path) -> None:
    data = Market1501(cache=cache, image_size=SMALL, seed=5)
    train = data.split("train")
    plain = train[3]["image"]
    looks = [train[Visit(3, epoch)]["image"] for epoch in range(12)]
    flipped = [torch.equal(look, plain.flip(-1)) for look in looks]
    assert [torch.equal(look, plain) for look in looks] == [not mirrored for mirrored in flipped]
    assert 0 < sum(flipped) < 12
    again = Market1501(cache=cache, image_size=SMALL, seed=5).split("train")
    assert torch.equal(again[Visit(3, 7)]["image"], looks[7])
    for batch in data.in_order("train"):
        assert torch.equal(batch["image"][3], plain)
        break
    never = Market1501(cache=cache, image_size=SMALL, flip=False).split("train")
    assert all(torch.equal(never[Visit(3, epoch)]["image"], plain) for epoch in range(6))


def test_holdout_serves_persons_for_validation(cache: Path) -> None:
    data = Market1501(cache=cache, image_size=SMALL, holdout=10)
    train, val = data.split("train"), data.split("val")
    assert data.spec.identities == 30 == len({crop.label for crop in train.crops})
    assert len({crop.person for crop in val.crops}) == 10
    assert {crop.person for crop in train.crops}.isdisjoint({crop.person for crop in val.crops})
    queries = [(crop.person, crop.camera) for crop in val.crops if crop.is_query]
    assert len(queries) == len(set(queries)) == len({(crop.person, crop.camera) for crop in val.crops})
    with pytest.raises(ValueError, match="cannot hold out 40 of 40"):
        _ = Market1501(cache=cache, holdout=40).spec


def test_renders_the_same_bytes_each_time(cache: Path, tmp_path: Path) -> None:
    data = Market1501(cache=cache)
    data.prepare_data()
    Market1501.render(tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.jpg"))
    assert len(files) > 900
    for file in files[::50]:
        assert (tmp_path / file).read_bytes() == (data.root / file).read_bytes()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("bounding_box_train/person.jpg", "must begin with person and camera"),
        (
            "bounding_box_train/0000_c1s1_000151_01.jpg",
            "belongs in bounding_box_test, not bounding_box_train",
        ),
        ("query/-1_c1s1_000151_01.jpg", "belongs in bounding_box_test, not query"),
        ("query/0003_c0s1_000151_01.jpg", "must begin with person and camera"),
    ],
)
def test_wrong_names_are_refused(root: Path, file: str, message: str) -> None:
    write_crop(root / "Market-1501-v15.09.15" / file)
    with pytest.raises(DataError, match=message) as error:
        _ = Market1501(root, "real").spec
    assert Path(file).name in str(error.value)


def test_missing_and_damaged_files(root: Path) -> None:
    damaged = root / "Market-1501-v15.09.15" / "query" / "0003_c1s6_015971_00.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    data = Market1501(root, "real")
    with pytest.raises(DataError, match=r"0003_c1s6_015971_00\.jpg cannot be read"):
        data.split("test")[0]
    shutil.rmtree(root / "Market-1501-v15.09.15" / "query")
    with pytest.raises(DataError, match=r"query/\*\.jpg"):
        Market1501(root, "real").prepare_data()
    with pytest.raises(ValueError, match="image_size"):
        Market1501(image_size=(0, 32))
