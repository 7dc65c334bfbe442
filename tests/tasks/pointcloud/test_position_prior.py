"""The trivial predictors of point-cloud segmentation: counts by hand, and what they reach."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.pointcloud.semantic_kitti import SemanticKITTI
from datamodules.specs import LidarSpec
from tasks.base import Method
from tasks.pointcloud.position_prior import MajorityPoints, PositionPrior, most_frequent

SPEC = LidarSpec(
    dataset="made-up",
    classes=("unlabeled", "road", "wall"),
    class_frequency=(0.2, 0.5, 0.3),
    beams=4,
    azimuths=8,
    fov_up=3.0,
    fov_down=-25.0,
    mean=(0.0,) * 5,
    std=(1.0,) * 5,
    raw_ids=(0, 40, 50),
)
AHEAD, LEFT, BEHIND = [10.0, -0.5, -1.0, 0.1], [0.0, 10.0, -1.0, 0.1], [-10.0, 1.0, -1.0, 0.1]


def make_batch(points: list[list[float]], label: list[int]) -> dict[str, object]:
    return {
        "points": torch.tensor(points),
        "scan": torch.zeros(len(points), dtype=torch.int64),
        "label": torch.tensor(label),
        "id": ["a"],
    }


def test_unlabelled_is_never_the_majority_and_ties_go_down() -> None:
    counts = torch.tensor([[9, 1, 3, 2], [5, 2, 2, 1], [7, 0, 0, 0]])
    assert most_frequent(counts).tolist() == [2, 1, 1]


def test_majority_by_hand() -> None:
    method = MajorityPoints(SPEC)
    method.training_step(make_batch([AHEAD, LEFT, AHEAD], [0, 2, 2]), 0)
    method.training_step(make_batch([AHEAD], [1]), 1)
    assert method.counts.tolist() == [1, 1, 2]
    assert method.predict(make_batch([AHEAD, BEHIND], [1, 1]))["label"].tolist() == [2, 2]


def test_position_prior_by_hand() -> None:
    method = PositionPrior(SPEC, height=2, width=8)
    method.training_step(make_batch([AHEAD, AHEAD, AHEAD, LEFT, LEFT], [1, 1, 2, 2, 0]), 0)
    # Ahead: road, two to one. Left: wall, the unlabelled point doesn't count. Behind: nothing seen; of
    # two road and two wall points overall, the lower class wins.
    assert method.predict(make_batch([AHEAD, LEFT, BEHIND], [1, 1, 1]))["label"].tolist() == [1, 2, 1]


def test_statistics_travel_with_a_checkpoint() -> None:
    trained = PositionPrior(SPEC, height=2, width=8)
    trained.training_step(make_batch([AHEAD, LEFT], [2, 2]), 0)
    fresh = PositionPrior(SPEC, height=2, width=8)
    fresh.load_state_dict(trained.state_dict())
    batch = make_batch([AHEAD, LEFT, BEHIND], [1, 1, 1])
    assert torch.equal(fresh.predict(batch)["label"], trained.predict(batch)["label"])


def scores(method: type[Method], cache: Path) -> dict[str, float]:
    data = SemanticKITTI(cache=cache, batch_size=1, test_batch_size=4)
    model = method(data.spec, **method.profile("mini"))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, data)
    return dict(trainer.test(model, data, verbose=False)[0])


def test_the_miniature_is_not_solved_by_its_trivial_predictors(cache: Path) -> None:
    majority = scores(MajorityPoints, cache)
    assert 40 < majority["test/accuracy"] < 50
    assert majority["test/miou"] < 5
    assert majority["test/miou"] == pytest.approx(majority["test/accuracy"] / 19)  # road alone scores
    prior = scores(PositionPrior, cache)
    assert majority["test/accuracy"] + 10 < prior["test/accuracy"] < 80
    assert majority["test/miou"] + 5 < prior["test/miou"] < 20
    assert prior["test/miou_small"] < 3
