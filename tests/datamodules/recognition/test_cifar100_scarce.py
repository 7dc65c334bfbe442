"""Scarce CIFAR-100: which pictures are kept, which labels are wrong, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.recognition.cifar import CIFAR100
from datamodules.recognition.cifar100_scarce import CIFAR100Scarce, first_of_each, wrong_labels


def test_the_miniature_is_a_part_of_cifar_100(cache: Path) -> None:
    whole, scarce = CIFAR100(cache=cache), CIFAR100Scarce(cache=cache)
    assert scarce.spec.classes == whole.spec.classes
    assert scarce.spec.dataset == "cifar-100-scarce"
    assert scarce.verify() == []
    train, source = scarce.split("train"), whole.split("train")
    assert len(train) == 600
    true = source.labels["label"][train.ids]
    assert np.bincount(true).tolist() == [30] * 20
    assert np.count_nonzero(true != train.labels["label"]) == 60
    assert np.array_equal(train.labels["coarse_label"], train.labels["label"] // 4)
    assert torch.equal(train.images, source.images[train.ids])
    assert train[5]["id"] == source[int(train.ids[5])]["id"]
    assert torch.equal(scarce.split("test").images, whole.split("test").images)
    assert np.array_equal(scarce.split("test").labels["label"], whole.split("test").labels["label"])


def test_it_is_always_the_same_part_whatever_the_seed(cache: Path) -> None:
    one, two = (CIFAR100Scarce(cache=cache, seed=seed).split("train") for seed in (0, 7))
    assert np.array_equal(one.ids, two.ids)
    assert np.array_equal(one.labels["label"], two.labels["label"])
    clean = CIFAR100Scarce(cache=cache, label_noise=0.0).split("train")
    assert np.array_equal(one.ids, clean.ids)


def test_options_and_held_out_pictures(cache: Path) -> None:
    data = CIFAR100Scarce(cache=cache, per_class=5, label_noise=0.0, holdout=2500, labels="coarse")
    train, val = data.split("train"), data.split("val")
    assert np.bincount(train.labels["label"]).tolist() == [5] * 5
    assert len(val) == 2500
    assert not set(train.ids) & set(val.ids)
    everything = CIFAR100Scarce(cache=cache, per_class=1000, label_noise=0.0).split("train")
    assert len(everything) == 3000
    with pytest.raises(ValueError, match="per_class must be positive"):
        CIFAR100Scarce(cache=cache, per_class=0)
    with pytest.raises(ValueError, match=r"label_noise in 0\.\.1"):
        CIFAR100Scarce(cache=cache, label_noise=1.5)


def test_choosing_by_hand() -> None:
    label = np.array([2, 0, 2, 2, 1, 0, 2])
    kept = first_of_each(label, 2, np.random.default_rng(0))
    assert np.bincount(label[kept]).tolist() == [2, 1, 2]
    assert kept.tolist() == sorted(kept.tolist())
    assert len({tuple(first_of_each(label, 2, np.random.default_rng(s))) for s in range(20)}) > 2


def test_wrong_labels_are_other_ones_each_as_likely() -> None:
    label = np.repeat(np.arange(4), 3000)
    noisy = wrong_labels(label, 4, 0.5, np.random.default_rng(0))
    changed = noisy != label
    assert changed.sum() == 6000
    away = np.bincount((noisy - label)[changed] % 4, minlength=4)
    assert away[0] == 0
    assert away[1:] == pytest.approx(2000, rel=0.1)
    assert np.array_equal(wrong_labels(label, 4, 0.0, np.random.default_rng(0)), label)
