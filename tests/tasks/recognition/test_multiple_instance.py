"""The judge of bags against numbers worked out by hand; drawings; what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from datamodules.specs import BagsSpec, ImageClassesSpec, Spec
from tasks.recognition.multiple_instance import MultipleInstance, witness_of

SPEC = BagsSpec(
    dataset="x",
    channels=1,
    instance_classes=tuple("0123456789"),
    rule="presence",
    witnesses=(9,),
    image_size=(28, 28),
    mean=(0.1,),
    std=(0.3,),
)


def batch(label: list[int], sizes: list[int], classes: list[int] | None = None) -> dict[str, object]:
    count = sum(sizes)
    return {
        "instances": torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(0)),
        "bag": torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        "label": torch.tensor(label),
        "instance_label": torch.tensor(classes or [0] * count),
        "id": [f"bag {number}" for number in range(len(sizes))],
    }


def answer(label: list[int], **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"label": torch.tensor(label), "score": torch.tensor(label).float(), **more}


def test_binary_labels_by_hand() -> None:
    judge = MultipleInstance.judge(SPEC)
    judge.update(answer([1, 1, 0]), batch([1, 0, 0], [2, 1, 1]))
    judge.update(answer([0, 1]), batch([1, 1], [1, 1]))
    scores = judge.compute()
    assert scores["error"] == pytest.approx(40)
    assert scores["accuracy"] == pytest.approx(60)
    assert scores["f1"] == pytest.approx(100 * 2 * 2 / (2 * 2 + 1 + 1))
    assert set(scores) == {"error", "accuracy", "f1"}
    assert judge.figures() == {}


def test_counts_by_hand() -> None:
    judge = MultipleInstance.judge(replace(SPEC, rule="count"))
    judge.update(answer([3, 0, 5, 12]), batch([3, 1, 2, 12], [1, 1, 1, 1]))
    scores = judge.compute()
    assert scores == {"error": pytest.approx(50), "mae": pytest.approx(1.0)}
    judge.reset()
    judge.update(answer([1]), batch([1], [1]))
    assert judge.compute()["error"] == 0


def test_groups_of_the_rules() -> None:
    assert SPEC.groups() == (0,) * 9 + (1,)
    assert replace(SPEC, witnesses=(3, 6)).groups() == (0, 0, 0, 1, 0, 0, 2, 0, 0, 0)
    assert replace(SPEC, rule="mixture", witnesses=()).groups() == tuple(range(10))
    assert Spec.from_json(SPEC.to_json()) == SPEC


def test_witnesses_of_a_bag() -> None:
    assert witness_of(torch.tensor([1, 9, 3]), SPEC).tolist() == [False, True, False]
    mixture = replace(SPEC, rule="mixture", witnesses=())
    assert witness_of(torch.tensor([7, 7, 2, 7, 2]), mixture).tolist() == [False, False, True, False, True]


def test_instances_by_hand() -> None:
    judge = MultipleInstance.judge(SPEC)
    classes = [9, 9, 1, 2, 3, 9, 4, 5]
    score = torch.tensor([0.9, 0.5, 0.1, 0.6, 0.2, 0.4, 0.0, 0.3])
    feature = torch.tensor([[10.0], [10.1], [0.0], [10.2], [0.1], [10.0], [0.2], [0.0]])
    judge.update(
        answer([1, 1], instance_score=score, instance_feature=feature), batch([1, 1], [5, 3], classes)
    )
    scores = judge.compute()
    assert scores["tpr"] == pytest.approx(100 * 2 / 3)
    assert scores["tnr"] == pytest.approx(100 * 4 / 5)
    assert scores["instance_accuracy"] == pytest.approx(50 * (2 / 3 + 4 / 5))
    assert scores["purity"] == pytest.approx(50 * (1 + 3 / 4))
    picture = judge.figures()["instances"]
    assert picture.dtype == "uint8"
    assert picture.shape[2] == 3


def test_two_witness_classes_have_no_rates() -> None:
    judge = MultipleInstance.judge(replace(SPEC, witnesses=(3, 6)))
    judge.update(answer([0], instance_score=torch.rand(2)), batch([0], [2]))
    assert "tpr" not in judge.compute()


def test_what_does_not_fit_is_refused() -> None:
    judge = MultipleInstance.judge(SPEC)
    good = batch([0, 1], [1, 2])
    for wrong, message in (
        ({"label": torch.tensor([0.0, 1.0]), "score": torch.zeros(2)}, "int64"),
        ({"label": torch.tensor([0]), "score": torch.zeros(2)}, "int64"),
        ({"label": torch.tensor([0, 2]), "score": torch.zeros(2)}, "nor above 1"),
        ({"label": torch.tensor([0, 1]), "score": torch.zeros(3)}, "score must be"),
        (answer([0, 1], instance_score=torch.zeros(2)), "one length"),
    ):
        with pytest.raises(ValueError, match=message):
            judge.update(wrong, good)
    counting = MultipleInstance.judge(replace(SPEC, rule="count"))
    with pytest.raises(ValueError, match="negative"):
        counting.update(answer([-1, 0]), good)
    with pytest.raises(TypeError, match="BagsSpec"):
        MultipleInstance.judge(ImageClassesSpec(dataset="x", classes=("a",), image_size=(1, 1)))


def test_drawings_show_frames_and_bars() -> None:
    given = batch([1, 0], [40, 3], [9] + [0] * 42)
    sheets = MultipleInstance.draw(answer([1, 1], instance_score=torch.rand(43)), given, SPEC)
    assert len(sheets) == 2
    assert all(sheet.dtype == "uint8" and sheet.ndim == 3 and sheet.shape[2] == 3 for sheet in sheets)
    assert sheets[0][1, 1].tolist() == [240, 130, 0]  # the witness's frame
    assert sheets[1][1, 1].tolist() == [120, 120, 120]
    assert len(MultipleInstance.draw(answer([1, 1]), given, SPEC, limit=1)) == 1
