"""CelebA: layout, splits, exemplars that are never the picture itself, masks, damaged files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import DataError, Visit
from datamodules.restoration.celeba import (
    CelebA,
    CelebAEditing,
    CelebAIdentities,
    CelebAx16,
    central_square,
    read_numbers,
    shrink,
)


def write(root: Path, persons: list[int], parts: list[int]) -> Path:
    """A small CelebA of noise pictures 178 x 218, person and part as told."""
    (root / "img_align_celeba").mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"{number:06d}.jpg" for number in range(1, len(persons) + 1)]
    for name in names:
        pixels = random.integers(0, 255, (218, 178, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "img_align_celeba" / name)
    for file, values in (("identity_CelebA.txt", persons), ("list_eval_partition.txt", parts)):
        lines = [f"{name} {value}" for name, value in zip(names, values, strict=True)]
        (root / file).write_text("\n".join(lines) + "\n")
    return root


def test_miniature_is_split_by_person(cache: Path) -> None:
    data = CelebA(cache=cache)
    data.prepare_data()
    sets = {split: data.split(split) for split in ("train", "val", "test")}
    assert [len(each) for each in sets.values()] == [1200, 100, 300]
    persons = [set(each.numbers.tolist()) for each in sets.values()]
    assert [len(each) for each in persons] == [120, 10, 30]
    assert not persons[0] & persons[1] and not persons[0] & persons[2] and not persons[1] & persons[2]  # noqa: PT018
    sample = sets["test"][4]
    assert sample["low"].shape == (3, 8, 8)
    assert sample["high"].shape == (3, 64, 64)
    assert sample["exemplars"].shape == (3, 3, 64, 64)
    assert sample["corrupted"].shape == (3, 64, 64)
    assert sample["corrupted"].dtype == torch.bool
    assert sample["id"].startswith("img_align_celeba/")
    assert (data.spec.image_size, data.spec.factor, data.spec.exemplars) == ((64, 64), 8, 3)


def test_factor_of_the_name_and_options(cache: Path) -> None:
    assert CelebAx16(cache=cache).split("test")[0]["low"].shape == (3, 4, 4)
    none = CelebA(cache=cache, exemplars=0)
    batch = next(iter(none.test_dataloader()))
    assert batch["exemplars"].shape == (50, 0, 3, 64, 64)
    assert batch["corrupted"].shape == (50, 0, 64, 64)
    with pytest.raises(ValueError, match="must divide"):
        CelebA(cache=cache, factor=7)
    with pytest.raises(ValueError, match="negative"):
        CelebA(cache=cache, exemplars=-1)


def test_exemplars_are_other_pictures_of_the_person(cache: Path) -> None:
    data = CelebA(cache=cache, exemplars=5)
    data.prepare_data()
    train = data.split("train")
    for index in range(0, 1200, 37):
        chosen = train.choose(Visit(index, 2))
        assert len(set(chosen)) == 5
        assert index not in chosen
        assert {train.portraits[other].person for other in chosen} == {train.portraits[index].person}


def test_exemplars_change_with_the_epoch_in_training_only(cache: Path) -> None:
    data = CelebA(cache=cache, seed=1)
    data.prepare_data()
    train, test = data.split("train"), data.split("test")
    assert train.choose(Visit(5, 0)) == train.choose(Visit(5, 0))
    assert len({tuple(train.choose(Visit(5, epoch))) for epoch in range(6)}) > 3
    assert test.choose(5) == CelebA(cache=cache, seed=2).split("test").choose(5)


def test_editing_takes_exemplars_of_another_person_in_test_only(cache: Path) -> None:
    data = CelebAEditing(cache=cache)
    data.prepare_data()
    for split, same in (("train", True), ("test", False)):
        samples = data.split(split)
        for index in (0, 41, 99):
            persons = {samples.portraits[other].person for other in samples.choose(index)}
            assert len(persons) == 1
            assert (persons == {samples.portraits[index].person}) == same


def test_corrupted_marks_what_is_hidden_there_and_not_here(cache: Path) -> None:
    data = CelebA(cache=cache)
    data.prepare_data()
    test = data.split("test")
    index = next(i for i in range(300) if test[i]["corrupted"].any() and test._mask(test.portraits[i]).any())
    hidden = torch.cat([test._mask(test.portraits[i]) for i in (index, *test.choose(index))])
    assert torch.equal(test[index]["corrupted"], hidden[1:] & ~hidden[:1])
    assert not (test[index]["corrupted"] & hidden[0]).any()


def test_identities_hold_out_every_fifth_picture(cache: Path) -> None:
    data = CelebAIdentities(cache=cache)
    assert len(data.spec.classes) == 120
    train, test = data.split("train"), data.split("test")
    assert (len(train), len(data.split("val")), len(test)) == (960, 0, 240)
    assert np.bincount([label for _, label in test.listing]).tolist() == [2] * 120
    assert not {path for path, _ in train.listing} & {path for path, _ in test.listing}
    sample = test[0]
    assert sample["image"].shape == (3, 64, 64)
    assert sample["label"] == 0


def test_real_layout_persons_with_few_pictures_are_dropped_and_masks_are_absent(tmp_path: Path) -> None:
    root = write(tmp_path / "celeba", [7] * 5 + [3] * 4 + [9] * 6, [0] * 9 + [2] * 6)
    data = CelebA(tmp_path, "real", exemplars=2)
    data.prepare_data()
    assert len(data.split("train")) == 5  # person 3 has four
    sample = data.split("test")[0]
    assert sample["high"].shape == (3, 128, 128)
    assert sample["low"].shape == (3, 16, 16)
    assert "corrupted" not in sample
    assert data.data_version().startswith("real-1-")
    assert CelebAIdentities(root, "real").spec.classes == ("person 7",)
    with pytest.raises(DataError, match=r"part 1 \(val\)"):
        data.split("val")


def test_duplicates_of_a_photograph_are_never_its_exemplars(tmp_path: Path) -> None:
    root = write(tmp_path, [1] * 5, [0] * 5)
    for number in (2, 3):
        shutil.copy(root / "img_align_celeba/000001.jpg", root / f"img_align_celeba/00000{number}.jpg")
    train = CelebA(root, "real", exemplars=2).split("train")
    for epoch in range(5):
        assert set(train.choose(Visit(0, epoch))) == {3, 4}
    with pytest.raises(DataError, match="has 2 other pictures, 3 exemplars were asked for"):
        CelebA(root, "real", exemplars=3).split("train")[0]


def test_central_square_is_cropped_without_resizing(tmp_path: Path) -> None:
    pixels = np.arange(10 * 6 * 3, dtype=np.uint8).reshape(10, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (central_square(tmp_path / "a.png", 6).permute(1, 2, 0).numpy() == pixels[2:8]).all()
    assert central_square(tmp_path / "a.png", 3).shape == (3, 3, 3)


def test_shrink_keeps_a_constant_and_the_mean() -> None:
    assert torch.allclose(shrink(torch.full((3, 32, 32), 0.3), 8), torch.full((3, 4, 4), 0.3))
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert abs(float(shrink(image, 8).mean() - image.mean())) < 0.02


def test_damaged_files_are_named(tmp_path: Path) -> None:
    root = write(tmp_path, [1] * 5, [0] * 5)
    picture = root / "img_align_celeba/000002.jpg"
    picture.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(DataError, match=r"000002\.jpg"):
        CelebA(root, "real", exemplars=0).split("train")[1]
    (root / "identity_CelebA.txt").write_text("000001.jpg 1\n")
    with pytest.raises(DataError, match=r"no line for 000002\.jpg"):
        CelebA(root, "real").split("train")
    for text, message in (
        ("000001.jpg one", "line 1"),
        ("a.jpg 1\na.jpg 2", "twice"),
        ("\n", "is empty"),
        ("../a.jpg 1", "file name"),
    ):
        (root / "list.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            read_numbers(root / "list.txt")
    with pytest.raises(DataError, match=r"img_align_celeba/\*\.jpg"):
        CelebA(tmp_path / "nothing", "real").prepare_data()


def test_renders_the_published_layout(cache: Path) -> None:
    data = CelebA(cache=cache)
    data.prepare_data()
    assert (data.root / "identity_CelebA.txt").read_text().splitlines()[10] == "000011.jpg 2"
    with Image.open(data.root / "img_align_celeba/000001.jpg") as picture:
        assert picture.size == (64, 78)
    assert data.missing() == []
