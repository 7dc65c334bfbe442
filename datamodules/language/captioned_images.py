"""What captioned pictures of any origin have in common: samples, lists, word vectors and the spec.

A dataset of this kind says only where its pictures and sentences stand.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Unpack

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant
from datamodules.language.word_vectors import SOURCE, read_word_vectors
from datamodules.specs import CaptionsSpec

CAPTIONS = 5
SPLITS: tuple[Split, ...] = ("train", "val", "test")
MINIATURE_VECTORS = "word_vectors.txt"
PUBLISHED_VECTORS = "GoogleNews-vectors-negative300.bin"


@dataclass(frozen=True)
class Captioned:
    """One picture: its id, its file and its sentences, each with an id of its own."""

    id: str
    path: Path
    sentences: tuple[str, ...]
    sentence_ids: tuple[str, ...]


class CaptionedImages(MapDataset[dict[str, Any]]):
    """Samples of a list. apart: one sample a sentence (all pairs, picture by picture), else one a picture."""

    def __init__(self, listing: Sequence[Captioned], *, apart: bool, pixels: bool) -> None:
        self.listing = listing
        self.pixels = pixels
        self.at = [
            (row, slice(i, i + 1) if apart else slice(None))
            for row, picture in enumerate(listing)
            for i in range(len(picture.sentences) if apart else 1)
        ]

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, said = self.at[index]
        picture = self.listing[row]
        sentence_ids = list(picture.sentence_ids[said])
        sample: dict[str, Any] = {
            "id": sentence_ids[0] if said.stop is not None else picture.id,
            "image_id": picture.id,
            "path": str(picture.path),
            "captions": list(picture.sentences[said]),
            "caption_ids": sentence_ids,
        }
        if self.pixels:
            sample["image"] = load_picture(picture.path)
        return sample


def load_picture(path: Path) -> torch.Tensor:
    """RGB in [0, 1], float32 [3, H, W]; a `DataError` names a file that is missing, cut short or no picture."""
    try:
        with Image.open(path) as file:
            pixels = np.array(file.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}); fetch this file again") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


class CaptionedImagesDataset(Dataset):
    """Serves `image-text-retrieval`: `id`, `image_id`, `path`, `captions`, `caption_ids`, and `image` if asked for.

    A training sample is a picture with one of its sentences (so there are five of each picture); one of
    validation and test is a picture with all of its sentences.

    train_pictures: take only so many pictures, the first of the list, for training; None: all of them.
    pixels: serve the decoded pictures too. A batch needs pictures of one size then.
    word_vectors: file of word vectors in a word2vec format, under the root unless it is absolute; None: the
        miniature's own, and `GoogleNews-vectors-negative300.bin` of real data. Only `word_vectors_of` reads it.
    """

    tasks = ("image-text-retrieval",)
    counts: ClassVar[dict[str, dict[str, int]]]
    """Pictures a split, by variant."""

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        train_pictures: int | None = None,
        pixels: bool = False,
        word_vectors: str | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 50, **serving})
        if train_pictures is not None and train_pictures < 1:
            raise ValueError(f"{self.name}: train_pictures must be positive, got {train_pictures}")
        self.train_pictures = train_pictures
        self.pixels = pixels
        default = MINIATURE_VECTORS if variant == "miniature" else PUBLISHED_VECTORS
        self.word_vectors_path = self.root / Path(word_vectors or default).expanduser()
        self._spec: CaptionsSpec | None = None

    @abstractmethod
    def listing(self, split: Split) -> list[Captioned]:
        """The pictures of a split in the order of its list, each with exactly five sentences."""

    def read(self, split: Split) -> CaptionedImages:
        self.prepare_data()
        listing = self.listing(split)
        expected = self.counts[self.variant][split]
        if len(listing) != expected:
            raise DataError(
                f"{self.name}: the list of {split!r} under {self.root} names {len(listing)} pictures, expected "
                f"{expected}; use the published list"
            )
        if split == "train" and self.train_pictures is not None:
            if self.train_pictures > len(listing):
                raise ValueError(
                    f"{self.name}: there are {len(listing)} training pictures, asked for {self.train_pictures}"
                )
            listing = listing[: self.train_pictures]
        return CaptionedImages(listing, apart=split == "train", pixels=self.pixels)

    @property
    def spec(self) -> CaptionsSpec:
        if self._spec is None:
            words = {
                word
                for picture in self.split("train").listing  # type: ignore[attr-defined]
                for sentence in picture.sentences
                for word in CaptionsSpec.words(sentence)
            }
            self._spec = CaptionsSpec(dataset=self.name, captions=CAPTIONS, vocabulary=tuple(sorted(words)))
        return self._spec

    def word_vectors_of(self, words: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors, float32 [D], of those words that the file of word vectors holds."""
        if not self.word_vectors_path.is_file():
            raise DataError(
                f"{self.name}: {self.word_vectors_path} is missing. It should hold {SOURCE}; put it there or name "
                "another file by the option word_vectors."
            )
        vectors = read_word_vectors(self.word_vectors_path, words)
        if not vectors:
            raise DataError(f"{self.word_vectors_path} holds none of the {len(words)} words of {self.name}")
        return vectors


def check_lists(name: str, lists: dict[Split, list[str]], where: str) -> None:
    """A `DataError` where a picture stands twice in a list or in two lists."""
    seen: dict[str, Split] = {}
    for split, ids in lists.items():
        for picture in ids:
            if picture in seen:
                raise DataError(
                    f"{name}: {where} list {picture!r} under {seen[picture]!r} and again under {split!r}"
                )
            seen[picture] = split
