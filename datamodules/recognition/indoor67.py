"""Indoor-67 (MIT Indoor Scene Recognition): 67 kinds of indoor places.

Format
    Images/<class>/*.jpg (some files are PNG or GIF inside), TrainImages.txt and TestImages.txt with a
    `<class>/<file>` a line.
Splits
    The two lists: 5,360 train and 1,340 test, 80 and 20 a class. Of the 15,620 pictures the others are
    unused. No validation split is published: see `holdout`.
Licence
    Research use only (pictures from the web).
Citation
    Quattoni and Torralba: Recognizing indoor scenes. CVPR 2009.
Miniature
    12 of the classes, 20 train and 10 test pictures each, 64 x 64: four floor textures with three kinds of
    things.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import ClassVar

from datamodules.base import DataError, random_generator
from datamodules.miniature.objects import save_jpeg, scene
from datamodules.recognition.listed_images import (
    LabelledImagesDataset,
    Listed,
    Subset,
    read_lines,
)

LISTS = {"train": "TrainImages.txt", "test": "TestImages.txt"}


class Indoor67(LabelledImagesDataset):
    """See the module's docstring."""

    name = "indoor-67"
    tasks = ("image-classification",)
    title = "MIT Indoor Scene Recognition (Indoor-67)"
    url = "https://web.mit.edu/torralba/www/indoor.html"
    licence = "research use only"
    required: ClassVar[tuple[str, ...]] = ("Images/*/*.jpg", "TrainImages.txt", "TestImages.txt")

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted({line.partition("/")[0] for line in read_lines(self.root / LISTS["train"])}))

    def published(self, subset: Subset) -> list[Listed]:
        file = self.root / LISTS[subset]
        labels = {name: label for label, name in enumerate(self.classes)}
        listing = []
        for number, line in enumerate(read_lines(file), start=1):
            name, _, picture = line.partition("/")
            if name not in labels or not picture:
                raise DataError(
                    f"{file}, line {number}: {line!r} is not <class>/<file> with one of the "
                    f"{len(labels)} classes of {LISTS['train']}"
                )
            listing.append(Listed(line, self.root / "Images" / line, {"label": labels[name]}))
        return listing

    @classmethod
    def render(cls, folder: Path) -> None:
        names = (
            "airport_inside",
            "bakery",
            "bathroom",
            "bedroom",
            "bookstore",
            "corridor",
            "gym",
            "kitchen",
            "library",
            "meeting_room",
            "museum",
            "subway",
        )
        grounds = ("stripes", "checks", "dots", "waves")
        kinds = product(grounds, (("square", "star"), ("disc", "cross"), ("triangle", "ring")))
        lists: dict[str, list[str]] = {"train": [], "test": []}
        for name, (ground, things) in zip(names, kinds, strict=True):
            for number in range(30):
                line = f"{name}/{name}_{number + 1:03d}.jpg"
                lists["train" if number < 20 else "test"].append(line)
                generator = random_generator(cls.name, name, number)
                save_jpeg(scene(generator, 64, ground=ground, things=things), folder / "Images" / line)
        for subset, lines in lists.items():
            (folder / LISTS[subset]).write_text("\n".join(lines) + "\n")
