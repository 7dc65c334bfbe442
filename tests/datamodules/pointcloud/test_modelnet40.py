"""ModelNet40: the published layout, conditions that are the same for all, and batches of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError, Visit
from datamodules.pointcloud import modelnet40
from datamodules.pointcloud.modelnet40 import ModelNet40
from datamodules.pointcloud.off_meshes import Mesh, write_off
from datamodules.pointcloud.perturbations import CONDITIONS


def make_root(root: Path, train: int = 3, test: int = 2, classes: tuple[str, ...] = ("desk", "xbox")) -> Path:
    for label, name in enumerate(classes):
        for number in range(train + test):
            rng = np.random.default_rng(100 * label + number)
            folder = root / "ModelNet40" / name / ("train" if number < train else "test")
            folder.mkdir(parents=True, exist_ok=True)
            mesh = Mesh(
                5 + rng.normal(size=(6, 3)), rng.permuted(np.tile(np.arange(6), (4, 1)), axis=1)[:, :3]
            )
            write_off(folder / f"{name}_{number + 1:04d}.off", mesh, glued=number == 1)
    return root


def real(tmp_path: Path, **options: object) -> ModelNet40:
    return ModelNet40(tmp_path / "root", "real", cache=tmp_path / "cache", **options)  # type: ignore[arg-type]


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    make_root(tmp_path / "root")
    data = real(tmp_path, points=64)
    assert data.spec.classes == ("desk", "xbox")
    assert data.spec.conditions == tuple(CONDITIONS)
    assert (data.spec.points, data.spec.up) == (64, 2)
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [6, 0, 40]  # type: ignore[arg-type]
    sample = data.split("train")[4]
    assert sample["id"] == "xbox_0002"
    assert (sample["label"], sample["condition"]) == (1, 0)
    points = sample["points"]
    assert points.dtype == torch.float32
    assert points.mean(0).abs().max() < 1e-6
    assert points.norm(dim=1).max().item() == pytest.approx(1)


def test_points_lie_on_the_mesh_and_are_the_same_for_all_seeds(tmp_path: Path) -> None:
    make_root(tmp_path / "root")
    flat = Mesh(np.array([[0.0, 0, 7], [4, 0, 7], [4, 2, 7]]), np.array([[0, 1, 2]]))
    write_off(tmp_path / "root" / "ModelNet40" / "desk" / "train" / "desk_0001.off", flat)
    first = real(tmp_path, points=50, seed=1)
    second = ModelNet40(tmp_path / "root", "real", cache=tmp_path / "another", points=50, seed=2)
    points = first.split("train")[Visit(0, 0)]["points"]
    assert torch.equal(points, second.split("train")[Visit(0, 7)]["points"])
    assert points[:, 2].abs().max() < 1e-6
    x, y = (points - points.amin(0))[:, :2].T
    assert (y <= 0.55 * x + 0.05).all()  # under the hypotenuse, whose slope is 1 / 2
    assert len({tuple(point) for point in points.tolist()}) == 50


def test_every_shape_is_tested_under_every_condition(tmp_path: Path) -> None:
    make_root(tmp_path / "root")
    data = real(tmp_path, points=64)
    test = data.split("test")
    clean = test[1]
    assert clean["id"] == "desk_0005@clean"
    noisy = test[4 * 2 + 1]
    assert (noisy["id"], noisy["condition"]) == ("desk_0005@noise_0.05", 2)
    off = noisy["points"] - clean["points"]
    assert off.std().item() == pytest.approx(0.05, rel=0.25)
    sizes = {name: len(test[4 * number]["points"]) for number, name in enumerate(CONDITIONS)}
    assert (sizes["half_points"], sizes["quarter_points"], sizes["density"]) == (32, 16, 32)
    other = real(tmp_path, points=64, seed=5, batch_size=2).split("test")
    assert all(torch.equal(test[i]["points"], other[i]["points"]) for i in range(40))
    assert not torch.allclose(off, test[4 * 2]["points"] - test[0]["points"])  # each shape has its own noise


def test_batches_never_mix_conditions(tmp_path: Path) -> None:
    make_root(tmp_path / "root")
    data = real(tmp_path, points=64, test_batch_size=3)
    batches = list(data.test_dataloader())
    assert [len(batch["id"]) for batch in batches] == [3, 1] * 10
    assert len(data.test_dataloader()) == 20
    assert all(len(set(batch["condition"].tolist())) == 1 for batch in batches)
    order = [name for batch in batches for name in batch["id"]]
    assert order == [data.split("test")[i]["id"] for i in range(40)]
    assert order == [name for batch in data.test_dataloader() for name in batch["id"]]
    assert len(list(data.val_dataloader())) == 0


def test_conditions_can_be_fewer(tmp_path: Path) -> None:
    make_root(tmp_path / "root")
    assert real(tmp_path, conditions="clean").spec.conditions == ("clean",)
    assert real(tmp_path, conditions="noise").spec.conditions == tuple(CONDITIONS)[:6]
    assert len(real(tmp_path, conditions="noise").split("test")) == 24
    with pytest.raises(ValueError, match="none of all, noise, clean"):
        real(tmp_path, conditions="some")
    with pytest.raises(ValueError, match="points must be 4 or more"):
        real(tmp_path, points=3)


def test_shapes_can_be_held_out_of_training_alone(tmp_path: Path) -> None:
    make_root(tmp_path / "root", train=5)
    data = real(tmp_path, points=16, holdout=2)
    ids = {split: {data.split(split)[i]["id"] for i in range(n)} for split, n in (("train", 6), ("val", 4))}
    assert ids["val"] == {"desk_0001", "desk_0005", "xbox_0001", "xbox_0005"}
    assert not ids["train"] & ids["val"]
    assert {batch["condition"].max().item() for batch in data.val_dataloader()} == {0}
    whole = real(tmp_path, points=16).split("train")
    assert torch.equal(whole[1]["points"], data.split("train")[0]["points"])  # another split, the same points
    with pytest.raises(ValueError, match="cannot hold out 5 of 5"):
        real(tmp_path, holdout=5).split("train")


def test_sampled_points_are_kept_and_belong_to_their_meshes(tmp_path: Path) -> None:
    make_root(tmp_path / "root")
    before = real(tmp_path, points=32).split("train")[0]["points"]
    (kept,) = (tmp_path / "cache").glob("modelnet40-real-*/sampled/train-32-0.npy")
    np.save(kept, np.load(kept) * 2)
    assert torch.equal(real(tmp_path, points=32).split("train")[0]["points"], 2 * before)
    # Other files are other data.
    make_root(tmp_path / "root", train=4)
    assert torch.equal(real(tmp_path, points=32).split("train")[0]["points"], before)
    assert not list((tmp_path / "cache").glob("**/tmp*"))


def test_missing_and_damaged_meshes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)train/\*\.off.*modelnet\.cs\.princeton\.edu.*research only"):
        real(tmp_path).prepare_data()
    make_root(tmp_path / "root")
    broken = tmp_path / "root" / "ModelNet40" / "xbox" / "test" / "xbox_0004.off"
    broken.write_text("OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n")
    with pytest.raises(DataError, match=r"xbox_0004\.off: the mesh has no area"):
        real(tmp_path).split("test")
    broken.write_text("nothing")
    with pytest.raises(DataError, match=r"xbox_0004\.off: does not begin with OFF"):
        real(tmp_path).split("test")


def test_the_miniature_is_of_the_published_layout(cache: Path) -> None:
    data = ModelNet40(points=128, cache=cache, batch_size=16)
    data.prepare_data()
    assert data.missing() == data.verify() == []
    assert len(data.spec.classes) == 8
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(test)) == (200, 800)
    assert np.bincount([train[i]["label"] for i in range(200)]).tolist() == [25] * 8
    ids = {train[i]["id"] for i in range(200)} | {test[i]["id"].split("@")[0] for i in range(80)}
    assert len(ids) == 280
    batch = next(iter(data.train_dataloader()))
    assert batch["points"].shape == (16, 128, 3)
    files = list((data.root / "ModelNet40").rglob("*.off"))
    glued = sum(path.read_text().split("\n")[0] != "OFF" for path in files)
    assert (len(files), glued) == (280, 56)


def test_the_rendering_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelnet40, "MINI_TRAIN", 1)
    monkeypatch.setattr(modelnet40, "MINI_TEST", 1)
    for turn in ("one", "two"):
        ModelNet40.render(tmp_path / turn)
    contents = [
        [path.read_bytes() for path in sorted((tmp_path / turn).rglob("*.off"))] for turn in ("one", "two")
    ]
    assert contents[0] == contents[1]
    assert len(set(contents[0])) == 16
