"""Batches of P identities with K pictures each, for losses that look for positives and negatives in the batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def identity_batches(
    label: NDArray[np.int64],
    identities: int,
    pictures: int,
    random: np.random.Generator,
    batches: int | None = None,
) -> list[list[int]]:
    """One epoch: so many batches, or as many as P x K goes into the labelled pictures, at least one.

    label: int [N], the identity of each picture, negative for those to leave out; identities, pictures: P and K.
    All identities come in turn, in a new order each time round. One with fewer than K pictures is sampled with
    replacement, one with a single picture is skipped. Where there are fewer than P, a batch holds all there are.
    -> indices into `label`, identity by identity. Raises `ValueError` where fewer than two identities are left.
    """
    if identities < 2 or pictures < 2:
        raise ValueError(
            f"a batch needs two identities and two pictures of each, got {identities} x {pictures}"
        )
    order = np.argsort(label, kind="stable")
    order = order[label[order] >= 0]
    members = np.split(order, np.nonzero(np.diff(label[order]))[0] + 1) if len(order) else []
    members = [indices for indices in members if len(indices) > 1]
    if len(members) < 2:
        raise ValueError(f"{len(members)} identities have two pictures; batches need two such identities")
    usable = sum(len(indices) for indices in members)
    here = min(identities, len(members))
    count = max(1, usable // (here * pictures) if batches is None else batches)
    rounds = -(-count * here // len(members)) + 1
    turns = np.concatenate([random.permutation(len(members)) for _ in range(rounds)])
    drawn = []
    for start in range(0, count * here, here):
        chosen = _distinct(turns[start:], here)
        drawn.append(
            [
                index
                for number in chosen
                for index in random.choice(
                    members[number], pictures, replace=len(members[number]) < pictures
                ).tolist()
            ]
        )
    return drawn


def _distinct(turns: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The first `count` different values: a batch that spans two rounds holds no identity twice."""
    _, first = np.unique(turns, return_index=True)
    return turns[np.sort(first)[:count]]
