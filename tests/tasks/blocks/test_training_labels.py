"""Labels from a listing, and by reading the samples where there is none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tasks.blocks.training_labels import training_labels


def data(samples: list[dict[str, object]], listing: list[object] | None = None) -> SimpleNamespace:
    split = SimpleNamespace() if listing is None else SimpleNamespace(listing=listing)
    batches = [{key: torch.tensor([sample[key]]) for key in sample} for sample in samples]
    return SimpleNamespace(name="made-up", split=lambda _: split, in_order=lambda _: batches)


def test_a_listing_is_asked_without_reading_pictures() -> None:
    listing = [SimpleNamespace(values={"label": 3}), SimpleNamespace(values={"label": 1})]
    assert training_labels(data([], listing)).tolist() == [3, 1]
    with pytest.raises(ValueError, match="made-up: training pictures have no 'kind'"):
        training_labels(data([], listing), "kind")


def test_else_the_samples_are_read() -> None:
    assert training_labels(data([{"label": 2}, {"label": 0}])).tolist() == [2, 0]
    with pytest.raises(ValueError, match="training samples have no 'label'"):
        training_labels(data([{"index": 2}]))
