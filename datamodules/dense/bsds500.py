"""BSDS500: natural pictures whose boundaries were drawn by about five people each.

Arbelaez, Maire, Fowlkes & Malik, "Contour Detection and Hierarchical Image Segmentation", TPAMI 2011.

Layout under the root (a root that points at `BSDS500` itself is accepted too):
    BSDS500/data/images/{train,val,test}/<id>.jpg        481x321 or 321x481
    BSDS500/data/groundTruth/{train,val,test}/<id>.mat   a 1xN cell `groundTruth`, each entry a struct with
                                                         `Segmentation` (uint16) and `Boundaries` (0/1)
Splits: 200 train, 100 val (for hyper-parameters only), 200 test.

Pictures are served at their own size, in both orientations: batches of one, unless `train_size` makes them equal.
Licence: free for non-commercial research and education.
The benchmark's tolerance is .0075 of the diagonal, 4.3 pixels.

The miniature has the same layout with 96x64 and 64x96 scenes of `datamodules/miniature/contours.py`: 60 / 20 / 20.
There .0075 would be less than one pixel and forbid any displacement; see `contours.tolerance`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from scipy.io import loadmat
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant
from datamodules.miniature import contours
from datamodules.specs import EdgeSpec

FOLDER = "BSDS500/data"
ANNOTATORS = 9
"""Nobody drew more than nine maps of one picture."""


class BSDS500(Dataset):
    """BSDS500 for edge detection.

    train_size: (height, width) that pictures and annotators' maps of the *training* split are resized to (see
        `resize_sample`); None keeps their own sizes, which then take a batch size of 1.
    test_limit: only the first so many test pictures, by id, for quick runs.
    """

    name = "bsds500"
    tasks = ("edge-detection",)
    title = "BSDS500 (Berkeley Segmentation Data Set and Benchmarks 500)"
    url = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html"
    licence = "non-commercial research and education"
    required: ClassVar[tuple[str, ...]] = tuple(
        f"{FOLDER}/{kind}/{split}/*.{ending}"
        for kind, ending in (("images", "jpg"), ("groundTruth", "mat"))
        for split in ("train", "val", "test")
    )

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        train_size: tuple[int, int] | None = None,
        test_limit: int | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **serving)
        if variant == "real" and self.root.name == "BSDS500":
            self.root = self.root.parent
        self.train_size = checked_size(train_size)
        if test_limit is not None and test_limit < 1:
            raise ValueError(f"test_limit must be positive, got {test_limit}")
        self.test_limit = test_limit

    @property
    def spec(self) -> EdgeSpec:
        return EdgeSpec(
            dataset=self.name,
            annotators=ANNOTATORS if self.variant == "real" else contours.ANNOTATORS,
            max_distance=0.0075 if self.variant == "real" else contours.tolerance(0.0075),
        )

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        pairs = paired_files(
            self.root / FOLDER / "images" / split, self.root / FOLDER / "groundTruth" / split
        )
        if split == "test":
            pairs = pairs[: self.test_limit]
        return EdgePictures(pairs, self.spec.annotators, self.train_size if split == "train" else None)

    @classmethod
    def render(cls, folder: Path) -> None:
        contours.render_bsds(folder / FOLDER)


class EdgePictures(MapDataset[dict[str, Any]]):
    """Pictures with maps in the BSDS MAT layout, decoded once and kept (200 of BSDS500 take about 0.3 GB)."""

    def __init__(
        self, pairs: list[tuple[Path, Path]], annotators: int, size: tuple[int, int] | None = None
    ) -> None:
        self.pairs, self.annotators, self.size = pairs, annotators, size
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index not in self._kept:
            self._kept[index] = self._load(*self.pairs[index])
        image, edges = self._kept[index]
        return edge_sample(image, edges, self.annotators, self.pairs[index][0].stem)

    def _load(self, picture: Path, truth: Path) -> tuple[Tensor, Tensor]:
        image, maps = read_picture(picture), read_boundaries(truth)
        if image.shape[:2] != maps.shape[1:]:
            raise DataError(
                f"{truth}: Boundaries are {maps.shape[1:]}, but {picture.name} is {image.shape[:2]}"
            )
        if len(maps) > self.annotators:
            raise DataError(f"{truth}: {len(maps)} annotators, at most {self.annotators} are known of")
        planes = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(maps)
        return resize_sample(*planes, self.size) if self.size else planes


def edge_sample(image: Tensor, edges: Tensor, annotators: int, identity: str) -> dict[str, Any]:
    """A sample from a picture uint8 [3, H, W] and its maps uint8 [N, H, W], padded to `annotators` maps."""
    padded = edges.new_zeros(annotators, *edges.shape[1:])
    padded[: len(edges)] = edges
    return {"image": image.float() / 255, "edges": padded, "annotators": len(edges), "id": identity}


def resize_sample(image: Tensor, edges: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize a picture uint8 [3, h, w] and its maps uint8 [N, h, w] to `size` (H, W).

    The picture bilinearly, with antialiasing where it shrinks. A map keeps its lines whole and thin: where an axis
    shrinks, each pixel moves to the one output pixel that holds its centre, and edge wins over no edge; where it
    grows, each output pixel takes the input pixel under its centre. (Bilinear weights and a threshold would
    break lines that are one pixel wide.) Votes of annotators are to be counted after this.
    """
    resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True, align_corners=False)
    for axis, new in enumerate(size, start=1):
        old = edges.shape[axis]
        if new < old:
            target = ((torch.arange(old) + 0.5) * new / old).long()
            shape = list(edges.shape)
            shape[axis] = new
            edges = (torch.zeros(shape).index_add(axis, target, edges.float()) > 0).to(torch.uint8)
        elif new > old:
            edges = edges.index_select(axis, ((torch.arange(new) + 0.5) * old / new).long())
    return resized[0].round().clamp(0, 255).to(torch.uint8), edges


