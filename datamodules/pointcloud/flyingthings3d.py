"""FlyingThings3D as pairs of point clouds, in two published preparations, and the ideal case made of the first.

Axes as served: x to the side, y up, z forwards, metres; what lies beyond 35 m was cut in preparation.

flyingthings3d-s (of HPLFlowNet): `FlyingThings3D_subset_processed_35m/{train,val}/NNNNNNN/{pc1,pc2}.npy`, float32
[N, 3] each, N differs. Point i of pc2 is point i of pc1 moved, nothing is occluded. x and z are multiplied by -1 on
reading. The two clouds served are drawn independently, so few points have their like in the other.
flyingthings3d-p: the same files; the same points are drawn of both clouds and the second is shuffled, so that
first + flow is a permutation of `second` (FLOT's "perfect world").
flyingthings3d-o (of FlowNet3D): `data_processed_maxcut_35_20k_2k_8192/{TRAIN,TEST}_*.npz` with points1 and points2
[8192, 3], flow and valid_mask1 (1: the flow is valid). Occluded points stay in, with mask 0. Left out are
TRAIN_C_0140_left_0006-0.npz, which holds NaN, and files with no valid point at all (the authors' code lists 11 of
them by name; here they are found by their masks).

Splits: test = folder `val` (3,824) and TEST_* as published. Of the training examples 2,000 (a sixth where there are
fewer than 12,000) at evenly spaced places of the sorted list are held out as `val`.
Every access draws `points` points of each cloud at random: anew in each epoch of training, always the same in
validation and test. The test split is served `draws` times with differently drawn points.
A scene with fewer points gives all it has; in a batch it is padded with zeros, which `first_valid` and
`second_valid` mark, and `mask` leaves out.

Miniature: 200 / 40 / 40 scenes of solids (`datamodules/miniature/moving_solids.py`).

Licence: FlyingThings3D is for research purposes only (University of Freiburg).
Citation: Mayer et al., A Large Dataset to Train Convolutional Networks for Disparity, Optical Flow, and Scene Flow
Estimation, CVPR 2016; Gu et al., HPLFlowNet, CVPR 2019; Liu et al., FlowNet3D, CVPR 2019.
"""

from __future__ import annotations

import zipfile
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as MapDataset

from datamodules.base import (
    DataError,
    Dataset,
    Serving,
    Split,
    Variant,
    random_generator,
    stack_samples,
    visit_generator,
)
from datamodules.miniature import moving_solids
from datamodules.specs import SceneFlowSpec

Array = NDArray[np.float32]

FLIP = np.array([-1, 1, -1], dtype=np.float32)
HELD_OUT, HELD_OUT_OF = 2000, 12_000
BROKEN = "TRAIN_C_0140_left_0006-0.npz"
MINI_TRAIN, MINI_TEST, MINI_POINTS = 240, 40, 2048
MINI_OCCLUDED_POINTS = 1024


class Scene(NamedTuple):
    """first [N, 3], second [M, 3], flow [N, 3] float32; mask bool [N]; aligned: second[i] is first[i] moved."""

    first: Array
    second: Array
    flow: Array
    mask: NDArray[np.bool_]
    aligned: bool


def read_array(path: Path, columns: int = 3) -> Array:
    """A .npy file as float32 [N, columns]; a `DataError` names the file and what is wrong with it."""
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}. Fetch the file again.") from error
    return _cloud(path, "array", values, columns)


