"""NYUD v2 for edge detection across datasets: indoor pictures, tested with a model of another dataset.

Silberman, Hoiem, Kohli & Fergus, "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012;
boundaries in the layout of BSDS500 after Gupta, Arbelaez & Malik, CVPR 2013.

Layout under the root:
    NYUDv2/data/images/test/<id>.png (or .jpg)    colour pictures, no depth
    NYUDv2/data/groundTruth/test/<id>.mat         cell `groundTruth` of structs with `Boundaries`, as BSDS500 has it
Splits: test only, 654 pictures. Scores are reported at two tolerances, .0075 and, because these outlines are less
exact, .011 of the diagonal.
Licence: research.
The miniature has the same layout with ten scenes of `datamodules/miniature/contours.py` in a warm light.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant
from datamodules.dense.bsds500 import EdgePictures, checked_size, paired_files
from datamodules.miniature import contours
from datamodules.specs import EdgeSpec

FOLDER = "NYUDv2/data"


class NYUDv2Edges(Dataset):
    """NYUD v2's test pictures as edge detection.

    max_distance: the benchmark's tolerance, as a fraction of the diagonal.
    train_size: taken for the sake of one set of options for all edge datasets; there is no training split.
    test_limit: only the first so many pictures.
    """

    name = "nyud-v2-edges"
    tasks = ("edge-detection",)
    title = "NYU Depth v2, colour pictures with boundaries"
    url = "https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html"
    licence = "research"
    required: ClassVar[tuple[str, ...]] = (f"{FOLDER}/images/test/*", f"{FOLDER}/groundTruth/test/*.mat")

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        max_distance: Literal[0.0075, 0.011] = 0.0075,
        train_size: tuple[int, int] | None = None,
        test_limit: int | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **serving)
        if max_distance not in (0.0075, 0.011):
            raise ValueError(f"max_distance must be .0075 or .011, got {max_distance}")
        if test_limit is not None and test_limit < 1:
            raise ValueError(f"test_limit must be positive, got {test_limit}")
        self.max_distance, self.test_limit = max_distance, test_limit
        self.train_size = checked_size(train_size)

    @property
    def spec(self) -> EdgeSpec:
        real = self.variant == "real"
        return EdgeSpec(
            dataset=self.name,
            annotators=1 if real else contours.ANNOTATORS,
            max_distance=self.max_distance if real else contours.tolerance(self.max_distance),
        )

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        if split != "test":
            raise DataError(
                f"{self.name} has no {split} split: it tests what was trained on another edge dataset"
            )
        folder = self.root / FOLDER
        pairs = paired_files(folder / "images" / split, folder / "groundTruth" / split)
        return EdgePictures(pairs[: self.test_limit], self.spec.annotators)

    @classmethod
    def render(cls, folder: Path) -> None:
        contours.render_nyud(folder / FOLDER)
