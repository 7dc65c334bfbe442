"""IoU of parts: by hand, a slow obvious reference, and scikit-learn's Jaccard index."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from tasks.metrics.part_iou import PartIoU, restricted_argmax, shape_iou


def one_by_one(prediction: np.ndarray, truth: np.ndarray, parts: list[int]) -> float:
    ious = []
    for part in parts:
        union = ((prediction == part) | (truth == part)).sum()
        ious.append(1.0 if union == 0 else ((prediction == part) & (truth == part)).sum() / union)
    return float(np.mean(ious))


def test_by_hand() -> None:
    truth = torch.tensor([[0, 0, 1, 1], [3, 3, 3, 3]])
    prediction = torch.tensor([[0, 1, 1, 1], [3, 3, 4, 4]])
    allowed = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]).bool()
    # Part 2 is in neither: 1. Part 4 is predicted and not there: 0.
    assert shape_iou(prediction, truth, allowed).tolist() == pytest.approx([(1 / 2 + 2 / 3 + 1) / 3, 1 / 4])


def test_against_a_loop_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    allowed = np.zeros((6, 9), bool)
    groups = [[0, 1, 2, 3], [4, 5], [6, 7, 8]]
    truth, prediction = np.zeros((2, 6, 50), int)
    for shape in range(6):
        parts = groups[shape % 3]
        allowed[shape, parts] = True
        truth[shape] = rng.choice(parts, 50)
        prediction[shape] = np.where(rng.random(50) < 0.6, truth[shape], rng.choice(parts, 50))
    truth[3][truth[3] == 2] = prediction[3][prediction[3] == 2] = 0
    fast = shape_iou(*(torch.from_numpy(values) for values in (prediction, truth, allowed)))
    for shape in range(6):
        parts = groups[shape % 3]
        assert fast[shape].item() == pytest.approx(one_by_one(prediction[shape], truth[shape], parts))
        if shape != 3:
            jaccard = jaccard_score(truth[shape], prediction[shape], labels=parts, average="macro")
            assert fast[shape].item() == pytest.approx(jaccard)


def test_other_categories_parts_are_no_candidates() -> None:
    logits = torch.tensor([[[0.0, 1, 5], [2, 1, 5]]])
    assert restricted_argmax(logits, torch.tensor([[True, True, False]])).tolist() == [[1, 0]]
    assert restricted_argmax(logits, torch.ones(1, 3).bool()).tolist() == [[2, 2]]


def test_instances_and_categories_are_averaged_apart() -> None:
    metric = PartIoU(3)
    allowed = torch.tensor([[True, True, False, False]] * 3 + [[False, False, True, True]])
    truth = torch.tensor([[0, 1], [0, 1], [0, 1], [2, 3]])
    prediction = torch.tensor([[0, 1], [0, 1], [0, 1], [3, 2]])
    category = torch.tensor([0, 0, 0, 1])
    metric.update(prediction[:2], truth[:2], allowed[:2], category[:2])
    metric.update(prediction[2:], truth[2:], allowed[2:], category[2:])
    scores = metric.compute()
    assert scores.instance.item() == 75
    assert scores.category.item() == 50
    assert scores.by_category[:2].tolist() == [100, 0]
    assert torch.isnan(scores.by_category[2])
    assert scores.accuracy.item() == 75


def test_wrong_input_is_named() -> None:
    allowed = torch.tensor([[True, False]])
    with pytest.raises(ValueError, match="isn't one of its shape's category"):
        shape_iou(torch.tensor([[0]]), torch.tensor([[1]]), allowed)
    with pytest.raises(ValueError, match=r"\(1, 2\) and truth \(1, 1\)"):
        shape_iou(torch.tensor([[0, 0]]), torch.tensor([[0]]), allowed)
