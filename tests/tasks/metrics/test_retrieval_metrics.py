"""Trapezoidal average precision and N-S: by hand, against the published script's loop, and under DDP."""

from __future__ import annotations

import doctest

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

import tasks.metrics.retrieval as retrieval
from tasks.metrics.retrieval import CosineRetrieval, average_precision, n_s, retrieval_scores


def published_average_precision(relevant: list[bool]) -> float:
    """The loop of the Holidays evaluation script over the ranks of the right answers."""
    ranks = [rank for rank, right in enumerate(relevant) if right]
    area = 0.0
    for found, rank in enumerate(ranks):
        before = 1.0 if rank == 0 else found / rank
        area += (before + (found + 1) / (rank + 1)) / (2 * len(ranks))
    return area


def booleans(*rows: str) -> Tensor:
    return torch.tensor([[mark == "+" for mark in row] for row in rows])


def test_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(retrieval).failed == 0


def test_average_precision_by_hand() -> None:
    # ++--: 1. -+--: (0/1 + 1/2)/2 = 1/4. +-+-: (1 + (1/2 + 2/3)/2)/2 = 19/24. ---+: (0/3 + 1/4)/2 = 1/8.
    scores = average_precision(booleans("++--", "-+--", "+-+-", "---+", "----"))
    expected = torch.tensor([1, 1 / 4, 19 / 24, 1 / 8, torch.nan], dtype=torch.float64)
    torch.testing.assert_close(scores, expected, equal_nan=True)


def test_ignored_pictures_leave_the_ranking() -> None:
    # Without the first: -+; without the second: +- and so on.
    relevant, ignored = booleans("+-+", "-+-", "+--"), booleans("+--", "+--", "+--")
    torch.testing.assert_close(
        average_precision(relevant, ignored),
        torch.tensor([0.25, 1.0, torch.nan], dtype=torch.float64),
        equal_nan=True,
    )


def test_average_precision_equals_the_published_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    relevant = torch.rand(40, 30, generator=generator) < 0.2
    relevant[:, 7] = True
    ignored = torch.rand(40, 30, generator=generator) < 0.1
    ignored[:, 7] = False
    scores = average_precision(relevant, ignored)
    for score, row, left_out in zip(scores, relevant.tolist(), ignored.tolist(), strict=True):
        kept = [right for right, out in zip(row, left_out, strict=True) if not out]
        assert float(score) == pytest.approx(published_average_precision(kept), abs=1e-12)
        plain = average_precision_score(kept, range(len(kept), 0, -1))
        assert float(score) <= plain + 1e-12


def test_n_s_counts_the_first_four() -> None:
    assert n_s(booleans("+++++", "+-+-+", "-----")).tolist() == [4, 2, 0]
    assert n_s(booleans("++"), top=4).tolist() == [2]


def test_scores_take_the_query_out_of_the_precision_only() -> None:
    # Query 0 of group 0 ranks 0, 2, 1, 3: without itself -+- -> 1/4; with itself +-+- -> 2 right of four.
    similarity = torch.tensor([[1.0, 0.5, 0.8, 0.1]])
    precision, counts = retrieval_scores(similarity, torch.tensor([0]), torch.tensor([0, 0, 1, 1]))
    assert precision.tolist() == [0.25]
    assert counts.tolist() == [2.0]


def test_ties_keep_the_order_of_the_split() -> None:
    similarity = torch.zeros(2, 4)
    precision, _ = retrieval_scores(similarity, torch.tensor([0, 3]), torch.tensor([0, 1, 0, 1]))
    # 0: 1 2 3 -> -+- = 1/4; 3: 0 1 2 -> -+- = 1/4.
    assert precision.tolist() == [0.25, 0.25]


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(ValueError, match=r"\[Q, N\]"):
        average_precision(torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="one shape"):
        average_precision(booleans("+-"), booleans("+--"))
    with pytest.raises(ValueError, match="similarity must be"):
        retrieval_scores(torch.zeros(2, 3), torch.tensor([0]), torch.zeros(3))
    with pytest.raises(ValueError, match="expected feature"):
        CosineRetrieval().update(
            torch.zeros(2, 3), torch.zeros(2), torch.ones(3, dtype=torch.bool), torch.arange(2)
        )
    with pytest.raises(ValueError, match="NaN"):
        CosineRetrieval().update(
            torch.full((1, 3), torch.nan), torch.zeros(1), torch.ones(1, dtype=torch.bool), torch.arange(1)
        )


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Forty pictures of ten groups whose features are noisy copies of their group's."""
    generator = torch.Generator().manual_seed(1)
    group = torch.arange(40) // 4
    feature = torch.randn(10, 6, generator=generator)[group] + torch.randn(40, 6, generator=generator)
    return feature, group, torch.arange(40) % 4 == 0, torch.arange(40)


