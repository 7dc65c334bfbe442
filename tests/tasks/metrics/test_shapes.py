"""Scores of shape retrieval: by hand, and the knee-point score as torchmetrics' R-precision."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_r_precision

from tasks.metrics.shapes import bulls_eye, knee_point, precision_recall, without


def test_knee_point_and_bulls_eye_by_hand() -> None:
    relevant = torch.tensor([[1, 0, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    # Three right answers: two of them among the first 3, all among the first 6.
    assert knee_point(relevant)[:2].tolist() == [pytest.approx(2 / 3), 1.0]
    assert bulls_eye(relevant)[:2].tolist() == [1.0, 1.0]
    assert knee_point(relevant)[2].isnan()
    late = torch.tensor([[1, 0, 0, 1, 1]]).bool()
    assert (knee_point(late).item(), bulls_eye(late).item()) == (pytest.approx(1 / 3), 1.0)
    later = torch.tensor([[1, 0, 0, 0, 1]]).bool()
    assert bulls_eye(later).item() == 0.5


def test_knee_point_is_r_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        relevant = torch.rand(1, 30, generator=generator) < 0.3
        score = torch.arange(30, 0, -1).float()
        expected = retrieval_r_precision(score, relevant[0].long())
        assert knee_point(relevant).item() == pytest.approx(expected.item())


def test_random_ranking_scores_its_expectation() -> None:
    # 20 classes of 6, the query first: (1 + 5 * 5 / 119) / 6.
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(120) // 6
    rows = []
    for query in range(120):
        order = torch.randperm(120, generator=generator)
        order = torch.cat([torch.tensor([query]), order[order != query]])
        rows.append(label[order] == label[query])
    expected = (1 + 5 * 5 / 119) / 6
    assert knee_point(torch.stack(rows)).mean().item() == pytest.approx(expected, abs=0.02)


def test_precision_and_recall_by_hand() -> None:
    relevant = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]]).bool()
    precision, recall = precision_recall(relevant)
    assert precision.tolist() == pytest.approx([0.5, 0.5, (2 / 3 + 1 / 3) / 2])
    assert recall.tolist() == pytest.approx([0.25, 0.75, 1.0])
    # At the cut-off V precision and recall of a query are the knee-point score.
    one = torch.tensor([[1, 0, 1, 0]]).bool()
    assert [float(curve[1]) for curve in precision_recall(one)] == [knee_point(one).item()] * 2


def test_taking_the_query_out() -> None:
    relevant = torch.tensor([[1, 0, 1], [0, 1, 1]]).bool()
    taken = torch.tensor([[1, 0, 0], [0, 0, 1]]).bool()
    assert without(relevant, taken).tolist() == [[False, True], [False, True]]
    with pytest.raises(ValueError, match="one entry a row"):
        without(relevant, torch.zeros_like(taken))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"bool \[Q, N\]"):
        knee_point(torch.zeros(3, dtype=torch.bool))
