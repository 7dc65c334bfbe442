"""LookBook: fashion products, each with one catalogue picture and pictures of people who wear it.

Format
    JPEG files `PID<6 digits>_CLEAN<d>_IID<6 digits>.jpg` in one folder, anywhere under the root: product, kind
    (1: catalogue, 0: worn) and number of the picture.
A sample
    The worn pictures of a product, and its catalogue picture. Products with fewer than five worn pictures, or without
    a catalogue picture, are left out: 6,616 remain of the real ones, with 5 to 55 worn pictures.
Splits
    By product, in the paper's proportions 4,000 : 616 : 2,000 for training, validation and test; which ones is not
    published, and chosen here at random, always the same ones.
`lookbook-occluded`
    The same with 12 of the 16 cells of a 4 x 4 grid black in each worn picture, other cells at each visit in training;
    the catalogue is untouched.
Licence
    Not stated; research use.
Citation
    Yoo, Kim, Park, Paek and Kweon: Pixel-level domain transfer. ECCV 2016. As sets: Wang, Oramas and Tuytelaars, ACCV
    2020.
Miniature
    120 products (`datamodules/miniature/garments.py`) of 48 x 48 with 5 to 8 worn pictures each, and some products with
    too few.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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
    random_generator,
    visit_generator,
)
from datamodules.miniature.garments import SIZE, draw_garments, laid_flat, worn
from datamodules.specs import PictureSetsSpec

NAME = re.compile(r"PID(\d+)_CLEAN([01])_IID(\d+)\.jpg")
SHARES: dict[Split, int] = {"train": 4000, "val": 616, "test": 2000}
REAL_SIZE = 224
GRID, HIDDEN = 4, 12
MINIATURE_PRODUCTS, MINIATURE_POOR = 120, 6


@dataclass(frozen=True)
class Product:
    """A product's number, its catalogue picture and the worn ones."""

    number: int
    catalogue: Path
    worn: tuple[Path, ...]


def products_in(root: Path, least: int) -> list[Product]:
    """The products under a folder with a catalogue picture and at least so many worn ones, by number.

    A `DataError` names files that contradict each other, or says that there are too few.
    """
    catalogue: dict[int, Path] = {}
    pictures: dict[int, list[Path]] = {}
    for path in sorted(root.rglob("PID*.jpg"), key=lambda path: path.name):
        match = NAME.fullmatch(path.name)
        if match is None:
            raise DataError(f"{path}: files are named PID<digits>_CLEAN<0 or 1>_IID<digits>.jpg")
        number = int(match[1])
        if match[2] == "0":
            pictures.setdefault(number, []).append(path)
        elif number in catalogue:
            raise DataError(
                f"{path}: product {number} has another catalogue picture, {catalogue[number].name}"
            )
        else:
            catalogue[number] = path
    found = [
        Product(number, catalogue[number], tuple(paths))
        for number, paths in sorted(pictures.items())
        if len(paths) >= least and number in catalogue
    ]
    if len(found) < 3:
        raise DataError(f"{root}: {len(found)} products have {least} worn pictures and a catalogue picture")
    return found


def hide_cells(picture: Tensor, random: np.random.Generator) -> Tensor:
    """[3, H, W] with HIDDEN of GRID x GRID cells black; the first cells are larger where sides don't divide."""
    shown = np.ones(GRID * GRID, bool)
    shown[random.choice(GRID * GRID, HIDDEN, replace=False)] = False
    rows, columns = (torch.arange(side) * GRID // side for side in picture.shape[1:])
    return picture * torch.from_numpy(shown.reshape(GRID, GRID))[rows[:, None], columns]


class ProductSets(MapDataset[dict[str, Any]]):
    """Samples of `set-retrieval`.

    pictures: most worn pictures of a training sample, drawn anew at each visit; 0: all. keep: decode each file once.
    """

    def __init__(
        self,
        products: Sequence[Product],
        *,
        size: int,
        training: bool,
        pictures: int,
        shuffle: bool,
        occluded: bool,
        chance: Sequence[int | str],
        keep: bool,
    ) -> None:
        self.products = list(products)
        self.size, self.training, self.pictures = size, training, pictures
        self.shuffle, self.occluded = shuffle, occluded
        self.chance = tuple(chance)
        self.kept: dict[Path, Tensor] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.products)

    def __getitem__(self, index: int) -> dict[str, Any]:
        product = self.products[index]
        chosen = np.arange(len(product.worn))
        if self.training:
            order = visit_generator(index, "order", *self.chance).permutation(len(chosen))
            chosen = order[: self.pictures or None]
            chosen = chosen if self.shuffle else np.sort(chosen)
        pictures = [self._picture(product.worn[number]) for number in chosen.tolist()]
        if self.occluded:
            random = visit_generator(index if self.training else int(index), "cells", *self.chance)
            pictures = [hide_cells(picture, random) for picture in pictures]
        return {
            "image": torch.stack(pictures),
            "catalogue": self._picture(product.catalogue),
            "label": product.number,
            "id": f"PID{product.number:06d}",
        }

    def _picture(self, path: Path) -> Tensor:
        if self.kept is None:
            return decoded(path, self.size)
        if path not in self.kept:
            self.kept[path] = decoded(path, self.size)
        return self.kept[path]


