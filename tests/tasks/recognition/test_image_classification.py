"""The judge of image classification against numbers worked out by hand, and the drawings."""

from __future__ import annotations

import pytest
import torch

from datamodules.specs import EdgeSpec, ImageClassesSpec
from tasks.recognition.image_classification import ImageClassification

SPEC = ImageClassesSpec(dataset="toy", classes=tuple("abcdefgh"), image_size=(4, 4))


def batch(labels: list[int]) -> dict[str, object]:
    count = len(labels)
    return {
        "image": torch.rand(count, 3, 4, 4),
        "label": torch.tensor(labels),
        "id": [str(i) for i in range(count)],
    }


def test_top1_and_top5_error_by_hand_over_two_batches() -> None:
    judge = ImageClassification.judge(SPEC)
    descending = torch.arange(8.0, 0.0, -1.0)  # ranks 0, 1, 2, ...
    judge.update({"logits": descending.expand(3, 8)}, batch([0, 4, 5]))  # right; top 5; neither
    judge.update({"logits": descending.expand(1, 8)}, batch([7]))  # neither
    assert judge.compute() == pytest.approx({"error": 75.0, "error_top5": 50.0})
    judge.reset()
    judge.update({"logits": descending.expand(1, 8)}, batch([0]))
    assert judge.compute() == pytest.approx({"error": 0.0, "error_top5": 0.0})


def test_error_is_over_pictures_not_over_classes() -> None:
    judge = ImageClassification.judge(SPEC)
    always_a = torch.zeros(10, 8)
    always_a[:, 0] = 1.0
    judge.update({"logits": always_a}, batch([0] * 9 + [1]))
    assert judge.compute()["error"] == pytest.approx(10.0)


def test_fewer_than_five_classes() -> None:
    spec = ImageClassesSpec(dataset="toy", classes=("a", "b"), image_size=(4, 4))
    judge = ImageClassification.judge(spec)
    judge.update({"logits": torch.tensor([[1.0, 0.0]])}, batch([1]))
    assert judge.compute() == pytest.approx({"error": 100.0, "error_top5": 0.0})


def test_refuses_wrong_shapes_and_specs() -> None:
    with pytest.raises(ValueError, match=r"\[2, 8\]"):
        ImageClassification.judge(SPEC).update({"logits": torch.zeros(2, 7)}, batch([0, 1]))
    with pytest.raises(TypeError, match="ImageClassesSpec"):
        ImageClassification.judge(EdgeSpec(dataset="toy", annotators=5))


def test_draws_one_captioned_picture_a_sample() -> None:
    labelled = batch([0, 1])
    logits = torch.zeros(2, 8)
    logits[:, 0] = 5.0
    right, wrong = ImageClassification.draw({"logits": logits}, labelled, SPEC)
    assert right.shape == wrong.shape == (228, 192, 3)
    assert right.dtype == "uint8"
    expected = (labelled["image"][0, :, 0, 0] * 255).round().to(torch.uint8)
    assert right[0, 0].tolist() == expected.tolist()

    def green(picture: object) -> bool:
        caption = picture[192:].astype(int)
        return bool(((caption[..., 1] - caption[..., 0]) > 60).any())

    assert green(right)
    assert not green(wrong)
