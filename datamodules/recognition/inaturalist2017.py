"""iNaturalist 2017: 675,170 pictures of 5,089 species in 13 super classes.

Format
    train2017.json and val2017.json as COCO has it: `images` (id, file_name), `annotations` (image_id, category_id),
    `categories` (id, name, supercategory); train_val_images/<super class>/<species>/*.jpg.
Samples
    `image`, `label`, `id`. Classes are named `<super class>/<species>`, so that results can be told by super class.
    Boxes are published for some of the pictures only and are not read.
Splits
    train2017.json (579,184) is train. val2017.json (95,986) is test, as the field reports it: the labels of the
    challenge's test pictures are not public. See `holdout` for a validation split.
Licence
    Non-commercial research and education; each picture under its photographer's licence.
Citation
    Van Horn et al.: The iNaturalist species classification and detection dataset. CVPR 2018.
Miniature
    9 species of three super classes, 16 train and 8 test pictures each, 64 x 64: three bodies, on each three species of
    another mark and texture, in any colour.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from datamodules.base import DataError, random_generator
from datamodules.miniature.fine_classes import organism
from datamodules.miniature.objects import save_jpeg
from datamodules.recognition.listed_images import LabelledImagesDataset, Listed, Subset

FILES = {"train": "train2017.json", "test": "val2017.json"}
SUPER_CLASSES = {"Aves": "triangle", "Insecta": "star", "Plantae": "disc"}
SPECIES = (("disc", "plain"), ("cross", "stripes"), ("square", "dots"))


def read_listing(path: Path) -> dict[str, list[dict[str, Any]]]:
    """A COCO-style file with images, annotations and categories; a `DataError` names it and what it lacks."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}; fetch this file again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} has no list {key!r}")
    return content


class INaturalist2017(LabelledImagesDataset):
    """See the module's docstring."""

    name = "inaturalist-2017"
    tasks = ("image-classification",)
    title = "iNaturalist 2017"
    url = "https://github.com/visipedia/inat_comp/tree/master/2017"
    licence = "non-commercial research and education"
    required: ClassVar[tuple[str, ...]] = (
        "train2017.json",
        "val2017.json",
        "train_val_images/*/*",
    )

    def _files(self) -> Any:
        """The lists and the folders' names identify the data; 675,170 pictures are not looked at one by one."""
        for name in FILES.values():
            yield name, (self.root / name).stat().st_size

    def _categories(self) -> list[tuple[int, str]]:
        """(category id, class name) in label order: by super class and species."""
        path = self.root / FILES["train"]
        try:
            named = [
                (int(entry["id"]), f"{entry['supercategory']}/{entry['name']}")
                for entry in read_listing(path)["categories"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: a category lacks id, name or supercategory ({error!r})") from None
        return sorted(named, key=lambda entry: entry[1])

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(name for _, name in self._categories())

    def published(self, subset: Subset) -> list[Listed]:
        path = self.root / FILES[subset]
        content = read_listing(path)
        labels = {number: label for label, (number, _) in enumerate(self._categories())}
        try:
            files = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
            pairs = [(entry["image_id"], entry["category_id"]) for entry in content["annotations"]]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path}: an image lacks id or file_name, or an annotation image_id or category_id ({error!r})"
            ) from None
        listing, seen = [], set()
        for image, category in pairs:
            if image not in files:
                raise DataError(f"{path}: an annotation is of image {image!r}, which is not listed")
            if category not in labels:
                raise DataError(f"{path}: image {image!r} is of category {category!r}, which is not listed")
            if image in seen:
                raise DataError(f"{path}: image {image!r} has two labels")
            seen.add(image)
            listing.append(Listed(files[image], self.root / files[image], {"label": labels[category]}))
        return listing

    @classmethod
    def render(cls, folder: Path) -> None:
        categories = [
            {"id": number, "name": f"Mark {mark} {pattern}", "supercategory": above}
            for number, (above, (mark, pattern)) in enumerate(
                (above, kind) for above in SUPER_CLASSES for kind in SPECIES
            )
        ]
        picture_number = 0
        for subset, each in (("train", 16), ("test", 8)):
            images, annotations = [], []
            for category in categories:
                mark, pattern = SPECIES[category["id"] % len(SPECIES)]
                for index in range(each):
                    picture_number += 1
                    generator = random_generator(cls.name, subset, category["id"], index)
                    body = SUPER_CLASSES[category["supercategory"]]
                    shown = organism(generator, 64, body=body, mark=mark, pattern=pattern)
                    file = (
                        f"train_val_images/{category['supercategory']}/{category['name']}/"
                        f"{random_generator(cls.name, picture_number).bytes(8).hex()}.jpg"
                    )
                    save_jpeg(shown, folder / file)
                    images.append({"id": picture_number, "file_name": file, "width": 64, "height": 64})
                    annotations.append(
                        {
                            "id": picture_number,
                            "image_id": picture_number,
                            "category_id": category["id"],
                        }
                    )
            document = {"images": images, "annotations": annotations, "categories": categories}
            (folder / FILES[subset]).write_text(json.dumps(document))
