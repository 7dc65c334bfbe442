"""Features on disk: found by id, whole or not at all, for several processes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.blocks.feature_cache import FeatureCache, cached, write_atomically


def rows(ids: list[str]) -> Tensor:
    return torch.tensor([[float(key[1:]), 1.0] for key in ids])


def test_rows_are_found_by_id_in_the_order_asked_for(tmp_path: Path) -> None:
    cache = FeatureCache(2, tmp_path / "f")
    cache.add(["a1", "a2"], rows(["a1", "a2"]))
    cache.add(["a3"], rows(["a3"]))
    for seen in (cache, FeatureCache(2, tmp_path / "f")):
        assert len(seen) == 3
        assert "a3" in seen
        assert "a4" not in seen
        assert seen[["a3", "a1", "a3"]].tolist() == [[3, 1], [1, 1], [3, 1]]
        assert seen[[]].shape == (0, 2)
    with pytest.raises(KeyError):
        cache[["a4"]]


def test_only_what_is_missing_is_encoded_and_each_once() -> None:
    cache = FeatureCache(2)
    cache.add(["a1"], rows(["a1"]))
    asked: list[list[int]] = []
    ids = ["a5", "a1", "a6", "a5", "a7"]

    def encode(at: list[int]) -> Tensor:
        asked.append(at)
        return rows([ids[i] for i in at])

    assert cached(cache, ids, encode, chunk=2)[:, 0].tolist() == [5, 1, 6, 5, 7]
    assert asked == [[0, 2], [4]]
    cached(cache, ids, encode, chunk=2)
    assert len(asked) == 2


def test_another_cache_s_shards_come_in_by_refreshing(tmp_path: Path) -> None:
    first, second = FeatureCache(2, tmp_path), FeatureCache(2, tmp_path)
    first.add(["a1"], rows(["a1"]))
    assert "a1" not in second
    second.refresh()
    assert second[["a1"]].tolist() == [[1, 1]]


def write(folder: Path, worker: int) -> None:
    cache = FeatureCache(2, folder)
    for start in range(0, 40, 4):
        ids = [f"a{i}" for i in range(start, start + 4)]
        cache.add(ids, rows(ids))
    own = [f"a{1000 + worker}"]
    cache.add(own, rows(own))


def test_two_processes_write_the_same_shards_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write, args=(tmp_path, number)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(list(tmp_path.iterdir())) == 12  # ten shared shards, one of each, nothing half done
    cache = FeatureCache(2, tmp_path)
    ids = [f"a{i}" for i in (*range(40), 1000, 1001)]
    torch.testing.assert_close(cache[ids], rows(ids))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a.safetensors", b"content")
    assert list(tmp_path.iterdir()) == []


def test_bad_shards_and_shapes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be \[1, 2\]"):
        FeatureCache(2).add(["a1"], torch.zeros(1, 3))
    FeatureCache(3, tmp_path).add(["a1"], torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"shape \(1, 3\), expected \(1, 2\)"):
        FeatureCache(2, tmp_path)
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"bad\.safetensors is no shard"):
        FeatureCache(3, tmp_path)
