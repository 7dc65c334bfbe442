"""Attentive prototypes: the paper's size and profile, its switches, and a training that learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.recognition.mini_imagenet import MiniImageNet
from datamodules.specs import EpisodesSpec
from tasks.recognition.attentive_prototype import AttentivePrototype

SPEC = EpisodesSpec(dataset="made", ways=3, shots=2, queries=2, image_size=(16, 16))
TINY = AttentivePrototype.profile("smoke") | {"negatives": 2}


def episode(spec: EpisodesSpec, batch: int = 1) -> dict:
    size = (spec.channels, *spec.image_size)
    label = torch.arange(spec.ways).repeat_interleave(spec.queries).expand(batch, -1)
    return {
        "support": torch.rand(batch, spec.ways, spec.shots, *size),
        "query": torch.rand(batch, spec.ways * spec.queries, *size),
        "query_label": label,
        "id": [str(i) for i in range(batch)],
    }


def quiet(**options) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **options,
    )


def test_the_paper_profile_steps_once() -> None:
    """Full size on a small episode: 13.36 M parameters, one step forward and backward."""
    spec = EpisodesSpec(dataset="made", ways=5, shots=1, queries=1, image_size=(64, 64))
    torch.manual_seed(0)
    method = AttentivePrototype(spec, **AttentivePrototype.profile("paper"))
    assert sum(p.numel() for p in method.parameters()) == 13_359_424
    loss = method.training_step(episode(spec), 0)
    loss.backward()
    assert 0 < loss.item() < 5
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    (group,) = method.configure_optimizers()["optimizer"].param_groups
    assert (group["lr"], group["weight_decay"]) == (0.001, 0.0003)


@pytest.mark.parametrize("preset", [None, *AttentivePrototype.presets])
def test_every_preset_trains_and_answers(preset: str | None) -> None:
    torch.manual_seed(0)
    method = AttentivePrototype(SPEC, **AttentivePrototype.profile("smoke", preset) | {"negatives": 2})
    batch = episode(SPEC, batch=2)
    loss = method.training_step(batch, 0)
    loss.backward()
    assert torch.isfinite(loss)
    prediction = method.eval().predict(batch)
    assert prediction["logits"].shape == (2, 6, 3)
    torch.testing.assert_close(prediction["logits"].exp().sum(2), torch.ones(2, 6))
    attends = preset not in ("setting1", "average", "protonet_conv4")
    assert ("attention" in prediction) == attends
    if attends:
        assert prediction["attention"].shape == (2, 6, 3, 2)


def test_episodes_of_a_batch_do_not_mix() -> None:
    torch.manual_seed(0)
    method = AttentivePrototype(SPEC, **TINY).eval()
    batch = episode(SPEC, batch=3)
    together = method.predict(batch)["logits"]
    alone = method.predict({**batch, **{key: batch[key][1:2] for key in ("support", "query", "query_label")}})
    torch.testing.assert_close(together[1:2], alone["logits"], atol=1e-5, rtol=1e-4)


def test_with_one_shot_attention_is_the_mean() -> None:
    spec = EpisodesSpec(dataset="made", ways=3, shots=1, queries=2, image_size=(16, 16))
    torch.manual_seed(0)
    attentive, average = (
        AttentivePrototype(spec, **TINY, prototypes=prototypes) for prototypes in ("attentive", "average")
    )
    average.load_state_dict(attentive.state_dict())
    batch = episode(spec)
    torch.testing.assert_close(
        attentive.eval().predict(batch)["logits"], average.eval().predict(batch)["logits"]
    )


def test_the_order_of_supports_does_not_matter_and_that_of_classes_moves_along() -> None:
    torch.manual_seed(0)
    method = AttentivePrototype(SPEC, **TINY).eval()
    batch = episode(SPEC)
    plain = method.predict(batch)["logits"]
    shots = method.predict({**batch, "support": batch["support"].flip(2)})["logits"]
    torch.testing.assert_close(shots, plain, atol=1e-5, rtol=1e-4)
    ways = method.predict({**batch, "support": batch["support"].flip(1)})["logits"]
    torch.testing.assert_close(ways, plain.flip(2), atol=1e-5, rtol=1e-4)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.\.2 negatives, not 3"):
        AttentivePrototype(SPEC, negatives=3)
    with pytest.raises(ValueError, match="sigma"):
        AttentivePrototype(SPEC, sigma=0.0)


def test_learning_rates_fall_as_the_options_say(cache: Path) -> None:
    options = {"image_size": 16, "queries": 1, "shots": 1, "episodes": 2, "test_episodes": 1}
    data = MiniImageNet(cache=cache, batch_size=1, **options)
    data.prepare_data()
    step = AttentivePrototype(data.spec, **TINY, lr_every=2)
    quiet(max_steps=4).fit(step, data)
    assert step.optimizers().param_groups[0]["lr"] == pytest.approx(0.001 * 0.9**2)
    plateau = AttentivePrototype(data.spec, **TINY, schedule="plateau")
    quiet(max_steps=4).fit(plateau, data)
    assert plateau.lr_schedulers().state_dict()["last_epoch"] == 2


def test_diagnostics_tell_what_the_attention_does(cache: Path) -> None:
    data = MiniImageNet(cache=cache, image_size=16, queries=2, test_episodes=4)
    data.prepare_data()
    method = AttentivePrototype(data.spec, **AttentivePrototype.profile("smoke"), sigma=1e3)
    assert method.diagnostics() == {}
    quiet().test(method, data, verbose=False)
    found = method.diagnostics()
    # So wide a Gaussian weighs all five supports the same.
    assert found["attention_entropy"] == pytest.approx(torch.log(torch.tensor(5.0)).item(), abs=1e-3)
    assert found["outlier_weight"] == pytest.approx(found["outlier_share"], abs=1e-3)


def test_training_on_the_miniature_beats_chance_and_its_beginning(cache: Path) -> None:
    options = {"image_size": 32, "queries": 4, "shots": 3, "episodes": 70, "test_episodes": 30}
    data = MiniImageNet(cache=cache, batch_size=1, seed=4, **options)
    data.prepare_data()
    pl.seed_everything(4, verbose=False)
    method = AttentivePrototype(data.spec, network="conv4", width=16, learning_rate=0.003)
    trainer = quiet(max_steps=70)
    (before,) = trainer.test(method, data, verbose=False)
    trainer.fit(method, data)
    (after,) = trainer.test(method, data, verbose=False)
    assert after["test/accuracy"] > 40
    assert after["test/accuracy"] > before["test/accuracy"] + 10
