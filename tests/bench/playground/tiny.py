"""A dataset of the test suite: forty 8 x 8 pictures of two classes, in one .npz file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as MapDataset

from datamodules.base import Dataset, Split, random_generator
from datamodules.specs import ImageClassesSpec


class _Pictures(MapDataset):
    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": torch.from_numpy(self.images[index]),
            "label": int(self.labels[index]),
            "id": str(index),
        }


class Tiny(Dataset):
    """Two classes, dark and bright, with noise."""

    name = "tiny"
    tasks = ("image-classification", "agreement")
    title = "Tiny"
    url = "none"
    licence = "none"
    required = ("tiny.npz",)

    @property
    def spec(self) -> ImageClassesSpec:
        return ImageClassesSpec(dataset="tiny", classes=("dark", "bright"), image_size=(8, 8))

    def read(self, split: Split) -> MapDataset:
        with np.load(self.root / "tiny.npz") as arrays:
            images, labels = arrays["images"], arrays["labels"]
        part = slice(0, 24) if split == "train" else slice(24, 40)
        return _Pictures(images[part], labels[part])

    @classmethod
    def render(cls, folder: Path) -> None:
        random = random_generator("tiny")
        labels = np.arange(40) % 2
        images = 0.3 + 0.2 * labels[:, None, None, None] + random.normal(0, 0.2, (40, 3, 8, 8))
        np.savez(folder / "tiny.npz", images=images.astype(np.float32), labels=labels)


class TinyBright(Tiny):
    """The same, all brighter: what is learnt on the other is tested here."""

    name = "tiny-bright"

    @classmethod
    def render(cls, folder: Path) -> None:
        super().render(folder)
        with np.load(folder / "tiny.npz") as arrays:
            images, labels = arrays["images"], arrays["labels"]
        np.savez(folder / "tiny.npz", images=images + 0.1, labels=labels)
