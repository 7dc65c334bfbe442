"""Retrieval datasets that are a list of picture files in groups, each of which shows one thing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from datamodules.recognition.listed_images import Listed, ListedImagesDataset
from datamodules.specs import ImageClassesSpec


class GroupedImagesDataset(ListedImagesDataset):
    """Serves `image-retrieval`: `image`, `group`, `is_query`, `index` and `id`.

    image_size, crop_size, keep_shape: see `ListedImagesDataset`.
    """

    tasks = ("image-retrieval",)

    @property
    def spec(self) -> ImageClassesSpec:
        """Without classes: there are no labels to learn from."""
        self.prepare_data()
        return ImageClassesSpec(dataset=self.name, classes=(), image_size=self.sizing.served)


def grouped(pictures: Iterable[tuple[Path, int, bool]]) -> list[Listed]:
    """(file, group, is it a query) a picture -> the listing, numbered in this order by `index`."""
    listing = [
        Listed(path.stem, path, {"group": group, "is_query": is_query}) for path, group, is_query in pictures
    ]
    return [replace(item, values={**item.values, "index": index}) for index, item in enumerate(listing)]
