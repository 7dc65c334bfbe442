"""KITTI object detection: LiDAR scans with oriented boxes of cars, pedestrians and cyclists.

Layout (of `data_object_{velodyne,label_2,calib,image_2}.zip`, with the split of Chen et al., NeurIPS 2015):
    training/velodyne/NNNNNN.bin   float32 x 4: x ahead, y left, z up (metres), remission 0..1
    training/label_2/NNNNNN.txt    a line an object: type, truncation, occlusion, alpha, rectangle (left, top, right,
                                   bottom), height, width, length, foot x, y, z (rectified camera), rotation_y
    training/calib/NNNNNN.txt      P0 to P3, R0_rect, Tr_velo_to_cam, Tr_imu_to_velo
    training/image_2/NNNNNN.png    optional: only its size is read; without it images are 1242 x 375
    ImageSets/{train,val}.txt      names of the frames: 3,712 and 3,769
The test split is val: the labels of KITTI's own test set are not public. Recipes must not select on it.

Boxes are served in the scan's axes: (x, y, z) of the centre, length, width, height in metres, yaw from x towards y.
A foot in rectified camera coordinates becomes a place in the scan by the inverses of R0_rect and Tr_velo_to_cam, its
height is raised by half the box's, and yaw = -rotation_y - pi / 2 (camera and scan are taken to differ by quarter
turns only, as all published readers do).

Difficulty (the benchmark's): 0 easy: rectangle at least 40 pixels high, occlusion 0, truncation <= 0.15; 1 moderate:
25, 1, 0.30; 2 hard: 25, 2, 0.50; 3: harder, never counts. A van neighbours a car and a sitting person a pedestrian:
they are no truth, and no error to find. DontCare lines are regions of the image. Other types are left out.

Points behind the camera or outside its image are dropped, as labels exist only there; so are points outside
`point_range`, and objects whose centre is.

Training may fill up scenes with objects of other scenes (`sampled_objects`; see `pasted_objects.py`). The objects, of
difficulty 0 to 2 with at least `least_points` points, are read from the whole training split when it is opened (minutes
and about 200 MB for the real one). Public code lowers pasted objects to the road plane of the scene, from files that
aren't part of KITTI: not here.

Miniature: 14 + 6 frames of `datamodules/miniature/kitti_objects.py` (up to 26 m).

Licence: CC BY-NC-SA 3.0.
Citation: Geiger, Lenz & Urtasun, Are we ready for Autonomous Driving? The KITTI Vision Benchmark Suite, CVPR 2012.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature import kitti_objects
from datamodules.pointcloud.pasted_objects import FilledFrames
from datamodules.specs import LidarBoxesSpec

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

CLASSES = ("Car", "Pedestrian", "Cyclist")
NEIGHBOURS = {"Van": "Car", "Person_sitting": "Pedestrian"}
LEFT_OUT = ("Truck", "Tram", "Misc")
MIN_HEIGHTS, MAX_OCCLUSIONS, MAX_TRUNCATIONS = (40.0, 25.0, 25.0), (0, 1, 2), (0.15, 0.30, 0.50)
POINT_RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
MEAN_BOXES = ((3.9, 1.6, 1.56, -1.78), (0.8, 0.6, 1.73, -0.6), (1.76, 0.6, 1.73, -0.6))
"""Of the real training set, as all public implementations of SECOND have them; heights of the bottom included, which
for pedestrians and cyclists are rather those of the centre."""
PALETTE = ((60, 140, 255), (255, 90, 60), (60, 210, 90))

MINI_RANGE = (0.0, -12.8, -3.0, 25.6, 12.8, 1.0)
MINI_SIZES = {"train": 14, "val": 6}
IMAGE_SIZE = (1242, 375)
FIELDS = 15


class KittiObject(Dataset):
    """Batches of `lidar-detection`.

    max_train_scans: train on so many frames only, spread evenly; None: all.
    sampled_objects: objects of each class up to which a training scene is filled; none: scenes as they are.
    least_points: points that an object needs to be pasted.
    """

    name = "kitti-object"
    tasks = ("lidar-detection",)
    title = "KITTI object detection (velodyne, calibration and labels)"
    url = "https://www.cvlibs.net/datasets/kitti/eval_object.php?obj_benchmark=3d"
    licence = "CC BY-NC-SA 3.0"
    required = (
        "training/velodyne/*.bin",
        "training/label_2/*.txt",
        "training/calib/*.txt",
        "ImageSets/train.txt",
        "ImageSets/val.txt",
    )

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        max_train_scans: int | None = None,
        sampled_objects: Sequence[int] = (),
        least_points: int = 5,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **serving)
        if max_train_scans is not None and max_train_scans < 1:
            raise ValueError(f"{self.name}: max_train_scans must be positive, not {max_train_scans}")
        if sampled_objects and len(sampled_objects) != len(CLASSES):
            raise ValueError(
                f"{self.name}: sampled_objects must be a number for each of {', '.join(CLASSES)}"
            )
        if least_points < 1 or min(sampled_objects, default=0) < 0:
            raise ValueError(f"{self.name}: least_points must be positive, and no sampled_objects negative")
        self.max_train_scans, self.least_points = max_train_scans, least_points
        self.sampled_objects = tuple(sampled_objects)

    @property
    def point_range(self) -> tuple[float, ...]:
        return MINI_RANGE if self.variant == "miniature" else POINT_RANGE

    @cached_property
    def spec(self) -> LidarBoxesSpec:  # type: ignore[override]
        self.prepare_data()
        return LidarBoxesSpec(
            dataset=self.name,
            classes=CLASSES,
            point_range=self.point_range,
            mean_boxes=_mean_boxes(self._frames("train")) if self.variant == "miniature" else MEAN_BOXES,
            min_overlaps=(0.7, 0.5, 0.5),
            min_heights=MIN_HEIGHTS,
            palette=PALETTE,
        )

    @property
    def collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return concatenate_frames

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        self.prepare_data()
        frames = Frames(self._frames(split), self.point_range)
        if split != "train" or not any(self.sampled_objects):
            return frames
        return FilledFrames(frames, self.sampled_objects, self.least_points, self.seed)

    def _frames(self, split: Split) -> list[FrameFiles]:
        listed = self.root / "ImageSets" / ("train.txt" if split == "train" else "val.txt")
        names = listed.read_text().split()
        if not names:
            raise DataError(f"{listed}: no frame is listed")
        if split == "train" and self.max_train_scans is not None and self.max_train_scans < len(names):
            places = np.linspace(0, len(names) - 1, self.max_train_scans).round().astype(int)
            names = [names[place] for place in places]
        frames = [FrameFiles(self.root / "training", name) for name in names]
        for frame in frames:
            for path in (frame.scan, frame.label, frame.calibration):
                if not path.is_file():
                    raise DataError(f"{self.name}: {path} is missing, but {listed} lists {frame.name}")
        return frames

    @classmethod
    def render(cls, folder: Path) -> None:
        home = folder / "training"
        for part in ("velodyne", "label_2", "calib"):
            (home / part).mkdir(parents=True)
        (folder / "ImageSets").mkdir()
        first = 0
        for split, size in MINI_SIZES.items():
            names = [f"{number:06d}" for number in range(first, first + size)]
            for name in names:
                frame = kitti_objects.render_frame(random_generator("kitti-object", name))
                frame.points.astype("<f4").tofile(home / "velodyne" / f"{name}.bin")
                (home / "label_2" / f"{name}.txt").write_text("".join(f"{line}\n" for line in frame.labels))
                (home / "calib" / f"{name}.txt").write_text(kitti_objects.calibration_text())
            (folder / "ImageSets" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
            first += size


@dataclass(frozen=True)
class FrameFiles:
    """Where a frame lies. home: the folder `training`."""

    home: Path
    name: str

    @property
    def scan(self) -> Path:
        return self.home / "velodyne" / f"{self.name}.bin"

    @property
    def label(self) -> Path:
        return self.home / "label_2" / f"{self.name}.txt"

    @property
    def calibration(self) -> Path:
        return self.home / "calib" / f"{self.name}.txt"

    @property
    def image(self) -> Path:
        return self.home / "image_2" / f"{self.name}.png"


@dataclass(frozen=True)
class Calibration:
    """projection: [3, 4] of the left colour camera; rectified: [4, 4] from the scan's axes to the camera's."""

    projection: Doubles
    rectified: Doubles

    @property
    def to_image(self) -> Doubles:
        """From the scan's axes to homogeneous pixels, [3, 4]."""
        return self.projection @ self.rectified

    def to_scan(self, points: Doubles) -> Doubles:
        """Rectified camera coordinates [N, 3] -> the scan's [N, 3]."""
        rotation, shift = self.rectified[:3, :3], self.rectified[:3, 3]
        return np.linalg.solve(rotation, (points - shift).T).T


