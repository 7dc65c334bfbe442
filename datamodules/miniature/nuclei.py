"""Small pictures of stained tissue with nuclei of four types.

Haematoxylin makes nuclei violet, eosin the ground pink; both are amounts of stain that vary from picture to picture,
and the light goes through them. Epithelial nuclei are large, oval and pale with a darker rim, fibroblasts long and
thin, inflammatory ones small, round and dark, others of any size with ragged texture. Turn, size and darkness vary, so
that a single nucleus is not always told apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.color.colorconv import rgb_from_hed

SIZE = 160
MARGIN = 8
REACH = 12
"""Pixels around a centre in which its nucleus is drawn."""


@dataclass(frozen=True)
class Kind:
    """Half axes in pixels and amount of haematoxylin, each (least, most); rim: how much darker the border is."""

    long: tuple[float, float]
    short: tuple[float, float]
    stain: tuple[float, float]
    rim: float = 0.0
    grain: float = 0.1


KINDS = {
    "epithelial": Kind((6.5, 9.0), (4.5, 6.0), (0.35, 0.6), rim=0.35),
    "fibroblast": Kind((6.0, 9.5), (1.6, 2.6), (0.6, 1.0)),
    "inflammatory": Kind((3.2, 4.4), (2.9, 3.9), (0.9, 1.3)),
    "others": Kind((4.0, 8.0), (3.0, 5.0), (0.45, 1.0), grain=0.45),
}


def draw_tissue(
    *, epithelial: bool, random: np.random.Generator
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float64]]]:
    """A picture uint8 [SIZE, SIZE, 3] and the centres of its nuclei by type, (x, y) in pixels from 1.

    epithelial: whether there are such nuclei, a tenth to two thirds of all.
    """
    count = int(random.integers(6, 41))
    places = _scattered(count, random)
    names = random.choice(["fibroblast", "inflammatory", "others"], len(places))
    if epithelial:
        some = max(1, round(random.uniform(0.1, 0.66) * len(places)))
        names[:some] = "epithelial"  # places are in random order
    violet = 0.12 + 0.08 * _cloud(random, 3)
    pink = 0.35 + 0.3 * _cloud(random, 5)
    centres: dict[str, list[list[float]]] = {}
    for (x, y), name in zip(places, names.tolist(), strict=True):
        rows = slice(y - REACH if y > REACH else 0, y + REACH + 1)
        columns = slice(x - REACH if x > REACH else 0, x + REACH + 1)
        body, stain = _nucleus(KINDS[name], x, y, rows, columns, random)
        violet[rows, columns] = violet[rows, columns] * (1 - body) + stain * body
        pink[rows, columns] *= 1 - 0.6 * body
        centres.setdefault(name, []).append([x + 1.0, y + 1.0])
    amounts = np.stack(
        [violet * random.uniform(0.8, 1.25), pink * random.uniform(0.8, 1.25), 0 * pink], axis=-1
    )
    light = np.exp(-2.0 * amounts @ rgb_from_hed) + random.normal(0, 0.02, (SIZE, SIZE, 3))
    picture = np.round(np.clip(light, 0, 1) * 255).astype(np.uint8)
    return picture, {name: np.array(found) for name, found in centres.items()}


def _nucleus(
    kind: Kind, x: int, y: int, rows: slice, columns: slice, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much of each pixel of the window is nucleus, in [0, 1], and its stain there."""
    down, right = np.mgrid[rows.start : min(rows.stop, SIZE), columns.start : min(columns.stop, SIZE)]
    turn = random.uniform(0, np.pi)
    along = (right - x) * np.cos(turn) + (down - y) * np.sin(turn)
    across = (down - y) * np.cos(turn) - (right - x) * np.sin(turn)
    long, short = random.uniform(*kind.long), random.uniform(*kind.short)
    radius = np.hypot(along / long, across / short)
    body = np.clip((1 - radius) * short + 0.5, 0, 1)
    grain = gaussian_filter(random.normal(0, 1, radius.shape), 1.0) * 3.0
    stain = random.uniform(*kind.stain) + kind.rim * np.clip(radius, 0, 1) ** 4 + kind.grain * grain * 0.5
    return body, np.clip(stain, 0.05, None)


def _scattered(count: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """Places (x, y) at least a nucleus apart, up to `count` of them."""
    kept: list[tuple[int, int]] = []
    for x, y in random.integers(MARGIN, SIZE - MARGIN, (20 * count, 2)).tolist():
        if len(kept) == count:
            break
        if all((x - a) ** 2 + (y - b) ** 2 >= 15**2 for a, b in kept):
            kept.append((x, y))
    return kept


def _cloud(random: np.random.Generator, blur: float) -> NDArray[np.float64]:
    """A smooth random field in about [-1, 1], [SIZE, SIZE]."""
    field = gaussian_filter(random.normal(0, 1, (SIZE, SIZE)), blur)
    return field / (np.abs(field).max() + 1e-9)
