from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from datamodules.specs import EdgeSpec, PixelClassesSpec
from tasks.dense.semantic_segmentation import VOID_COLOUR, SemanticSegmentation, class_iou, colour

SPEC = PixelClassesSpec(
    dataset="none", classes=("ground", "cat", "dog"), palette=((0, 0, 0), (128, 0, 0), (0, 128, 0))
)


def batch(mask: list[list[int]]) -> dict[str, object]:
    truth = torch.tensor(mask)[None]
    return {"image": torch.zeros(1, 3, *truth.shape[1:]), "mask": truth, "id": ["a"]}


def one_hot(labels: list[list[int]], classes: int = 3) -> dict[str, torch.Tensor]:
    return {
        "logits": torch.nn.functional.one_hot(torch.tensor(labels)[None], classes).permute(0, 3, 1, 2).float()
    }


def test_scores_by_hand() -> None:
    judge = SemanticSegmentation.judge(SPEC)
    # ground: 2 hits of 4 (one false, one missed); cat: 1 hit of 3; the void pixel counts nowhere.
    judge.update(one_hot([[0, 0, 1], [0, 1, 2]]), batch([[0, 0, 0], [1, 1, 255]]))
    scores = judge.compute()
    assert scores["iou/ground"] == pytest.approx(50)
    assert scores["iou/cat"] == pytest.approx(100 / 3)
    assert scores["miou"] == pytest.approx(50 * (1 / 2 + 1 / 3))
    assert scores["miou_foreground"] == pytest.approx(100 / 3)
    assert scores["pixel_accuracy"] == pytest.approx(60)
    assert "iou/dog" not in scores, "a class that is nowhere has no IoU"


def test_a_class_that_is_only_predicted_counts_zero() -> None:
    judge = SemanticSegmentation.judge(SPEC)
    judge.update(one_hot([[0, 2]]), batch([[0, 0]]))
    scores = judge.compute()
    assert scores["iou/dog"] == 0
    assert scores["miou"] == pytest.approx(25)
    assert scores["miou_foreground"] == 0


def test_counts_are_accumulated_over_the_split_not_averaged_over_pictures() -> None:
    judge = SemanticSegmentation.judge(SPEC)
    judge.update(one_hot([[1, 1, 1, 1]]), batch([[1, 1, 1, 1]]))
    judge.update(one_hot([[0, 0]]), batch([[1, 0]]))
    scores = judge.compute()
    assert scores["iou/cat"] == pytest.approx(80)  # 4 of 5, whereas the mean over pictures is 50
    assert scores["iou/ground"] == pytest.approx(50)
    judge.reset()
    judge.update(one_hot([[1]]), batch([[1]]))
    assert judge.compute()["miou"] == pytest.approx(100)


def test_perfect_and_order_of_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    truths = torch.randint(0, 3, (6, 1, 8, 8), generator=generator)
    guesses = torch.rand(6, 1, 3, 8, 8, generator=generator)
    forward, backward, perfect = (SemanticSegmentation.judge(SPEC) for _ in range(3))
    for index in range(6):
        forward.update({"logits": guesses[index]}, {"mask": truths[index]})
        backward.update({"logits": guesses[5 - index]}, {"mask": truths[5 - index]})
        perfect.update(one_hot(truths[index, 0].tolist()), {"mask": truths[index]})
    assert forward.compute() == backward.compute()
    assert all(value == pytest.approx(100) for value in perfect.compute().values())
    # A slow reference: sets of pixels.
    labels = guesses.argmax(2)
    for index, name in enumerate(SPEC.classes):
        both = ((labels == index) & (truths == index)).sum()
        either = ((labels == index) | (truths == index)).sum()
        assert forward.compute()[f"iou/{name}"] == pytest.approx(100 * float(both / either))


def test_class_iou_checks_its_shape() -> None:
    assert math.isnan(class_iou(torch.zeros(2, 2))[0])
    with pytest.raises(ValueError, match="square"):
        class_iou(torch.zeros(2, 3))


def test_wrong_shapes_and_specs_are_named() -> None:
    judge = SemanticSegmentation.judge(SPEC)
    with pytest.raises(ValueError, match=r"logits must be \(1, 3, 1, 2\)"):
        judge.update({"logits": torch.zeros(1, 3, 2, 2)}, batch([[0, 0]]))
    with pytest.raises(TypeError, match="EdgeSpec"):
        SemanticSegmentation.judge(EdgeSpec(dataset="none", annotators=1))


def test_drawing_shows_palette_and_void() -> None:
    sample = batch([[0, 1], [2, 255]])
    sample["image"] = torch.ones(1, 3, 2, 2)
    (picture,) = SemanticSegmentation.draw(one_hot([[1, 1], [1, 1]]), sample, SPEC)
    assert picture.shape == (2, 6, 3)
    assert picture.dtype == np.uint8
    assert (picture[:, :2] == 255).all()
    assert picture[:, 2:4].reshape(-1, 3).tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], list(VOID_COLOUR)]
    assert (picture[:, 4:] == (128, 0, 0)).all()
    greys = colour(np.array([[0, 2]]), PixelClassesSpec(dataset="none", classes=("a", "b", "c")))
    assert greys.tolist() == [[[0, 0, 0], [255, 255, 255]]]
