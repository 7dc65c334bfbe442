"""Pattern-Net, part segmentation: its size, what a point is told, its switches, and learning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.pointcloud.shapenet_part import PARTS, ShapeNetPart
from datamodules.specs import ObjectPartsSpec
from tasks.pointcloud.orderly_disorder_network import Clones, decompose, fixed_order
from tasks.pointcloud.orderly_disorder_parts import OrderlyDisorderParts

SPEC = ObjectPartsSpec(
    dataset="made-up", categories=("mug", "bag"), parts=tuple("abcde"), first_part=(0, 2), points=42
)
FULL = ObjectPartsSpec(
    dataset="made-up",
    categories=tuple(PARTS),
    parts=tuple(f"{category} {part}" for category, parts in PARTS.items() for part in parts),
    first_part=tuple(sum(len(parts) for parts in list(PARTS.values())[:number]) for number in range(16)),
    points=2048,
)
TINY = {"neighbours": 5, "width": 4}


def make_batch(batch: int = 4, points: int = 42, categories: int = 2) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    category = torch.arange(batch) % categories
    return {
        "points": torch.randn(batch, points, 3, generator=generator) / 2,
        "category": category,
        "part": 2 * category[:, None] + torch.randint(2, (batch, points), generator=generator),
        "id": [str(number) for number in range(batch)],
    }


def silent(method: OrderlyDisorderParts) -> OrderlyDisorderParts:
    method.log_dict = lambda *args, **options: None  # type: ignore[method-assign]
    return method


def build(seed: int = 0, **options: object) -> OrderlyDisorderParts:
    torch.manual_seed(seed)
    return silent(OrderlyDisorderParts(SPEC, **{**TINY, **options}))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_those_of_the_layers() -> None:
    with torch.device("meta"):
        method = OrderlyDisorderParts(FULL)
    encoder = 299_432 - (512 * 256 + 512 + 256 * 256 + 512 + 256 * 40 + 40)
    assert parameters(method.encoder) == encoder
    assert parameters(method.point_layers) == 3 * 64 + 3 * 64 * 64 + 4 * 128
    segmenter = (256 + 512 + 16) * 256 + 512 + 256 * 256 + 512 + 256 * 50 + 50
    assert parameters(method.segmenter) == segmenter
    assert parameters(method) == 384_626


def test_the_paper_profile_steps_at_full_size() -> None:
    torch.manual_seed(0)
    method = silent(OrderlyDisorderParts(FULL, **OrderlyDisorderParts.profile("paper")))
    assert OrderlyDisorderParts.recipe.data == {"points": 2048}
    loss = method.training_step(make_batch(2, 2048, 16), 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_each_point_gets_logits_in_its_place() -> None:
    """Two points that change places change their answers' places."""
    method, batch = build().eval(), make_batch()
    answer = method.predict(batch)["logits"]
    assert answer.shape == (4, 42, 5)
    swapped = dict(batch)
    swapped["points"] = batch["points"].clone()
    swapped["points"][:, [3, 9]] = batch["points"][:, [9, 3]]
    # The decomposition is by place: only the descriptor differs, as little as two points do.
    other = method.predict(swapped)["logits"]
    assert (answer[:, [3, 9]] - other[:, [9, 3]]).abs().mean() < (answer[:, 3] - answer[:, 9]).abs().mean()


def test_the_category_is_told() -> None:
    method, batch = build().eval(), make_batch()
    other = {**batch, "category": 1 - batch["category"]}
    assert not torch.allclose(method.predict(batch)["logits"], method.predict(other)["logits"])


def test_all_points_are_in_some_clone() -> None:
    """42 points, 4 clones: moving any one point moves the description."""
    method, batch = build(neighbours=3).eval(), make_batch(1)
    seen = []
    for point in range(42):
        points = batch["points"].clone().requires_grad_()
        method(points, batch["category"], _cut(points))[1].sum().backward()
        seen.append(bool(points.grad[0, point].any()))
    # omega depends on points that are the maximum somewhere; each clone has some.
    assert sum(seen) > 10
    assert sorted(_cut(batch["points"]).index[0][_cut(batch["points"]).valid].tolist()) == list(range(42))


def _cut(points: torch.Tensor) -> Clones:
    return decompose(fixed_order(*points.shape[:2], points.device), 4, "share")


def test_inference_repeats_whatever_the_global_generator_and_the_batch() -> None:
    method, batch = build().eval(), make_batch()
    torch.manual_seed(1)
    one = method.predict(batch)["logits"]
    torch.manual_seed(2)
    assert torch.equal(one, method.predict(batch)["logits"])
    alone = {key: value[2:3] for key, value in batch.items()}
    torch.testing.assert_close(method.predict(alone)["logits"], one[2:3])
    assert not torch.allclose(build(votes=2).eval().predict(batch)["logits"], one)


def test_mixed_precision_gives_a_finite_loss() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.training_step(make_batch(), 0)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.parameters())


@pytest.mark.parametrize("preset", [None, *OrderlyDisorderParts.presets])
def test_every_preset_steps(preset: str | None) -> None:
    method = build(**{**OrderlyDisorderParts.profile("smoke", preset), **TINY})
    method.training_step(make_batch(), 0).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    for profile in ("paper", "mini", "smoke"):
        with torch.device("meta"):
            OrderlyDisorderParts(SPEC, **OrderlyDisorderParts.profile(profile, preset))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        build(clones=0)
    with pytest.raises(TypeError, match="descriptor"):
        OrderlyDisorderParts(SPEC, descriptor="both")  # type: ignore[call-arg]


def test_training_on_the_miniature_beats_its_start_and_the_majority(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = ShapeNetPart(cache=cache, batch_size=16, points=128)
    short = {"neighbours": 6, "width": 12, "dropout": 0.0, "lr": 5e-3}
    method = OrderlyDisorderParts(data.spec, **{**OrderlyDisorderParts.profile("mini"), **short})
    run = pl.Trainer(
        accelerator="cpu", max_epochs=4, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    (start,) = run.test(method, data, verbose=False)
    run.fit(method, data)
    (end,) = run.test(method, data, verbose=False)
    assert end["test/instance_miou"] > max(start["test/instance_miou"], 45) + 10  # the majority: 42.5
    assert 0 < method.diagnostics()["sigma"] < 1
