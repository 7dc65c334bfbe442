"""Scene attributes: one coloured shape on a textured background, for pre-training a small image encoder.

There is no published dataset behind it: the files are rendered as the pictures of the captioned miniatures
are (`miniature/captioned_scenes.py`), but apart from them, and no picture is in both. It stands where ImageNet
stands for the networks that real pictures are encoded with.

Format
    {train,val,test}/<size>_<colour>_<shape>/<number>.jpg, 48 x 48: quarters of pictures of 96 x 96, at their scale.
Classes
    60: two sizes x six colours x five shapes. One thing a picture: what a convolutional network says of it, averaged
    over space, adds up to what it says of a picture with several things, so that size, colour and shape of each stay
    bound together.
Splits
    3,600 / 240 / 600 pictures, as many of each class.
Licence
    Rendered: none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature.captioned_scenes import COLOURS, RADIUS, SHAPES, SIZE, Thing, draw
from datamodules.miniature.objects import save_jpeg
from datamodules.specs import ImageClassesSpec

QUARTER = SIZE // 2
EACH = {"train": 60, "val": 4, "test": 10}


class ScenePictures(MapDataset[dict[str, Any]]):
    """The pictures of a split, each kept in memory once it has been decoded."""

    def __init__(self, files: list[tuple[Path, int]]) -> None:
        self.files = files
        self.decoded: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.files[index]
        if index not in self.decoded:
            try:
                with Image.open(path) as file:
                    pixels = np.array(file.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                raise DataError(f"{path}: cannot be read as a picture ({error}); render it again") from None
            if pixels.shape != (QUARTER, QUARTER, 3):
                raise DataError(
                    f"{path}: has shape {pixels.shape}, expected {(QUARTER, QUARTER, 3)}; render it again"
                )
            self.decoded[int(index)] = torch.from_numpy(pixels).permute(2, 0, 1)
        return {
            "image": self.decoded[int(index)].float() / 255,
            "label": label,
            "id": f"{path.parent.name}/{path.stem}",
        }


class SceneAttributes(Dataset):
    """See the module's docstring."""

    name = "scene-attributes"
    tasks = ("image-classification",)
    title = "Scene attributes (rendered)"
    url = "nowhere: it is rendered"
    licence = "none"
    required: ClassVar[tuple[str, ...]] = ("train/*/*.jpg", "val/*/*.jpg", "test/*/*.jpg")
    variants = ("miniature",)

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 50, **serving})

    @property
    def spec(self) -> ImageClassesSpec:
        return ImageClassesSpec(dataset=self.name, classes=CLASSES, image_size=(QUARTER, QUARTER))

    def read(self, split: Split) -> ScenePictures:
        self.prepare_data()
        files = []
        for label, name in enumerate(CLASSES):
            found = sorted((self.root / split / name).glob("*.jpg"))
            if len(found) != EACH[split]:
                raise DataError(
                    f"{self.root / split / name}: holds {len(found)} pictures, expected {EACH[split]}; delete "
                    f"{self.root} to have it rendered again"
                )
            files += [(path, label) for path in found]
        return ScenePictures(files)

    @classmethod
    def render(cls, folder: Path) -> None:
        corners = ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5))
        for split, each in EACH.items():
            due = [(name, number) for number in range(each) for name in CLASSES]
            for first in range(0, len(due), len(corners)):
                generator = random_generator(cls.name, split, first)
                four = due[first : first + len(corners)]
                things = []
                for (name, _), centre in zip(four, corners, strict=True):
                    size, colour, shape = name.split("_")
                    x, y = centre + generator.uniform(-0.12, 0.12, 2)
                    things.append(Thing(shape, colour, size, float(x), float(y)))
                picture = draw(generator, things)
                for (name, number), (x, y) in zip(four, corners, strict=True):
                    top, left = QUARTER * (y > 0), QUARTER * (x > 0)
                    quarter = picture[top : top + QUARTER, left : left + QUARTER]
                    save_jpeg(quarter, folder / split / name / f"{number:03d}.jpg")


CLASSES = tuple(f"{size}_{colour}_{shape}" for size in RADIUS for colour in COLOURS for shape in SHAPES)
