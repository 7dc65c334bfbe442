"""ModelNet40: 12,311 meshes of 40 classes of man-made things, as point clouds.

Format: `ModelNet40/<class>/{train,test}/<class>_NNNN.off`, OFF text files (see `off_meshes.py`); z is up.
Samples
    `points` float32 [M, 3], drawn from the faces uniformly by area, minus their mean, in the unit sphere; `label`;
    `condition`, a number of `spec.conditions`; `id`, `<class>_NNNN`, in the test with `@<condition>`.
    A mesh's points are drawn once, the same for all seeds and epochs, and kept under the cache.
Splits
    9,843 train and 2,468 test, as published. No validation split is published: see `holdout`.
    The test split holds every shape under every condition (`perturbations.py`), condition by condition: all methods
    see the very same noisy clouds. A batch never mixes conditions, whose clouds differ in size. Training and
    validation are clean.
Licence
    Research only; the meshes' rights are with their makers.
Citation
    Wu, Song, Khosla, Yu, Zhang, Tang, Xiao: 3D ShapeNets: A Deep Representation for Volumetric Shapes, CVPR 2015.
Miniature
    8 of the classes in look-alike pairs (`datamodules/miniature/meshes.py`), 25 train and 10 test meshes each.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature import meshes
from datamodules.pointcloud.off_meshes import Mesh, in_unit_sphere, read_off, sample_surface, write_off
from datamodules.pointcloud.perturbations import CONDITIONS
from datamodules.specs import PointClassesSpec

MINI_TRAIN, MINI_TEST = 25, 10


class Shape(NamedTuple):
    """A mesh file and its class."""

    path: Path
    label: int


class SampledShapes(MapDataset[dict[str, Any]]):
    """Clouds [S, M, 3] under each of the conditions, one condition after the other."""

    def __init__(
        self, shapes: Sequence[Shape], clouds: NDArray[np.float32], conditions: Sequence[str], *, marked: bool
    ) -> None:
        self.shapes, self.clouds, self.conditions, self.marked = shapes, clouds, tuple(conditions), marked

    def __len__(self) -> int:
        return len(self.shapes) * len(self.conditions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        condition, number = divmod(int(index), len(self.shapes))
        shape, name = self.shapes[number], self.conditions[condition]
        rng = random_generator("modelnet40", name, shape.path.stem)
        cloud = CONDITIONS[name](np.array(self.clouds[number]), rng)
        return {
            "points": torch.from_numpy(cloud),
            "label": shape.label,
            "condition": condition,
            "id": f"{shape.path.stem}@{name}" if self.marked else shape.path.stem,
        }


class _OneCondition(Sampler[list[int]]):
    """Batches in order that never reach over the end of a condition."""

    def __init__(self, shapes: int, conditions: int, batch_size: int) -> None:
        self.starts = [
            (condition * shapes + first, min(batch_size, shapes - first))
            for condition in range(conditions)
            for first in range(0, shapes, batch_size)
        ]

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(start, start + size)) for start, size in self.starts)


class ModelNet40(Dataset):
    """See the module's docstring.

    points: drawn from each mesh. conditions: of the test: all, those of Table 2 (clean and noise), or the clean one.
    holdout: training shapes of each class, evenly spaced ones, that are taken off and served as `val`. As published,
        all training shapes are trained on: by default none is, and `val` is empty.
    """

    name = "modelnet40"
    tasks = ("point-cloud-classification",)
    title = "ModelNet40"
    url = "https://modelnet.cs.princeton.edu/"
    licence = "research only"
    required = ("ModelNet40/*/train/*.off", "ModelNet40/*/test/*.off")

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        points: int = 1024,
        conditions: Literal["all", "noise", "clean"] = "all",
        holdout: int = 0,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 20, **serving})
        if points < 4 or holdout < 0:
            raise ValueError(f"{self.name}: points must be 4 or more, holdout 0 or more: {points}, {holdout}")
        if conditions not in ("all", "noise", "clean"):
            raise ValueError(f"{self.name}: conditions {conditions!r} is none of all, noise, clean")
        self.points, self.holdout = points, holdout
        self.conditions = tuple(
            name
            for name in CONDITIONS
            if conditions == "all" or name == "clean" or (conditions == "noise" and name.startswith("noise_"))
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The class folders, sorted."""
        return tuple(sorted({path.parts[-3] for path in self.root.glob(self.required[0])}))

    @property
    def spec(self) -> PointClassesSpec:
        self.prepare_data()
        return PointClassesSpec(
            dataset=self.name, classes=self.classes, points=self.points, conditions=self.conditions
        )

    def shapes(self, split: Split) -> list[Shape]:
        """The meshes of a split, class by class."""
        folder = "test" if split == "test" else "train"
        found = []
        for label, name in enumerate(self.classes):
            paths = sorted((self.root / "ModelNet40" / name / folder).glob("*.off"))
            if split != "test" and self.holdout:
                if self.holdout >= len(paths):
                    raise ValueError(
                        f"{self.name}: cannot hold out {self.holdout} of {len(paths)} training shapes of {name}"
                    )
                held = set(np.linspace(0, len(paths) - 1, self.holdout).astype(int).tolist())
                paths = [path for number, path in enumerate(paths) if (number in held) == (split == "val")]
            elif split == "val":
                paths = []
            found += [Shape(path, label) for path in paths]
        return found

    def read(self, split: Split) -> SampledShapes:
        self.prepare_data()
        shapes = self.shapes(split)
        if not shapes and split != "val":
            raise DataError(f"{self.name}: no meshes for {split!r} under {self.root}\n{self.instructions()}")
        conditions = self.conditions if split == "test" else ("clean",)
        return SampledShapes(shapes, self._clouds(shapes, split), conditions, marked=split == "test")

    def in_order(self, split: Split) -> DataLoader[dict[str, Any]]:
        samples = self.split(split)
        assert isinstance(samples, SampledShapes)
        return DataLoader(
            samples,
            batch_sampler=_OneCondition(len(samples.shapes), len(samples.conditions), self.test_batch_size),
            collate_fn=self.collate,
            num_workers=self.workers,
        )

    def _clouds(self, shapes: Sequence[Shape], split: Split) -> NDArray[np.float32]:
        """The normalised clouds of the meshes, [S, M, 3], from the cache where they are there."""
        home = self.miniature_folder
        if self.variant == "real":
            home = self.cache / f"{self.name}-{self.data_version()}"
        file = home / "sampled" / f"{split}-{self.points}-{self.holdout}.npy"
        if file.is_file():
            clouds: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
            if clouds.shape == (len(shapes), self.points, 3):
                return clouds
        clouds = np.empty((len(shapes), self.points, 3), np.float32)
        for number, shape in enumerate(shapes):
            rng = random_generator(self.name, "surface", shape.path.stem)
            try:
                drawn, _ = sample_surface(read_off(shape.path), self.points, rng)
            except ValueError as error:
                raise DataError(f"{shape.path}: {error}") from None
            clouds[number] = in_unit_sphere(drawn)
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".npy", delete=False) as scratch:
            np.save(scratch, clouds)
        os.replace(scratch.name, file)
        return clouds

    @classmethod
    def render(cls, folder: Path) -> None:
        for name in meshes.CLASSES:
            for number in range(MINI_TRAIN + MINI_TEST):
                split = "train" if number < MINI_TRAIN else "test"
                made = meshes.thing(name, random_generator(cls.name, name, number))
                path = folder / "ModelNet40" / name / split / f"{name}_{number + 1:04d}.off"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_off(path, Mesh(made.vertices, made.faces), glued=number % 5 == 4)
