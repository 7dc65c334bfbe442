"""Pictures of seen and unseen classes with class attributes, in the proposed splits of the zero-shot benchmark.

Format, under xlsa17/data/<dataset>/
    res101.mat: `image_files` (paths as they lay on the authors' disks), `labels` (1-based); its features, which a
    network trained on ImageNet made, are not read.
    att_splits.mat: `allclasses_names`, and 1-based indices into `image_files`: `trainval_loc` (seen classes),
    `test_unseen_loc` (unseen ones), `train_loc` and `val_loc` (the seen classes parted into two disjoint sets, to
    choose settings on), `test_seen_loc` (seen classes' pictures that are kept for generalised zero-shot tests: unused).
Samples
    see the task's contract: `image`, `label`, `id`, where people have clicked on parts `clicks`, and in training
    `view` and `partner` (see `pairs`).
Preparation
    resized to 128 x 128; of that a random square of 0.875 of the side (112) in training, the central one otherwise.
Citation
    Xian, Lampert, Schiele, Akata: Zero-shot learning - a comprehensive evaluation of the good, the bad and the ugly.
    TPAMI 2019.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import scipy.io
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
    Visit,
    visit_generator,
)
from datamodules.recognition.listed_images import Sizing, load_image, read_lines
from datamodules.specs import ZeroShotSpec

Pairs = Literal["none", "view", "partner"]
REAL_SIDE, MINIATURE_SIDE = 128, 64
CROP = 0.875
SPLITS = ("trainval_loc", "train_loc", "val_loc", "test_unseen_loc")


@dataclass(frozen=True)
class ProposedSplit:
    """What the two .mat files say, counted from 0.

    names [C] of the classes; files [N], relative to the pictures' folder; labels int64 [N] into `names`;
    places: the indices of `SPLITS` into `files`.
    """

    names: tuple[str, ...]
    files: tuple[str, ...]
    labels: NDArray[np.int64]
    places: Mapping[str, NDArray[np.int64]]

    def classes(self, split: str) -> NDArray[np.int64]:
        """The classes that a split has pictures of, ascending."""
        return np.unique(self.labels[self.places[split]])


@dataclass(frozen=True)
class Semantics:
    """What is known of each class [C] by attribute [A]: values float [C, A] in 0..1, and, where one is published,
    a binary matrix."""

    attributes: tuple[str, ...]
    values: NDArray[np.float64]
    present: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Clicks:
    """Clicks on parts: at float32 [N, P, W, 3] by picture, part and worker: x, y in pixels of the file, and 1 if
    the part was visible, else 0 (as for the workers that a part had less than W of)."""

    parts: tuple[str, ...]
    at: NDArray[np.float32]


class ZeroShotImages(Dataset):
    """Serves `zero-shot-classification`; see the module's docstring.

    resize: side in pixels that pictures are resized to before the crop; None: 128, for the miniature 64.
    validation: train on the classes of `train_loc` only and validate on those of `val_loc`, which are not seen then
        either. By default all seen classes are trained on and `val` is empty.
    pairs: what training samples hold beside the picture: another crop of it (`view`); and (`partner`) a crop of
        another picture of its class, or of itself where it is the only one.
    in_memory: keep decoded pictures; None: those of the miniature.
    """

    tasks = ("zero-shot-classification",)
    problem = ("validation",)
    splits_folder: ClassVar[str]
    """Folder of the two .mat files under the root."""
    pictures_folder: ClassVar[str]
    """Folder of the pictures under the root; its last part is looked for in the published paths."""

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        resize: int | None = None,
        validation: bool = False,
        pairs: Pairs = "partner",
        in_memory: bool | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 64, **serving})
        if resize is None:
            resize = MINIATURE_SIDE if variant == "miniature" else REAL_SIDE
        if resize < 8:
            raise ValueError(f"{self.name}: resize must be at least 8 pixels, got {resize}")
        if pairs not in ("none", "view", "partner"):
            raise ValueError(f"{self.name}: pairs {pairs!r} is none of none, view, partner")
        self.resize, self.crop = resize, round(CROP * resize)
        self.validation = validation
        self.pairs: Pairs = pairs
        self.in_memory = variant == "miniature" if in_memory is None else in_memory

    @abstractmethod
    def semantics(self, proposed: ProposedSplit) -> Semantics:
        """The classes' attributes, in the order of `proposed.names`."""

    def clicks(self, proposed: ProposedSplit) -> Clicks | None:
        """The clicks on each picture's parts, in the order of `proposed.files`; default: there are none."""
        return None

    @cached_property
    def proposed(self) -> ProposedSplit:
        return read_proposed_split(self.root / self.splits_folder, Path(self.pictures_folder).name)

    @cached_property
    def _clicks(self) -> Clicks | None:
        return self.clicks(self.proposed)

    @cached_property
    def groups(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Seen, held-out and unseen classes, as indices into `proposed.names`."""
        proposed = self.proposed
        unseen = proposed.classes("test_unseen_loc")
        if self.validation:
            seen, held_out = proposed.classes("train_loc"), proposed.classes("val_loc")
        else:
            seen, held_out = proposed.classes("trainval_loc"), np.zeros(0, np.int64)
        for first, second, what in (
            (seen, unseen, "test_unseen_loc"),
            (seen, held_out, "val_loc"),
            (held_out, unseen, "val_loc"),
        ):
            if len(shared := np.intersect1d(first, second)):
                raise DataError(
                    f"{self.root / self.splits_folder / 'att_splits.mat'}: {what} holds classes of another part: "
                    f"{', '.join(proposed.names[i] for i in shared[:5])}; unseen classes must not be trained on"
                )
        return seen, held_out, unseen

    @cached_property
    def spec(self) -> ZeroShotSpec:  # type: ignore[override]  # read once
        self.prepare_data()
        semantics, clicks = self.semantics(self.proposed), self._clicks
        order = np.concatenate(self.groups)
        return ZeroShotSpec(
            dataset=self.name,
            classes=tuple(self.proposed.names[i] for i in order),
            seen=len(self.groups[0]),
            held_out=len(self.groups[1]),
            image_size=(self.crop, self.crop),
            attributes=semantics.attributes,
            values=tuple(tuple(row) for row in semantics.values[order].round(6).tolist()),
            present=()
            if semantics.present is None
            else tuple(tuple(row) for row in semantics.present[order].astype(int).tolist()),
            parts=() if clicks is None else clicks.parts,
        )

    def read(self, split: Split) -> ZeroShotSamples:
        self.prepare_data()
        proposed = self.proposed
        label_of = np.full(len(proposed.names), -1)
        label_of[np.concatenate(self.groups)] = np.arange(sum(map(len, self.groups)))
        if split == "test":
            chosen = proposed.places["test_unseen_loc"]
        elif split == "train":
            chosen = proposed.places["train_loc" if self.validation else "trainval_loc"]
        else:
            chosen = proposed.places["val_loc"] if self.validation else np.zeros(0, np.int64)
        return ZeroShotSamples(
            folder=self.root / self.pictures_folder,
            files=[proposed.files[i] for i in chosen],
            labels=label_of[proposed.labels[chosen]],
            clicks=None if self._clicks is None else self._clicks.at[chosen],
            side=self.resize,
            crop=self.crop,
            pairs=self.pairs,
            seed=self.seed,
            keep=self.in_memory,
        )


class ZeroShotSamples(MapDataset[dict[str, Any]]):
    """The samples of a split. Those asked for by a `Visit` are cropped at random and have a view and a partner."""

    def __init__(
        self,
        *,
        folder: Path,
        files: list[str],
        labels: NDArray[np.int64],
        clicks: NDArray[np.float32] | None,
        side: int,
        crop: int,
        pairs: Pairs,
        seed: int,
        keep: bool,
    ) -> None:
        self.folder, self.files, self.labels, self.clicks = folder, files, labels, clicks
        self.sizing, self.crop = Sizing((side, side), None), crop
        self.pairs, self.seed, self.keep = pairs, seed, keep
        self._kept: dict[int, tuple[Tensor, tuple[int, int]]] = {}
        order = np.argsort(labels, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(order) else []
        self._members = {int(labels[indices[0]]): indices for indices in members}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture, original = self._picture(index)
        spare = self.sizing.served[0] - self.crop
        top = left = spare // 2
        training = isinstance(index, Visit)
        if training:
            chance = visit_generator(index, "zero-shot", self.seed)
            corners = chance.integers(0, spare + 1, (3, 2)).tolist()
            top, left = corners[0]
        sample: dict[str, Any] = {
            "image": self._cropped(picture, top, left),
            "label": int(self.labels[index]),
            "id": self.files[index],
        }
        if self.clicks is not None:
            sample["clicks"] = self._served_clicks(int(index), original, top, left)
        if training and self.pairs != "none":
            sample["view"] = self._cropped(picture, *corners[1])
        if training and self.pairs == "partner":
            other, _ = self._picture(self._partner(int(index), chance))
            sample["partner"] = self._cropped(other, *corners[2])
        return sample

    def _partner(self, index: int, chance: np.random.Generator) -> int:
        """Another picture of the same class; the same one where there is no other."""
        members = self._members[int(self.labels[index])]
        if len(members) == 1:
            return index
        place = int(np.searchsorted(members, index))
        drawn = int(chance.integers(len(members) - 1))
        return int(members[drawn + (drawn >= place)])

    def _picture(self, index: int) -> tuple[Tensor, tuple[int, int]]:
        """The resized picture, uint8 [3, side, side], and (height, width) of the file."""
        index = int(index)
        if index in self._kept:
            return self._kept[index]
        pixels, original = load_image(self.folder / self.files[index], self.sizing)
        found = (pixels * 255).round().to(torch.uint8), original
        if self.keep:
            self._kept[index] = found
        return found

    def _cropped(self, picture: Tensor, top: int, left: int) -> Tensor:
        return picture[:, top : top + self.crop, left : left + self.crop].float() / 255

    def _served_clicks(self, index: int, original: tuple[int, int], top: int, left: int) -> Tensor:
        """[P, W, 3] in pixels of the served picture: resized and cropped as it is."""
        assert self.clicks is not None
        side = self.sizing.served[0]
        scale = torch.tensor([side / original[1], side / original[0], 1.0])
        return torch.from_numpy(self.clicks[index]) * scale - torch.tensor([float(left), float(top), 0.0])


def read_proposed_split(folder: Path, pictures: str) -> ProposedSplit:
    """Read att_splits.mat and res101.mat; pictures: name of the folder behind which published paths are relative.

    Raises `DataError` where a file, a key or an index is wrong.
    """
    splits = read_mat(folder / "att_splits.mat", ("allclasses_names", *SPLITS))
    listed = read_mat(folder / "res101.mat", ("image_files", "labels"))
    names = cell_strings(splits["allclasses_names"])
    published = cell_strings(listed["image_files"])
    marker = f"/{pictures}/"
    for path in published:
        if marker not in f"/{path}":
            raise DataError(
                f"{folder / 'res101.mat'}: image_files holds {path!r}, which is not under {pictures}/"
            )
    files = tuple(f"/{path}".rsplit(marker, 1)[1].lstrip("/") for path in published)
    labels = listed["labels"].reshape(-1).astype(np.int64) - 1
    if len(labels) != len(files):
        raise DataError(
            f"{folder / 'res101.mat'}: {len(labels)} labels for {len(files)} image_files; fetch this file again"
        )
    if labels.size and not (labels.min() >= 0 and labels.max() < len(names)):
        raise DataError(
            f"{folder / 'res101.mat'}: labels {labels.min() + 1}..{labels.max() + 1}, but att_splits.mat names "
            f"{len(names)} classes"
        )
    places = {}
    for split in SPLITS:
        where = splits[split].reshape(-1).astype(np.int64) - 1
        if where.size == 0 or where.min() < 0 or where.max() >= len(files):
            raise DataError(
                f"{folder / 'att_splits.mat'}: {split} must hold indices 1..{len(files)} of pictures; "
                f"fetch this file again"
            )
        places[split] = where
    return ProposedSplit(names, files, labels, places)


def read_mat(path: Path, keys: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The named variables of a MATLAB file; a `DataError` names the file and the key that isn't there."""
    try:
        found = scipy.io.loadmat(path, variable_names=list(keys))
    except (OSError, ValueError, NotImplementedError, scipy.io.matlab.MatReadError) as error:
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error}); fetch this file again") from None
    for key in keys:
        if key not in found:
            raise DataError(f"{path}: has no variable {key!r}; fetch this file again")
    return {key: found[key] for key in keys}


