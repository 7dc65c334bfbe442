"""Relation Net: both backbones, its sizes, and what a class feature is."""

from __future__ import annotations

import pytest
import torch

from datamodules.specs import EpisodesSpec
from tasks.recognition.relation_net import RelationNet

SPEC = EpisodesSpec(dataset="made", ways=5, shots=2, queries=2, image_size=(16, 16))


def episode(spec: EpisodesSpec) -> dict:
    return {
        "support": torch.rand(2, spec.ways, spec.shots, 3, *spec.image_size),
        "query": torch.rand(2, spec.ways * spec.queries, 3, *spec.image_size),
        "query_label": torch.arange(spec.ways).repeat(spec.queries).expand(2, -1),
        "id": ["a", "b"],
    }


@pytest.mark.parametrize("preset", [None, "caps"])
def test_trains_and_answers(preset: str | None) -> None:
    torch.manual_seed(0)
    method = RelationNet(SPEC, **RelationNet.profile("smoke", preset))
    batch = episode(SPEC)
    loss = method.training_step(batch, 0)
    loss.backward()
    assert 0 < loss.item() < 2
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters())
    logits = method.eval().predict(batch)["logits"]
    assert logits.shape == (2, 10, 5)
    scores = method(batch).sigmoid()
    torch.testing.assert_close(logits.exp(), scores / scores.sum(2, keepdim=True), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("preset", [None, "caps"])
def test_each_pair_is_compared_apart(preset: str | None) -> None:
    """The score of a query and a class, from the pair alone, is the one in the table of all pairs."""
    torch.manual_seed(0)
    method = RelationNet(SPEC, **RelationNet.profile("smoke", preset)).eval()
    batch = episode(SPEC)
    table = method(batch)
    pair = {"support": batch["support"][1:, 3:4], "query": batch["query"][1:, 7:8]}
    torch.testing.assert_close(method(pair)[0, 0, 0], table[1, 7, 3], atol=1e-5, rtol=1e-4)


def test_sizes_of_the_published_network() -> None:
    """84×84 pictures as published: 64 maps of 21×21 here, pooled to 5×5 by the relation module."""
    spec = EpisodesSpec(dataset="made", ways=5, shots=1, queries=15, image_size=(84, 84))
    with torch.device("meta"):
        method = RelationNet(spec)
    blocks = (9 * 128 * 64 + 64) + (9 * 64 * 64 + 64) + 4 * 64
    linear = 64 * 5 * 5 * 8 + 8 + 8 + 1
    assert sum(p.numel() for p in method.relation.parameters()) == blocks + linear


def test_too_many_negatives_are_refused() -> None:
    with pytest.raises(ValueError, match="negatives"):
        RelationNet(SPEC, backbone="deepcaps", negatives=5)
