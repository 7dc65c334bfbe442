"""ShapeNet-Part: 16,881 shapes of 16 categories, each point of which belongs to one of 50 parts.

Format, under shapenetcore_partanno_segmentation_benchmark_v0/
    synsetoffset2category.txt (`<category> <synset>`), <synset>/points/<id>.pts (`x y z` a line),
    <synset>/points_label/<id>.seg (a part a line, from 1 on within the category),
    train_test_split/shuffled_{train,val,test}_file_list.json (`shape_data/<synset>/<id>`); y is up.
Samples
    `points` float32 [M, 3], minus their mean, in the unit sphere; `category`; `part` int64 [M], counted over all
    categories in their order; `id`. Points are drawn without repetition: anew in each epoch of training, always the
    same in validation and test. A shape with fewer than M points gives all of them, and as many again as are missing.
Splits
    PointNet's: 12,137 train, 1,870 val, 2,874 test.
Licence
    ShapeNet's terms of use: research and education only.
Citation
    Yi, Kim, Ceylan, Shen, Yan, Su, Lu, Huang, Sheffer, Guibas: A Scalable Active Framework for Region Annotation in
    3D Shape Collections, SIGGRAPH Asia 2016.
Miniature
    3 of the categories (chair, mug, table) with all parts that their meshes have
    (`datamodules/miniature/meshes.py`), 40 train, 8 val and 12 test shapes each, of 600 points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator, visit_generator
from datamodules.miniature import meshes
from datamodules.pointcloud.off_meshes import Mesh, in_unit_sphere, sample_surface
from datamodules.specs import ObjectPartsSpec

HOME = "shapenetcore_partanno_segmentation_benchmark_v0"
PARTS: Mapping[str, tuple[str, ...]] = {
    "Airplane": ("body", "wing", "tail", "engine"),
    "Bag": ("handle", "body"),
    "Cap": ("crown", "brim"),
    "Car": ("roof", "hood", "wheel", "body"),
    "Chair": ("back", "seat", "leg", "arm"),
    "Earphone": ("earcup", "band", "cable"),
    "Guitar": ("head", "neck", "body"),
    "Knife": ("blade", "handle"),
    "Lamp": ("base", "shade", "bulb", "stand"),
    "Laptop": ("keyboard", "screen"),
    "Motorbike": ("tank", "seat", "wheel", "handle", "light", "frame"),
    "Mug": ("handle", "body"),
    "Pistol": ("barrel", "grip", "trigger"),
    "Rocket": ("body", "fin", "nose"),
    "Skateboard": ("wheel", "deck", "axle"),
    "Table": ("top", "leg", "support"),
}
"""Categories in the published order and how many parts each has; the parts' names are for drawings only."""
MINI_SYNSETS = {"Chair": "03001627", "Mug": "03797390", "Table": "04379243"}
MINI_CLASSES = {"Chair": ("chair", "bench"), "Mug": ("cup",), "Table": ("table", "stool")}
MINI_SHAPES = {"train": 40, "val": 8, "test": 12}
MINI_POINTS = 600


class Shape(NamedTuple):
    """points: the .pts file; labels: the .seg file; category: its number."""

    id: str
    points: Path
    labels: Path
    category: int


def read_points(path: Path) -> NDArray[np.float64]:
    """A .pts file as [N, 3]; a `DataError` names the file and what is wrong with it."""
    values = _numbers(path)
    if values.shape[1] != 3 or not np.isfinite(values).all():
        raise DataError(f"{path}: expected lines of three finite coordinates, got {list(values.shape)}")
    return values


def read_parts(path: Path, parts: int, count: int) -> NDArray[np.int64]:
    """A .seg file of `count` labels 1..parts as int64 [count] in 0..parts-1; a `DataError` names what is wrong."""
    values = _numbers(path)
    if values.shape != (count, 1):
        raise DataError(f"{path}: {list(values.shape)} labels, but the shape has {count} points")
    labels = values[:, 0].astype(np.int64)
    if (labels != values[:, 0]).any() or labels.min() < 1 or labels.max() > parts:
        raise DataError(
            f"{path}: labels {values.min():g}..{values.max():g}, expected whole ones of 1..{parts}"
        )
    return labels - 1


def _numbers(path: Path) -> NDArray[np.float64]:
    """A text file of numbers, as many in each line, as [lines, columns]."""
    try:
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
        values = np.array(rows, dtype=np.float64)
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as numbers ({error}); fetch this file again") from None
    if values.ndim != 2:
        raise DataError(f"{path}: holds nothing")
    return values


