"""NYUD v2 as a test of edge detectors from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.base import DataError
from datamodules.dense.nyud import NYUDv2Edges


@pytest.fixture(scope="module")
def data(cache: Path) -> NYUDv2Edges:
    data = NYUDv2Edges(cache=cache)
    data.prepare_data()
    return data


def test_ten_scenes_to_test_and_none_to_train(data: NYUDv2Edges) -> None:
    batches = list(data.test_dataloader())
    assert len(batches) == 10
    assert batches[0]["edges"].shape[:2] == (1, data.spec.annotators)
    for split in ("train", "val"):
        with pytest.raises(DataError, match=f"no {split} split"):
            data.split(split)  # type: ignore[arg-type]


def test_the_light_is_warm(data: NYUDv2Edges) -> None:
    colour = sum(batch["image"].mean((0, 2, 3)) for batch in data.test_dataloader()) / 10
    assert colour[0] > 1.1 * colour[1] > 1.1 * colour[2]


def test_two_tolerances(data: NYUDv2Edges, tmp_path: Path) -> None:
    wide = NYUDv2Edges(cache=data.cache, max_distance=0.011)
    assert wide.spec.max_distance / data.spec.max_distance == pytest.approx(0.011 / 0.0075)
    assert NYUDv2Edges(tmp_path, "real").spec.max_distance == 0.0075
    assert NYUDv2Edges(tmp_path, "real", max_distance=0.011).spec.max_distance == 0.011
    with pytest.raises(ValueError, match="max_distance"):
        NYUDv2Edges(cache=data.cache, max_distance=0.02)  # type: ignore[arg-type]


def test_it_takes_the_options_of_the_other_edge_datasets(data: NYUDv2Edges) -> None:
    limited = NYUDv2Edges(cache=data.cache, train_size=(48, 48), test_limit=2)
    assert len(limited.split("test")) == 2  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="test_limit"):
        NYUDv2Edges(cache=data.cache, test_limit=-1)
