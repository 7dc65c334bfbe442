"""RGB-D Object Dataset: household objects on a turntable, here six yaw poses of 15 or of 6 categories.

Format: `<category>/<category>_<instance>/<category>_<instance>_<video>_<frame>_crop.png`, a video a height of the
camera (1, 2 and 4), in each the frames of one whole turn. All of it may lie in `rgbd-dataset/`; depth, mask and
location files beside the pictures are passed over.
Poses: pose k of 6 is the turn by 60 (k - 1) degrees, the angle of a frame its share of the video's last frame; of each
pose the frames within `tolerance` degrees are read. The papers chose similar poses by eye. Video 1 alone: one pitch.
Categories (`categories`)
    hard     marker, comb, toothbrush, stapler, lightbulb, sponge, which look alike (ECCV 2020, section 4.4)
    fifteen  those and nine with large changes between poses, chosen here, for the paper's list isn't public
Training sets (`training_set`): p-ub-1, p-ub-2, p-ub-3 have 1, 2 or 3 poses of each category, drawn once; p-b all six.
    `rgbd-objects-1` and `rgbd-objects-2` are the same data with p-ub-1 and p-ub-2 by default.
Splits: a tenth of each category's instances (one at least), drawn once, are the test split; no validation split.
Reading: crops of any shape are resized to a square. See datamodules/recognition/posed_images.py for samples.
Licence: non-commercial research and education.
Citation: K. Lai, L. Bo, X. Ren, D. Fox, "A Large-Scale Hierarchical Multi-View RGB-D Object Dataset", ICRA 2011.

The miniature: 64 x 64 renders, served at 16 x 16 by default, of the six hard categories as small solids (`categories`
has no effect there but in the real files), 5 training and 3 test instances each, one frame of video 1 a pose.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Unpack

import numpy as np
from PIL import Image

from datamodules.base import DataError, Serving, Variant, random_generator
from datamodules.miniature.posed_solids import HOUSEHOLD, household, shoot, texture
from datamodules.recognition.posed_images import Posed, PosedImagesDataset

TrainingSet = Literal["p-ub-1", "p-ub-2", "p-ub-3", "p-b"]
Categories = Literal["hard", "fifteen"]
HARD = ("comb", "lightbulb", "marker", "sponge", "stapler", "toothbrush")
FIFTEEN = (
    "binder", "calculator", "camera", "cap", "cell_phone", "coffee_mug", "comb", "flashlight", "keyboard",
    "lightbulb", "marker", "pliers", "sponge", "stapler", "toothbrush",
)  # fmt: skip
NAME = re.compile(r"([a-z_]+)_(\d+)_(\d+)_(\d+)_crop\.png")
VIDEO = 1
SIDE, INSTANCES, FRAMES, ELEVATION = 64, 8, 6, 30.0


class RGBDObjects(PosedImagesDataset):
    """Serves `pose-transformation` and `image-classification`; see the module's docstring.

    training_set: which poses training has; None: the dataset's own, p-ub-3. categories: which categories are
    read. tolerance: degrees by
    which a frame may miss its pose; at most 30. image_size, test_share: see `PosedImagesDataset`.
    """

    name = "rgbd-objects"
    tasks = ("pose-transformation", "image-classification")
    title = "RGB-D Object Dataset (six yaw poses)"
    url = "https://rgbd-dataset.cs.washington.edu/dataset/rgbd-dataset/"
    licence = "non-commercial research and education"
    required: ClassVar[tuple[str, ...]] = tuple(
        f"{kind}/{kind}_*/{kind}_*_{VIDEO}_*_crop.png" for kind in HARD
    )
    pitches = 1
    drawn_as = "rgbd-objects"
    own_training_set: ClassVar[TrainingSet] = "p-ub-3"

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        training_set: TrainingSet | None = None,
        categories: Categories = "hard",
        tolerance: float = 10.0,
        image_size: int | None = None,
        test_share: float | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, image_size=image_size, test_share=test_share, **serving)
        if not 0 < tolerance <= 180 / self.yaws:
            raise ValueError(
                f"{self.name}: tolerance must be in (0, {180 / self.yaws:g}] degrees, got {tolerance}"
            )
        self.training_set = self.own_training_set if training_set is None else training_set
        self.categories, self.tolerance = categories, tolerance

    def _home(self, root: Path) -> Path:
        names = (self.name, self.drawn_as, "rgbd-dataset")
        return next((root / name for name in names if (root / name).is_dir()), root)

    @property
    def classes(self) -> tuple[str, ...]:
        return FIFTEEN if self.categories == "fifteen" and self.variant == "real" else HARD

    def seen(self) -> Mapping[str, Sequence[int]]:
        count = self.yaws if self.training_set == "p-b" else int(self.training_set[-1])
        return {
            kind: random_generator(self.drawn_as, "poses", kind).permutation(self.yaws)[:count].tolist()
            for kind in self.classes
        }

    def pose_of(self, frame: int, last: int) -> int | None:
        """The yaw pose (1..6) of a frame of a video with frames 1..last, one turn; None between poses."""
        degrees = 360.0 * (frame - 1) / last
        step = 360.0 / self.yaws
        nearest = round(degrees / step)
        return nearest % self.yaws + 1 if abs(degrees - nearest * step) <= self.tolerance else None

    def pictures(self) -> list[Posed]:
        found = []
        for kind in self.classes:
            videos: dict[str, list[tuple[int, Path]]] = defaultdict(list)
            for path in sorted(self.root.glob(f"{kind}/{kind}_*/*_crop.png")):
                match = NAME.fullmatch(path.name)
                if match is None or (match[1], f"{match[1]}_{match[2]}") != (kind, path.parent.name):
                    raise DataError(
                        f"{path}: expected a name such as {path.parent.name}_1_23_crop.png; remove the file or give it "
                        "its published name"
                    )
                if int(match[3]) == VIDEO:
                    videos[match[2]].append((int(match[4]), path))
            if not videos:
                raise DataError(
                    f"{self.name}: no pictures of {kind!r} under {self.root}\n{self.instructions()}"
                )
            for instance, frames in sorted(videos.items()):
                last = max(frame for frame, _ in frames)
                taken: dict[int, int] = defaultdict(int)
                for frame, path in sorted(frames):
                    yaw = self.pose_of(frame, last)
                    if yaw is None:
                        continue
                    found.append(
                        Posed(
                            id=path.relative_to(self.root).as_posix(),
                            path=path,
                            kind=kind,
                            pose=(yaw, 1),
                            instance=instance,
                            # The nth frames of all poses make a scene: one picture a pose.
                            scene=f"{kind}_{instance}_{VIDEO}_{taken[yaw]:04d}",
                            mask=self._mask_of(path),
                        )
                    )
                    taken[yaw] += 1
        return found

    def _mask_of(self, path: Path) -> Path | None:
        """Of the miniature alone: published masks have holes where depth is missing."""
        mask = path.with_name(path.name.replace("_crop.png", "_maskcrop.png"))
        return mask if self.variant == "miniature" else None

    @classmethod
    def render(cls, folder: Path) -> None:
        for kind in HOUSEHOLD:
            for instance in range(1, INSTANCES + 1):
                out = folder / kind / f"{kind}_{instance}"
                out.mkdir(parents=True)
                solids = household(kind, random_generator(cls.drawn_as, kind, instance))
                backdrop = texture(random_generator(cls.drawn_as, "table", kind, instance), SIDE)
                for frame in range(1, FRAMES + 1):
                    shot = shoot(solids, 45 + 360.0 * (frame - 1) / FRAMES, ELEVATION, SIDE, backdrop)
                    stem = f"{kind}_{instance}_{VIDEO}_{frame}"
                    pixels = (255 * shot.picture).round().astype(np.uint8)
                    Image.fromarray(pixels).save(out / f"{stem}_crop.png")
                    Image.fromarray(shot.mask.astype(np.uint8) * 255).save(out / f"{stem}_maskcrop.png")


class RGBDObjects1(RGBDObjects):
    """The same pictures with one pose a category in training: trials that need each other agree on it by name."""

    name = "rgbd-objects-1"
    title = "RGB-D Object Dataset (one training pose a category)"
    own_training_set = "p-ub-1"


class RGBDObjects2(RGBDObjects):
    """As `RGBDObjects1`, with two poses a category."""

    name = "rgbd-objects-2"
    title = "RGB-D Object Dataset (two training poses a category)"
    own_training_set = "p-ub-2"
