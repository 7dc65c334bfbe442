"""The ImageNet-compatible pictures of the NIPS 2017 adversarial competition: 1,000 RGB pictures of 299 x 299.

Format: `dev_dataset.csv` with the columns ImageId, URL, x1, y1, x2, y2, TrueLabel, TargetClass,
OriginalLandingURL, License, Author, AuthorProfileURL, and `images/<ImageId>.png`. Labels are 1..1000: index 0
is the background class of the TensorFlow models; here `label` is TrueLabel - 1.
Splits: `test` is the published set, for attacks and for classifiers alike; it is made for evaluation only.
Classifiers of one's own are trained on a class-folder set beside it, `train/<wnid>/*.png`, classes in
alphabetical order as in ImageNet: `val` is `holdout` of its pictures, always the same ones, `train` the
others. Where that folder is missing there is no `train` and no `val`, and the classes are called `class_0001`
... Licence: the pictures' own (Creative Commons, a column of the csv file).
Citation: A. Kurakin et al., "Adversarial Attacks and Defences Competition", 2018.

The miniature: ten classes in pairs of look-alikes, 100 pictures of 48 x 48 and 1,500 for training.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature.redundant_classes import CLASSES, redundant_picture
from datamodules.recognition.listed_images import Listed, Sizing, folders, load_image
from datamodules.specs import ImageClassesSpec

TABLE = "dev_dataset.csv"
COLUMNS = (
    "ImageId", "URL", "x1", "y1", "x2", "y2", "TrueLabel", "TargetClass",
    "OriginalLandingURL", "License", "Author", "AuthorProfileURL",
)  # fmt: skip
REAL_SIDE, REAL_CLASSES = 299, 1000
SIDE, TEST_PICTURES, TRAIN_PICTURES = 48, 100, 1500


def read_table(path: Path) -> list[tuple[str, int]]:
    """(ImageId, TrueLabel) of each row; a `DataError` names the file and the row that is wrong."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a csv file ({error}); fetch this file again") from None
    found = []
    for line, row in enumerate(rows, start=2):
        name, label = row.get("ImageId"), row.get("TrueLabel")
        if not name or Path(name).name != name:
            raise DataError(
                f"{path}, line {line}: column ImageId holds {name!r}, expected a file name's stem"
            )
        if label is None or not label.isdigit() or int(label) < 1:
            raise DataError(f"{path}, line {line}: column TrueLabel holds {label!r}, expected 1 or more")
        found.append((name, int(label)))
    if not found:
        raise DataError(f"{path} has no rows; expected the columns {', '.join(COLUMNS)}")
    if len({name for name, _ in found}) < len(found):
        raise DataError(f"{path}: column ImageId names a picture twice; fetch this file again")
    return found


class Pictures(MapDataset[dict[str, Any]]):
    """Samples `image` float32 [3, H, W] in [0, 1], `label`, `id`.

    exact: refuse files of another size instead of resizing them. keep: decode each file once.
    """

    def __init__(self, listing: list[Listed], size: tuple[int, int], *, exact: bool, keep: bool) -> None:
        self.listing = listing
        self.sizing = Sizing(size, None)
        self.exact = exact
        self.kept: dict[int, Tensor] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.listing)

    def __getitem__(self, index: int) -> dict[str, Any]:
        listed = self.listing[index]
        return {"image": self._image(int(index), listed.path), **listed.values, "id": listed.id}

    def _image(self, index: int, path: Path) -> Tensor:
        if self.kept is not None and index in self.kept:
            return self.kept[index].float() / 255
        image, original = load_image(path, self.sizing)
        if self.exact and original != self.sizing.served:
            raise DataError(f"{path}: is {original} pixels, expected {self.sizing.served} like the first one")
        if self.kept is not None:
            self.kept[index] = (image * 255).round().to(torch.uint8)
        return image


