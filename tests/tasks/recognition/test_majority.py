"""The majority predictor counts labels through a real training epoch and answers the most frequent one."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.recognition.cifar import CIFAR10
from datamodules.specs import ImageClassesSpec
from tasks.recognition.majority import Majority


def quiet_trainer(**options: object) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


def test_log_frequencies_by_hand() -> None:
    model = Majority(ImageClassesSpec(dataset="toy", classes=("a", "b", "c"), image_size=(2, 2)))
    model.training_step({"label": torch.tensor([1, 1, 2])}, 0)
    model.training_step({"label": torch.tensor([1, 0])}, 1)
    logits = model.predict({"image": torch.zeros(2, 3, 2, 2)})["logits"]
    # counts 1, 3, 1 with one more each: 2/8, 4/8, 2/8
    torch.testing.assert_close(logits.exp(), torch.tensor([[0.25, 0.5, 0.25]] * 2))
    assert "counts" in model.state_dict()


def test_error_on_a_balanced_miniature(cache: Path) -> None:
    data = CIFAR10(cache=cache, batch_size=100)
    model = Majority(data.spec)
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, data)
    assert int(model.counts.sum()) == 1500
    (scores,) = trainer.test(model, data, verbose=False)
    assert scores["test/error"] == pytest.approx(90.0, abs=1e-3)
    assert scores["test/error_top5"] == pytest.approx(50.0, abs=1e-3)
