"""CUB-200-2011 for zero-shot learning: 11,788 pictures of 200 kinds of birds, 150 of them seen, 50 unseen.

Format
    CUB_200_2011/: images.txt (`<id> <class>/<file>`), classes.txt (`<id> <name>`), images/<class>/*.jpg,
    parts/parts.txt (`<id> <name>`; 15 parts), parts/part_click_locs.txt (`<picture> <part> x y <visible> <seconds>`,
    one line for each worker's click; part_locs.txt holds their medians and is not used),
    attributes/class_attribute_labels_continuous.txt (200 x 312, percent);
    attributes.txt beside the folder, as in the archive (`<id> <name>`; 312 attributes);
    xlsa17/data/CUB/: the proposed splits, see `zero_shot_images.py`.
Splits
    the proposed ones: 7,057 pictures of 150 classes to train on, 2,967 of 50 classes to test on.
Licence
    Research and education only; the pictures' rights are with their photographers.
Citation
    Wah, Branson, Welinder, Perona, Belongie: The Caltech-UCSD Birds-200-2011 dataset. Technical report
    CNS-TR-2011-001, Caltech, 2011. The splits: see `zero_shot_images.py`.
Miniature
    24 seen and 6 unseen creatures, 30 pictures each, 80 x 64: six parts with four looks each make 24 attributes, and
    an unseen class is a new combination of looks. Clicks of five workers, a part in ten hidden.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from datamodules.base import DataError, random_generator
from datamodules.miniature.creatures import (
    PARTS,
    attribute_names,
    combinations,
    creature,
    indicators,
    worker_clicks,
)
from datamodules.miniature.objects import save_jpeg
from datamodules.recognition.zero_shot_images import (
    Clicks,
    ProposedSplit,
    Semantics,
    ZeroShotImages,
    numbered,
    numbers,
    read_matrix,
    write_proposed_split,
)

CLASSES, UNSEEN, HELD_OUT, EACH = 30, 6, 6, 30


class CUB200ZeroShot(ZeroShotImages):
    """See the module's docstring."""

    name = "cub-200-2011-zsl"
    title = "Caltech-UCSD Birds-200-2011 with the proposed zero-shot splits"
    url = (
        "https://www.vision.caltech.edu/datasets/cub_200_2011/ and, the splits, "
        "https://www.mpi-inf.mpg.de/departments/computer-vision-and-machine-learning/research/zero-shot-learning"
    )
    licence = "research and education only"
    splits_folder = "xlsa17/data/CUB"
    pictures_folder = "CUB_200_2011/images"
    required: ClassVar[tuple[str, ...]] = (
        "CUB_200_2011/images.txt",
        "CUB_200_2011/classes.txt",
        "CUB_200_2011/parts/parts.txt",
        "CUB_200_2011/parts/part_click_locs.txt",
        "CUB_200_2011/attributes/class_attribute_labels_continuous.txt",
        "attributes.txt",
        "xlsa17/data/CUB/att_splits.mat",
        "xlsa17/data/CUB/res101.mat",
        "CUB_200_2011/images/*/*.jpg",
    )

    def semantics(self, proposed: ProposedSplit) -> Semantics:
        base = self.root / "CUB_200_2011"
        names = numbered(base / "classes.txt")
        attributes = numbered(self.root / "attributes.txt")
        file = base / "attributes" / "class_attribute_labels_continuous.txt"
        percent = read_matrix(file)
        if percent.shape != (len(names), len(attributes)):
            raise DataError(
                f"{file}: expected {len(names)} classes x {len(attributes)} attributes, got {percent.shape}"
            )
        row = {name: i for i, name in enumerate(names)}
        if unknown := [name for name in proposed.names if name not in row]:
            raise DataError(
                f"{self.root / self.splits_folder / 'att_splits.mat'}: classes.txt has no {unknown[0]!r}"
            )
        return Semantics(tuple(attributes), percent[[row[name] for name in proposed.names]] / 100)

    def clicks(self, proposed: ProposedSplit) -> Clicks:
        base = self.root / "CUB_200_2011"
        pictures = numbered(base / "images.txt")
        parts = numbered(base / "parts" / "parts.txt")
        file = base / "parts" / "part_click_locs.txt"
        at = read_clicks(file, len(pictures), len(parts))
        row = {picture: i for i, picture in enumerate(pictures)}
        if unknown := [picture for picture in proposed.files if picture not in row]:
            raise DataError(
                f"{self.root / self.splits_folder / 'res101.mat'}: images.txt has no {unknown[0]!r}"
            )
        return Clicks(tuple(parts), at[[row[picture] for picture in proposed.files]])

    @classmethod
    def render(cls, folder: Path) -> None:
        base = folder / "CUB_200_2011"
        random = random_generator(cls.name, "classes")
        looks = combinations(CLASSES, random)
        present = np.stack([indicators(each) for each in looks])
        percent = np.where(
            present, random.uniform(70, 98, present.shape), random.uniform(0, 14, present.shape)
        )
        names = [f"{label + 1:03d}.Creature_{''.join(map(str, each))}" for label, each in enumerate(looks)]
        files: list[str] = []
        boxes, places, clicks = [], [], []
        for label, each in enumerate(looks):
            for index in range(EACH):
                random = random_generator(cls.name, label, index)
                drawn = creature(random, each)
                files.append(f"{names[label]}/{names[label][4:]}_{index:04d}.jpg")
                save_jpeg(drawn.picture, base / "images" / files[-1])
                number = len(files)
                boxes.append(" ".join([str(number), *(f"{value:.1f}" for value in drawn.box)]))
                places += [
                    f"{number} {part} {px:.1f} {py:.1f} {int(name not in drawn.hidden)}"
                    for part, (name, (px, py)) in enumerate(drawn.parts.items(), start=1)
                ]
                clicks += [
                    f"{number} {part + 1} {px:.1f} {py:.1f} {visible} {random.uniform(1, 20):.3f}"
                    for part, px, py, visible in worker_clicks(random, drawn)
                ]
        labels = np.repeat(np.arange(CLASSES), EACH)
        tables = {
            "images.txt": numbers(files),
            "image_class_labels.txt": numbers([str(label + 1) for label in labels]),
            "train_test_split.txt": numbers([str(int(i % EACH < EACH // 2)) for i in range(len(files))]),
            "classes.txt": numbers(names),
            "bounding_boxes.txt": boxes,
            "parts/parts.txt": numbers(list(PARTS)),
            "parts/part_locs.txt": places,
            "parts/part_click_locs.txt": clicks,
            "attributes/class_attribute_labels_continuous.txt": [
                " ".join(f"{value:.4f}" for value in row) for row in percent
            ],
            "../attributes.txt": numbers(list(attribute_names())),
        }
        for name, lines in tables.items():
            path = base / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(lines) + "\n")
        write_proposed_split(
            folder / cls.splits_folder,
            names=names,
            files=[f"/somewhere/CUB_200_2011/images/{file}" for file in files],
            labels=labels,
            unseen=np.arange(CLASSES - UNSEEN, CLASSES),
            held_out=np.arange(CLASSES - UNSEEN - HELD_OUT, CLASSES - UNSEEN),
            values=percent,
        )


def read_clicks(file: Path, pictures: int, parts: int) -> NDArray[np.float32]:
    """part_click_locs.txt -> float32 [pictures, parts, W, 3]: x, y, visible of up to W clicks; missing ones are 0."""
    table = read_matrix(file)
    if table.shape[1] != 6:
        raise DataError(
            f"{file}: expected 6 columns (picture part x y visible seconds), got {table.shape[1]}"
        )
    picture, part = table[:, 0].astype(np.int64) - 1, table[:, 1].astype(np.int64) - 1
    wrong = (
        (picture < 0) | (picture >= pictures) | (part < 0) | (part >= parts) | ~np.isin(table[:, 4], (0, 1))
    )
    if wrong.any():
        line = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{file}, click {line + 1}: {table[line].tolist()} is not of pictures 1..{pictures}, parts 1..{parts} and "
            f"visible 0 or 1"
        )
    order = np.argsort(picture * parts + part, kind="stable")
    group = (picture * parts + part)[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
    at = np.zeros((pictures, parts, int(rank.max()) + 1, 3), np.float32)
    at[picture[order], part[order], rank] = table[order, 2:5]
    return at