def checked_size(size: tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) as a tuple of two positive numbers, or None; anything else is a `ValueError`."""
    if size is None:
        return None
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"train_size must be (height, width), got {size}")
    return int(size[0]), int(size[1])


def paired_files(pictures: Path, truths: Path) -> list[tuple[Path, Path]]:
    """Each picture `<id>.jpg` or `<id>.png` with its `<id>.mat`, in the order of ids."""
    found = sorted(path for path in pictures.glob("*") if path.suffix.lower() in (".jpg", ".png"))
    if not found:
        raise DataError(f"{pictures}: no pictures")
    pairs = [(path, truths / f"{path.stem}.mat") for path in found]
    if missing := [truth for _, truth in pairs if not truth.is_file()]:
        raise DataError(f"{len(missing)} pictures have no ground truth, the first without is {missing[0]}")
    return pairs


def read_picture(path: Path) -> np.ndarray:
    """An RGB picture, uint8 [H, W, 3]."""
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path}: not a readable picture ({error}); fetch it again") from error


def read_mat(path: Path, key: str) -> Any:
    """One variable of a MAT file."""
    try:
        content = loadmat(path)
    except Exception as error:  # SciPy raises a dozen kinds on damaged files
        raise DataError(f"{path}: not a readable MAT file ({error}); fetch it again") from error
    if key not in content:
        known = [name for name in content if not name.startswith("__")]
        raise DataError(f"{path}: has no {key!r}, only {', '.join(known) or 'nothing'}")
    return content[key]


def read_boundaries(path: Path) -> np.ndarray:
    """The annotators' boundary maps of a BSDS ground-truth file: 0/1 uint8 [N, H, W]."""
    cell = read_mat(path, "groundTruth")
    if cell.dtype != object or cell.size == 0:
        raise DataError(f"{path}: `groundTruth` must be a 1xN cell, got {cell.dtype} {cell.shape}")
    maps = []
    for number, entry in enumerate(cell.reshape(-1)):
        if entry.dtype.names is None or "Boundaries" not in entry.dtype.names:
            raise DataError(
                f"{path}: groundTruth{{{number + 1}}} has no field `Boundaries`: {entry.dtype.names}"
            )
        boundaries = entry["Boundaries"].reshape(-1)[0]
        if boundaries.ndim != 2 or (maps and boundaries.shape != maps[0].shape):
            raise DataError(f"{path}: Boundaries of annotator {number + 1} have shape {boundaries.shape}")
        maps.append((np.asarray(boundaries) > 0).astype(np.uint8))
    return np.stack(maps)
