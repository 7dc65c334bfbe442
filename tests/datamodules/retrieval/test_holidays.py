"""Holidays: groups and queries from names, splits, broken groups."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from datamodules.base import DataError
from datamodules.retrieval.holidays import Holidays


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """Three groups of 3, 2 and 4 pictures (empty files)."""
    (tmp_path / "jpg").mkdir()
    for group, count in ((0, 3), (1, 2), (499, 4)):
        for place in range(count):
            (tmp_path / "jpg" / f"1{group:03d}{place:02d}.jpg").touch()
    return tmp_path


def facts(data: Holidays, split: str) -> list[tuple[str, int, bool, int]]:
    return [
        (item.id, item.values["group"], item.values["is_query"], item.values["index"])
        for item in data.listing(split)
    ]


def test_queries_groups_and_indices(fake: Path) -> None:
    data = Holidays(fake, "real")
    data.prepare_data()
    test = facts(data, "test")
    assert test[:4] == [
        ("100000", 1000, True, 0),
        ("100001", 1000, False, 1),
        ("100002", 1000, False, 2),
        ("100100", 1001, True, 3),
    ]
    assert [index for *_, index in test] == list(range(9))
    assert [name for name, _, query, _ in test if query] == ["100000", "100100", "149900"]
    train = facts(data, "train")
    assert [(name, query, index) for name, _, query, index in train][:2] == [
        ("100001", False, 0),
        ("100002", False, 1),
    ]
    assert not any(query for _, _, query, _ in train)
    # A query of val has another database picture in its group: not the one of the group of two.
    assert [name for name, _, query, _ in facts(data, "val") if query] == ["100001", "149901"]


def test_broken_groups_and_names_are_told(fake: Path) -> None:
    (fake / "jpg" / "149900.jpg").unlink()
    with pytest.raises(DataError, match=r"group 1499 .*149900\.jpg"):
        Holidays(fake, "real").listing("test")
    (fake / "jpg" / "notes.jpg").touch()
    with pytest.raises(DataError, match=r"notes\.jpg: not named 1XXXYY"):
        Holidays(fake, "real").listing("test")
    with pytest.raises(DataError, match="inrialpes"):
        Holidays(fake / "jpg", "real").prepare_data()


def test_miniature(cache: Path) -> None:
    data = Holidays(cache=cache)
    assert data.spec.classes == ()
    assert data.spec.image_size == (64, 64)
    assert data.verify() == []
    test = data.listing("test")
    counts = Counter(item.values["group"] for item in test)
    assert len(test) == 180
    assert len(counts) == 60
    assert set(counts.values()) == {2, 3, 5}
    assert (len(data.listing("train")), sum(item.values["is_query"] for item in test)) == (120, 60)
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape == (32, 3, 64, 64)
    assert batch["group"].dtype == batch["index"].dtype == torch.int64
    assert batch["is_query"].dtype == torch.bool
