"""Few-shot episodes: the sampler and the dataset that Omniglot, miniImageNet, tieredImageNet and FC100 share.

A sample is an episode of `ways` (M) classes, `shots` (K) supports and `queries` (N) queries a class. Classes,
and pictures within a class, are drawn without replacement, so a query is never one of its supports. What an
episode holds depends on the dataset, the split and the episode's number; in training also on seed and epoch.
So all methods and seeds are tested on the same episodes.

Sample
    support      float32 [M, K, C, H, W] in [0, 1]
    query        float32 [M * N, C, H, W], shuffled
    query_label  int64 [M * N] in 0..M-1: the position of the query's class in `support`
    outlier      bool [M, K]: the support is an outlier; only where the files say so (miniature)
    id           "<split>/<number>"
"""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, visit_generator
from datamodules.specs import EpisodesSpec

Pixels = NDArray[np.uint8]
JITTER = 0.4
"""Largest relative change of brightness, contrast and saturation in augmentation."""


@dataclass(frozen=True)
class ClassPictures:
    """Pictures of one split, by class.

    members: picture numbers of each class. picture: number -> uint8 [C, S, S]. outlier: bool by picture
    number, or None where nothing is known of outliers.
    """

    members: Sequence[NDArray[np.int64]]
    picture: Callable[[int], Pixels]
    outlier: NDArray[np.bool_] | None = None


class Episodes(MapDataset[dict[str, Any]]):
    """Episodes drawn from the pictures of a split; see the module's docstring.

    chance: seed words of `visit_generator`. augment: change the pictures at random.
    """

    def __init__(
        self,
        pictures: ClassPictures,
        *,
        count: int,
        ways: int,
        shots: int,
        queries: int,
        chance: tuple[str | int, ...],
        prefix: str,
        augment: bool = False,
    ) -> None:
        if len(pictures.members) < ways:
            raise DataError(
                f"{chance[0]}: {prefix} has {len(pictures.members)} classes, {ways} ways need more"
            )
        fewest = min(map(len, pictures.members))
        if fewest < shots + queries:
            raise DataError(
                f"{chance[0]}: a class of {prefix} has {fewest} pictures, but {shots} shots and {queries} "
                f"queries need {shots + queries}; lower data.shots or data.queries"
            )
        self.pictures = pictures
        self.count = count
        self.ways, self.shots, self.queries = ways, shots, queries
        self.chance = chance
        self.prefix = prefix
        self.augment = augment

    def __len__(self) -> int:
        return self.count

    def compose(self, index: int) -> tuple[NDArray[np.int64], np.random.Generator]:
        """Picture numbers [M, K + N] of an episode, supports first, and the generator to go on with."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        random = visit_generator(index, *self.chance)
        classes = random.permutation(len(self.pictures.members))[: self.ways]
        needed = self.shots + self.queries
        return np.stack([random.permutation(self.pictures.members[c])[:needed] for c in classes]), random

    def __getitem__(self, index: int) -> dict[str, Any]:
        numbers, random = self.compose(index)
        pixels = np.stack([self.pictures.picture(int(number)) for number in numbers.flat])
        if self.augment:
            pixels = augmented(pixels, random)
        images = torch.from_numpy(pixels).float().div_(255)
        images = images.reshape(self.ways, self.shots + self.queries, *images.shape[1:])
        order = torch.from_numpy(random.permutation(self.ways * self.queries))
        sample = {
            "support": images[:, : self.shots].clone(),
            "query": images[:, self.shots :].flatten(0, 1)[order],
            "query_label": torch.arange(self.ways).repeat_interleave(self.queries)[order],
            "id": f"{self.prefix}/{int(index):06d}",
        }
        if self.pictures.outlier is not None:
            sample["outlier"] = torch.from_numpy(self.pictures.outlier[numbers[:, : self.shots]])
        return sample


def augmented(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Random crop after padding by an eighth and, for colour pictures, mirroring and jitter of brightness,
    contrast and saturation (in that order): uint8 [n, C, S, S] -> the same. Written signs are not mirrored.
    """
    count, channels, side, _ = pixels.shape
    pad = max(1, side // 8)
    padded = np.pad(pixels, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="edge")
    top, left = random.integers(0, 2 * pad + 1, (2, count))
    rows = top[:, None] + np.arange(side)
    columns = left[:, None] + np.arange(side)
    if channels == 3:
        mirrored = random.random(count) < 0.5
        columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
    cropped = padded[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    cropped = cropped.transpose(0, 3, 1, 2)  # advanced indices put the channels last
    if channels != 3:
        return np.ascontiguousarray(cropped)
    brightness, contrast, saturation = random.uniform(1 - JITTER, 1 + JITTER, (3, count, 1, 1, 1))
    values = cropped * brightness
    grey = values.mean(axis=(1, 2, 3), keepdims=True)
    values = grey + (values - grey) * contrast
    grey = values.mean(axis=1, keepdims=True)
    values = grey + (values - grey) * saturation
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


class EpisodicDataset(Dataset):
    """A dataset whose samples are episodes.

    ways, shots, queries: classes an episode, supports a class, queries a class.
    episodes: of one epoch of training. val_episodes, test_episodes: fixed ones.
    image_size: side in pixels to which pictures are brought.
    augment: change training pictures at random.
    """

    tasks = ("few-shot-classification",)
    channels = 3
    problem = ("ways", "shots")

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        ways: int = 5,
        shots: int = 5,
        queries: int = 15,
        episodes: int = 1000,
        val_episodes: int = 600,
        test_episodes: int = 600,
        image_size: int = 64,
        augment: bool = False,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 2, **serving})
        counts = {
            "ways": ways,
            "shots": shots,
            "queries": queries,
            "episodes": episodes,
            "test_episodes": test_episodes,
            "image_size": image_size,
        }
        for option, value in counts.items():
            if value < 1 + (option == "ways"):
                raise ValueError(
                    f"{self.name}: {option} must be at least {1 + (option == 'ways')}, not {value}"
                )
        self.ways, self.shots, self.queries = ways, shots, queries
        self.counts = {"train": episodes, "val": val_episodes, "test": test_episodes}
        self.image_size = image_size
        self.augment = augment

    @abstractmethod
    def pictures(self, split: Split) -> ClassPictures:
        """The pictures of a split, `image_size` a side."""

    @property
    def spec(self) -> EpisodesSpec:
        return EpisodesSpec(
            dataset=self.name,
            channels=self.channels,
            ways=self.ways,
            shots=self.shots,
            queries=self.queries,
            image_size=(self.image_size, self.image_size),
        )

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        return Episodes(
            self.pictures(split),
            count=self.counts[split],
            ways=self.ways,
            shots=self.shots,
            queries=self.queries,
            chance=(self.name, split, self.seed) if split == "train" else (self.name, split),
            prefix=split,
            augment=self.augment and split == "train",
        )


