"""Pattern-Net, classification: the paper's size, Eq. 9, its switches, repeatable inference, and learning."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import log_softmax

from datamodules.pointcloud.modelnet40 import ModelNet40
from datamodules.specs import PointClassesSpec
from tasks.pointcloud.orderly_disorder import OrderlyDisorder, total_loss

SPEC = PointClassesSpec(dataset="made-up", classes=tuple("abcdefgh"), points=40)
FORTY = PointClassesSpec(dataset="made-up", classes=tuple(str(number) for number in range(40)), points=1024)
TINY = {"neighbours": 5, "width": 4}


def make_batch(batch: int = 4, points: int = 40, classes: int = 8) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "points": torch.randn(batch, points, 3, generator=generator) / 2,
        "label": torch.randint(classes, (batch,), generator=generator),
        "condition": torch.zeros(batch).long(),
        "id": [str(number) for number in range(batch)],
    }


def silent(method: OrderlyDisorder) -> OrderlyDisorder:
    method.log_dict = lambda *args, **options: None  # type: ignore[method-assign]
    return method


def build(seed: int = 0, **options: object) -> OrderlyDisorder:
    torch.manual_seed(seed)
    return silent(OrderlyDisorder(SPEC, **{**TINY, **options}))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_those_of_the_layers_and_fewer_than_the_papers() -> None:
    with torch.device("meta"):
        method = OrderlyDisorder(FORTY)
        two = OrderlyDisorder(FORTY, **OrderlyDisorder.profile("paper", "two_linkage_layers"))
        alone = OrderlyDisorder(FORTY, **OrderlyDisorder.profile("paper", "uncloned"))
    relations = 6 * 64 + 3 * 128 * 64 + 4 * 128
    linkage = 256 * 256 + 512
    classifier = 512 * 256 + 512 + 256 * 256 + 512 + 256 * 40 + 40
    assert parameters(method) == relations + linkage + classifier == 299_432
    assert parameters(two) == 365_480 < 399_000  # Table 4
    assert parameters(alone) == 299_432  # clones share all weights


def test_the_paper_profile_steps_at_full_size() -> None:
    torch.manual_seed(0)
    method = silent(OrderlyDisorder(FORTY, **OrderlyDisorder.profile("paper")))
    assert OrderlyDisorder.recipe.data == {"points": 2048}
    assert (method.clones, method.encoder.neighbours, method.encoder.length) == (4, 30, 256)
    before = method.encoder.relations[0].map.weight.clone()
    loss = method.training_step(make_batch(2, 2048, 40), 0)
    loss.backward()
    torch.optim.SGD(method.parameters(), lr=method.lr).step()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert not torch.equal(before, method.encoder.relations[0].map.weight)


def test_the_total_loss_by_hand() -> None:
    """Eq. 9 with labels smoothed by 0.2: 0.2 / C for each class, and 0.8 more for the true one."""
    logits, label = torch.tensor([[2.0, 0, 1], [0, 0, 3]]), torch.tensor([0, 1])
    target = torch.full((2, 3), 0.2 / 3)
    target[0, 0] += 0.8
    target[1, 1] += 0.8
    expected = -(target * log_softmax(logits, 1)).sum(1).mean() + 0.2 * 0.3
    assert total_loss(logits, label, torch.tensor(0.3), 0.2, 0.2).item() == pytest.approx(expected.item())


def test_the_mapping_loss_is_weighed_by_lambda_and_reaches_the_encoder() -> None:
    gradients = []
    for weight in (0.0, 5.0):
        method = build(mapping_weight=weight)
        torch.manual_seed(1)
        method.training_step(make_batch(), 0).backward()
        gradients.append(method.encoder.relations[0].map.weight.grad)
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-2)


def test_inference_repeats_whatever_the_global_generator_and_the_batch() -> None:
    method, batch = build().eval(), make_batch()
    torch.manual_seed(1)
    one = method.predict(batch)["logits"]
    torch.manual_seed(2)
    assert torch.equal(one, method.predict(batch)["logits"])
    alone = {**batch, "points": batch["points"][2:3]}
    torch.testing.assert_close(method.predict(alone)["logits"], one[2:3])


def test_training_draws_decompositions_anew() -> None:
    method = build(dropout=0.0)
    torch.manual_seed(1)
    method.training_step(make_batch(), 0)
    one, two = (method.training_step(make_batch(), 0).item() for _ in range(2))
    assert one != two


def test_votes_are_averaged_over_decompositions() -> None:
    single, batch = build().eval(), make_batch()
    many = build(votes=3).eval()
    assert not torch.allclose(single.predict(batch)["logits"], many.predict(batch)["logits"])
    many.votes = 1
    assert torch.equal(single.predict(batch)["logits"], many.predict(batch)["logits"])


def test_clouds_of_other_sizes_are_classified() -> None:
    method = build().eval()
    for points in (10, 33, 80):
        assert torch.isfinite(method.predict(make_batch(2, points))["logits"]).all()


def test_mixed_precision_gives_a_finite_loss() -> None:
    method = build()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.training_step(make_batch(), 0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.parameters())


@pytest.mark.parametrize("preset", [None, *OrderlyDisorder.presets])
def test_every_preset_steps(preset: str | None) -> None:
    method = build(**{**OrderlyDisorder.profile("smoke", preset), **TINY})
    loss = method.training_step(make_batch(points=60), 0)
    loss.backward()
    unused = {"clones_only"} if method.mapping_weight == 0 else set()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None or preset in unused, name
    for profile in ("paper", "mini", "smoke"):
        with torch.device("meta"):
            OrderlyDisorder(SPEC, **OrderlyDisorder.profile(profile, preset))


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="clone"):
        OrderlyDisorder(SPEC, clone=4)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="must be positive"):
        build(clones=0)
    with pytest.raises(ValueError, match="one of both, clones, global"):
        build(descriptor="all")
    with pytest.raises(ValueError, match="cannot cut 3 points into 4 clones"):
        build().eval().predict(make_batch(2, 3))
    for label in OrderlyDisorder.baselines:
        name, _, preset = label.partition(":")
        assert name != "orderly_disorder" or preset in OrderlyDisorder.presets


def trainer(epochs: int, **options: object) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **options,
    )


SHORT = {"neighbours": 6, "width": 12, "dropout": 0.0, "lr": 5e-3}


def test_training_on_the_miniature_beats_its_start_and_the_majority(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = ModelNet40(cache=cache, batch_size=16, points=128, conditions="noise")
    method = OrderlyDisorder(data.spec, **{**OrderlyDisorder.profile("mini"), **SHORT})
    (start,) = trainer(1, limit_test_batches=4).test(method, data, verbose=False)
    assert method.figures() == {}
    run = trainer(5)
    run.fit(method, data)
    logged = {name.removeprefix("train/") for name in run.callback_metrics}
    assert {"loss", "sigma", "clone_entropy", "clone_entropy_spread"} <= logged
    (end,) = run.test(method, data, verbose=False)
    assert end["test/accuracy"] > max(start["test/accuracy"], 12.5) + 20
    assert end["test/noise_0.02"] > 30
    assert end["test/robustness"] < end["test/accuracy"] + 5
    numbers = method.diagnostics()
    assert 0 < numbers["sigma"] < 1
    assert 0 < numbers["clone_entropy_spread"] < numbers["clone_entropy"] < 5
    (curve,) = method.figures().values()
    assert curve.shape[2] == 3


def test_the_same_seed_gives_the_same_numbers(cache: Path) -> None:
    losses = []
    for _ in range(2):
        pl.seed_everything(3, verbose=False)
        data = ModelNet40(cache=cache, batch_size=8, points=64, seed=3)
        method = OrderlyDisorder(data.spec, **{**OrderlyDisorder.profile("smoke"), **TINY})
        run = pl.Trainer(
            accelerator="cpu", max_steps=3, logger=False, enable_checkpointing=False, limit_val_batches=0,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        run.fit(method, data)
        losses.append(run.callback_metrics["train/loss"].item())
    assert losses[0] == losses[1]
