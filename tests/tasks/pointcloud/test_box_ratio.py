"""Bounding-box ratios and the majority: by hand, and no better than a box can be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.pointcloud.modelnet40 import ModelNet40
from datamodules.specs import PointClassesSpec
from tasks.pointcloud.box_ratio import BoxRatio, MajorityCloud, box_ratios

SPEC = PointClassesSpec(dataset="made-up", classes=("low", "high"), points=2)


def boxes(*sides: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor([[(0.0, 0.0, 0.0), side] for side in sides])


def test_ratios_by_hand() -> None:
    clouds = boxes((2, 4, 8), (4, 2, 8), (1, 1, 1))
    expected = [[math.log(2), math.log(0.5)], [math.log(2), math.log(0.5)], [0, 0]]
    torch.testing.assert_close(box_ratios(clouds, 2), torch.tensor(expected))
    torch.testing.assert_close(box_ratios(clouds[:1], 0), torch.tensor([[math.log(0.25), math.log(0.5)]]))
    assert torch.isfinite(box_ratios(torch.zeros(1, 3, 3), 2)).all()


def test_gaussians_of_the_classes_are_counted_over_batches() -> None:
    method = BoxRatio(SPEC)
    low, high = [(1, 1, 0.5), (1, 1, 0.4), (1, 0.9, 0.6)], [(1, 1, 3), (1, 1, 2), (1, 0.8, 2.5)]
    method.training_step({"points": boxes(*low, high[0]), "label": torch.tensor([0, 0, 0, 1])}, 0)
    method.training_step({"points": boxes(*high[1:]), "label": torch.tensor([1, 1])}, 1)
    mean = method.moments[:, 1] / method.moments[:, 0]
    torch.testing.assert_close(mean[0], box_ratios(boxes(*low), 2).double().mean(0))
    answer = method.predict({"points": boxes((1, 1, 0.55), (1, 0.95, 2.2))})["logits"]
    assert answer.argmax(1).tolist() == [0, 1]
    # A class that was never seen isn't answered with a NaN.
    fresh = BoxRatio(SPEC)
    assert torch.isfinite(fresh.predict({"points": boxes((1, 1, 1))})["logits"]).all()


def test_the_majority_by_hand() -> None:
    method = MajorityCloud(SPEC)
    method.training_step({"label": torch.tensor([1, 1, 0])}, 0)
    logits = method.predict({"points": torch.zeros(3, 2, 3)})["logits"]
    assert logits.exp().tolist() == [pytest.approx([0.4, 0.6])] * 3


def test_a_box_tells_pairs_of_the_miniature_but_not_what_is_in_them(cache: Path) -> None:
    data = ModelNet40(cache=cache, batch_size=20, points=64, conditions="clean")
    method = BoxRatio(data.spec)
    run = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    run.fit(method, data)
    (end,) = run.test(method, data, verbose=False)
    assert 20 < end["test/accuracy"] < 60
