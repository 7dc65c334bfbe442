"""The judge of point-cloud classification: conditions apart, the curve, and readable pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.specs import LidarSpec, PointClassesSpec
from tasks.pointcloud.point_classification import PointClassification

SPEC = PointClassesSpec(
    dataset="made-up",
    classes=("cup", "bowl"),
    points=8,
    conditions=("clean", "noise_0.1", "noise_0.02", "outliers"),
)


def batch(condition: int, label: list[int]) -> dict[str, object]:
    return {
        "points": torch.rand(len(label), 8, 3),
        "label": torch.tensor(label),
        "condition": torch.full((len(label),), condition),
        "id": [f"{condition}/{number}" for number in range(len(label))],
    }


def says(*classes: int) -> dict[str, torch.Tensor]:
    return {"logits": torch.eye(2)[list(classes)] * 3}


def test_measures_by_hand() -> None:
    judge = PointClassification.judge(SPEC)
    judge.update(says(0, 0, 0, 1), batch(0, [0, 0, 1, 1]))
    judge.update(says(0), batch(0, [0]))
    judge.update(says(0, 1), batch(1, [0, 0]))
    judge.update(says(1), batch(2, [1]))
    judge.update(says(1), batch(3, [0]))
    scores = judge.compute()
    assert scores["accuracy"] == pytest.approx(80)
    assert scores["class_accuracy"] == pytest.approx((100 + 50) / 2)
    assert (scores["noise_0.1"], scores["noise_0.02"], scores["outliers"]) == (50, 100, 0)
    # From 0 over 0.02 to 0.1, whatever the order of the conditions.
    assert scores["robustness"] == pytest.approx((0.02 * 90 + 0.08 * 75) / 0.1)
    assert set(scores) <= {measure.name for measure in PointClassification.measures}
    (picture,) = judge.figures().values()
    assert picture.dtype == np.uint8
    judge.reset()
    judge.update(says(1), batch(0, [1]))
    assert judge.compute() == {"accuracy": 100, "class_accuracy": 100}
    assert judge.figures() == {}


def test_a_dataset_without_noise_has_no_curve() -> None:
    spec = PointClassesSpec(dataset="x", classes=("a", "b"), points=8)
    judge = PointClassification.judge(spec)
    judge.update(says(0, 1), batch(0, [0, 0]))
    assert judge.compute() == {"accuracy": 50, "class_accuracy": 50}


def test_the_primary_measure_is_the_clean_accuracy() -> None:
    assert PointClassification.primary().name == "accuracy"
    assert all(measure.higher_is_better for measure in PointClassification.measures)


def test_wrong_input_is_refused() -> None:
    judge = PointClassification.judge(SPEC)
    with pytest.raises(ValueError, match=r"logits must be \[1, 2\], got \(1, 3\)"):
        judge.update({"logits": torch.zeros(1, 3)}, batch(0, [0]))
    with pytest.raises(ValueError, match="condition holds 4"):
        judge.update(says(0), batch(4, [0]))
    with pytest.raises(ValueError, match="first condition must be 'clean'"):
        PointClassification.judge(
            PointClassesSpec(dataset="x", classes=("a",), points=8, conditions=("noise_0.1",))
        )
    lidar = LidarSpec.__new__(LidarSpec)
    with pytest.raises(TypeError, match="needs a PointClassesSpec, got LidarSpec"):
        PointClassification.judge(lidar)


def test_pictures() -> None:
    drawn = PointClassification.draw(says(0, 1, 0), batch(0, [0, 0, 1]), SPEC, limit=2)
    assert len(drawn) == 2
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in drawn)
    assert not np.array_equal(drawn[0], drawn[1])
