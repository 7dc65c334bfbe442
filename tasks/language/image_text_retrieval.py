"""Image-text retrieval: for a picture all captions, and for a caption all pictures, in the order of their match.

Batch (a sample is one picture with some of its captions: in training with one, in validation and test with all)
    image_id     list of B strings: what tells pictures apart; in training several samples may show the same
    path         list of B strings: the picture's file
    image        float32 [B, 3, H, W], RGB in [0, 1]; only where the dataset is asked for pixels and sizes agree
    captions     list of B lists of strings
    caption_ids  list of B lists of strings
    id           list of B strings
Prediction (M: all captions of the batch, picture by picture)
    image  float [B, D], as the method makes it: the judge brings it to unit length
    text   float [M, D], likewise
    owner  int64 [M]: the position in the batch of each caption's picture

The judge gathers both over the split and compares every picture with every caption by cosine similarity. A
method with its own `compare` is asked instead: queries `{"image": [Q, D]}` against `{"text": [M, E]}`, and queries
`{"text": [Q, E]}` against `{"image": [N, D]}`, always the whole gallery but some of the queries at a time. It gets the
vectors as it predicted them; the two lengths may then differ.

Measures (ranks in tasks/metrics/text_ranks.py: ties count against the method)
    rsum                             sum of the six recalls, 0 to 600
    r1                               mean of i2t_r1 and t2i_r1
    i2t_r1, i2t_r5, i2t_r10          share of pictures, in %, with at least one of their captions among the first K
    t2i_r1, t2i_r5, t2i_r10          share of captions, in %, whose picture is among the first K
    i2t_median, t2i_median           median rank of the best right answer
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import CaptionsSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.text_ranks import (
    PairedEmbeddings,
    first_right_rank,
    key_of,
    median_rank,
    recall_at,
    retrieval_ranks,
)

CUTS = (1, 5, 10)
LISTED = 5
QUERIES = 4
WIDTH, THUMBNAIL, LINE = 900, 120, 22
GREEN, RED, BLACK, GREY = (0, 130, 0), (190, 0, 0), (20, 20, 20), (120, 120, 120)

Answer = tuple[int, bool]
"""Position in the gallery, and whether it is a right one."""


def caption_owners(batch: Batch) -> Tensor:
    """The prediction's `owner` for a batch: int64 [M], on the CPU."""
    counts = torch.tensor([len(captions) for captions in batch["captions"]])
    return torch.arange(len(counts)).repeat_interleave(counts)


def check_captions(spec: Spec) -> CaptionsSpec:
    """The spec, if it is one of captioned pictures."""
    if not isinstance(spec, CaptionsSpec):
        raise TypeError(f"image-text retrieval needs a CaptionsSpec, not {type(spec).__name__}")
    return spec


