"""Bags of digits: labels follow their rules, splits share no digit, the order is new at each visit of training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.base import DataError, Visit
from datamodules.recognition.mnist import MNIST, write_idx
from datamodules.recognition.mnist_bags import (
    MnistBags,
    MnistBagsCounting,
    MnistBagsMultiple,
    MnistBagsOutlier,
    MnistBagsSingle,
    with_class,
)

ALL = (MnistBagsSingle, MnistBagsMultiple, MnistBagsCounting, MnistBagsOutlier)


def classes_of(data: MnistBags, split: str = "train") -> list[tuple[np.ndarray, int]]:
    """Hidden classes and label of each bag."""
    opened = data.split(split)  # type: ignore[arg-type]
    return [(opened.digits.labels[bag.digits], bag.label) for bag in opened.bags]


@pytest.mark.parametrize("cls", ALL)
def test_samples_and_batches(cls: type[MnistBags], cache: Path) -> None:
    data = cls(cache=cache, batch_size=3, bags=10, val_bags=4, test_bags=6)
    assert [len(data.split(split)) for split in ("train", "val", "test")] == [10, 4, 6]
    sample = data.split("test")[1]
    size = len(sample["instances"])
    assert sample["instances"].shape == (size, 1, 28, 28)
    assert 0 <= float(sample["instances"].min()) < float(sample["instances"].max()) <= 1
    batch = next(iter(data.train_dataloader()))
    sizes = torch.bincount(batch["bag"]).tolist()
    assert len(sizes) == len(batch["id"]) == 3
    assert len(set(sizes)) > 1 or cls is MnistBagsOutlier
    assert len(batch["instances"]) == len(batch["instance_label"]) == sum(sizes)
    assert (batch["bag"].diff() >= 0).all()
    assert batch["label"].dtype == torch.int64
    spec = data.spec
    assert spec.channels == 1
    assert spec.instance_classes[9] == "9"


@pytest.mark.parametrize("cls", ALL)
def test_all_share_one_miniature(cls: type[MnistBags], cache: Path) -> None:
    data = cls(cache=cache)
    data.prepare_data()
    assert data.root == MNIST(cache=cache).root
    assert data.verify() == []


@pytest.mark.parametrize("cls", ALL)
def test_bags_of_different_splits_share_no_digit(cls: type[MnistBags], cache: Path) -> None:
    data = cls(cache=cache)
    seen = {}
    for split in ("train", "val"):
        opened = data.split(split)  # type: ignore[arg-type]
        assert opened.digits.part == "train"
        seen[split] = set(opened.digits.ids[np.concatenate([bag.digits for bag in opened.bags])].tolist())
    assert not seen["train"] & seen["val"]
    assert data.split("test").digits.part == "t10k"
    for bag in data.split("train").bags:
        assert len(set(bag.digits.tolist())) == len(bag.digits)


def test_single_is_about_a_nine(cache: Path) -> None:
    bags = classes_of(MnistBagsSingle(cache=cache))
    assert all(label == (9 in classes) for classes, label in bags)
    assert Counter(label for _, label in bags) == {1: 350, 0: 350}
    sizes = [len(classes) for classes, _ in bags]
    assert np.mean(sizes) == pytest.approx(9.5, abs=0.4)  # int() cuts
    assert np.std(sizes) == pytest.approx(2, abs=0.3)
    wide = [len(classes) for classes, _ in classes_of(MnistBagsSingle(cache=cache, std_size=8))]
    assert min(wide) == 1
    assert np.std(wide) > 5


def test_multiple_is_about_a_three_and_a_six(cache: Path) -> None:
    bags = classes_of(MnistBagsMultiple(cache=cache))
    assert all(label == (3 in classes and 6 in classes) for classes, label in bags)
    kinds = Counter((3 in classes, 6 in classes) for classes, _ in bags)
    assert kinds[True, True] == 350
    assert all(116 <= kinds[kind] <= 117 for kind in ((False, False), (True, False), (False, True)))
    # Lone threes are as many as their bags' chance gives, not one.
    assert max((classes == 3).sum() for classes, label in bags if not label) > 1
    first = [int(np.flatnonzero(np.isin(classes, (3, 6)))[0]) for classes, label in bags if label]
    assert len(set(first)) > 4  # witnesses stand anywhere


def test_one_pair_in_large_bags(cache: Path) -> None:
    for classes, label in classes_of(
        MnistBagsMultiple(cache=cache, mean_size=100, std_size=5, pairs=1, bags=30)
    ):
        assert len(classes) > 70
        threes, sixes = int((classes == 3).sum()), int((classes == 6).sum())
        assert (threes, sixes) == (1, 1) if label else (threes, sixes) in ((0, 0), (2, 0), (0, 2))
    with pytest.raises(ValueError, match="pairs"):
        MnistBagsMultiple(pairs=2)


def test_counting_is_about_the_number_of_nines(cache: Path) -> None:
    bags = classes_of(MnistBagsCounting(cache=cache, bags=600))
    assert all(label == (classes == 9).sum() for classes, label in bags)
    counts = Counter(label for _, label in bags)
    assert set(counts) == set(range(6))
    assert min(counts.values()) > 70
    tiny = classes_of(MnistBagsCounting(cache=cache, mean_size=1, std_size=0, bags=20))
    assert {label for _, label in tiny} == {0, 1}
    with pytest.raises(ValueError, match="largest_count"):
        MnistBagsCounting(largest_count=0)


@pytest.mark.parametrize("outliers", [1, 2])
def test_outlier_bags_come_in_pairs(cache: Path, outliers: int) -> None:
    data = MnistBagsOutlier(cache=cache, n_outlier=outliers)
    bags = classes_of(data)
    majorities, others = set(), set()
    digits = data.split("train").bags
    for number in range(0, len(bags), 2):
        (alike, no), (mixed, yes) = bags[number : number + 2]
        assert (no, yes) == (0, 1)
        assert len(set(alike.tolist())) == 1
        assert len(alike) == len(mixed)
        majority = int(alike[0])
        different = mixed != majority
        assert different.sum() == outliers < len(mixed) / 2
        assert len(set(mixed[different].tolist())) == 1
        assert np.array_equal(digits[number].digits[~different], digits[number + 1].digits[~different])
        majorities.add(majority)
        others |= set(mixed[different].tolist())
    assert majorities == others == set(range(10))
    with pytest.raises(ValueError, match="n_outlier"):
        MnistBagsOutlier(n_outlier=0)


def test_order_is_new_at_each_visit_of_training_only(cache: Path) -> None:
    data = MnistBagsCounting(cache=cache)
    train, test = data.split("train"), data.split("test")

    def seen(samples, index: int, epoch: int) -> list[int]:  # type: ignore[no-untyped-def]
        return samples[Visit(index, epoch)]["instance_label"].tolist()

    assert seen(train, 3, 0) != seen(train, 3, 1)
    assert sorted(seen(train, 3, 0)) == sorted(seen(train, 3, 1))
    assert seen(train, 3, 1) == seen(train, 3, 1)
    assert seen(test, 3, 0) == seen(test, 3, 1)
    fixed = MnistBagsCounting(cache=cache, shuffle=False).split("train")
    assert seen(fixed, 3, 0) == seen(fixed, 3, 1)
    sample = train[Visit(3, 5)]
    position = int((sample["instance_label"] != sample["instance_label"][0]).nonzero()[0])
    images = torch.from_numpy(train.digits.images[train.bags[3].digits]).float()[:, None] / 255
    labels = train.digits.labels[train.bags[3].digits]
    same = [k for k in range(len(images)) if torch.equal(images[k], sample["instances"][position])]
    assert labels[same[0]] == sample["instance_label"][position]  # pictures and classes move together


def test_a_repetition_has_bags_of_its_own(cache: Path) -> None:
    def bags(**options: int) -> list[list[int]]:
        return [
            bag.digits.tolist() for bag in MnistBagsSingle(cache=cache, bags=5, **options).split("train").bags
        ]

    assert bags(seed=1) == bags(seed=1)
    assert bags(seed=1) != bags(seed=2)
    assert bags(seed=1, bag_seed=7) == bags(seed=2, bag_seed=7)


def test_real_numbers_of_bags_are_the_papers(tmp_path: Path) -> None:
    expected = {
        MnistBagsSingle: (1000, 1000),
        MnistBagsMultiple: (1000, 1000),
        MnistBagsOutlier: (10_000, 2000),
    }
    for cls, (train, test) in expected.items():
        data = cls(tmp_path, "real")
        assert (data.bags["train"], data.bags["test"]) == (train, test)


def test_drawing_classes_is_uniform_among_bags_that_hold_them() -> None:
    random = np.random.default_rng(0)
    drawn = Counter(tuple(with_class(2, np.arange(3), (2,), random).tolist()) for _ in range(2000))
    assert set(drawn) == {(0, 2), (2, 0), (1, 2), (2, 1), (2, 2)}
    assert min(drawn.values()) > 320


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    for part, count in (("train", 60), ("t10k", 30)):
        labels = (np.arange(count) % 9).astype(np.uint8)  # no nine
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", labels)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", np.zeros((count, 28, 28), np.uint8))
    with pytest.raises(DataError, match="no digit 9 among those for test"):
        MnistBagsSingle(tmp_path, "real").split("test")
    with pytest.raises(ValueError, match="mean_size"):
        MnistBagsSingle(mean_size=0)
    with pytest.raises(ValueError, match="bags in each split"):
        MnistBagsSingle(val_share=0)
