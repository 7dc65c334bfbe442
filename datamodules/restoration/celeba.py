"""CelebA: 202,599 aligned pictures of 10,177 famous persons, to restore with the help of others of the person.

Format: `img_align_celeba/000001.jpg` ... (178 x 218), `identity_CelebA.txt` (file, person),
`list_eval_partition.txt` (file, 0 train, 1 val, 2 test); lines of two words. The parts share no person.
Everything may lie in `celeba/`.
Reading: the central square (178 of the real pictures) is resized to `size` (128, of the miniature 64) with
Pillow's antialiased bicubic. Persons with fewer than `identity_images` pictures are dropped. The small
picture is the square shrunk by `factor` with an antialiased bicubic, without noise.
Exemplars: `exemplars` other pictures of the person, without replacement, never the picture itself; drawn
anew in each epoch of training, always the same in val and test. Pictures with the very bytes of the one to
restore are never its exemplars: CelebA has duplicates.
Names: `celeba` and `celeba-x16` (factors 8 and 16); `celeba-editing`, whose val and test exemplars are of
another person of the split; `celeba-identities`, the pictures of the training persons with their person as
class, for training a network that tells people apart: of each person's pictures every fifth is held out and
served as `test`.
Licence: non-commercial research.
Citation: Z. Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015.

The miniature: rendered faces of 64 x 78; 120 persons for training, 10 for validation, 30 for test, 10
pictures each. What hides a region of a face (sunglasses, a hand, hair) is masked in `hidden/000001.png`,
white where hidden; CelebA has no such files. Where the folder exists, `corrupted` marks exemplar pixels
hidden there and not on the true picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, visit_generator
from datamodules.miniature.faces import draw_faces, people
from datamodules.specs import ImageClassesSpec, SuperResolutionSpec

PARTS: dict[str, int] = {"train": 0, "val": 1, "test": 2}
REAL_SIZE, MINIATURE_SIZE = 128, 64
MINIATURE_PEOPLE = {"train": 120, "val": 10, "test": 30}
MINIATURE_PICTURES = 10
HELD_OUT = 5
ExemplarsOf = Literal["same", "other"]


@dataclass(frozen=True)
class Portrait:
    """A picture of a person: its file, the person's number, and the mask of what is hidden, if there is one."""

    path: Path
    person: int
    mask: Path | None = None