def cell_strings(cell: NDArray[Any]) -> tuple[str, ...]:
    """A MATLAB cell array of strings (or a padded character matrix) -> its strings in order."""
    return tuple(
        str(item.reshape(-1)[0]) if isinstance(item, np.ndarray) else str(item).rstrip()
        for item in cell.reshape(-1)
    )


def numbered(file: Path) -> list[str]:
    """The names of a published list `<id> <name>` whose ids are 1, 2, 3, ..."""
    names = []
    for number, line in enumerate(read_lines(file), start=1):
        columns = line.split(maxsplit=1)
        if len(columns) != 2 or columns[0] != str(number):
            raise DataError(f"{file}, line {number}: expected `{number} <name>`, not {line!r}")
        names.append(columns[1])
    return names


def numbers(names: list[str]) -> list[str]:
    """Names -> the lines of such a list."""
    return [f"{number} {name}" for number, name in enumerate(names, start=1)]


def read_matrix(file: Path) -> NDArray[np.float64]:
    """A text file of numbers in rows; a `DataError` where it is none."""
    try:
        return np.loadtxt(file, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: is no matrix of numbers ({error}); fetch this file again") from None


def string_cell(strings: list[str]) -> NDArray[np.object_]:
    """Strings -> what `scipy.io.savemat` writes as a cell array [n, 1] of them."""
    cell = np.empty((len(strings), 1), dtype=object)
    cell[:, 0] = strings
    return cell


def write_proposed_split(
    folder: Path,
    *,
    names: list[str],
    files: list[str],
    labels: NDArray[np.int64],
    unseen: NDArray[np.int64],
    held_out: NDArray[np.int64],
    values: NDArray[np.float64],
) -> None:
    """Write both .mat files of a miniature.

    labels [N] and the classes `unseen` and `held_out` from 0; values [C, A] as published (not normalised). Of each
    seen class one picture in five is `test_seen_loc`. `features` are zeros [1, N]: nothing may read them.
    """
    is_unseen = np.isin(labels, unseen)
    rank = np.zeros(len(labels), np.int64)
    for label in range(len(names)):
        mine = labels == label
        rank[mine] = np.arange(mine.sum())
    kept = (rank % 5 == 4) & ~is_unseen
    trained = ~is_unseen & ~kept
    held = np.isin(labels, held_out)
    where = {
        "trainval_loc": trained,
        "train_loc": trained & ~held,
        "val_loc": trained & held,
        "test_seen_loc": kept,
        "test_unseen_loc": is_unseen,
    }
    length = np.linalg.norm(values, axis=1, keepdims=True)
    folder.mkdir(parents=True, exist_ok=True)
    save_mat(
        folder / "att_splits.mat",
        {
            "allclasses_names": string_cell(names),
            "att": (values / length).T,
            "original_att": values.T,
            **{key: np.flatnonzero(mask)[:, None] + 1.0 for key, mask in where.items()},
        },
    )
    save_mat(
        folder / "res101.mat",
        {
            "image_files": string_cell(files),
            "labels": labels[:, None] + 1.0,
            "features": np.zeros((1, len(files))),
        },
    )


def save_mat(path: Path, variables: dict[str, Any]) -> None:
    """`savemat` without the date that it writes into the header: the same bytes each time."""
    scipy.io.savemat(path, variables)
    content = bytearray(path.read_bytes())
    header = b"MATLAB 5.0 MAT-file, written by paragone"
    content[:116] = header.ljust(116)
    path.write_bytes(bytes(content))
