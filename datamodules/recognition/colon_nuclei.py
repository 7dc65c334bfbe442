"""CRCHistoPhenotypes: nuclei in 100 pictures of colon tissue (H&E stain, 500 x 500), of four types; bags of patches.

Format
    `Classification/imgN/imgN.bmp` and `imgN_{epithelial,fibroblast,inflammatory,others}.mat` beside it, each with a
    variable `detection`: the (x, y) of the centres of that type's nuclei, [n, 2] in pixels from 1; empty where there
    are none. They lie under the root or in `CRCHistoPhenotypes_2016_04_28/` there.
A bag
    The 27 x 27 patches around all annotated nuclei of a picture, mirrored at its border; 1 if one of them is
    epithelial. A picture without any nucleus is left out. Real bags hold 6 to 796 patches.
Splits
    There is no published one: five folds over the pictures, always the same; `fold` is the test fold, and of the other
    four `val_share` validates.
Training patches
    As in the attention baseline (Ilse et al., ICML 2018): H&E colour jitter in the space of the stains, rotations and
    mirroring. Its size isn't printed; chosen here: a factor 1 +- `jitter` and a shift of +- `jitter` / 20 for each
    stain and bag, quarter turns and mirroring for each patch.
Licence
    Free for non-commercial research.
Citation
    Sirinukunwattana et al.: Locality sensitive deep learning for detection and classification of nuclei in routine
    colon cancer histology images. IEEE Transactions on Medical Imaging, 2016.
Miniature
    100 pictures of 160 x 160 with 6 to 40 nuclei (`datamodules/miniature/nuclei.py`); half hold epithelial ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import loadmat, savemat
from skimage.color.colorconv import hed_from_rgb, rgb_from_hed
from torch.utils.data import Dataset as MapDataset

from datamodules.base import (
    DataError,
    Dataset,
    Serving,
    Split,
    Variant,
    random_generator,
    visit_generator,
)
from datamodules.miniature.nuclei import draw_tissue
from datamodules.recognition.bags import concatenate_bags, visiting_order
from datamodules.specs import BagsSpec

TYPES = ("epithelial", "fibroblast", "inflammatory", "others")
SIDE = 27
FOLDS = 5
MINIATURE_PICTURES = 100


def read_centres(path: Path) -> NDArray[np.float64]:
    """The centres (x, y) of a .mat file, [n, 2]; a `DataError` names the file and what is wrong with it."""
    if not path.is_file():
        raise DataError(f"{path} is missing; each picture has one such file for each type of nucleus")
    try:
        content = loadmat(path)
    except Exception as error:  # a damaged .mat file may raise anything
        raise DataError(f"{path}: cannot be read as a .mat file ({error}); fetch this file again") from None
    if "detection" not in content:
        names = sorted(name for name in content if not name.startswith("__"))
        raise DataError(f"{path} has no variable 'detection', only {', '.join(names) or 'none'}")
    centres = np.asarray(content["detection"])
    if not np.issubdtype(centres.dtype, np.number):
        raise DataError(f"{path}: 'detection' must hold numbers, got {centres.dtype}")
    centres = centres.astype(np.float64)
    if centres.size == 0:
        return np.empty((0, 2))
    if centres.ndim != 2 or centres.shape[1] != 2 or not np.isfinite(centres).all():
        raise DataError(f"{path}: 'detection' must be [n, 2] finite numbers, got {centres.shape}")
    return centres


def patches_around(picture: NDArray[np.uint8], centres: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The SIDE x SIDE patches around centres, mirrored at the border: uint8 [H, W, 3], [n, 2] -> [n, SIDE, SIDE, 3].

    centres: (x, y) in pixels from 1, of points in the picture.
    """
    half = SIDE // 2
    padded = np.pad(picture, ((half, half), (half, half), (0, 0)), mode="reflect")
    column, row = np.round(centres).astype(np.int64).T - 1
    reach = np.arange(SIDE)
    return padded[row[:, None, None] + reach[:, None], column[:, None, None] + reach]


def jitter_stains(
    patches: NDArray[np.float64], factor: NDArray[np.float64], shift: NDArray[np.float64]
) -> Any:
    """Scale and shift the amounts of haematoxylin, eosin and DAB (Ruifrok and Johnston, 2001).

    patches: RGB in [0, 1], [..., 3]; factor, shift: [3]. -> RGB in [0, 1], the same shape.
    """
    # As skimage's rgb2hed, but an amount may be negative, so that nothing changes where nothing is asked for.
    optical = np.log(np.maximum(patches, 1e-6)) / np.log(1e-6)
    amounts = optical @ hed_from_rgb * factor + shift
    return np.clip(np.exp(np.log(1e-6) * (amounts @ rgb_from_hed)), 0, 1)


