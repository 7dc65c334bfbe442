"""The linear SVM on frozen features: the objective's solution, all training pictures, learning, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from scipy.optimize import minimize
from torch import Tensor

from datamodules.recognition.indoor67 import Indoor67
from datamodules.specs import ImageClassesSpec
from tasks.base import Method
from tasks.recognition.cfn import CFN
from tasks.recognition.image_classification import ImageClassification
from tasks.recognition.linear_svm import LinearSVM, fit_one_against_rest

TRAINING = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
}


class Energies(Method):
    """Stands in for a trained network: rectified random filters, averaged over the picture."""

    name = "energies"
    task = ImageClassification

    def __init__(self, spec: ImageClassesSpec, *, scale: float = 1.0) -> None:
        super().__init__(spec)
        self.filters = torch.nn.Parameter(
            torch.randn(48, 3, 7, 7, generator=torch.Generator().manual_seed(0))
        )
        self.scale = scale
        self.seen: list[str] = []

    def features(self, batch: dict) -> Tensor:
        self.seen += batch.get("id", [])
        image = batch["image"] - batch["image"].mean(dim=(2, 3), keepdim=True)
        maps = torch.nn.functional.conv2d(image, self.filters, stride=2).relu()
        return self.scale * torch.cat([half.mean(dim=(2, 3)) for half in maps.chunk(2, dim=2)], dim=1)

    def predict(self, batch: dict) -> dict:
        return {"logits": self.features(batch)}


def objective(parameters: Tensor, feature: Tensor, sign: Tensor, C: float) -> Tensor:
    weight, bias = parameters[:-1], parameters[-1]
    margin = 1 - sign * (feature @ weight + bias)
    return 0.5 * parameters.square().sum() + C * margin.clamp(min=0).square().sum()


def test_separable_points_by_hand() -> None:
    # One class at x = 1, the other at x = -1, C -> infinity: the hard margin has w = 1, b = 0.
    feature, label = torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 0])
    weight, bias = fit_one_against_rest(feature, label, 2, C=1e4)
    torch.testing.assert_close(weight, torch.tensor([[-1.0], [1.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(bias, torch.zeros(2), atol=1e-3, rtol=0)
    # C = 1: minimise w^2/2 + 2 (1 - w)^2 -> w = 4/5.
    weight, _ = fit_one_against_rest(feature, label, 2, C=1.0)
    torch.testing.assert_close(weight[1], torch.tensor([0.8]), atol=1e-3, rtol=0)


def test_each_class_minimises_the_objective() -> None:
    generator = torch.Generator().manual_seed(3)
    label = torch.arange(30) % 3
    feature = torch.randn(3, 4, generator=generator)[label] + torch.randn(30, 4, generator=generator)
    weight, bias = fit_one_against_rest(feature, label, 3, C=0.7)
    for k in range(3):
        sign = torch.where(label == k, 1.0, -1.0).double()
        best = minimize(
            lambda p, sign=sign: float(objective(torch.from_numpy(p), feature.double(), sign, 0.7)), [0.0] * 5
        )
        found = torch.cat([weight[k], bias[k : k + 1]]).double()
        assert float(objective(found, feature.double(), sign, 0.7)) == pytest.approx(best.fun, rel=1e-3)
        torch.testing.assert_close(found, torch.from_numpy(best.x), atol=2e-2, rtol=2e-2)


def test_every_class_needs_pictures() -> None:
    with pytest.raises(ValueError, match="3 classes needs pictures of each, got labels of 2"):
        fit_one_against_rest(torch.rand(4, 2), torch.tensor([0, 1, 0, 1]), 3, C=1.0)


def fitted(cache: Path, **options: object) -> tuple[LinearSVM, Energies, dict[str, float]]:
    data = Indoor67(cache=cache, batch_size=64, image_size=32)
    data.prepare_data()
    method, backbone = LinearSVM(data.spec, backbone="energies", **options), Energies(data.spec)
    method.adopt("backbone", backbone)
    trainer = pl.Trainer(**TRAINING)
    trainer.fit(method, data)
    seen = list(backbone.seen)
    (scores,) = trainer.test(method, data, verbose=False)
    backbone.seen = seen
    return method, backbone, dict(scores)


def test_learns_from_every_training_picture_once(cache: Path) -> None:
    method, backbone, scores = fitted(cache)
    data = Indoor67(cache=cache, image_size=32)
    # 240 pictures, of which the training loader drops 48 at a batch size of 64.
    assert backbone.seen == [listed.id for listed in data.listing("train")]
    assert scores["test/error"] < 80  # chance: 91.7
    assert method.diagnostics()["feature_length"] == 96
    assert method.diagnostics()["train_error"] < scores["test/error"]
    assert method.weight.shape == (12, 96)
    assert all(not parameter.requires_grad for parameter in method.parameters())
    torch.testing.assert_close(backbone.filters, Energies(data.spec).filters, check_stride=False)


def test_same_numbers_again_and_from_a_checkpoint(cache: Path) -> None:
    method, _, scores = fitted(cache)
    again, _, scores_again = fitted(cache)
    assert scores == scores_again
    assert torch.equal(method.weight, again.weight)
    restored = LinearSVM(method.spec, backbone="energies")
    restored.adopt("backbone", Energies(method.spec, scale=-1.0))
    restored.load_state_dict(method.state_dict())
    assert torch.equal(restored.weight, method.weight)
    assert restored.diagnostics() == method.diagnostics()


def test_unit_length_makes_the_scale_of_features_irrelevant(cache: Path) -> None:
    spec = Indoor67(cache=cache, image_size=32).spec
    batch = {"image": torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))}
    lengths = {}
    for normalise in ("l2", "none"):
        method = LinearSVM(spec, normalise=normalise)
        method.adopt("backbone", Energies(spec, scale=100.0))
        lengths[normalise] = method.features(batch).norm(dim=1)
    torch.testing.assert_close(lengths["l2"], torch.ones(3))
    assert lengths["none"].min() > 10


def test_fits_on_the_fused_feature_of_cfn(cache: Path) -> None:
    """Width 1: the transferred feature has the chapter's 1024 numbers, for the fused and for the plain network."""
    spec = Indoor67(cache=cache).spec
    for preset in ("cfn_11", "cnn_11"):
        method = LinearSVM(spec, backbone=f"cfn:{preset}")
        method.adopt("backbone", CFN(spec, **CFN.profile("paper", preset)))
        assert method.weight.shape == (12, 1024)
        logits = method.predict({"image": torch.rand(2, 3, 64, 64)})["logits"]
        assert logits.shape == (2, 12)
        assert not logits.requires_grad


def test_needs_and_presets() -> None:
    (need,) = LinearSVM.needs({"backbone": "cfn:cfn_11"})
    assert (need.role, need.method, need.dataset) == ("backbone", "cfn:cfn_11", None)
    for options in LinearSVM.presets.values():
        name, _, preset = options["backbone"].partition(":")
        assert name == CFN.name
        assert preset in CFN.presets


def test_errors(cache: Path) -> None:
    spec = Indoor67(cache=cache).spec
    with pytest.raises(ValueError, match="C must be positive"):
        LinearSVM(spec, C=0.0)
    method = LinearSVM(spec)
    with pytest.raises(RuntimeError, match=r"linear_svm \(cfn:cfn_11\) has no backbone"):
        method.predict({"image": torch.rand(1, 3, 64, 64)})
    with pytest.raises(TypeError, match="no 'teacher'"):
        method.adopt("teacher", Energies(spec))
