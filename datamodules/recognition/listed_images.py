"""Datasets that are a list of picture files with a few numbers to each (a label, a group, a box).

A dataset of this kind says only where its list stands; decoding, sizes and messages are here. The published
recipe that all of them are used with resizes a picture to 256 x 256 and crops the central 224 x 224.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.specs import ImageClassesSpec

Subset = Literal["train", "test"]
REAL_SIZE, REAL_CROP = 256, 224
MINIATURE_SIZE = 64


@dataclass(frozen=True)
class Listed:
    """One picture of a list.

    id: unique in the dataset. path: the file. values: numbers of the sample beside the picture.
    box: x, y, width, height in pixels of the file, for datasets that have one.
    """

    id: str
    path: Path
    values: Mapping[str, int | bool] = field(default_factory=dict)
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Sizing:
    """How pictures of any size become pictures of one size.

    resize: (height, width) whatever the shape was, or one number for the shorter side, the shape kept.
    crop: side of the central square cut out of that; None: no crop.
    """

    resize: tuple[int, int] | int
    crop: int | None

    def __post_init__(self) -> None:
        shorter = self.resize if isinstance(self.resize, int) else min(self.resize)
        if shorter < 1 or (self.crop is not None and not 1 <= self.crop <= shorter):
            raise ValueError(
                f"cannot crop {self.crop} x {self.crop} out of pictures resized to {self.resize}"
            )
        if isinstance(self.resize, int) and self.crop is None:
            raise ValueError("keeping the shape gives pictures of many sizes: set crop_size as well")

    @property
    def served(self) -> tuple[int, int]:
        """(height, width) of what comes out."""
        if self.crop is not None:
            return self.crop, self.crop
        assert not isinstance(self.resize, int)
        return self.resize

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the resize."""
        if not isinstance(self.resize, int):
            return self.resize
        factor = self.resize / min(height, width)
        return max(self.resize, round(height * factor)), max(self.resize, round(width * factor))

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """(top, left) of the crop in a resized picture."""
        return (0, 0) if self.crop is None else ((height - self.crop) // 2, (width - self.crop) // 2)


def load_image(path: Path, sizing: Sizing) -> tuple[Tensor, tuple[int, int]]:
    """Decode, resize (bilinear, antialiased) and crop a picture.

    -> float32 [3, H, W], RGB in [0, 1], and the (height, width) of the file. Greyscale pictures get three
    equal channels. Raises `DataError` where the file is missing, truncated or no picture.
    """
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}); fetch this file again") from None
    original = picture.height, picture.width
    height, width = sizing.resized(*original)
    if (height, width) != original:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    top, left = sizing.corner(height, width)
    rows, columns = sizing.served
    pixels = np.asarray(picture)[top : top + rows, left : left + columns]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255, original


def served_box(box: tuple[float, float, float, float], original: tuple[int, int], sizing: Sizing) -> Tensor:
    """A box (x, y, width, height) of the file -> (x1, y1, x2, y2) [4] in the served picture, clipped."""
    height, width = sizing.resized(*original)
    top, left = sizing.corner(height, width)
    x, y, w, h = box
    across, down = width / original[1], height / original[0]
    corners = torch.tensor([x * across - left, y * down - top, (x + w) * across - left, (y + h) * down - top])
    rows, columns = sizing.served
    return corners.clamp(min=torch.zeros(4), max=torch.tensor([columns, rows, columns, rows]).float())


class ListedImages(MapDataset[dict[str, Any]]):
    """Samples of a list: `image` float32 [3, H, W], `id`, the values, and `box` [4] where there is one."""

    def __init__(self, listing: Sequence[Listed], sizing: Sizing) -> None:
        self.listing = listing
        self.sizing = sizing

    def __len__(self) -> int:
        return len(self.listing)

    def __getitem__(self, index: int) -> dict[str, Any]:
        listed = self.listing[index]
        image, original = load_image(listed.path, self.sizing)
        sample = {"image": image, **listed.values, "id": listed.id}
        if listed.box is not None:
            sample["box"] = served_box(listed.box, original, self.sizing)
        return sample


