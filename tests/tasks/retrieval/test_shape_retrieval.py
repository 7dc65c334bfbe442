"""The task shape-retrieval: its judge by hand, distances, repeats and drawings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.specs import ShapesSpec, Spec
from tasks.retrieval.shape_retrieval import (
    SHOWN,
    SIDE,
    ShapeRetrieval,
    l1_distance,
    ranked_list,
    standardised_l1,
    thumbnail,
)

SPEC = ShapesSpec(dataset="test", classes=("a", "b"), group_size=3)


def batch_of(labels: list[int], queries: list[bool] | None = None) -> dict:
    count = len(labels)
    shapes = [torch.zeros(8 + i, 12, dtype=torch.bool) for i in range(count)]
    for shape in shapes:
        shape[2:6, 3:9] = True
    return {
        "shape": shapes,
        "label": torch.tensor(labels),
        "is_query": torch.tensor([True] * count if queries is None else queries),
        "index": torch.arange(count),
        "id": [str(i) for i in range(count)],
    }


def part(batch: dict, places: list[int]) -> dict:
    return {
        key: value[places] if isinstance(value, torch.Tensor) else [value[i] for i in places]
        for key, value in batch.items()
    }


def test_distances_by_hand() -> None:
    one = torch.tensor([[1.0, 2.0], [0.0, -1.0]], dtype=torch.float64)
    assert l1_distance(one, one).tolist() == [[0.0, 4.0], [4.0, 0.0]]
    gallery = torch.tensor([[0.0, 0.0, 7.0], [2.0, 20.0, 7.0]], dtype=torch.float64)
    # Spreads are 1, 10 and 0: the last number says nothing.
    assert standardised_l1(gallery[:1] + 1, gallery).tolist() == [[pytest.approx(1.1), pytest.approx(2.9)]]


def test_judge_by_hand_over_batches_and_repeats() -> None:
    # Places on a line: a at 0, 1, 5; b at 2, 3; nobody's at 4.
    place = torch.tensor([[0.0], [2.0], [1.0], [4.0], [3.0], [5.0]], dtype=torch.float64)
    batch = batch_of([0, 1, 0, -1, 1, 0], [True, True, False, False, False, True])
    judge = ShapeRetrieval.judge(SPEC)
    for places in ([0, 1, 2], [3, 4], [5, 0]):  # the first shape comes twice
        judge.update({"descriptor": place[places]}, part(batch, places))
    # Query 0 (a at 0): itself, a, b, b, -, a: 2 of the first 3, all in the first 6; without itself 1 of 2.
    # Query 1 (b at 2): itself, then a at 1 and b at 3 tie, in the order of the split: 1 of 2, all in the first 4;
    #     without itself 0 of 1. Query 5 (a at 5): itself, -, b, b, a, a: 1 of 3, all; without itself 0 of 2.
    scores = judge.compute()
    assert scores["knee"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 1 / 3) / 3)
    assert scores["knee_without_query"] == pytest.approx(100 * (1 / 2 + 0 + 0) / 3)
    assert scores["bullseye"] == pytest.approx(100)
    assert scores["nearest"] == pytest.approx(100 / 3)
    figures = judge.figures()
    assert figures["ranked_lists"].shape == (3 * SIDE, (SHOWN + 1) * SIDE, 3)
    assert figures["precision_recall"].ndim == 3
    judge.reset()
    judge.update({"descriptor": place[:2]}, part(batch, [0, 1]))
    assert judge.compute()["knee"] == 100.0


def test_the_methods_own_distance_is_asked() -> None:
    place = torch.tensor([[0.0], [1.0], [5.0], [6.0]], dtype=torch.float64)
    batch = batch_of([0, 0, 1, 1])
    judge = ShapeRetrieval.judge(SPEC)
    judge.update({"descriptor": place}, batch)
    assert judge.compute()["knee"] == 100.0
    judge.compare = lambda queries, gallery: -l1_distance(queries["descriptor"], gallery["descriptor"])
    assert judge.compute()["knee"] == 0.0


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(TypeError, match="ShapesSpec"):
        ShapeRetrieval.judge(Spec(dataset="points"))
    judge = ShapeRetrieval.judge(SPEC)
    with pytest.raises(ValueError, match="NaN"):
        judge.update({"descriptor": torch.full((2, 3), torch.nan)}, batch_of([0, 0]))
    with pytest.raises(ValueError, match=r"descriptor \[B, D\]"):
        judge.update({"descriptor": torch.zeros(3)}, batch_of([0, 0]))
    judge.update({"descriptor": torch.zeros(2, 1)}, batch_of([0, -1]))
    with pytest.raises(ValueError, match="needs a class"):
        judge.compute()
    judge.reset()
    judge.update({"descriptor": torch.zeros(2, 1)}, batch_of([0, 1], [False, False]))
    with pytest.raises(ValueError, match="no silhouette"):
        judge.compute()


def test_thumbnails_keep_proportions() -> None:
    shape = torch.zeros(10, 40, dtype=torch.bool)
    shape[:, :20] = True
    tile = thumbnail(shape, 64)
    assert tile.shape == (64, 64)
    assert (tile[:24] == 255).all()
    assert (tile[40:] == 255).all()
    assert (tile[24:40, :32] == 0).all()


def test_draw_frames_right_and_wrong_answers() -> None:
    place = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    drawn = ShapeRetrieval.draw({"descriptor": place}, batch_of([0, 1, 0]), SPEC, limit=2)
    assert len(drawn) == 2
    assert all(p.dtype == np.uint8 and p.shape == (SIDE, (SHOWN + 1) * SIDE, 3) for p in drawn)
    assert drawn[0][2, SIDE + 2].tolist() == [200, 0, 0]  # nearest: another class
    assert drawn[0][2, 2 * SIDE + 2].tolist() == [0, 150, 0]
    assert (drawn[0][:, 3 * SIDE :] == 255).all()


def test_a_query_taken_out_is_not_listed() -> None:
    tiles = torch.zeros(2, SIDE - 8, SIDE - 8, dtype=torch.uint8)
    row = ranked_list(tiles, torch.tensor([0, 0]), 0, torch.tensor([torch.inf, 1.0]))
    assert (row[:, 2 * SIDE :] == 255).all()