@dataclass(frozen=True)
class Objects:
    """The annotation of a frame. boxes: [M, 7] in the scan's axes; rectangle: [M, 4] pixels; label: [M];
    difficulty: [M] 0..3; neighbour: bool [M], of a class that neighbours `label`; regions: [K, 4] DontCare pixels."""

    boxes: Floats
    rectangle: Floats
    label: NDArray[np.int64]
    difficulty: NDArray[np.int64]
    neighbour: NDArray[np.bool_]
    regions: Floats


def read_scan(file: Path) -> Floats:
    """Points float32 [N, 4]; `DataError` where the file is empty, cut off or not finite."""
    size = file.stat().st_size
    if size == 0 or size % 16:
        raise DataError(f"{file}: {size} bytes, expected a positive multiple of 16 (4 float32 a point)")
    points = np.fromfile(file, dtype="<f4").reshape(-1, 4)
    if not np.isfinite(points).all():
        raise DataError(f"{file}: {int((~np.isfinite(points)).any(axis=1).sum())} points are not finite")
    return points


def read_calibration(file: Path) -> Calibration:
    """P2, R0_rect and Tr_velo_to_cam of a calib file; `DataError` where one is missing or of another size."""
    found = {}
    for line in file.read_text().splitlines():
        name, _, values = line.partition(":")
        found[name.strip()] = values.split()
    matrices = {}
    for name, shape in (("P2", (3, 4)), ("R0_rect", (3, 3)), ("Tr_velo_to_cam", (3, 4))):
        try:
            matrices[name] = np.array(found[name], dtype=np.float64).reshape(shape)
        except KeyError:
            raise DataError(f"{file}: no {name}; it has {', '.join(found) or 'nothing'}") from None
        except ValueError as error:
            raise DataError(f"{file}: {name} must be {shape[0] * shape[1]} numbers: {error}") from None
    rotation, velodyne = np.eye(4), np.eye(4)
    rotation[:3, :3], velodyne[:3] = matrices["R0_rect"], matrices["Tr_velo_to_cam"]
    return Calibration(matrices["P2"], rotation @ velodyne)


