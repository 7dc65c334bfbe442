"""Oxford Flowers-102: 8,189 pictures of 102 kinds of flowers common in the United Kingdom.

Format
    jpg/image_00001.jpg .. image_08189.jpg; imagelabels.mat with `labels` (1..102 a picture); setid.mat with
    the picture numbers (from 1) of `trnid` (1,020), `valid` (1,020) and `tstid` (6,149).
Splits
    train = trnid and valid together (2,040), test = tstid (6,149). With `holdout=1020` the published
    validation pictures are held out and trnid trains alone; a smaller number takes the first of them.
Classes
    The files hold no names; a class is named by its published number, `class_00001` ...
Licence
    Research use only (pictures from the web).
Citation
    Nilsback and Zisserman: Automated flower classification over a large number of classes. ICVGIP 2008.
Miniature
    20 classes, 10 trnid, 10 valid and 20 tstid pictures each, 64 x 64. A class is a combination of petal
    count, petal colour, colour of the centre and petal shape, and each has look-alikes that differ in one of
    them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.io import loadmat, savemat

from datamodules.base import DataError, random_generator
from datamodules.miniature.objects import flower, save_jpeg
from datamodules.recognition.listed_images import LabelledImagesDataset, Listed, Subset

SETS: dict[Subset, tuple[str, ...]] = {"train": ("trnid", "valid"), "test": ("tstid",)}


class Flowers102(LabelledImagesDataset):
    """See the module's docstring."""

    name = "flowers-102"
    tasks = ("image-classification",)
    title = "Oxford Flowers-102"
    url = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
    licence = "research use only"
    required: ClassVar[tuple[str, ...]] = ("jpg/image_*.jpg", "imagelabels.mat", "setid.mat")

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(f"class_{number:05d}" for number in range(1, int(self._labels().max()) + 1))

    def published(self, subset: Subset) -> list[Listed]:
        labels, file = self._labels(), self.root / "setid.mat"
        numbers = np.concatenate([_vector(file, key) for key in SETS[subset]])
        if numbers.size and not (numbers.min() >= 1 and numbers.max() <= len(labels)):
            raise DataError(
                f"{file}: picture numbers go from {numbers.min()} to {numbers.max()}, but imagelabels.mat "
                f"has {len(labels)} labels; fetch both files again"
            )
        return [
            Listed(
                f"image_{number:05d}",
                self.root / "jpg" / f"image_{number:05d}.jpg",
                {"label": int(labels[number - 1]) - 1},
            )
            for number in numbers.tolist()
        ]

    def holdout_order(self, training: Sequence[Listed]) -> list[str]:
        """The published validation pictures first."""
        valid = set(_vector(self.root / "setid.mat", "valid").tolist())
        return [item.id for item in sorted(training, key=lambda item: int(item.id[-5:]) not in valid)]

    def _labels(self) -> np.ndarray:
        labels = _vector(self.root / "imagelabels.mat", "labels")
        if labels.size == 0 or labels.min() < 1:
            raise DataError(
                f"{self.root / 'imagelabels.mat'}: labels must count from 1; fetch this file again"
            )
        return labels

    @classmethod
    def render(cls, folder: Path) -> None:
        hues, centres = (0.98, 0.14, 0.78), (0.09, 0.6)
        kinds = list(product((4, 7), hues, centres, (False, True)))[:20]
        labels, sets = [], {"trnid": [], "valid": [], "tstid": []}
        for label, (petals, petal_hue, centre_hue, pointed) in enumerate(kinds, start=1):
            for number in range(40):
                generator = random_generator(cls.name, label, number)
                picture = flower(
                    generator, 64, petals=petals, petal_hue=petal_hue, centre_hue=centre_hue, pointed=pointed
                )
                labels.append(label)
                sets["trnid" if number < 10 else "valid" if number < 20 else "tstid"].append(len(labels))
                save_jpeg(picture, folder / "jpg" / f"image_{len(labels):05d}.jpg")
        # scipy stamps the time into a .mat header; the miniature must be the same bytes every time.
        for name, content in (("imagelabels.mat", {"labels": np.uint8([labels])}), ("setid.mat", sets)):
            savemat(folder / name, {key: np.atleast_2d(np.uint16(value)) for key, value in content.items()})
            written = (folder / name).read_bytes()
            (folder / name).write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + written[116:])


def _vector(file: Path, key: str) -> np.ndarray:
    """A row vector of whole numbers out of a .mat file -> int64 [N]."""
    try:
        content = loadmat(file)
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        raise DataError(f"{file}: cannot be read as a MATLAB file ({error}); fetch this file again") from None
    if key not in content:
        found = ", ".join(name for name in content if not name.startswith("__"))
        raise DataError(f"{file}: has no {key!r} (found: {found or 'nothing'}); fetch this file again")
    value = np.asarray(content[key])
    if value.ndim != 2 or min(value.shape, default=0) > 1 or not np.issubdtype(value.dtype, np.number):
        raise DataError(f"{file}: {key!r} must be one row of numbers, not {value.dtype} {value.shape}")
    return value.reshape(-1).astype(np.int64)
