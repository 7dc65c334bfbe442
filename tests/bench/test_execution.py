"""Running one trial: repeatable to the bit, tidy about global state, honest about which weights were tested."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from safetensors.torch import load

from bench import cost
from bench.execution import BestWeights, NonFiniteLoss, failure, recipe_of, restore, run_trial
from bench.trial import Places, Trial, resolve


def make(cache: Path, label: str, dataset: str, **changes: Any) -> Trial:
    settings: dict[str, Any] = {"variant": "miniature", "profile": "smoke", "seed": 3, **changes}
    return resolve(label, dataset, places=Places(cache=cache), **settings)


@pytest.mark.parametrize(
    ("label", "dataset"), [("cfn", "cifar-10"), ("rds", "bsds500"), ("squeezesegv3", "semantic-kitti")]
)
def test_the_same_trial_gives_the_same_numbers_and_weights(label: str, dataset: str, cache: Path) -> None:
    trial, places = make(cache, label, dataset), Places(cache=cache)
    first = run_trial(trial, places, keep_checkpoint=True)
    torch.manual_seed(99)
    torch.rand(7)
    run_trial(make(cache, "majority", "cifar-10"), places)
    second = run_trial(trial, places, keep_checkpoint=True)
    assert first.document["status"] == "ok", first.document.get("traceback")
    assert first.document["metrics"] == second.document["metrics"]
    assert first.document["curve"] == second.document["curve"]
    weights = [load(outcome.checkpoint or b"") for outcome in (first, second)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert first.pictures == second.pictures


def test_what_an_outcome_holds(cache: Path) -> None:
    trial = make(cache, "cfn", "cifar-10")
    outcome = run_trial(trial, Places(cache=cache), keep_checkpoint=True)
    document = outcome.document
    assert document["primary"] == "error"
    assert 0 <= document["metrics"]["error"] <= 100
    assert document["selection"] == "last"
    assert "train/loss" in document["curve"][0]
    assert document["diagnostics"]["parameters_fusion"] > 0
    spent = document["cost"]
    assert spent["parameters"] > 0
    assert spent["flops"] > 0
    assert spent["train_samples_per_second"] > 0
    assert spent["test_samples_per_second"] > 0
    assert spent["host_peak_mb"] > 50
    assert sum(name.startswith("prediction") for name in outcome.pictures) == 4
    for content in outcome.pictures.values():
        assert np.asarray(Image.open(io.BytesIO(content))).shape[2] == 3
    again = restore(trial, {trial.key: outcome.checkpoint or b""})
    assert not again.training
    assert again.spec.dataset == "cifar-10"


def test_global_state_comes_back(cache: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    run_trial(make(cache, "cfn", "cifar-10"), Places(cache=cache), threads=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert torch.get_num_threads() == before[2]
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_a_trial_does_wrong_is_an_outcome(cache: Path) -> None:
    trial = make(cache, "cfn", "cifar-10", overrides={"trunk": "a", "peer": "dsn"})
    document = run_trial(trial, Places(cache=cache)).document
    assert document["status"] == "failed"
    assert document["reason"] == "exception"
    assert "peers dsn and resnet" in document["message"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NonFiniteLoss("loss is nan"), "non-finite loss"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (ValueError("anything else"), "exception"),
    ],
)
def test_reasons(error: Exception, reason: str) -> None:
    assert failure(error)["reason"] == reason


class _Scored(pl.LightningModule):
    """Stands in for a method: one weight, and a score that is told."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.scores: dict[str, dict[str, float]] = {}


def test_best_weights_follow_the_direction_of_the_primary_measure(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.execution.Method", _Scored)
    trial = make(cache, "cfn", "cifar-10")
    best = BestWeights(trial, recipe_of(make(cache, "cfn", "cifar-10", overrides={"validate_every": 1})))
    method, trainer = _Scored(), pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    for number, error in enumerate([50.0, 20.0, float("nan"), 30.0], start=1):
        method.weight.data.fill_(number)
        method.scores["val"] = {"error": error}
        best.on_validation_end(trainer, method)
    said = best.restore(method)  # type: ignore[arg-type]
    assert method.weight.item() == 2
    assert said.startswith("best val/error (20")
    never = make(cache, "cfn", "cifar-10", overrides={"selection": "best", "validate_every": 0})
    with pytest.raises(ValueError, match="needs validation"):
        BestWeights(never, recipe_of(never))


def test_operations_of_a_matrix_product() -> None:
    layer = torch.nn.Linear(192, 2)
    with cost.Operations() as operations:
        layer(torch.zeros(5, 192))
    assert operations.total == 2 * 5 * 192 * 2


def test_throughput_leaves_the_first_step_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 10.0, 12.0])
    monkeypatch.setattr("bench.cost.time.perf_counter", lambda: next(clock))
    watch = cost.Stopwatch()
    watch.on_train_start()
    for _ in range(3):
        watch.on_train_batch_end(None, None, None, {"id": ["a", "b"]})
    watch.on_train_end()
    assert watch.seconds["train"] == 12.0
    assert watch.rate("train") == 4 / 2.0
    assert watch.rate("test") is None
