"""SECOND: augmentation and suppression by hand, its switches, the paper's size, and learning on the miniature."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from datamodules.pointcloud.kitti_object import MEAN_BOXES, POINT_RANGE, KittiObject
from datamodules.specs import LidarBoxesSpec
from tasks.pointcloud.lidar_detection import LidarDetection
from tasks.pointcloud.second import SECOND, augment, inside
from tasks.pointcloud.second_anchors import encode

SPEC = LidarBoxesSpec(
    dataset="made-up",
    classes=("Car", "Pedestrian", "Cyclist"),
    point_range=(0.0, -6.4, -3.0, 12.8, 6.4, 1.0),
    mean_boxes=((4.0, 1.6, 1.5, -1.7), (0.8, 0.6, 1.7, -1.7), (1.8, 0.6, 1.7, -1.7)),
    min_overlaps=(0.7, 0.5, 0.5),
    min_heights=(40.0, 25.0, 25.0),
)


def make_batch(scans: int = 2, points: int = 200, spec: LidarBoxesSpec = SPEC) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    low, high = torch.tensor(spec.point_range).view(2, 3)
    # Clusters around the boxes, and a few points anywhere near.
    centre = torch.tensor([[5.0, 0.0, -1.0], [8.0, 3.0, -0.9], [9.0, -3.0, -0.9]])
    sizes = torch.tensor([box[:3] for box in spec.mean_boxes])
    boxes = torch.cat([centre, sizes, torch.tensor([[0.1], [1.0], [2.0]])], dim=1).repeat(scans, 1)
    which = torch.randint(3, (scans * points,), generator=generator)
    offset = (torch.rand(scans * points, 3, generator=generator) - 0.5) * sizes[which]
    near = centre[which] + offset
    cloud = torch.cat(
        [near.clamp(low, high - 0.01), torch.rand(scans * points, 1, generator=generator)], dim=1
    )
    return {
        "points": cloud,
        "scan": torch.arange(scans).repeat_interleave(points),
        "boxes": boxes,
        "box_scan": torch.arange(scans).repeat_interleave(3),
        "label": torch.tensor([0, 1, 2]).repeat(scans),
        "difficulty": torch.zeros(3 * scans, dtype=torch.int64),
        "neighbour": torch.zeros(3 * scans, dtype=torch.bool),
        "id": [str(k) for k in range(scans)],
    }


def silent(method: SECOND) -> SECOND:
    method.log_dict = lambda *args, **options: None  # type: ignore[method-assign]
    return method


def build(preset: str | None = None, seed: int = 0, **options: object) -> SECOND:
    torch.manual_seed(seed)
    return silent(SECOND(SPEC, **{**SECOND.profile("smoke", preset), **options}))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def trainer(epochs: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        gradient_clip_val=10.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )


# The paper's size.


def test_the_paper_profile_steps_at_full_size() -> None:
    """KITTI's whole range of 1408 x 1600 x 41 voxels and 211,200 anchors; one scan of few points."""
    spec = LidarBoxesSpec(**{**SPEC.__dict__, "point_range": POINT_RANGE, "mean_boxes": MEAN_BOXES})
    torch.manual_seed(0)
    method = silent(SECOND(spec, **SECOND.profile("paper", "spvcnn")))
    assert method.anchors.shape == (200, 176, 3, 2, 7)
    assert method.anchors.numel() // 7 == 211_200
    widths = [4, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64, 128]
    branch = sum(a * b + 3 * b for a, b in pairwise(widths))
    assert parameters(method) == 5_325_576 + branch
    loss = method.training_step(make_batch(1, 500, spec), 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert (SECOND.recipe.batch_size, SECOND.recipe.max_epochs) == (4, 80)
    assert SECOND.recipe.gradient_clip == 10.0
    assert SECOND.recipe.data == {"sampled_objects": [20, 15, 15]}


def test_the_baseline_has_as_many_parameters_as_public_second() -> None:
    with torch.device("meta"):
        assert parameters(SECOND(SPEC, voxel_size=(0.1, 0.1, 0.1))) == 5_325_576


# Augmentation.


def test_augmentation_moves_points_and_boxes_alike() -> None:
    batch = make_batch(40, 20)
    points, scan, boxes, box_scan = (batch[key] for key in ("points", "scan", "boxes", "box_scan"))
    torch.manual_seed(1)
    moved, other = augment(points, scan, boxes, box_scan, 40, math.pi / 4, 0.05)
    assert torch.equal(moved[:, 3], points[:, 3])
    scale = other[:, 3] / boxes[:, 3]
    assert 0.95 <= float(scale.min()) < 0.97
    assert 1.03 < float(scale.max()) <= 1.05

    def share_inside(cloud: Tensor, table: Tensor) -> Tensor:
        """For each point its place in its scan's first box, in the box's axes and sizes."""
        box = table[::3][scan]
        x, y, z = (cloud[:, :3] - box[:, :3]).unbind(1)
        cos, sin = box[:, 6].cos(), box[:, 6].sin()
        return torch.stack([cos * x + sin * y, (cos * y - sin * x).abs(), z], 1) / box[:, 3:6]

    torch.testing.assert_close(share_inside(moved, other), share_inside(points, boxes), atol=1e-4, rtol=0)
    turn = torch.atan2(other[::3, 1], other[::3, 0])  # the first box of each scan stood straight ahead
    assert 0.6 < float(turn.abs().max()) <= math.pi / 4
    flipped = (other[::3, 6] - turn) < 0
    assert 8 < int(flipped.sum()) < 32
    same, as_well = augment(points, scan, boxes, box_scan, 40, 0.0, 0.0)
    assert torch.equal(same[:, 1].abs(), points[:, 1].abs())
    assert torch.equal(as_well[:, [0, 2, 3, 4, 5]], boxes[:, [0, 2, 3, 4, 5]])


def test_the_range_is_half_open() -> None:
    places = torch.tensor([[0.0, -6.4, -3.0], [12.8, 0, 0], [-0.1, 0, 0], [5.0, 6.3, 0.9]])
    assert inside(places, SPEC.point_range).tolist() == [True, False, False, True]


# Training steps.


@pytest.mark.parametrize("preset", [None, *SECOND.presets])
def test_every_preset_steps(preset: str | None) -> None:
    method = build(preset)
    loss = method.training_step(make_batch(), 0)
    loss.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    with torch.device("meta"):
        for profile in ("paper", "mini", "smoke"):
            SECOND(SPEC, **{**SECOND.profile(profile, preset), "voxel_size": (0.1, 0.1, 0.1)})


def test_a_scene_without_objects_and_one_with_neighbours_only_step() -> None:
    method, batch = build(), make_batch()
    for key in ("boxes", "label", "box_scan", "difficulty", "neighbour"):
        batch[key] = batch[key][:0]
    empty = method.training_step(batch, 0)
    empty.backward()
    assert math.isfinite(empty.item())
    vans = make_batch()
    vans["neighbour"] = torch.ones_like(vans["neighbour"])
    torch.manual_seed(5)
    first = build().training_step(vans, 0)
    torch.manual_seed(5)
    second = build().training_step(batch, 0)
    assert first.item() == second.item()


def test_mixed_precision_gives_a_finite_loss_and_boxes_in_single_precision() -> None:
    method, batch = build("spvcnn", least_score=0.0, most_boxes=5), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.training_step(batch, 0)
        answer = method.eval().predict(batch)
    loss.backward()
    assert loss.dtype == answer["boxes"].dtype == torch.float32
    assert math.isfinite(loss.item())
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.parameters())


