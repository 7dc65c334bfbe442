"""Accuracy by condition: by hand, against torchmetrics, and the area under a curve."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from tasks.metrics.condition_accuracy import ConditionAccuracy, area_under_curve, condition_confusion


def test_confusion_by_hand() -> None:
    count = condition_confusion(
        torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1]), 2, 3
    )
    assert count.tolist() == [[[1, 1], [0, 1]], [[0, 0], [1, 0]], [[0, 0], [0, 0]]]


def test_accuracies_are_those_of_torchmetrics() -> None:
    torch.manual_seed(0)
    metric = ConditionAccuracy(5, 3)
    prediction, truth = torch.randint(0, 5, (2, 400))
    condition = torch.randint(0, 2, (400,))
    for part in range(0, 400, 90):
        chosen = slice(part, part + 90)
        metric.update(prediction[chosen], truth[chosen], condition[chosen])
    overall, by_class = metric.compute()
    for number in range(2):
        own = condition == number
        for average, value in (("micro", overall), ("macro", by_class)):
            expected = multiclass_accuracy(prediction[own], truth[own], 5, average=average)  # type: ignore[arg-type]
            assert value[number].item() == pytest.approx(100 * expected.item(), rel=1e-5)
    assert torch.isnan(overall[2])
    assert torch.isnan(by_class[2])
    metric.reset()
    assert not metric.confusion.any()


def test_classes_without_truth_are_left_out_of_their_mean() -> None:
    metric = ConditionAccuracy(3, 1)
    metric.update(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]), torch.zeros(4).long())
    overall, by_class = metric.compute()
    assert (overall.item(), by_class.item()) == (50, 50)
    metric.update(torch.tensor([0, 0]), torch.tensor([0, 0]), torch.zeros(2).long())
    overall, by_class = metric.compute()
    assert (overall.item(), by_class.item()) == (pytest.approx(400 / 6), pytest.approx((75 + 50) / 2))


def test_two_processes_add_up() -> None:
    """What torchmetrics does with `sum` states."""
    parts = [ConditionAccuracy(2, 1) for _ in range(2)]
    parts[0].update(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.zeros(2).long())
    parts[1].update(torch.tensor([1]), torch.tensor([1]), torch.zeros(1).long())
    whole = ConditionAccuracy(2, 1)
    whole.update(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), torch.zeros(3).long())
    assert torch.equal(parts[0].confusion + parts[1].confusion, whole.confusion)
    assert whole._reductions["confusion"] is not None


def test_area_by_hand() -> None:
    assert area_under_curve([0, 0.1], [100, 50]) == pytest.approx(75)
    assert area_under_curve([0, 0.02, 0.05, 0.08, 0.1, 0.15], [93.6, 93.5, 92.4, 89.1, 84.2, 32.6]) == (
        pytest.approx((0.02 * 93.55 + 0.03 * 92.95 + 0.03 * 90.75 + 0.02 * 86.65 + 0.05 * 58.4) / 0.15)
    )
    assert area_under_curve([0, 1, 5], [70, 70, 70]) == 70
    with pytest.raises(ValueError, match="2 or more"):
        area_under_curve([0], [1])
    with pytest.raises(ValueError, match="ascend"):
        area_under_curve([0, 0], [1, 1])


@pytest.mark.parametrize(
    ("prediction", "truth", "condition", "message"),
    [
        ([2], [0], [0], r"prediction holds 2\.\.2, expected 0\.\.1"),
        ([0], [-1], [0], r"truth holds -1\.\.-1"),
        ([0], [0], [3], r"condition holds 3\.\.3, expected 0\.\.2"),
        ([0, 1], [0], [0], "must be equal and"),
    ],
)
def test_wrong_input_is_named(
    prediction: list[int], truth: list[int], condition: list[int], message: str
) -> None:
    given = [torch.tensor(values) for values in (prediction, truth, condition)]
    with pytest.raises(ValueError, match=message):
        condition_confusion(*given, 2, 3)
