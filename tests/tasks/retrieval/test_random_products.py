"""Set retrieval without looking."""

from __future__ import annotations

import torch

from datamodules.specs import PictureSetsSpec
from tasks.retrieval.random_products import RandomProducts


def answer(seed: int, names: list[str]) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    method = RandomProducts(PictureSetsSpec(dataset="x", image_size=(8, 8)))
    return method.predict({"id": names, "set": torch.arange(len(names))})


def test_a_set_has_the_same_direction_whenever_it_is_asked_for() -> None:
    first, second = answer(0, ["a", "b"]), answer(0, ["b"])
    assert torch.equal(first["query"][1], second["query"][0])
    assert torch.equal(first["catalogue"][1], second["catalogue"][0])
    assert not torch.equal(first["query"], first["catalogue"])
    assert not torch.equal(first["query"], answer(1, ["a", "b"])["query"])


def test_recall_is_about_chance() -> None:
    names = [str(number) for number in range(400)]
    found = answer(0, names)
    distance = torch.cdist(found["query"], found["catalogue"])
    rank = (distance < distance.diagonal()[:, None]).sum(1)
    assert 0.06 < (rank < 40).float().mean().item() < 0.14
