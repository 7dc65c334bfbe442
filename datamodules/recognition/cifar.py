"""CIFAR-10 and CIFAR-100: 32×32 pictures of 10 and 100 classes, 50,000 for training, 10,000 for test.

Format: Python pickles. `cifar-10-batches-py/{data_batch_1..5, test_batch, batches.meta}` with `data` uint8
[N, 3072] (red, green and blue planes row by row) and `labels`; `cifar-100-python/{train, test, meta}` with
`fine_labels` (100 classes) and `coarse_labels` (20 superclasses). They are read by an unpickler that admits
NumPy arrays and nothing else.
Classes: from `batches.meta` (`label_names`) and `meta` (`fine_label_names`, `coarse_label_names`).
Splits: train and test as published. There is no published validation split: `holdout` training pictures,
always the same ones, are taken off the training set and served as `val`; by default none, and `val` is empty.
Licence: none stated; free for research, with the citation:
A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, 2009.

The miniature: the CIFAR-10 files hold five silhouettes in two fine textures (1,500 and 500 pictures), the
CIFAR-100 files five silhouettes (the coarse classes) in four textures (3,000 and 500).
"""

from __future__ import annotations

import pickle
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature.silhouettes import GRAINS, OUTLINES, draw_silhouettes
from datamodules.specs import ImageClassesSpec

SIDE = 32

ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # How Python 3 writes bytes in the protocol of these files.
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads lists, numbers, strings and NumPy arrays; any other global is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which a CIFAR file has no use for"
            ) from None


def read_pickle(path: Path) -> dict[str, Any]:
    """A published pickle as a dict with str keys; a `DataError` names the file and what is wrong with it."""
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="bytes").load()
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path} cannot be read: {error}. Fetch the file again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a dict")
    return {_text(key): value for key, value in content.items()}


def read_pictures(
    path: Path, label_keys: Iterable[str]
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
    """One batch file: pictures uint8 [N, 3, 32, 32] and the labels int64 [N] under each key."""
    content = read_pickle(path)
    data = _value(path, content, "data")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * SIDE * SIDE,):
        seen = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: 'data' must be uint8 [N, {3 * SIDE * SIDE}], got {seen}")
    labels = {key: np.asarray(_value(path, content, key)) for key in label_keys}
    for key, values in labels.items():
        if values.shape != (len(data),) or not np.issubdtype(values.dtype, np.integer):
            raise DataError(
                f"{path}: {key!r} must be {len(data)} integers, got {values.dtype} {values.shape}"
            )
    return data.reshape(-1, 3, SIDE, SIDE), {key: values.astype(np.int64) for key, values in labels.items()}