class Nips2017(Dataset):
    """Serves attacks and classifiers: `image` float32 [3, H, W] in [0, 1], `label` int, `id`.

    holdout: pictures of the training folder that are served as `val`; None: 150 of the miniature, 10,000 of
        the real one (or a tenth, where it has fewer than 100,000).
    """

    name = "nips2017"
    tasks = ("adversarial-attack", "image-classification")
    title = "NIPS 2017 adversarial competition, development set"
    url = "https://github.com/cleverhans-lab/cleverhans (examples/nips17_adversarial_competition/dataset)"
    licence = "of each picture, in the csv file's column License"
    required = (TABLE, "images/*.png")

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        holdout: int | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        batch = 50 if variant == "miniature" else 10
        super().__init__(root, variant, **{"test_batch_size": batch, **serving})
        if holdout is not None and holdout < 0:
            raise ValueError(f"{self.name}: holdout must not be negative, got {holdout}")
        self.holdout = holdout

    def instructions(self) -> str:
        return (
            f"{super().instructions()}\nTo train classifiers of one's own, put pictures of the same classes under "
            "<root>/train/<wnid>/*.png."
        )

    @property
    def class_folders(self) -> list[Path]:
        """The classes' training folders in label order; empty where there is no training set."""
        return folders(self.root / "train") if (self.root / "train").is_dir() else []

    @property
    def spec(self) -> ImageClassesSpec:
        self.prepare_data()
        names = tuple(folder.name for folder in self.class_folders)
        first = self.root / "images" / f"{read_table(self.root / TABLE)[0][0]}.png"
        try:
            with Image.open(first) as picture:
                size = (picture.height, picture.width)
        except OSError as error:
            raise DataError(
                f"{first}: cannot be read as a picture ({error}); fetch this file again"
            ) from None
        if not names:
            names = tuple(f"class_{number:04d}" for number in range(1, REAL_CLASSES + 1))
        return ImageClassesSpec(dataset=self.name, classes=names, image_size=size)

    def read(self, split: Split) -> Pictures:
        spec = self.spec
        listing = self.published(len(spec.classes)) if split == "test" else self.training(split)
        small = self.variant == "miniature"
        return Pictures(listing, spec.image_size, exact=split == "test", keep=small)

    def published(self, classes: int) -> list[Listed]:
        """The competition's pictures in the order of the csv file."""
        listing = []
        for name, label in read_table(self.root / TABLE):
            if label > classes:
                raise DataError(
                    f"{self.root / TABLE}: TrueLabel {label} of {name}, but there are {classes} classes"
                    f" ({'folders under train' if self.class_folders else 'ImageNet'})"
                )
            listing.append(Listed(name, self.root / "images" / f"{name}.png", {"label": label - 1}))
        return listing

    def training(self, split: Split) -> list[Listed]:
        """The class folders' pictures that are held out (`val`) or not (`train`)."""
        listing = [
            Listed(f"{folder.name}/{path.stem}", path, {"label": label})
            for label, folder in enumerate(self.class_folders)
            for path in sorted(folder.glob("*.png"))
        ]
        if not listing:
            raise DataError(
                f"{self.name}: no pictures for {split!r} under {self.root / 'train'}\n{self.instructions()}"
            )
        holdout = self.holdout
        if holdout is None:
            holdout = min(10_000, len(listing) // 10)
        if holdout >= len(listing):
            raise ValueError(f"{self.name}: cannot hold out {holdout} of {len(listing)} training pictures")
        order = random_generator(self.name, "holdout").permutation(len(listing))
        kept = np.sort(order[:holdout] if split == "val" else order[holdout:])
        return [listing[i] for i in kept]

    def _files(self) -> Iterator[tuple[str, int]]:
        yield from super()._files()
        for path in sorted((self.root / "train").glob("*/*.png")):
            yield path.relative_to(self.root).as_posix(), path.stat().st_size

    @classmethod
    def render(cls, folder: Path) -> None:
        generator = random_generator(cls.name, "labels")
        (folder / "images").mkdir()
        rows = []
        for number, label in enumerate(generator.permutation(TEST_PICTURES) % len(CLASSES)):
            chance = random_generator(cls.name, "test", number)
            name = f"{chance.integers(2**63):016x}"
            _save(redundant_picture(chance, int(label), size=SIDE), folder / "images" / f"{name}.png")
            target = (label + 1 + chance.integers(len(CLASSES) - 1)) % len(CLASSES)
            page = f"https://example.org/{name}"
            where = [f"{page}.png", 0, 0, 1, 1]
            terms = [page, "https://creativecommons.org/publicdomain/zero/1.0/", "rendered", ""]
            rows.append([name, *where, label + 1, target + 1, *terms])
        with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
        for label, name in enumerate(CLASSES):
            place = folder / "train" / f"n{label:08d}_{name}"
            place.mkdir(parents=True)
            for number in range(TRAIN_PICTURES // len(CLASSES)):
                chance = random_generator(cls.name, "train", label, number)
                _save(redundant_picture(chance, label, size=SIDE), place / f"{number:04d}.png")


def _save(picture: np.ndarray, path: Path) -> None:
    """Write float [H, W, 3] in [0, 1] as PNG."""
    Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8)).save(path)
