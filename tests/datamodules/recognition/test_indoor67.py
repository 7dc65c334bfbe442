"""Indoor-67: the two lists decide, wrong lines are named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from datamodules.base import DataError
from datamodules.recognition.indoor67 import Indoor67


def test_miniature(cache: Path) -> None:
    data = Indoor67(cache=cache)
    spec = data.spec
    assert len(spec.classes) == 12
    assert list(spec.classes) == sorted(spec.classes)
    assert data.verify() == []
    for split, each in (("train", 20), ("test", 10)):
        listing = data.listing(split)
        assert set(Counter(listed.values["label"] for listed in listing).values()) == {each}
        for listed in listing:
            assert listed.path.parent.name == spec.classes[listed.values["label"]]
    assert data.split("train")[0]["image"].shape == (3, 64, 64)


def test_lists_decide(tmp_path: Path) -> None:
    Indoor67.render(tmp_path)
    (tmp_path / "TestImages.txt").write_text("gym/gym_001.jpg\n\nbakery/bakery_002.jpg\n")
    data = Indoor67(tmp_path, "real", image_size=32)
    data.prepare_data()
    assert [listed.id for listed in data.listing("test")] == ["gym/gym_001.jpg", "bakery/bakery_002.jpg"]
    assert [data.classes[listed.values["label"]] for listed in data.listing("test")] == ["gym", "bakery"]
    assert data.data_version().startswith("real-1-")


def test_wrong_lines_and_files_are_named(tmp_path: Path) -> None:
    Indoor67.render(tmp_path)
    (tmp_path / "TestImages.txt").write_text("gym/gym_001.jpg\nzoo/zoo_001.jpg\n")
    data = Indoor67(tmp_path, "real")
    with pytest.raises(DataError, match=r"TestImages\.txt, line 2: 'zoo/zoo_001\.jpg'"):
        data.listing("test")
    (tmp_path / "TestImages.txt").write_text("gym/nowhere.jpg\n")
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        data.split("test")[0]
    (tmp_path / "TestImages.txt").unlink()
    with pytest.raises(DataError, match=r"TestImages\.txt"):
        data.prepare_data()