def decoded(source: Any, name: Path | str, side: int, mode: str = "RGB") -> Pixels:
    """An encoded picture (path or file) as uint8 [C, side, side]; a `DataError` names what can't be read."""
    try:
        with Image.open(source) as image:
            picture = image.convert(mode)
    except FileNotFoundError:
        raise DataError(f"{name} is missing") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{name} cannot be decoded: {error}. Fetch the file again.") from error
    return resized(np.asarray(picture), side)


def resized(pixels: Pixels, side: int) -> Pixels:
    """uint8 [H, W] or [H, W, C] -> uint8 [C, side, side], antialiased."""
    if pixels.shape[:2] != (side, side):
        pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(planes)


def remembered(read: Callable[[int], Pixels]) -> Callable[[int], Pixels]:
    """Keep what has been read once in memory (uint8)."""
    seen: dict[int, Pixels] = {}

    def picture(number: int) -> Pixels:
        if number not in seen:
            seen[number] = read(number)
        return seen[number]

    return picture


def by_class(labels: Sequence[Any] | NDArray[Any]) -> list[NDArray[np.int64]]:
    """Positions of each label, labels in sorted order."""
    _, inverse = np.unique(np.asarray(labels), return_inverse=True)
    return [np.flatnonzero(inverse == label) for label in range(int(inverse.max()) + 1)]


def read_listing(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows of a CSV file with that header; a `DataError` names the file and the line."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    if not rows or rows[0] != list(columns):
        raise DataError(
            f"{path}: the header must be {','.join(columns)}, got {','.join(rows[0] if rows else [])}"
        )
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(columns) or not all(row):
            raise DataError(f"{path}, line {line}: expected {len(columns)} fields, got {row}")
    if len(rows) == 1:
        raise DataError(f"{path} lists no picture")
    return [tuple(row) for row in rows[1:]]
