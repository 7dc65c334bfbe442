"""Retrieval-SfM-120k: pictures of landmarks in 3D reconstructions, to learn descriptors from.

Format, under retrieval-SfM-120k/
    retrieval-SfM-120k.pkl: a pickled dict of `train` and `val`, each a dict of lists: `cids` (names of pictures),
    `cluster` (the reconstruction of each), `qidxs` and `pidxs` (positions in `cids` of a query and of a picture that
    sees the same 3D points). ims/<last two of the name>/<the two before>/<the two before those>/<name>.
    Read by an unpickler that admits plain containers, text, numbers and NumPy arrays.
Splits
    train: 91,642 pictures of 551 clusters, labelled by cluster, with 181,697 pairs of a query and a right answer
    (`pairs` of the split). test: the published validation part, 6,403 pictures of 162 other clusters as the gallery,
    then its 1,691 queries once more; right (easy) is every other picture of the query's cluster, the query itself
    is junk.
    val: the same as test, because nothing else is published; select on it where another dataset is tested.
Licence
    None stated; the pictures' rights are with their owners on Flickr; research use.
Citation
    Radenovic, Tolias, Chum: Fine-tuning CNN image retrieval with no human annotation. TPAMI 41(7), 2019.
Miniature
    32 facades with 4 to 10 views each to train on, half of them look-alikes of another one, and 8 with 6 views each to
    test on, 80 x 80.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from datamodules.base import DataError, Split, random_generator
from datamodules.miniature.facades import Facade, facade, photograph
from datamodules.miniature.objects import save_jpeg
from datamodules.retrieval.landmarks import GRADES, LandmarkDataset, LandmarkPicture, LandmarkPictures
from datamodules.retrieval.published_pickles import read_plain_pickle
from datamodules.specs import LandmarksSpec

LISTS = ("cids", "cluster", "qidxs", "pidxs")
FILE = "retrieval-SfM-120k.pkl"


def picture_path(folder: Path, name: str) -> Path:
    """Where a picture lies: by the last characters of its name."""
    return folder / "ims" / name[-2:] / name[-4:-2] / name[-6:-4] / name


class RetrievalSfM120k(LandmarkDataset):
    """See the module's docstring."""

    name = "retrieval-sfm-120k"
    title = "Retrieval-SfM-120k"
    url = "http://cmp.felk.cvut.cz/cnnimageretrieval/"
    licence = "none stated; pictures: their owners' on Flickr, research use"
    required: ClassVar[tuple[str, ...]] = (FILE, "ims/*/*/*/*")

    def _home(self, root: Path) -> Path:
        published = root / "retrieval-SfM-120k"
        return published if published.is_dir() else super()._home(root)

    @property
    def spec(self) -> LandmarksSpec:
        self.prepare_data()
        _, clusters, _ = self._part("train")
        return LandmarksSpec(
            dataset=self.name,
            image_size=self.image_size,
            train_size=self.train_size,
            landmarks=len(np.unique(clusters)),
        )

    def read(self, split: Split) -> LandmarkPictures:
        names, clusters, pairs = self._part("train" if split == "train" else "val")
        if split == "train":
            _, labels = np.unique(clusters, return_inverse=True)
            pictures = [
                LandmarkPicture(name, picture_path(self.root, name), int(label))
                for name, label in zip(names, labels, strict=True)
            ]
            return LandmarkPictures(pictures, longest=self.image_size, square=self.train_size, pairs=pairs)
        gallery = [LandmarkPicture(f"gallery/{name}", picture_path(self.root, name)) for name in names]
        queries = []
        for query in np.unique(pairs[:, 0]).tolist():
            same = np.flatnonzero(clusters == clusters[query]).tolist()
            rows = tuple((place, GRADES["junk" if place == query else "easy"]) for place in same)
            path = picture_path(self.root, names[query])
            queries.append(LandmarkPicture(f"query/{names[query]}", path, is_query=True, relevance=rows))
        return LandmarkPictures([*gallery, *queries], longest=self.image_size)

    def _part(self, part: str) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
        """Names [N], clusters int64 [N] and pairs int64 [P, 2] of a part."""
        path = self.root / FILE
        content = read_plain_pickle(path).get(part)
        lacking = [key for key in LISTS if not isinstance(content, dict) or key not in content]
        if lacking:
            raise DataError(f"{path}: {part!r} has no {', '.join(lacking)}")
        names = [str(name) for name in content["cids"]]
        try:
            clusters, queries, positives = (
                np.asarray(content[key], np.int64).reshape(-1) for key in LISTS[1:]
            )
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: {part!r} has lists that are no integers ({error})") from None
        if len(clusters) != len(names) or len(queries) != len(positives):
            raise DataError(
                f"{path}: {part!r} has {len(names)} cids for {len(clusters)} clusters, "
                f"{len(queries)} qidxs for {len(positives)} pidxs"
            )
        pairs = np.stack([queries, positives], axis=1)
        if pairs.size and not 0 <= pairs.min() <= pairs.max() < len(names):
            raise DataError(f"{path}: {part!r} has qidxs or pidxs outside 0 .. {len(names) - 1}")
        return names, clusters, pairs

    @classmethod
    def render(cls, folder: Path) -> None:
        generator = random_generator(cls.name, "facades")
        training: list[Facade] = []
        for number in range(32):
            training.append(training[-1].lookalike(generator) if number % 2 else facade(generator))
        parts = {
            "train": (training, generator.integers(4, 11, 32).tolist()),
            "val": ([facade(generator) for _ in range(8)], [6] * 8),
        }
        content: dict[str, dict[str, list[Any]]] = {}
        for part, (facades, counts) in parts.items():
            lists: dict[str, list[Any]] = {key: [] for key in LISTS}
            for cluster, (shown, count) in enumerate(zip(facades, counts, strict=True)):
                first = len(lists["cids"])
                for view in range(count):
                    name = random_generator(cls.name, part, cluster, view).bytes(16).hex()
                    own = random_generator(cls.name, part, cluster, view, "view")
                    picture = photograph(own, 80, shown, "hard" if view % 2 else "easy").picture
                    path = picture_path(folder, name)
                    save_jpeg(picture, path.with_suffix(".jpg"))
                    path.with_suffix(".jpg").rename(path)  # published names have no suffix
                    lists["cids"].append(name)
                    lists["cluster"].append(cluster)
                for query in range(0, count, 2):
                    lists["qidxs"].append(first + query)
                    lists["pidxs"].append(first + (query + 1) % count)
            content[part] = lists
        (folder / FILE).write_bytes(pickle.dumps(content, protocol=2))
