"""UKBench: groups of four by number, every picture a query, gaps in the numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from datamodules.base import DataError
from datamodules.retrieval.ukbench import UKBench


def test_groups_of_four_and_gaps(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    for number in range(48):
        (tmp_path / "full" / f"ukbench{number:05d}.jpg").touch()
    data = UKBench(tmp_path, "real")
    data.prepare_data()
    test = data.listing("test")
    assert data.listing("train") == test
    assert [item.values["group"] for item in test[:9]] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert all(item.values["is_query"] for item in test)
    val = data.listing("val")
    assert [item.values["group"] for item in val] == [0] * 4 + [10] * 4
    assert [item.values["index"] for item in val] == list(range(8))
    (tmp_path / "full" / "ukbench00047.jpg").unlink()
    with pytest.raises(DataError, match="47 pictures are not groups of 4"):
        data.listing("test")
    (tmp_path / "full" / "ukbench00011.jpg").unlink()
    with pytest.raises(DataError, match=r"expected ukbench00011\.jpg next"):
        data.listing("test")


def test_miniature(cache: Path) -> None:
    data = UKBench(cache=cache)
    data.prepare_data()
    assert data.verify() == []
    counts = Counter(item.values["group"] for item in data.listing("test"))
    assert counts == dict.fromkeys(range(40), 4)
    assert data.split("test")[5]["image"].shape == (3, 64, 64)
