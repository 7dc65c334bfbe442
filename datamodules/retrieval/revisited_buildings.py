"""Revisited Oxford and Paris buildings: 4,993 and 6,322 pictures of 11 landmarks each, 70 queries each.

Format
    gnd_roxford5k.pkl or gnd_rparis6k.pkl: a pickled dict with `imlist` and `qimlist` (names without `.jpg`) and `gnd`,
    for each query a dict of `bbx` (x1, y1, x2, y2 in pixels) and `easy`, `hard` and `junk`, positions in `imlist`.
    Read by an unpickler that admits plain containers, text, numbers and NumPy arrays. jpg/<name>.jpg.
Splits
    test: the gallery in the order of `imlist`, then the queries in that of `qimlist`, cut out by `bbx`. train: the
    gallery without labels, for what is fitted to a database (codebooks, PCA); methods that learn descriptors are
    trained on another dataset. val: empty.
Licence
    None stated for the annotations; the pictures' rights are with their owners on Flickr; research use.
Citation
    Radenovic, Iscen, Tolias, Avrithis, Chum: Revisiting Oxford and Paris: large-scale image retrieval benchmarking.
    CVPR 2018. Pictures: Philbin, Chum, Isard, Sivic, Zisserman, CVPR 2007 and 2008.
Miniature
    Of `roxford5k`: 12 rendered facades with 6 easy or hard views and 1 junk view each, two queries to each, and 60
    distractors, half of them look-alikes; 144 pictures, few right answers. Of `rparis6k`: 6 facades with 16 views and
    2 junk views each, four queries to each, and 42 distractors; 150 pictures, many right answers. 80 x 80.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from datamodules.base import DataError, Split, random_generator
from datamodules.miniature.facades import Difficulty, facade, photograph
from datamodules.miniature.objects import save_jpeg
from datamodules.retrieval.landmarks import GRADES, LandmarkDataset, LandmarkPicture, LandmarkPictures
from datamodules.retrieval.published_pickles import read_plain_pickle
from datamodules.specs import LandmarksSpec


class Views(NamedTuple):
    """What the miniature holds: facades, easy, hard and junk views of each, queries to each, and distractors."""

    facades: int
    easy: int
    hard: int
    junk: int
    queries: int
    distractors: int


class RevisitedBuildings(LandmarkDataset):
    """What ROxford5k and RParis6k share; see the module's docstring."""

    url = "http://cmp.felk.cvut.cz/revisitop/"
    licence = "annotations: none stated; pictures: their owners' on Flickr, research use"
    gnd_file: ClassVar[str]
    views: ClassVar[Views]

    @property
    def spec(self) -> LandmarksSpec:
        return LandmarksSpec(dataset=self.name, image_size=self.image_size, train_size=self.train_size)

    def read(self, split: Split) -> LandmarkPictures:
        gallery, queries = self._pictures()
        if split == "train":
            return LandmarkPictures(gallery, longest=self.image_size, square=self.train_size)
        return LandmarkPictures([*gallery, *queries] if split == "test" else [], longest=self.image_size)

    def _pictures(self) -> tuple[list[LandmarkPicture], list[LandmarkPicture]]:
        path = self.root / self.gnd_file
        content = read_plain_pickle(path)
        lists = {key: content.get(key) for key in ("imlist", "qimlist", "gnd")}
        for key, value in lists.items():
            if not isinstance(value, list):
                raise DataError(f"{path}: {key!r} must be a list, got {type(value).__name__}")
        names, asked, truth = lists.values()
        if len(asked) != len(truth):
            raise DataError(f"{path}: {len(asked)} names in 'qimlist', but {len(truth)} entries in 'gnd'")
        gallery = [LandmarkPicture(f"gallery/{name}", self._file(name)) for name in names]
        queries = [
            LandmarkPicture(
                f"query/{name}",
                self._file(name),
                is_query=True,
                box=_box(path, number, entry),
                relevance=_relevance(path, number, entry, len(names)),
            )
            for number, (name, entry) in enumerate(zip(asked, truth, strict=True))
        ]
        return gallery, queries

    def _file(self, name: Any) -> Path:
        return self.root / "jpg" / f"{name}.jpg"

    @classmethod
    def render(cls, folder: Path) -> None:
        views, generator = cls.views, random_generator(cls.name, "facades")
        shown = [facade(generator) for _ in range(views.facades)]
        kinds: list[Difficulty] = ["easy"] * views.easy + ["hard"] * views.hard + ["junk"] * views.junk
        entries = [(number, kind) for number in range(views.facades) for kind in kinds]
        entries += [(views.facades + number, "hard") for number in range(views.distractors)]
        for number in range(views.distractors):
            likeness = shown[number % views.facades].lookalike(generator)
            shown.append(likeness if number % 2 else facade(generator))
        order = generator.permutation(len(entries)).tolist()
        imlist, found = [], {}
        for place, entry in enumerate(order):
            number, kind = entries[entry]
            name = f"{'landmark' if number < views.facades else 'other'}_{number:02d}_{place:06d}"
            view = photograph(random_generator(cls.name, entry), 80, shown[number], kind)
            save_jpeg(view.picture, folder / "jpg" / f"{name}.jpg")
            imlist.append(name)
            found.setdefault((number, kind), []).append(place)
        qimlist, gnd = [], []
        for number in range(views.facades):
            for query in range(views.queries):
                name = f"query_{number:02d}_{query}"
                view = photograph(random_generator(cls.name, "query", number, query), 80, shown[number])
                save_jpeg(view.picture, folder / "jpg" / f"{name}.jpg")
                qimlist.append(name)
                gnd.append(
                    {"bbx": list(view.box), **{kind: found.get((number, kind), []) for kind in GRADES}}
                )
        content = {"gnd": gnd, "imlist": imlist, "qimlist": qimlist}
        (folder / cls.gnd_file).write_bytes(pickle.dumps(content, protocol=2))


