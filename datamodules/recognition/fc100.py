"""FC100 (Fewshot-CIFAR100): CIFAR-100 cut for few-shot learning by superclass, 100 classes of 600 pictures.

Format: the CIFAR-100 pickles `cifar-100-python/{train, test, meta}`, whose training and test pictures are put
together. Superclasses (the `coarse_labels`) of train {1-6, 9, 10, 15, 17, 18, 19}, val {8, 11, 13, 16} and test
{0, 7, 12, 14}: 60, 20 and 20 classes, so that no test class is a near relative of a training class.
Licence: CIFAR's, none stated; research use. Oreshkin et al., "TADAM", NeurIPS 2018.

The miniature: 100 arrangements of four parts (see datamodules/miniature/part_arrangements.py) at 32×32, 20
pictures of each class in `train` and 5 in `test`, none of them outliers.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from datamodules.base import DataError, Split, random_generator
from datamodules.miniature.part_arrangements import arrangements, draw_class
from datamodules.recognition.cifar import SIDE, read_pictures
from datamodules.recognition.episodes import ClassPictures, EpisodicDataset, by_class, resized

SUPERCLASSES: dict[Split, tuple[int, ...]] = {
    "train": (1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19),
    "val": (8, 11, 13, 16),
    "test": (0, 7, 12, 14),
}


class FC100(EpisodicDataset):
    """See the module's docstring; samples are episodes (datamodules/recognition/episodes.py)."""

    name = "fc100"
    title = "FC100, cut from CIFAR-100 (Python version)"
    url = "https://www.cs.toronto.edu/~kriz/cifar.html"
    licence = "none stated; research use with citation"
    required = ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta")

    def pictures(self, split: Split) -> ClassPictures:
        parts = [
            read_pictures(self.root / "cifar-100-python" / file, ("fine_labels", "coarse_labels"))
            for file in ("train", "test")
        ]
        images = np.concatenate([images for images, _ in parts])
        fine, coarse = (
            np.concatenate([labels[key] for _, labels in parts]) for key in ("fine_labels", "coarse_labels")
        )
        kept = np.isin(coarse, SUPERCLASSES[split])
        if not kept.any():
            raise DataError(
                f"{self.root / 'cifar-100-python'}: no picture of {split}'s superclasses {SUPERCLASSES[split]}"
            )
        images = images[kept]
        return ClassPictures(
            by_class(fine[kept]),
            lambda number: resized(images[number].transpose(1, 2, 0), self.image_size),
        )

    @classmethod
    def render(cls, folder: Path) -> None:
        out = folder / "cifar-100-python"
        out.mkdir()
        places = arrangements(100, random_generator(cls.name, "places"))
        drawn = [
            draw_class(where, 25, random_generator(cls.name, fine), size=SIDE, outliers=False)[0]
            for fine, where in enumerate(places)
        ]
        planes = np.stack(drawn).transpose(0, 1, 4, 2, 3).reshape(100, 25, -1)
        for file, pictures in (("train", planes[:, :20]), ("test", planes[:, 20:])):
            fine = np.arange(100).repeat(pictures.shape[1])
            content = {
                b"batch_label": b"%sing batch 1 of 1" % file.encode(),
                b"fine_labels": fine.tolist(),
                b"coarse_labels": (fine // 5).tolist(),
                b"data": np.ascontiguousarray(pictures.reshape(len(fine), -1)),
            }
            (out / file).write_bytes(pickle.dumps(content, protocol=2))
        meta = {
            b"fine_label_names": [b"arrangement_%02d" % fine for fine in range(100)],
            b"coarse_label_names": [b"group_%02d" % coarse for coarse in range(20)],
        }
        (out / "meta").write_bytes(pickle.dumps(meta, protocol=2))
