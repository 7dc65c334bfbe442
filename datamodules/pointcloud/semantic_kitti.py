"""SemanticKITTI: every point of the KITTI odometry scans labelled with one of 19 classes.

Format: `sequences/XX/velodyne/NNNNNN.bin` is float32 [N, 4], x, y, z in metres and remission 0..1;
`sequences/XX/labels/NNNNNN.label` is uint32 [N], raw class in the low 16 bits and instance in the high 16.
`sequences` may lie in <root>/SemanticKITTI/dataset, <root>/dataset or <root> itself.

Classes: the 34 raw ones map to 19 by the official `learning_map`: moving ones join their resting twins, lane
markings the road, buses and rail vehicles other-vehicle. Raw 0 (unlabeled), 1 (outlier), 52 (other-structure)
and 99 (other-object) are class 0, which counts nowhere.

Splits: train 00-07, 09, 10 (19,130 scans); val 08 (4,071). Sequences 11-21 (20,351) have no public labels, so
`test` is 08 too: what papers print of it is their validation number. Whoever selects weights by validation
should therefore validate elsewhere: `val_sequences=["10"]` takes sequence 10 out of training for that.
`test_sequences="hidden"` serves 11-21, all labels 0, for `write_predictions` and the benchmark's server.

Statistics: `class_frequency` comes from the training labels alone. For the whole training set it is the
published ratios over its 2,349,559,532 points (semantic-kitti.yaml, `content`); where sequences are absent or
there are 500 scans or fewer, it is counted from the files, 500 of them at most, evenly spaced. `mean` and
`std` of real scans are RangeNet++'s constants; those of the miniature are measured on its training scans.

Miniature: 24 scans over the training sequences, 8 of 08 and one of 11, which has no labels
(`datamodules/miniature/lidar.py`). On the 8 scans of 08 the trivial predictors reach: all road, accuracy
48.2 % and mIoU 2.5 %; the majority class at each pixel of a 32 x 256 range image, accuracy 69.0 % and
mIoU 13.4 %.

Licence: CC BY-NC-SA 4.0 (labels and scans).
Citation: Behley et al., SemanticKITTI: A Dataset for Semantic Scene Understanding of LiDAR Sequences, ICCV
2019; Geiger et al., Are we ready for Autonomous Driving? The KITTI Vision Benchmark Suite, CVPR 2012.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature import lidar
from datamodules.specs import LidarSpec

CLASSES = (
    "unlabeled",
    "car",
    "bicycle",
    "motorcycle",
    "truck",
    "other-vehicle",
    "person",
    "bicyclist",
    "motorcyclist",
    "road",
    "parking",
    "sidewalk",
    "other-ground",
    "building",
    "fence",
    "vegetation",
    "trunk",
    "terrain",
    "pole",
    "traffic-sign",
)
LEARNING_MAP = {
    0: 0, 1: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9, 44: 10, 48: 11,
    49: 12, 50: 13, 51: 14, 52: 0, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19, 99: 0,
    252: 1, 253: 7, 254: 6, 255: 8, 256: 5, 257: 5, 258: 4, 259: 5,
}  # fmt: skip
RAW_IDS = (0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)
PALETTE = (
    (0, 0, 0), (100, 150, 245), (100, 230, 245), (30, 60, 150), (80, 30, 180), (0, 0, 255), (255, 30, 30),
    (255, 40, 200), (150, 30, 90), (255, 0, 255), (255, 150, 255), (75, 0, 75), (175, 0, 75), (255, 200, 0),
    (255, 120, 50), (0, 175, 0), (135, 60, 0), (150, 240, 80), (255, 240, 150), (255, 0, 0),
)  # fmt: skip
PUBLISHED_RATIOS = {
    0: 0.018889854628292943, 1: 0.0002937197336781505, 10: 0.040818519255974316, 11: 0.00016609538710764618,
    13: 2.7879693665067774e-05, 15: 0.00039838616015114444, 16: 0.0, 18: 0.0020633612104619787,
    20: 0.0016218197275284021, 30: 0.00017698551338515307, 31: 1.1065903904919655e-08,
    32: 5.532951952459828e-09, 40: 0.1987493871255525, 44: 0.014717169549888214, 48: 0.14392298360372,
    49: 0.0039048553037472045, 50: 0.1326861944777486, 51: 0.0723592229456223, 52: 0.002395131480328884,
    60: 4.7084144280367186e-05, 70: 0.26681502148037506, 71: 0.006035012012626033, 72: 0.07814222006271769,
    80: 0.002855498193863172, 81: 0.0006155958086189918, 99: 0.009923127583046915, 252: 0.001789309418528068,
    253: 0.00012709999297008662, 254: 0.00016059776092534436, 255: 3.745553104802113e-05, 256: 0.0,
    257: 0.00011351574470342043, 258: 0.00010157861367183268, 259: 4.3840131989471124e-05,
}  # fmt: skip

TRAIN_SEQUENCES = ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10")
VAL_SEQUENCES = ("08",)
HIDDEN_SEQUENCES = tuple(str(number) for number in range(11, 22))
COUNTED_SCANS = 500

REAL_MEAN = (12.12, 10.88, 0.23, -1.04, 0.21)
REAL_STD = (12.32, 11.47, 6.91, 0.86, 0.16)

_LAYOUTS = ("SemanticKITTI/dataset", "dataset", ".")
_CLASS_OF_RAW = np.full(1 << 16, -1, dtype=np.int64)
_CLASS_OF_RAW[list(LEARNING_MAP)] = list(LEARNING_MAP.values())


class SemanticKITTI(Dataset):
    """Batches of `point-cloud-segmentation`: scans of one batch concatenated; ids are "SEQUENCE/SCAN".

    max_train_scans: train on so many scans only, spread evenly over the training sequences; None: all.
    val_sequences: sequences of the val split; those of the training split leave it.
    test_sequences: "val" tests on sequence 08, "hidden" serves 11-21 without truth.
    """

    name = "semantic-kitti"
    tasks = ("point-cloud-segmentation",)
    title = "SemanticKITTI"
    url = "http://www.semantic-kitti.org (scans: KITTI odometry, velodyne laser data)"
    licence = "CC BY-NC-SA 4.0"
    required = ("dataset/sequences/*/velodyne/*.bin", "dataset/sequences/*/labels/*.label")

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        max_train_scans: int | None = None,
        val_sequences: Sequence[str] = VAL_SEQUENCES,
        test_sequences: Literal["val", "hidden"] = "val",
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **serving)
        known = {*TRAIN_SEQUENCES, *VAL_SEQUENCES}
        if not val_sequences or not set(val_sequences) <= known:
            raise ValueError(
                f"{self.name}: val_sequences must be some of {sorted(known)}, not {val_sequences!r}"
            )
        if max_train_scans is not None and max_train_scans < 1:
            raise ValueError(f"{self.name}: max_train_scans must be positive, not {max_train_scans}")
        if test_sequences not in ("val", "hidden"):
            raise ValueError(f"{self.name}: test_sequences must be 'val' or 'hidden', not {test_sequences!r}")
        self.max_train_scans = max_train_scans
        self.val_sequences = tuple(val_sequences)
        self.test_sequences = test_sequences
        if variant == "real":
            for layout in _LAYOUTS:
                if (self.root / layout / "sequences").is_dir():
                    # The digest of the files' names must not depend on the layout they lie in.
                    self.root = self.root / layout
                    self.required = ("sequences/*/velodyne/*.bin", "sequences/*/labels/*.label")
                    break

    @property
    def sequences(self) -> Path:
        """The folder `sequences`."""
        return self.root / "sequences" if self.variant == "real" else self.root / "dataset" / "sequences"

    @cached_property
    def spec(self) -> LidarSpec:  # type: ignore[override]
        self.prepare_data()
        training = self._scans("train")
        mini = self.variant == "miniature"
        mean, std = _statistics(training) if mini else (REAL_MEAN, REAL_STD)
        return LidarSpec(
            dataset=self.name,
            classes=CLASSES,
            class_frequency=_frequency(training),
            beams=lidar.BEAMS if mini else 64,
            azimuths=lidar.AZIMUTHS if mini else 2048,
            fov_up=3.0,
            fov_down=-25.0,
            mean=mean,
            std=std,
            raw_ids=RAW_IDS,
            palette=PALETTE,
        )

    @property
    def collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return concatenate_scans

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        self.prepare_data()
        return Scans(self._scans(split), labelled=not (split == "test" and self.test_sequences == "hidden"))

    def _scans(self, split: Split) -> list[Path]:
        """The scan files of a split in order; `DataError` where there is none or a label file is missing."""
        names: tuple[str, ...]
        if split == "train":
            names = tuple(name for name in TRAIN_SEQUENCES if name not in self.val_sequences)
        elif split == "val":
            names = self.val_sequences
        else:
            names = HIDDEN_SEQUENCES if self.test_sequences == "hidden" else VAL_SEQUENCES
        scans = [
            scan for name in names for scan in sorted((self.sequences / name / "velodyne").glob("*.bin"))
        ]
        if not scans:
            raise DataError(
                f"{self.name}: no scans of the {split} split (sequences {', '.join(names)}) "
                f"under {self.sequences}\n{self.instructions()}"
            )
        if names is not HIDDEN_SEQUENCES:
            for scan in scans:
                if not label_file(scan).is_file():
                    raise DataError(
                        f"{self.name}: {scan} has no label file; expected {label_file(scan)}. Unpack "
                        "data_odometry_labels.zip beside the scans, or remove the scan."
                    )
        if split == "train" and self.max_train_scans is not None:
            scans = _spread(scans, self.max_train_scans)
        return scans

    @classmethod
    def render(cls, folder: Path) -> None:
        counts = dict.fromkeys(TRAIN_SEQUENCES, 2) | {"00": 3, "02": 3, "05": 3, "09": 3, "08": 8, "11": 1}
        for sequence, count in sorted(counts.items()):
            home = folder / "dataset" / "sequences" / sequence
            (home / "velodyne").mkdir(parents=True)
            if sequence not in HIDDEN_SEQUENCES:
                (home / "labels").mkdir()
            for number in range(count):
                points, label = lidar.render_scan(random_generator("lidar", sequence, number))
                scan = home / "velodyne" / f"{number:06d}.bin"
                points.astype("<f4").tofile(scan)
                if sequence not in HIDDEN_SEQUENCES:
                    label.astype("<u4").tofile(label_file(scan))
            identity = "1 0 0 0 0 1 0 0 0 0 1 0"
            keys = ("P0", "P1", "P2", "P3", "Tr")
            (home / "calib.txt").write_text("".join(f"{key}: {identity}\n" for key in keys))
            # Scans of a sequence are scenes far apart: 100 m of street and 10 s between them.
            steps = range(count)
            (home / "poses.txt").write_text("".join(f"1 0 0 0 0 1 0 0 0 0 1 {100 * k}\n" for k in steps))
            (home / "times.txt").write_text("".join(f"{10.0 * k:.6e}\n" for k in steps))


class Scans(MapDataset[dict[str, Any]]):
    """Scans read when asked for: points float32 [N, 4], label int64 [N] in 0..19, id "SEQUENCE/SCAN"."""

    def __init__(self, files: Sequence[Path], labelled: bool = True) -> None:
        self.files = list(files)
        self.labelled = labelled

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> dict[str, Any]:
        file = self.files[place]
        points = read_points(file)
        if self.labelled:
            label = read_label(label_file(file), len(points))
        else:
            label = np.zeros(len(points), dtype=np.int64)
        return {
            "points": torch.from_numpy(points),
            "label": torch.from_numpy(label),
            "id": f"{file.parent.parent.name}/{file.stem}",
        }


def concatenate_scans(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples to a batch: points [N, 4], scan [N] (which sample a point is of), label [N], id."""
    sizes = torch.tensor([len(sample["points"]) for sample in samples])
    return {
        "points": torch.cat([sample["points"] for sample in samples]),
        "scan": torch.repeat_interleave(torch.arange(len(samples)), sizes),
        "label": torch.cat([sample["label"] for sample in samples]),
        "id": [sample["id"] for sample in samples],
    }