class TextRetrievalJudge(Judge):
    """Gathers embeddings over the split and ranks both ways when asked."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = PairedEmbeddings()
        self._ranks: tuple[Tensor, Tensor] | None = None
        self._paths: dict[int, str] = {}
        self._sentences: dict[int, str] = {}

    def update(self, prediction: Prediction, batch: Batch) -> None:
        missing = [key for key in ("image", "text", "owner") if key not in prediction]
        if missing:
            raise ValueError(f"the prediction lacks {', '.join(missing)}; it holds {', '.join(prediction)}")
        owner, expected = prediction["owner"].long(), caption_owners(batch)
        if not torch.equal(owner.cpu(), expected):
            raise ValueError(
                f"owner must name each caption's picture, picture by picture: expected {expected.tolist()}, "
                f"got {owner.tolist()}"
            )
        caption_ids = [name for names in batch["caption_ids"] for name in names]
        self.embeddings.update(prediction["image"], prediction["text"], owner, batch["image_id"], caption_ids)
        sentences = [sentence for captions in batch["captions"] for sentence in captions]
        self._paths.update(zip(map(key_of, batch["image_id"]), batch["path"], strict=True))
        self._sentences.update(zip(map(key_of, caption_ids), sentences, strict=True))

    def compute(self) -> dict[str, float]:
        image, text, owner, _, _ = self.embeddings.compute()
        ranks = self._ranks = retrieval_ranks(
            lambda asking: self._similarity({"image": image[asking]}, {"text": text}),
            lambda asking: self._similarity({"text": text[asking]}, {"image": image}),
            owner,
            len(image),
        )
        scores: dict[str, float] = {}
        for direction, ranking in zip(("i2t", "t2i"), ranks, strict=True):
            scores |= {f"{direction}_r{k}": recall_at(ranking, k) for k in CUTS}
        scores["rsum"] = sum(scores.values())
        scores["r1"] = (scores["i2t_r1"] + scores["t2i_r1"]) / 2
        scores["i2t_median"], scores["t2i_median"] = (median_rank(ranking) for ranking in ranks)
        return scores

    def figures(self) -> dict[str, np.ndarray]:
        """Ranked lists of a few queries each way, the same queries for all methods, and recall over K."""
        if self._ranks is None:
            return {}
        image, text, owner, image_keys, text_keys = self.embeddings.compute()
        asking = owner[: 50 * QUERIES].unique()[:QUERIES]
        captions = torch.arange(min(QUERIES, len(text)), device=text.device)
        paths = [self._paths.get(key, "") for key in image_keys.tolist()]
        sentences = [self._sentences.get(key, "(in another process)") for key in text_keys.tolist()]
        to_text = self._similarity({"image": image[asking]}, {"text": text})
        to_image = self._similarity({"text": text[captions]}, {"image": image})
        texts = _answers(to_text, owner[None] == asking[:, None])
        images = _answers(to_image, torch.arange(len(image), device=owner.device) == owner[captions, None])
        return {
            "image_to_text": _stack(
                _caption_list(paths[query], sentences, found, rank)
                for query, (found, rank) in zip(asking.tolist(), texts, strict=True)
            ),
            "text_to_image": _stack(
                _picture_list(sentences[query], paths, found, rank)
                for query, (found, rank) in zip(captions.tolist(), images, strict=True)
            ),
            "recall": _recall_curves(*self._ranks),
        }

    def reset(self) -> None:
        super().reset()
        self._ranks = None
        self._paths.clear()
        self._sentences.clear()

    def _similarity(self, queries: Prediction, gallery: Prediction) -> Tensor:
        """[Q, G], larger is nearer: the method's own comparison, or cosine."""
        (asked,), (searched,) = queries.values(), gallery.values()
        distance = None if self.compare is None else self.compare(queries, gallery)
        if distance is None:
            if asked.shape[1] != searched.shape[1]:
                raise ValueError(
                    f"pictures and captions are embedded in {asked.shape[1]} and {searched.shape[1]} numbers: a "
                    "method without a `compare` of its own makes them equal"
                )
            return F.normalize(asked, dim=1) @ F.normalize(searched, dim=1).T
        if distance.shape != (len(asked), len(searched)):
            raise ValueError(
                f"compare must return distances {(len(asked), len(searched))}, not {tuple(distance.shape)}"
            )
        return -distance


class ImageTextRetrieval(Task):
    """See the module's docstring for batch, prediction and measures."""

    name: ClassVar[str] = "image-text-retrieval"
    family: ClassVar[str] = "language"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("rsum", True, decimals=1),
        Measure("r1", True, "%", decimals=1),
        *(Measure(f"{direction}_r{k}", True, "%", decimals=1) for direction in ("i2t", "t2i") for k in CUTS),
        Measure("i2t_median", False, decimals=1),
        Measure("t2i_median", False, decimals=1),
    )

    @classmethod
    def judge(cls, spec: Spec) -> TextRetrievalJudge:
        check_captions(spec)
        return TextRetrievalJudge()

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """A picture and the captions of its batch that come first for it, its own in green. By cosine also for a
        method that compares otherwise, as long as its two vectors are of one length."""
        image, text = (prediction[key].detach().float().cpu() for key in ("image", "text"))
        if image.shape[1] != text.shape[1]:
            return []
        owner = prediction["owner"].cpu()
        rows = torch.arange(min(limit, len(image)))
        rows = rows[torch.isin(rows, owner)]
        similarity = F.normalize(image[rows], dim=1) @ F.normalize(text, dim=1).T
        sentences = [sentence for captions in batch["captions"] for sentence in captions]
        answers = _answers(similarity, owner[None] == rows[:, None])
        return [
            np.asarray(_caption_list(batch["path"][row], sentences, found, rank))
            for row, (found, rank) in zip(rows.tolist(), answers, strict=True)
        ]


