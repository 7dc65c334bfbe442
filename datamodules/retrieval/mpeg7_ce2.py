"""MPEG-7 Core Experiment CE-Shape-2, perspective test: region shapes with holes and several parts.

Format
    One binary picture a shape (gif or png), 3,101 in all, and `classes.txt` beside them with a line "<file> <class>"
    for each of the 330 queries: 30 classes of an original and ten perspective versions. (The published archive
    states the classes in its documentation; the file is to be written from it.) Pictures that `classes.txt`
    doesn't name are of no query's class and stay in the gallery.
Splits
    The 330 queries are asked among all 3,101; the other splits are the same shapes.
Licence
    ISO/IEC MPEG-7 core experiment data, research use.
Citation
    Bober: MPEG-7 visual shape descriptors. IEEE Transactions on Circuits and Systems for Video Technology, 2001.
Miniature
    60 region shapes x 8 views of 128 x 128 (maps as in the miniature of MCD) with one to three holes and a part
    apart. Half of the classes come in pairs that differ in their holes only. 60 further shapes are of no class. A
    seed draws some of the classes and views (`draw_classes`, `draw_views`).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from datamodules.base import DataError, random_generator
from datamodules.miniature.affine_shapes import (
    Contour,
    affine,
    drawn,
    figure,
    holes,
    part_apart,
    save_silhouette,
)
from datamodules.retrieval.silhouette_files import Silhouette, SilhouetteFilesDataset, silhouettes_in

CLASSES, PAIRED, VIEWS, OTHERS = 60, 30, 8, 60


class MPEG7CE2(SilhouetteFilesDataset):
    """See the module's docstring."""

    name = "mpeg7-ce2"
    title = "MPEG-7 CE-Shape-2, perspective test"
    url = "https://www.iso.org/standard/34231.html (MPEG-7 core experiment data)"
    licence = "research use"
    required: ClassVar[tuple[str, ...]] = ("classes.txt", "*.[gp][in][fg]")
    folders = ("MPEG7-CE2", "CE2", "MPEG7_CE-Shape-2")

    def listed(self) -> tuple[tuple[str, ...], list[Silhouette]]:
        named = read_classes(self.root / "classes.txt")
        paths = list(silhouettes_in(self.root))
        known = {path.name for path in paths} | {path.stem for path in paths}
        if absent := sorted(set(named) - known):
            raise DataError(
                f"{self.root / 'classes.txt'}: {len(absent)} files it names are not there, the first is "
                f"{absent[0]!r}; fetch them"
            )
        classes = tuple(sorted(set(named.values())))
        label = {name: number for number, name in enumerate(classes)}
        of = {path: named.get(path.name, named.get(path.stem)) for path in paths}
        files = [
            Silhouette(path, -1 if name is None else label[name], name is not None)
            for path, name in of.items()
        ]
        return classes, files

    @classmethod
    def region(cls, outside: int, inside: int) -> list[Contour]:
        """The miniature's shape of one outline, with its part apart, and one set of holes."""
        generator = random_generator(cls.name, "outside", outside)
        outline = figure(generator, outside)
        return [
            *outline,
            *part_apart(generator, outline),
            *holes(random_generator(cls.name, "inside", inside), outline),
        ]

    @classmethod
    def render(cls, folder: Path) -> None:
        lines = []
        for number in range(CLASSES):
            shape = cls.region(number // 2 * 2 if number < PAIRED else number, number)
            for view in range(VIEWS):
                generator = random_generator(cls.name, number, view)
                name = f"region{number:02d}-{view + 1}"
                save_silhouette(drawn(shape, affine(generator), generator), folder / f"{name}.png")
                lines.append(f"{name} region{number:02d}")
        for number in range(OTHERS):
            generator = random_generator(cls.name, "other", number)
            shape = cls.region(CLASSES + number, CLASSES + number)
            save_silhouette(drawn(shape, affine(generator), generator), folder / f"other-{number + 1}.png")
        (folder / "classes.txt").write_text("\n".join(lines) + "\n")


def read_classes(path: Path) -> dict[str, str]:
    """Lines "<file> <class>" -> class names by file name (with or without its suffix)."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); write it as '<file> <class>'") from None
    named: dict[str, str] = {}
    for number, words in enumerate(lines, 1):
        if len(words) != 2:
            raise DataError(f"{path}: entry {number} is {' '.join(words)!r}, expected '<file> <class>'")
        if words[0] in named:
            raise DataError(f"{path}: entry {number} names {words[0]!r} again; keep one line a file")
        named[words[0]] = words[1]
    return named
