"""The episode sampler: composition, chance, augmentation, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError, Visit
from datamodules.recognition.episodes import ClassPictures, Episodes, augmented, decoded, read_listing
from datamodules.recognition.mini_imagenet import MiniImageNet

MEMBERS = [np.arange(10) + 10 * c for c in range(7)]


def sampler(**changes) -> Episodes:
    """Seven classes of ten pictures; every pixel of picture n is n."""
    pictures = ClassPictures(
        MEMBERS, lambda n: np.full((1, 2, 2), n, np.uint8), outlier=np.arange(70) % 10 == 3
    )
    options = {"count": 50, "ways": 5, "shots": 3, "queries": 4, "chance": ("made", "test"), "prefix": "test"}
    return Episodes(pictures, **{**options, **changes})


def numbers(images: torch.Tensor) -> torch.Tensor:
    return (images[..., 0, 0, 0] * 255).round().long()


def test_an_episode_is_classes_without_a_query_among_the_supports() -> None:
    episodes = sampler()
    for index in range(50):
        sample = episodes[index]
        support, query = numbers(sample["support"]), numbers(sample["query"])
        assert support.shape == (5, 3)
        classes = support[:, 0] // 10
        assert len(classes.unique()) == 5
        assert (support // 10 == classes[:, None]).all()
        assert (query // 10 == classes[sample["query_label"]]).all()
        assert len(torch.cat([support.flatten(), query]).unique()) == 5 * 7
        assert torch.bincount(sample["query_label"]).tolist() == [4] * 5
        assert torch.equal(sample["outlier"], support % 10 == 3)
    assert sample["id"] == "test/000049"


def test_queries_are_shuffled_and_all_classes_come_up() -> None:
    episodes = sampler()
    labels = torch.stack([episodes[i]["query_label"] for i in range(20)])
    assert len(labels.unique(dim=0)) > 10
    seen = torch.cat([numbers(episodes[i]["support"])[:, 0] // 10 for i in range(50)])
    assert torch.bincount(seen, minlength=7).min() > 20


def test_chance_is_fixed_by_the_seed_words_index_and_epoch() -> None:
    def of(episodes: Episodes, index: int) -> list[int]:
        return numbers(episodes[index]["support"]).flatten().tolist()

    assert of(sampler(), 3) == of(sampler(), 3)
    assert of(sampler(), 3) != of(sampler(), 4)
    assert of(sampler(chance=("made", "train", 1)), 3) != of(sampler(chance=("made", "train", 2)), 3)
    train = sampler(chance=("made", "train", 1))
    assert of(train, Visit(3, 0)) != of(train, Visit(3, 1))
    assert of(train, Visit(3, 1)) == of(train, Visit(3, 1))


def test_test_episodes_are_the_same_for_all_seeds_and_training_ones_are_not(cache: Path) -> None:
    def first(split: str, seed: int) -> torch.Tensor:
        data = MiniImageNet(cache=cache, seed=seed, image_size=8, queries=2, test_episodes=2)
        data.prepare_data()
        return data.split(split)[0]["support"]

    assert torch.equal(first("test", 0), first("test", 1))
    assert torch.equal(first("val", 0), first("val", 1))
    assert not torch.equal(first("train", 0), first("train", 1))


def test_too_few_classes_or_pictures_are_named() -> None:
    with pytest.raises(DataError, match="7 classes, 8 ways"):
        sampler(ways=8)
    with pytest.raises(DataError, match="10 pictures, but 3 shots and 8 queries need 11"):
        sampler(queries=8)
    with pytest.raises(ValueError, match="ways must be at least 2"):
        MiniImageNet(ways=1)


def test_augmentation_is_of_training_alone_and_keeps_size_and_kind(cache: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 3, 16, 16)).astype(np.uint8)
    changed = augmented(pixels, np.random.default_rng(1))
    assert changed.shape == pixels.shape
    assert changed.dtype == np.uint8
    assert (changed != pixels).any(axis=(1, 2, 3)).all()
    assert (changed == augmented(pixels, np.random.default_rng(1))).all()
    plain, other = (
        MiniImageNet(cache=cache, image_size=8, queries=1, augment=augment) for augment in (False, True)
    )
    plain.prepare_data()
    assert torch.equal(plain.split("test")[0]["query"], other.split("test")[0]["query"])
    assert not torch.equal(plain.split("train")[0]["query"], other.split("train")[0]["query"])


def test_augmented_crops_are_shifts_and_signs_are_not_mirrored() -> None:
    """With one channel each crop is the picture, moved by at most an eighth, its border repeated."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16)).astype(np.uint8)
    for picture, changed in zip(pixels, augmented(pixels, np.random.default_rng(2)), strict=True):
        padded = np.pad(picture[0], 2, mode="edge")
        crops = [padded[i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
        assert any((crop == changed[0]).all() for crop in crops)


def test_mirroring_happens_to_half_of_the_colour_pictures() -> None:
    ramp = np.broadcast_to(np.arange(0, 160, 10, dtype=np.uint8), (200, 3, 16, 16))
    changed = augmented(np.ascontiguousarray(ramp), np.random.default_rng(3)).astype(int)
    falling = (changed[:, 0, 0, 0] > changed[:, 0, 0, -1]).mean()
    assert 0.38 < falling < 0.62


def test_damaged_pictures_and_listings_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jpg is missing"):
        decoded(tmp_path / "no.jpg", tmp_path / "no.jpg", 8)
    (tmp_path / "half.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    with pytest.raises(DataError, match=r"half\.jpg cannot be decoded"):
        decoded(tmp_path / "half.jpg", tmp_path / "half.jpg", 8)
    (tmp_path / "a.csv").write_text("filename,label\nx.jpg\n")
    with pytest.raises(DataError, match=r"a\.csv, line 2: expected 2 fields"):
        read_listing(tmp_path / "a.csv", ("filename", "label"))
    (tmp_path / "b.csv").write_text("name\nx.jpg\n")
    with pytest.raises(DataError, match=r"b\.csv: the header must be filename,label, got name"):
        read_listing(tmp_path / "b.csv", ("filename", "label"))
    (tmp_path / "c.csv").write_text("filename,label\n")
    with pytest.raises(DataError, match=r"c\.csv lists no picture"):
        read_listing(tmp_path / "c.csv", ("filename", "label"))
