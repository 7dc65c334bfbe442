"""The few-shot task: measures by hand, what is refused, and pictures that can be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.recognition.mini_imagenet import MiniImageNet
from datamodules.specs import EpisodesSpec, ImageClassesSpec
from tasks.recognition.few_shot import FewShotClassification
from tasks.recognition.pixel_prototype import PixelPrototype
from tasks.recognition.random_few_shot import RandomFewShot

SPEC = EpisodesSpec(dataset="made", ways=2, shots=2, queries=2, image_size=(8, 8))


def test_measures_by_hand() -> None:
    judge = FewShotClassification.judge(SPEC)
    label = torch.tensor([[0, 0, 1, 1], [1, 0, 1, 0]])
    answers = torch.tensor([[0, 1, 1, 1], [1, 0, 1, 0]])
    logits = 3.0 * torch.nn.functional.one_hot(answers, 2).float()
    logits[0, 1] /= 2  # the wrong one is the least sure
    outlier = torch.tensor([[[True, False], [False, False]], [[False, False], [False, False]]])
    judge.update({"logits": logits}, {"query_label": label, "outlier": outlier})
    scores = judge.compute()
    assert scores["accuracy"] == pytest.approx(87.5)
    # Episodes 0.75 and 1: deviation 0.25 / sqrt(2), over sqrt(2) episodes.
    assert scores["interval"] == pytest.approx(100 * 1.96 * 0.25 / 2)
    assert scores["accuracy_outlier"] == pytest.approx(50)
    assert scores["accuracy_clean"] == pytest.approx(100)
    assert scores["accuracy_at_coverage"] == pytest.approx(100)
    assert {name: picture.ndim for name, picture in judge.figures().items()} == {
        "coverage_accuracy": 3,
        "episode_accuracies": 3,
    }
    judge.reset()
    judge.update({"logits": logits[:1]}, {"query_label": label[:1]})
    assert judge.compute()["accuracy"] == pytest.approx(75)
    assert "accuracy_outlier" not in judge.compute()


def test_wrong_shapes_and_wrong_specs_are_refused() -> None:
    judge = FewShotClassification.judge(SPEC)
    with pytest.raises(ValueError, match=r"logits must be \[1, 4, 2\], got \[1, 4, 3\]"):
        judge.update({"logits": torch.zeros(1, 4, 3)}, {"query_label": torch.zeros(1, 4, dtype=torch.long)})
    with pytest.raises(TypeError, match="EpisodesSpec"):
        FewShotClassification.judge(ImageClassesSpec(dataset="x", classes=("a",), image_size=(8, 8)))


def test_a_sheet_is_drawn_with_and_without_attention_and_outliers() -> None:
    batch = {
        "support": torch.rand(2, 2, 2, 1, 8, 8),
        "query": torch.rand(2, 4, 1, 8, 8),
        "query_label": torch.tensor([[0, 0, 1, 1], [1, 0, 1, 0]]),
        "id": ["a", "b"],
    }
    logits = torch.zeros(2, 4, 2)
    plain = FewShotClassification.draw({"logits": logits}, batch, SPEC)
    assert len(plain) == 2
    marked = FewShotClassification.draw(
        {"logits": logits, "attention": torch.full((2, 4, 2, 2), 0.5)},
        {**batch, "outlier": torch.ones(2, 2, 2, dtype=torch.bool)},
        SPEC,
        limit=1,
    )
    assert len(marked) == 1
    assert marked[0].shape == plain[0].shape
    assert (marked[0] != plain[0]).any()


def test_trivial_predictors_on_the_miniature(cache: Path) -> None:
    """Chance is exact; pixels see little of an arrangement whose shift, colours and polarity vary."""
    data = MiniImageNet(cache=cache, test_episodes=30, queries=3, image_size=16)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    data.prepare_data()
    (chance,) = trainer.test(RandomFewShot(data.spec), data, verbose=False)
    assert chance["test/accuracy"] == pytest.approx(20)
    assert chance["test/interval"] == pytest.approx(0)
    assert chance["test/accuracy_at_coverage"] == pytest.approx(20)
    (pixels,) = trainer.test(PixelPrototype(data.spec), data, verbose=False)
    assert 18 < pixels["test/accuracy"] < 35


def test_pixel_prototypes_find_a_copy(cache: Path) -> None:
    data = MiniImageNet(cache=cache, image_size=8, queries=1)
    data.prepare_data()
    support = torch.rand(1, 5, 1, 3, 8, 8)
    batch = {"support": support, "query": support[:, :, 0], "query_label": torch.arange(5)[None]}
    logits = PixelPrototype(data.spec).predict(batch)["logits"]
    assert logits.argmax(2).tolist() == [[0, 1, 2, 3, 4]]
    torch.testing.assert_close(logits.exp().sum(2), torch.ones(1, 5))