def _answers(similarity: Tensor, right: Tensor) -> list[tuple[list[Answer], int]]:
    """The first answers to each query and the rank of the best right one; similarity and right: [Q, G]."""
    listed = []
    for row, mine in zip(similarity, right, strict=True):
        first = row.topk(min(LISTED, len(row))).indices
        answers = list(zip(first.tolist(), mine[first].tolist(), strict=True))
        listed.append((answers, int(first_right_rank(row[None], mine.nonzero()[:, 0][None]))))
    return listed


def _font(size: int = 15) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _shortened(sentence: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The sentence, cut to so many pixels."""
    if font.getlength(sentence) <= width:
        return sentence
    while sentence and font.getlength(sentence + "...") > width:
        sentence = sentence[:-1]
    return sentence + "..."


def _thumbnail(path: str) -> Image.Image:
    """The picture at `path`, whole, on a grey square; a plain one for a picture of another process."""
    square = Image.new("RGB", (THUMBNAIL, THUMBNAIL), (225, 225, 225))
    if path:
        with Image.open(path) as file:
            picture = file.convert("RGB")
        scale = THUMBNAIL / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height))
        square.paste(picture, ((THUMBNAIL - picture.width) // 2, (THUMBNAIL - picture.height) // 2))
    return square


def _caption_list(path: str, sentences: Sequence[str], answers: Sequence[Answer], rank: int) -> Image.Image:
    """A picture, and beside it the captions that come first, its own in green."""
    font = _font()
    sheet = Image.new("RGB", (WIDTH, max(THUMBNAIL + 10, LINE * (len(answers) + 1) + 8)), "white")
    sheet.paste(_thumbnail(path), (5, 5))
    draw, left = ImageDraw.Draw(sheet), THUMBNAIL + 20
    draw.text((left, 3), f"first own caption: rank {rank} of {len(sentences)}", GREY, font)
    for place, (index, right) in enumerate(answers, start=1):
        line = _shortened(f"{place}  {sentences[index]}", font, WIDTH - left - 10)
        draw.text((left, 3 + LINE * place), line, GREEN if right else BLACK, font)
    return sheet


def _picture_list(sentence: str, paths: Sequence[str], answers: Sequence[Answer], rank: int) -> Image.Image:
    """A caption, and under it the pictures that come first, its own in a green frame."""
    font, side = _font(), THUMBNAIL + 12
    sheet = Image.new("RGB", (WIDTH, side + LINE + 12), "white")
    draw = ImageDraw.Draw(sheet)
    verdict = f"its picture: rank {rank} of {len(paths)}"
    reserved = round(font.getlength(verdict)) + 30
    draw.text((5, 3), _shortened(sentence, font, WIDTH - reserved), BLACK, font)
    draw.text((WIDTH - reserved + 20, 3), verdict, GREY, font)
    for place, (index, right) in enumerate(answers):
        left = 5 + place * (side + 6)
        draw.rectangle((left, LINE + 5, left + side - 1, LINE + 4 + side), GREEN if right else RED)
        sheet.paste(_thumbnail(paths[index]), (left + 6, LINE + 11))
        draw.rectangle((left + 6, LINE + 11, left + 24, LINE + 29), "white")
        draw.text((left + 10, LINE + 11), str(place + 1), BLACK, font)
    return sheet


def _stack(sheets: object) -> np.ndarray:
    """Sheets of one width under one another, with a line between them: uint8 [H, W, 3]."""
    rows: list[np.ndarray] = []
    for sheet in sheets:  # type: ignore[attr-defined]
        rows += [np.asarray(sheet), np.full((2, WIDTH, 3), 200, np.uint8)]
    return np.concatenate(rows[:-1])


def _recall_curves(to_text: Tensor, to_image: Tensor, width: int = 640, height: int = 420) -> np.ndarray:
    """Share of queries answered among the first K, over K: uint8 [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    places = np.arange(1, 101)
    for ranks, label in ((to_text, "a picture asks captions"), (to_image, "a caption asks pictures")):
        found = np.searchsorted(np.sort(ranks.cpu().numpy()), places, side="right")
        axes.plot(places, 100 * found / len(ranks), label=label)
    axes.set(xscale="log", xlim=(1, 100), ylim=(0, 100), xlabel="first K answers", ylabel="answered in %")
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], labels=["1", "2", "5", "10", "20", "50", "100"])
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
