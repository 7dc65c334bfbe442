"""RRF-Net and CCA on the rendered scenes with real sentence features: both learn, and both beat chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.language.flickr30k import Flickr30K
from datamodules.specs import ImageClassesSpec
from tasks.base import Method
from tasks.language.cca import CCA
from tasks.language.chance_retrieval import ChanceRetrieval
from tasks.language.rrfnet import RRFNet, RRFNetEnsemble
from tasks.recognition.image_classification import ImageClassification

ENCODERS: dict[str, Any] = {
    "image_encoder": "adopted",
    "adopted_image_dim": 112,
    "text_encoder": "mean_w2v",
    "word_dim": 50,
}
SMALL: dict[str, Any] = {"widths": (64, 32, 32, 32), "negatives": 250, "dropout": 0.0, "learning_rate": 1.0}


class Mosaic(Method):
    """Stands in for a trained picture encoder: the purest red, green, blue, ... and white in each of 4 x 4 fields."""

    name = "mosaic"
    task = ImageClassification

    def features(self, batch: dict) -> Tensor:
        image = F.avg_pool2d(batch["image"], 3)
        contrasts = [image - image.roll(1, 1), image.roll(1, 1) - image, image.amin(1, keepdim=True)]
        return F.adaptive_max_pool2d(torch.cat(contrasts, dim=1), 4).flatten(1)

    def predict(self, batch: dict) -> dict:
        return {"logits": self.features(batch)}


@pytest.fixture(scope="module")
def data(cache: Path) -> Flickr30K:
    data = Flickr30K(cache=cache, batch_size=250, train_pictures=500)
    data.prepare_data()
    return data


def scores(method: Method, data: Flickr30K, **length: int) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **(length or {"max_steps": 0}),
    )
    if length:
        trainer.fit(method, data)
    trainer.test(method, data, verbose=False)
    return method.scores["test"]


def equipped(method: Any) -> Any:
    method.adopt(
        "image_encoder", Mosaic(ImageClassesSpec(dataset="test", classes=("a",), image_size=(96, 96)))
    )
    return method


def test_both_learn_and_beat_chance(data: Flickr30K) -> None:
    torch.manual_seed(0)
    chance = scores(ChanceRetrieval(data.spec), data)
    assert 5 < chance["rsum"] < 25

    closed_form = scores(equipped(CCA(data.spec, **ENCODERS)), data, max_epochs=1)
    assert closed_form["rsum"] > 5 * chance["rsum"]

    torch.manual_seed(0)
    method = equipped(RRFNet(data.spec, **ENCODERS, **SMALL))
    before = scores(method, data, max_steps=1)
    after = scores(method, data, max_steps=100)
    assert after["rsum"] > before["rsum"] + 30
    assert after["rsum"] > 3 * chance["rsum"]
    assert after["t2i_median"] < before["t2i_median"]
    figures = method.judged_figures
    assert set(figures) == {"image_to_text", "text_to_image", "recall"}

    # Built anew, with its encoder adopted again, a checkpoint tells all the rest.
    restored = equipped(RRFNet(data.spec, **ENCODERS, **SMALL))
    restored.load_state_dict(method.state_dict())
    assert scores(restored, data) == after
    ensemble = RRFNetEnsemble(data.spec, members=(3,))
    ensemble.adopt("t3", restored)
    assert scores(ensemble, data)["rsum"] == pytest.approx(after["rsum"], abs=0.5)


@pytest.mark.parametrize(
    "preset", ["baseline", "t1", "no_fusion", "sum_fusion", "baseline_bidirectional", "gmm_fv"]
)
def test_presets_run_on_the_smoke_profile(preset: str, data: Flickr30K) -> None:
    options = RRFNet.profile("smoke", preset) | {"adopted_image_dim": 112}
    torch.manual_seed(0)
    found = scores(equipped(RRFNet(data.spec, **options)), data, max_steps=2)
    assert 0 <= found["rsum"] <= 600