def turned(patches: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    """Each patch [n, S, S, 3] by a random quarter turn, some mirrored."""
    quarter, mirror = random.integers(0, 4, len(patches)), random.random(len(patches)) < 0.5
    flipped = np.where(mirror[:, None, None, None], patches[:, :, ::-1], patches)
    out = np.empty_like(flipped)
    for turn in range(4):
        out[quarter == turn] = np.rot90(flipped[quarter == turn], turn, axes=(1, 2))
    return out


class ColonNuclei(Dataset):
    """See the module's docstring; serves `multiple-instance`.

    fold: which of the five is for test; None: the run's seed modulo five, so that five seeds are the five folds.
    val_share: share of the other folds' pictures for validation. augment: change training patches; jitter: how much
    their colours. shuffle: draw the order of a training bag's patches anew at each visit.
    """

    name = "colon-nuclei"
    tasks = ("multiple-instance",)
    title = "CRCHistoPhenotypes, classification part"
    url = "https://warwick.ac.uk/fac/cross_fac/tia/data/crchistolabelednucleihe/"
    licence = "non-commercial research"
    required = (
        "Classification/img*/img*.bmp",
        *(f"Classification/img*/img*_{kind}.mat" for kind in TYPES),
    )

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        fold: int | None = None,
        val_share: float = 0.1,
        augment: bool = True,
        jitter: float = 0.2,
        shuffle: bool = True,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **{"test_batch_size": 4, **serving})
        if fold is not None and not 0 <= fold < FOLDS:
            raise ValueError(f"{self.name}: fold must be 0..{FOLDS - 1}, not {fold}")
        if not 0 <= val_share < 1 or jitter < 0:
            raise ValueError(
                f"{self.name}: val_share {val_share} must be in [0, 1), jitter {jitter} not negative"
            )
        self.fold = self.seed % FOLDS if fold is None else fold
        self.val_share, self.augment, self.jitter, self.shuffle = val_share, augment, jitter, shuffle

    def _home(self, root: Path) -> Path:
        names = (self.name, "CRCHistoPhenotypes_2016_04_28")
        return next((root / name for name in names if (root / name).is_dir()), root)

    @property
    def spec(self) -> BagsSpec:
        return BagsSpec(
            dataset=self.name,
            instance_classes=TYPES,
            rule="presence",
            witnesses=(TYPES.index("epithelial"),),
            image_size=(SIDE, SIDE),
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
        )

    @property
    def collate(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return concatenate_bags

    def folders(self, split: Split) -> list[Path]:
        """The pictures' folders of a split, by number."""
        self.prepare_data()
        found = [path for path in (self.root / "Classification").glob("img*") if path.name[3:].isdigit()]
        found = sorted(found, key=lambda path: int(path.name[3:]))
        order = random_generator(self.name, "folds").permutation(len(found))
        test = order[self.fold :: FOLDS]
        others = np.array([number for number in order.tolist() if number not in set(test.tolist())])
        held = round(self.val_share * len(others))
        chosen = {"test": test, "val": others[:held], "train": others[held:]}[split]
        if not len(chosen) and split != "val":
            raise DataError(f"{self.root}: {len(found)} pictures are too few for {FOLDS} folds")
        return [found[number] for number in sorted(chosen.tolist())]

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        bags = [bag for bag in map(read_bag, self.folders(split)) if len(bag["patches"])]
        training = split == "train"
        return NucleusBags(
            bags,
            jitter=self.jitter if self.augment and training else None,
            shuffle=self.shuffle and training,
            seed=self.seed,
        )

    @classmethod
    def render(cls, folder: Path) -> None:
        for number in range(1, MINIATURE_PICTURES + 1):
            random = random_generator(cls.name, number)
            picture, centres = draw_tissue(epithelial=number % 2 == 1, random=random)
            out = folder / "Classification" / f"img{number}"
            out.mkdir(parents=True)
            Image.fromarray(picture).save(out / f"{out.name}.bmp")
            for kind in TYPES:
                path = out / f"{out.name}_{kind}.mat"
                savemat(path, {"detection": centres.get(kind, np.empty((0, 2)))})
                undated(path)


def undated(path: Path) -> None:
    """Replace the text at the head of a .mat file, which holds the time of writing."""
    content = path.read_bytes()
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + content[116:])


def read_bag(folder: Path) -> dict[str, Any]:
    """patches uint8 [n, SIDE, SIDE, 3], types int64 [n], id."""
    path = folder / f"{folder.name}.bmp"
    try:
        with Image.open(path) as opened:
            picture = np.array(opened.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}); fetch this file again") from None
    centres, types = [], []
    for label, kind in enumerate(TYPES):
        file = folder / f"{folder.name}_{kind}.mat"
        found = read_centres(file)
        low, high = np.round(found).min(initial=1), np.round(found).max(axis=0, initial=1)
        if low < 1 or high[0] > picture.shape[1] or high[1] > picture.shape[0]:
            raise DataError(
                f"{file}: centres {low:g}..{high.tolist()} lie outside the picture of {picture.shape[1]} x "
                f"{picture.shape[0]} pixels"
            )
        centres.append(found)
        types.append(np.full(len(found), label, np.int64))
    return {
        "patches": patches_around(picture, np.concatenate(centres)),
        "types": np.concatenate(types),
        "id": folder.name,
    }


class NucleusBags(MapDataset[dict[str, Any]]):
    """Samples of `multiple-instance`. jitter: of colours, with turns and mirroring; None: patches as they are.

    Outside training a bag is in an order drawn once for all: in the files nuclei stand type by type.
    """

    def __init__(self, bags: list[dict[str, Any]], *, jitter: float | None, shuffle: bool, seed: int) -> None:
        self.bags, self.jitter, self.shuffle, self.seed = bags, jitter, shuffle, seed
        self.mixed = [random_generator("nuclei", bag["id"]).permutation(len(bag["types"])) for bag in bags]

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, index: int) -> dict[str, Any]:
        bag = self.bags[index]
        order = visiting_order(len(bag["types"]), index, "nuclei", self.seed, shuffle=self.shuffle)
        order = self.mixed[index][order]
        patches = bag["patches"][order] / 255.0
        if self.jitter is not None:
            random = visit_generator(index, "patches", self.seed)
            factor = 1 + self.jitter * random.uniform(-1, 1, 3)
            patches = jitter_stains(patches, factor, self.jitter / 20 * random.uniform(-1, 1, 3))
            patches = turned(patches, random)
        types = torch.from_numpy(bag["types"][order])
        return {
            "instances": torch.from_numpy(np.ascontiguousarray(patches.transpose(0, 3, 1, 2))).float(),
            "instance_label": types,
            "label": int((types == TYPES.index("epithelial")).any()),
            "id": bag["id"],
        }
