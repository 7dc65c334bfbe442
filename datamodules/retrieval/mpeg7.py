"""MPEG-7 Core Experiment CE-Shape-1, part B: 1,400 silhouettes of 70 classes, 20 of each.

Format
    <class>-<1..20>.gif (also as .png), one silhouette a file, under `original/` in the published archive, under
    `MPEG7/` or directly under the root. Sizes are 38 to 1,006 pixels. Files differ in their colour maps (the light
    tone is 1, 248, 250 or 255; three tones in a few), and one, `rat-09`, is stored dark on light: see
    `silhouette_files.py` for the rule. Some shapes are broken into several parts by their scan; they stay so.
Splits
    All shapes are queries among all of them; the other splits are the same shapes.
Licence
    Research use.
Citation
    Latecki, Lakaemper and Eckhardt: Shape descriptors for non-rigid shapes with a single closed contour. CVPR
    2000.
Miniature
    40 classes x 10 silhouettes of about 128 pixels: a class is a star-like or polygonal outline, its members are
    bent, turned, scaled and reflected. Some are stored dark on light, some with a colour map.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from datamodules.base import DataError, random_generator
from datamodules.miniature.affine_shapes import bent, drawn, figure, save_silhouette, similarity
from datamodules.retrieval.silhouette_files import (
    Silhouette,
    SilhouetteFilesDataset,
    by_prefix,
    silhouettes_in,
)

CLASSES, SHAPES = 40, 10


class MPEG7(SilhouetteFilesDataset):
    """See the module's docstring."""

    name = "mpeg7"
    title = "MPEG-7 CE-Shape-1 part B"
    url = "https://dabi.temple.edu/external/shape/MPEG7/dataset.html"
    licence = "research use"
    required: ClassVar[tuple[str, ...]] = ("*-*.[gp][in][fg]",)
    folders = (
        "MPEG7",
        "original",
        "MPEG7dataset/original",
        "MPEG7_CE-Shape-1_Part_B",
        "MPEG7_CE-Shape-1_Part_B/original",
    )

    def listed(self) -> tuple[tuple[str, ...], list[Silhouette]]:
        classes, files = by_prefix(list(silhouettes_in(self.root)))
        if len(classes) < 2:
            raise DataError(f"{self.root}: {len(files)} silhouettes of one class; fetch the rest")
        return classes, files

    @classmethod
    def render(cls, folder: Path) -> None:
        for number in range(CLASSES):
            outline = figure(random_generator(cls.name, "class", number), number)
            for place in range(SHAPES):
                generator = random_generator(cls.name, number, place)
                shape = bent(generator, outline, 0.05)
                picture = drawn(shape, similarity(generator), generator)
                look = ("plain", "plain", "indexed", "inverted")[int(generator.integers(4))]
                save_silhouette(picture, folder / f"figure{number:02d}-{place + 1}.png", look)