def _box(path: Path, number: int, entry: Any) -> tuple[float, float, float, float]:
    box = entry.get("bbx") if isinstance(entry, dict) else None
    try:
        x1, y1, x2, y2 = (float(edge) for edge in box)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise DataError(f"{path}: query {number} has 'bbx' {box!r}, expected x1, y1, x2, y2") from None
    if x2 <= x1 or y2 <= y1:
        raise DataError(f"{path}: query {number} has the box {x1, y1, x2, y2}, of no extent")
    return x1, y1, x2, y2


def _relevance(path: Path, number: int, entry: dict[str, Any], size: int) -> tuple[tuple[int, int], ...]:
    """(position in the gallery, grade) of what a query's entry names."""
    rows: dict[int, int] = {}
    for kind, grade in GRADES.items():
        places: Sequence[Any] | None = entry.get(kind)
        if places is None:
            raise DataError(f"{path}: query {number} has no {kind!r}, only {', '.join(sorted(entry))}")
        for place in (int(place) for place in places):
            if not 0 <= place < size:
                raise DataError(f"{path}: query {number} has {kind} picture {place}, not 0 .. {size - 1}")
            if rows.setdefault(place, grade) != grade:
                raise DataError(f"{path}: query {number} has picture {place} in two of easy, hard and junk")
    return tuple(rows.items())


class ROxford5k(RevisitedBuildings):
    """Oxford: see the module's docstring."""

    name = "roxford5k"
    title = "Revisited Oxford buildings"
    gnd_file = "gnd_roxford5k.pkl"
    required = ("gnd_roxford5k.pkl", "jpg/*.jpg")
    views = Views(facades=12, easy=3, hard=3, junk=1, queries=2, distractors=60)


class RParis6k(RevisitedBuildings):
    """Paris: see the module's docstring."""

    name = "rparis6k"
    title = "Revisited Paris buildings"
    gnd_file = "gnd_rparis6k.pkl"
    required = ("gnd_rparis6k.pkl", "jpg/*.jpg")
    views = Views(facades=6, easy=7, hard=9, junk=2, queries=4, distractors=42)
