"""miniImageNet: 100 classes of ImageNet with 600 pictures each, 84×84, for few-shot learning.

Format: `images/*.jpg`, and `train.csv`, `val.csv`, `test.csv` with the columns `filename,label`, as in
Ravi and Larochelle's split: 64, 16 and 20 classes. Labels are WordNet ids.
Licence: ImageNet's terms (research use). Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS
2016; Ravi and Larochelle, "Optimization as a Model for Few-Shot Learning", ICLR 2017.

The miniature: 20, 6 and 10 classes of 40 pictures. A class is an arrangement of the same four parts, in two
visual modes, with one picture in five an outlier (see datamodules/miniature/part_arrangements.py), which
`outliers.csv` lists; no published file says so.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.base import Split, random_generator
from datamodules.miniature.part_arrangements import arrangements, draw_class
from datamodules.recognition.episodes import (
    ClassPictures,
    EpisodicDataset,
    by_class,
    decoded,
    read_listing,
    remembered,
)

SIDE = 84
MINIATURE_CLASSES = {"train": 20, "val": 6, "test": 10}
MINIATURE_PICTURES = 40


class MiniImageNet(EpisodicDataset):
    """See the module's docstring; samples are episodes (datamodules/recognition/episodes.py)."""

    name = "mini-imagenet"
    title = "miniImageNet"
    url = "https://github.com/twitter-research/meta-learning-lstm (split); https://image-net.org (pictures)"
    licence = "ImageNet's terms of access, research use"
    required = ("images/*.jpg", "train.csv", "val.csv", "test.csv")

    def pictures(self, split: Split) -> ClassPictures:
        rows = read_listing(self.root / f"{split}.csv", ("filename", "label"))
        listed = self.root / "outliers.csv"
        outlier = None
        if listed.is_file():
            odd = {name for (name,) in read_listing(listed, ("filename",))}
            outlier = np.array([name in odd for name, _ in rows])

        def picture(number: int) -> np.ndarray:
            path = self.root / "images" / rows[number][0]
            return decoded(path, path, self.image_size)

        return ClassPictures(by_class([label for _, label in rows]), remembered(picture), outlier)

    @classmethod
    def render(cls, folder: Path) -> None:
        (folder / "images").mkdir()
        places = iter(arrangements(sum(MINIATURE_CLASSES.values()), random_generator(cls.name, "places")))
        odd: list[tuple[str]] = []
        wordnet = 1
        for split, classes in MINIATURE_CLASSES.items():
            rows = []
            for _ in range(classes):
                random = random_generator(cls.name, wordnet)
                pixels, outlier = draw_class(next(places), MINIATURE_PICTURES, random, size=SIDE)
                for number, picture in enumerate(pixels):
                    name = f"n{wordnet:08d}{number:08d}.jpg"
                    Image.fromarray(picture).save(folder / "images" / name, quality=92)
                    rows.append((name, f"n{wordnet:08d}"))
                    if outlier[number]:
                        odd.append((name,))
                wordnet += 1
            _write(folder / f"{split}.csv", ("filename", "label"), rows)
        _write(folder / "outliers.csv", ("filename",), odd)


def _write(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