def label_file(scan: Path) -> Path:
    """Where the labels of a `velodyne/NNNNNN.bin` lie."""
    return scan.parent.parent / "labels" / f"{scan.stem}.label"


def count_points(file: Path) -> int:
    """How many points a .bin file holds; `DataError` where it is empty or cut off."""
    size = file.stat().st_size
    if size == 0 or size % 16:
        raise DataError(
            f"{file}: {size} bytes, expected a positive multiple of 16 (4 float32 a point); "
            "the file is cut off or no scan: fetch it again"
        )
    return size // 16


def read_points(file: Path) -> np.ndarray:
    """Points float32 [N, 4] of a .bin file; `DataError` where it is empty, cut off or not finite."""
    points = np.fromfile(file, dtype="<f4", count=4 * count_points(file)).reshape(-1, 4)
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(axis=1).sum())
        raise DataError(f"{file}: {bad} of {len(points)} points are not finite; fetch the file again")
    return points


def read_label(file: Path, points: int) -> np.ndarray:
    """Classes int64 [N] in 0..19 of a .label file for a scan of `points` points.

    Raises `DataError` where the file is missing, has another number of labels, or holds an unknown raw class.
    """
    if not file.is_file():
        raise DataError(f"{file}: missing; every scan of a labelled sequence needs its .label file")
    size = file.stat().st_size
    if size != 4 * points:
        raise DataError(
            f"{file}: {size} bytes are {size / 4:g} labels (uint32), but the scan has {points} points; "
            "scan and labels do not belong together or one is cut off"
        )
    raw = np.fromfile(file, dtype="<u4") & 0xFFFF
    label = _CLASS_OF_RAW[raw]
    if (label < 0).any():
        unknown = np.unique(raw[label < 0]).tolist()
        raise DataError(f"{file}: raw classes {unknown} are not in SemanticKITTI's learning_map")
    return label


