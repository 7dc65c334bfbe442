"""The supervised upper bound: rules by hand, against loops, and a short training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch

from datamodules.recognition.mnist_bags import MnistBagsSingle
from datamodules.specs import BagsSpec
from tasks.recognition.instance_classifier import InstanceClassifier, answer_by_rule

SPEC = BagsSpec(
    dataset="x",
    channels=1,
    instance_classes=tuple("0123456789"),
    rule="presence",
    witnesses=(3, 6),
    image_size=(28, 28),
    mean=(0.1,),
    std=(0.3,),
)
BAG = torch.tensor([0, 0, 0, 1, 1])


def test_presence_asks_for_each_witness() -> None:
    probability = torch.tensor(
        [[0.1, 0.9, 0.0], [0.2, 0.1, 0.7], [0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.5, 0.1, 0.4]]
    )
    label, score = answer_by_rule(probability.clamp(min=1e-9).log(), BAG, 2, SPEC)
    assert label.tolist() == [1, 0]
    torch.testing.assert_close(score, torch.tensor([0.7, 0.4]))


def test_count_counts_the_likeliest() -> None:
    probability = torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2], [0.9, 0.1]])
    label, score = answer_by_rule(probability.log(), BAG, 2, replace(SPEC, rule="count", witnesses=(9,)))
    assert label.tolist() == [2, 0]
    torch.testing.assert_close(score, torch.tensor([2.0, 0.3]))


def test_mixture_is_not_all_of_one_class() -> None:
    probability = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.5, 0.5], [0.9, 0.1], [0.1, 0.9]])
    label, score = answer_by_rule(probability.log(), BAG, 2, replace(SPEC, rule="mixture", witnesses=()))
    torch.testing.assert_close(score, 1 - torch.tensor([0.9 * 0.8 * 0.5, 0.9 * 0.1]))
    assert label.tolist() == [1, 1]


def test_paper_profile_has_lenet_and_steps() -> None:
    torch.manual_seed(0)
    method = InstanceClassifier(SPEC, **InstanceClassifier.profile("paper"))
    assert sum(parameter.numel() for parameter in method.parameters()) == 426_070 + 501 * 3
    method.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    batch = {
        "instances": torch.rand(6, 1, 28, 28),
        "bag": torch.tensor([0, 0, 0, 0, 1, 1]),
        "instance_label": torch.tensor([3, 6, 1, 2, 3, 0]),
        "id": ["a", "b"],
    }
    method.training_step(batch, 0).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_it_beats_chance_soon(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = MnistBagsSingle(cache=cache, batch_size=4, bags=160, val_bags=10, test_bags=60)
    method = InstanceClassifier(data.spec, width=0.3, length=32, lr=0.003)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
    )
    (start,) = trainer.test(method, data, verbose=False)
    trainer.fit(method, data)
    (end,) = trainer.test(method, data, verbose=False)
    assert end["test/error"] < 0.8 * min(50, start["test/error"])
    assert end["test/tnr"] > 90
    assert end["test/instance_accuracy"] > max(60, start["test/instance_accuracy"])
