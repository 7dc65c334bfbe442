"""The zero-shot task: measures by hand and against torchmetrics, what is refused, pictures, the trivial predictor."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torchmetrics.functional.classification import binary_f1_score

from datamodules.recognition.cub200_zsl import CUB200ZeroShot
from datamodules.specs import ImageClassesSpec, Spec, ZeroShotSpec
from tasks.metrics.tree_reconstruction import compositions, tree_errors
from tasks.recognition.random_zero_shot import RandomZeroShot
from tasks.recognition.zero_shot import (
    DRAWS,
    ZeroShotClassification,
    attribute_draws,
    class_groups,
    present_attributes,
    semantic_vectors,
)

SPEC = ZeroShotSpec(
    dataset="made",
    classes=("a", "b", "c", "d", "e"),
    seen=2,
    held_out=1,
    image_size=(8, 8),
    attributes=("x", "y", "z"),
    values=((0.6, 0.8, 0.0), (1.0, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.2), (0.9, 0.9, 0.9)),
    parts=("head", "tail"),
)


def test_facts_of_a_spec() -> None:
    assert Spec.from_json(SPEC.to_json()) == SPEC
    assert class_groups(SPEC) == {"seen": range(2), "held_out": range(2, 3), "unseen": range(3, 5)}
    torch.testing.assert_close(semantic_vectors(SPEC).norm(dim=1), torch.ones(5))
    assert semantic_vectors(SPEC)[3].tolist() == [0, 0, 1]
    assert present_attributes(SPEC).int().tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]]
    published = ZeroShotSpec(**{**SPEC.__dict__, "present": ((0, 0, 1),) * 5})
    assert present_attributes(published).int().tolist() == [[0, 0, 1]] * 5
    draws = attribute_draws(SPEC)
    assert draws.shape == (1 + DRAWS, 5, 3)
    assert torch.equal(draws[0], present_attributes(SPEC))
    assert (draws.sum(2) == draws[0].sum(1)).all()


def test_accuracy_is_averaged_over_unseen_classes_and_others_never_win() -> None:
    judge = ZeroShotClassification.judge(SPEC)
    logits = torch.tensor([[9.0, 9, 9, 2, 1], [9, 9, 9, 2, 1], [9, 9, 9, 1, 2], [0, 0, 0, 2, 1]])
    judge.update({"logits": logits}, {"label": torch.tensor([3, 3, 3, 4])})
    scores = judge.compute()
    # Class d: 2 of 3, class e: 0 of 1.
    assert scores == pytest.approx({"accuracy": 100 * (2 / 3 + 0) / 2, "accuracy_micro": 50.0})
    judge.reset()
    judge.update({"logits": logits[:1]}, {"label": torch.tensor([4])})
    assert judge.compute()["accuracy_micro"] == 0


def test_held_out_classes_are_judged_among_themselves() -> None:
    judge = ZeroShotClassification.judge(SPEC)
    judge.update({"logits": torch.tensor([[9.0, 9, 0, 9, 9]])}, {"label": torch.tensor([2])})
    assert judge.compute()["accuracy"] == 100


def test_parts_f1_is_the_mean_over_parts() -> None:
    judge = ZeroShotClassification.judge(SPEC)
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 2, 4, 4, generator=generator) < 0.3
    says = torch.randn(3, 2, 4, 4, generator=generator)
    base = {"logits": torch.zeros(3, 5)}
    label = torch.tensor([3, 4, 3])
    judge.update({**base, "parts": says, "parts_truth": truth}, {"label": label})
    expected = (
        sum(binary_f1_score(says[:, i].sigmoid().flatten(), truth[:, i].flatten().long()) for i in range(2))
        / 2
    )
    assert judge.compute()["parts_f1"] == pytest.approx(float(expected))
    for value, wanted in ((-1.0, 0.0), (1.0, float("nan"))):
        judge.reset()
        judge.update({**base, "parts": torch.full_like(says, value), "parts_truth": truth}, {"label": label})
        share = truth.float().mean(dim=(0, 2, 3))
        wanted = wanted if value < 0 else float((2 * share / (1 + share)).mean())
        assert judge.compute()["parts_f1"] == pytest.approx(wanted)


def test_tree_errors_of_the_classes_attributes() -> None:
    judge = ZeroShotClassification.judge(SPEC)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1 + DRAWS, 3, 6, generator=generator)
    features, label = torch.randn(4, 6, generator=generator), torch.tensor([3, 4, 4, 3])
    answer = {"logits": torch.zeros(4, 5), "representation": features, "attribute_vectors": vectors}
    judge.update(answer, {"label": label})
    scores = judge.compute()
    errors = tree_errors(features, compositions(vectors, attribute_draws(SPEC))[:, label])
    assert scores["tre"] == pytest.approx(errors[0].mean().item())
    assert scores["tre_ratio"] == pytest.approx((errors[0].mean() / errors[1:].mean()).item())


def test_what_does_not_fit_is_refused() -> None:
    judge = ZeroShotClassification.judge(SPEC)
    label = torch.tensor([3, 4])
    logits = torch.zeros(2, 5)
    with pytest.raises(ValueError, match=r"logits must be \[2, 5\], got \(2, 2\)"):
        judge.update({"logits": torch.zeros(2, 2)}, {"label": label})
    with pytest.raises(ValueError, match=r"seen classes are not tested, got labels \[1\]"):
        judge.update({"logits": logits}, {"label": torch.tensor([3, 1])})
    with pytest.raises(ValueError, match="parts and parts_truth together"):
        judge.update({"logits": logits, "parts": torch.zeros(2, 2, 1, 1)}, {"label": label})
    three = torch.zeros(2, 3, 1, 1)
    with pytest.raises(ValueError, match=r"must be \[B, 2, h, w\]"):
        judge.update({"logits": logits, "parts": three, "parts_truth": three.bool()}, {"label": label})
    with pytest.raises(ValueError, match="representation and attribute_vectors together"):
        judge.update({"logits": logits, "representation": logits}, {"label": label})
    with pytest.raises(ValueError, match="no picture"):
        ZeroShotClassification.judge(SPEC).compute()
    with pytest.raises(TypeError, match="needs a ZeroShotSpec"):
        ZeroShotClassification.judge(ImageClassesSpec(dataset="x", classes=("a",), image_size=(8, 8)))


def test_pictures_are_drawn_with_and_without_parts() -> None:
    batch = {"image": torch.rand(3, 3, 8, 8), "label": torch.tensor([3, 4, 4]), "id": ["1", "2", "3"]}
    logits = torch.zeros(3, 5)
    (plain, _) = ZeroShotClassification.draw({"logits": logits}, batch, SPEC, limit=2)
    assert plain.shape == (228, 192, 3)
    parts = {"parts": torch.randn(3, 2, 4, 4), "parts_truth": torch.rand(3, 2, 4, 4) < 0.5}
    pictures = ZeroShotClassification.draw({"logits": logits, **parts}, batch, SPEC)
    assert [picture.shape for picture in pictures] == [(228, 576, 3)] * 3
    assert pictures[0].dtype == plain.dtype


def test_the_trivial_predictor_is_right_once_in_six(cache: Path) -> None:
    data = CUB200ZeroShot(cache=cache)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    method = RandomZeroShot(data.spec, **RandomZeroShot.profile("mini"))
    (scores,) = trainer.test(method, data, verbose=False)
    assert scores["test/accuracy"] == pytest.approx(100 / 6)
    assert 0.05 < scores["test/parts_f1"] < 0.4
    silent = RandomZeroShot(data.spec, **RandomZeroShot.profile("mini", "all_negative"))
    (scores,) = trainer.test(silent, data, verbose=False)
    assert scores["test/parts_f1"] == 0
    with pytest.raises(ValueError, match="sees at least its own cell"):
        RandomZeroShot(data.spec, cell=8, reach=4)