def read_objects(file: Path, calibration: Calibration) -> Objects:
    """The objects of a label_2 file; `DataError` names the line that is no such or has an unknown type."""
    kinds, rows, regions = [], [], []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            if len(fields) != FIELDS:
                raise ValueError(f"{len(fields)} fields instead of {FIELDS}")
            values = [float(field) for field in fields[1:]]
        except ValueError as error:
            raise DataError(f"{file}, line {number}: {error}") from None
        kind = fields[0]
        if kind == "DontCare":
            regions.append(values[3:7])
        elif kind in CLASSES or kind in NEIGHBOURS:
            kinds.append(kind)
            rows.append(values)
        elif kind not in LEFT_OUT:
            raise DataError(f"{file}, line {number}: unknown type {kind!r}")
    table = np.array(rows, dtype=np.float64).reshape(-1, FIELDS - 1)
    truncation, occlusion = table[:, 0], table[:, 1]
    rectangle, (height, width, length), foot = table[:, 3:7], table[:, 7:10].T, table[:, 10:13]
    centre = calibration.to_scan(foot)
    centre[:, 2] += height / 2
    yaw = (-table[:, 13] - np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
    boxes = np.concatenate([centre, np.stack([length, width, height, yaw], axis=1)], axis=1)
    return Objects(
        boxes=boxes.astype(np.float32),
        rectangle=rectangle.astype(np.float32),
        label=np.array([CLASSES.index(NEIGHBOURS.get(kind, kind)) for kind in kinds], dtype=np.int64),
        difficulty=difficulty(rectangle[:, 3] - rectangle[:, 1], occlusion, truncation),
        neighbour=np.array([kind in NEIGHBOURS for kind in kinds], dtype=bool),
        regions=np.array(regions, dtype=np.float32).reshape(-1, 4),
    )


def difficulty(height: Doubles, occlusion: Doubles, truncation: Doubles) -> NDArray[np.int64]:
    """The easiest level at which an object counts, int64 [M]: 0 easy, 1 moderate, 2 hard, 3 never.

    height: of the rectangle in pixels; occlusion: 0..3; truncation: 0..1.
    """
    counts = (
        (height[:, None] >= MIN_HEIGHTS)
        & (occlusion[:, None] <= MAX_OCCLUSIONS)
        & (truncation[:, None] <= MAX_TRUNCATIONS)
    )
    return np.where(counts.any(axis=1), counts.argmax(axis=1), len(MIN_HEIGHTS))


class Frames(MapDataset[dict[str, Any]]):
    """Frames read when asked for; samples as in `lidar-detection`, without batch."""

    def __init__(self, files: Sequence[FrameFiles], point_range: Sequence[float]) -> None:
        self.files, self.point_range = list(files), point_range

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> dict[str, Any]:
        files = self.files[place]
        calibration = read_calibration(files.calibration)
        size = Image.open(files.image).size if files.image.is_file() else IMAGE_SIZE
        points = read_scan(files.scan)
        points = points[in_view(points, calibration, size) & inside(points, self.point_range)]
        if not len(points):
            raise DataError(f"{files.scan}: no point in the camera's view and in range {self.point_range}")
        objects = read_objects(files.label, calibration)
        near = inside(objects.boxes, self.point_range)
        return {
            "points": torch.from_numpy(points),
            "boxes": torch.from_numpy(objects.boxes[near]),
            "rectangle": torch.from_numpy(objects.rectangle[near]),
            "label": torch.from_numpy(objects.label[near]),
            "difficulty": torch.from_numpy(objects.difficulty[near]),
            "neighbour": torch.from_numpy(objects.neighbour[near]),
            "regions": torch.from_numpy(objects.regions),
            "projection": torch.from_numpy(calibration.to_image.astype(np.float32)),
            "image_size": torch.tensor(size),
            "id": files.name,
        }


def in_view(points: Floats, calibration: Calibration, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which points [N, 3 or more] lie before the camera and inside its image of (width, height)."""
    homogeneous = points[:, :3] @ calibration.to_image[:, :3].T + calibration.to_image[:, 3]
    depth = homogeneous[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixel = homogeneous[:, :2] / depth[:, None]
        seen = (pixel >= 0).all(axis=1) & (pixel < np.array(size)).all(axis=1)
    return seen & (depth > 0)


def inside(points: Floats, point_range: Sequence[float]) -> NDArray[np.bool_]:
    """Which points [N, 3 or more] lie in the half-open range (x, y, z, x, y, z)."""
    low, high = np.array(point_range[:3], np.float32), np.array(point_range[3:], np.float32)
    return ((points[:, :3] >= low) & (points[:, :3] < high)).all(axis=1)


def concatenate_frames(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples to a batch: points, boxes and regions one after another, and which frame each is of."""
    batch: dict[str, Any] = {"id": [sample["id"] for sample in samples]}
    for key in ("points", "boxes", "rectangle", "label", "difficulty", "neighbour", "regions"):
        batch[key] = torch.cat([sample[key] for sample in samples])
    for key, of in (("scan", "points"), ("box_scan", "boxes"), ("region_scan", "regions")):
        sizes = torch.tensor([len(sample[of]) for sample in samples])
        batch[key] = torch.repeat_interleave(torch.arange(len(samples)), sizes)
    for key in ("projection", "image_size"):
        batch[key] = torch.stack([sample[key] for sample in samples])
    return batch


def _mean_boxes(frames: Sequence[FrameFiles]) -> tuple[tuple[float, ...], ...]:
    """(length, width, height, bottom) of each class over the labels of frames, rounded to centimetres."""
    objects = [read_objects(frame.label, read_calibration(frame.calibration)) for frame in frames]
    boxes = np.concatenate([one.boxes[~one.neighbour] for one in objects]).astype(np.float64)
    label = np.concatenate([one.label[~one.neighbour] for one in objects])
    facts = np.stack([*boxes[:, 3:6].T, boxes[:, 2] - boxes[:, 5] / 2], axis=1)
    return tuple(
        tuple(facts[label == number].mean(axis=0).round(2).tolist()) for number in range(len(CLASSES))
    )
