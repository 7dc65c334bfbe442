"""Shape-retrieval datasets that are files of one silhouette each: a picture, or a contour in text.

From a picture to a silhouette: colour map applied, greyscale, transparency on black; a pixel of at least half the
full scale is light. Which of light and dark is the shape (`polarity`) is, by default, told by the frame of
pixels around the picture: what more than half of it has is the ground. Nothing is filled, chosen or cropped.
A contour in text (`.txt`, a point "x y" a line, in order) is filled by the even-odd rule, scaled so that its longer
side has `CONTOUR_SIDE` pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator, stack_samples
from datamodules.miniature.affine_shapes import fill
from datamodules.specs import ShapesSpec

Polarity = Literal["frame", "light", "dark"]
PICTURES = (".png", ".gif", ".bmp", ".pgm", ".pbm", ".tif", ".tiff")
CONTOUR_SIDE = 256


@dataclass(frozen=True)
class Silhouette:
    """One file. label: its class, -1 for none of the queries' classes; is_query: whether it is asked for."""

    path: Path
    label: int
    is_query: bool = True


def load_silhouette(path: Path, polarity: Polarity = "frame") -> Tensor:
    """A file's silhouette, bool [H, W], by the rules of the module's docstring.

    Raises `DataError` where the file is missing, truncated or no picture, or shows no shape, or nothing else.
    """
    if path.suffix.lower() == ".txt":
        return torch.from_numpy(_filled_contour(path))
    try:
        with Image.open(path) as file:
            picture = file.convert("RGBA") if file.has_transparency_data else file.convert("RGB")
            if picture.mode == "RGBA":
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
            light = np.asarray(picture.convert("L")) >= 128
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}); fetch this file again") from None
    dark_shape = polarity == "dark" or (polarity == "frame" and _frame(light).mean() > 0.5)
    shape = ~light if dark_shape else light
    if not shape.any() or shape.all():
        raise DataError(
            f"{path}: {'no' if not shape.any() else 'every'} pixel of {light.shape[1]} x {light.shape[0]} is of the "
            f"shape (polarity {polarity!r}); a silhouette has two tones"
        )
    return torch.from_numpy(shape)


def _frame(light: np.ndarray) -> np.ndarray:
    """The outermost pixels of a picture [H, W], each once."""
    inner = np.ones(light.shape, bool)
    inner[1:-1, 1:-1] = False
    return light[inner]


def _filled_contour(path: Path) -> np.ndarray:
    try:
        points = np.loadtxt(path, dtype=float, ndmin=2, delimiter="," if "," in path.read_text() else None)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a contour ({error}); expected 'x y' a line") from None
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise DataError(f"{path}: {points.shape} numbers are no contour; expected at least 3 lines 'x y'")
    extent = np.ptp(points, axis=0)
    if extent.min() <= 0:
        raise DataError(f"{path}: the contour's {len(points)} points lie on a line; fetch this file again")
    scaled = (points - points.min(0)) * (CONTOUR_SIDE / extent.max()) + 2
    width, height = np.ceil(scaled.max(0)).astype(int) + 2
    return fill([scaled], int(height), int(width))


class Silhouettes(MapDataset[dict[str, Any]]):
    """Samples of a listing: `shape` bool [H, W], `label`, `is_query`, `index` and `id`."""

    def __init__(self, listing: Sequence[Silhouette], polarity: Polarity) -> None:
        self.listing, self.polarity = listing, polarity

    def __len__(self) -> int:
        return len(self.listing)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = self.listing[index]
        return {
            "shape": load_silhouette(file.path, self.polarity),
            "label": file.label,
            "is_query": file.is_query,
            "index": int(index),
            "id": file.path.stem,
        }


