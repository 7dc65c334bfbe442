"""The trivial predictors: small pictures and histograms by hand, better than chance on the miniatures."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.retrieval.holidays import Holidays
from datamodules.retrieval.ukbench import UKBench
from tasks.retrieval.image_retrieval import ImageRetrieval
from tasks.retrieval.pixel_retrieval import PixelRetrieval, colour_histogram, small_pixels


def test_small_pixels_are_block_means_around_zero() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    # Block means 2.5, 4.5, 10.5, 12.5 less their mean 7.5.
    assert small_pixels(image, 2).tolist() == [[-5.0, -3.0, 3.0, 5.0]]


def test_histogram_by_hand() -> None:
    image = torch.zeros(1, 3, 2, 2)
    image[0, :, 0, 0] = 1.0  # white, in the last bin although 1.0 * bins is past it
    image[0, 0, 0, 1] = 0.9  # red
    histogram = colour_histogram(image, 2)
    expected = torch.zeros(1, 8)
    expected[0, 0], expected[0, 1], expected[0, 7] = 0.5**0.5, 0.5, 0.5
    torch.testing.assert_close(histogram, expected)


def test_histogram_ignores_places_and_has_unit_length() -> None:
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    histogram = colour_histogram(image, 4)
    torch.testing.assert_close(colour_histogram(image.flip(2).transpose(2, 3), 4), histogram)
    torch.testing.assert_close(histogram.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("feature", ["pixels", "histogram"])
@pytest.mark.parametrize("dataset", [Holidays, UKBench])
def test_better_than_chance(cache: Path, feature: str, dataset: type) -> None:
    data = dataset(cache=cache)
    data.prepare_data()
    method = PixelRetrieval(data.spec, feature=feature)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    (scores,) = trainer.test(method, data, verbose=False)
    values = [listed.values for listed in data.listing("test")]
    facts = {key: torch.tensor([value[key] for value in values]) for key in ("group", "is_query", "index")}
    chance = []
    for seed in range(5):
        judge = ImageRetrieval.judge(data.spec)
        generator = torch.Generator().manual_seed(seed)
        judge.update({"feature": torch.randn(len(values), 16, generator=generator)}, facts)
        chance.append(judge.compute())
    assert scores["test/map"] > 1.5 * max(score["map"] for score in chance)
    assert scores["test/ns"] > max(score["ns"] for score in chance)


def test_options_are_checked(cache: Path) -> None:
    with pytest.raises(ValueError, match="positive"):
        PixelRetrieval(Holidays(cache=cache).spec, side=0)
