"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

Format: `images_background/<alphabet>/<characterNN>/<id>_<drawer>.png` (30 alphabets, 964 characters) and
`images_evaluation/...` (20 alphabets, 659 characters), 105×105, one bit, black ink on white. Served with
one channel, ink 1 on ground 0. A character of an alphabet is a class.
Splits: train and val from the background set, test from the evaluation set, as published. There is no
published validation set: `val_share` of the background's alphabets, always the same ones, are taken off
training whole and served as `val`, so that it too asks for new alphabets; 0: none, and `val` is empty.
Licence: MIT. Lake, Salakhutdinov and Tenenbaum, "Human-level concept learning through probabilistic program
induction", Science 350, 2015.

The miniature: five alphabets of background and two of evaluation, 8 characters each, 20 drawers; a character
is a few strokes between points that every drawer places a little differently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
from PIL import Image, ImageDraw
from torch.utils.data import Dataset as MapDataset
from torch.utils.data import Subset

from datamodules.base import DataError, Serving, Split, Variant, random_generator
from datamodules.recognition.episodes import (
    ClassPictures,
    EpisodicDataset,
    by_class,
    decoded,
    remembered,
)

SIDE = 105
FOLDERS: dict[Split, str] = {
    "train": "images_background",
    "val": "images_background",
    "test": "images_evaluation",
}


class Omniglot(EpisodicDataset):
    """See the module's docstring; samples are episodes (datamodules/recognition/episodes.py).

    val_share: share of the background's alphabets held out for validation; rounded, one at least unless 0.
    rotations: in training, a character turned by 90, 180 and 270 degrees counts as three further classes.
    """

    name = "omniglot"
    title = "Omniglot"
    url = "https://github.com/brendenlake/omniglot"
    licence = "MIT"
    required = ("images_background/*/*/*.png", "images_evaluation/*/*/*.png")
    channels = 1

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        ways: int = 5,
        shots: int = 5,
        queries: int = 15,
        episodes: int = 1000,
        val_episodes: int = 600,
        test_episodes: int = 600,
        image_size: int = 28,
        augment: bool = False,
        val_share: float = 0.2,
        rotations: bool = False,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(
            root,
            variant,
            ways=ways,
            shots=shots,
            queries=queries,
            episodes=episodes,
            val_episodes=val_episodes,
            test_episodes=test_episodes,
            image_size=image_size,
            augment=augment,
            **serving,
        )
        if not 0 <= val_share < 1:
            raise ValueError(f"{self.name}: val_share must be in [0, 1), not {val_share}")
        self.val_share = val_share
        self.rotations = rotations

    def alphabets(self, split: Split) -> list[str]:
        """Names of the alphabets of a split, sorted."""
        names = sorted(path.name for path in (self.root / FOLDERS[split]).glob("*") if path.is_dir())
        if not names:
            raise DataError(f"{self.root / FOLDERS[split]} holds no alphabet.\n{self.instructions()}")
        if split == "test":
            return names
        held = max(1, round(self.val_share * len(names))) if self.val_share else 0
        if held >= len(names):
            raise DataError(f"{self.root}: {len(names)} background alphabets are too few to hold out {held}")
        order = random_generator(self.name, "held out").permutation(len(names))
        chosen = order[:held] if split == "val" else order[held:]
        return sorted(names[i] for i in chosen)

    def pictures(self, split: Split) -> ClassPictures:
        folder = self.root / FOLDERS[split]
        files = [path for name in self.alphabets(split) for path in sorted((folder / name).glob("*/*.png"))]
        labels = [f"{path.parent.parent.name}/{path.parent.name}" for path in files]
        if not files:
            raise DataError(f"{folder} holds no drawing of {', '.join(self.alphabets(split))}")
        members = by_class(labels)
        turns = 4 if self.rotations and split == "train" else 1

        def upright(number: int) -> np.ndarray:
            return 255 - decoded(files[number], files[number], self.image_size, mode="L")

        read = remembered(upright)

        def picture(number: int) -> np.ndarray:
            turn, original = divmod(number, len(files))
            return np.ascontiguousarray(np.rot90(read(original), turn, axes=(1, 2)))

        return ClassPictures([turn * len(files) + m for turn in range(turns) for m in members], picture)

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        if split == "val" and not self.val_share:
            return Subset(super().read("train"), [])
        return super().read(split)

    @classmethod
    def render(cls, folder: Path) -> None:
        for part, letters in (("images_background", "ABCDE"), ("images_evaluation", "FG")):
            for letter in letters:
                for character in range(1, 9):
                    out = folder / part / f"Alphabet_{letter}" / f"character{character:02d}"
                    out.mkdir(parents=True)
                    random = random_generator(cls.name, letter, character)
                    strokes = [random.uniform(18, 87, (int(random.integers(3, 5)), 2)) for _ in range(2)]
                    number = ord(letter) * 10 + character
                    for drawer in range(1, 21):
                        picture = _drawing(strokes, random)
                        picture.save(out / f"{number:04d}_{drawer:02d}.png")


def _drawing(strokes: list[np.ndarray], random: np.random.Generator) -> Image.Image:
    """One person's drawing of a character: points moved a little each, the whole shifted and stretched."""
    picture = Image.new("1", (SIDE, SIDE), 1)
    pen = ImageDraw.Draw(picture)
    stretch, shift = random.uniform(0.88, 1.1, 2), random.uniform(-7, 7, 2)
    for stroke in strokes:
        points = (stroke + random.normal(0, 2.5, stroke.shape) - SIDE / 2) * stretch + SIDE / 2 + shift
        pen.line([(float(a), float(b)) for a, b in points], fill=0, width=3, joint="curve")
    return picture