def scores(metric: CosineRetrieval, pictures: tuple[Tensor, ...], *chunks: Tensor) -> tuple[float, float]:
    for chunk in chunks:
        metric.update(*(values[chunk] for values in pictures))
    precision, counts = metric.compute()
    return float(precision), float(counts)


def test_metric_equals_a_slow_loop(pictures: tuple[Tensor, ...]) -> None:
    feature, group, is_query, index = pictures
    precisions, counts = [], []
    for query in index[is_query].tolist():
        cosine = torch.nn.functional.cosine_similarity(feature[query : query + 1], feature)
        ranking = sorted(range(40), key=lambda i: -float(cosine[i]))
        counts.append(sum(int(group[i] == group[query]) for i in ranking[:4]))
        precisions.append(
            published_average_precision([bool(group[i] == group[query]) for i in ranking if i != query])
        )
    got = scores(CosineRetrieval(), pictures, index)
    assert got == pytest.approx((sum(precisions) / 10, sum(counts) / 10), abs=1e-6)
    assert 0.2 < got[0] < 0.95  # neither trivial end


def test_order_repeats_scale_and_chunks_do_not_matter(
    pictures: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    feature, group, is_query, index = pictures
    expected = scores(CosineRetrieval(), pictures, index)
    shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    assert scores(CosineRetrieval(), pictures, shuffled[:17], shuffled[17:]) == expected
    assert scores(CosineRetrieval(), pictures, index, index[:5]) == expected
    scaled = feature * torch.linspace(0.1, 50, 40)[:, None]
    assert scores(CosineRetrieval(), (scaled, group, is_query, index), index) == pytest.approx(expected)
    monkeypatch.setattr(retrieval, "CHUNK", 3)
    assert scores(CosineRetrieval(), pictures, index) == pytest.approx(expected)


def test_two_ranks_merge_to_one(pictures: tuple[Tensor, ...]) -> None:
    """What DDP does: each rank's states are concatenated, with the sampler's padded repeats."""
    index = pictures[3]
    expected = scores(CosineRetrieval(), pictures, index)
    ranks = [CosineRetrieval(), CosineRetrieval()]
    for rank, metric in enumerate(ranks):
        metric.update(*(values[torch.cat([index[rank::2], index[:1]])] for values in pictures))
    merged = CosineRetrieval()
    for state in ("features", "groups", "queries", "indices"):
        assert merged._reductions[state] is not None
        setattr(
            merged, state, merged._reductions[state]([torch.cat(getattr(metric, state)) for metric in ranks])
        )
    merged._update_count = 1
    precision, counts = merged.compute()
    assert (float(precision), float(counts)) == expected


def test_without_answers_there_is_no_score(pictures: tuple[Tensor, ...]) -> None:
    precision, counts = scores(CosineRetrieval(), pictures, torch.tensor([0, 4, 8]))
    assert precision != precision
    assert counts != counts


def test_queries_without_answers_are_left_out(pictures: tuple[Tensor, ...]) -> None:
    whole = scores(CosineRetrieval(), pictures, torch.arange(4))
    # Query 4 comes without its group: it can't be judged, and is only one more wrong picture for query 0.
    assert whole == (1.0, 4.0)
    with_lonely = scores(CosineRetrieval(), pictures, torch.tensor([0, 1, 2, 3, 4]))
    assert 0.5 < with_lonely[0] <= 1.0
