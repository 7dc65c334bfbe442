"""The task: its judge on a gallery by hand, a method's own comparison, pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.specs import ImageClassesSpec, LandmarksSpec
from tasks.retrieval.landmark_retrieval import LandmarkRetrieval

SPEC = LandmarksSpec(dataset="made-up", image_size=16, train_size=16)


def batches() -> list[dict[str, object]]:
    """Gallery 0..3 and query 4, one picture each, of different shapes."""
    relevance = torch.tensor([[4, 0, 1], [4, 2, 2], [4, 3, 3]])
    found = []
    for index in range(5):
        is_query = index == 4
        found.append(
            {
                "image": torch.full((1, 3, 16, 12 + index), 0.2 * index),
                "index": torch.tensor([index]),
                "is_query": torch.tensor([is_query]),
                "relevance": relevance if is_query else torch.zeros(0, 3, dtype=torch.long),
                "id": [str(index)],
            }
        )
    return found


def features(cosines: list[float]) -> list[torch.Tensor]:
    """Of any length: cosine is what counts."""
    own = [torch.tensor([[5 * c, 5 * (1 - c * c) ** 0.5]]) for c in cosines]
    return [*own, torch.tensor([[2.0, 0.0]])]


def test_the_judge_by_hand() -> None:
    judge = LandmarkRetrieval.judge(SPEC)
    # Ranked 3 (junk), 0 (easy), 1 (wrong), 2 (hard).
    for feature, batch in zip(features([0.8, 0.5, 0.1, 0.9]), batches(), strict=True):
        judge.update({"feature": feature}, batch)
    scores = judge.compute()
    assert scores["map_medium"] == pytest.approx(100 * (1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert scores["map_hard"] == pytest.approx(25.0)  # of 1, 2
    assert scores["map_easy"] == pytest.approx(100.0)
    (picture,) = judge.figures().values()
    assert picture.dtype == np.uint8
    assert picture.shape == (56, 9 * 56, 3)
    judge.reset()
    with pytest.raises(ValueError, match="nothing has been taken in"):
        judge.compute()


def test_a_method_may_compare_in_its_own_way() -> None:
    judge = LandmarkRetrieval.judge(SPEC)
    judge.compare = lambda queries, gallery: gallery["order"].T
    for order, feature, batch in zip(
        (0.0, 3.0, 1.0, 2.0, 0.0), features([0.1, 0.9, 0.1, 0.5]), batches(), strict=True
    ):
        judge.update({"feature": feature, "order": torch.tensor([[order]])}, batch)
    assert judge.compute()["map_medium"] == pytest.approx(100.0)
    judge.compare = lambda queries, gallery: torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"compare must answer \(1, 4\)"):
        judge.compute()


def test_equal_pictures_keep_the_order_of_the_split() -> None:
    judge = LandmarkRetrieval.judge(SPEC)
    for batch in reversed(batches()):
        judge.update({"feature": torch.ones(1, 2)}, batch)
    # easy, wrong, hard, junk
    assert judge.compute()["map_medium"] == pytest.approx(100 * (1 + (1 / 2 + 2 / 3) / 2) / 2)


def test_a_shortened_run_has_the_primary_measure_alone() -> None:
    judge = LandmarkRetrieval.judge(SPEC)
    for feature, batch in list(zip(features([0.8, 0.5, 0.1, 0.9]), batches(), strict=True))[1::3]:
        judge.update({"feature": feature}, batch)
    assert judge.compute() == {"map_medium": 0.0}


def test_wrong_predictions_and_specs_are_refused() -> None:
    judge = LandmarkRetrieval.judge(SPEC)
    with pytest.raises(ValueError, match=r"feature must be \[1, D\]"):
        judge.update({"feature": torch.zeros(2, 3)}, batches()[0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        judge.update({"feature": torch.tensor([[torch.nan]])}, batches()[0])
    judge.update({"feature": torch.ones(1, 2)}, batches()[0])
    with pytest.raises(ValueError, match="0 queries and a gallery of 1"):
        judge.compute()
    with pytest.raises(TypeError, match="needs a LandmarksSpec"):
        LandmarkRetrieval.judge(ImageClassesSpec(dataset="x", classes=(), image_size=(8, 8)))


def test_pictures() -> None:
    same = [batch for batch in batches() if batch["id"] != ["4"]]
    batch = {
        "image": torch.rand(4, 3, 16, 16),
        "index": torch.cat([item["index"] for item in same]),
        "is_query": torch.tensor([False, False, False, True]),
        "relevance": torch.tensor([[3, 0, 1]]),
        "id": list("0123"),
    }
    drawn = LandmarkRetrieval.draw({"feature": torch.rand(4, 6)}, batch, SPEC, limit=2)
    assert len(drawn) == 2
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in drawn)
