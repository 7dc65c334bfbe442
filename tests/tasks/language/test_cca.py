"""Regularised CCA: against scikit-learn and by hand, its moments, and what it finds in pairs with a common cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.cross_decomposition import CCA as Iterative
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.base import random_generator
from datamodules.specs import CaptionsSpec
from tasks.language import cca
from tasks.language.cca import CCA, Moments, fit_cca

SPEC = CaptionsSpec(dataset="test", captions=2, vocabulary=("a",))
CAUSES = 4


class KnownFeatures(nn.Module):
    """Stands in for frozen features: linear views of a cause that the picture's name fixes, and noise."""

    image_dim, text_dim = 12, 9

    def __init__(self, spec: CaptionsSpec, **options: Any) -> None:
        super().__init__()

    @staticmethod
    def needs(*encoders: str) -> tuple[()]:
        return ()

    def fit(self, datamodule: Any) -> None:
        """Nothing to fit."""

    def open_cache(self, datamodule: Any) -> None:
        """Nothing is kept."""

    def view(self, kind: str, width: int, picture: str, name: str) -> np.ndarray:
        mixing = random_generator(kind).normal(size=(CAUSES, width))
        cause = random_generator("cause", picture).normal(size=CAUSES)
        return cause @ mixing + 0.3 * random_generator("noise", name).normal(size=width)

    def images(self, batch: Mapping[str, Any]) -> Tensor:
        return torch.tensor(
            np.stack([self.view("image", self.image_dim, name, name) for name in batch["image_id"]])
        ).float()

    def texts(self, batch: Mapping[str, Any]) -> Tensor:
        pairs = zip(batch["image_id"], batch["caption_ids"], strict=True)
        rows = [self.view("text", self.text_dim, picture, name) for picture, names in pairs for name in names]
        return torch.tensor(np.stack(rows)).float()


class Pairs(pl.LightningDataModule):
    """Named pictures with two captions each: 150 to learn from, 40 to test."""

    spec = SPEC

    def in_order(self, split: str, captions: int = 2) -> DataLoader:
        size, group = (150, 25) if split == "train" else (40, 20)
        batches = [
            self.batch([f"{split}{i}" for i in range(first, first + group)], captions)
            for first in range(0, size, group)
        ]
        return DataLoader(batches, batch_size=None)

    def batch(self, names: list[str], captions: int) -> dict:
        return {
            "image_id": names,
            "path": [""] * len(names),
            "captions": [["a sentence"] * captions for _ in names],
            "caption_ids": [[f"{name}#{n}" for n in range(captions)] for name in names],
            "id": names,
        }

    def train_dataloader(self) -> DataLoader:
        return self.in_order("train")

    def test_dataloader(self) -> DataLoader:
        return self.in_order("test")


def trainer() -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def samples(seed: int, count: int = 400) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cause = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    x = cause @ torch.randn(3, 6, generator=generator, dtype=torch.float64)
    y = cause @ torch.randn(3, 5, generator=generator, dtype=torch.float64)
    x = x + 0.5 * torch.randn(x.shape, generator=generator, dtype=torch.float64) + 3.0
    return x, y + 0.5 * torch.randn(y.shape, generator=generator, dtype=torch.float64) - 1.0


def test_one_dimension_by_hand() -> None:
    # Variances 4 and 9, covariance 3: correlation 3 / 6 without, 3 / sqrt(8 * 18) with a regularisation of 1.
    xx, xy, yy = (torch.tensor([[value]], dtype=torch.float64) for value in (4.0, 3.0, 9.0))
    assert fit_cca(xx, xy, yy, 1, 0.0).correlation.item() == pytest.approx(0.5)
    found = fit_cca(xx, xy, yy, 1, 1.0)
    assert found.correlation.item() == pytest.approx(0.25)
    assert found.x.abs().item() == pytest.approx(1 / 8**0.5)
    assert found.x.sign() == found.y.sign()


def test_like_scikit_learn() -> None:
    x, y = samples(0)
    moments = Moments()
    for part in range(0, 400, 130):
        moments.update(x[part : part + 130], y[part : part + 130])
    x_mean, _, *covariances = moments.covariances()
    torch.testing.assert_close(x_mean, x.mean(0))
    torch.testing.assert_close(covariances[1], torch.cov(torch.cat([x, y], 1).T, correction=0)[:6, 6:])
    found = fit_cca(*covariances, 3, 0.0)
    other = Iterative(n_components=3, max_iter=5000, tol=1e-10).fit(x.numpy(), y.numpy())
    a, b = other.transform(x.numpy(), y.numpy())
    expected = [np.corrcoef(a[:, k], b[:, k])[0, 1] for k in range(3)]
    np.testing.assert_allclose(found.correlation.numpy(), expected, atol=1e-5)


def test_directions_are_white_and_correlate() -> None:
    x, y = samples(1)
    xx, yy = torch.cov(x.T, correction=0), torch.cov(y.T, correction=0)
    xy = (x - x.mean(0)).T @ (y - y.mean(0)) / len(x)
    found = fit_cca(xx, xy, yy, 4, 0.0)
    eye = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(found.x.T @ xx @ found.x, eye, atol=1e-8, rtol=0)
    torch.testing.assert_close(found.y.T @ yy @ found.y, eye, atol=1e-8, rtol=0)
    torch.testing.assert_close(found.x.T @ xy @ found.y, found.correlation.diag(), atol=1e-8, rtol=0)
    assert (found.correlation.diff() <= 0).all()


def test_more_regularisation_trusts_less() -> None:
    x, y = samples(2)
    moments = Moments()
    moments.update(x, y)
    _, _, *squares = moments.covariances()
    firm, loose = (fit_cca(*squares, 5, strength).correlation for strength in (10.0, 0.01))
    assert (firm < loose).all()


def test_it_finds_the_common_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cca, "FrozenPairFeatures", KnownFeatures)
    method, run = CCA(SPEC, regularisation=0.01), trainer()
    data = Pairs()
    untrained = run.test(method, data, verbose=False)[0]["test/rsum"]
    run.fit(method, data)
    scores = run.test(method, data, verbose=False)[0]
    assert untrained == 0.0  # all embeddings are equal, and ties count against the method
    assert scores["test/rsum"] > 450
    assert scores["test/i2t_r1"] > 60
    # Nine directions, as many as the shorter feature has; four causes.
    assert method.diagnostics()["strong_directions"] == CAUSES
    restored = CCA(SPEC)
    restored.load_state_dict(method.state_dict())
    batch = data.batch(["test0", "test1"], 2)
    for key, value in method.predict(batch).items():
        assert torch.equal(value, restored.predict(batch)[key])


def test_bad_options_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cca, "FrozenPairFeatures", KnownFeatures)
    with pytest.raises(ValueError, match="regularisation"):
        CCA(SPEC, regularisation=0.0)
    with pytest.raises(ValueError, match="1 to 2 directions, not 3"):
        fit_cca(torch.eye(2), torch.eye(2), torch.eye(2), 3, 0.1)
    with pytest.raises(ValueError, match="don't fit"):
        fit_cca(torch.eye(2), torch.ones(3, 2), torch.eye(2), 1, 0.1)
