"""The judge of part segmentation: only a category's parts count, and readable pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.specs import ObjectPartsSpec, PointClassesSpec
from tasks.pointcloud.part_segmentation import PartSegmentation, parts_of_categories

SPEC = ObjectPartsSpec(
    dataset="made-up",
    categories=("Mug", "Table"),
    parts=("handle", "body", "top", "leg", "support"),
    first_part=(0, 2),
    points=4,
)


def batch() -> dict[str, object]:
    return {
        "points": torch.rand(2, 4, 3),
        "category": torch.tensor([0, 1]),
        "part": torch.tensor([[0, 0, 1, 1], [2, 2, 2, 3]]),
        "id": ["a", "b"],
    }


def says(parts: list[list[int]]) -> dict[str, torch.Tensor]:
    return {"logits": torch.eye(5)[torch.tensor(parts)]}


def test_parts_of_categories() -> None:
    assert parts_of_categories(SPEC).int().tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]


def test_measures_by_hand() -> None:
    judge = PartSegmentation.judge(SPEC)
    judge.update(says([[0, 1, 1, 1], [2, 2, 2, 3]]), batch())
    scores = judge.compute()
    mug = 100 * (1 / 2 + 2 / 3) / 2
    assert scores["iou_Mug"] == pytest.approx(mug)
    assert scores["iou_Table"] == 100
    assert scores["instance_miou"] == scores["category_miou"] == pytest.approx((mug + 100) / 2)
    assert scores["accuracy"] == 87.5


def test_another_categorys_part_cannot_be_answered() -> None:
    answer = says([[0, 0, 1, 1], [2, 2, 2, 3]])
    answer["logits"][0, :, 4] = 9.0
    judge = PartSegmentation.judge(SPEC)
    judge.update(answer, batch())
    assert judge.compute()["instance_miou"] == 100


def test_wrong_input_is_refused() -> None:
    judge = PartSegmentation.judge(SPEC)
    with pytest.raises(ValueError, match=r"logits must be \[2, 4, 5\], got \[2, 4, 4\]"):
        judge.update({"logits": torch.zeros(2, 4, 4)}, batch())
    with pytest.raises(ValueError, match="isn't one of its shape's category"):
        judge.update(says([[0] * 4] * 2), {**batch(), "category": torch.tensor([1, 1])})
    with pytest.raises(TypeError, match="needs an ObjectPartsSpec"):
        PartSegmentation.judge(PointClassesSpec(dataset="x", classes=("a",), points=4))


def test_pictures() -> None:
    drawn = PartSegmentation.draw(says([[0, 1, 1, 1], [2, 2, 2, 3]]), batch(), SPEC, limit=4)
    assert len(drawn) == 2
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in drawn)
