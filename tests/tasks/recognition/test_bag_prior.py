"""The most frequent bag label."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.recognition.mnist_bags import MnistBagsCounting, MnistBagsSingle
from tasks.recognition.bag_prior import BagPrior


def run(data: pl.LightningDataModule) -> tuple[BagPrior, dict[str, float]]:
    method = BagPrior(data.spec)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(method, data)
    (scores,) = trainer.test(method, data, verbose=False)
    return method, scores


def test_half_of_balanced_bags_are_wrong(cache: Path) -> None:
    method, scores = run(MnistBagsSingle(cache=cache, bags=40, test_bags=20))
    assert scores["test/error"] == pytest.approx(50)
    assert method.counts.tolist() == [20, 20]


def test_most_counts_are_wrong(cache: Path) -> None:
    data = MnistBagsCounting(cache=cache, bags=60, test_bags=100)
    method, scores = run(data)
    labels = torch.tensor([bag.label for bag in data.split("train").bags])
    assert int(method.counts.argmax()) == int(labels.mode().values)
    assert 70 < scores["test/error"] < 95
    with pytest.raises(ValueError, match="below"):
        method.training_step({"label": torch.tensor([10**6])}, 0)
