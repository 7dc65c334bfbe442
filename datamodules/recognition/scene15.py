"""Scene-15: 4,485 greyscale pictures of 15 indoor and outdoor scenes, about 300 x 250 pixels.

Format
    15-Scene/<00..14>/*.jpg (the figshare edition) or scene_categories/<class>/*.jpg (Lazebnik's archive).
    The numbers stand for the class names in alphabetical order without regard to case, so both give the same
    labels.
Splits
    100 random pictures of each class train (1,500), the others test (2,985), as in the dataset's paper. The
    pictures are drawn by `split_seed`; no list was published, and results are usually a mean over ten draws.
    No validation split is published: see `holdout`.
Licence
    CC BY 4.0 (figshare edition).
Citation
    Lazebnik, Schmid, Ponce: Beyond bags of features: spatial pyramid matching for recognizing natural scene
    categories. CVPR 2006. Earlier parts: Oliva and Torralba, IJCV 2001; Fei-Fei and Perona, CVPR 2005.
Miniature
    The same 15 classes with 36 pictures each, 64 x 48; 20 of a class train. A class is one of five ground
    textures with one of three kinds of things on it.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import ClassVar, Unpack

from datamodules.base import DataError, Serving, Variant, random_generator
from datamodules.miniature.objects import TEXTURES, save_jpeg, scene
from datamodules.recognition.listed_images import (
    LabelledImagesDataset,
    Listed,
    Subset,
    folders,
)

CLASSES = (
    "bedroom",
    "CALsuburb",
    "industrial",
    "kitchen",
    "livingroom",
    "MITcoast",
    "MITforest",
    "MIThighway",
    "MITinsidecity",
    "MITmountain",
    "MITopencountry",
    "MITstreet",
    "MITtallbuilding",
    "PARoffice",
    "store",
)


class Scene15(LabelledImagesDataset):
    """See the module's docstring.

    image_size, crop_size, keep_shape, holdout: see `LabelledImagesDataset`.
    train_per_class: training pictures a class; None: 100, the published number (20 in the miniature).
    split_seed: which of the random splits.
    """

    name = "scene-15"
    tasks = ("image-classification",)
    title = "Scene-15"
    url = "https://figshare.com/articles/dataset/15-Scene_Image_Dataset/7007177"
    licence = "CC BY 4.0"
    required: ClassVar[tuple[str, ...]] = ("*[Ss]cene*/*/*.jpg",)

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        image_size: int | tuple[int, int] | None = None,
        crop_size: int | None = None,
        keep_shape: bool = False,
        holdout: int = 0,
        train_per_class: int | None = None,
        split_seed: int = 0,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(
            root,
            variant,
            image_size=image_size,
            crop_size=crop_size,
            keep_shape=keep_shape,
            holdout=holdout,
            **serving,
        )
        self.train_per_class = train_per_class or (100 if variant == "real" else 20)
        self.split_seed = split_seed

    @property
    def classes(self) -> tuple[str, ...]:
        return CLASSES

    def published(self, subset: Subset) -> list[Listed]:
        train, test = [], []
        for label, folder in enumerate(self._folders()):
            listed = [
                Listed(f"{CLASSES[label]}/{path.stem}", path, {"label": label})
                for path in sorted(folder.glob("*.jpg"))
            ]
            if len(listed) <= self.train_per_class:
                raise DataError(
                    f"{folder}: {len(listed)} pictures, but {self.train_per_class} are to train and at least "
                    "one to test; complete the folder or lower train_per_class"
                )
            order = random_generator("scene-15", self.split_seed, label).permutation(len(listed))
            train += [listed[i] for i in sorted(order[: self.train_per_class])]
            test += [listed[i] for i in sorted(order[self.train_per_class :])]
        return train if subset == "train" else test

    def _folders(self) -> list[Path]:
        """The 15 class folders in label order."""
        base = min((path for path in self.root.glob("*[Ss]cene*") if path.is_dir()), default=self.root)
        found = folders(base)
        names = [folder.name for folder in found]
        numbers = [f"{label:02d}" for label in range(len(CLASSES))]
        if names != numbers and [name.lower() for name in names] != [name.lower() for name in CLASSES]:
            raise DataError(
                f"{base}: class folders are {', '.join(names) or 'none'}; "
                f"expected 00 .. 14 or {', '.join(CLASSES)}"
            )
        return found

    @classmethod
    def render(cls, folder: Path) -> None:
        kinds = list(product(TEXTURES, (("square", "cross"), ("disc", "ring"), ("triangle", "star"))))
        for label, (ground, things) in enumerate(kinds):
            for number in range(36):
                generator = random_generator(cls.name, label, number)
                grey = scene(generator, 64, ground=ground, things=things)[8:56].mean(2)
                save_jpeg(grey, folder / "15-Scene" / f"{label:02d}" / f"{number + 1}.jpg")
