"""The labels of the training samples, for methods that draw their batches by them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def training_labels(data: Any, key: str = "label") -> NDArray[np.int64]:
    """int64 [N], the label of each training sample of a data module in the order of its split.

    A split that keeps a `listing` of what it serves (with `values` a picture) is asked for them; of any other, all
    samples are read once. key: the label's name in a sample. Raises ValueError where samples have none.
    """
    listing = getattr(data.split("train"), "listing", None)
    if listing is not None:
        values = [listed.values.get(key) for listed in listing]
        if None in values:
            raise ValueError(
                f"{data.name}: training pictures have no {key!r}; train on a dataset that has labels "
                "(`trained_on` in a suite names it)"
            )
        return np.asarray(values, np.int64)
    labels = []
    for batch in data.in_order("train"):
        if key not in batch:
            raise ValueError(
                f"{data.name}: training samples have no {key!r}; train on a dataset that has labels "
                "(`trained_on` in a suite names it)"
            )
        labels.append(batch[key].numpy())
    return np.concatenate(labels).astype(np.int64)
