"""ImageNet 2012 (ILSVRC2012 classification): 1.2 million and 50,000 photographs of 1,000 classes.

Format: `train/<wnid>/*.JPEG`, `val/ILSVRC2012_val_*.JPEG` in one flat folder, and the development kit beside
them: `ILSVRC2012_devkit_t12/data/{meta.mat, ILSVRC2012_validation_ground_truth.txt}`. `meta.mat` maps the
kit's class ids to wnids; line i of the ground truth is the id of validation picture i.
Classes: the wnids of the kit's leaf synsets in alphabetical order, named by their first word.
Splits: `train`; the published validation set is `test`, as the field reports it (the test labels are not
public); `val` is `holdout` training pictures, always the same ones, taken off the training set; by default
none.
Serving: every picture is resized to `image_size` × `image_size`; in training a random square of `crop_size`
is cut out and mirrored half of the time, otherwise the centre square.
Licence: research and education only, by agreement with the image-net.org access terms.
Citation: O. Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 115, 2015.

The miniature has six wnids, 50 training pictures and 15 validation pictures each.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import loadmat, savemat
from torch.utils.data import Dataset as MapDataset
from torch.utils.data import get_worker_info

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature.silhouettes import OUTLINES, draw_silhouettes
from datamodules.specs import ImageClassesSpec

KIT = "ILSVRC2012_devkit_t12/data"
META = f"{KIT}/meta.mat"
TRUTH = f"{KIT}/ILSVRC2012_validation_ground_truth.txt"
FULL_SIZES = (256, 224)
MINIATURE_SIZES = (72, 64)


class Photographs(MapDataset[dict[str, Any]]):
    """Picture files with their labels. seed: of the random crops, None for the centre crop."""

    def __init__(
        self, files: list[Path], labels: list[int], *, image_size: int, crop_size: int, seed: int | None
    ) -> None:
        self.files = files
        self.labels = labels
        self.image_size = image_size
        self.crop_size = crop_size
        self.seed = seed
        self._random: np.random.Generator | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.files[index]
        pixels = _read_rgb(path, self.image_size)
        room = self.image_size - self.crop_size
        if self.seed is None:
            top = left = room // 2
            mirrored = False
        else:
            random = self._generator(self.seed)
            top, left = random.integers(0, room + 1, 2)
            mirrored = bool(random.random() < 0.5)
        crop = pixels[top : top + self.crop_size, left : left + self.crop_size]
        if mirrored:
            crop = crop[:, ::-1]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))).float() / 255.0,
            "label": self.labels[index],
            "id": path.stem,
        }

    def _generator(self, seed: int) -> np.random.Generator:
        """Of this process: crops depend on the seed (and the loader's worker), on no global generator."""
        if self._random is None:
            worker = get_worker_info()
            self._random = random_generator("imagenet-crops", seed if worker is None else worker.seed)
        return self._random


class ImageNet(Dataset):
    """Samples hold `image` float32 [3, crop_size, crop_size] in [0, 1], `label` and `id`.

    image_size, crop_size: None: 256 and 224, for the miniature 72 and 64.
    holdout: training pictures that are taken off and served as `val`.
    """

    name = "imagenet"
    tasks = ("image-classification",)
    title = "ImageNet 2012 (ILSVRC2012 classification)"
    url = "https://image-net.org/challenges/LSVRC/2012/"
    licence = "non-commercial research and education, on agreement"
    required = ("train/*/*.JPEG", "val/*.JPEG", META, TRUTH)

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        image_size: int | None = None,
        crop_size: int | None = None,
        holdout: int = 0,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 64, **serving})
        full = FULL_SIZES if self.variant == "real" else MINIATURE_SIZES
        self.image_size = full[0] if image_size is None else image_size
        self.crop_size = full[1] if crop_size is None else crop_size
        if not 0 < self.crop_size <= self.image_size:
            raise ValueError(f"imagenet: cannot cut {self.crop_size} pixels out of {self.image_size}")
        if holdout < 0:
            raise ValueError(f"imagenet: holdout must not be negative, got {holdout}")
        self.holdout = holdout

    @property
    def spec(self) -> ImageClassesSpec:
        self.prepare_data()
        leaves = read_leaves(self.root / META)
        names = {wnid: words.split(",")[0].strip() for wnid, words in leaves.values()}
        return ImageClassesSpec(
            dataset=self.name,
            classes=tuple(names[wnid] for wnid in sorted(names)),
            image_size=(self.crop_size, self.crop_size),
        )

    def read(self, split: Split) -> Photographs:
        self.prepare_data()
        leaves = read_leaves(self.root / META)
        label_of = {wnid: label for label, wnid in enumerate(sorted(wnid for wnid, _ in leaves.values()))}
        if split == "test":
            files = sorted((self.root / "val").glob("*.JPEG"))
            ids = read_ground_truth(self.root / TRUTH, leaves)
            if len(files) != len(ids):
                raise DataError(
                    f"{self.root / 'val'} holds {len(files)} pictures, {self.root / TRUTH} {len(ids)} lines"
                )
            labels = [label_of[leaves[number][0]] for number in ids]
        else:
            files = sorted((self.root / "train").glob("*/*.JPEG"))
            if strangers := sorted({file.parent.name for file in files} - set(label_of)):
                raise DataError(f"{self.root / 'train'}: {strangers[0]} is no class of {self.root / META}")
            if self.holdout >= len(files):
                raise ValueError(
                    f"imagenet: cannot hold out {self.holdout} of {len(files)} training pictures"
                )
            shuffled = random_generator(self.name, "holdout").permutation(len(files))
            kept = np.sort(shuffled[: self.holdout] if split == "val" else shuffled[self.holdout :])
            files = [files[i] for i in kept]
            labels = [label_of[file.parent.name] for file in files]
        return Photographs(
            files,
            labels,
            image_size=self.image_size,
            crop_size=self.crop_size,
            seed=self.seed if split == "train" else None,
        )

    @classmethod
    def render(cls, folder: Path) -> None:
        random = random_generator(cls.name, "classes")
        wnids = [f"n{number:08d}" for number in random.choice(10**8, 6, replace=False)]
        words = [f"{kind} {outline}, drawn" for kind in ("striped", "checked") for outline in OUTLINES[:3]]
        # As in the kit, ids are not in the order of the wnids, and an inner synset follows the leaves.
        _write_meta(folder / META, [*wnids, "n00001740"], [*words, "figure"], [0] * 6 + [6])
        for number, wnid in enumerate(wnids):
            (folder / "train" / wnid).mkdir(parents=True)
            pictures = _draw(np.full(50, number), random_generator(cls.name, "train", number))
            for i, picture in enumerate(pictures):
                picture.save(folder / "train" / wnid / f"{wnid}_{i}.JPEG", quality=92)
        random = random_generator(cls.name, "val")
        numbers = random.permutation(np.repeat(np.arange(6), 15))
        (folder / "val").mkdir()
        for i, picture in enumerate(_draw(numbers, random)):
            picture.save(folder / "val" / f"ILSVRC2012_val_{i + 1:08d}.JPEG", quality=92)
        (folder / TRUTH).write_text("".join(f"{number + 1}\n" for number in numbers))


