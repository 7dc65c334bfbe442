"""Tiny ImageNet: 64×64 photographs of 200 classes of ImageNet, 500 for training and 50 for validation each.

Format: `tiny-imagenet-200/` with `wnids.txt` (the classes, one a line), `words.txt` (wnid, a tab, its words; of all of
WordNet), `train/<wnid>/images/*.JPEG`, `val/images/*.JPEG` with `val/val_annotations.txt` (file name, wnid and box,
separated by tabs), and `test/images`, whose labels are not public and which isn't read.
Classes: the wnids in alphabetical order, named by their first word (and the wnid, where two have the same one).
Splits: `train`; the published validation set is `test`, as the field reports it; `val` is `holdout` training pictures,
always the same ones, taken off the training set; by default none.
Serving: pictures as they lie, 64×64; the few grey ones become RGB. Augmentation is a method's matter.
Licence: that of ImageNet, research and education only.
Citation: Y. Le and X. Yang, "Tiny ImageNet Visual Recognition Challenge", CS 231N, Stanford, 2015.

The miniature has 20 wnids, five silhouettes in four textures, with 30 and 10 pictures each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature.silhouettes import GRAINS, OUTLINES, draw_silhouettes
from datamodules.specs import ImageClassesSpec

FOLDER = "tiny-imagenet-200"
WNIDS, WORDS = "wnids.txt", "words.txt"
ANNOTATIONS = "val/val_annotations.txt"
SIDE = 64
MINIATURE_TRAIN, MINIATURE_VAL = 30, 10


class LabelledFiles(MapDataset[dict[str, Any]]):
    """Samples `image` float32 [3, 64, 64] in [0, 1], `label` and `id` (the file's stem), read when asked for."""

    def __init__(self, files: list[tuple[Path, int]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.files[index]
        try:
            with Image.open(path) as file:
                pixels = np.asarray(file.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{path} cannot be read: {error}. Fetch the file again.") from error
        if pixels.shape != (SIDE, SIDE, 3):
            raise DataError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]}, expected {SIDE}x{SIDE}")
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255.0
        return {"image": image, "label": label, "id": path.stem}


class TinyImageNet(Dataset):
    """See the module's docstring. holdout: training pictures that are taken off and served as `val`."""

    name = "tiny-imagenet"
    tasks = ("image-classification",)
    title = "Tiny ImageNet"
    url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    licence = "non-commercial research and education, as ImageNet"
    required = (
        f"{FOLDER}/{WNIDS}",
        f"{FOLDER}/{WORDS}",
        f"{FOLDER}/train/*/images/*.JPEG",
        f"{FOLDER}/val/images/*.JPEG",
        f"{FOLDER}/{ANNOTATIONS}",
    )

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
        # The archive is often unpacked straight into the root.
        if not (self.root / FOLDER).is_dir() and self.root.name == FOLDER:
            self.root = self.root.parent

    @property
    def files(self) -> Path:
        """The published folder."""
        return self.root / FOLDER

    @property
    def spec(self) -> ImageClassesSpec:
        self.prepare_data()
        wnids = sorted(read_wnids(self.files / WNIDS))
        words = read_words(self.files / WORDS)
        if unknown := [wnid for wnid in wnids if wnid not in words]:
            raise DataError(f"{self.files / WORDS} has no line for {unknown[0]} of {WNIDS}")
        names = [words[wnid].split(",")[0].strip() for wnid in wnids]
        unique = [
            name if names.count(name) == 1 else f"{name} ({wnid})"
            for name, wnid in zip(names, wnids, strict=True)
        ]
        return ImageClassesSpec(dataset=self.name, classes=tuple(unique), image_size=(SIDE, SIDE))

    def read(self, split: Split) -> LabelledFiles:
        self.prepare_data()
        label_of = {wnid: label for label, wnid in enumerate(sorted(read_wnids(self.files / WNIDS)))}
        if split == "test":
            annotated = read_annotations(self.files / ANNOTATIONS)
            files = []
            for name, wnid in annotated.items():
                if wnid not in label_of:
                    raise DataError(f"{self.files / ANNOTATIONS}: {name} is of {wnid}, no class of {WNIDS}")
                files.append((self.files / "val" / "images" / name, label_of[wnid]))
            if missing := [path for path, _ in files if not path.is_file()]:
                raise DataError(f"{missing[0]} is missing, one of {len(missing)} that {ANNOTATIONS} names")
            return LabelledFiles(files)
        training = [
            (path, label)
            for wnid, label in label_of.items()
            for path in sorted((self.files / "train" / wnid / "images").glob("*.JPEG"))
        ]
        with_pictures = {label for _, label in training}
        if empty := [wnid for wnid, label in label_of.items() if label not in with_pictures]:
            raise DataError(f"{self.files / 'train' / empty[0] / 'images'} holds no pictures")
        if self.holdout >= len(training):
            raise ValueError(
                f"{self.name}: cannot hold out {self.holdout} of {len(training)} training pictures"
            )
        shuffled = random_generator(self.name, "holdout").permutation(len(training))
        kept = np.sort(shuffled[: self.holdout] if split == "val" else shuffled[self.holdout :])
        return LabelledFiles([training[i] for i in kept.tolist()])

    @classmethod
    def render(cls, folder: Path) -> None:
        out = folder / FOLDER
        random = random_generator(cls.name, "classes")
        kinds = [(outline, grain) for outline in range(len(OUTLINES)) for grain in range(len(GRAINS))]
        wnids = [f"n{number:08d}" for number in random.choice(10**8, len(kinds), replace=False)]
        words = [f"{GRAINS[grain]} {OUTLINES[outline]}, drawn" for outline, grain in kinds]
        out.mkdir()
        (out / WNIDS).write_text("".join(f"{wnid}\n" for wnid in wnids))
        # As published, it has lines for other wnids as well.
        lines = sorted([*zip(wnids, words, strict=True), ("n00001740", "entity")])
        (out / WORDS).write_text("".join(f"{wnid}\t{text}\n" for wnid, text in lines))
        for kind, wnid in enumerate(wnids):
            home = out / "train" / wnid
            (home / "images").mkdir(parents=True)
            pictures = _draw(np.full(MINIATURE_TRAIN, kind), cls.name, "train", kind)
            names = [f"{wnid}_{i}.JPEG" for i in range(MINIATURE_TRAIN)]
            for name, picture in zip(names, pictures, strict=True):
                picture.save(home / "images" / name, quality=92)
            (home / f"{wnid}_boxes.txt").write_text("".join(f"{name}\t0\t0\t63\t63\n" for name in names))
        for split, count in (("val", len(kinds) * MINIATURE_VAL), ("test", len(kinds))):
            (out / split / "images").mkdir(parents=True)
            order = random_generator(cls.name, split).permutation(np.arange(count) % len(kinds))
            for i, picture in enumerate(_draw(order, cls.name, split, "pictures")):
                picture.save(out / split / "images" / f"{split}_{i}.JPEG", quality=92)
            if split == "val":
                (out / ANNOTATIONS).write_text(
                    "".join(f"val_{i}.JPEG\t{wnids[kind]}\t0\t0\t63\t63\n" for i, kind in enumerate(order))
                )


def read_wnids(path: Path) -> list[str]:
    """The classes' wnids as they stand; a `DataError` where one stands twice, or there is none."""
    wnids = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not wnids or len(set(wnids)) != len(wnids):
        raise DataError(
            f"{path} must name each class once, got {len(wnids)} lines, {len(set(wnids))} classes"
        )
    return wnids


def read_words(path: Path) -> dict[str, str]:
    """wnid -> words; a `DataError` names the line that isn't two fields separated by a tab."""
    return {fields[0]: fields[1] for fields in _fields(path, 2)}


def read_annotations(path: Path) -> dict[str, str]:
    """File name -> wnid of the validation pictures, in the file's order; a `DataError` names a bad line."""
    return {fields[0]: fields[1] for fields in _fields(path, 6)}


def _fields(path: Path, count: int) -> list[list[str]]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != count:
            raise DataError(f"{path}, line {number}: {count} fields separated by tabs, got {len(fields)}")
        rows.append(fields)
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); fetch this file again") from None


def _draw(kinds: np.ndarray, *seed: int | str) -> list[Image.Image]:
    """One picture a kind, the number of its outline times four and its grain."""
    outline, grain = kinds // len(GRAINS), kinds % len(GRAINS)
    pictures = draw_silhouettes(outline, grain, random_generator(*seed), size=SIDE, period=(5.0, 6.4))
    return [Image.fromarray(picture) for picture in pictures]