def write_predictions(folder: str | Path, id: str, label: Tensor, raw_ids: Sequence[int]) -> Path:
    """Write a scan's predicted classes [N] in the benchmark's format and return the file.

    For the id "XX/NNNNNN" it is `folder/sequences/XX/predictions/NNNNNN.label`: uint32 raw ids by `raw_ids`
    (`spec.raw_ids`, the inverse learning map), instance bits 0. Raises `ValueError` for another id or label.
    """
    sequence, _, number = id.partition("/")
    if not (sequence.isdigit() and number.isdigit()):
        raise ValueError(f"id must be 'SEQUENCE/SCAN' in digits, such as '08/000123', not {id!r}")
    classes = label.detach().cpu().numpy()
    if classes.ndim != 1 or (classes.size and not 0 <= classes.min() <= classes.max() < len(raw_ids)):
        raise ValueError(f"{id}: label must be [N] in 0..{len(raw_ids) - 1}, got shape {classes.shape}")
    file = Path(folder) / "sequences" / sequence / "predictions" / f"{number}.label"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.asarray(raw_ids, dtype="<u4")[classes].tofile(file)
    return file


def _frequency(scans: Sequence[Path]) -> tuple[float, ...]:
    """Share of each class 0..19 among the points of training scans, published or counted from files."""
    counts = np.zeros(len(CLASSES))
    complete = {scan.parent.parent.name for scan in scans} == set(TRAIN_SEQUENCES)
    if complete and len(scans) > COUNTED_SCANS:
        for raw, ratio in PUBLISHED_RATIOS.items():
            counts[LEARNING_MAP[raw]] += ratio
    else:
        for scan in _spread(scans, COUNTED_SCANS):
            label = read_label(label_file(scan), count_points(scan))
            counts += np.bincount(label, minlength=len(CLASSES))
    return tuple((counts / counts.sum()).tolist())


def _spread(scans: Sequence[Path], most: int) -> list[Path]:
    """At most so many scans, evenly spaced."""
    if len(scans) <= most:
        return list(scans)
    return [scans[place] for place in np.linspace(0, len(scans) - 1, most).round().astype(int)]


def _statistics(scans: Sequence[Path]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of (range, x, y, z, remission) over all points, rounded to 1e-4."""
    points = np.concatenate([read_points(scan) for scan in scans]).astype(np.float64)
    features = np.concatenate([np.linalg.norm(points[:, :3], axis=1, keepdims=True), points], axis=1)
    mean, std = features.mean(axis=0).round(4), features.std(axis=0).round(4)
    return tuple(mean.tolist()), tuple(std.tolist())
