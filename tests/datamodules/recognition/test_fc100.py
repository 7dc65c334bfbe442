"""FC100: superclasses split whole, and pictures of both CIFAR-100 files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.recognition.cifar import read_pictures
from datamodules.recognition.fc100 import FC100, SUPERCLASSES


def test_superclasses_are_a_partition_of_twenty() -> None:
    groups = [set(groups) for groups in SUPERCLASSES.values()]
    assert [len(group) for group in groups] == [12, 4, 4]
    assert set.union(*groups) == set(range(20))


def test_splits_have_sixty_twenty_and_twenty_classes_of_both_files(cache: Path) -> None:
    data = FC100(cache=cache, queries=5, image_size=32, shots=10)
    data.prepare_data()
    for split, classes in (("train", 60), ("val", 20), ("test", 20)):
        members = data.pictures(split).members
        assert len(members) == classes
        assert {len(m) for m in members} == {25}
    sample = data.split("test")[0]
    assert sample["support"].shape == (5, 10, 3, 32, 32)
    assert "outlier" not in sample


def test_a_class_of_the_test_split_is_one_fine_label_of_its_superclasses(cache: Path) -> None:
    data = FC100(cache=cache, image_size=32)
    data.prepare_data()
    images, labels = read_pictures(data.root / "cifar-100-python" / "test", ("fine_labels", "coarse_labels"))
    wanted = np.flatnonzero(labels["coarse_labels"] == 7)[0]
    pictures = data.pictures("test")
    # Pictures of `train` come first, then those of `test`, both in the order of the files.
    of_train = 20 * 20
    kept = np.flatnonzero(np.isin(labels["coarse_labels"], SUPERCLASSES["test"]))
    number = of_train + int(np.flatnonzero(kept == wanted)[0])
    assert (pictures.picture(number) == images[wanted]).all()
    assert [number in members for members in pictures.members].index(True) == 5  # second of four groups


def test_pictures_are_brought_to_the_side_asked_for(cache: Path) -> None:
    data = FC100(cache=cache)
    data.prepare_data()
    assert data.pictures("val").picture(0).shape == (3, 64, 64)
