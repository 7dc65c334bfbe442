"""Flickr30K: 31,783 pictures of people and animals in everyday scenes, five English sentences each.

Format
    flickr30k_images/<id>.jpg (the pictures); results_20130124.token (the sentences), one a line,
    `<id>.jpg#<0..4>`, a tab, the sentence; splits/<split>/{train,val,test}.txt, one picture a line, `<id>` or
    `<id>.jpg`.
Splits
    Not part of the publication: the lists are explicit files. `split="mrnn"`, that of m-RNN (Mao et al., ICLR
    2015), has 29,783 / 1,000 / 1,000 pictures; `split="karpathy"`, that of dataset_flickr30k.json (Karpathy and
    Fei-Fei, CVPR 2015), 29,000 / 1,014 / 1,000. Their results aren't comparable, and the counts are checked.
Licence
    The pictures: their Flickr owners', for non-commercial research and education; the sentences: CC BY 4.0.
Citation
    Young, Lai, Hodosh, Hockenmaier: From image descriptions to visual denotations. TACL 2014.
Miniature
    1,000 / 100 / 200 rendered scenes of 96 x 96 (`miniature/captioned_scenes.py`), half of them with a
    look-alike in the same split, and `word_vectors.txt`, 50-d vectors counted on the training sentences.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Unpack

from datamodules.base import DataError, Serving, Split, Variant, random_generator
from datamodules.language.captioned_images import (
    CAPTIONS,
    MINIATURE_VECTORS,
    SPLITS,
    Captioned,
    CaptionedImagesDataset,
    check_lists,
)
from datamodules.language.word_vectors import write_word_vectors
from datamodules.miniature.captioned_scenes import captions, draw, scenes, word_vectors
from datamodules.miniature.objects import save_jpeg
from datamodules.recognition.listed_images import read_lines
from datamodules.specs import CaptionsSpec

PICTURES = "flickr30k_images"
TOKENS = "results_20130124.token"
FIRST_ID = {"train": 1_000_000, "val": 2_000_000, "test": 3_000_000}
Lists = Literal["mrnn", "karpathy"]
COUNTS: dict[str, dict[str, int]] = {
    "mrnn": {"train": 29_783, "val": 1_000, "test": 1_000},
    "karpathy": {"train": 29_000, "val": 1_014, "test": 1_000},
}


class Flickr30K(CaptionedImagesDataset):
    """See the module's docstring.

    split_lists: whose division of the pictures (the miniature has "mrnn" alone).
    train_pictures, pixels, word_vectors: see `CaptionedImagesDataset`.
    """

    name = "flickr30k"
    title = "Flickr30K"
    url = "https://shannon.cs.illinois.edu/DenotationGraph/"
    licence = "pictures: their owners', non-commercial research; sentences: CC BY 4.0"
    required: ClassVar[tuple[str, ...]] = (
        f"{PICTURES}/*.jpg",
        TOKENS,
        "splits/*/train.txt",
        "splits/*/val.txt",
        "splits/*/test.txt",
    )
    counts = {"real": COUNTS["mrnn"], "miniature": {"train": 1_000, "val": 100, "test": 200}}

    def __init__(
        self,
        root: str | Path | None = None,
        variant: Variant = "miniature",
        *,
        split_lists: Lists = "mrnn",
        train_pictures: int | None = None,
        pixels: bool = False,
        word_vectors: str | None = None,
        **serving: Unpack[Serving],
    ) -> None:
        super().__init__(
            root,
            variant,
            train_pictures=train_pictures,
            pixels=pixels,
            word_vectors=word_vectors,
            **serving,
        )
        if split_lists not in COUNTS or (variant == "miniature" and split_lists != "mrnn"):
            raise ValueError(f"{self.name} ({variant}) has no lists {split_lists!r}")
        self.split_lists = split_lists
        if variant == "real":
            self.counts = {"real": COUNTS[split_lists]}  # type: ignore[misc]
        self._sentences: dict[str, dict[int, str]] | None = None

    def listing(self, split: Split) -> list[Captioned]:
        lists: dict[Split, list[str]] = {part: self._list(part) for part in SPLITS}
        check_lists(self.name, lists, f"the files of {self.root / 'splits' / self.split_lists}")
        if self._sentences is None:
            self._sentences = read_tokens(self.root / TOKENS)
        sentences = self._sentences
        present = {path.name for path in (self.root / PICTURES).iterdir()}
        listed = []
        for picture in lists[split]:
            said = sentences.get(picture, {})
            if set(said) != set(range(CAPTIONS)):
                raise DataError(
                    f"{self.root / TOKENS}: {picture}.jpg of {split!r} has the sentences {sorted(said)}, "
                    f"expected 0 to {CAPTIONS - 1}; fetch the file again"
                )
            if f"{picture}.jpg" not in present:
                raise DataError(
                    f"{self.root / PICTURES / picture}.jpg is missing but listed under {split!r}\n"
                    f"{self.instructions()}"
                )
            listed.append(
                Captioned(
                    picture,
                    self.root / PICTURES / f"{picture}.jpg",
                    tuple(said[i] for i in range(CAPTIONS)),
                    tuple(f"{picture}#{i}" for i in range(CAPTIONS)),
                )
            )
        return listed

    def _list(self, split: Split) -> list[str]:
        path = self.root / "splits" / self.split_lists / f"{split}.txt"
        return [line.removesuffix(".jpg") for line in read_lines(path)]

    @classmethod
    def render(cls, folder: Path) -> None:
        lines, documents = [], []
        for split in SPLITS:
            count = cls.counts["miniature"][split]
            ids = [str(FIRST_ID[split] + i) for i in range(count)]
            for position, scene in enumerate(scenes(count, cls.name, split)):
                generator = random_generator(cls.name, split, position)
                save_jpeg(draw(generator, scene.things), folder / PICTURES / f"{ids[position]}.jpg")
                said = captions(generator, scene, CAPTIONS)
                lines += [f"{ids[position]}.jpg#{i}\t{sentence}\n" for i, sentence in enumerate(said)]
                if split == "train":
                    documents.append(said)
            listed = folder / "splits" / "mrnn" / f"{split}.txt"
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text("".join(f"{picture}.jpg\n" for picture in ids))
        (folder / TOKENS).write_text("".join(lines), encoding="utf-8")
        write_word_vectors(folder / MINIATURE_VECTORS, *word_vectors(documents, CaptionsSpec.words, 50))


def read_tokens(path: Path) -> dict[str, dict[int, str]]:
    """The sentences of a `.token` file by picture id and number; a `DataError` names a bad line."""
    sentences: dict[str, dict[int, str]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        key, tab, sentence = line.partition("\t")
        picture, mark, place = key.partition("#")
        if not (tab and mark and place.isdigit() and picture.endswith(".jpg") and sentence.strip()):
            raise DataError(
                f"{path}, line {number}: {line[:60]!r} is not '<id>.jpg#<number>', a tab and a sentence; fetch "
                "the file again"
            )
        said = sentences.setdefault(picture.removesuffix(".jpg"), {})
        if int(place) in said:
            raise DataError(f"{path}, line {number}: sentence {key} stands twice; fetch the file again")
        said[int(place)] = sentence.strip()
    return sentences
