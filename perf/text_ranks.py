"""Ranks of image-text retrieval on MSCOCO's 5,000 pictures and 25,000 captions against a sort for each query."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from perf.ratio import Ratio, alternate
from tasks.metrics.text_ranks import retrieval_ranks

PICTURES, CAPTIONS, WIDTH = 5_000, 5, 512
LOOPED = 100
"""Queries of each direction that the loop is timed on; its time grows with them."""


def embeddings() -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows of pictures [N, D] and captions [M, D], and the captions' pictures."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.arange(PICTURES).repeat_interleave(CAPTIONS)
    image = F.normalize(torch.randn(PICTURES, WIDTH, generator=generator), dim=1)
    noise = F.normalize(torch.randn(len(owner), WIDTH, generator=generator), dim=1)
    return image, F.normalize(image[owner] + 8 * noise, dim=1), owner


def fast(image: Tensor, text: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """All ranks of both directions."""
    return retrieval_ranks(lambda q: image[q] @ text.T, lambda q: text[q] @ image.T, owner, len(image))


def obvious(
    image: Tensor, text: Tensor, owner: Tensor, to_text: int, to_image: int
) -> tuple[list[int], list[int]]:
    """The ranks of the first so many queries of each direction: one product, one sort and one search each."""
    of_pictures, of_captions = [], []
    for picture in range(to_text):
        order = (text @ image[picture]).argsort(descending=True)
        of_pictures.append(1 + int((owner[order] == picture).nonzero()[0]))
    for caption in range(to_image):
        order = (image @ text[caption]).argsort(descending=True)
        of_captions.append(1 + int((order == owner[caption]).nonzero()[0]))
    return of_pictures, of_captions


def measure() -> list[Ratio]:
    """Both directions; the ranks that both find must agree."""
    image, text, owner = embeddings()
    queries = {"text": LOOPED, "image": LOOPED * CAPTIONS}
    ranks = fast(image, text, owner)
    looped = obvious(image, text, owner, queries["text"], queries["image"])
    for found, expected in zip(ranks, looped, strict=True):
        if (found[: len(expected)] != torch.tensor(expected)).double().mean() > 0.02:  # ties within rounding
            raise RuntimeError("the two implementations disagree")
    best = alternate(
        {
            "fast": lambda: fast(image, text, owner),
            "obvious": lambda: obvious(image, text, owner, queries["text"], queries["image"]),
        },
        rounds=1,
    )
    return [
        Ratio(
            f"ranks both ways, {PICTURES} pictures, {len(owner)} captions",
            "product, sort and search per query",
            best["fast"],
            best["obvious"] * PICTURES / LOOPED,
            f"the loop timed on one query of {PICTURES // LOOPED}",
        )
    ]
