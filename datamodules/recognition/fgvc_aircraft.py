"""FGVC-Aircraft 2013b: 10,000 pictures of 100 aircraft variants.

Format, under fgvc-aircraft-2013b/
    data/images/<number>.jpg with a copyright banner in the last 20 rows, data/variants.txt (one name a line),
    data/images_variant_{train,val,trainval,test}.txt (`<number> <variant>`), data/images_box.txt (`<number> x1 y1 x2
    y2`, pixels from 1; may be absent).
Samples
    `image` without the banner, `label`, `id`, and `box` float32 [4] where the boxes are there: x1, y1, x2, y2 in
    pixels of the served picture.
Splits
    trainval (6,667) is trained on and test (3,333) is test, as the field reports it. `holdout=3333` of those serve
    as `val`: then exactly the published validation list is taken off the training pictures first.
Licence
    Non-commercial research; the pictures' rights are with their photographers.
Citation
    Maji, Kannala, Rahtu, Blaschko, Vedaldi: Fine-grained visual classification of aircraft. arXiv:1306.5151, 2013.
Miniature
    8 classes, 8 train, 4 val and 8 test pictures each, 64 x 84 with the banner: two sweeps of the wing, two numbers of
    engines and two tails, in any colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.base import DataError, Split, random_generator
from datamodules.miniature.fine_classes import BANNER, aircraft
from datamodules.miniature.objects import save_jpeg
from datamodules.recognition.listed_images import (
    LabelledImagesDataset,
    Listed,
    ListedImages,
    Sizing,
    Subset,
    read_lines,
    served_box,
)


class BanneredImages(ListedImages):
    """A list of pictures whose last `BANNER` rows are cut off before anything else is done."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        listed = self.listing[index]
        image, original = load_without_banner(listed.path, self.sizing)
        sample = {"image": image, **listed.values, "id": listed.id}
        if listed.box is not None:
            sample["box"] = served_box(listed.box, original, self.sizing)
        return sample


def load_without_banner(path: Path, sizing: Sizing) -> tuple[Tensor, tuple[int, int]]:
    """As `load_image` of what is left above the banner; the (height, width) is that of what is left."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}); fetch this file again") from None
    if picture.height <= BANNER:
        raise DataError(f"{path}: {picture.height} rows leave nothing above the banner of {BANNER}")
    picture = picture.crop((0, 0, picture.width, picture.height - BANNER))
    original = picture.height, picture.width
    height, width = sizing.resized(*original)
    if (height, width) != original:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    top, left = sizing.corner(height, width)
    rows, columns = sizing.served
    pixels = np.asarray(picture)[top : top + rows, left : left + columns]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255, original


class FGVCAircraft(LabelledImagesDataset):
    """See the module's docstring."""

    name = "fgvc-aircraft"
    tasks = ("image-classification",)
    title = "FGVC-Aircraft 2013b"
    url = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/"
    licence = "non-commercial research"
    required: ClassVar[tuple[str, ...]] = (
        "fgvc-aircraft-2013b/data/variants.txt",
        "fgvc-aircraft-2013b/data/images_variant_train.txt",
        "fgvc-aircraft-2013b/data/images_variant_val.txt",
        "fgvc-aircraft-2013b/data/images_variant_trainval.txt",
        "fgvc-aircraft-2013b/data/images_variant_test.txt",
        "fgvc-aircraft-2013b/data/images/*.jpg",
    )

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(read_lines(self._file("variants.txt")))

    def published(self, subset: Subset) -> list[Listed]:
        file = self._file(f"images_variant_{'trainval' if subset == 'train' else 'test'}.txt")
        labels = {name: label for label, name in enumerate(self.classes)}
        boxes = self._boxes()
        listing = []
        for number, line in enumerate(read_lines(file), start=1):
            picture, _, variant = line.partition(" ")
            if variant not in labels:
                raise DataError(f"{file}, line {number}: {variant!r} is no variant of variants.txt")
            if boxes and picture not in boxes:
                raise DataError(f"{self._file('images_box.txt')}: no box of picture {picture}")
            path = self._file("images") / f"{picture}.jpg"
            listing.append(Listed(picture, path, {"label": labels[variant]}, boxes.get(picture)))
        return listing

    def read(self, split: Split) -> ListedImages:
        return BanneredImages(super().read(split).listing, self.sizing)

    def holdout_order(self, training: Sequence[Listed]) -> list[str]:
        """The published validation pictures in a fixed random order, then the others."""
        lines = read_lines(self._file("images_variant_val.txt"))
        published = {line.partition(" ")[0] for line in lines}
        shuffled = super().holdout_order(training)
        return sorted(shuffled, key=lambda picture: picture not in published)

    def _file(self, name: str) -> Path:
        return self.root / "fgvc-aircraft-2013b" / "data" / name

    def _boxes(self) -> dict[str, tuple[float, float, float, float]]:
        """x, y, width, height by picture; empty where the boxes are not there."""
        file = self._file("images_box.txt")
        if not file.is_file():
            return {}
        boxes = {}
        for number, line in enumerate(read_lines(file), start=1):
            picture, *corners = line.split()
            try:
                x1, y1, x2, y2 = (float(value) for value in corners)
            except ValueError:
                raise DataError(
                    f"{file}, line {number}: expected a number and x1 y1 x2 y2, not {line!r}"
                ) from None
            boxes[picture] = (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)
        return boxes

    @classmethod
    def render(cls, folder: Path) -> None:
        data = folder / "fgvc-aircraft-2013b" / "data"
        kinds = list(product((0.0, 0.7), (1, 2), (False, True)))
        names = [f"{'JK'[high]}-{int(10 * sweep)}{engines}0" for sweep, engines, high in kinds]
        lists: dict[str, list[str]] = {"train": [], "val": [], "trainval": [], "test": []}
        for label, (sweep, engines, high) in enumerate(kinds):
            for index in range(20):
                picture = f"{100_000 + 20 * index + 7 * label + 1_000 * label}"
                subset = "train" if index < 8 else "val" if index < 12 else "test"
                generator = random_generator(cls.name, label, index)
                shown = aircraft(generator, 64, sweep=sweep, engines=engines, high_tail=high)
                save_jpeg(shown, data / "images" / f"{picture}.jpg")
                lists[subset].append(f"{picture} {names[label]}")
                if subset != "test":
                    lists["trainval"].append(f"{picture} {names[label]}")
        (data / "variants.txt").write_text("\n".join(names) + "\n")
        for subset, lines in lists.items():
            (data / f"images_variant_{subset}.txt").write_text("\n".join(sorted(lines)) + "\n")
