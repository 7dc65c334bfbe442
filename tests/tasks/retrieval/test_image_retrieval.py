"""The task image-retrieval: its judge by hand, its drawing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.specs import ImageClassesSpec, Spec
from tasks.retrieval.image_retrieval import ImageRetrieval

SPEC = ImageClassesSpec(dataset="test", classes=(), image_size=(16, 16))


def batch_of(groups: list[int], queries: list[bool]) -> dict:
    count = len(groups)
    return {
        "image": torch.linspace(0, 1, count)[:, None, None, None].expand(count, 3, 16, 16),
        "group": torch.tensor(groups),
        "is_query": torch.tensor(queries),
        "index": torch.arange(count),
        "id": [str(i) for i in range(count)],
    }


def test_measures() -> None:
    assert ImageRetrieval.primary().name == "map"
    assert all(measure.higher_is_better for measure in ImageRetrieval.measures)


def test_judge_by_hand_over_batches() -> None:
    # Angles 0, 10, 20 and 30, 100 degrees; groups a b a b b; queries 0 and 3.
    angle = torch.deg2rad(torch.tensor([0.0, 10.0, 20.0, 30.0, 100.0]))
    feature = torch.stack([angle.cos(), angle.sin()], 1) * torch.tensor([[1.0], [9.0], [0.5], [3.0], [1.0]])
    batch = batch_of([0, 1, 0, 1, 1], [True, False, False, True, False])
    judge = ImageRetrieval.judge(SPEC)
    for chunk in (torch.tensor([0, 1, 2]), torch.tensor([3, 4])):
        part = {
            key: value[chunk] if isinstance(value, torch.Tensor) else value for key, value in batch.items()
        }
        judge.update({"feature": feature[chunk]}, part)
    # Query 0: b a b b -> (0/1 + 1/2)/2 = 1/4. Query 3 (nearest 20, 10, 0, 100): a b a b ->
    # ((0 + 1/2)/2 + (1/3 + 2/4)/2) / 2 = 1/3. Top four with itself: 0: a b a b -> 2; 3: b a b a -> 2.
    assert judge.compute() == {"map": pytest.approx(100 * (1 / 4 + 1 / 3) / 2), "ns": pytest.approx(2.0)}
    judge.reset()
    judge.update({"feature": torch.eye(2)[[0, 0, 1, 1]]}, batch_of([0, 0, 1, 1], [True] * 4))
    assert judge.compute() == {"map": 100.0, "ns": 2.0}


def test_judge_wants_a_spec_of_pictures() -> None:
    with pytest.raises(TypeError, match="ImageClassesSpec"):
        ImageRetrieval.judge(Spec(dataset="points"))


def test_draw_frames_right_and_wrong_answers() -> None:
    batch = batch_of([0, 0, 1], [True] * 3)
    feature = torch.tensor([[1.0, 0.0], [1.0, 0.2], [1.0, 1.0]])
    drawn = ImageRetrieval.draw({"feature": feature}, batch, SPEC)
    assert len(drawn) == 3
    assert all(picture.dtype == np.uint8 and picture.shape == (96, 480, 3) for picture in drawn)
    first = drawn[0]
    assert first[0, 96 + 5].tolist() == [0, 150, 0]  # picture 1, of the same group
    assert first[0, 192 + 5].tolist() == [200, 0, 0]  # picture 2, of another
    assert (first[:, 288:] == 255).all()  # no third answer in the batch
