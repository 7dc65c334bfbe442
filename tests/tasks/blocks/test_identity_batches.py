"""Batches of P identities x K pictures: composition, coverage, small identities, what is left out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tasks.blocks.identity_batches import identity_batches


def draw(label: list[int], identities: int, pictures: int, seed: int = 0) -> list[list[int]]:
    return identity_batches(np.array(label), identities, pictures, np.random.default_rng(seed))


def test_each_batch_holds_p_times_k() -> None:
    label = np.repeat(np.arange(10), 6)
    batches = draw(label.tolist(), 4, 3)
    assert len(batches) == 60 // 12
    for batch in batches:
        assert list(Counter(label[batch].tolist()).values()) == [3] * 4
        assert len(set(batch)) == 12  # six pictures are enough for three without repeats
    seen = Counter(label[[index for batch in batches for index in batch]].tolist())
    assert set(seen) == set(range(10))


def test_small_identities_repeat_and_single_ones_are_skipped() -> None:
    label = [0, 0, 1, 2, 2, 2, 2, -1, -1]
    for seed in range(5):
        for batch in draw(label, 2, 4, seed):
            assert len(batch) == 8
            assert {label[index] for index in batch} == {0, 2}
            assert [index for index in batch if label[index] == 2 and batch.count(index) > 1] == []


def test_fewer_identities_than_asked_for() -> None:
    batches = draw([0, 0, 5, 5], 8, 2)
    assert [sorted(batch) for batch in batches] == [[0, 1, 2, 3]]


def test_chance_comes_from_the_generator() -> None:
    label = np.repeat(np.arange(6), 5).tolist()
    assert draw(label, 3, 2, 1) == draw(label, 3, 2, 1)
    assert draw(label, 3, 2, 1) != draw(label, 3, 2, 2)


def test_refuses_what_has_no_negatives() -> None:
    with pytest.raises(ValueError, match="1 identities have two pictures"):
        draw([0, 0, 1, -1], 2, 2)
    with pytest.raises(ValueError, match="two pictures of each"):
        draw([0, 0, 1, 1], 2, 1)


def test_number_of_batches_may_be_given() -> None:
    batches = identity_batches(np.repeat(np.arange(5), 4), 2, 2, np.random.default_rng(0), batches=9)
    assert len(batches) == 9
    counts = Counter(index // 4 for batch in batches for index in batch)
    assert set(counts) == set(range(5))