def central_square(path: Path, size: int, mode: str = "RGB") -> Tensor:
    """The central square of a picture file, resized, uint8 [C, size, size]; a `DataError` names a broken file."""
    try:
        with Image.open(path) as file:
            picture = file.convert(mode)
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for broken PNG chunks
        raise DataError(f"{path}: cannot be read as a picture ({error}); fetch this file again") from None
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    if side != size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def shrink(image: Tensor, factor: int) -> Tensor:
    """[3, H, W] in [0, 1] -> [3, H / factor, W / factor] by an antialiased bicubic (a = -0.5), clipped to [0, 1]."""
    size = [side // factor for side in image.shape[-2:]]
    return F.interpolate(image[None], size=size, mode="bicubic", antialias=True)[0].clamp(0, 1)


class PortraitSet(MapDataset[dict[str, Any]]):
    """Samples of `super-resolution`, exemplars beside each picture.

    chance: names and numbers that the choice of exemplars depends on. keep: decode each file once.
    """

    def __init__(
        self,
        portraits: Sequence[Portrait],
        *,
        size: int,
        factor: int,
        exemplars: int,
        exemplars_of: ExemplarsOf = "same",
        chance: Sequence[int | str],
        keep: bool,
    ) -> None:
        self.portraits = list(portraits)
        self.size, self.factor, self.exemplars = size, factor, exemplars
        self.exemplars_of = exemplars_of
        self.chance = tuple(chance)
        self.kept: dict[Path, Tensor] | None = {} if keep else None
        persons = np.array([portrait.person for portrait in self.portraits], dtype=np.int64)
        self.numbers, self.labels = np.unique(persons, return_inverse=True)
        order = np.argsort(self.labels, kind="stable")
        self.pictures_of = np.split(order, np.cumsum(np.bincount(self.labels))[:-1]) if len(order) else []
        self.masked = any(portrait.mask is not None for portrait in self.portraits)

    def __len__(self) -> int:
        return len(self.portraits)

    def __getitem__(self, index: int) -> dict[str, Any]:
        chosen = self.choose(index)
        portrait = self.portraits[index]
        high = self._picture(portrait)
        pictures = [self._picture(self.portraits[other]) for other in chosen]
        sample = {
            "low": shrink(high, self.factor),
            "high": high,
            "exemplars": torch.stack(pictures) if pictures else torch.zeros(0, *high.shape),
            "identity": int(self.labels[index]),
            "id": portrait.path.relative_to(portrait.path.parents[1]).as_posix(),
        }
        if self.masked:
            hidden = [self._mask(self.portraits[other]) for other in (index, *chosen)]
            sample["corrupted"] = torch.cat(hidden)[1:] & ~hidden[0]
        return sample

    def choose(self, index: int) -> list[int]:
        """Which pictures are the exemplars of one this time, [m]."""
        if self.exemplars == 0:
            return []
        random = visit_generator(index, *self.chance)
        person = int(self.labels[index])
        if self.exemplars_of == "other":
            person = (person + 1 + int(random.integers(len(self.numbers) - 1))) % len(self.numbers)
        drawn = random.permutation(self.pictures_of[person]).tolist()
        chosen = []
        for other in drawn:
            if len(chosen) == self.exemplars:
                break
            if other != index and not self._twins(index, other):
                chosen.append(other)
        if len(chosen) < self.exemplars:
            raise DataError(
                f"{self.portraits[index].path}: person {self.numbers[person]} has {len(chosen)} other pictures, "
                f"{self.exemplars} exemplars were asked for; raise identity_images or lower exemplars"
            )
        return chosen

    def _twins(self, one: int, other: int) -> bool:
        """Whether two files are the same photograph, byte by byte."""
        first, second = self.portraits[one].path, self.portraits[other].path
        return first.stat().st_size == second.stat().st_size and first.read_bytes() == second.read_bytes()

    def _picture(self, portrait: Portrait) -> Tensor:
        return self._pixels(portrait.path, "RGB").float() / 255

    def _mask(self, portrait: Portrait) -> Tensor:
        if portrait.mask is None:
            return torch.zeros(1, self.size, self.size, dtype=torch.bool)
        return self._pixels(portrait.mask, "L") > 127

    def _pixels(self, path: Path, mode: str) -> Tensor:
        if self.kept is None:
            return central_square(path, self.size, mode)
        if path not in self.kept:
            self.kept[path] = central_square(path, self.size, mode)
        return self.kept[path]


def at_least(portraits: Sequence[Portrait], pictures: int) -> list[Portrait]:
    """Those of persons with at least that many pictures, in order."""
    count: dict[int, int] = {}
    for portrait in portraits:
        count[portrait.person] = count.get(portrait.person, 0) + 1
    return [portrait for portrait in portraits if count[portrait.person] >= pictures]


class CelebAFiles(Dataset):
    """The files of CelebA, for all that read them. size: side of the square that is served."""

    title = "CelebA, aligned and cropped pictures"
    url = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    licence = "non-commercial research"
    required = ("img_align_celeba/*.jpg", "identity_CelebA.txt", "list_eval_partition.txt")

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        size: int | None = None,
        identity_images: int = 5,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 50, **serving})
        self.size = size or (MINIATURE_SIZE if variant == "miniature" else REAL_SIZE)
        self.identity_images = identity_images

    def _home(self, root: Path) -> Path:
        return next((root / name for name in ("celeba", "CelebA") if (root / name).is_dir()), root)

    @property
    def miniature_folder(self) -> Path:
        return self.cache / f"{CelebA.name}-v{self.version}"

    def portraits(self, split: Split) -> list[Portrait]:
        """The pictures of an official part, of persons with at least `identity_images`, in the order of the files."""
        self.prepare_data()
        person = read_numbers(self.root / "identity_CelebA.txt")
        part = read_numbers(self.root / "list_eval_partition.txt")
        folder, masks = self.root / "img_align_celeba", self.root / "hidden"
        found = []
        for name, number in part.items():
            if number != PARTS[split]:
                continue
            if name not in person:
                raise DataError(
                    f"{self.root / 'identity_CelebA.txt'} has no line for {name}; fetch this file again"
                )
            mask = masks / f"{Path(name).stem}.png" if masks.is_dir() else None
            found.append(Portrait(folder / name, person[name], mask))
        kept = at_least(found, self.identity_images)
        if not kept:
            raise DataError(
                f"{self.root / 'list_eval_partition.txt'}: no person of part {PARTS[split]} ({split}) has "
                f"{self.identity_images} pictures"
            )
        return kept

    @classmethod
    def render(cls, folder: Path) -> None:
        (folder / "img_align_celeba").mkdir()
        (folder / "hidden").mkdir()
        persons = np.repeat(np.arange(sum(MINIATURE_PEOPLE.values())), MINIATURE_PICTURES)
        width = MINIATURE_SIZE
        pictures, masks = draw_faces(
            people(persons.max() + 1, "celeba"), persons, round(width * 218 / 178), width, "celeba"
        )
        part = np.repeat([PARTS[split] for split in MINIATURE_PEOPLE], list(MINIATURE_PEOPLE.values()))
        names = [f"{number:06d}" for number in range(1, len(persons) + 1)]
        for name, picture, mask in zip(names, pictures, masks, strict=True):
            Image.fromarray(picture).save(
                folder / "img_align_celeba" / f"{name}.jpg", quality=95, subsampling=0
            )
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "hidden" / f"{name}.png")
        lines = [f"{name}.jpg {person + 1}\n" for name, person in zip(names, persons, strict=True)]
        (folder / "identity_CelebA.txt").write_text("".join(lines))
        lines = [f"{name}.jpg {part[person]}\n" for name, person in zip(names, persons, strict=True)]
        (folder / "list_eval_partition.txt").write_text("".join(lines))


