"""Fixed filters on the miniature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from datamodules.dense.bsds500 import BSDS500
from tasks.dense.edge_filters import EdgeFilter, canny_probability


def score(data: BSDS500, **options: object) -> dict[str, float]:
    method = EdgeFilter(data.spec, levels=10, **options)  # type: ignore[arg-type]
    judge = method.judge("test")
    for batch in data.test_dataloader():
        judge.update(method.predict(batch), batch)
    return judge.compute()


@pytest.fixture(scope="module")
def data(cache: Path) -> BSDS500:
    data = BSDS500(cache=cache)
    data.prepare_data()
    return data


def test_canny_lies_where_the_miniature_was_tuned_to(data: BSDS500) -> None:
    scores = {sigma: score(data, filter="canny", sigma=sigma)["ods"] for sigma in (1.0, 2.5)}
    assert 0.3 < scores[1.0] < scores[2.5]
    assert 0.35 < scores[2.5] < 0.55


def test_the_surrogate_beats_the_gradient_and_blank_has_nothing(data: BSDS500) -> None:
    surrogate, gradient = score(data, filter="se_surrogate"), score(data, filter="gradient")
    assert surrogate["ods"] > gradient["ods"] > 0.3
    assert score(data, filter="blank") == {"ods": 0, "ois": 0, "ap": 0}


def test_cannys_sweep_is_a_share_of_levels() -> None:
    gray = np.zeros((30, 40))
    gray[:, 20:] = 1
    edges = canny_probability(gray + 0.001 * np.random.default_rng(0).random(gray.shape), 1.0, levels=8)
    assert edges.dtype == np.float32
    assert set(np.unique(edges * 8)) <= set(range(9))
    assert edges[15, 18:22].max() == 1
    assert edges[:, :10].max() < 1


@pytest.mark.parametrize("preset", list(EdgeFilter.presets))
def test_every_preset_runs_in_a_trainer_without_training(data: BSDS500, preset: str) -> None:
    limited = BSDS500(cache=data.cache, test_limit=2)
    limited.prepare_data()
    method = EdgeFilter(limited.spec, **{**EdgeFilter.presets[preset], **EdgeFilter.profile("smoke")})
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    (scores,) = trainer.test(method, limited, verbose=False)
    assert 0 <= scores["test/ods"] <= 1
    assert (scores["test/ods"] > 0) == (preset != "blank")
    edge = method.predict(next(iter(limited.test_dataloader())))["edge"]
    assert edge.dtype == torch.float32
    assert edge.shape[:2] == (1, 1)


def test_options_are_checked(data: BSDS500) -> None:
    with pytest.raises(ValueError, match="sobel"):
        EdgeFilter(data.spec, filter="sobel")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        EdgeFilter(data.spec, sigma=0)