class ListedImagesDataset(Dataset):
    """A dataset whose splits are lists of picture files.

    root: several of these are published without a folder of their own (`jpg/`, `Images/`): where many datasets
        share a root, each may lie in a folder there by its name, `<root>/<name>/`.
    image_size: side of the square, or (height, width), that pictures are resized to. None: as is usual for
        the variant, 256 with the central 224 x 224 served, for the miniature 64.
    crop_size: side of the central square that is served; None: the whole resized picture (224 of the real
        pictures where `image_size` is None too).
    keep_shape: resize the shorter side to `image_size` and keep the picture's shape; needs a `crop_size`.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        image_size: int | tuple[int, int] | None = None,
        crop_size: int | None = None,
        keep_shape: bool = False,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 32, **serving})
        if image_size is None:
            image_size = MINIATURE_SIZE if variant == "miniature" else REAL_SIZE
            crop_size = REAL_CROP if variant == "real" and crop_size is None else crop_size
        if keep_shape and not isinstance(image_size, int):
            raise ValueError(
                f"{self.name}: keep_shape needs one image_size, the shorter side, not {image_size}"
            )
        if isinstance(image_size, int) and not keep_shape:
            image_size = (image_size, image_size)
        self.sizing = Sizing(image_size if isinstance(image_size, int) else tuple(image_size), crop_size)

    @abstractmethod
    def listing(self, split: Split) -> list[Listed]:
        """The pictures of a split in a fixed order."""

    def read(self, split: Split) -> ListedImages:
        listing = self.listing(split)
        if not listing and split != "val":
            raise DataError(
                f"{self.name}: no pictures for {split!r} under {self.root}\n{self.instructions()}"
            )
        return ListedImages(listing, self.sizing)


class LabelledImagesDataset(ListedImagesDataset):
    """Serves `image-classification`: `image`, `label` and `id`.

    image_size, crop_size, keep_shape: see `ListedImagesDataset`.
    holdout: training pictures, always the same ones, that are taken off and served as `val`. As published,
        these datasets train on all their training pictures: by default none is, and `val` is empty.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        image_size: int | tuple[int, int] | None = None,
        crop_size: int | None = None,
        keep_shape: bool = False,
        holdout: int = 0,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(
            root, variant, image_size=image_size, crop_size=crop_size, keep_shape=keep_shape, **serving
        )
        if holdout < 0:
            raise ValueError(f"{self.name}: holdout must not be negative, got {holdout}")
        self.holdout = holdout

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in label order, read from the files."""

    @abstractmethod
    def published(self, subset: Subset) -> list[Listed]:
        """All pictures of the training or of the test split."""

    @property
    def spec(self) -> ImageClassesSpec:
        self.prepare_data()
        return ImageClassesSpec(dataset=self.name, classes=self.classes, image_size=self.sizing.served)

    def listing(self, split: Split) -> list[Listed]:
        if split == "test":
            return self.published("test")
        training = self.published("train")
        if self.holdout >= len(training):
            raise ValueError(
                f"{self.name}: cannot hold out {self.holdout} of {len(training)} training pictures"
            )
        held = set(self.holdout_order(training)[: self.holdout])
        return [listed for listed in training if (listed.id in held) == (split == "val")]

    def holdout_order(self, training: Sequence[Listed]) -> list[str]:
        """The ids of the training pictures in the order in which they are held out; default: shuffled."""
        order = random_generator(self.name, "holdout").permutation(len(training))
        return [training[i].id for i in order]


def read_lines(path: Path) -> list[str]:
    """The non-empty lines of a text file; a `DataError` where it is missing or no text."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); fetch this file again") from None


def folders(path: Path) -> list[Path]:
    """The class folders under a folder, sorted without regard to case."""
    return sorted((entry for entry in path.iterdir() if entry.is_dir()), key=lambda entry: entry.name.lower())
