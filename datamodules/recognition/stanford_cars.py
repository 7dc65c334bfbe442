"""Stanford Cars (Cars-196): 16,185 pictures of 196 makes, models and years.

Format
    cars_train/*.jpg, cars_test/*.jpg, and devkit/ with cars_meta.mat (`class_names`), cars_train_annos.mat and
    cars_test_annos_withlabels.mat (struct array `annotations`: bbox_x1, bbox_y1, bbox_x2, bbox_y2, class, fname;
    boxes and classes count from 1). The test annotations with labels are a download of their own and may lie
    beside devkit/ too.
Samples
    `image`, `label`, `id`, and `box` float32 [4]: x1, y1, x2, y2 of the car in pixels of the served picture.
Splits
    8,144 train and 8,041 test. No validation split is published: see `holdout`.
Licence
    Non-commercial research (ImageNet terms); the pictures' rights are with their owners.
Citation
    Krause, Stark, Deng, Fei-Fei: 3D object representations for fine-grained categorization. 3DRR at ICCV 2013.
Miniature
    8 classes, 12 train and 8 test pictures each, 64 x 64: cars of two cabins, two numbers of windows and two of
    spokes, in any colour.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.io import loadmat, savemat

from datamodules.base import DataError, random_generator
from datamodules.miniature.fine_classes import car
from datamodules.miniature.objects import save_jpeg
from datamodules.recognition.listed_images import LabelledImagesDataset, Listed, Subset

ANNOTATIONS = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")


def read_mat(path: Path, key: str) -> Any:
    """One variable of a MATLAB file; a `DataError` names the file and what is wrong with it."""
    try:
        content = loadmat(path, squeeze_me=True, struct_as_record=True)
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except Exception as error:  # a damaged .mat file may raise anything
        raise DataError(f"{path} cannot be read: {error!r}; fetch this file again") from error
    if key not in content:
        known = ", ".join(sorted(name for name in content if not name.startswith("__")))
        raise DataError(f"{path} has no {key!r}, only {known}")
    return content[key]


class StanfordCars(LabelledImagesDataset):
    """See the module's docstring."""

    name = "stanford-cars"
    tasks = ("image-classification",)
    title = "Stanford Cars"
    url = "https://ai.stanford.edu/~jkrause/cars/car_dataset.html"
    licence = "non-commercial research"
    required: ClassVar[tuple[str, ...]] = (
        "devkit/cars_meta.mat",
        "devkit/cars_train_annos.mat",
        "**/cars_test_annos_withlabels.mat",
        "cars_train/*.jpg",
        "cars_test/*.jpg",
    )

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(
            str(name) for name in np.atleast_1d(read_mat(self.root / "devkit/cars_meta.mat", "class_names"))
        )

    def published(self, subset: Subset) -> list[Listed]:
        path = self.root / "devkit" / ANNOTATIONS[subset]
        if subset == "test" and not path.is_file():
            path = self.root / ANNOTATIONS[subset]
        annotations = np.atleast_1d(read_mat(path, "annotations"))
        lacking = [field for field in FIELDS if field not in (annotations.dtype.names or ())]
        if lacking:
            raise DataError(
                f"{path}: annotations have no {', '.join(lacking)}, only {annotations.dtype.names}; the test "
                "labels are in cars_test_annos_withlabels.mat"
            )
        classes, folder = len(self.classes), f"cars_{subset}"
        listing = []
        for row in annotations:
            label, file = int(row["class"]), str(row["fname"])
            x1, y1, x2, y2 = (float(row[field]) for field in FIELDS[:4])
            if not 1 <= label <= classes:
                raise DataError(f"{path}: {file} has class {label}, not 1 .. {classes}")
            if x2 < x1 or y2 < y1:
                raise DataError(f"{path}: {file} has the box {x1, y1, x2, y2}, of no extent")
            box = (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)
            listing.append(Listed(f"{folder}/{file}", self.root / folder / file, {"label": label - 1}, box))
        return listing

    @classmethod
    def render(cls, folder: Path) -> None:
        kinds = list(product((0.15, 0.5), (1, 3), (3, 7)))
        names = [
            f"{'Van' if cabin < 0.3 else 'Pickup'} {windows} windows {spokes} spokes 2012"
            for cabin, windows, spokes in kinds
        ]
        (folder / "devkit").mkdir()
        _save(folder / "devkit/cars_meta.mat", {"class_names": np.array(names, dtype=object)})
        for subset, each in (("train", 12), ("test", 8)):
            order = random_generator(cls.name, subset).permutation(np.repeat(np.arange(len(kinds)), each))
            rows = []
            for number, label in enumerate(order.tolist(), start=1):
                cabin, windows, spokes = kinds[label]
                generator = random_generator(cls.name, subset, number)
                shown = car(generator, 64, cabin=cabin, windows=windows, spokes=spokes)
                file = f"{number:05d}.jpg"
                save_jpeg(shown.picture, folder / f"cars_{subset}" / file)
                x, y, width, height = shown.box
                rows.append((x + 1, y + 1, x + width, y + height, label + 1, file))
            table = np.array(rows, dtype=[(field, object) for field in FIELDS])
            _save(folder / "devkit" / ANNOTATIONS[subset], {"annotations": table[None]})


def _save(path: Path, content: dict[str, Any]) -> None:
    """Write a MATLAB file without the moment of writing in its header: always the same bytes."""
    savemat(path, content)
    data = path.read_bytes()
    path.write_bytes(b"MATLAB 5.0 MAT-file, rendered miniature".ljust(116, b" ") + data[116:])
