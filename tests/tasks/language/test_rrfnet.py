"""RRF-Net: loss weights, parameter groups, schedules, learning, restoring, and the ensemble's mean of matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.base import random_generator
from datamodules.specs import CaptionsSpec
from tasks.base import Need
from tasks.language import rrfnet
from tasks.language.rrfnet import RRFNet, RRFNetEnsemble, numbered, term_weights

SPEC = CaptionsSpec(dataset="test", captions=2, vocabulary=("a",))
SMALL = {"widths": (48, 24, 24, 24), "negatives": 10, "decay_every": 60}


class KnownFeatures(nn.Module):
    """Stands in for frozen features: a twisted view of a cause that the picture's name fixes, and noise."""

    image_dim, text_dim = 20, 16

    def __init__(self, spec: CaptionsSpec, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.fitted_on: list[Any] = []
        self.known: dict[str, Tensor] = {}

    @staticmethod
    def needs(image_encoder: str, text_encoder: str) -> list[Need]:
        return [Need(role="image_encoder", method="encoder")] if image_encoder == "adopted" else []

    def fit(self, datamodule: Any) -> None:
        self.fitted_on.append(datamodule)

    def open_cache(self, datamodule: Any) -> None:
        """Nothing is kept."""

    def view(self, kind: str, width: int, picture: str, name: str) -> Tensor:
        if name not in self.known:
            mixing = random_generator(kind).normal(size=(6, width))
            cause = random_generator("cause", picture).normal(size=6)
            noise = random_generator("noise", name).normal(size=width)
            self.known[name] = torch.tensor(np.tanh(cause @ mixing) + 0.15 * noise).float()
        return self.known[name]

    def images(self, batch: Mapping[str, Any]) -> Tensor:
        return torch.stack([self.view("image", self.image_dim, name, name) for name in batch["image_id"]])

    def texts(self, batch: Mapping[str, Any]) -> Tensor:
        pairs = zip(batch["image_id"], batch["caption_ids"], strict=True)
        return torch.stack(
            [self.view("text", self.text_dim, picture, name) for picture, names in pairs for name in names]
        )


def batch_of(names: list[str], captions: list[list[int]]) -> dict:
    return {
        "image_id": names,
        "path": [""] * len(names),
        "captions": [["a sentence"] * len(numbers) for numbers in captions],
        "caption_ids": [
            [f"{name}#{n}" for n in numbers] for name, numbers in zip(names, captions, strict=True)
        ],
        "id": names,
    }


class Pairs(pl.LightningDataModule):
    """300 pictures with two captions each as 600 shuffled pairs; 60 more to test."""

    spec = SPEC

    def train_dataloader(self) -> DataLoader:
        order = random_generator("order").permutation(600).tolist()
        batches = [
            batch_of([f"train{k // 2}" for k in part], [[k % 2] for k in part])
            for part in (order[first : first + 100] for first in range(0, 600, 100))
        ]
        return DataLoader(batches, batch_size=None)

    def test_dataloader(self) -> DataLoader:
        names = [f"test{i}" for i in range(60)]
        batches = [batch_of(names[first : first + 20], [[0, 1]] * 20) for first in range(0, 60, 20)]
        return DataLoader(batches, batch_size=None)


@pytest.fixture(autouse=True)
def known_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rrfnet, "FrozenPairFeatures", KnownFeatures)


def trainer(steps: int = 0) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )


def trained(steps: int, seed: int = 0, **options: Any) -> tuple[RRFNet, dict[str, float]]:
    torch.manual_seed(seed)
    method, data = RRFNet(SPEC, **(SMALL | options)), Pairs()
    run = trainer(steps)
    run.fit(method, data)
    run.test(method, data, verbose=False)
    return method.eval(), method.scores["test"]


def test_weights_of_the_four_terms() -> None:
    assert term_weights("birank", "code") == (1, 0.5, 2, 1)
    assert term_weights("birank", "thesis") == (2, 1, 1, 0.5)
    assert term_weights("bidirectional", "code") == (1, 0, 2, 0)
    assert term_weights("bidirectional", "thesis") == (2, 0, 1, 0)
    with pytest.raises(ValueError, match="no weights"):
        term_weights("triplet", "code")  # type: ignore[arg-type]


def test_numbers_of_names() -> None:
    assert numbered(["b", "a", "b", "c"]).tolist() == [1, 0, 1, 2]


def test_every_preset_builds_what_it_says() -> None:
    built = {name: RRFNet(SPEC, **(SMALL | RRFNet.profile("paper", name) | SMALL)) for name in RRFNet.presets}
    assert isinstance(built["baseline"].network.image.fc3, nn.Sequential)
    steps = {name: len(built[name].network.text.fc3.norms) for name in ("t1", "t2", "t4", "thesis")}
    assert steps == {"t1": 2, "t2": 3, "t4": 5, "thesis": 4}
    assert built["no_fusion"].network.image.fc3.after is None
    assert built["sum_fusion"].network.image.fc3.fuse is None
    assert built["baseline_bidirectional"].loss_options["weights"] == (1, 0, 2, 0)
    assert built["thesis"].loss_options["weights"] == (2, 1, 1, 0.5)
    assert built["vgg19"].features.options["image_encoder"] == "vgg19"
    assert built["gmm_fv"].features.options["text_encoder"] == "gmm_fv"
    assert built["mean_w2v"].features.options["text_encoder"] == "mean_w2v"


