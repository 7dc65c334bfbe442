"""SUN Attribute for zero-shot learning: 14,340 pictures of 717 kinds of scenes, 645 seen, 72 unseen.

Format
    SUNAttributeDB/: images.mat (`images`, paths), attributes.mat (`attributes`, 102 names),
    attributeLabels_continuous.mat (`labels_cv` [pictures, 102], the share 0..1 of three workers who saw an attribute);
    images/<letter>/<scene>[/<kind>]/*.jpg;
    xlsa17/data/SUN/: the proposed splits, see `zero_shot_images.py`.
Attributes
    are of pictures; a class's are the means over its pictures, as the benchmark has them.
Splits
    the proposed ones: 10,320 pictures of 645 classes to train on, 1,440 of 72 classes to test on.
Licence
    Research only; the pictures' rights are with their photographers.
Citation
    Patterson, Hays: SUN attribute database - discovering, annotating, and recognizing scene attributes. CVPR 2012. The
    splits: see `zero_shot_images.py`.
Miniature
    10 seen and 4 unseen scenes, 12 pictures each: a ground texture and two kinds of things make 11 attributes.
"""

from __future__ import annotations

from itertools import combinations as choose
from pathlib import Path
from typing import ClassVar

import numpy as np

from datamodules.base import DataError, random_generator
from datamodules.miniature.objects import SILHOUETTES, TEXTURES, save_jpeg, scene
from datamodules.recognition.zero_shot_images import (
    ProposedSplit,
    Semantics,
    ZeroShotImages,
    cell_strings,
    read_mat,
    save_mat,
    string_cell,
    write_proposed_split,
)

CLASSES, UNSEEN, HELD_OUT, EACH = 14, 4, 3, 12


class SUNZeroShot(ZeroShotImages):
    """See the module's docstring."""

    name = "sun-zsl"
    title = "SUN Attribute with the proposed zero-shot splits"
    url = "https://cs.brown.edu/~gmpatter/sunattributes.html"
    licence = "research only"
    splits_folder = "xlsa17/data/SUN"
    pictures_folder = "images"
    required: ClassVar[tuple[str, ...]] = (
        "SUNAttributeDB/images.mat",
        "SUNAttributeDB/attributes.mat",
        "SUNAttributeDB/attributeLabels_continuous.mat",
        "xlsa17/data/SUN/att_splits.mat",
        "xlsa17/data/SUN/res101.mat",
        "images/**/*.jpg",
    )

    def semantics(self, proposed: ProposedSplit) -> Semantics:
        base = self.root / "SUNAttributeDB"
        pictures = cell_strings(read_mat(base / "images.mat", ("images",))["images"])
        attributes = cell_strings(read_mat(base / "attributes.mat", ("attributes",))["attributes"])
        file = base / "attributeLabels_continuous.mat"
        share = read_mat(file, ("labels_cv",))["labels_cv"].astype(np.float64)
        if share.shape != (len(pictures), len(attributes)):
            raise DataError(
                f"{file}: labels_cv must be {len(pictures)} pictures x {len(attributes)} attributes, got {share.shape}"
            )
        row = {picture: i for i, picture in enumerate(pictures)}
        if unknown := [picture for picture in proposed.files if picture not in row]:
            raise DataError(
                f"{self.root / self.splits_folder / 'res101.mat'}: images.mat has no {unknown[0]!r}"
            )
        of_picture = share[[row[picture] for picture in proposed.files]]
        classes = len(proposed.names)
        counts = np.bincount(proposed.labels, minlength=classes)
        if (counts == 0).any():
            raise DataError(
                f"{self.root / self.splits_folder / 'res101.mat'}: no picture of "
                f"{proposed.names[int(np.flatnonzero(counts == 0)[0])]!r}"
            )
        total = np.zeros((classes, len(attributes)))
        np.add.at(total, proposed.labels, of_picture)
        return Semantics(attributes, total / counts[:, None])

    @classmethod
    def render(cls, folder: Path) -> None:
        random = random_generator(cls.name, "classes")
        kinds = [(ground, pair) for ground in TEXTURES[1:] for pair in choose(SILHOUETTES, 2)]
        picked = [kinds[i] for i in random.permutation(len(kinds))[:CLASSES]]
        attributes = [f"{ground} ground" for ground in TEXTURES] + list(SILHOUETTES)
        names, files, votes = [], [], []
        for label, (ground, things) in enumerate(picked):
            names.append(f"{ground}_{things[0]}_{things[1]}")
            present = np.array([ground == g for g in TEXTURES] + [kind in things for kind in SILHOUETTES])
            for index in range(EACH):
                picture = scene(random_generator(cls.name, label, index), 72, ground=ground, things=things)
                files.append(f"{ground[0]}/{names[-1]}/sun_{label:02d}{index:02d}.jpg")
                save_jpeg(picture, folder / "images" / files[-1])
                seen = random.uniform(0, 1, (3, len(attributes))) < np.where(present, 0.9, 0.05)
                votes.append(seen.mean(axis=0))
        base = folder / "SUNAttributeDB"
        base.mkdir()
        labels = np.repeat(np.arange(CLASSES), EACH)
        # The lists' order is not that of the splits' files.
        order = random.permutation(len(files))
        save_mat(base / "images.mat", {"images": string_cell([files[i] for i in order])})
        save_mat(base / "attributes.mat", {"attributes": string_cell(attributes)})
        share = np.stack(votes)
        save_mat(base / "attributeLabels_continuous.mat", {"labels_cv": share[order]})
        write_proposed_split(
            folder / cls.splits_folder,
            names=names,
            files=[f"/somewhere/SUN/images/{file}" for file in files],
            labels=labels,
            unseen=np.arange(CLASSES - UNSEEN, CLASSES),
            held_out=np.arange(CLASSES - UNSEEN - HELD_OUT, CLASSES - UNSEEN),
            values=np.stack([share[labels == label].mean(axis=0) for label in range(CLASSES)]),
        )
