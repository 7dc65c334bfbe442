"""The trivial predictor of LiDAR detection: its counts by hand, and its score on the miniature."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.pointcloud.kitti_object import KittiObject
from datamodules.specs import LidarBoxesSpec
from tasks.pointcloud.box_prior import BoxPrior

SPEC = LidarBoxesSpec(
    dataset="made-up",
    classes=("Car", "Pedestrian"),
    point_range=(0.0, -4.0, -3.0, 8.0, 4.0, 1.0),
    mean_boxes=((4.0, 1.6, 1.5, -1.7), (0.8, 0.6, 1.7, -1.7)),
    min_overlaps=(0.7, 0.5),
    min_heights=(40.0, 25.0, 25.0),
)


def test_boxes_by_hand() -> None:
    method = BoxPrior(SPEC, cell=4.0, places=2)
    boxes = torch.tensor(
        [
            [1.0, 1.0, -1.0, 4, 1.6, 1.0, 0.1],
            [2.0, 2.0, -1.0, 4, 1.6, 1.0, 0.1 + math.pi],
            [6.0, -1.0, -1.0, 4, 1.6, 1.0, 0.1],
            [3.0, 3.0, 0.0, 4, 1.6, 1.0, 0.1],
            [3.0, 3.0, 0.0, 4, 1.6, 1.0, 0.7],
        ]
    )
    batch = {
        "boxes": boxes,
        "label": torch.tensor([0, 0, 0, 1, 0]),
        "neighbour": torch.tensor([False] * 4 + [True]),
        "id": ["a", "b"],
    }
    method.training_step(batch, 0)
    answer = method.predict(batch)
    assert answer["label"].tolist() == [0, 0, 1] * 2
    assert answer["box_scan"].tolist() == [0] * 3 + [1] * 3
    assert answer["score"].tolist() == pytest.approx([0.5, 0.25, 0.25] * 2)
    # The left near cell, then the right far one; on the mean bottom of -1.5; opposite headings are one axis.
    assert answer["boxes"][0].tolist() == pytest.approx([2, 2, -1.5 + 0.75, 4, 1.6, 1.5, 0.1], abs=1e-5)
    assert answer["boxes"][1, :2].tolist() == [6, -2]
    assert answer["boxes"][2].tolist() == pytest.approx([2, 2, -0.5 + 0.85, 0.8, 0.6, 1.7, 0.1], abs=1e-5)
    with pytest.raises(ValueError, match="must be positive"):
        BoxPrior(SPEC, places=0)


def test_an_untrained_one_finds_nothing() -> None:
    answer = BoxPrior(SPEC).predict({"id": ["a"]})
    assert {name: len(value) for name, value in answer.items()} == dict.fromkeys(
        ("boxes", "score", "label", "box_scan"), 0
    )


def test_on_the_miniature_it_finds_next_to_nothing(cache: Path) -> None:
    data = KittiObject(cache=cache, batch_size=1)
    method = BoxPrior(data.spec)
    run = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    run.fit(method, data)
    assert int(method.counts.sum()) > 150
    (scores,) = run.test(method, data, verbose=False)
    assert 0 <= scores["test/ap_moderate"] < 3
    assert scores["test/image_hard"] < 20