def test_anchors_are_assigned_where_the_boxes_stand() -> None:
    method, batch = build(), make_batch()
    assigned = method.assign(batch["boxes"], batch["label"], batch["box_scan"], 2)
    anchors = method.anchors.view(-1, 7)
    classes = torch.arange(len(anchors)) // 2 % 3
    assert assigned.shape == (2, len(anchors))
    assert set(assigned[assigned >= 0].tolist()) == set(range(6))
    for scan, anchor in (assigned >= 0).nonzero().tolist():
        row = int(assigned[scan, anchor])
        assert batch["box_scan"][row] == scan
        assert batch["label"][row] == classes[anchor]
        assert (anchors[anchor, :2] - batch["boxes"][row, :2]).norm() < 2.5


# Prediction.


def test_prediction_decodes_and_suppresses() -> None:
    """A network that answers the truth is right, whatever the yaw; doubles and unsure anchors vanish."""
    method, batch = build().eval(), make_batch()
    anchors = method.anchors.view(-1, 7)
    assigned = method.assign(batch["boxes"], batch["label"], batch["box_scan"], 2)
    boxes = batch["boxes"].clone()
    boxes[3:, 6] -= math.pi  # the second scan's head the other way
    logits = torch.full((2, len(anchors), 3), -9.0)
    residuals, directions = torch.zeros(2, len(anchors), 7), torch.zeros(2, len(anchors), 2)
    scan, anchor = (assigned >= 0).nonzero(as_tuple=True)
    own = assigned[scan, anchor]
    logits[scan, anchor, batch["label"][own]] = torch.linspace(1, 2, len(own))
    residuals[scan, anchor] = encode(boxes[own], anchors[anchor])
    half = torch.remainder(boxes[own][:, 6] - math.pi / 4, 2 * math.pi) >= math.pi
    directions[scan, anchor, half.long()] = 1.0
    method.forward = lambda points, scan, scans: (logits, residuals, directions)  # type: ignore[method-assign]
    answer = method.predict(batch)
    assert answer["box_scan"].tolist() == [0] * 3 + [1] * 3
    for scan in range(2):
        rows = answer["box_scan"] == scan
        order = answer["label"][rows].argsort()
        found, true = answer["boxes"][rows][order], boxes[3 * scan : 3 * scan + 3]
        torch.testing.assert_close(found[:, :6], true[:, :6], atol=1e-4, rtol=0)
        torch.testing.assert_close(found[:, 6].cos(), true[:, 6].cos(), atol=1e-4, rtol=0)
        torch.testing.assert_close(found[:, 6].sin(), true[:, 6].sin(), atol=1e-4, rtol=0)
    method.most_boxes = 1
    assert len(method.predict(batch)["boxes"]) == 2
    method.least_score = 0.99
    assert len(method.predict(batch)["boxes"]) == 0