class Pictures(MapDataset[dict[str, Any]]):
    """Pictures in memory. images: uint8 [N, 3, H, W]; labels: int64 [N] by sample key; prefix: of the ids."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: dict[str, NDArray[np.int64]],
        ids: NDArray[np.int64],
        prefix: str,
    ) -> None:
        self.images = torch.from_numpy(images)
        self.labels = labels
        self.ids = ids
        self.prefix = prefix

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": self.images[index].float() / 255.0,
            **{key: int(values[index]) for key, values in self.labels.items()},
            "id": f"{self.prefix}/{self.ids[index]:05d}",
        }


class Cifar(Dataset):
    """What CIFAR-10 and CIFAR-100 share.

    holdout: training pictures that are taken off the training set and served as `val`.
    """

    tasks = ("image-classification",)
    url = "https://www.cs.toronto.edu/~kriz/cifar.html"
    licence = "none stated; research use with citation"
    folder: ClassVar[str]
    train_files: ClassVar[tuple[str, ...]]
    test_file: ClassVar[str]
    meta_file: ClassVar[str]

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        holdout: int = 0,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 100, **serving})
        if holdout < 0:
            raise ValueError(f"{self.name}: holdout must not be negative, got {holdout}")
        self.holdout = holdout
        # Archives are often unpacked straight into the root.
        if not (self.root / self.folder).is_dir() and self.root.name == self.folder:
            self.root = self.root.parent

    @property
    def files(self) -> Path:
        """The published folder."""
        return self.root / self.folder

    @property
    @abstractmethod
    def label_keys(self) -> dict[str, str]:
        """Key in the file of each label in a sample; `label` is the one that counts."""

    @property
    @abstractmethod
    def names_key(self) -> str:
        """Key of the class names in the meta file."""

    @property
    def spec(self) -> ImageClassesSpec:
        self.prepare_data()
        path = self.files / self.meta_file
        names = tuple(_text(name) for name in _value(path, read_pickle(path), self.names_key))
        return ImageClassesSpec(dataset=self.name, classes=names, image_size=(SIDE, SIDE))

    def read(self, split: Split) -> Pictures:
        classes = len(self.spec.classes)
        files = [self.test_file] if split == "test" else list(self.train_files)
        parts = [read_pictures(self.files / file, self.label_keys.values()) for file in files]
        images = np.concatenate([images for images, _ in parts])
        labels = {
            key: np.concatenate([labels[name] for _, labels in parts])
            for key, name in self.label_keys.items()
        }
        if len(images) == 0 or not 0 <= labels["label"].min() <= labels["label"].max() < classes:
            raise DataError(
                f"{self.files}: {split} labels must be 0..{classes - 1} as {self.meta_file} has it"
            )
        kept = np.arange(len(images))
        if split != "test":
            if self.holdout >= len(images):
                raise ValueError(
                    f"{self.name}: cannot hold out {self.holdout} of {len(images)} training pictures"
                )
            shuffled = random_generator(self.name, "holdout").permutation(len(images))
            kept = np.sort(shuffled[: self.holdout] if split == "val" else shuffled[self.holdout :])
        return Pictures(
            images[kept],
            {key: values[kept] for key, values in labels.items()},
            kept,
            "test" if split == "test" else "train",
        )


class CIFAR10(Cifar):
    """Ten classes of things and animals; a sample: `image` float32 [3, 32, 32] in [0, 1], `label`, `id`."""

    name = "cifar-10"
    title = "CIFAR-10 (Python version)"
    folder = "cifar-10-batches-py"
    train_files = tuple(f"data_batch_{i}" for i in range(1, 6))
    test_file = "test_batch"
    meta_file = "batches.meta"
    required = tuple(f"cifar-10-batches-py/{file}" for file in (*train_files, test_file, meta_file))

    @property
    def label_keys(self) -> dict[str, str]:
        return {"label": "labels"}

    @property
    def names_key(self) -> str:
        return "label_names"

    @classmethod
    def render(cls, folder: Path) -> None:
        out = folder / cls.folder
        out.mkdir()
        names = _miniature_names(2)
        for part, file in enumerate((*cls.train_files, cls.test_file)):
            count = 500 if file == cls.test_file else 300
            classes, images = _draw(count, 2, random_generator(cls.name, file))
            _write_pickle(
                out / file,
                {
                    "batch_label": b"testing batch 1 of 1"
                    if count == 500
                    else b"training batch %d of 5" % (part + 1),
                    "labels": classes.tolist(),
                    "data": images,
                    "filenames": _filenames(classes, names, file),
                },
            )
        _write_pickle(
            out / cls.meta_file,
            {
                "num_cases_per_batch": 300,
                "label_names": [n.encode() for n in names],
                "num_vis": 3 * SIDE * SIDE,
            },
        )


class CIFAR100(Cifar):
    """A hundred fine classes in twenty superclasses; samples are those of CIFAR-10 and `coarse_label`.

    labels: which of them is `label`: "fine" (the benchmark) or "coarse".
    """

    name = "cifar-100"
    title = "CIFAR-100 (Python version)"
    folder = "cifar-100-python"
    train_files = ("train",)
    test_file = "test"
    meta_file = "meta"
    required = tuple(f"cifar-100-python/{file}" for file in (*train_files, test_file, meta_file))

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        labels: Literal["fine", "coarse"] = "fine",
        holdout: int = 0,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, holdout=holdout, **serving)
        if labels not in ("fine", "coarse"):
            raise ValueError(f"{self.name}: labels must be 'fine' or 'coarse', got {labels!r}")
        self.labels = labels

    @property
    def label_keys(self) -> dict[str, str]:
        return {"label": f"{self.labels}_labels", "coarse_label": "coarse_labels"}

    @property
    def names_key(self) -> str:
        return f"{self.labels}_label_names"

    @classmethod
    def render(cls, folder: Path) -> None:
        out = folder / cls.folder
        out.mkdir()
        names = _miniature_names(4)
        for file, count in (("train", 3000), ("test", 500)):
            classes, images = _draw(count, 4, random_generator(cls.name, file))
            _write_pickle(
                out / file,
                {
                    "filenames": _filenames(classes, names, file),
                    "batch_label": b"%sing batch 1 of 1" % file.encode(),
                    "fine_labels": classes.tolist(),
                    "coarse_labels": (classes // 4).tolist(),
                    "data": images,
                },
            )
        _write_pickle(
            out / cls.meta_file,
            {
                "fine_label_names": [name.encode() for name in names],
                "coarse_label_names": [outline.encode() for outline in OUTLINES],
            },
        )


def _value(path: Path, content: dict[str, Any], key: str) -> Any:
    try:
        return content[key]
    except KeyError:
        raise DataError(f"{path} has no {key!r}, only {', '.join(sorted(content))}") from None


def _text(value: bytes | str) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _miniature_names(grains: int) -> list[str]:
    return [f"{GRAINS[g]}_{outline}" for outline in OUTLINES for g in range(grains)]


def _draw(
    count: int, grains: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """As many pictures of each class, shuffled: class index [N] and `data` [N, 3072]."""
    classes = random.permutation(np.arange(count) % (len(OUTLINES) * grains))
    pictures = draw_silhouettes(classes // grains, classes % grains, random)
    return classes, np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)).reshape(count, -1)


def _filenames(classes: NDArray[np.int64], names: list[str], file: str) -> list[bytes]:
    return [f"{names[c]}_{file}_{i:06d}.png".encode() for i, c in enumerate(classes)]


def _write_pickle(path: Path, content: dict[str, Any]) -> None:
    """Write with bytes as keys, in the protocol of the published files."""
    with path.open("wb") as file:
        pickle.dump({key.encode(): value for key, value in content.items()}, file, protocol=2)
