"""Scene flow without learning: Kabsch against SciPy, ICP on a known motion, and what the miniature leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy.spatial.transform import Rotation

from datamodules.pointcloud.flyingthings3d import FlyingThings3DSubset
from datamodules.specs import SceneFlowSpec
from tasks.pointcloud.rigid_flow import RigidFlow, fit_rigid, rigid_icp

SPEC = SceneFlowSpec(dataset="made-up", points=8)


def make_batch(first: torch.Tensor, second: torch.Tensor) -> dict[str, object]:
    return {
        "first": first,
        "second": second,
        "first_valid": torch.ones(first.shape[:2]).bool(),
        "second_valid": torch.ones(second.shape[:2]).bool(),
        "id": ["a"] * len(first),
    }


def test_the_best_motion_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 9, 3)), rng.normal(size=(2, 9, 3))
    weight = rng.random((2, 9))
    rotation, shift = fit_rigid(*(torch.from_numpy(array) for array in (source, target, weight)))
    for sample in range(2):
        means = [np.average(cloud[sample], axis=0, weights=weight[sample]) for cloud in (source, target)]
        best, _ = Rotation.align_vectors(target[sample] - means[1], source[sample] - means[0], weight[sample])
        np.testing.assert_allclose(rotation[sample].numpy(), best.as_matrix(), atol=1e-8)
        np.testing.assert_allclose(shift[sample].numpy(), means[1] - best.apply(means[0]), atol=1e-8)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(2).double())


def test_nothing_to_fit_is_no_motion() -> None:
    points = torch.rand(1, 4, 3).double()
    rotation, shift = fit_rigid(points, points + 1, torch.zeros(1, 4).double())
    assert torch.equal(rotation[0], torch.eye(3).double())
    assert not shift.any()


def test_icp_finds_a_small_rigid_motion_of_each_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    first = 10 * torch.rand(2, 60, 3, generator=generator)
    turn = torch.from_numpy(Rotation.from_euler("y", 2, degrees=True).as_matrix()).float()
    second = first @ turn.T + torch.tensor([[[0.1, 0.05, -0.2]], [[-0.2, 0.0, 0.1]]])
    order = torch.randperm(60, generator=generator)
    flow = rigid_icp(first, second[:, order], iterations=30, max_distance=2.0)
    torch.testing.assert_close(flow, second - first, atol=1e-4, rtol=0)


def test_zero_and_nearest_by_hand() -> None:
    batch = make_batch(torch.tensor([[[0.0, 0, 0], [5.0, 0, 0]]]), torch.tensor([[[1.0, 0, 0], [5.0, 2, 0]]]))
    assert not RigidFlow(SPEC, motion="zero").predict(batch)["flow"].any()
    nearest = RigidFlow(SPEC, motion="nearest").predict(batch)["flow"]
    assert nearest.tolist() == [[[1.0, 0, 0], [0.0, 2.0, 0]]]
    with pytest.raises(ValueError, match="must be icp, nearest or zero"):
        RigidFlow(SPEC, motion="still")


def test_the_miniature_is_not_solved_without_learning(cache: Path) -> None:
    scores = {}
    for preset in (None, *RigidFlow.presets):
        data = FlyingThings3DSubset(cache=cache, points=128)
        method = RigidFlow(data.spec, **RigidFlow.profile("mini", preset))
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
        )
        scores[preset] = trainer.test(method, data, verbose=False)[0]
    zero = torch.cat([sample["flow"].norm(dim=-1) for sample in data.test_dataloader()]).mean()
    assert scores["zero"]["test/epe"] == pytest.approx(float(zero), rel=1e-5)
    assert 0.6 < scores["zero"]["test/epe"] < 1.1
    assert scores["zero"]["test/as"] < 2
    assert min(score["test/epe"] for score in scores.values()) > 0.4
