"""INRIA Holidays: 1,491 personal holiday pictures in 500 groups, each of one scene or object.

Format
    jpg/1XXXYY.jpg: XXX numbers the group, YY the picture in it; YY = 00 is the group's query. Published
    results often use the edition with upright pictures: whichever lies there is read as it is.
Splits
    test: all 1,491 pictures; the 500 queries are searched among all the others (991 database pictures and the
    other queries), as in the published evaluation. train: the 991 database pictures, without labels to learn
    from, for what is fitted to a database (codebooks, PCA). val: the same 991, where the first picture of
    each group of two or more asks for the rest; no test query is seen there.
Licence
    Copyright INRIA and the photographers; research use.
Citation
    Jegou, Douze, Schmid: Hamming embedding and weak geometric consistency for large scale image search. ECCV
    2008.
Miniature
    60 groups of 2 to 5 views, 180 pictures, 96 x 96: three to five things before a ground that twelve groups
    share, with three sets of colours in all. Each second group has the places of the one before but other
    things on them; each group shares one thing with the group seven further on.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from datamodules.base import DataError, Split, random_generator
from datamodules.miniature.objects import World, places, save_jpeg, view, vocabulary
from datamodules.recognition.listed_images import Listed
from datamodules.retrieval.grouped_images import GroupedImagesDataset, grouped


class Holidays(GroupedImagesDataset):
    """See the module's docstring."""

    name = "holidays"
    tasks = ("image-retrieval",)
    title = "INRIA Holidays"
    url = "https://lear.inrialpes.fr/people/jegou/data.php"
    licence = "copyright INRIA and the photographers; research use"
    required: ClassVar[tuple[str, ...]] = ("jpg/*.jpg",)

    def listing(self, split: Split) -> list[Listed]:
        pictures = self._pictures()
        if split == "test":
            return grouped((path, group, place == 0) for path, group, place in pictures)
        database = [(path, group) for path, group, place in pictures if place != 0]
        if split == "train":
            return grouped((path, group, False) for path, group in database)
        groups = [group for _, group in database]
        return grouped(
            (path, group, groups.count(group) > 1 and groups.index(group) == position)
            for position, (path, group) in enumerate(database)
        )

    def _pictures(self) -> list[tuple[Path, int, int]]:
        """(file, group, place in the group) in the order of the names; place 0 is the query."""
        pictures = []
        for path in sorted((self.root / "jpg").glob("*.jpg")):
            if not (path.stem.isdigit() and len(path.stem) == 6):
                raise DataError(f"{path}: not named 1XXXYY.jpg; remove it or restore its name")
            pictures.append((path, int(path.stem) // 100, int(path.stem) % 100))
        counts: dict[int, int] = {}
        for _, group, _ in pictures:
            counts[group] = counts.get(group, 0) + 1
        queries = {group for _, group, place in pictures if place == 0}
        broken = sorted(group for group, count in counts.items() if group not in queries or count < 2)
        if broken:
            raise DataError(
                f"{self.root / 'jpg'}: group {broken[0]} ({len(broken)} in all) lacks its query "
                f"{broken[0]}00.jpg or a second picture; fetch the files again"
            )
        return pictures

    @classmethod
    def render(cls, folder: Path) -> None:
        words = vocabulary(24, cls.name, alike=8)
        chosen: list[list[int]] = []
        for group in range(60):
            generator = random_generator(cls.name, "things", group)
            taken = set(chosen[group - 1]) if group % 2 else set()  # the same place, other things
            shared = [chosen[group - 7][0]] if group >= 7 and chosen[group - 7][0] not in taken else []
            free = [word for word in range(len(words)) if word not in taken and word not in shared]
            count = int(generator.integers(3, 6))
            chosen.append(
                [*(int(word) for word in generator.permutation(free)[: count - len(shared)]), *shared]
            )
        for group, things in enumerate(chosen):
            spots = places(len(things), cls.name, group // 2)
            world = World(
                (cls.name, "ground", group // 12),
                [(words[i], at) for i, at in zip(things, spots, strict=True)],
            )
            for number in range((2, 3, 2, 5)[group % 4]):
                generator = random_generator(cls.name, group, number)
                save_jpeg(
                    view(generator, 96, world, strength=1.4, turn=0.6),
                    folder / "jpg" / f"1{group:03d}{number:02d}.jpg",
                )
