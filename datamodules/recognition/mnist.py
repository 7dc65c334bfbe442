"""MNIST: 28x28 grey pictures of handwritten digits, 60,000 for training and 10,000 for test.

Format
    Four idx files: `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte`, plain or with `.gz` (also `train-images.idx3-ubyte`, as some archives call them). Big
    endian: a magic number (two zeros, the type 8 of unsigned bytes, the number of axes), the length of each axis as
    uint32, then the bytes. They lie under the root, `mnist/`, `MNIST/` or `MNIST/raw/`.
Splits
    Train and test as published. There is no published validation split: `val_share` of the training digits, always
    the same ones, are taken off the training set and served as `val` (a twelfth of 60,000 is 5,000); 0: none, and
    `val` is empty.
Licence
    Creative Commons Attribution-Share Alike 3.0.
Citation
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner: Gradient-based learning applied to document recognition.
    Proceedings of the IEEE, 1998.
Miniature
    4,000 and 1,000 digits drawn with strokes (`datamodules/miniature/stroke_digits.py`), in .gz files.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature.stroke_digits import SIDE, draw_digits
from datamodules.specs import ImageClassesSpec

Part = Literal["train", "t10k"]
FOLDERS = ("mnist", "MNIST/raw", "MNIST")
DIGITS = tuple(str(digit) for digit in range(10))
MEAN, STD = (0.1307,), (0.3081,)
"""Of the training pictures' pixels in [0, 1]: what MNIST is usually normalised with."""
MINIATURE_DIGITS: dict[Part, int] = {"train": 4000, "t10k": 1000}


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes, plain or gzipped, as an array of so many axes.

    A `DataError` names the file and what is wrong with it.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch this file again") from None
    if content[:4] != bytes([0, 0, 8, axes]):
        raise DataError(
            f"{path}: begins with {content[:4].hex() or 'nothing'}, an idx file of unsigned bytes with {axes} axes "
            f"begins with 000008{axes:02x}; fetch this file again"
        )
    header = 4 + 4 * axes
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist()) if len(content) >= header else ()
    if len(shape) != axes or len(content) - header != math.prod(shape):
        raise DataError(
            f"{path}: {len(content) - header} bytes of data, expected {'x'.join(map(str, shape)) or 'a header'}; "
            "fetch this file again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """The same file format, gzipped if the name ends so; always the same bytes."""
    content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


@dataclass(frozen=True)
class Digits:
    """images: uint8 [N, 28, 28]; labels: int64 [N], 0..9; ids: int64 [N], positions in the file `part`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    part: Part

    def __len__(self) -> int:
        return len(self.labels)


class MNISTFiles(Dataset):
    """The files of MNIST, for all that read them; they share one miniature.

    val_share: share of the training digits that is held out for validation.
    """

    title = "MNIST handwritten digits"
    url = "http://yann.lecun.com/exdb/mnist/ (mirror: https://ossci-datasets.s3.amazonaws.com/mnist/)"
    licence = "CC BY-SA 3.0"
    required = (
        "train-images?idx3-ubyte*",
        "train-labels?idx1-ubyte*",
        "t10k-images?idx3-ubyte*",
        "t10k-labels?idx1-ubyte*",
    )

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        val_share: float = 1 / 12,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **serving)
        if not 0 <= val_share < 1:
            raise ValueError(f"{self.name}: val_share must be in [0, 1), not {val_share}")
        self.val_share = val_share

    def _home(self, root: Path) -> Path:
        return next((root / name for name in FOLDERS if (root / name).is_dir()), root)

    @property
    def miniature_folder(self) -> Path:
        return self.cache / f"{MNIST.name}-v{MNISTFiles.version}"

    def digits(self, split: Split) -> Digits:
        """The digits of a split in the order of the files."""
        self.prepare_data()
        part: Part = "t10k" if split == "test" else "train"
        images = read_idx(self._file(f"{part}-images?idx3-ubyte"), axes=3)
        labels = read_idx(self._file(f"{part}-labels?idx1-ubyte"), axes=1)
        if images.shape != (len(labels), SIDE, SIDE) or not len(labels) or labels.max() > 9:
            raise DataError(
                f"{self.root}: {part} images {images.shape} and labels {labels.shape} must be [N, {SIDE}, {SIDE}] and "
                f"[N] in 0..9, got labels up to {labels.max(initial=0)}"
            )
        kept = np.arange(len(labels))
        if split != "test":
            held = round(self.val_share * len(labels))
            order = random_generator("mnist", "held out").permutation(len(labels))
            kept = np.sort(order[:held] if split == "val" else order[held:])
        return Digits(images[kept], labels[kept].astype(np.int64), kept, part)

    def _file(self, pattern: str) -> Path:
        """The plain file where there is one, else the gzipped one."""
        found = sorted(self.root.glob(pattern)) or sorted(self.root.glob(f"{pattern}.gz"))
        if not found:
            raise DataError(
                f"{self.root} has no {pattern.replace('?', '-')}, plain or .gz.\n{self.instructions()}"
            )
        return found[0]

    @classmethod
    def render(cls, folder: Path) -> None:
        for part, count in MINIATURE_DIGITS.items():
            random = random_generator("mnist", part)
            labels = random.permutation(np.arange(count) % 10)
            write_idx(folder / f"{part}-images-idx3-ubyte.gz", draw_digits(labels, random))
            write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels.astype(np.uint8))


class MNIST(MNISTFiles):
    """Serves `image-classification`: `image` float32 [1, 28, 28] in [0, 1], `label` 0..9, `id`.

    val_share: share of the training digits that is held out for validation.
    """

    name = "mnist"
    tasks = ("image-classification",)

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        val_share: float = 1 / 12,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, val_share=val_share, **{"test_batch_size": 100, **serving})

    @property
    def spec(self) -> ImageClassesSpec:
        return ImageClassesSpec(dataset=self.name, channels=1, classes=DIGITS, image_size=(SIDE, SIDE))

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        return DigitPictures(self.digits(split))


class DigitPictures(MapDataset[dict[str, Any]]):
    """Digits one by one."""

    def __init__(self, digits: Digits) -> None:
        self.digits = digits

    def __len__(self) -> int:
        return len(self.digits)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": torch.from_numpy(self.digits.images[index].copy())[None].float() / 255,
            "label": int(self.digits.labels[index]),
            "id": f"{self.digits.part}/{self.digits.ids[index]:05d}",
        }
