"""UKBench: 10,200 pictures of 2,550 objects, four views of each.

Format
    full/ukbench00000.jpg .. full/ukbench10199.jpg (640 x 480); object = number // 4.
Splits
    test: all pictures, each of them a query among all of them. train: the same pictures, without labels to
    learn from, for what is fitted to a database. val: the pictures of every tenth object. No picture lies
    outside the test, so nothing should be selected on val.
Licence
    Research use.
Citation
    Nister and Stewenius: Scalable recognition with a vocabulary tree. CVPR 2006.
Miniature
    40 objects x 4 views, 96 x 96, each view on one of eight grounds; eight objects share their colours.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from datamodules.base import DataError, Split, random_generator
from datamodules.miniature.objects import World, save_jpeg, view, vocabulary
from datamodules.recognition.listed_images import Listed
from datamodules.retrieval.grouped_images import GroupedImagesDataset, grouped

VIEWS = 4


class UKBench(GroupedImagesDataset):
    """See the module's docstring."""

    name = "ukbench"
    tasks = ("image-retrieval",)
    title = "UKBench"
    url = "https://archive.org/details/ukbench"
    licence = "research use"
    required: ClassVar[tuple[str, ...]] = ("full/ukbench*.jpg",)

    def listing(self, split: Split) -> list[Listed]:
        files = sorted((self.root / "full").glob("ukbench*.jpg"))
        for number, path in enumerate(files):
            if path.name != f"ukbench{number:05d}.jpg":
                raise DataError(f"{path}: expected ukbench{number:05d}.jpg next; fetch the missing files")
        if len(files) % VIEWS:
            raise DataError(
                f"{self.root / 'full'}: {len(files)} pictures are not groups of {VIEWS}; fetch the rest"
            )
        step = 10 if split == "val" else 1
        return grouped(
            (path, number // VIEWS, True) for number, path in enumerate(files) if number // VIEWS % step == 0
        )

    @classmethod
    def render(cls, folder: Path) -> None:
        for number, thing in enumerate(vocabulary(40, cls.name, alike=8)):
            for place in range(VIEWS):
                generator = random_generator(cls.name, number, place)
                world = World((cls.name, "ground", int(generator.integers(8))), [(thing, (0.0, 0.0, 0.8))])
                picture = view(generator, 96, world, turn=0.5)
                save_jpeg(picture, folder / "full" / f"ukbench{VIEWS * number + place:05d}.jpg")