def test_prediction_draws_no_chance() -> None:
    method, batch = build("spvcnn", least_score=0.0, most_boxes=20).eval(), make_batch()
    with torch.no_grad():
        first = method.predict(batch)
        torch.manual_seed(9)
        second = method.predict(batch)
    assert len(first["boxes"]) > 0
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_options_are_checked() -> None:
    for options, message in (
        ({"fusion": "both"}, "fusion must be"),
        ({"matched": (0.6,)}, "a number for each of 3 classes"),
        ({"encoder": (4, 4)}, "needs five widths"),
        ({"voxel_size": (0.3, 0.1, 0.1)}, "whole number of voxels"),
    ):
        with pytest.raises(ValueError, match=message):
            SECOND(SPEC, **options)
    with pytest.raises(TypeError, match="fuse"):
        SECOND(SPEC, fuse="off")
    for label in SECOND.baselines:
        name, _, preset = label.partition(":")
        assert name != "second" or preset in SECOND.presets


def test_the_schedule_is_one_cycle() -> None:
    class FakeTrainer:
        estimated_stepping_batches = 100

    method = build(learning_rate=0.003)
    method._trainer = FakeTrainer()  # type: ignore[assignment]
    schedule = method.configure_optimizers()["lr_scheduler"]["scheduler"]
    rates, momenta = [], []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        momenta.append(schedule.optimizer.param_groups[0]["betas"][0])
        schedule.optimizer.step()
        schedule.step() if len(rates) < 100 else None
    assert rates[0] == pytest.approx(0.0003)
    assert max(rates) == pytest.approx(0.003)
    assert rates.index(max(rates)) == 39
    assert rates[-1] < 1e-6
    assert momenta[0] == pytest.approx(0.95)
    assert min(momenta) == pytest.approx(0.85)
    assert schedule.optimizer.param_groups[0]["weight_decay"] == 0.01


# Training.


def test_training_on_the_miniature_beats_its_start_and_the_prior(cache: Path) -> None:
    pl.seed_everything(3, verbose=False)
    data = KittiObject(cache=cache, batch_size=2, sampled_objects=(8, 8, 8))
    method = SECOND(data.spec, **SECOND.profile("mini"))
    (start,) = trainer(1).test(method, data, verbose=False)
    run = trainer(8)
    run.fit(method, data)
    assert {"train/loss", "train/classes", "train/boxes", "train/direction", "train/positive"} <= set(
        run.callback_metrics
    )
    (end,) = run.test(method, data, verbose=False)
    assert start["test/bev_hard"] < 1
    assert end["test/image_hard"] > start["test/image_hard"] + 5
    assert end["test/ap_hard"] > start["test/ap_hard"]
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad():
        (picture,) = LidarDetection.draw(method.eval().predict(batch), batch, data.spec)
    assert picture.shape[2] == 3


def test_same_seed_same_numbers(cache: Path) -> None:
    weights = []
    for _ in range(2):
        pl.seed_everything(3, verbose=False)
        data = KittiObject(cache=cache, batch_size=2, sampled_objects=(6, 6, 6), max_train_scans=4, seed=3)
        method = SECOND(data.spec, **SECOND.profile("smoke", "spvcnn"))
        run = trainer(1)
        run.fit(method, data)
        weights.append((float(run.callback_metrics["train/loss"]), method.network.to_logits.weight.clone()))
    assert weights[0][0] == weights[1][0]
    assert torch.equal(weights[0][1], weights[1][1])