def read_arrays(path: Path, keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Arrays of a .npz file by key; a `DataError` names the file and what is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as content:
            if absent := [key for key in keys if key not in content]:
                raise DataError(f"{path}: no {', '.join(absent)}; it holds {', '.join(content.files)}")
            return {key: content[key] for key in keys}
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Fetch the file again.") from error


def _cloud(path: Path, key: str, values: NDArray[Any], columns: int = 3) -> Array:
    if values.ndim != 2 or values.shape[1] != columns or not np.issubdtype(values.dtype, np.floating):
        raise DataError(
            f"{path}: {key} must be floating [N, {columns}], got {values.dtype} {list(values.shape)}"
        )
    if not len(values):
        raise DataError(f"{path}: {key} holds no point")
    if not np.isfinite(values).all():
        raise DataError(f"{path}: {key} holds NaN or infinity in {int((~np.isfinite(values)).sum())} places")
    return values.astype(np.float32)


def read_aligned(folder: Path) -> tuple[Array, Array]:
    """pc1.npy and pc2.npy of a folder, equally long [N, 3]."""
    first, second = read_array(folder / "pc1.npy"), read_array(folder / "pc2.npy")
    if len(first) != len(second):
        raise DataError(
            f"{folder}: pc1.npy has {len(first)} points and pc2.npy {len(second)}; they must be index-aligned"
        )
    return first, second


def read_pair(path: Path, keys: tuple[str, str, str]) -> tuple[Array, Array, Array]:
    """First cloud, second cloud and flow of a .npz file under these keys; the flow is as long as the first."""
    content = read_arrays(path, keys)
    first, second, flow = (_cloud(path, key, content[key]) for key in keys)
    if len(first) != len(flow):
        raise DataError(f"{path}: {keys[2]} has {len(flow)} rows, {keys[0]} {len(first)}")
    return first, second, flow


class ScenePairs(MapDataset[dict[str, Any]]):
    """Scenes, of which each access draws points.

    scenes: id and path; load: reads one. points: drawn of each cloud. draws: how often the list is repeated.
    matched: the same points of both clouds. chance: what the drawn points depend on beside index and epoch.
    """

    def __init__(
        self,
        scenes: Sequence[tuple[str, Path]],
        load: Callable[[Path], Scene],
        *,
        points: int,
        draws: int,
        matched: bool,
        chance: tuple[int | str, ...],
    ) -> None:
        self.scenes, self.load = list(scenes), load
        self.points, self.draws, self.matched, self.chance = points, draws, matched, chance

    def __len__(self) -> int:
        return self.draws * len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        draw, number = divmod(int(index), len(self.scenes))
        name, path = self.scenes[number]
        scene = self.load(path)
        rng = visit_generator(index, *self.chance)
        first = rng.permutation(len(scene.first))[: self.points]
        if self.matched:
            second = rng.permutation(first)
        else:
            second = rng.permutation(len(scene.second))[: self.points]
        match = np.full(len(first), -1)
        if scene.aligned:
            place = np.full(len(scene.second), -1)
            place[second] = np.arange(len(second))
            match = place[first]
        return {
            "first": torch.from_numpy(scene.first[first]),
            "second": torch.from_numpy(scene.second[second]),
            "flow": torch.from_numpy(scene.flow[first]),
            "mask": torch.from_numpy(scene.mask[first]),
            "match": torch.from_numpy(match.astype(np.int64)),
            "id": f"{name}#{draw}" if self.draws > 1 else name,
        }


def pad_scenes(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples of any sizes to a batch; padding is zero, marked in first_valid and second_valid, and masked."""
    n = max(len(sample["first"]) for sample in samples)
    m = max(len(sample["second"]) for sample in samples)
    padded = []
    for sample in samples:
        own_n, own_m = len(sample["first"]), len(sample["second"])
        padded.append(
            {
                "first": _longer(sample["first"], n),
                "second": _longer(sample["second"], m),
                "flow": _longer(sample["flow"], n),
                "mask": _longer(sample["mask"], n),
                "match": _longer(sample["match"], n, fill=-1),
                "first_valid": torch.arange(n) < own_n,
                "second_valid": torch.arange(m) < own_m,
                "id": sample["id"],
            }
        )
    return stack_samples(padded)


def _longer(values: Tensor, length: int, fill: int = 0) -> Tensor:
    grown = values.new_full((length, *values.shape[1:]), fill)
    grown[: len(values)] = values
    return grown


class SceneFlowPairs(Dataset):
    """What the datasets of scene flow share.

    points: drawn of each cloud at each access. draws: how often the test split is served, with other points.
    """

    tasks = ("scene-flow",)
    occlusions: ClassVar[bool] = False
    matched: ClassVar[bool] = False

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        points: int = 2048,
        draws: int = 1,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 4, **serving})
        if points < 1 or draws < 1:
            raise ValueError(f"{self.name}: points and draws must be positive, not {points} and {draws}")
        self.points, self.draws = points, draws

    @property
    def spec(self) -> SceneFlowSpec:
        return SceneFlowSpec(
            dataset=self.name, points=self.points, occlusions=self.occlusions, matched=self.matched
        )

    @property
    def collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return pad_scenes

    @abstractmethod
    def scenes(self, split: Split) -> list[tuple[str, Path]]:
        """Ids and paths of a split, in order."""

    @abstractmethod
    def load(self, path: Path) -> Scene:
        """One scene in the axes as served."""

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        self.prepare_data()
        scenes = self.scenes(split)
        if not scenes:
            raise DataError(f"{self.name}: no scene of the {split} split under {self.root}")
        return ScenePairs(
            scenes,
            self.load,
            points=self.points,
            draws=self.draws if split == "test" else 1,
            matched=self.matched,
            # What is tested is the same for all seeds.
            chance=(self.name, split, self.seed if split == "train" else 0),
        )


def held_out(count: int) -> NDArray[np.bool_]:
    """Which of `count` training examples are the validation split: evenly spaced ones, bool [count]."""
    size = HELD_OUT if count >= HELD_OUT_OF else count // 6
    out = np.zeros(count, bool)
    out[np.linspace(0, count - 1, size).astype(int)] = True
    return out


class FlyingThings3DSubset(SceneFlowPairs):
    """HPLFlowNet's preparation: no occlusions, clouds drawn independently."""

    name = "flyingthings3d-s"
    title = "FlyingThings3D, subset, prepared as in HPLFlowNet"
    url = "https://github.com/laoreja/HPLFlowNet (data preparation)"
    licence = "FlyingThings3D: research purposes only"
    required = (
        "FlyingThings3D_subset_processed_35m/train/*/pc1.npy",
        "FlyingThings3D_subset_processed_35m/train/*/pc2.npy",
        "FlyingThings3D_subset_processed_35m/val/*/pc1.npy",
        "FlyingThings3D_subset_processed_35m/val/*/pc2.npy",
    )

    def scenes(self, split: Split) -> list[tuple[str, Path]]:
        part = "val" if split == "test" else "train"
        home = self.root / "FlyingThings3D_subset_processed_35m" / part
        found = [(f"{part}/{path.parent.name}", path.parent) for path in sorted(home.glob("*/pc1.npy"))]
        if split == "test":
            return found
        out = held_out(len(found))
        return [scene for scene, held in zip(found, out, strict=True) if held == (split == "val")]

    def load(self, path: Path) -> Scene:
        first, second = (cloud * FLIP for cloud in read_aligned(path))
        return Scene(first, second, second - first, np.ones(len(first), bool), aligned=True)

    @classmethod
    def render(cls, folder: Path) -> None:
        for part, count in (("train", MINI_TRAIN), ("val", MINI_TEST)):
            for number in range(count):
                rng = random_generator("flyingthings3d-s", part, number)
                solids, ego = moving_solids.flying_scene(rng), moving_solids.ego_motion(rng)
                pair = moving_solids.aligned_pair(solids, ego, MINI_POINTS, rng)
                home = folder / "FlyingThings3D_subset_processed_35m" / part / f"{number:07d}"
                home.mkdir(parents=True)
                np.save(home / "pc1.npy", (pair.first * FLIP).astype(np.float32))
                np.save(home / "pc2.npy", (pair.second * FLIP).astype(np.float32))


class FlyingThings3DPerfect(FlyingThings3DSubset):
    """The same files, with the same points drawn of both clouds: first + flow is a permutation of second."""

    name = "flyingthings3d-p"
    matched = True
    title = "FlyingThings3D, subset, prepared as in HPLFlowNet, in one-to-one correspondence"


class FlyingThings3DOccluded(SceneFlowPairs):
    """FlowNet3D's preparation: occluded points stay in, without a valid flow."""

    name = "flyingthings3d-o"
    occlusions = True
    title = "FlyingThings3D, prepared as in FlowNet3D"
    url = "https://github.com/xingyul/flownet3d (data)"
    licence = "FlyingThings3D: research purposes only"
    required = (
        "data_processed_maxcut_35_20k_2k_8192/TRAIN_*.npz",
        "data_processed_maxcut_35_20k_2k_8192/TEST_*.npz",
    )

    def scenes(self, split: Split) -> list[tuple[str, Path]]:
        part = "TEST" if split == "test" else "TRAIN"
        home = self.root / "data_processed_maxcut_35_20k_2k_8192"
        paths = [path for path in sorted(home.glob(f"{part}_*.npz")) if path.name != BROKEN]
        found = [(path.stem, path) for path in paths if self._mask(path).any()]
        if split == "test":
            return found
        out = held_out(len(found))
        return [scene for scene, held in zip(found, out, strict=True) if held == (split == "val")]

    def load(self, path: Path) -> Scene:
        first, second, flow = read_pair(path, ("points1", "points2", "flow"))
        mask = self._mask(path)
        if len(mask) != len(first):
            raise DataError(f"{path}: valid_mask1 has {len(mask)} entries, points1 {len(first)}")
        return Scene(first, second, flow, mask, aligned=False)

    @staticmethod
    def _mask(path: Path) -> NDArray[np.bool_]:
        values = read_arrays(path, ["valid_mask1"])["valid_mask1"].squeeze()
        if values.ndim != 1 or not np.isin(values, (0, 1)).all():
            raise DataError(f"{path}: valid_mask1 must be [N] of 0 and 1, got {list(values.shape)}")
        return values.astype(bool)

    @classmethod
    def render(cls, folder: Path) -> None:
        home = folder / "data_processed_maxcut_35_20k_2k_8192"
        home.mkdir(parents=True)
        for part, count in (("TRAIN", MINI_TRAIN), ("TEST", MINI_TEST)):
            for number in range(count):
                rng = random_generator("flyingthings3d-o", part, number)
                solids = moving_solids.flying_scene(rng, leaving=True)
                pair = moving_solids.occluded_pair(
                    solids, moving_solids.ego_motion(rng), MINI_OCCLUDED_POINTS, rng
                )
                write_npz(
                    home / f"{part}_A_{number:04d}_left_0006-0.npz",
                    points1=pair.first.astype(np.float32),
                    points2=pair.second.astype(np.float32),
                    flow=pair.flow.astype(np.float32),
                    valid_mask1=pair.visible,
                )


def write_npz(path: Path, **arrays: NDArray[Any]) -> None:
    """np.savez without the time of day, which would make each rendering another file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, values in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)