class CelebA(CelebAFiles):
    """Serves `super-resolution` with exemplars; see the module's docstring.

    factor: of the enlargement; None: the one of the dataset's name. exemplars: other pictures a sample.
    size: side of the square. identity_images: persons with fewer pictures are dropped. identities: the
    dataset whose persons train the network that compares faces; empty: faces aren't compared.
    """

    name = "celeba"
    tasks = ("super-resolution",)
    default_factor: ClassVar[int] = 8
    held_out_exemplars_of: ClassVar[ExemplarsOf] = "same"

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        factor: int | None = None,
        exemplars: int | None = None,
        size: int | None = None,
        identity_images: int = 5,
        identities: str = "celeba-identities",
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, size=size, identity_images=identity_images, **serving)
        self.factor = self.default_factor if factor is None else factor
        self.exemplars = 3 if exemplars is None else exemplars
        self.identities = identities
        if self.factor < 2 or self.size % self.factor:
            raise ValueError(f"{self.name}: factor {self.factor} must divide the side of {self.size} pixels")
        if self.exemplars < 0:
            raise ValueError(f"{self.name}: exemplars must not be negative, got {exemplars}")

    @property
    def spec(self) -> SuperResolutionSpec:
        return SuperResolutionSpec(
            dataset=self.name,
            image_size=(self.size, self.size),
            factor=self.factor,
            exemplars=self.exemplars,
        )

    def read(self, split: Split) -> PortraitSet:
        return PortraitSet(
            self.portraits(split),
            size=self.size,
            factor=self.factor,
            exemplars=self.exemplars,
            exemplars_of="same" if split == "train" else self.held_out_exemplars_of,
            chance=("celeba", "exemplars", split, self.seed if split == "train" else 0),
            keep=self.variant == "miniature",
        )


class CelebAx16(CelebA):
    """CelebA at factor 16."""

    name = "celeba-x16"
    default_factor = 16


class CelebAEditing(CelebA):
    """CelebA with exemplars of another person in val and test: what is restored takes on their features."""

    name = "celeba-editing"
    held_out_exemplars_of = "other"


class CelebAIdentities(CelebAFiles):
    """Serves `image-classification`: `image` float32 [3, size, size] in [0, 1], `label` the person, `id`.

    size: side of the square. identity_images: persons with fewer pictures are dropped.
    """

    name = "celeba-identities"
    tasks = ("image-classification",)

    @property
    def spec(self) -> ImageClassesSpec:
        numbers = sorted({portrait.person for portrait in self.portraits("train")})
        return ImageClassesSpec(
            dataset=self.name,
            classes=tuple(f"person {number}" for number in numbers),
            image_size=(self.size, self.size),
        )

    def read(self, split: Split) -> LabelledPortraits:
        return LabelledPortraits(
            self.portraits("train"), split, size=self.size, keep=self.variant == "miniature"
        )


class LabelledPortraits(MapDataset[dict[str, Any]]):
    """Pictures with their person as class; every fifth of each person is for test, the others train."""

    def __init__(self, portraits: Sequence[Portrait], split: Split, *, size: int, keep: bool) -> None:
        numbers = sorted({portrait.person for portrait in portraits})
        label = {number: index for index, number in enumerate(numbers)}
        seen: dict[int, int] = {}
        self.listing: list[tuple[Path, int]] = []
        for portrait in portraits:
            seen[portrait.person] = seen.get(portrait.person, 0) + 1
            held_out = seen[portrait.person] % HELD_OUT == 0
            if split != "val" and held_out == (split == "test"):
                self.listing.append((portrait.path, label[portrait.person]))
        self.size = size
        self.kept: dict[Path, Tensor] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.listing)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.listing[index]
        if self.kept is None:
            pixels = central_square(path, self.size)
        else:
            pixels = self.kept.get(path, None)
            if pixels is None:
                pixels = self.kept[path] = central_square(path, self.size)
        return {"image": pixels.float() / 255, "label": label, "id": path.name}


def read_numbers(path: Path) -> Mapping[str, int]:
    """A list of lines "file number" in order; a `DataError` names the file and the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); fetch this file again") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or not words[1].isdigit() or Path(words[0]).name != words[0]:
            raise DataError(f"{path}, line {number}: {line!r}, expected a file name and a number")
        if words[0] in found:
            raise DataError(f"{path}, line {number}: {words[0]} stands there twice; fetch this file again")
        found[words[0]] = int(words[1])
    if not found:
        raise DataError(f"{path} is empty; fetch this file again")
    return found
