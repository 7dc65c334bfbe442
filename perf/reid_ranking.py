"""mAP and CMC of 3,000 queries in a gallery of 15,000 against a loop over the queries."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perf.ratio import Ratio, alternate
from tasks.metrics.reid import ranked

QUERIES, GALLERY, PERSONS, CAMERAS, WIDTH = 3_000, 15_000, 750, 6, 256
LOOPED = 300
"""Queries that the loop is timed on; its time grows with them."""


def features() -> tuple[Tensor, Tensor, Tensor]:
    """Features float [N, D] of noisy persons, their persons (0: distractor, -1: junk) and cameras; queries first."""
    generator = torch.Generator().manual_seed(0)
    count = QUERIES + GALLERY
    person = torch.randint(-1, PERSONS, (count,), generator=generator)
    person[:QUERIES] = 1 + torch.arange(QUERIES) % (PERSONS - 1)
    centre = torch.randn(PERSONS + 1, WIDTH, generator=generator)
    feature = centre[person] + 3 * torch.randn(count, WIDTH, generator=generator)
    return feature, person, torch.randint(CAMERAS, (count,), generator=generator)


def fast(feature: Tensor, person: Tensor, camera: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """Average precision and first right rank of the first so many queries."""
    ranks = ranked(
        lambda chunk: torch.cdist(feature[chunk], feature[QUERIES:]),
        person[:queries],
        camera[:queries],
        person[QUERIES:],
        camera[QUERIES:],
    )
    return ranks.average_precision, ranks.first


def obvious(
    feature: Tensor, person: Tensor, camera: Tensor, queries: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The same, a query at a time: distances, a sort of all of them, and the protocol's rules."""
    precision, first = np.zeros(queries), np.zeros(queries, np.int64)
    persons, cameras = person[QUERIES:].numpy(), camera[QUERIES:].numpy()
    for query in range(queries):
        order = torch.cdist(feature[query : query + 1], feature[QUERIES:])[0].numpy().argsort()
        mine, seen_by = int(person[query]), int(camera[query])
        kept = order[(persons[order] != -1) & ~((persons[order] == mine) & (cameras[order] == seen_by))]
        hits = np.flatnonzero(persons[kept] == mine)
        precision[query] = np.mean(np.arange(1, len(hits) + 1) / (hits + 1))
        first[query] = hits[0] + 1
    return precision, first


def measure() -> list[Ratio]:
    """The scores that both find must agree."""
    data = features()
    found, expected = fast(*data, LOOPED), obvious(*data, LOOPED)
    if (
        not np.allclose(found[0].numpy(), expected[0], atol=1e-3)
        or (found[1].numpy() != expected[1]).mean() > 0.01
    ):
        raise RuntimeError("the two implementations disagree on more than rounding explains")
    best = alternate(
        {"fast": lambda: fast(*data, QUERIES), "obvious": lambda: obvious(*data, LOOPED)}, rounds=1
    )
    return [
        Ratio(
            f"mAP and CMC, {QUERIES} queries, gallery of {GALLERY}",
            "distance, sort and search per query",
            best["fast"],
            best["obvious"] * QUERIES / LOOPED,
            f"the loop timed on one query of {QUERIES // LOOPED}",
        )
    ]
