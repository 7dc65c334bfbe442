"""MSCOCO 2014 captions: 123,287 photographs of everyday scenes with five or more English sentences each.

Format
    train2014/COCO_train2014_<12 digits>.jpg, val2014/COCO_val2014_<12 digits>.jpg;
    annotations/captions_{train,val}2014.json with `images` (`id`, `file_name`) and `annotations` (`id`, `image_id`,
    `caption`); splits/{val,test}.txt, one picture a line: its number or its file name.
Splits
    train: all 82,783 pictures of train2014. val and test: 1,000 pictures each out of val2014, by explicit lists (the
    publication has none; that of m-RNN, Mao et al., ICLR 2015, is the usual one). The rest of val2014 isn't used.
    Exactly five sentences a picture, the first five by number where there are more: 413,915 training pairs.
Licence
    Annotations: CC BY 4.0; the pictures: their Flickr owners' terms.
Citation
    Lin et al.: Microsoft COCO: Common objects in context. ECCV 2014. Chen et al.: Microsoft COCO captions: data
    collection and evaluation server. arXiv 1504.00325.
Miniature
    300 / 50 / 100 rendered scenes of 96 x 96 (`miniature/captioned_scenes.py`), other ones than Flickr30K's, half of
    them with a look-alike, and `word_vectors.txt`, 50-d vectors counted on the training sentences.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.base import DataError, Split, random_generator
from datamodules.language.captioned_images import (
    CAPTIONS,
    MINIATURE_VECTORS,
    Captioned,
    CaptionedImagesDataset,
    check_lists,
)
from datamodules.language.word_vectors import write_word_vectors
from datamodules.miniature.captioned_scenes import SIZE, captions, draw, scenes, word_vectors
from datamodules.miniature.objects import save_jpeg
from datamodules.recognition.listed_images import read_lines
from datamodules.specs import CaptionsSpec

Part = Literal["train2014", "val2014"]


class COCOCaptions(CaptionedImagesDataset):
    """See the module's docstring; options: see `CaptionedImagesDataset`."""

    name = "coco-captions"
    title = "MSCOCO 2014 captions"
    url = "https://cocodataset.org/#download"
    licence = "annotations: CC BY 4.0; pictures: their owners' terms"
    required: ClassVar[tuple[str, ...]] = (
        "train2014/*.jpg",
        "val2014/*.jpg",
        "annotations/captions_train2014.json",
        "annotations/captions_val2014.json",
        "splits/val.txt",
        "splits/test.txt",
    )
    counts = {
        "real": {"train": 82_783, "val": 1_000, "test": 1_000},
        "miniature": {"train": 300, "val": 50, "test": 100},
    }

    def listing(self, split: Split) -> list[Captioned]:
        part: Part = "train2014" if split == "train" else "val2014"
        path = self.root / "annotations" / f"captions_{part}.json"
        names, sentences = read_captions(path)
        if split == "train":
            chosen = sorted(names)
        else:
            lists: dict[Split, list[str]] = {each: self._list(each) for each in ("val", "test")}
            check_lists(self.name, lists, f"the files of {self.root / 'splits'}")
            chosen = [int(number) for number in lists[split]]
        present = {file.name for file in (self.root / part).iterdir()}
        listed = []
        for number in chosen:
            if number not in names:
                raise DataError(
                    f"{self.root / 'splits' / f'{split}.txt'}: picture {number} isn't in {path}; use a list of {part}"
                )
            said = sorted(sentences.get(number, {}).items())[:CAPTIONS]
            if len(said) < CAPTIONS:
                raise DataError(
                    f"{path}: picture {number} has {len(said)} captions, expected {CAPTIONS} or more; fetch it again"
                )
            if names[number] not in present:
                raise DataError(
                    f"{self.root / part / names[number]} is missing but listed under {split!r}\n{self.instructions()}"
                )
            listed.append(
                Captioned(
                    str(number),
                    self.root / part / names[number],
                    tuple(sentence for _, sentence in said),
                    tuple(f"{number}#{key}" for key, _ in said),
                )
            )
        return listed

    def _list(self, split: Split) -> list[str]:
        """The numbers of a list's pictures, as text without leading zeros."""
        path = self.root / "splits" / f"{split}.txt"
        numbers = []
        for line in read_lines(path):
            digits = line.removesuffix(".jpg").rpartition("_")[2]
            if not digits.isdigit():
                raise DataError(f"{path}: {line!r} is neither a picture's number nor its file name")
            numbers.append(str(int(digits)))
        return numbers

    @classmethod
    def render(cls, folder: Path) -> None:
        documents: list[list[str]] = []
        number = 0
        for part, splits in (("train2014", ("train",)), ("val2014", ("val", "test"))):
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for split in splits:
                first = number + 1
                for position, scene in enumerate(scenes(cls.counts["miniature"][split], cls.name, split)):
                    number += 1
                    generator = random_generator(cls.name, split, position)
                    file = f"COCO_{part}_{number:012d}.jpg"
                    save_jpeg(draw(generator, scene.things), folder / part / file)
                    said = captions(generator, scene, CAPTIONS)
                    images.append({"id": number, "file_name": file, "height": SIZE, "width": SIZE})
                    annotations += [
                        {"id": 10 * number + i, "image_id": number, "caption": sentence}
                        for i, sentence in enumerate(said)
                    ]
                    if split == "train":
                        documents.append(said)
                if split != "train":
                    listed = folder / "splits" / f"{split}.txt"
                    listed.parent.mkdir(exist_ok=True)
                    listed.write_text(
                        "".join(f"COCO_{part}_{i:012d}.jpg\n" for i in range(first, number + 1))
                    )
            path = folder / "annotations" / f"captions_{part}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))
        write_word_vectors(folder / MINIATURE_VECTORS, *word_vectors(documents, CaptionsSpec.words, 50))


def read_captions(path: Path) -> tuple[dict[int, str], dict[int, dict[int, str]]]:
    """A captions file: file names by picture, and sentences by picture and annotation number."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
        sentences: dict[int, dict[int, str]] = {}
        for entry in content["annotations"]:
            said = sentences.setdefault(int(entry["image_id"]), {})
            said[int(entry["id"])] = " ".join(str(entry["caption"]).split())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch it again") from None
    except KeyError as error:
        raise DataError(
            f"{path}: an entry lacks {error}; expected `images` (id, file_name) and `annotations` (id, image_id, "
            "caption)"
        ) from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: is no captions file of COCO ({error}); fetch it again") from None
    return names, sentences
