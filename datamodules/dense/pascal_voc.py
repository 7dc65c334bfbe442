"""PASCAL VOC 2012 segmentation, with the outlines of SBD for training.

Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015.
Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011 (SBD: 11,355 VOC 2011 pictures).

Layout under the root (a root that points at `VOCdevkit` or `VOCdevkit/VOC2012` itself is accepted too):
    VOCdevkit/VOC2012/JPEGImages/<id>.jpg
    VOCdevkit/VOC2012/SegmentationClass/<id>.png             palette PNG: 0 background, 1..20, 255 void
    VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt one id a line
    benchmark_RELEASE/dataset/cls/<id>.mat                   GTcls.Segmentation, uint8, no void
    benchmark_RELEASE/dataset/{train,val}.txt
SBD's pictures are read from JPEGImages, which holds all of them.

Classes: background and 20 objects. Splits (the labels of VOC's own test set are not public):
    train  VOC train and all of SBD that is not in VOC val: 10,582 pictures
    val    the pictures of VOC val that SBD trains on: 545
    test   the pictures of VOC val that SBD does not train on: 904
Where both label a picture, VOC's finer outlines are used. `train_set="merged"` is the set of the FCN papers,
VOC train and SBD train: it contains the 545, so that only the test split stays unseen (select the last
weights then, not the best). `train_set="voc"` takes VOC train alone (1,464).

Pictures are served at their own size; batches above one need equal sizes.
Licence: pictures under Flickr's terms of use, annotations free for research.
The miniature has the same layout with 64x64 scenes of `datamodules/miniature/scenes.py` and its five object
classes: 120 training scenes (30 of them labelled by SBD), 8 for validation, 40 for test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat, savemat
from torch.utils.data import Dataset as MapDataset

from datamodules.base import DataError, Dataset, Serving, Split, Variant, random_generator
from datamodules.miniature import scenes
from datamodules.specs import PixelClassesSpec

CLASSES = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOID = 255
VOC = Path("VOCdevkit/VOC2012")
SBD = Path("benchmark_RELEASE/dataset")

TrainSet = Literal["trainaug", "merged", "voc"]


def voc_palette(colours: int = 256) -> tuple[tuple[int, int, int], ...]:
    """The colour map of VOC's PNGs: the bits of the index dealt out to R, G, B, and from the top bit down.

    >>> voc_palette(4)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    """
    return tuple(
        tuple(
            sum((index >> (3 * level + channel) & 1) << (7 - level) for level in range(3))
            for channel in range(3)
        )
        for index in range(colours)
    )


class PascalVOC(Dataset):
    """PASCAL VOC 2012 with SBD; see the module's docstring.

    train_set: which pictures train.
    """

    name = "pascal-voc"
    tasks = ("semantic-segmentation",)
    title = "PASCAL VOC 2012 (segmentation) with SBD"
    url = (
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ (VOCtrainval_11-May-2012.tar) and "
        "http://home.bharathh.info/pubs/codes/SBD/download.html (benchmark.tgz)"
    )
    licence = "Flickr terms of use for the pictures; annotations for research"
    required: ClassVar[tuple[str, ...]] = (
        "VOCdevkit/VOC2012/JPEGImages/*.jpg",
        "VOCdevkit/VOC2012/SegmentationClass/*.png",
        "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt",
        "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt",
        "benchmark_RELEASE/dataset/cls/*.mat",
        "benchmark_RELEASE/dataset/train.txt",
        "benchmark_RELEASE/dataset/val.txt",
    )

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        train_set: TrainSet = "trainaug",
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(root, variant, **serving)
        if train_set not in ("trainaug", "merged", "voc"):
            raise ValueError(f"{self.name}: train_set {train_set!r} is none of trainaug, merged, voc")
        self.train_set = train_set
        if variant == "real":
            folders = (self.root, *self.root.absolute().parents[:2])
            self.root = next((folder for folder in folders if (folder / VOC).is_dir()), self.root)

    @property
    def spec(self) -> PixelClassesSpec:
        classes = CLASSES if self.variant == "real" else scenes.CLASSES
        palette = voc_palette(len(classes))
        return PixelClassesSpec(dataset=self.name, classes=classes, ignore_index=VOID, palette=palette)

    def read(self, split: Split) -> MapDataset[dict[str, Any]]:
        self.prepare_data()
        return VOCSegmentation(self.root, self.ids(split), len(self.spec.classes))

    def ids(self, split: Split) -> list[str]:
        """The pictures of a split, sorted."""
        lists = self.root / VOC / "ImageSets" / "Segmentation"
        held_out = set(_read_ids(lists / "val.txt"))
        sbd_train = set(_read_ids(self.root / SBD / "train.txt"))
        if split == "test":
            return sorted(held_out - sbd_train)
        if split == "val":
            return sorted(held_out & sbd_train)
        train = set(_read_ids(lists / "train.txt"))
        if self.train_set == "trainaug":
            train |= (sbd_train | set(_read_ids(self.root / SBD / "val.txt"))) - held_out
        elif self.train_set == "merged":
            train |= sbd_train
        return sorted(train)

    @classmethod
    def render(cls, folder: Path) -> None:
        """Scenes: VOC train 90 (20 of them in SBD too), SBD only 30, VOC val 48 (8 of them in SBD train)."""
        voc, sbd = folder / VOC, folder / SBD
        for path in (
            voc / "JPEGImages",
            voc / "SegmentationClass",
            voc / "ImageSets/Segmentation",
            sbd / "cls",
        ):
            path.mkdir(parents=True)
        train, extra, val = (
            [f"{year}_{i:06d}" for i in range(n)] for year, n in ((2007, 90), (2008, 30), (2009, 48))
        )
        lists = {
            voc / "ImageSets/Segmentation/train.txt": train,
            voc / "ImageSets/Segmentation/val.txt": val,
            voc / "ImageSets/Segmentation/trainval.txt": sorted(train + val),
            sbd / "train.txt": sorted(train[:20] + extra[:20] + val[:8]),
            sbd / "val.txt": extra[20:],
        }
        for path, ids in lists.items():
            path.write_text("".join(f"{identifier}\n" for identifier in ids))
        in_sbd = {*lists[sbd / "train.txt"], *lists[sbd / "val.txt"]}
        palette = [value for colour in voc_palette() for value in colour]
        for identifier in [*train, *extra, *val]:
            picture, labels = scenes.render_scene(random_generator(cls.name, cls.version, identifier))
            Image.fromarray(picture).save(voc / "JPEGImages" / f"{identifier}.jpg", quality=95)
            if identifier not in extra:
                mask = Image.fromarray(labels)
                mask.putpalette(palette)
                mask.save(voc / "SegmentationClass" / f"{identifier}.png")
            if identifier in in_sbd:
                _write_sbd(sbd / "cls" / f"{identifier}.mat", labels)


class VOCSegmentation(MapDataset[dict[str, Any]]):
    """Pictures with their label maps: `image`, `mask` and `id` as semantic segmentation wants them.

    root: folder of VOCdevkit and benchmark_RELEASE. ids: in the order served. classes: labels run below it.
    """

    def __init__(self, root: Path, ids: Sequence[str], classes: int) -> None:
        self.images = root / VOC / "JPEGImages"
        self.voc_masks = root / VOC / "SegmentationClass"
        self.sbd_masks = root / SBD / "cls"
        self.ids = list(ids)
        self.classes = classes

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        identifier = self.ids[index]
        image = read_picture(self.images / f"{identifier}.jpg")
        fine, coarse = self.voc_masks / f"{identifier}.png", self.sbd_masks / f"{identifier}.mat"
        if fine.is_file():
            source, mask = fine, read_palette_png(fine)
        elif coarse.is_file():
            source, mask = coarse, read_sbd(coarse)
        else:
            raise DataError(
                f"{identifier}: labelled neither by {fine} nor by {coarse}; unpack VOC 2012 and SBD again"
            )
        if mask.shape != image.shape[:2]:
            raise DataError(f"{source}: labels of shape {mask.shape}, but the picture has {image.shape[:2]}")
        strange = sorted(set(np.unique(mask[mask != VOID]).tolist()) - set(range(self.classes)))
        if strange:
            raise DataError(f"{source}: labels {strange} are neither below {self.classes} nor {VOID} (void)")
        return {
            "image": torch.from_numpy(image).permute(2, 0, 1).to(torch.float32).div_(255),
            "mask": torch.from_numpy(mask.astype(np.int64)),
            "id": identifier,
        }


def read_picture(path: Path) -> np.ndarray:
    """An RGB picture, uint8 [H, W, 3]."""
    try:
        with Image.open(path) as file:
            return np.array(file.convert("RGB"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: listed in a split, but not there; unpack VOC 2012 again") from error
    except OSError as error:
        raise DataError(f"{path}: not a readable picture ({error}); unpack it again") from error


def read_palette_png(path: Path) -> np.ndarray:
    """The palette indices of a label PNG, uint8 [H, W]; a PNG in true colour is an error, not a guess."""
    try:
        with Image.open(path) as file:
            if file.mode not in ("P", "L"):
                raise DataError(
                    f"{path}: mode {file.mode}, but labels are indices (mode P or L). It was probably saved "
                    "again in colour; take the published SegmentationClass files"
                )
            return np.array(file)
    except OSError as error:
        raise DataError(f"{path}: not a readable PNG ({error}); unpack it again") from error


def read_sbd(path: Path) -> np.ndarray:
    """`GTcls.Segmentation` of an SBD file, uint8 [H, W]."""
    try:
        content = loadmat(path, variable_names=["GTcls"])
    except Exception as error:  # SciPy raises all sorts, zlib.error among them
        raise DataError(f"{path}: not a readable MATLAB file ({error}); unpack SBD again") from error
    try:
        labels = content["GTcls"][0, 0]["Segmentation"]
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"{path}: has no GTcls.Segmentation; is it a file of SBD's cls folder?") from error
    if labels.ndim != 2 or labels.dtype.kind != "u":
        raise DataError(f"{path}: GTcls.Segmentation is {labels.dtype} {labels.shape}, expected uint8 [H, W]")
    return labels


def _read_ids(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{path}: the list of pictures is missing; unpack its archive again") from error
    # VOC's lists for one class carry a flag after the id; these don't, but a blank is harmless.
    ids = [line.split()[0] for line in lines if line.strip()]
    if not ids:
        raise DataError(f"{path}: lists no pictures")
    return ids


def _write_sbd(path: Path, labels: np.ndarray) -> None:
    """An SBD file: labels without void, which SBD does not know, and the classes present."""
    segmentation = np.where(labels == VOID, 0, labels).astype(np.uint8)
    present = np.unique(segmentation[segmentation > 0])[:, None]
    savemat(
        path, {"GTcls": {"Segmentation": segmentation, "CategoriesPresent": present}}, do_compression=True
    )
    # The format opens with 116 bytes of free text, where SciPy writes the date.
    with path.open("r+b") as file:
        file.write(b"MATLAB 5.0 MAT-file".ljust(116))
