"""Joining bags into a batch, and the order in which a bag is served."""

from __future__ import annotations

import numpy as np
import torch

from datamodules.base import Visit
from datamodules.recognition.bags import concatenate_bags, visiting_order


def sample(size: int, label: int) -> dict[str, object]:
    return {
        "instances": torch.full((size, 1, 2, 2), float(label)),
        "instance_label": torch.arange(size),
        "label": label,
        "id": f"bag {label}",
    }


def test_bags_of_different_sizes_are_concatenated() -> None:
    batch = concatenate_bags([sample(2, 5), sample(1, 7), sample(3, 0)])
    assert batch["bag"].tolist() == [0, 0, 1, 2, 2, 2]
    assert batch["label"].tolist() == [5, 7, 0]
    assert batch["instances"][:, 0, 0, 0].tolist() == [5, 5, 7, 0, 0, 0]
    assert batch["instance_label"].tolist() == [0, 1, 0, 0, 1, 2]
    assert batch["id"] == ["bag 5", "bag 7", "bag 0"]


def test_order_depends_on_bag_epoch_and_chance_alone() -> None:
    first = visiting_order(20, Visit(4, 1), "x", 3, shuffle=True)
    assert sorted(first.tolist()) == list(range(20))
    assert np.array_equal(first, visiting_order(20, Visit(4, 1), "x", 3, shuffle=True))
    for index, chance in ((Visit(4, 2), 3), (Visit(5, 1), 3), (Visit(4, 1), 4)):
        assert not np.array_equal(first, visiting_order(20, index, "x", chance, shuffle=True))
    assert visiting_order(4, Visit(4, 1), shuffle=False).tolist() == [0, 1, 2, 3]
