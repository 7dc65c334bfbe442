"""DGCNN: its size, its dynamic graph, and learning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.pointcloud.modelnet40 import ModelNet40
from datamodules.specs import PointClassesSpec
from tasks.pointcloud.dgcnn import DGCNN

SPEC = PointClassesSpec(dataset="made-up", classes=tuple("abcdefgh"), points=40)
FORTY = PointClassesSpec(dataset="made-up", classes=tuple(str(number) for number in range(40)), points=1024)
TINY = {"neighbours": 5, "width": 0.0625}


def make_batch(batch: int = 4, points: int = 40) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "points": torch.randn(batch, points, 3, generator=generator) / 2,
        "label": torch.randint(8, (batch,), generator=generator),
        "id": [str(number) for number in range(batch)],
    }


def build(**options: object) -> DGCNN:
    torch.manual_seed(0)
    method = DGCNN(SPEC, **{**TINY, **options})
    method.log = lambda *args, **settings: None  # type: ignore[method-assign]
    return method


def test_parameters_are_those_of_the_authors_code() -> None:
    with torch.device("meta"):
        method = DGCNN(FORTY)
    assert sum(parameter.numel() for parameter in method.parameters()) == 1_809_576


def test_the_paper_profile_steps_at_full_width() -> None:
    """With 1,024 points instead of the 2,048 that the noise table has."""
    torch.manual_seed(0)
    method = DGCNN(FORTY, **DGCNN.profile("paper"))
    method.log = lambda *args, **settings: None  # type: ignore[method-assign]
    assert (method.neighbours, DGCNN.recipe.data) == (20, {"points": 2048})
    loss = method.training_step(make_batch(2, 1024), 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_the_order_of_points_does_not_matter_and_examples_are_alone() -> None:
    method, batch = build().eval(), make_batch()
    one = method.predict(batch)["logits"]
    shuffled = {**batch, "points": batch["points"][:, torch.randperm(40)]}
    torch.testing.assert_close(one, method.predict(shuffled)["logits"])
    torch.testing.assert_close(one[:1], method.predict({**batch, "points": batch["points"][:1]})["logits"])


def test_the_graph_follows_the_features() -> None:
    """With the graph of the coordinates in all layers it would answer something else."""
    method, batch = build().eval(), make_batch()
    from tasks.pointcloud import dgcnn

    fixed = dgcnn.feature_neighbours(batch["points"], 5)
    features, maps = batch["points"], []
    for relation in method.relations:
        features = relation(features, fixed)
        maps.append(features)
    embedded = method.embedding(torch.cat(maps, -1))
    static = method.classifier(torch.cat([embedded.amax(1), embedded.mean(1)], -1))
    assert not torch.allclose(static, method.predict(batch)["logits"])


def test_mixed_precision_and_wrong_options() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.training_step(make_batch(), 0)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.parameters())
    with pytest.raises(ValueError, match="must be positive"):
        build(neighbours=0)


def test_training_on_the_miniature_beats_the_majority(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = ModelNet40(cache=cache, batch_size=16, points=64, conditions="clean")
    options = {**DGCNN.profile("mini"), "width": 0.125, "neighbours": 5, "dropout": 0.0, "lr": 5e-3}
    method = DGCNN(data.spec, **options)
    run = pl.Trainer(
        accelerator="cpu", max_epochs=4, logger=False, enable_checkpointing=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    run.fit(method, data)
    (end,) = run.test(method, data, verbose=False)
    assert end["test/accuracy"] > 35