def decoded(path: Path, size: int) -> Tensor:
    """A picture file as float32 [3, size, size] in [0, 1]; a `DataError` names a broken one."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}); fetch this file again") from None
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def concatenate_sets(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples to a batch: the pictures of all sets one after another, and which set each belongs to."""
    sizes = torch.tensor([len(sample["image"]) for sample in samples])
    return {
        "image": torch.cat([sample["image"] for sample in samples]),
        "set": torch.arange(len(samples)).repeat_interleave(sizes),
        "catalogue": torch.stack([sample["catalogue"] for sample in samples]),
        "label": torch.tensor([sample["label"] for sample in samples]),
        "id": [sample["id"] for sample in samples],
    }


class LookBook(Dataset):
    """See the module's docstring; serves `set-retrieval`.

    size: side of the square that is served; None: 224, and 48 for the miniature. least: worn pictures that a product
    must have. train_pictures: most worn pictures of a training sample, drawn anew at each visit; 0: all. shuffle: draw
    their order anew as well.
    """

    name = "lookbook"
    tasks = ("set-retrieval",)
    title = "LookBook"
    url = "https://dgyoo.github.io (Pixel-level domain transfer)"
    licence = "not stated; research use"
    required = ("**/PID*_CLEAN1_IID*.jpg", "**/PID*_CLEAN0_IID*.jpg")
    occluded: ClassVar[bool] = False

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        size: int | None = None,
        least: int = 5,
        train_pictures: int = 0,
        shuffle: bool = True,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 8, **serving})
        self.size = size or (SIZE if variant == "miniature" else REAL_SIZE)
        if least < 1 or train_pictures < 0:
            raise ValueError(
                f"{self.name}: least {least} must be positive, train_pictures {train_pictures} not negative"
            )
        self.least, self.train_pictures, self.shuffle = least, train_pictures, shuffle

    def _home(self, root: Path) -> Path:
        return next((root / name for name in ("lookbook", "LookBook") if (root / name).is_dir()), root)

    @property
    def miniature_folder(self) -> Path:
        return self.cache / f"{LookBook.name}-v{self.version}"

    @property
    def spec(self) -> PictureSetsSpec:
        return PictureSetsSpec(dataset=self.name, image_size=(self.size, self.size))

    @property
    def collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return concatenate_sets

    def read(self, split: Split) -> ProductSets:
        self.prepare_data()
        found = products_in(self.root, self.least)
        order = random_generator("lookbook", "split").permutation(len(found))
        total = sum(SHARES.values())
        test, val = (max(1, round(len(found) * SHARES[part] / total)) for part in ("test", "val"))
        chosen = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}[split]
        return ProductSets(
            [found[number] for number in sorted(chosen.tolist())],
            size=self.size,
            training=split == "train",
            pictures=self.train_pictures,
            shuffle=self.shuffle,
            occluded=self.occluded,
            chance=("lookbook", split, self.seed if split == "train" else 0),
            keep=self.variant == "miniature",
        )

    @classmethod
    def render(cls, folder: Path) -> None:
        out = folder / "data"
        out.mkdir()
        garments = draw_garments(
            MINIATURE_PRODUCTS + MINIATURE_POOR, random_generator("lookbook", "garments")
        )
        picture = 0
        for number, garment in enumerate(garments):
            random = random_generator("lookbook", number)
            views = int(random.integers(5, 9)) if number < MINIATURE_PRODUCTS else 3
            for kind, pixels in [
                (1, laid_flat(garment, random)),
                *((0, worn(garment, random)) for _ in range(views)),
            ]:
                name = f"PID{number:06d}_CLEAN{kind}_IID{picture:06d}.jpg"
                Image.fromarray(pixels).save(out / name, quality=95, subsampling=0)
                picture += 1


class LookBookOccluded(LookBook):
    """LookBook with twelve of sixteen cells of each worn picture black."""

    name = "lookbook-occluded"
    occluded = True
