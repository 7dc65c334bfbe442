"""Omniglot: alphabets held out whole, ink on ground, rotations, the miniature and the real sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import DataError
from datamodules.recognition.omniglot import Omniglot


def test_miniature_alphabets_and_held_out_one(cache: Path) -> None:
    data = Omniglot(cache=cache)
    data.prepare_data()
    train, val, test = (data.alphabets(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (4, 1, 2)
    assert not set(train) & set(val)
    assert test == ["Alphabet_F", "Alphabet_G"]
    assert [len(data.pictures(split).members) for split in ("train", "val", "test")] == [32, 8, 16]
    everything = Omniglot(cache=cache, val_share=0.0)
    assert sorted(train + val) == everything.alphabets("train")
    assert len(everything.split("val")) == 0


def test_ink_is_one_on_zero_in_one_channel(cache: Path) -> None:
    data = Omniglot(cache=cache, queries=5)
    data.prepare_data()
    sample = data.split("test")[0]
    assert sample["support"].shape == (5, 5, 1, 28, 28)
    assert data.spec.channels == 1
    assert 0.02 < float(sample["support"].mean()) < 0.3
    assert float(sample["support"].min()) == 0
    assert "outlier" not in sample
    with Image.open(next((data.root / "images_evaluation").glob("*/*/*.png"))) as image:
        assert (image.mode, image.size) == ("1", (105, 105))


def test_rotations_make_four_classes_of_one_in_training_only(cache: Path) -> None:
    data = Omniglot(cache=cache, rotations=True)
    data.prepare_data()
    turned = data.pictures("train")
    assert len(turned.members) == 4 * 32
    assert len(data.pictures("test").members) == 16
    first = turned.picture(int(turned.members[0][0]))
    quarter = turned.picture(int(turned.members[32][0]))
    assert (np.rot90(first[0]) == quarter[0]).all()


def test_impossible_shares_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="val_share"):
        Omniglot(val_share=1.0)
    with pytest.raises(DataError, match="images_background holds no alphabet"):
        Omniglot(tmp_path, "real").split("train")


def test_real_sample(real_data: Path) -> None:
    if not (real_data / "omniglot").is_dir():
        pytest.skip("no Omniglot among the real samples")
    data = Omniglot(real_data, "real", shots=1, val_share=0.0)
    data.prepare_data()
    assert data.alphabets("test") == ["Japanese_(katakana)", "Sanskrit", "Tagalog"]
    assert len(data.pictures("train").members) == 136
    assert len(data.pictures("test").members) == 106
    sample = data.split("test")[0]
    assert sample["query"].shape == (75, 1, 28, 28)
    assert torch.isfinite(sample["query"]).all()
