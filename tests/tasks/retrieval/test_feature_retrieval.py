"""Retrieval by a frozen network's features: adoption, the cosine, better than a trivial predictor."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.retrieval.holidays import Holidays
from datamodules.retrieval.ukbench import UKBench
from datamodules.specs import ImageClassesSpec
from tasks.base import Method
from tasks.recognition.image_classification import ImageClassification
from tasks.retrieval.feature_retrieval import FeatureRetrieval
from tasks.retrieval.pixel_retrieval import PixelRetrieval


class Energies(Method):
    """Stands in for a trained network: rectified random filters averaged over the picture, or nothing at all."""

    name = "energies"
    task = ImageClassification

    def __init__(self, spec: ImageClassesSpec, *, blind: bool = False) -> None:
        super().__init__(spec)
        self.filters = torch.nn.Parameter(
            torch.randn(64, 3, 5, 5, generator=torch.Generator().manual_seed(0))
        )
        self.blind = blind

    def features(self, batch: dict) -> Tensor:
        if self.blind:
            return torch.ones(len(batch["image"]), 5)
        image = batch["image"] - batch["image"].mean(dim=(2, 3), keepdim=True)
        return torch.nn.functional.conv2d(image, self.filters, stride=2).relu().mean(dim=(2, 3))

    def predict(self, batch: dict) -> dict:
        return {"logits": self.features(batch)}


def score(method: Method, data: UKBench) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    return dict(trainer.test(method, data, verbose=False)[0])


def test_without_a_backbone_predict_says_so(cache: Path) -> None:
    data = Holidays(cache=cache)
    method = FeatureRetrieval(data.spec)
    batch = next(iter(data.test_dataloader()))
    with pytest.raises(RuntimeError, match=r"feature_retrieval \(cfn:cfn_11\) has no backbone"):
        method.predict(batch)


def test_features_rank_better_than_trivial_ones(cache: Path) -> None:
    data = UKBench(cache=cache)
    method = FeatureRetrieval(data.spec, backbone="energies")
    method.adopt("backbone", Energies(data.spec))
    seeing = score(method, data)
    method.adopt("backbone", Energies(data.spec, blind=True))
    blind = score(method, data)
    pixels = score(PixelRetrieval(data.spec), data)
    assert seeing["test/map"] > 1.3 * pixels["test/map"] > 1.3 * blind["test/map"]
    assert seeing["test/ns"] > pixels["test/ns"] > blind["test/ns"]


def test_prediction_is_the_backbones_feature(cache: Path) -> None:
    data = Holidays(cache=cache)
    method = FeatureRetrieval(data.spec)
    trained = Energies(data.spec)
    method.adopt("backbone", trained)
    batch = next(iter(data.test_dataloader()))
    torch.testing.assert_close(method.predict(batch)["feature"], trained.features(batch))


def test_options_become_the_need() -> None:
    (need,) = FeatureRetrieval.needs({"backbone": FeatureRetrieval.presets["cnn_11"]["backbone"]})
    assert (need.role, need.method, need.dataset) == ("backbone", "cfn:cnn_11", None)
    assert FeatureRetrieval.recipe.max_steps == 0
