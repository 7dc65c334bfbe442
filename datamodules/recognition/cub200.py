"""CUB-200-2011 (Caltech-UCSD Birds): 11,788 pictures of 200 kinds of birds.

Format, under CUB_200_2011/
    images.txt (`<id> <class>/<file>`), image_class_labels.txt (`<id> <class id>`), train_test_split.txt
    (`<id> <1 if training>`), classes.txt (`<class id> <name>`), bounding_boxes.txt (`<id> x y width height`,
    pixels), images/<class>/*.jpg.
Samples
    `image`, `label`, `id`, and `box` float32 [4]: x1, y1, x2, y2 of the bird in pixels of the served picture.
Splits
    train_test_split.txt: 5,994 train and 5,794 test. No validation split is published: see `holdout`.
Licence
    Research and education only; the pictures' rights are with their photographers.
Citation
    Wah, Branson, Welinder, Perona, Belongie: The Caltech-UCSD Birds-200-2011 dataset. Technical report
    CNS-TR-2011-001, Caltech, 2011.
Miniature
    10 classes, 30 train and 20 test pictures each, 96 x 96: five head marks times two stripe frequencies of
    the wing on birds whose parts move independently, before decoy marks. parts/ is written as published too.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import ClassVar

from datamodules.base import DataError, random_generator
from datamodules.miniature.objects import SILHOUETTES, bird, save_jpeg
from datamodules.recognition.listed_images import (
    LabelledImagesDataset,
    Listed,
    Subset,
    read_lines,
)


class CUB200(LabelledImagesDataset):
    """See the module's docstring."""

    name = "cub-200-2011"
    tasks = ("image-classification",)
    title = "Caltech-UCSD Birds-200-2011"
    url = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
    licence = "research and education only"
    required: ClassVar[tuple[str, ...]] = (
        "CUB_200_2011/images.txt",
        "CUB_200_2011/image_class_labels.txt",
        "CUB_200_2011/train_test_split.txt",
        "CUB_200_2011/classes.txt",
        "CUB_200_2011/bounding_boxes.txt",
        "CUB_200_2011/images/*/*.jpg",
    )

    @property
    def classes(self) -> tuple[str, ...]:
        names = self._table("classes.txt", 1)
        if list(names) != list(range(1, len(names) + 1)):
            raise DataError(f"{self._file('classes.txt')}: class ids must be 1, 2, 3, ... in order")
        return tuple(name for (name,) in names.values())

    def published(self, subset: Subset) -> list[Listed]:
        pictures = self._table("images.txt", 1)
        labels = self._table("image_class_labels.txt", 1, like=pictures)
        training = self._table("train_test_split.txt", 1, like=pictures)
        boxes = self._table("bounding_boxes.txt", 4, like=pictures)
        wanted, classes = "1" if subset == "train" else "0", len(self.classes)
        listing = []
        for number, (picture,) in pictures.items():
            if training[number][0] != wanted:
                continue
            try:
                label = int(labels[number][0])
                box = tuple(float(value) for value in boxes[number])
            except ValueError:
                raise DataError(
                    f"{self._file('images.txt')}: picture {number} has label {labels[number]} and box "
                    f"{boxes[number]}, which are no numbers"
                ) from None
            if not 1 <= label <= classes:
                raise DataError(
                    f"{self._file('image_class_labels.txt')}: picture {number} has class {label}, "
                    f"not 1 .. {classes}"
                )
            path = self._file("images") / picture
            listing.append(Listed(picture, path, {"label": label - 1}, box))  # type: ignore[arg-type]
        return listing

    def _file(self, name: str) -> Path:
        return self.root / "CUB_200_2011" / name

    def _table(
        self, name: str, columns: int, like: dict[int, list[str]] | None = None
    ) -> dict[int, list[str]]:
        """A published text file: id -> its columns; ids must be those of `like`."""
        file, table = self._file(name), {}
        for number, line in enumerate(read_lines(file), start=1):
            key, *values = line.split()
            if not key.isdigit() or len(values) != columns:
                raise DataError(f"{file}, line {number}: expected an id and {columns} value(s), not {line!r}")
            table[int(key)] = values
        if like is not None and table.keys() != like.keys():
            odd = sorted(table.keys() ^ like.keys())
            raise DataError(
                f"{file}: {len(table)} pictures, but images.txt has {len(like)}; "
                f"only in one of them: {odd[:5]}"
            )
        return table

    @classmethod
    def render(cls, folder: Path) -> None:
        base = folder / "CUB_200_2011"
        kinds = list(product(SILHOUETTES[:5], (3, 7)))
        names = [
            f"{label:03d}.{mark}_{stripes}_stripes" for label, (mark, stripes) in enumerate(kinds, start=1)
        ]
        tables: dict[str, list[str]] = {
            "classes.txt": [f"{label} {name}" for label, name in enumerate(names, start=1)],
            "images.txt": [],
            "image_class_labels.txt": [],
            "train_test_split.txt": [],
            "bounding_boxes.txt": [],
            "parts/part_locs.txt": [],
        }
        number, part_names = 0, ()
        for label, (mark, stripes) in enumerate(kinds, start=1):
            for index in range(50):
                number += 1
                rendered = bird(random_generator(cls.name, label, index), 96, mark=mark, stripes=stripes)
                file = f"{names[label - 1]}/{mark}_{stripes}_{number:04d}.jpg"
                save_jpeg(rendered.picture, base / "images" / file)
                tables["images.txt"].append(f"{number} {file}")
                tables["image_class_labels.txt"].append(f"{number} {label}")
                tables["train_test_split.txt"].append(f"{number} {int(index < 30)}")
                tables["bounding_boxes.txt"].append(
                    " ".join([str(number), *(f"{v:.1f}" for v in rendered.box)])
                )
                part_names = tuple(rendered.parts)
                tables["parts/part_locs.txt"] += [
                    f"{number} {part} {px:.1f} {py:.1f} 1"
                    for part, (px, py) in enumerate(rendered.parts.values(), start=1)
                ]
        tables["parts/parts.txt"] = [f"{part} {name}" for part, name in enumerate(part_names, start=1)]
        (base / "parts").mkdir()
        for name, lines in tables.items():
            (base / name).write_text("\n".join(lines) + "\n")