def read_leaves(path: Path) -> dict[int, tuple[str, str]]:
    """The leaf synsets of `meta.mat`: id -> (wnid, words). A `DataError` names the file and what it lacks."""
    try:
        synsets = loadmat(path, squeeze_me=True, struct_as_record=True)["synsets"]
        rows = zip(*(synsets[key] for key in ("ILSVRC2012_ID", "WNID", "words", "num_children")), strict=True)
        leaves = {
            int(number): (str(wnid), str(words)) for number, wnid, words, inner in rows if int(inner) == 0
        }
    except FileNotFoundError:
        raise DataError(f"{path} is missing; it comes with the development kit") from None
    except Exception as error:  # a damaged .mat file may raise anything
        raise DataError(f"{path} is no meta.mat of the development kit: {error!r}") from error
    if not leaves:
        raise DataError(f"{path} names no leaf synset (num_children == 0)")
    return leaves


def read_ground_truth(path: Path, leaves: dict[int, tuple[str, str]]) -> list[int]:
    """The class id of each validation picture; a `DataError` names the line that is none."""
    ids = []
    for line, text in enumerate(path.read_text().split("\n"), start=1):
        if not text.strip():
            continue
        if not text.strip().isdigit() or int(text) not in leaves:
            raise DataError(f"{path}, line {line}: {text.strip()!r} is no class id of {META}")
        ids.append(int(text))
    return ids


def _read_rgb(path: Path, size: int) -> NDArray[np.uint8]:
    """uint8 [size, size, 3]; some published files are grey or CMYK, all become RGB."""
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. Fetch the file again.") from error


def _draw(numbers: NDArray[np.int64], random: np.random.Generator) -> list[Image.Image]:
    """One picture a class number: two grains of three outlines, in sizes as different as photographs."""
    pictures = draw_silhouettes(numbers % 3, numbers // 3, random, size=80, period=(6.0, 8.0))
    sizes = random.integers(72, 97, (len(numbers), 2))
    return [Image.fromarray(p).resize(tuple(s)) for p, s in zip(pictures, sizes.tolist(), strict=True)]


def _write_meta(path: Path, wnids: list[str], words: list[str], children: list[int]) -> None:
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
    synsets = np.zeros((len(wnids), 1), dtype=kinds)
    for i, row in enumerate(zip(wnids, words, children, strict=True)):
        synsets[i, 0] = (i + 1, *row)
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets})
    # The header's free text holds the time of writing; the same bytes every time instead.
    path.parent.mkdir(parents=True)
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:])
