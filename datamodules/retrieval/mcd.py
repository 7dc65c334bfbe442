"""Multiview Curve Database (MCD): 40 shapes of MPEG-7 CE-1 printed and photographed, 14 views of each.

Format
    The archive's own format is stated nowhere that could be found. Read are silhouettes as pictures (png, gif, bmp)
    or as contours in text (a point "x y" a line), one folder for each class, or all in one folder and named
    `<class>-<number>`.
Splits
    All 560 views are queries among all of them; the other splits are the same views.
Licence
    Research use.
Citation
    Zuliani, Bhagavathy, Manjunath and Kenney: Affine-invariant curve matching. ICIP 2004.
Miniature
    60 star-like and polygonal silhouettes x 12 views of 128 x 128: affine maps with a ratio of singular values
    down to 0.35, half of them reflecting, and a mild perspective. A seed draws some of them (`draw_classes`,
    `draw_views`).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from datamodules.base import random_generator
from datamodules.miniature.affine_shapes import affine, drawn, figure, save_silhouette
from datamodules.retrieval.silhouette_files import (
    Silhouette,
    SilhouetteFilesDataset,
    by_prefix,
    silhouettes_in,
)

CLASSES, VIEWS = 60, 12


class MCD(SilhouetteFilesDataset):
    """See the module's docstring."""

    name = "mcd"
    title = "Multiview Curve Database"
    url = "https://vision.ece.ucsb.edu/publications (Zuliani et al., ICIP 2004)"
    licence = "research use"
    required: ClassVar[tuple[str, ...]] = ("*",)
    folders = ("MCD",)

    def listed(self) -> tuple[tuple[str, ...], list[Silhouette]]:
        flat = list(silhouettes_in(self.root))
        if flat:
            return by_prefix(flat)
        homes = self._class_folders(self.root)
        return tuple(home.name for home in homes), [
            Silhouette(path, label) for label, home in enumerate(homes) for path in silhouettes_in(home)
        ]

    def missing(self) -> list[str]:
        expected = ["MCD/<class>-<number>.<ext> or MCD/<class>/*.<ext>"]
        # A shared root has folders of pictures too: only a folder of its own name is this dataset.
        if self.root.name.lower() != self.name or not self.root.is_dir():
            return expected
        files = next(silhouettes_in(self.root), None) or self._class_folders(self.root)
        return [] if files else expected

    @staticmethod
    def _class_folders(root: Path) -> list[Path]:
        inside = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.name)
        return [path for path in inside if next(silhouettes_in(path), None) is not None]

    @classmethod
    def render(cls, folder: Path) -> None:
        for number in range(CLASSES):
            outline = figure(random_generator(cls.name, "class", number), number)
            for view in range(VIEWS):
                generator = random_generator(cls.name, number, view)
                picture = drawn(outline, affine(generator), generator)
                save_silhouette(picture, folder / f"curve{number:02d}-{view + 1}.png")
