"""Datasets of buildings with a gallery and queries that are cut out of their pictures; what their readers share.

A sample of validation and test keeps its picture's shape: the longer side becomes `image_size` pixels and is never
enlarged. A query is cut out first and scaled as its whole picture would be, as in the authors' evaluation code. A
training sample is squashed to a square, so that it can be batched. Resizing is by Lanczos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Variant, stack_samples

REAL_SIZES, MINIATURE_SIZES = (1024, 362), (80, 80)
"""Longer side in test and side of the squares in training: the authors' for the real pictures."""
GRADES = {"easy": 1, "hard": 2, "junk": 3}
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class LandmarkPicture:
    """One picture of a split. label: the landmark, or None. box: x1, y1, x2, y2 in pixels of the file, to cut out.
    relevance: of a query: (index in the split, grade) of what is known to be in the gallery."""

    id: str
    path: Path
    label: int | None = None
    is_query: bool = False
    box: Box | None = None
    relevance: tuple[tuple[int, int], ...] = ()


def read_picture(path: Path) -> Image.Image:
    """An RGB picture; a `DataError` where the file is missing or damaged."""
    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}); fetch this file again") from None


def fitted(picture: Image.Image, longest: int, box: Box | None) -> Image.Image:
    """Cut out `box` and scale by what brings the whole picture's longer side to `longest`, never above 1."""
    factor = min(1.0, longest / max(picture.size))
    if box is not None:
        picture = picture.crop(tuple(round(edge) for edge in box))
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


class LandmarkPictures(MapDataset[dict[str, Any]]):
    """The pictures of a split by their position in it.

    square: side of the squares that are served, or None for pictures in their own shape with `longest` pixels on the
    longer side. pairs: int64 [P, 2], indices of a query and of a right answer to it, for training.
    """

    def __init__(
        self,
        pictures: Sequence[LandmarkPicture],
        *,
        longest: int,
        square: int | None = None,
        pairs: NDArray[np.int64] | None = None,
    ) -> None:
        self.pictures, self.longest, self.square = pictures, longest, square
        self.pairs = np.zeros((0, 2), np.int64) if pairs is None else pairs

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """int64 [N], the landmark of each picture; None where they are not known."""
        labels = [picture.label for picture in self.pictures]
        return None if not labels or None in labels else np.asarray(labels, np.int64)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        listed = self.pictures[index]
        picture = read_picture(listed.path)
        if self.square is None:
            picture = fitted(picture, self.longest, listed.box)
        elif picture.size != (self.square, self.square):
            picture = picture.resize((self.square, self.square), Image.Resampling.LANCZOS)
        rows = [(int(index), answer, grade) for answer, grade in listed.relevance]
        sample = {
            "image": _tensor(picture),
            "index": int(index),
            "is_query": listed.is_query,
            "relevance": torch.tensor(rows, dtype=torch.long).view(-1, 3),
            "id": listed.id,
        }
        return sample if listed.label is None else {**sample, "label": listed.label}


def collate_landmarks(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """As `stack_samples`; the relevance of a batch is that of its samples in one list."""
    relevance = torch.cat([sample["relevance"] for sample in samples])
    rest = [{key: value for key, value in sample.items() if key != "relevance"} for sample in samples]
    return {**stack_samples(rest), "relevance": relevance}


class LandmarkDataset(Dataset):
    """Serves `landmark-retrieval`.

    image_size: longer side of the pictures of validation and test in pixels; None: 1024, of the miniature 80.
    train_size: side of the square training pictures; None: 362, of the miniature 80.
    test_batch_size is 1 unless all pictures have one shape.
    """

    tasks = ("landmark-retrieval",)

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        image_size: int | None = None,
        train_size: int | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **serving)
        usual = REAL_SIZES if variant == "real" else MINIATURE_SIZES
        self.image_size = usual[0] if image_size is None else image_size
        self.train_size = usual[1] if train_size is None else train_size
        if min(self.image_size, self.train_size) < 1:
            raise ValueError(f"{self.name}: image_size and train_size must be positive")

    @property
    def collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return collate_landmarks
