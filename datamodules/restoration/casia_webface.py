"""CASIA-WebFace: 494,414 pictures of 10,575 persons from the web, 250 x 250, unaligned; read at 256 x 256.

Format: a folder a person with JPEG files, `<person>/<number>.jpg`; persons in the order of their folders'
names. Everything may lie in `CASIA-WebFace/`.
Reading: of each person the ten best pictures are kept, persons with fewer than ten are dropped. "Best" isn't
stated by the papers that do this; here it is sharpness, the variance of the Laplacian of the grey picture.
It is measured once over all files and kept in `<cache>/casia-webface-sharpness-<digest>.json`. Persons of
the first 9,121 folders train, the rest test, as published; there is no published validation part, `val` is
empty. `casia-webface` and `casia-webface-x16` (factors 8 and 16): small pictures and exemplars as for
CelebA.
Licence: research use on application.
Citation: D. Yi et al., "Learning Face Representation from Scratch", arXiv:1411.7923, 2014.

The miniature: rendered faces of 64 x 64, 48 persons with 9 to 14 pictures each, some of them blurred, the
first 36 folders for training. Masks of what hides a region lie in `hidden/<person>/<number>.png`, as in
CelebA's miniature.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import ClassVar, Unpack

import numpy as np
from PIL import Image, ImageFilter

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature.faces import draw_faces, people
from datamodules.restoration.celeba import Portrait, PortraitSet, at_least
from datamodules.specs import SuperResolutionSpec

BEST = 10
REAL_SIZE, REAL_TRAIN = 256, 9121
MINIATURE_SIZE, MINIATURE_PEOPLE, MINIATURE_TRAIN = 64, 48, 36
MASKS = "hidden"


def sharpness(path: Path) -> float:
    """Variance of the Laplacian (4 x centre less its four neighbours) of the grey picture in 0..255."""
    try:
        with Image.open(path) as file:
            grey = np.asarray(file.convert("L"), dtype=np.float64)
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}); fetch this file again") from None
    if min(grey.shape) < 3:
        raise DataError(f"{path}: is {grey.shape} pixels, expected at least 3 x 3")
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((4 * grey[1:-1, 1:-1] - around).var())


class CasiaWebFace(Dataset):
    """Serves `super-resolution` with exemplars; see the module's docstring.

    factor: of the enlargement; None: the one of the dataset's name. exemplars: other pictures a sample.
    size: side of the square that is served. train_people: folders that train; None: 9,121, of the miniature
    36. identities: the dataset whose persons train the network that compares faces; empty: faces aren't
    compared.
    """

    name = "casia-webface"
    tasks = ("super-resolution",)
    title = "CASIA-WebFace"
    url = "http://www.cbsr.ia.ac.cn/english/CASIA-WebFace-Database.html"
    licence = "research use on application"
    required = ("[0-9]*/*.jpg",)
    default_factor: ClassVar[int] = 8

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        factor: int | None = None,
        exemplars: int | None = None,
        size: int | None = None,
        train_people: int | None = None,
        identities: str = "celeba-identities",
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 30, **serving})
        self.factor = self.default_factor if factor is None else factor
        self.exemplars = 3 if exemplars is None else exemplars
        self.size = size or (MINIATURE_SIZE if variant == "miniature" else REAL_SIZE)
        self.train_people = train_people or (MINIATURE_TRAIN if variant == "miniature" else REAL_TRAIN)
        self.identities = identities
        if self.factor < 2 or self.size % self.factor:
            raise ValueError(f"{self.name}: factor {self.factor} must divide the side of {self.size} pixels")
        if not 0 <= self.exemplars < BEST:
            raise ValueError(f"{self.name}: exemplars must be 0..{BEST - 1}, got {exemplars}")

    def _home(self, root: Path) -> Path:
        names = ("CASIA-WebFace", self.name, CasiaWebFace.name)
        return next((root / name for name in names if (root / name).is_dir()), root)

    @property
    def miniature_folder(self) -> Path:
        return self.cache / f"{CasiaWebFace.name}-v{self.version}"

    @property
    def spec(self) -> SuperResolutionSpec:
        return SuperResolutionSpec(
            dataset=self.name, image_size=(self.size, self.size), factor=self.factor, exemplars=self.exemplars
        )

    def portraits(self, split: Split) -> list[Portrait]:
        """The ten sharpest pictures of each person of a part, in the order of folders and files."""
        if split == "val":
            return []
        self.prepare_data()
        folders = sorted(path for path in self.root.iterdir() if path.is_dir() and path.name.isdigit())
        numbered = list(enumerate(folders))
        part = numbered[: self.train_people] if split == "train" else numbered[self.train_people :]
        listed = [
            Portrait(path, person, self._mask_of(path))
            for person, folder in part
            for path in sorted(folder.glob("*.jpg"))
        ]
        listed = at_least(listed, BEST)
        if not listed:
            raise DataError(
                f"{self.name}: no person with {BEST} pictures for {split!r} among {len(folders)} folders "
                f"of {self.root}; the first {self.train_people} train, the rest test"
            )
        scores = self._sharpness(listed, split)
        kept, best = [], {}
        for portrait in listed:
            best.setdefault(portrait.person, []).append(portrait)
        for several in best.values():
            chosen = sorted(several, key=lambda each: (-scores[self._key(each)], each.path.name))[:BEST]
            kept += sorted(chosen, key=lambda each: each.path.name)
        return kept

    def read(self, split: Split) -> PortraitSet:
        return PortraitSet(
            self.portraits(split),
            size=self.size,
            factor=self.factor,
            exemplars=self.exemplars,
            chance=("casia-webface", "exemplars", split, self.seed if split == "train" else 0),
            keep=self.variant == "miniature",
        )

    def _key(self, portrait: Portrait) -> str:
        return portrait.path.relative_to(self.root).as_posix()

    def _mask_of(self, path: Path) -> Path | None:
        mask = self.root / MASKS / path.parent.name / f"{path.stem}.png"
        return mask if mask.is_file() else None

    def _sharpness(self, listed: list[Portrait], split: str) -> dict[str, float]:
        """Of every file, from the cache where these very files (names and sizes) have been measured."""
        digest = hashlib.sha256()
        for portrait in listed:
            digest.update(f"{self._key(portrait)}:{portrait.path.stat().st_size}\n".encode())
        file = self.cache / f"{CasiaWebFace.name}-sharpness-{digest.hexdigest()[:16]}.json"
        if file.is_file():
            stored: dict[str, float] = json.loads(file.read_text())
            return stored
        scores = {self._key(portrait): sharpness(portrait.path) for portrait in listed}
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self.cache, delete=False) as scratch:
            json.dump(scores, scratch)
        os.replace(scratch.name, file)
        return scores

    @classmethod
    def render(cls, folder: Path) -> None:
        random = random_generator(cls.name, "counts")
        count = random.integers(9, 15, MINIATURE_PEOPLE)
        persons = np.repeat(np.arange(MINIATURE_PEOPLE), count)
        side = MINIATURE_SIZE
        pictures, masks = draw_faces(people(MINIATURE_PEOPLE, cls.name), persons, side, side, cls.name)
        number = np.concatenate([np.arange(1, several + 1) for several in count])
        for person, index, picture, mask in zip(persons, number, pictures, masks, strict=True):
            for out in (folder / f"{person + 1:07d}", folder / MASKS / f"{person + 1:07d}"):
                out.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(picture)
            if index > BEST:  # the ones that the choice of the sharpest has to leave out
                image = image.filter(ImageFilter.GaussianBlur(1.5))
            image.save(folder / f"{person + 1:07d}" / f"{index:03d}.jpg", quality=95, subsampling=0)
            Image.fromarray(mask.astype(np.uint8) * 255).save(
                folder / MASKS / f"{person + 1:07d}" / f"{index:03d}.png"
            )


class CasiaWebFacex16(CasiaWebFace):
    """CASIA-WebFace at factor 16."""

    name = "casia-webface-x16"
    default_factor = 16
