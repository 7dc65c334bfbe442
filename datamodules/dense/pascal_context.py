"""PASCAL-Context for edge detection: coarse edge annotations from whole-scene label maps.

Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild", CVPR 2014.

Layout under the root:
    VOCdevkit/VOC2010/JPEGImages/<id>.jpg    pictures of PASCAL VOC 2010
    trainval/<id>.mat                        `LabelMap`, uint16 [H, W] of more than 400 classes (`trainval.tar.gz`)
An edge is a pixel whose right or lower neighbour has another label. There is one "annotator", and no line inside
objects: good for learning what an object is, coarse as boundaries.

Splits: 10,103 pictures have a label map. The last of them by id are held out, 100 for validation and 100 for test
(of fewer than 1,400, a fourteenth each), because a score on pictures that were trained on says nothing; papers
that pre-train on this set use all.
Licence: pictures under Flickr's terms of use, annotations free for research.
The miniature has the same layout with 120 / 10 / 10 scenes of `datamodules/miniature/contours.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant
from datamodules.dense.bsds500 import checked_size, edge_sample, read_mat, read_picture, resize_sample
from datamodules.miniature import contours
from datamodules.specs import EdgeSpec

PICTURES = "VOCdevkit/VOC2010/JPEGImages"
TRUTHS = "trainval"


class PascalContext(Dataset):
    """PASCAL-Context's label maps as edges; options as of the other edge datasets.

    train_size: (height, width) that training pictures and edges are resized to; None keeps their own sizes.
    test_limit: only the first so many test pictures.
    """

    name = "pascal-context"
    tasks = ("edge-detection",)
    title = "PASCAL-Context"
    url = "https://cs.stanford.edu/~roozbeh/pascal-context/ and PASCAL VOC 2010"
    licence = "Flickr's terms of use for pictures, research for annotations"
    required: ClassVar[tuple[str, ...]] = (f"{PICTURES}/*.jpg", f"{TRUTHS}/*.mat")

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
        self.train_size = checked_size(train_size)
        if test_limit is not None and test_limit < 1:
            raise ValueError(f"test_limit must be positive, got {test_limit}")
        self.test_limit = test_limit

    @property
    def spec(self) -> EdgeSpec:
        tolerance = 0.0075 if self.variant == "real" else contours.tolerance(0.0075)
        return EdgeSpec(dataset=self.name, annotators=1, max_distance=tolerance)

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        truths = sorted((self.root / TRUTHS).glob("*.mat"))
        held_out = min(100, len(truths) // 14)
        if held_out == 0:
            raise DataError(f"{self.root / TRUTHS}: {len(truths)} label maps are too few for three splits")
        first_val, first_test = len(truths) - 2 * held_out, len(truths) - held_out
        chosen = {
            "train": truths[:first_val],
            "val": truths[first_val:first_test],
            "test": truths[first_test:][: self.test_limit],
        }[split]
        pairs = [(self.root / PICTURES / f"{truth.stem}.jpg", truth) for truth in chosen]
        if missing := [picture for picture, _ in pairs if not picture.is_file()]:
            raise DataError(f"{len(missing)} label maps have no picture, the first missing is {missing[0]}")
        return LabelMapEdges(pairs, self.train_size if split == "train" else None)

    @classmethod
    def render(cls, folder: Path) -> None:
        contours.render_context(folder / PICTURES, folder / TRUTHS)


class LabelMapEdges(MapDataset[dict[str, Any]]):
    """Pictures with the boundaries of their label maps, decoded once and kept while they are few.

    keep: pictures to hold in memory; 10,000 of 400 x 400 would take 6 GB.
    """

    def __init__(
        self, pairs: list[tuple[Path, Path]], size: tuple[int, int] | None = None, keep: int = 1000
    ) -> None:
        self.pairs, self.size, self.keep = pairs, size, keep
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        planes = self._kept.get(index) or self._load(*self.pairs[index])
        if len(self._kept) < self.keep:
            self._kept[index] = planes
        return edge_sample(*planes, 1, self.pairs[index][0].stem)

    def _load(self, picture: Path, truth: Path) -> tuple[Tensor, Tensor]:
        image, labels = read_picture(picture), read_mat(truth, "LabelMap")
        if labels.shape != image.shape[:2]:
            raise DataError(f"{truth}: LabelMap is {labels.shape}, but {picture.name} is {image.shape[:2]}")
        edges = torch.from_numpy(contours.boundaries(labels))[None]
        planes = torch.from_numpy(image).permute(2, 0, 1), edges
        return resize_sample(*planes, self.size) if self.size else planes
