"""The confusion-matrix metric against hand-counted cases and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score

from tasks.metrics.class_confusion import ClassConfusion, class_confusion, class_scores

# Truth 0 twice (left out); class 1: two right, one predicted 0; class 2: one right, one called 1; 3: absent.
TRUTH = torch.tensor([0, 1, 1, 1, 2, 2, 0])
PREDICTION = torch.tensor([1, 1, 1, 0, 2, 1, 3])


def test_counts_by_hand() -> None:
    expected = torch.tensor([[0, 0, 0, 0], [1, 2, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    assert torch.equal(class_confusion(PREDICTION, TRUTH, classes=3), expected)


def test_scores_by_hand() -> None:
    scores = class_scores(class_confusion(PREDICTION, TRUTH, classes=3))
    # Class 1: TP 2, FN 1 (predicted 0), FP 1 -> 2/4. Class 2: TP 1, FN 1 -> 1/2. Class 3 absent: 0.
    assert scores.iou.tolist() == [50.0, 50.0, 0.0]
    assert scores.present.tolist() == [True, True, False]
    assert float(scores.miou) == pytest.approx(100 / 3)
    assert float(scores.miou_present) == pytest.approx(50.0)
    assert float(scores.accuracy) == pytest.approx(60.0)  # 3 of 5


def test_dropping_unlabelled_predictions_flatters() -> None:
    scores = class_scores(class_confusion(PREDICTION, TRUTH, classes=3), drop_unlabelled_predictions=True)
    assert scores.iou.tolist() == pytest.approx([200 / 3, 50.0, 0.0])
    assert float(scores.accuracy) == pytest.approx(75.0)  # 3 of 4


def test_a_method_that_always_abstains_scores_nothing() -> None:
    scores = class_scores(class_confusion(torch.zeros(5, dtype=torch.int64), torch.ones(5).long(), classes=2))
    assert float(scores.miou) == 0.0
    assert float(scores.accuracy) == 0.0


def test_agrees_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(1, 6, (500,), generator=generator)
    prediction = torch.where(
        torch.rand(500, generator=generator) < 0.6, truth, torch.randint(1, 6, (500,), generator=generator)
    )
    scores = class_scores(class_confusion(prediction, truth, classes=5))
    reference = 100 * jaccard_score(truth.numpy(), prediction.numpy(), average="macro")
    assert float(scores.miou) == pytest.approx(reference)
    assert float(scores.accuracy) == pytest.approx(100 * accuracy_score(truth.numpy(), prediction.numpy()))


def test_one_matrix_over_batches_not_a_mean_of_batch_scores() -> None:
    metric = ClassConfusion(3)
    metric.update(PREDICTION[:3], TRUTH[:3])
    metric.update(PREDICTION[3:], TRUTH[3:])
    whole = class_scores(class_confusion(PREDICTION, TRUTH, classes=3))
    assert float(metric.compute().miou) == float(whole.miou)
    other = ClassConfusion(3)
    other.update(PREDICTION, TRUTH)
    merged = metric.confusion + other.confusion  # what dist_reduce_fx="sum" does between processes
    assert float(class_scores(merged).miou) == float(whole.miou)
    metric.reset()
    assert int(metric.confusion.sum()) == 0


def test_nothing_labelled_is_no_score() -> None:
    scores = class_scores(class_confusion(torch.tensor([1, 2]), torch.tensor([0, 0]), classes=2))
    assert math.isnan(float(scores.accuracy))
    assert math.isnan(float(scores.miou_present))
    assert float(scores.miou) == 0.0


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="must be equal"):
        class_confusion(torch.ones(3).long(), torch.ones(4).long(), classes=2)
    with pytest.raises(ValueError, match=r"labels 1\.\.3, expected 0\.\.2"):
        class_confusion(torch.tensor([1, 3]), torch.tensor([1, 2]), classes=2)
    with pytest.raises(ValueError, match="integer class labels"):
        class_confusion(torch.rand(3), torch.ones(3).long(), classes=2)
