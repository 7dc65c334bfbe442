"""Datasets of single objects seen in a few known poses, of which training may lack some for some classes.

Serves two tasks. `image-classification`: every picture once, with its label. `pose-transformation`: in training
single pictures and their poses; in the test each picture is the source of one pair and the target of another:
within a scene (one object before one background, under one light) the poses are shifted cyclically by a step that
is drawn once for the scene, so that a pair never has the same pose twice. A scene that lost all but one picture
has no pair (`paired` is false).

Samples
    image float32 [3, H, W] in [0, 1], label int, pose float32 [2] (yaw, pitch, from 1), pose_class int, scene int,
    id str; in validation and test also target_image float32 [3, H, W], target_pose float32 [2], target_class int,
    paired bool, and with the miniature's exact masks mask bool [H, W], the foreground of the target.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.recognition.listed_images import Sizing, load_image
from datamodules.specs import PosesSpec

REAL_SIZE, MINIATURE_SIZE = 256, 16
REAL_TEST_SHARE, MINIATURE_TEST_SHARE = 0.1, 1 / 3
CACHED_PICTURES = 4096


@dataclass(frozen=True)
class Posed:
    """One picture: its file, class, pose (yaw, pitch) from 1, the instance and the scene it is of, a mask's file."""

    id: str
    path: Path
    kind: str
    pose: tuple[int, int]
    instance: str
    scene: str
    mask: Path | None = None


def pose_number(pose: tuple[int, int], yaws: int) -> int:
    """The number of a pose, see `PosesSpec`.

    >>> pose_number((2, 3), yaws=6)
    13
    """
    return (pose[1] - 1) * yaws + pose[0] - 1


def targets(pictures: Sequence[Posed], chance: str) -> list[int]:
    """For each picture the index of its target: the poses of its scene shifted cyclically, itself where it is alone."""
    scenes: dict[str, list[int]] = defaultdict(list)
    for index, picture in enumerate(pictures):
        scenes[picture.scene].append(index)
    target = list(range(len(pictures)))
    for scene, members in scenes.items():
        if len(members) > 1:
            step = int(random_generator(chance, "target", scene).integers(1, len(members)))
            members = sorted(members, key=lambda index: pictures[index].pose[::-1])
            for place, index in enumerate(members):
                target[index] = members[(place + step) % len(members)]
    return target


class PosedImages(MapDataset[dict[str, Any]]):
    """See the module's docstring. paired: whether targets are served; keep: decoded pictures stay in memory."""

    def __init__(
        self,
        pictures: Sequence[Posed],
        sizing: Sizing,
        classes: Sequence[str],
        yaws: int,
        *,
        paired: bool,
        chance: str,
        keep: bool,
    ) -> None:
        self.pictures, self.sizing, self.yaws = pictures, sizing, yaws
        self.labels = {name: label for label, name in enumerate(classes)}
        self.scenes = {scene: number for number, scene in enumerate(sorted({p.scene for p in pictures}))}
        self.target = targets(pictures, chance) if paired else None
        self._image = lru_cache(CACHED_PICTURES if keep else 0)(self._load)

    def __len__(self) -> int:
        return len(self.pictures)

    def _load(self, index: int) -> Tensor:
        return load_image(self.pictures[index].path, self.sizing)[0]

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        picture = self.pictures[index]
        sample = {
            "image": self._image(index).clone(),
            "label": self.labels[picture.kind],
            "pose": torch.tensor(picture.pose, dtype=torch.float32),
            "pose_class": pose_number(picture.pose, self.yaws),
            "scene": self.scenes[picture.scene],
            "id": picture.id,
        }
        if self.target is not None:
            other = self.pictures[self.target[index]]
            sample |= {
                "target_image": self._image(self.target[index]).clone(),
                "target_pose": torch.tensor(other.pose, dtype=torch.float32),
                "target_class": pose_number(other.pose, self.yaws),
                "paired": self.target[index] != index,
            }
            if other.mask is not None:
                sample["mask"] = load_mask(other.mask, self.sizing.served)
        return sample


def load_mask(path: Path, size: tuple[int, int]) -> Tensor:
    """A greyscale picture as bool [H, W] of a size: true where more than half of what falls on a pixel is white."""
    try:
        with Image.open(path) as file:
            grey = file.convert("L").resize(size[::-1], Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as a mask ({error}); fetch this file again") from None
    return torch.from_numpy(np.asarray(grey) >= 128)


class PosedImagesDataset(Dataset):
    """What both datasets share.

    image_size: side of the square that pictures are resized to; None: 256, of the miniature (64 x 64) 16.
    test_share: share of each class's instances, at least one and never all, whose pictures are the test split;
        drawn once. None: a tenth, of the miniature a third.
    """

    yaws = 6

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        image_size: int | None = None,
        test_share: float | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 32, **serving})
        size = image_size or (MINIATURE_SIZE if variant == "miniature" else REAL_SIZE)
        self.sizing = Sizing((size, size), None)
        default = MINIATURE_TEST_SHARE if variant == "miniature" else REAL_TEST_SHARE
        self.test_share = default if test_share is None else test_share
        if not 0 < self.test_share < 1:
            raise ValueError(f"{self.name}: test_share must be between 0 and 1, got {test_share}")

    @property
    def drawn_as(self) -> str:
        """Name from which split and pairs are drawn: datasets that share it share them."""
        return self.name

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""

    @property
    @abstractmethod
    def pitches(self) -> int:
        """Number of pitch levels served."""

    @abstractmethod
    def pictures(self) -> list[Posed]:
        """All pictures of the classes and poses that are served, of both splits, in a fixed order."""

    @abstractmethod
    def seen(self) -> Mapping[str, Sequence[int]]:
        """The numbers of the poses that training has of each class."""

    @property
    def spec(self) -> PosesSpec:
        self.prepare_data()
        seen = self.seen()
        return PosesSpec(
            dataset=self.name,
            classes=self.classes,
            image_size=self.sizing.served,
            yaws=self.yaws,
            pitches=self.pitches,
            seen=tuple(tuple(sorted(seen[kind])) for kind in self.classes),
        )

    def listing(self, split: Split) -> list[Posed]:
        """The pictures of a split, scene by scene; there is no validation split."""
        if split == "val":
            return []
        pictures = sorted(
            self.pictures(), key=lambda picture: (picture.scene, picture.pose[::-1], picture.id)
        )
        instances: dict[str, set[str]] = {kind: set() for kind in self.classes}
        for picture in pictures:
            instances[picture.kind].add(picture.instance)
        held: set[tuple[str, str]] = set()
        for kind, members in instances.items():
            if len(members) < 2:
                raise DataError(
                    f"{self.name}: {len(members)} instance(s) of {kind!r} under {self.root}; training and test "
                    f"need one each\n{self.instructions()}"
                )
            order = random_generator(self.drawn_as, "test instances", kind).permutation(len(members))
            count = min(max(1, round(self.test_share * len(members))), len(members) - 1)
            held |= {(kind, sorted(members)[index]) for index in order[:count]}
        seen = self.seen()
        return [
            picture
            for picture in pictures
            if ((picture.kind, picture.instance) in held) == (split == "test")
            and (split == "test" or pose_number(picture.pose, self.yaws) in seen[picture.kind])
        ]

    def read(self, split: Split) -> PosedImages:
        return PosedImages(
            self.listing(split),
            self.sizing,
            self.classes,
            self.yaws,
            paired=split != "train",
            chance=self.drawn_as,
            keep=self.variant == "miniature",
        )