def test_profiles_override_nothing_that_presets_vary() -> None:
    paper_only = {"vgg19", "long"}
    for name, options in RRFNet.presets.items():
        if name not in paper_only:
            assert not options.keys() & RRFNet.profiles["mini"].keys(), name


def test_an_encoder_is_needed_where_it_is_adopted() -> None:
    options = {"text_encoder": "hglmm"}
    assert RRFNet.needs({**options, "image_encoder": "resnet152"}) == []
    assert [need.role for need in RRFNet.needs({**options, "image_encoder": "adopted"})] == ["image_encoder"]


def test_biases_are_trained_apart() -> None:
    method = RRFNet(SPEC, **SMALL, learning_rate=0.05, weight_decay=0.001)
    optimizer = method.configure_optimizers()["optimizer"]
    others, biases = optimizer.param_groups
    assert (others["lr"], others["weight_decay"]) == (0.05, 0.001)
    assert (biases["lr"], biases["weight_decay"]) == (0.1, 0.0)
    assert others["momentum"] == biases["momentum"] == 0.9
    # Four Linear layers and a fusion in each branch.
    assert len(biases["params"]) == 2 * 5
    everything = {id(parameter) for parameter in method.parameters()}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == everything


def test_the_rate_falls_to_a_tenth() -> None:
    method = RRFNet(SPEC, **(SMALL | {"decay_every": 2}))
    setting = method.configure_optimizers()
    optimizer, scheduler = setting["optimizer"], setting["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(5):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert [rate[0] for rate in rates] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert [rate[1] for rate in rates] == pytest.approx([0.2, 0.2, 0.02, 0.02, 0.002])


def test_training_beats_no_training_and_repeats_itself() -> None:
    _, before = trained(1)
    method, after = trained(60)
    # Chance on 60 pictures is about 20 (5/3 + 25/3 + 50/3 %, twice: 53).
    assert after["rsum"] > before["rsum"] + 50
    assert after["rsum"] > 250
    assert len(method.features.fitted_on) == 1
    assert set(method.diagnostics()) == {
        *(f"{kind}_fusion_weight_{step}" for kind in ("image", "text") for step in range(4)),
        "image_fusion_bias",
        "text_fusion_bias",
    }
    assert trained(60)[1] == after


def test_plateau_schedule_follows_the_loss() -> None:
    torch.manual_seed(0)
    method, run = RRFNet(SPEC, **SMALL, schedule="plateau", patience=0, learning_rate=1e-6), trainer(36)
    run.fit(method, Pairs())
    # At such a rate the loss stands still, so that the rate falls.
    assert run.optimizers[0].param_groups[0]["lr"] < 1e-6


def test_restored_it_predicts_the_same() -> None:
    method, _ = trained(2)
    torch.manual_seed(5)
    restored = RRFNet(SPEC, **SMALL)
    restored.load_state_dict(method.state_dict())
    batch = batch_of(["a", "b"], [[0, 1, 2], [0]])
    prediction, again = method.predict(batch), restored.eval().predict(batch)
    assert prediction["owner"].tolist() == [0, 0, 0, 1]
    assert prediction["image"].shape == (2, 24)
    assert prediction["text"].shape == (4, 24)
    assert all(torch.equal(value, again[key]) for key, value in prediction.items())


def test_captions_of_one_picture_in_a_batch_are_no_negatives() -> None:
    method = RRFNet(SPEC, **SMALL)
    method.log = lambda *args, **keywords: None  # type: ignore[method-assign]
    same = batch_of(["a", "a", "a"], [[0], [1], [2]])
    assert method.training_step(same, 0).item() == 0.0
    assert method.training_step(batch_of(["a", "b", "c"], [[0], [1], [2]]), 0).item() > 0.0


def test_the_ensemble_averages_similarity_matrices() -> None:
    ensemble = RRFNetEnsemble(SPEC, members=(1, 3))
    batch = batch_of([f"x{i}" for i in range(6)], [[0, 1]] * 6)
    with pytest.raises(RuntimeError, match="t1, t3"):
        ensemble.predict(batch)
    similarities = []
    for seed, T in enumerate((1, 3)):
        member, _ = trained(2, seed, T=T)
        ensemble.adopt(f"t{T}", member)
        prediction = member.predict(batch)
        similarities.append(prediction["image"] @ prediction["text"].T)
    joined = ensemble.train().predict(batch)
    mean = (similarities[0] + similarities[1]) / 2
    torch.testing.assert_close(joined["image"] @ joined["text"].T, mean)
    torch.testing.assert_close(joined["image"].norm(dim=1), torch.ones(6))
    assert not any(parameter.requires_grad for parameter in ensemble.parameters())
    with pytest.raises(TypeError, match="no 't2'"):
        ensemble.adopt("t2", member)


def test_what_the_ensemble_needs() -> None:
    needs = RRFNetEnsemble.needs({"members": [1, 4], "member": "rrfnet:bidirectional"})
    assert [(need.role, need.method, need.options) for need in needs] == [
        ("t1", "rrfnet:bidirectional", {"T": 1}),
        ("t4", "rrfnet:bidirectional", {"T": 4}),
    ]
    with pytest.raises(ValueError, match="different values"):
        RRFNetEnsemble(SPEC, members=(1, 1))
