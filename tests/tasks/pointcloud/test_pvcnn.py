"""PVCNN: its dense grid by hand, its size, and one step of each profile."""

from __future__ import annotations

import math

import pytest
import torch

from datamodules.pointcloud.semantic_kitti import CLASSES
from datamodules.specs import LidarSpec
from tasks.pointcloud.pvcnn import PVCNN, DenseGrid, PVCNNNetwork

SPEC = LidarSpec(
    dataset="made-up",
    classes=CLASSES,
    class_frequency=(0.05,) * 20,
    beams=64,
    azimuths=2048,
    fov_up=3.0,
    fov_down=-25.0,
    mean=(0.0,) * 5,
    std=(1.0,) * 5,
    raw_ids=tuple(range(20)),
)


def make_batch(scans: int = 2, points: int = 300) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "points": torch.randn(scans * points, 4, generator=generator) * torch.tensor([9.0, 9.0, 1.0, 0.2]),
        "scan": torch.arange(scans).repeat_interleave(points),
        "label": torch.randint(0, 20, (scans * points,), generator=generator),
        "id": [str(number) for number in range(scans)],
    }


def test_parameters_are_those_of_table_2() -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in PVCNNNetwork(19).parameters())
    assert count == pytest.approx(2.5e6, rel=0.03)


def test_grid_by_hand() -> None:
    # Cells of 1 m from -2; two points in cell (0, 0, 0), one in (3, 1, 0), one far outside: the border.
    points = torch.tensor([[-1.5, -1.5, 0.5], [-1.6, -1.4, 0.5], [1.5, -0.5, 0.5], [99.0, 99.0, -99.0]])
    grid = DenseGrid(points, torch.tensor([0, 0, 0, 1]), 2, (4, 4, 1), (-2.0, -2.0, 0.0), 1.0)
    volume = grid.voxelise(torch.tensor([[1.0], [3.0], [5.0], [7.0]]))
    assert volume.shape == (2, 1, 4, 4, 1)
    assert volume[0, 0, 0, 0, 0] == 2
    assert volume[0, 0, 3, 1, 0] == 5
    assert volume[1, 0, 3, 3, 0] == 7
    assert volume.sum() == 14
    back = grid.devoxelise(volume).flatten()
    assert back[[0, 2, 3]].tolist() == pytest.approx([2, 5, 7])
    ramp = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(2, 1, 4, 4, 1)
    between = DenseGrid(
        torch.tensor([[-1.25, 0.0, 0.5]]), torch.tensor([0]), 2, (4, 4, 1), (-2.0, -2.0, 0.0), 1.0
    )
    assert float(between.devoxelise(ramp)) == pytest.approx(0.25)


@pytest.mark.parametrize("scans", [1, 2])
@pytest.mark.parametrize("profile", ["smoke", "mini"])
def test_steps(profile: str, scans: int) -> None:
    torch.manual_seed(0)
    method = PVCNN(SPEC, **{**PVCNN.profile(profile), "voxel_size": 3.12})
    method.log = lambda *args, **options: None  # type: ignore[method-assign]
    batch = make_batch(scans)
    loss = method.training_step(batch, 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())
    method.eval()
    with torch.no_grad():
        label = method.predict(batch)["label"]
    assert label.shape == batch["label"].shape
    assert 1 <= int(label.min()) <= int(label.max()) <= 19


@pytest.mark.slow
def test_the_paper_profile_steps_at_full_size() -> None:
    """Full network and grid; one scan of 2,000 points."""
    torch.manual_seed(0)
    method = PVCNN(SPEC, **PVCNN.profile("paper"))
    method.log = lambda *args, **options: None  # type: ignore[method-assign]
    loss = method.training_step(make_batch(1, 2000), 0)
    loss.backward()
    assert math.isfinite(loss.item())


def test_scans_do_not_see_each_other_in_evaluation() -> None:
    torch.manual_seed(0)
    method = PVCNN(SPEC, **PVCNN.profile("smoke")).eval()
    batch = make_batch()
    own = batch["scan"] == 1
    with torch.no_grad():
        both = method(batch["points"], batch["scan"], 2)
        alone = method(batch["points"][own], batch["scan"][own] * 0, 1)
    torch.testing.assert_close(both[own], alone, atol=1e-5, rtol=1e-4)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        PVCNN(SPEC, voxel_size=0.0)
