"""PointNet for parts and a category's most frequent part."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.pointcloud.shapenet_part import ShapeNetPart
from datamodules.specs import ObjectPartsSpec
from tasks.pointcloud.pointnet_parts import MajorityPart, PointNetParts

SPEC = ObjectPartsSpec(
    dataset="made-up", categories=("mug", "bag"), parts=tuple("abcde"), first_part=(0, 2), points=42
)
FULL = ObjectPartsSpec(
    dataset="made-up",
    categories=tuple(str(number) for number in range(16)),
    parts=tuple(str(number) for number in range(50)),
    first_part=tuple(range(0, 48, 3)),
    points=2048,
)


def make_batch(batch: int = 4, points: int = 42) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    category = torch.arange(batch) % 2
    return {
        "points": torch.randn(batch, points, 3, generator=generator) / 2,
        "category": category,
        "part": 2 * category[:, None] + torch.randint(2, (batch, points), generator=generator),
        "id": [str(number) for number in range(batch)],
    }


def build(spec: ObjectPartsSpec = SPEC, **options: object) -> PointNetParts:
    torch.manual_seed(0)
    method = PointNetParts(spec, **options)
    method.log = lambda *args, **settings: None  # type: ignore[method-assign]
    return method


def mlp(*widths: int) -> int:
    """Bias-free layers with a normalisation each."""
    return sum(i * o + 2 * o for i, o in zip(widths, widths[1:], strict=False))  # noqa: RUF007


def test_parameters_are_those_of_the_layers() -> None:
    with torch.device("meta"):
        method = PointNetParts(FULL)
    align = [mlp(c, 64, 128, 1024, 512, 256) + 257 * c**2 for c in (3, 128)]
    each = 64 + 128 + 128 + 512 + 2048 + 2048 + 16
    expected = mlp(3, 64, 128, 128, 512, 2048) + sum(align) + mlp(each, 256, 256, 128) + 129 * 50
    assert sum(parameter.numel() for parameter in method.parameters()) == expected


def test_the_paper_profile_steps_at_full_width() -> None:
    """With 512 points of the 2,048."""
    method = build(FULL, **PointNetParts.profile("paper"))
    loss = method.training_step(make_batch(2, 512), 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_answers_follow_the_points_and_the_category() -> None:
    method, batch = build(width=0.0625).eval(), make_batch()
    one = method.predict(batch)["logits"]
    assert one.shape == (4, 42, 5)
    order = torch.randperm(42)
    two = method.predict({**batch, "points": batch["points"][:, order]})["logits"]
    torch.testing.assert_close(one[:, order], two)
    other = method.predict({**batch, "category": 1 - batch["category"]})["logits"]
    assert not torch.allclose(one, other)
    with pytest.raises(ValueError, match="width must be positive"):
        build(width=0.0)


def test_mixed_precision_gives_a_finite_loss() -> None:
    method = build(width=0.0625)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.training_step(make_batch(), 0)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.parameters())


def test_the_majority_counts_the_parts_of_each_category() -> None:
    method = MajorityPart(SPEC)
    batch = {
        "points": torch.zeros(2, 3, 3),
        "category": torch.tensor([0, 1]),
        "part": torch.tensor([[1, 1, 0], [2, 4, 4]]),
    }
    method.training_step(batch, 0)
    assert method.counts.tolist() == [[1, 2, 0, 0, 0], [0, 0, 1, 0, 2]]
    logits = method.predict({**batch, "category": torch.tensor([1, 0])})["logits"]
    assert logits.shape == (2, 3, 5)
    assert logits.argmax(-1).tolist() == [[4, 4, 4], [1, 1, 1]]
    assert logits[0, 0].exp().tolist() == pytest.approx([1 / 8, 1 / 8, 2 / 8, 1 / 8, 3 / 8])


def test_training_on_the_miniature_beats_the_majority(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = ShapeNetPart(cache=cache, batch_size=16, points=128)
    options = {**PointNetParts.profile("mini"), "width": 0.125, "lr": 5e-3, "dropout": 0.0}
    run = pl.Trainer(
        accelerator="cpu", max_epochs=4, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    method, majority = PointNetParts(data.spec, **options), MajorityPart(data.spec)
    run.fit(method, data)
    (end,) = run.test(method, data, verbose=False)
    run = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    run.fit(majority, data)
    (trivial,) = run.test(majority, data, verbose=False)
    assert end["test/instance_miou"] > trivial["test/instance_miou"] + 5
