"""tieredImageNet: 608 classes of ImageNet, 779,165 pictures of 84×84, split by 34 groups of the hierarchy.

Format: `{train,val,test}_images_png.pkl`, a list of PNG files (uint8 arrays, one a picture), and
`{train,val,test}_labels.pkl`, a dict with `label_specific` (the class) and `label_general` (the group). 20, 6
and 8 groups: 351, 97 and 160 classes. They are read by an unpickler that admits lists, numbers, strings and
NumPy arrays. Pictures stay encoded in memory and are decoded when an episode asks for them.
Licence: ImageNet's terms (research use). Ren et al., "Meta-Learning for Semi-Supervised Few-Shot
Classification", ICLR 2018.

The miniature: 8, 3 and 4 groups of two classes, 24 pictures a class: arrangements of four parts, two visual
modes, outliers not known (see datamodules/miniature/part_arrangements.py).
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.base import DataError, Split, random_generator
from datamodules.miniature.part_arrangements import arrangements, draw_class
from datamodules.recognition.cifar import ADMITTED, read_pickle
from datamodules.recognition.episodes import ClassPictures, EpisodicDataset, by_class, decoded

SIDE = 84
MINIATURE_GROUPS = {"train": 8, "val": 3, "test": 4}
MINIATURE_PICTURES = 24


class _EncodedUnpickler(pickle.Unpickler):
    """Reads lists, numbers, strings and NumPy arrays; any other global is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which a list of pictures has no use for"
            ) from None


def read_encoded(path: Path) -> list[NDArray[np.uint8]]:
    """The encoded pictures of a published pickle; a `DataError` names the file and what is wrong with it."""
    try:
        with path.open("rb") as file:
            content = _EncodedUnpickler(file, encoding="bytes").load()
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path} cannot be read: {error}. Fetch the file again.") from error
    if not isinstance(content, list | np.ndarray) or not len(content):
        raise DataError(f"{path} holds a {type(content).__name__}, expected a list of encoded pictures")
    for number, encoded in enumerate(content):
        if not isinstance(encoded, np.ndarray) or encoded.dtype != np.uint8:
            raise DataError(f"{path}: picture {number} is a {type(encoded).__name__}, expected a uint8 array")
    return list(content)


class TieredImageNet(EpisodicDataset):
    """See the module's docstring; samples are episodes (datamodules/recognition/episodes.py)."""

    name = "tiered-imagenet"
    title = "tieredImageNet"
    url = "https://github.com/renmengye/few-shot-ssl-public"
    licence = "ImageNet's terms of access, research use"
    required = tuple(
        f"{split}_{what}.pkl" for split in ("train", "val", "test") for what in ("images_png", "labels")
    )

    def pictures(self, split: Split) -> ClassPictures:
        path = self.root / f"{split}_images_png.pkl"
        encoded = read_encoded(path)
        labels_path = self.root / f"{split}_labels.pkl"
        content = read_pickle(labels_path)
        if "label_specific" not in content:
            raise DataError(f"{labels_path} has no 'label_specific', only {', '.join(sorted(content))}")
        labels = np.asarray(content["label_specific"])
        if labels.shape != (len(encoded),):
            raise DataError(
                f"{labels_path}: 'label_specific' must be {len(encoded)} labels, got {labels.shape}"
            )

        def picture(number: int) -> NDArray[np.uint8]:
            file = io.BytesIO(encoded[number].tobytes())
            return decoded(file, f"{path}, picture {number}", self.image_size)

        return ClassPictures(by_class(labels), picture)

    @classmethod
    def render(cls, folder: Path) -> None:
        places = iter(arrangements(2 * sum(MINIATURE_GROUPS.values()), random_generator(cls.name, "places")))
        for split, groups in MINIATURE_GROUPS.items():
            classes = np.arange(2 * groups).repeat(MINIATURE_PICTURES)
            encoded = []
            for label in range(2 * groups):
                random = random_generator(cls.name, split, label)
                pictures, _ = draw_class(next(places), MINIATURE_PICTURES, random, size=SIDE)
                for picture in pictures:
                    file = io.BytesIO()
                    Image.fromarray(picture).save(file, "png")
                    encoded.append(np.frombuffer(file.getvalue(), np.uint8).copy())
            (folder / f"{split}_images_png.pkl").write_bytes(pickle.dumps(encoded, protocol=2))
            labels = {"label_specific": classes, "label_general": classes // 2}
            (folder / f"{split}_labels.pkl").write_bytes(pickle.dumps(labels, protocol=2))
