"""The revisited protocol by hand, and gathering."""

from __future__ import annotations

import pytest
import torch

from tasks.metrics.landmarks import (
    EASY,
    HARD,
    JUNK,
    WRONG,
    GatheredLandmarks,
    grade_matrix,
    revisited_average_precision,
)


def authors_average_precision(ranks: list[int], relevant: int) -> float:
    """As the authors' evaluation script has it; ranks of the right answers from 0."""
    ap = 0.0
    for found, rank in enumerate(ranks):
        before = 1.0 if rank == 0 else found / rank
        ap += (before + (found + 1) / (rank + 1)) / (2 * relevant)
    return ap


def test_the_three_setups_by_hand() -> None:
    ranked = torch.tensor([[EASY, WRONG, JUNK, HARD, WRONG, EASY]])
    found = {setup: value.item() for setup, value in revisited_average_precision(ranked).items()}
    # Medium, junk out: right at ranks 0, 2, 4. Hard, easy and junk out: at 1. Easy, hard and junk out: at 0, 3... of
    # EASY WRONG WRONG EASY.
    assert found["medium"] == pytest.approx(authors_average_precision([0, 2, 4], 3))
    assert found["medium"] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2) / 3)
    assert found["hard"] == pytest.approx(authors_average_precision([1], 1)) == 0.25
    assert found["easy"] == pytest.approx(authors_average_precision([0, 3], 2))


def test_a_random_ranking_is_the_authors_number() -> None:
    generator = torch.Generator().manual_seed(0)
    ranked = torch.randint(4, (5, 40), generator=generator)
    found = revisited_average_precision(ranked)
    rules = {"medium": ({1, 2}, {3}), "hard": ({2}, {1, 3}), "easy": ({1}, {2, 3})}
    for setup, (right, aside) in rules.items():
        for row in range(5):
            kept = [grade for grade in ranked[row].tolist() if grade not in aside]
            ranks = [rank for rank, grade in enumerate(kept) if grade in right]
            assert found[setup][row].item() == pytest.approx(authors_average_precision(ranks, len(ranks)))


def test_a_query_without_a_right_answer_has_no_number() -> None:
    found = revisited_average_precision(torch.tensor([[WRONG, EASY, JUNK]]))
    assert found["hard"].isnan().all()
    assert found["easy"].item() == pytest.approx(0.25)
    with pytest.raises(ValueError, match=r"must be \[Q, N\]"):
        revisited_average_precision(torch.tensor([1, 2]))


def test_grades_of_pictures_that_were_not_taken_in_are_passed_over() -> None:
    relevance = torch.tensor([[10, 2, EASY], [10, 5, HARD], [12, 2, JUNK], [11, 2, EASY]])
    grades = grade_matrix(relevance, torch.tensor([10, 12]), torch.tensor([0, 2, 3]))
    assert grades.tolist() == [[0, EASY, 0], [0, JUNK, 0]]


def test_gathering_sorts_and_counts_each_picture_once() -> None:
    metric = GatheredLandmarks()
    none = torch.zeros(0, 3, dtype=torch.long)
    asked = torch.tensor([[3, 1, 2]])
    metric.update({"feature": torch.tensor([[3.0]])}, torch.tensor([3]), torch.tensor([True]), asked)
    metric.update(
        {"feature": torch.tensor([[1.0], [0.0]])}, torch.tensor([1, 0]), torch.tensor([False, False]), none
    )
    metric.update({"feature": torch.tensor([[1.0]])}, torch.tensor([1]), torch.tensor([False]), none)
    split = metric.compute()
    assert split.queries["feature"].tolist() == [[3.0]]
    assert split.gallery["feature"].tolist() == [[0.0], [1.0]]
    assert split.grades.tolist() == [[0, 2]]


def test_gathering_refuses_what_does_not_fit() -> None:
    metric, one = GatheredLandmarks(), torch.tensor([0])
    none = torch.zeros(0, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="nothing has been taken in"):
        metric.compute()
    with pytest.raises(ValueError, match="'feature' is of 2 pictures"):
        metric.update({"feature": torch.zeros(2, 1)}, one, one.bool(), none)
    with pytest.raises(ValueError, match=r"relevance must be \[P, 3\]"):
        metric.update({"feature": torch.zeros(1, 1)}, one, one.bool(), one)
    metric.update({"feature": torch.zeros(1, 1)}, one, one.bool(), none)
    with pytest.raises(ValueError, match="expected predictions"):
        metric.update({"other": torch.zeros(1, 1)}, one, one.bool(), none)
