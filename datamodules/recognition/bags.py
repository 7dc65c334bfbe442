"""Bags of pictures: how samples of `multiple-instance` are made and joined into a batch.

A bag's order is drawn anew each time that it is visited in training, and stays as it is in validation and test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.base import visit_generator


def concatenate_bags(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples to a batch: the pictures of all bags one after another, and which bag each belongs to.

    A sample: `instances` [m, C, H, W], `instance_label` [m], `label`, `id`.
    """
    sizes = torch.tensor([len(sample["instances"]) for sample in samples])
    return {
        "instances": torch.cat([sample["instances"] for sample in samples]),
        "bag": torch.arange(len(samples)).repeat_interleave(sizes),
        "instance_label": torch.cat([sample["instance_label"] for sample in samples]),
        "label": torch.tensor([sample["label"] for sample in samples]),
        "id": [sample["id"] for sample in samples],
    }


def visiting_order(size: int, index: int, *chance: int | str, shuffle: bool) -> NDArray[np.int64]:
    """The order in which a bag of so many pictures is served this time, [size]."""
    if not shuffle:
        return np.arange(size)
    return visit_generator(index, "order of instances", *chance).permutation(size)
