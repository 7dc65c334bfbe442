"""CIFAR-100 with few training pictures, some of them wrongly labelled: what distillation is for.

The files of CIFAR-100, read as published; of the training pictures a fixed number of each class is kept, always the
same ones, and a fixed part of these has a wrong label, always the same one. The test pictures are untouched. A dataset
of its own, so that its results are never taken for CIFAR-100's.
Licence and citation: those of CIFAR-100 (`cifar.py`).

The miniature is that of CIFAR-100: 20 classes, of whose 3,000 training pictures 600 are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from datamodules.base import Serving, Split, Variant, random_generator
from datamodules.recognition.cifar import CIFAR100, Pictures


class CIFAR100Scarce(CIFAR100):
    """Samples are those of CIFAR-100.

    per_class: training pictures that are kept of each class (all, where there are fewer).
    label_noise: part of the kept pictures whose label is another class, each as likely. `coarse_label` goes with it.
    holdout: taken off before; `val` keeps its labels.
    """

    name = "cifar-100-scarce"
    title = "CIFAR-100 (Python version), of which a part is used"

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        per_class: int = 30,
        label_noise: float = 0.1,
        labels: Literal["fine", "coarse"] = "fine",
        holdout: int = 0,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, labels=labels, holdout=holdout, **serving)
        if per_class < 1 or not 0 <= label_noise <= 1:
            raise ValueError(
                f"{self.name}: per_class must be positive and label_noise in 0..1, got {per_class}, {label_noise}"
            )
        self.per_class = per_class
        self.label_noise = label_noise

    def read(self, split: Split) -> Pictures:
        whole = super().read(split)
        if split != "train":
            return whole
        label, coarse = whole.labels["label"], whole.labels["coarse_label"]
        kept = first_of_each(label, self.per_class, random_generator(self.name, "kept"))
        noisy = wrong_labels(
            label[kept], len(self.spec.classes), self.label_noise, random_generator(self.name, "noise")
        )
        coarse_of = np.zeros(len(self.spec.classes), np.int64)
        coarse_of[label] = coarse
        labels = {"label": noisy, "coarse_label": coarse_of[noisy]}
        return Pictures(whole.images[kept].numpy(), labels, whole.ids[kept], whole.prefix)

    @classmethod
    def render(cls, folder: Path) -> None:
        CIFAR100.render(folder)  # not `super()`: pictures depend on the name of the class that renders


def first_of_each(label: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Sorted indices into `label` of `count` random samples of each class, or of all where there are fewer."""
    shuffled = random.permutation(len(label))
    by_class = shuffled[np.argsort(label[shuffled], kind="stable")]
    _, start, size = np.unique(label[by_class], return_index=True, return_counts=True)
    place = np.arange(len(label)) - np.repeat(start, size)
    return np.sort(by_class[place < count])


def wrong_labels(
    label: NDArray[np.int64], classes: int, share: float, random: np.random.Generator
) -> NDArray[np.int64]:
    """A copy of `label` in which round(share · N) samples have one of the other classes, each as likely."""
    changed = random.permutation(len(label))[: round(share * len(label))]
    noisy = label.copy()
    noisy[changed] = (label[changed] + random.integers(1, classes, len(changed))) % classes
    return noisy
