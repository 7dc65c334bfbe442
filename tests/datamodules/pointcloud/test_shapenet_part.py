"""ShapeNet-Part: the published layout, labels over all categories, and every way a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from datamodules.base import DataError, Visit
from datamodules.pointcloud import shapenet_part
from datamodules.pointcloud.shapenet_part import HOME, PARTS, ShapeNetPart, read_parts, read_points

SYNSETS = {"Mug": "03797390", "Bag": "02773838"}


def make_root(root: Path, points: int = 20) -> Path:
    """Two categories, published in an order of their own; point i lies at (i, i^2 / 9, 0) and is of part 1 or 2."""
    home = root / HOME
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for category, synset in SYNSETS.items():
        for kind in ("points", "points_label"):
            (home / synset / kind).mkdir(parents=True)
        for split, names in lists.items():
            for number in range(2):
                name = f"{category.lower()}{split}{number}"
                lines = [f"{i} {i * i / 9} 0\n" for i in range(points)]
                (home / synset / "points" / f"{name}.pts").write_text("".join(lines))
                labels = [f"{1 + (i >= 12)}\n" for i in range(points)]
                (home / synset / "points_label" / f"{name}.seg").write_text("".join(labels))
                names.append(f"shape_data/{synset}/{name}")
    (home / "synsetoffset2category.txt").write_text("".join(f"{c}\t{s}\n" for c, s in SYNSETS.items()))
    (home / "train_test_split").mkdir()
    for split, names in lists.items():
        (home / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(names[::-1]))
    return root


def test_there_are_fifty_parts_in_sixteen_categories() -> None:
    assert len(PARTS) == 16
    assert sum(len(parts) for parts in PARTS.values()) == 50


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    data = ShapeNetPart(make_root(tmp_path), "real", points=16)
    spec = data.spec
    assert spec.categories == ("Bag", "Mug")
    assert spec.parts == ("Bag handle", "Bag body", "Mug handle", "Mug body")
    assert (spec.first_part, spec.points, spec.up) == ((0, 2), 16, 1)
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [4, 4, 4]  # type: ignore[arg-type]
    sample = data.split("test")[2]  # in the order of the list
    assert sample["id"] == "03797390/mugtest1"
    assert sample["category"] == 1
    points, part = sample["points"], sample["part"]
    assert points.mean(0).abs().max() < 1e-6
    assert points.norm(dim=1).max().item() == pytest.approx(1)
    # Along x the first twelve points are of part 1, published; here of 2 + 0.
    order = points[:, 0].argsort()
    assert part[order].tolist() == sorted(part.tolist())
    assert set(part.tolist()) == {2, 3}


def test_points_are_drawn_without_repetition_anew_in_training(tmp_path: Path) -> None:
    data = ShapeNetPart(make_root(tmp_path), "real", points=16, seed=1)
    train, test = data.split("train"), data.split("test")
    one, two = train[Visit(0, 0)]["points"], train[Visit(0, 1)]["points"]
    assert not torch.equal(one, two)
    assert torch.equal(one, train[Visit(0, 0)]["points"])
    assert len({tuple(row) for row in one.tolist()}) == 16
    other = ShapeNetPart(tmp_path, "real", points=16, seed=2)
    assert torch.equal(test[0]["points"], other.split("test")[0]["points"])
    assert not torch.equal(one, other.split("train")[Visit(0, 0)]["points"])


def test_a_shape_with_too_few_points_repeats_some(tmp_path: Path) -> None:
    sample = ShapeNetPart(make_root(tmp_path), "real", points=50).split("test")[0]
    counts = torch.unique(sample["points"], dim=0, return_counts=True)[1]
    assert len(counts) == 20
    assert counts.sum() == 50
    assert set(counts.tolist()) == {2, 3}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("points/mugtest0.pts", "1 2\n", "three finite coordinates, got"),
        ("points/mugtest0.pts", "1 2 inf\n", "three finite coordinates"),
        ("points/mugtest0.pts", "1 2 3\n1 2\n", "cannot be read as numbers"),
        ("points/mugtest0.pts", "", "holds nothing"),
        ("points_label/mugtest0.seg", "1\n2\n", r"\[2, 1\] labels, but the shape has 20 points"),
        ("points_label/mugtest0.seg", "3\n" * 20, r"labels 3\.\.3, expected whole ones of 1\.\.2"),
        ("points_label/mugtest0.seg", "0\n" * 20, r"expected whole ones of 1\.\.2"),
        ("points_label/mugtest0.seg", "1.5\n" * 20, "expected whole ones"),
        ("points_label/mugtest0.seg", "one\n" * 20, "cannot be read as numbers"),
    ],
)
def test_damaged_shapes_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    make_root(tmp_path)
    (tmp_path / HOME / SYNSETS["Mug"] / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        ShapeNetPart(tmp_path, "real").split("test")[3]
    assert name.split("/")[1] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("synsetoffset2category.txt", "Mug\n", "expected lines"),
        ("synsetoffset2category.txt", "Spoon 1\nMug 03797390\n", "unknown categories Spoon; known: Airplane"),
        ("train_test_split/shuffled_test_file_list.json", "[", "cannot be read as JSON"),
        ("train_test_split/shuffled_test_file_list.json", "[]", "expected a list"),
        ("train_test_split/shuffled_test_file_list.json", '["shape_data/1/x"]', "of a known category"),
        (
            "train_test_split/shuffled_test_file_list.json",
            '["shape_data/03797390"]',
            "'shape_data/03797390' is no",
        ),
    ],
)
def test_damaged_lists_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    make_root(tmp_path)
    (tmp_path / HOME / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        ShapeNetPart(tmp_path, "real").split("test")
    assert name in str(caught.value)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)synsetoffset2category\.txt.*shapenet\.org.*education only"):
        ShapeNetPart(tmp_path, "real").prepare_data()
    make_root(tmp_path)
    (tmp_path / HOME / SYNSETS["Bag"] / "points" / "bagtest1.pts").unlink()
    with pytest.raises(DataError, match=r"bagtest1\.pts is missing"):
        ShapeNetPart(tmp_path, "real").split("test")[0]
    with pytest.raises(DataError, match="missing"):
        read_parts(tmp_path / "nowhere.seg", 2, 3)
    with pytest.raises(DataError, match="missing"):
        read_points(tmp_path / "nowhere.pts")
    with pytest.raises(ValueError, match="points must be 4 or more"):
        ShapeNetPart(points=3)


def test_the_miniature_is_of_the_published_layout(cache: Path) -> None:
    data = ShapeNetPart(points=100, cache=cache, batch_size=8)
    data.prepare_data()
    assert data.missing() == data.verify() == []
    assert data.spec.categories == ("Chair", "Mug", "Table")
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [120, 24, 36]  # type: ignore[arg-type]
    ids = {
        data.split(split)[i]["id"]
        for split, n in (("train", 120), ("val", 24), ("test", 36))
        for i in range(n)
    }
    assert len(ids) == 180
    batch = next(iter(data.train_dataloader()))
    assert batch["points"].shape == (8, 100, 3)
    assert batch["part"].shape == (8, 100)
    seen = {sample["category"]: set() for sample in data.split("test")}  # type: ignore[var-annotated]
    for index in range(36):
        sample = data.split("test")[index]
        seen[sample["category"]] |= set(sample["part"].tolist())
        # y is up: a chair's legs are under its seat.
        if sample["category"] == 0:
            legs, seat = (sample["points"][sample["part"] == part, 1].mean() for part in (2, 1))
            assert legs < seat
    assert seen == {0: {0, 1, 2, 3}, 1: {4, 5}, 2: {6, 7}}


def test_the_rendering_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapenet_part, "MINI_SHAPES", {"train": 1, "val": 1, "test": 1})
    contents = []
    for turn in ("one", "two"):
        ShapeNetPart.render(tmp_path / turn)
        files = sorted(path for path in (tmp_path / turn).rglob("*") if path.is_file())
        contents.append([(path.name, path.read_bytes()) for path in files])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 18 + 4
