"""VTN retrieval: its size, its presets, its tuples, scales, and learning on the miniature."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.retrieval.retrieval_sfm import RetrievalSfM120k
from datamodules.retrieval.revisited_buildings import ROxford5k
from datamodules.specs import ImageClassesSpec, LandmarksSpec
from tasks.retrieval.vtn_retrieval import VTNRetrieval

SPEC = LandmarksSpec(dataset="made-up", image_size=48, train_size=48, landmarks=5)
TINY = {
    "backbone": "small",
    "groups": 4,
    "window": 3,
    "beta": 1.0,
    "freeze_bn": False,
    "cons_reduction": "mean",
    "negatives": 2,
    "tuples": 2,
}


def make_batch(tuples: int = 2, width: int = 4, size: int = 48) -> dict[str, object]:
    count = tuples * width
    return {
        "image": torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)),
        "index": torch.arange(count),
        "is_query": torch.zeros(count, dtype=torch.bool),
        "relevance": torch.zeros(0, 3, dtype=torch.long),
        "id": [str(number) for number in range(count)],
    }


def build(seed: int = 0, **options: object) -> VTNRetrieval:
    torch.manual_seed(seed)
    method = VTNRetrieval(SPEC, **{**TINY, **options})
    method.log = lambda *args, **options: None  # type: ignore[method-assign]
    return method


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_paper_profile_has_the_papers_parts_and_steps() -> None:
    """At 362 pixels; one tuple of one negative instead of five of five."""
    with torch.device("meta"):
        base = VTNRetrieval(SPEC, **VTNRetrieval.profile("paper", "base"))
    assert parameters(base) == 25_557_032 - 2_049_000 + 1  # ResNet-50 and GeM's power
    torch.manual_seed(0)
    method = VTNRetrieval(SPEC, **{**VTNRetrieval.profile("paper"), "negatives": 1})
    method.log = lambda *args, **options: None  # type: ignore[method-assign]
    assert (method.tuples, VTNRetrieval.recipe.batch_size) == (5, 35)
    assert (method.margin, method.queries, method.pool, method.lr) == (0.85, 2000, 22_000, 5e-7)
    method.train()
    assert not method.network.layers[1].training  # BN statistics stay as trained
    assert method.network.warp.training
    loss = method.training_step(make_batch(1, 3, 362), 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())


@pytest.mark.parametrize("preset", [None, *VTNRetrieval.presets])
def test_every_preset_steps_and_predicts(preset: str | None) -> None:
    method = VTNRetrieval(SPEC, **VTNRetrieval.profile("smoke", preset))
    method.log = lambda *args, **options: None  # type: ignore[method-assign]
    loss = method.training_step(make_batch(), 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())
    method.eval()
    with torch.no_grad():
        feature = method.predict(make_batch(1))["feature"]
    assert feature.shape == (4, 64)
    torch.testing.assert_close(feature.norm(dim=1), torch.ones(4))


def test_scales_are_averaged() -> None:
    method, batch = build(pooling="spoc", scales=(1.0, 0.5)).eval(), make_batch(1)
    with torch.no_grad():
        half = F.interpolate(batch["image"], (24, 24), mode="bilinear", antialias=True)
        expected = F.normalize(method.describe(batch["image"]) + method.describe(half), dim=1)
        torch.testing.assert_close(method.predict(batch)["feature"], expected)
    with pytest.raises(ValueError, match="scales must be positive"):
        build(scales=())


def test_consistency_is_added_and_mixed_precision_is_finite() -> None:
    losses = [build(lambda_cons=weight).training_step(make_batch(), 0).item() for weight in (0.0, 1.0, 2.0)]
    assert losses[1] > losses[0]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build().training_step(make_batch(), 0).isfinite()
        assert build(pooling="rmac", loss="triplet").training_step(make_batch(), 0).isfinite()


def test_it_is_for_landmarks() -> None:
    with pytest.raises(TypeError, match="LandmarksSpec"):
        VTNRetrieval(ImageClassesSpec(dataset="x", classes=("a",), image_size=(8, 8)), **TINY)


def test_adopting_a_trained_base() -> None:
    start, method = build(5, warp="none"), build()
    method.adopt("start", start)
    assert torch.equal(method.network.layers[0].weight, start.network.layers[0].weight)
    with pytest.raises(TypeError, match="needs a VTNRetrieval as 'start'"):
        method.adopt("teacher", start)
    options = {"pretrained": True, "pretrain_epochs": 3, "max_steps": None}
    (need,) = VTNRetrieval.needs(options)
    assert (need.method, need.options) == ("vtn_retrieval:base", {"pretrained": False, "max_epochs": 3})
    assert VTNRetrieval.needs({**options, "max_steps": 0}) == ()


class Watch(pl.Callback):
    """Keeps the labels of the batches."""

    def __init__(self) -> None:
        self.labels: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:  # type: ignore[no-untyped-def, override]
        self.labels.append(batch["label"])


def run(
    folder: Path, cache: Path, epochs: int, *, judged: bool = True
) -> tuple[VTNRetrieval, Watch, dict[str, float]]:
    torch.manual_seed(4)
    data = RetrievalSfM120k(cache=cache, train_size=48, image_size=48, seed=4)
    options = {**TINY, "beta": 3.0, "lambda_cons": 0.01, "lr": 2e-3, "scales": (1.0,), "tuples": 4}
    method, watch = VTNRetrieval(data.spec, **{**options, "queries": 48, "pool": 80}), Watch()
    fit = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[watch],
    )
    before = {}
    if judged:
        fit.test(method, data, verbose=False)
        before = method.scores["test"]
    fit.fit(method, data)
    if judged:
        fit.test(method, data, verbose=False)
    return method, watch, before


def test_it_learns_from_hard_tuples_the_same_way_twice(cache: Path, tmp_path: Path) -> None:
    method, watch, before = run(tmp_path, cache, 3)
    assert len(watch.labels) == 3 * 12
    for labels in watch.labels:
        for query, positive, *wrong in labels.view(-1, 4).tolist():
            assert query == positive
            assert query not in wrong
            assert len(set(wrong)) == 2
    # 5 of 47 are right: a random ranking has about 14 %.
    assert method.scores["test"]["map_medium"] > max(before["map_medium"], 18.0)
    numbers = method.diagnostics()
    assert numbers["field_group_spread"] > 0.0
    assert numbers["gem_power"] != 3.0
    assert set(method.figures()) == {"warping-fields"}
    first, _, _ = run(tmp_path, cache, 1, judged=False)
    again, _, _ = run(tmp_path, cache, 1, judged=False)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_dataset_without_labels_is_refused(cache: Path, tmp_path: Path) -> None:
    data = ROxford5k(cache=cache)
    data.prepare_data()
    fit = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False
    )
    with pytest.raises(ValueError, match="roxford5k has no labels and pairs to learn from"):
        fit.fit(VTNRetrieval(data.spec, **TINY), data)