class PartShapes(MapDataset[dict[str, Any]]):
    """Shapes, of which each access draws points. chance: what these depend on beside index and epoch."""

    def __init__(
        self, shapes: list[Shape], spec: ObjectPartsSpec, parts: list[int], chance: tuple[int | str, ...]
    ) -> None:
        self.shapes, self.spec, self.parts, self.chance = shapes, spec, parts, chance
        self._read: dict[int, tuple[NDArray[np.float64], NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        shape = self.shapes[index]
        if int(index) not in self._read:
            points = read_points(shape.points)
            labels = read_parts(shape.labels, self.parts[shape.category], len(points))
            self._read[int(index)] = (points, labels)
        points, labels = self._read[int(index)]
        rng = visit_generator(index, *self.chance)
        wanted, own = self.spec.points, len(points)
        drawn = np.concatenate([rng.permutation(own) for _ in range(-(-wanted // own))])[:wanted]
        return {
            "points": torch.from_numpy(in_unit_sphere(points[drawn])),
            "category": shape.category,
            "part": torch.from_numpy(labels[drawn] + self.spec.first_part[shape.category]),
            "id": shape.id,
        }


class ShapeNetPart(Dataset):
    """See the module's docstring. points: drawn of each shape."""

    name = "shapenet-part"
    tasks = ("part-segmentation",)
    title = "ShapeNet-Part"
    url = "https://shapenet.org/ (shapenetcore_partanno_segmentation_benchmark_v0)"
    licence = "ShapeNet terms of use: research and education only"
    required = (
        f"{HOME}/synsetoffset2category.txt",
        f"{HOME}/train_test_split/shuffled_train_file_list.json",
        f"{HOME}/train_test_split/shuffled_val_file_list.json",
        f"{HOME}/train_test_split/shuffled_test_file_list.json",
        f"{HOME}/*/points/*.pts",
        f"{HOME}/*/points_label/*.seg",
    )

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        points: int = 2048,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 12, **serving})
        if points < 4:
            raise ValueError(f"{self.name}: points must be 4 or more, not {points}")
        self.points = points

    def synsets(self) -> dict[str, str]:
        """Category -> synset, in the published order of categories."""
        file = self.root / HOME / "synsetoffset2category.txt"
        try:
            rows = [line.split() for line in file.read_text(encoding="ascii").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: cannot be read as text ({error})") from None
        if not rows or any(len(row) != 2 for row in rows):
            raise DataError(f"{file}: expected lines `<category> <synset>`")
        found = dict(rows)
        if odd := sorted(found.keys() - PARTS.keys()):
            raise DataError(f"{file}: unknown categories {', '.join(odd)}; known: {', '.join(PARTS)}")
        return {category: found[category] for category in PARTS if category in found}

    @property
    def spec(self) -> ObjectPartsSpec:
        self.prepare_data()
        categories = tuple(self.synsets())
        sizes = [len(PARTS[category]) for category in categories]
        return ObjectPartsSpec(
            dataset=self.name,
            categories=categories,
            parts=tuple(f"{category} {part}" for category in categories for part in PARTS[category]),
            first_part=tuple(int(first) for first in np.cumsum([0, *sizes[:-1]])),
            points=self.points,
        )

    def shapes(self, split: Split) -> list[Shape]:
        """The shapes of a split in the published order."""
        home = self.root / HOME
        numbers = {synset: number for number, synset in enumerate(self.synsets().values())}
        file = home / "train_test_split" / f"shuffled_{split}_file_list.json"
        try:
            names = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: cannot be read as JSON ({error}); fetch this file again") from None
        if not isinstance(names, list) or not names:
            raise DataError(f"{file}: expected a list of `shape_data/<synset>/<id>`")
        found = []
        for name in names:
            _, synset, number = [*str(name).split("/"), "", ""][:3]
            if synset not in numbers or not number:
                raise DataError(f"{file}: {name!r} is no `shape_data/<synset>/<id>` of a known category")
            points = home / synset / "points" / f"{number}.pts"
            labels = home / synset / "points_label" / f"{number}.seg"
            found.append(Shape(f"{synset}/{number}", points, labels, numbers[synset]))
        return found

    def read(self, split: Split) -> PartShapes:
        self.prepare_data()
        sizes = [len(PARTS[category]) for category in self.spec.categories]
        # What is tested is the same for all seeds.
        chance = (self.name, split, self.seed if split == "train" else 0)
        return PartShapes(self.shapes(split), self.spec, sizes, chance)

    @classmethod
    def render(cls, folder: Path) -> None:
        home = folder / HOME
        lists: dict[str, list[str]] = {split: [] for split in MINI_SHAPES}
        for category, synset in MINI_SYNSETS.items():
            for kind in ("points", "points_label"):
                (home / synset / kind).mkdir(parents=True)
            splits = [split for split, count in MINI_SHAPES.items() for _ in range(count)]
            for number, split in enumerate(splits):
                rng = random_generator(cls.name, category, number)
                name = f"{int(rng.integers(2**63)):032x}"
                classes = MINI_CLASSES[category]
                made = meshes.thing(classes[number % len(classes)], rng)
                points, face = sample_surface(Mesh(made.vertices, made.faces), MINI_POINTS, rng)
                labels = np.array([PARTS[category].index(part) + 1 for part in made.parts])[made.part[face]]
                order = np.argsort(labels, kind="stable")
                upright = points[order][:, [0, 2, 1]] * np.array([1, 1, -1])  # y up, as published
                (home / synset / "points" / f"{name}.pts").write_text(
                    "".join(f"{x:.5f} {y:.5f} {z:.5f}\n" for x, y, z in upright.tolist())
                )
                (home / synset / "points_label" / f"{name}.seg").write_text(
                    "".join(f"{label}\n" for label in labels[order].tolist())
                )
                lists[split].append(f"shape_data/{synset}/{name}")
        (home / "synsetoffset2category.txt").write_text(
            "".join(f"{category}\t{synset}\n" for category, synset in MINI_SYNSETS.items())
        )
        (home / "train_test_split").mkdir()
        for split, names in lists.items():
            order = random_generator(cls.name, split).permutation(len(names))
            file = home / "train_test_split" / f"shuffled_{split}_file_list.json"
            file.write_text(json.dumps([names[i] for i in order]))
