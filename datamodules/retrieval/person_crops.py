"""Crops of persons in folders, as Market-1501 and DukeMTMC-reID are published; what their readers share.

Format: `bounding_box_train`, `bounding_box_test` and `query`, JPEG crops whose names begin with the person's
number and the camera's: `0002_c1s1_000451_03.jpg` (sequence, frame and box follow) and `0001_c2_f0046182.jpg`.
Person 0000 is a distractor (someone who is never asked for, or a bad detection): a wrong answer like any other.
Person -1 is junk: it counts neither as right nor as wrong.
Splits: train; test is the queries and then the gallery, each in the order of the file names. There is no
published validation split: `holdout` training persons, always the same ones, are taken off the training set and
served as `val`, their first picture under each camera as a query; by default none, and `val` is empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as MapDataset

from datamodules.base import (
    DataError,
    Dataset,
    Serving,
    Split,
    Variant,
    Visit,
    random_generator,
    visit_generator,
)
from datamodules.miniature.pedestrians import Style, draw_cameras, draw_crops, draw_grounds, draw_persons
from datamodules.specs import PersonsSpec

NAME = re.compile(r"(-1|\d+)_c(\d+)")
TRAIN, GALLERY, QUERY = "bounding_box_train", "bounding_box_test", "query"
IN_MEMORY = 2**26
"""Bytes of decoded crops up to which a split is kept in memory."""

# The miniature: persons, cameras, pictures of a person under a camera, distractors and junk.
SIZE = (128, 64)
TRAIN_PERSONS, TEST_PERSONS, CAMERAS, PICTURES = 40, 20, 4, 5
DISTRACTORS, JUNK = 40, 16


@dataclass(frozen=True)
class Crop:
    """One file. person: its number in the file name; camera: from 0; label: what is served for the person."""

    path: Path
    person: int
    camera: int
    label: int
    is_query: bool = False


def read_crop(path: Path, size: tuple[int, int]) -> Tensor:
    """The picture, RGB, resized to (height, width): uint8 [3, H, W]. Raises `DataError` where it is damaged."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a picture: {error}. Fetch the file again.") from error
    if picture.size != (size[1], size[0]):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


class Crops(MapDataset[dict[str, Any]]):
    """Crops by file. flip: mirror half of those that are asked for in training, by a draw from the seed given."""

    def __init__(self, crops: list[Crop], size: tuple[int, int], flip: tuple[int | str, ...] | None) -> None:
        self.crops, self.size, self.flip = crops, size, flip
        self.kept: dict[int, Tensor] | None = {} if 3 * size[0] * size[1] * len(crops) <= IN_MEMORY else None

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Any]:
        crop = self.crops[index]
        image = self._picture(int(index)).float() / 255.0
        # Only in training: a pass in order, as for clustering, sees the crops as they are.
        if (
            self.flip is not None
            and isinstance(index, Visit)
            and visit_generator(index, *self.flip).random() < 0.5
        ):
            image = image.flip(-1)
        return {
            "image": image,
            "label": crop.label,
            "camera": crop.camera,
            "is_query": crop.is_query,
            "id": f"{crop.path.parent.name}/{crop.path.stem}",
        }

    def _picture(self, index: int) -> Tensor:
        if self.kept is None:
            return read_crop(self.crops[index].path, self.size)
        if index not in self.kept:
            self.kept[index] = read_crop(self.crops[index].path, self.size)
        return self.kept[index]