def list_shapes(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples to a batch: shapes have sizes of their own and stay a list."""
    rest = [{key: value for key, value in sample.items() if key != "shape"} for sample in samples]
    return {"shape": [sample["shape"] for sample in samples], **stack_samples(rest)}


class SilhouetteFilesDataset(Dataset):
    """Serves `shape-retrieval`. All splits hold all shapes: nothing is learnt from them or selected on them.

    polarity: which tone is the shape; see the module's docstring.
    draw_classes, draw_views: so many classes, and so many shapes of each, are drawn by the seed; None: all.
        Classes are drawn by neighbouring pairs of the sorted names, so that the miniature's look-alikes meet.
    """

    tasks = ("shape-retrieval",)
    folders: ClassVar[tuple[str, ...]] = ()
    """Names that the published folder has in the wild, the first that holds silhouettes is taken."""

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        polarity: Polarity = "frame",
        draw_classes: int | None = None,
        draw_views: int | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 50, **serving})
        for name, value in (("draw_classes", draw_classes), ("draw_views", draw_views)):
            if value is not None and value < 2:
                raise ValueError(f"{self.name}: {name} must be at least 2 or None, got {value}")
        self.polarity: Polarity = polarity
        self.draw_classes, self.draw_views = draw_classes, draw_views
        self._listing: tuple[tuple[str, ...], list[Silhouette]] | None = None

    @abstractmethod
    def listed(self) -> tuple[tuple[str, ...], list[Silhouette]]:
        """All class names in label order, and all files in a fixed order."""

    def listing(self) -> tuple[tuple[str, ...], list[Silhouette]]:
        """Class names in label order and files, as drawn."""
        if self._listing is None:
            self._listing = self._drawn(*self.listed())
        return self._listing

    @property
    def spec(self) -> ShapesSpec:
        self.prepare_data()
        classes, files = self.listing()
        sizes = Counter(file.label for file in files if file.label >= 0)
        same = set(sizes.values())
        return ShapesSpec(dataset=self.name, classes=classes, group_size=same.pop() if len(same) == 1 else 0)

    @property
    def collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return list_shapes

    def read(self, split: Split) -> Silhouettes:
        return Silhouettes(self.listing()[1], self.polarity)

    def _home(self, root: Path) -> Path:
        for name in (self.name, *self.folders):
            if (root / name).is_dir() and self._holds(root / name):
                return root / name
        return root

    @classmethod
    def _holds(cls, folder: Path) -> bool:
        return all(next(folder.glob(pattern), None) is not None for pattern in cls.required)

    def _drawn(
        self, classes: tuple[str, ...], files: list[Silhouette]
    ) -> tuple[tuple[str, ...], list[Silhouette]]:
        kept = list(range(len(classes)))
        if self.draw_classes is not None and self.draw_classes < len(kept):
            pairs = random_generator(self.name, "classes", self.seed).permutation((len(kept) + 1) // 2)
            members = [label for pair in pairs.tolist() for label in (2 * pair, 2 * pair + 1)]
            kept = sorted([label for label in members if label < len(classes)][: self.draw_classes])
        place = {label: number for number, label in enumerate(kept)}
        chosen: set[Path] = set()
        for label in kept:
            views = [file.path for file in files if file.label == label]
            count = len(views) if self.draw_views is None else self.draw_views
            order = random_generator(self.name, "views", self.seed, classes[label]).permutation(len(views))
            chosen.update(views[i] for i in order[:count])
        served = [
            Silhouette(file.path, place.get(file.label, -1), file.is_query)
            for file in files
            if file.label < 0 or file.path in chosen
        ]
        return tuple(classes[label] for label in kept), served


def silhouettes_in(folder: Path) -> Iterator[Path]:
    """The picture and contour files of a folder, sorted by name without regard to case."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.name.lower(), path.name)):
        if path.suffix.lower() in (*PICTURES, ".txt") and path.name != "classes.txt":
            yield path


def numbered(path: Path) -> tuple[str, int]:
    """`<class>-<number>` of a file's stem -> class name and number; a `DataError` where it has no such form."""
    name, dash, number = path.stem.rpartition("-")
    if not name or not dash or not number.isdecimal():
        raise DataError(f"{path}: expected a name like <class>-<number>{path.suffix}; rename or remove it")
    return name, int(number)


def by_prefix(paths: Sequence[Path]) -> tuple[tuple[str, ...], list[Silhouette]]:
    """Files named `<class>-<number>` -> class names, sorted, and files by class and number, each a query."""
    keyed = sorted((*numbered(path), path) for path in paths)
    for (name, number, path), following in pairwise(keyed):
        if (name, number) == following[:2]:
            raise DataError(f"{path} and {following[2].name} are both number {number} of {name!r}; keep one")
    classes = tuple(sorted({name for name, _, _ in keyed}))
    label = {name: number for number, name in enumerate(classes)}
    return classes, [Silhouette(path, label[name]) for name, _, path in keyed]
