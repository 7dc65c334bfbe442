"""PointNet: its size, alignment, and that no point knows its neighbours."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.pointcloud.modelnet40 import ModelNet40
from datamodules.specs import PointClassesSpec
from tasks.pointcloud.pointnet import PointNet
from tasks.pointcloud.pointnet_network import PointEncoder, alignment_loss

SPEC = PointClassesSpec(dataset="made-up", classes=tuple("abcdefgh"), points=40)
FORTY = PointClassesSpec(dataset="made-up", classes=tuple(str(number) for number in range(40)), points=1024)
TINY = {"width": 0.0625}


def make_batch(batch: int = 4, points: int = 40) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "points": torch.randn(batch, points, 3, generator=generator) / 2,
        "label": torch.randint(8, (batch,), generator=generator),
        "id": [str(number) for number in range(batch)],
    }


def build(**options: object) -> PointNet:
    torch.manual_seed(0)
    method = PointNet(SPEC, **{**TINY, **options})
    method.log = lambda *args, **settings: None  # type: ignore[method-assign]
    return method


def mlp(*widths: int) -> int:
    """Bias-free layers with a normalisation each."""
    return sum(i * o + 2 * o for i, o in zip(widths, widths[1:], strict=False))  # noqa: RUF007


def alignment(channels: int) -> int:
    return mlp(channels, 64, 128, 1024, 512, 256) + 257 * channels**2


def test_parameters_are_those_of_the_layers() -> None:
    with torch.device("meta"):
        method = PointNet(FORTY)
    count = sum(parameter.numel() for parameter in method.parameters())
    expected = mlp(3, 64, 64, 64, 128, 1024) + alignment(3) + alignment(64) + mlp(1024, 512, 256) + 257 * 40
    assert count == expected
    assert count == pytest.approx(3.5e6, rel=0.01)  # the paper


def test_the_paper_profile_steps_at_full_size() -> None:
    torch.manual_seed(0)
    method = PointNet(FORTY, **PointNet.profile("paper"))
    method.log = lambda *args, **settings: None  # type: ignore[method-assign]
    loss = method.training_step(make_batch(2, 2048), 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_alignments_are_the_identity_at_the_start_and_kept_near_rotations() -> None:
    encoder = PointEncoder((8, 8, 8), 1, 0.0625)
    points = torch.randn(2, 10, 3)
    assert torch.equal(encoder.align_points(points), torch.eye(3).expand(2, -1, -1))
    assert alignment_loss(torch.eye(4).expand(3, -1, -1)).item() == 0
    angle = torch.tensor(0.3)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    assert alignment_loss(turn[None]).item() == pytest.approx(0, abs=1e-10)
    assert alignment_loss(2 * torch.eye(2)[None]).item() == pytest.approx(2 * 9)  # (1 - 4)^2 twice


def test_points_that_are_no_maximum_do_not_matter() -> None:
    method, batch = build().eval(), make_batch()
    one = method.predict(batch)["logits"]
    order = torch.randperm(40)
    torch.testing.assert_close(one, method.predict({**batch, "points": batch["points"][:, order]})["logits"])
    twice = {**batch, "points": torch.cat([batch["points"], batch["points"]], 1)}
    torch.testing.assert_close(one, method.predict(twice)["logits"])


def test_mixed_precision_and_wrong_options() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.training_step(make_batch(), 0)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.parameters())
    with pytest.raises(ValueError, match="width must be positive"):
        build(width=0.0)


def test_training_on_the_miniature_beats_the_majority(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = ModelNet40(cache=cache, batch_size=16, points=64, conditions="clean")
    method = PointNet(data.spec, **{**PointNet.profile("mini"), "width": 0.125, "lr": 5e-3, "dropout": 0.0})
    run = pl.Trainer(
        accelerator="cpu", max_epochs=6, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    run.fit(method, data)
    (end,) = run.test(method, data, verbose=False)
    assert end["test/accuracy"] > 30
