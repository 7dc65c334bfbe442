"""Trivial predictors: repeatable chance near the share of right answers; colours that follow the camera."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch

from datamodules.retrieval.market1501 import Market1501
from tasks.retrieval.random_reid import RandomReId


def scores(kind: str, cache: Path) -> dict[str, float]:
    pl.seed_everything(3, verbose=False)
    data = Market1501(cache=cache, image_size=(64, 32))
    method = RandomReId(data.spec, kind=kind)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.test(method, datamodule=data, verbose=False)
    return method.scores["test"]


def test_chance_is_the_share_of_right_answers(cache: Path) -> None:
    data = Market1501(cache=cache, image_size=(64, 32))
    crops = data.split("test").crops
    gallery = [crop for crop in crops if not crop.is_query and crop.person >= 0]
    share = [
        sum(crop.person == query.person and crop.camera != query.camera for crop in gallery) / len(gallery)
        for query in crops
        if query.is_query
    ]
    expected = 100 * sum(share) / len(share)
    assert abs(scores("random", cache)["map"] - expected) < 2.5


def test_embeddings_depend_on_name_and_seed_alone(cache: Path) -> None:
    data = Market1501(cache=cache, image_size=(64, 32))
    torch.manual_seed(0)
    method = RandomReId(data.spec)
    ahead, backwards = ({"image": torch.zeros(2, 3, 4, 4), "id": names} for names in (["a", "b"], ["b", "a"]))
    assert torch.equal(method.predict(ahead)["embedding"], method.predict(backwards)["embedding"].flip(0))
    torch.manual_seed(1)
    assert not torch.equal(
        RandomReId(data.spec).predict(ahead)["embedding"], method.predict(ahead)["embedding"]
    )


def test_mean_colour_by_hand_and_led_astray_by_cameras(cache: Path) -> None:
    data = Market1501(cache=cache, image_size=(64, 32))
    image = torch.zeros(1, 3, 8, 2)
    image[0, 1, 2:4] = 1  # the second stripe is green
    embedding = RandomReId(data.spec, kind="mean_colour").predict({"image": image, "id": ["x"]})["embedding"]
    assert embedding.tolist() == [[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]]
    found = scores("mean_colour", cache)
    assert found["ice"] > found["cce"]
