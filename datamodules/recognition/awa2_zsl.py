"""Animals with Attributes 2 for zero-shot learning: 37,322 pictures of 50 kinds of animals, 40 seen, 10 unseen.

Format
    Animals_with_Attributes2/: classes.txt and predicates.txt (`<id> <name>`), predicate-matrix-continuous.txt (50 x 85,
    percent; -1: unknown, read as 0), predicate-matrix-binary.txt (50 x 85), JPEGImages/<class>/*.jpg;
    xlsa17/data/AWA2/: the proposed splits, see `zero_shot_images.py`.
Splits
    the proposed ones: 23,527 pictures of 40 classes to train on, 7,913 of 10 classes to test on. (The paper's table
    gives 30,475 pictures, as many as the older Animals with Attributes has.)
Licence
    Each picture has its own (free to use; see the archive's license files); attributes: free for research.
Citation
    Xian, Lampert, Schiele, Akata: Zero-shot learning - a comprehensive evaluation of the good, the bad and the ugly.
    TPAMI 2019.
Miniature
    8 seen and 4 unseen creatures, 12 pictures each, in heavy clutter; no clicks. The binary matrix is published too.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from datamodules.base import DataError, random_generator
from datamodules.miniature.creatures import attribute_names, combinations, creature, indicators
from datamodules.miniature.objects import save_jpeg
from datamodules.recognition.zero_shot_images import (
    ProposedSplit,
    Semantics,
    ZeroShotImages,
    numbered,
    numbers,
    read_matrix,
    write_proposed_split,
)

CLASSES, UNSEEN, HELD_OUT, EACH = 12, 4, 2, 12


class AwA2ZeroShot(ZeroShotImages):
    """See the module's docstring."""

    name = "awa2-zsl"
    title = "Animals with Attributes 2 with the proposed zero-shot splits"
    url = "https://cvml.ista.ac.at/AwA2/"
    licence = "pictures: free licences, one each; attributes: free for research"
    splits_folder = "xlsa17/data/AWA2"
    pictures_folder = "Animals_with_Attributes2/JPEGImages"
    required: ClassVar[tuple[str, ...]] = (
        "Animals_with_Attributes2/classes.txt",
        "Animals_with_Attributes2/predicates.txt",
        "Animals_with_Attributes2/predicate-matrix-continuous.txt",
        "Animals_with_Attributes2/predicate-matrix-binary.txt",
        "xlsa17/data/AWA2/att_splits.mat",
        "xlsa17/data/AWA2/res101.mat",
        "Animals_with_Attributes2/JPEGImages/*/*.jpg",
    )

    def semantics(self, proposed: ProposedSplit) -> Semantics:
        base = self.root / "Animals_with_Attributes2"
        names, attributes = numbered(base / "classes.txt"), numbered(base / "predicates.txt")
        matrices = []
        for kind in ("continuous", "binary"):
            file = base / f"predicate-matrix-{kind}.txt"
            matrix = read_matrix(file)
            if matrix.shape != (len(names), len(attributes)):
                raise DataError(
                    f"{file}: expected {len(names)} classes x {len(attributes)} attributes, got {matrix.shape}"
                )
            matrices.append(matrix)
        row = {name: i for i, name in enumerate(names)}
        if unknown := [name for name in proposed.names if name not in row]:
            raise DataError(
                f"{self.root / self.splits_folder / 'att_splits.mat'}: classes.txt has no {unknown[0]!r}"
            )
        order = [row[name] for name in proposed.names]
        if not np.isin(matrices[1], (0, 1)).all():
            raise DataError(f"{base / 'predicate-matrix-binary.txt'}: holds other numbers than 0 and 1")
        return Semantics(
            tuple(attributes), matrices[0][order].clip(0) / 100, matrices[1][order].astype(np.bool_)
        )

    @classmethod
    def render(cls, folder: Path) -> None:
        base = folder / "Animals_with_Attributes2"
        random = random_generator(cls.name, "classes")
        looks = combinations(CLASSES, random)
        present = np.stack([indicators(each) for each in looks])
        percent = np.where(
            present, random.uniform(60, 100, present.shape), random.uniform(-1, 20, present.shape)
        )
        names = [f"creature+{''.join(map(str, each))}" for each in looks]
        files = []
        for label, each in enumerate(looks):
            for index in range(EACH):
                drawn = creature(random_generator(cls.name, label, index), each, size=(60, 60), clutter=12)
                files.append(f"{names[label]}/{names[label]}_{10001 + index}.jpg")
                save_jpeg(drawn.picture, base / "JPEGImages" / files[-1])
        for name, lines in {
            "classes.txt": numbers(names),
            "predicates.txt": numbers(list(attribute_names())),
            "predicate-matrix-continuous.txt": [" ".join(f"{v:.2f}" for v in row) for row in percent],
            "predicate-matrix-binary.txt": [" ".join(map(str, row)) for row in present.astype(int)],
        }.items():
            (base / name).write_text("\n".join(lines) + "\n")
        write_proposed_split(
            folder / cls.splits_folder,
            names=names,
            files=[f"/somewhere/Animals_with_Attributes2//JPEGImages/{file}" for file in files],
            labels=np.repeat(np.arange(CLASSES), EACH),
            unseen=np.arange(CLASSES - UNSEEN, CLASSES),
            held_out=np.arange(CLASSES - UNSEEN - HELD_OUT, CLASSES - UNSEEN),
            values=percent,
        )
