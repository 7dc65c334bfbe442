"""iLab-20M: toy vehicles on a turntable, here the six yaw poses of ten classes that pose transformation uses.

Format: a folder a pose, `c<camera>_r<rotation>/`, in each JPEG files named
    `<class>-i<instance>-b<background>-c<camera>-r<rotation>-l<light>-f<focus>.jpg`
    (`c00_r01/boat-i0008-b0077-c00-r01-l0-f1.jpg`). The turntable turns by 45 degrees a rotation; the six poses are
    rotations 1, 2, 3, 4, 6, 7, steps that are not equal. All of it may lie in a folder `ilab-20m/`.
Classes: boat, bus, car, mil, monster, pickup, semi, tank, train, van; files of other classes are passed over.
Training sets (`training_set`)
    p-ub  of boat, car, semi, tank and van all poses, of bus, mil, monster, pickup and train poses 2 and 5 alone
    p-b   all poses of all classes
Splits: the papers test on other instances, without saying which; here a tenth of each class's instances, drawn
    once. No validation split. See datamodules/recognition/posed_images.py for samples.
Pitch: each camera of `cameras` is a pitch level, in that order. `ilab-20m` has camera 0 alone, the papers' main set;
    `ilab-20m-pitch` cameras 0, 1 and 2, in folders named alike, for poses in two dimensions.
Licence: research use.
Citation: A. Borji, S. Izadi, L. Itti, "iLab-20M: A Large-Scale Controlled Object Dataset to Investigate Deep
    Learning", CVPR 2016. Pose sets: Y. Ge, J. Zhao, L. Itti, "Pose Augmentation", ECCV 2020.

The miniature: 64 x 64 renders of small 3-D vehicles, served at 16 x 16 by default; 8 training and 4 test instances
a class before one background each: p-b 480 pictures, p-ub 320, test 240. Cameras 0, 1 and 2 look down by 20, 35
and 50 degrees; with pitch there are 4 and 2 instances. `masks/` holds the exact foreground, PNG under the pictures'
names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Unpack

import numpy as np
from PIL import Image

from datamodules.base import DataError, Serving, Variant, random_generator
from datamodules.miniature.posed_solids import VEHICLES, shoot, texture, vehicle
from datamodules.recognition.posed_images import Posed, PosedImagesDataset, pose_number

TrainingSet = Literal["p-ub", "p-b"]
CLASSES = ("boat", "bus", "car", "mil", "monster", "pickup", "semi", "tank", "train", "van")
BALANCED = ("boat", "car", "semi", "tank", "van")
FEW_YAWS = (2, 5)
ROTATIONS = (1, 2, 3, 4, 6, 7)
NAME = re.compile(r"([a-z0-9]+)-i(\d+)-b(\d+)-c(\d+)-r(\d+)-l(\d+)-f(\d+)\.jpg")
MASKS = "masks"
SIDE = 64
ELEVATIONS = (20.0, 35.0, 50.0)


class ILab20M(PosedImagesDataset):
    """Serves `pose-transformation` and `image-classification`; see the module's docstring.

    training_set: which poses training has. cameras: whose pictures are read, each a pitch level; None: those of the
    dataset's name. image_size, test_share: see `PosedImagesDataset`.
    """

    name = "ilab-20m"
    tasks = ("pose-transformation", "image-classification")
    title = "iLab-20M (six yaw poses)"
    url = "https://bmobear.github.io/projects/viva/"
    licence = "research use"
    required: ClassVar[tuple[str, ...]] = tuple(f"c00_r{rotation:02d}/*.jpg" for rotation in ROTATIONS)
    classes = CLASSES
    own_cameras: ClassVar[tuple[int, ...]] = (0,)
    instances: ClassVar[int] = 12
    """Of a class in the miniature."""

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        training_set: TrainingSet = "p-ub",
        cameras: tuple[int, ...] | None = None,
        image_size: int | None = None,
        test_share: float | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, image_size=image_size, test_share=test_share, **serving)
        cameras = self.own_cameras if cameras is None else tuple(cameras)
        if not cameras or len(set(cameras)) != len(cameras):
            raise ValueError(f"{self.name}: cameras must be different numbers, one at least, got {cameras}")
        self.training_set, self.cameras = training_set, cameras

    def _home(self, root: Path) -> Path:
        return next((root / name for name in (self.name, ILab20M.name) if (root / name).is_dir()), root)

    @property
    def pitches(self) -> int:
        return len(self.cameras)

    def seen(self) -> Mapping[str, Sequence[int]]:
        every = range(1, self.yaws + 1)
        return {
            kind: [
                pose_number((yaw, pitch), self.yaws)
                for pitch in range(1, self.pitches + 1)
                for yaw in (every if self.training_set == "p-b" or kind in BALANCED else FEW_YAWS)
            ]
            for kind in CLASSES
        }

    def pictures(self) -> list[Posed]:
        found = []
        for pitch, camera in enumerate(self.cameras, start=1):
            for yaw, rotation in enumerate(ROTATIONS, start=1):
                folder = f"c{camera:02d}_r{rotation:02d}"
                files = sorted((self.root / folder).glob("*.jpg"))
                if not files:
                    raise DataError(
                        f"{self.name}: no pictures in {self.root / folder}\n{self.instructions()}"
                    )
                for path in files:
                    match = NAME.fullmatch(path.name)
                    if match is None or (int(match[4]), int(match[5])) != (camera, rotation):
                        raise DataError(
                            f"{path}: expected a name such as boat-i0008-b0077-c{camera:02d}-r{rotation:02d}-l0-f1.jpg "
                            f"in {folder}; remove the file or give it its published name"
                        )
                    kind, instance, background, _, _, light, focus = match.groups()
                    if kind not in CLASSES:
                        continue
                    mask = self.root / MASKS / folder / f"{path.stem}.png"
                    found.append(
                        Posed(
                            id=f"{folder}/{path.name}",
                            path=path,
                            kind=kind,
                            pose=(yaw, pitch),
                            instance=instance,
                            scene=f"{kind}-i{instance}-b{background}-l{light}-f{focus}",
                            mask=mask if self.variant == "miniature" else None,
                        )
                    )
        return found

    @classmethod
    def render(cls, folder: Path) -> None:
        for camera in cls.own_cameras:
            for rotation in ROTATIONS:
                for base in (folder, folder / MASKS):
                    (base / f"c{camera:02d}_r{rotation:02d}").mkdir(parents=True)
        for kind in VEHICLES:
            for instance in range(1, cls.instances + 1):
                solids = vehicle(kind, random_generator(ILab20M.name, kind, instance))
                backdrop = texture(random_generator(ILab20M.name, "background", kind, instance), SIDE)
                background = int(random_generator(ILab20M.name, "number", kind, instance).integers(1, 200))
                for camera in cls.own_cameras:
                    for rotation in ROTATIONS:
                        shot = shoot(solids, 45.0 * rotation, ELEVATIONS[camera], SIDE, backdrop)
                        pose = f"c{camera:02d}_r{rotation:02d}"
                        stem = f"{kind}-i{instance:04d}-b{background:04d}-{pose.replace('_', '-')}-l0-f1"
                        pixels = (255 * shot.picture).round().astype(np.uint8)
                        Image.fromarray(pixels).save(folder / pose / f"{stem}.jpg", quality=95, subsampling=0)
                        Image.fromarray(shot.mask.astype(np.uint8) * 255).save(
                            folder / MASKS / pose / f"{stem}.png"
                        )


class ILab20MPitch(ILab20M):
    """The same vehicles at three pitch levels: poses are points in two dimensions."""

    name = "ilab-20m-pitch"
    title = "iLab-20M (six yaw poses at three pitch levels)"
    required: ClassVar[tuple[str, ...]] = tuple(
        f"c{camera:02d}_r{rotation:02d}/*.jpg" for camera in (0, 1, 2) for rotation in ROTATIONS
    )
    own_cameras = (0, 1, 2)
    instances = 6
