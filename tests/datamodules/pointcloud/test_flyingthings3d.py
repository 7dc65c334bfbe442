"""FlyingThings3D: the published layouts, flips, splits and draws, and every way a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError, Visit
from datamodules.pointcloud.flyingthings3d import (
    BROKEN,
    FlyingThings3DOccluded,
    FlyingThings3DPerfect,
    FlyingThings3DSubset,
    held_out,
    write_npz,
)

HOME = "FlyingThings3D_subset_processed_35m"
HOME_O = "data_processed_maxcut_35_20k_2k_8192"


def write_subset(root: Path, sizes: tuple[int, ...] = (50, 50, 50), moved: float = 0.5) -> None:
    """Scenes whose points are i, 2 i, 3 i / 100 in the file, moved along z."""
    for part in ("train", "val"):
        for number, size in enumerate(sizes):
            folder = root / HOME / part / f"{number:07d}"
            folder.mkdir(parents=True)
            first = (np.arange(size)[:, None] * np.array([1, 2, 3]) / 100).astype(np.float32)
            np.save(folder / "pc1.npy", first)
            np.save(folder / "pc2.npy", first + np.array([0, 0, moved], np.float32))


def write_occluded(root: Path, name: str, **changes: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "points1": rng.normal(size=(30, 3)).astype(np.float32),
        "points2": rng.normal(size=(40, 3)).astype(np.float32),
        "flow": rng.normal(size=(30, 3)).astype(np.float32),
        "valid_mask1": np.arange(30) % 3 > 0,
    }
    (root / HOME_O).mkdir(parents=True, exist_ok=True)
    write_npz(
        root / HOME_O / name,
        **{key: value for key, value in {**arrays, **changes}.items() if value is not None},
    )
    return root / HOME_O / name


def test_axes_are_flipped_and_the_flow_follows_the_points_drawn(tmp_path: Path) -> None:
    write_subset(tmp_path)
    sample = FlyingThings3DSubset(tmp_path, "real", points=20).split("test")[0]
    assert {key: tuple(value.shape) for key, value in sample.items() if key != "id"} == {
        "first": (20, 3), "second": (20, 3), "flow": (20, 3), "mask": (20,), "match": (20,),
    }  # fmt: skip
    number = (-100 * sample["first"][:, 0]).round()
    torch.testing.assert_close(sample["first"][:, 1], 2 * number / 100)
    torch.testing.assert_close(sample["first"][:, 2], -3 * number / 100)
    torch.testing.assert_close(
        sample["flow"], torch.tensor([0.0, 0.0, -0.5]).expand(20, 3), atol=1e-6, rtol=0
    )
    assert sample["mask"].all()
    assert len(set(number.tolist())) == 20
    assert number.tolist() != sorted(number.tolist())


def test_the_clouds_are_drawn_independently_and_known_partners_are_told(tmp_path: Path) -> None:
    write_subset(tmp_path)
    sample = FlyingThings3DSubset(tmp_path, "real", points=20).split("test")[0]
    first, second = ((-100 * sample[key][:, 0]).round().tolist() for key in ("first", "second"))
    assert set(first) != set(second)
    for own, partner in zip(first, sample["match"].tolist(), strict=True):
        assert (second[partner] == own) if partner >= 0 else (own not in second)
    assert 0 < int((sample["match"] >= 0).sum()) < 20


def test_in_the_perfect_world_the_moved_points_are_a_permutation(tmp_path: Path) -> None:
    write_subset(tmp_path)
    sample = FlyingThings3DPerfect(tmp_path, "real", points=20).split("test")[0]
    assert sorted(sample["match"].tolist()) == list(range(20))
    assert sample["match"].tolist() != list(range(20))
    torch.testing.assert_close(sample["first"] + sample["flow"], sample["second"][sample["match"]])


def test_points_are_drawn_anew_in_training_and_stay_in_evaluation(tmp_path: Path) -> None:
    write_subset(tmp_path, (50,) * 12)
    data = FlyingThings3DSubset(tmp_path, "real", points=20, draws=3, seed=1)
    train = data.split("train")
    assert not torch.equal(train[Visit(0, 0)]["first"], train[Visit(0, 1)]["first"])
    assert torch.equal(train[Visit(0, 1)]["first"], train[Visit(0, 1)]["first"])
    test = data.split("test")
    assert len(test) == 36
    assert [test[number]["id"] for number in (0, 12, 24)] == [f"val/0000000#{draw}" for draw in range(3)]
    assert not torch.equal(test[0]["first"], test[12]["first"])
    other_seed = FlyingThings3DSubset(tmp_path, "real", points=20, draws=3, seed=2)
    assert torch.equal(test[12]["first"], other_seed.split("test")[12]["first"])
    assert not torch.equal(train[Visit(0, 0)]["first"], other_seed.split("train")[Visit(0, 0)]["first"])
    assert len(data.split("val")) == 2  # a sixth of 12, drawn once


def test_validation_examples_are_evenly_spaced() -> None:
    out = held_out(19_640)
    assert out.sum() == 2000
    assert out[0]
    assert out[-1]
    assert set(np.diff(np.flatnonzero(out))) == {9, 10}
    assert held_out(240).sum() == 40
    assert held_out(5).sum() == 0


def test_scenes_of_unequal_sizes_share_a_batch(tmp_path: Path) -> None:
    write_subset(tmp_path, (50, 7))
    data = FlyingThings3DSubset(tmp_path, "real", points=20, test_batch_size=2)
    batch = next(iter(data.test_dataloader()))
    assert batch["first"].shape == (2, 20, 3)
    assert batch["first_valid"].sum(1).tolist() == [20, 7]
    assert batch["second_valid"].sum(1).tolist() == [20, 7]
    assert batch["mask"].sum(1).tolist() == [20, 7]
    assert batch["match"][1, 7:].tolist() == [-1] * 13
    assert sorted((-100 * batch["first"][1, :7, 0]).round().tolist()) == list(range(7))
    assert not batch["first"][1, 7:].any()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: np.save(f, np.zeros((9, 3), np.float32)), "9 points and pc2.npy 50"),
        (lambda f: np.save(f, np.zeros((50, 2), np.float32)), r"floating \[N, 3\], got float32 \[50, 2\]"),
        (lambda f: np.save(f, np.zeros((50, 3), np.int64)), "got int64"),
        (lambda f: np.save(f, np.full((50, 3), np.nan, np.float32)), "NaN or infinity in 150 places"),
        (lambda f: np.save(f, np.zeros((0, 3), np.float32)), "holds no point"),
        (lambda f: f.write_bytes(f.read_bytes()[:200]), "cannot be read"),
        (lambda f: np.save(f, np.array([{}]), allow_pickle=True), "cannot be read"),
    ],
)
def test_damaged_clouds_are_named(damage: object, message: str, tmp_path: Path) -> None:
    write_subset(tmp_path)
    damage(tmp_path / HOME / "val" / "0000001" / "pc1.npy")
    with pytest.raises(DataError, match=message) as caught:
        FlyingThings3DSubset(tmp_path, "real").split("test")[1]
    assert "0000001" in str(caught.value)


def test_missing_files_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"HPLFlowNet.*research purposes"):
        FlyingThings3DSubset(tmp_path, "real").prepare_data()
    write_subset(tmp_path)
    (tmp_path / HOME / "val" / "0000000" / "pc2.npy").unlink()
    with pytest.raises(DataError, match=r"pc2\.npy is missing"):
        FlyingThings3DSubset(tmp_path, "real").split("test")[0]
    with pytest.raises(ValueError, match="points and draws must be positive"):
        FlyingThings3DSubset(tmp_path, "real", points=0)


def test_occluded_points_stay_in_and_are_masked(tmp_path: Path) -> None:
    write_occluded(tmp_path, "TRAIN_A_0000_left_0006-0.npz")
    path = write_occluded(tmp_path, "TEST_A_0000_left_0006-0.npz")
    data = FlyingThings3DOccluded(tmp_path, "real", points=25)
    assert data.spec.occlusions
    sample = data.split("test")[0]
    with np.load(path) as content:
        for row in range(25):
            (own,) = np.flatnonzero((content["points1"] == sample["first"][row].numpy()).all(1))
            assert bool(content["valid_mask1"][own]) == bool(sample["mask"][row])
            assert np.array_equal(content["flow"][own], sample["flow"][row].numpy())
    assert 0 < int(sample["mask"].sum()) < 25
    assert sample["match"].tolist() == [-1] * 25


def test_the_broken_file_and_wholly_occluded_ones_are_left_out(tmp_path: Path) -> None:
    names = [f"TRAIN_A_{number:04d}_left_0006-0.npz" for number in range(4)]
    for name in (*names, "TEST_A_0000_left_0006-0.npz"):
        write_occluded(tmp_path, name)
    write_occluded(tmp_path, names[1], valid_mask1=np.zeros(30, bool))
    write_occluded(tmp_path, BROKEN, flow=np.full((30, 3), np.nan, np.float32))
    data = FlyingThings3DOccluded(tmp_path, "real")
    train = data.split("train")
    assert [train[number]["id"] + ".npz" for number in range(len(train))] == [names[0], *names[2:]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow": None}, "no flow; it holds points1, points2, valid_mask1"),
        ({"flow": np.zeros((3, 3), np.float32)}, "flow has 3 rows, points1 30"),
        ({"valid_mask1": np.ones(29, bool)}, "valid_mask1 has 29 entries, points1 30"),
        ({"valid_mask1": np.full(30, 7)}, r"must be \[N\] of 0 and 1"),
        ({"points2": np.zeros((4, 6), np.float32)}, r"points2 must be floating \[N, 3\]"),
    ],
)
def test_damaged_archives_are_named(changes: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    write_occluded(tmp_path, "TRAIN_A_0000_left_0006-0.npz")
    write_occluded(tmp_path, "TEST_A_0007_left_0006-0.npz", **changes)
    with pytest.raises(DataError, match=message) as caught:
        FlyingThings3DOccluded(tmp_path, "real").split("test")[0]
    assert "TEST_A_0007" in str(caught.value)


def test_a_cut_archive_is_named(tmp_path: Path) -> None:
    write_occluded(tmp_path, "TRAIN_A_0000_left_0006-0.npz")
    path = write_occluded(tmp_path, "TEST_A_0000_left_0006-0.npz")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be read"):
        FlyingThings3DOccluded(tmp_path, "real").split("test")


@pytest.mark.parametrize("cls", [FlyingThings3DSubset, FlyingThings3DPerfect, FlyingThings3DOccluded])
def test_the_miniature_is_of_the_published_layout(cls: type[FlyingThings3DSubset], cache: Path) -> None:
    data = cls(points=64, cache=cache, batch_size=4)
    data.prepare_data()
    assert not data.missing()
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [200, 40, 40]
    batch = next(iter(data.train_dataloader()))
    assert batch["first"].shape == (4, 64, 3)
    assert batch["first"].dtype == torch.float32
    assert 4 < float(batch["first"][..., 2].min()) < float(batch["first"][..., 2].max()) < 35
    ids = {data.split(split)[n]["id"] for split in ("train", "val", "test") for n in range(40)}
    assert len(ids) == 120
    assert data.spec.matched == (cls is FlyingThings3DPerfect)


def test_the_rendering_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.pointcloud.flyingthings3d.MINI_TRAIN", 2)
    monkeypatch.setattr("datamodules.pointcloud.flyingthings3d.MINI_TEST", 1)
    for cls in (FlyingThings3DSubset, FlyingThings3DOccluded):
        contents = []
        for turn in ("one", "two"):
            cls.render(tmp_path / turn / cls.name)
            files = sorted(path for path in (tmp_path / turn / cls.name).rglob("*") if path.is_file())
            contents.append([path.read_bytes() for path in files])
        assert contents[0] == contents[1]
        assert len(contents[0]) in (3, 6)