class PersonCrops(Dataset):
    """See the module's docstring.

    image_size: (height, width) that crops are resized to; the papers' 256 x 128 by default. flip: mirror half of
    the crops in training. holdout: training persons that are served as `val` instead.
    """

    tasks = ("person-reid",)
    required = (f"{TRAIN}/*.jpg", f"{GALLERY}/*.jpg", f"{QUERY}/*.jpg")
    published_folder: ClassVar[str]
    """The folder's name in the published archive."""
    style: ClassVar[Style]
    """Of the miniature."""

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        image_size: tuple[int, int] = (256, 128),
        flip: bool = True,
        holdout: int = 0,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 64, **serving})
        if len(image_size) != 2 or min(image_size) < 1:
            raise ValueError(f"{self.name}: image_size must be (height, width), got {image_size}")
        if holdout < 0:
            raise ValueError(f"{self.name}: holdout must not be negative, got {holdout}")
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.flip, self.holdout = flip, holdout
        self._files_of: dict[str, list[Crop]] = {}

    def _home(self, root: Path) -> Path:
        return (
            root / self.published_folder if (root / self.published_folder).is_dir() else super()._home(root)
        )

    @property
    def spec(self) -> PersonsSpec:
        self.prepare_data()
        training, _ = self._training_persons()
        cameras = 1 + max(crop.camera for folder in (TRAIN, GALLERY, QUERY) for crop in self._listed(folder))
        return PersonsSpec(
            dataset=self.name, identities=len(training), cameras=cameras, image_size=self.image_size
        )

    def read(self, split: Split) -> Crops:
        if split == "test":
            queries = [Crop(c.path, c.person, c.camera, c.person, True) for c in self._listed(QUERY)]
            return Crops([*queries, *self._listed(GALLERY)], self.image_size, None)
        training, held = self._training_persons()
        if split == "val":
            return Crops(self._held_out(held), self.image_size, None)
        labels = {person: label for label, person in enumerate(training)}
        crops = [
            Crop(c.path, c.person, c.camera, labels[c.person])
            for c in self._listed(TRAIN)
            if c.person in labels
        ]
        return Crops(crops, self.image_size, (self.name, "flip", self.seed) if self.flip else None)

    def _listed(self, folder: str) -> list[Crop]:
        """The files of a folder in the order of their names; label: the person's number."""
        if folder not in self._files_of:
            self._files_of[folder] = [
                _parse(path, allow_others=folder == GALLERY)
                for path in sorted((self.root / folder).glob("*.jpg"))
            ]
        return self._files_of[folder]

    def _training_persons(self) -> tuple[list[int], list[int]]:
        """The persons of training and those held out, each in ascending order."""
        persons = sorted({crop.person for crop in self._listed(TRAIN)})
        if self.holdout >= len(persons):
            raise ValueError(
                f"{self.name}: cannot hold out {self.holdout} of {len(persons)} training persons"
            )
        shuffled = random_generator(self.name, "holdout").permutation(persons).tolist()
        return sorted(shuffled[self.holdout :]), sorted(shuffled[: self.holdout])

    def _held_out(self, persons: list[int]) -> list[Crop]:
        """Queries, then the gallery."""
        queries, gallery, seen = [], [], set()
        for crop in self._listed(TRAIN):
            if crop.person not in persons:
                continue
            first = (crop.person, crop.camera) not in seen
            seen.add((crop.person, crop.camera))
            (queries if first else gallery).append(
                Crop(crop.path, crop.person, crop.camera, crop.person, first)
            )
        return [*queries, *gallery]

    @classmethod
    def file_name(cls, person: int, camera: int, frame: int) -> str:
        """The published name of a crop; camera from 1."""
        raise NotImplementedError

    @classmethod
    def render(cls, folder: Path) -> None:
        """40 persons for training, 20 for test, each under three or four of 4 cameras with 3 to 5 crops a camera;
        one crop under each camera is a query. The gallery holds 40 distractors (strangers and empty scenes) and
        16 junk crops (shifted ones of the test persons) besides."""
        random = random_generator(cls.name, "persons")
        total = TRAIN_PERSONS + TEST_PERSONS + DISTRACTORS
        persons = draw_persons(total, cls.style, random)
        cameras = draw_cameras(CAMERAS, cls.style, SIZE, random_generator(cls.name, "cameras"))
        shown = random.random((total, CAMERAS, PICTURES)) < 0.9
        shown[:, :, :3] = True  # a query and two others at least
        absent = random.integers(2 * CAMERAS, size=total)  # half of the persons miss one camera
        shown[np.arange(total)[absent < CAMERAS], absent[absent < CAMERAS]] = False
        person, camera, turn = (
            axis.astype(np.int64) for axis in np.nonzero(shown[: TRAIN_PERSONS + TEST_PERSONS])
        )
        crops = draw_crops(persons, cameras, person, camera, SIZE, random).pictures

        for name in (TRAIN, GALLERY, QUERY):
            (folder / name).mkdir()
        numbers = 2 + 3 * np.arange(TRAIN_PERSONS + TEST_PERSONS)  # as published, numbers have gaps
        for i, (p, c, t) in enumerate(zip(person.tolist(), camera.tolist(), turn.tolist(), strict=True)):
            part = TRAIN if p < TRAIN_PERSONS else QUERY if t == 0 else GALLERY
            _write(folder / part / cls.file_name(int(numbers[p]), c + 1, 100 + i), crops[i])

        strangers = TRAIN_PERSONS + TEST_PERSONS + np.arange(DISTRACTORS // 2)
        where = np.arange(DISTRACTORS) % CAMERAS
        others = draw_crops(persons, cameras, strangers, where[: len(strangers)], SIZE, random).pictures
        empty = draw_grounds(cameras, where[len(strangers) :], SIZE, random)
        for i, picture in enumerate([*others, *empty]):
            _write(folder / GALLERY / cls.file_name(0, int(where[i]) + 1, 5000 + i), picture)
        test = np.nonzero(person >= TRAIN_PERSONS)[0]
        for i, source in enumerate(random.choice(test, JUNK, replace=False).tolist()):
            shifted = np.roll(crops[source], SIZE[0] // 2, axis=0)
            _write(folder / GALLERY / cls.file_name(-1, int(camera[source]) + 1, 7000 + i), shifted)


def _parse(path: Path, allow_others: bool) -> Crop:
    """Person and camera by the file's name; allow_others: whether distractors and junk may lie here."""
    match = NAME.match(path.name)
    if match is None or int(match[2]) < 1:
        raise DataError(
            f"{path}: the name must begin with person and camera, such as 0002_c1s1_000451_03.jpg or "
            "0001_c2_f0046182.jpg; remove the file or give it its published name"
        )
    person, camera = int(match[1]), int(match[2]) - 1
    if person <= 0 and not allow_others:
        raise DataError(
            f"{path}: person {match[1]} is a distractor or junk, which belongs in {GALLERY}, not {path.parent.name}"
        )
    return Crop(path, person, camera, person)


def _write(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(path, quality=92)
