"""Miniature pictures with annotated contours, in the formats of BSDS500, PASCAL-Context and NYUD v2.

A scene has 3 to 6 objects on a ground. Objects differ from the ground in *hue*, and that makes a boundary. What
does not count is mostly a change of *brightness*, with a little colour, sharp and of several scales:

* the lower half of every picture is textured (stripes, checks; period 3 to 6 pixels), and nobody annotates it;
* coarser patches of stripes and checks (period 7 to 12) lie on the upper half's smooth ground;
* most objects carry stripes, checks or spots of their own (period 3 to 8);
* shadows with sharp borders fall over all of it.

Five annotators draw each scene: each shifts each object's outline by up to one pixel in both directions and
leaves objects out, one in twenty of the clear ones and half of the weak ones (little difference in hue), which
is what a vote of three is for.

Measured on the 20 test scenes of the BSDS miniature, thresholds as quantiles: Canny's ODS is .35, .37, .39, .40, .39
at sigma 1, 1.5, 2, 2.5, 3, so .40 at its best; in the middle of its sweep it has 860 false positives a picture at
sigma 1 and 175 at sigma 3, which is to these pictures what 9 is to full-size ones. Gradient magnitude reaches .42, the
surrogate of Structured Edges .62, one annotator against the other four about .82.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.ndimage import gaussian_filter

from datamodules.base import random_generator

ANNOTATORS = 5
SIZES = ((64, 96), (96, 64))
"""(height, width), in turn."""

TINT = 2.0
"""How much colour a pattern of brightness brings with it, in units of an object's."""

Style = Literal["outdoor", "context", "indoor"]


def tolerance(max_distance: float) -> float:
    """The miniature's matching tolerance for a benchmark's: 7/3 of it.

    .0075 of a BSDS picture's diagonal is 4.3 pixels, but .87 of a miniature's, less than annotators' own spread.
    With 7/3 it is 2.0 pixels, twice that spread, as in the full-size data.
    """
    return max_distance * 7 / 3


def render_scene(
    generator: np.random.Generator, height: int, width: int, style: Style = "outdoor"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture uint8 [H, W, 3], its objects' full masks bool [K, H, W], back to front, and which are weak, bool [K].

    "context" has other textures (waves and spots) and clear objects only; "indoor" has a warm, darker light.
    """
    rows, columns = np.mgrid[:height, :width].astype(float)
    patterns = ("waves", "spots") if style == "context" else ("stripes", "checks")
    hue = generator.random()
    chroma = np.broadcast_to(_chroma(hue), (height, width, 3)).copy()
    brightness = generator.uniform(0.45, 0.6) + 0.12 * _slope(generator, rows, columns)

    texture = _pattern(generator, rows, columns, patterns, (3, 6)) * generator.uniform(0.12, 0.22)
    texture = np.where(rows >= height // 2, texture, 0)
    brightness += texture
    chroma += TINT * texture[..., None] * _chroma(generator.random())
    for _ in range(generator.integers(1, 3)):
        patch = _blob(generator, rows, columns, (0.2, 0.8), (0.1, 0.4), (9, 14))
        fade = gaussian_filter((patch > 0.5).astype(float), 2.0)
        brightness += (
            fade * _pattern(generator, rows, columns, patterns, (7, 12)) * generator.uniform(0.06, 0.14)
        )

    masks, weak = [], []
    count = int(generator.integers(3, 7))
    cells = generator.permutation(6)[:count]
    for cell in cells:
        across = ((cell % 3 + 0.5) / 3, (cell // 3 + 0.5) / 2)
        if height > width:
            across = across[::-1]
        spread = 0.08
        alpha = _blob(
            generator,
            rows,
            columns,
            (across[0] - spread, across[0] + spread),
            (across[1] - spread, across[1] + spread),
            (8, 16),
        )
        faint = style != "context" and generator.random() < 0.3
        turn = generator.uniform(0.08, 0.12) if faint else generator.uniform(0.25, 0.5)
        colour = _chroma(hue + turn * generator.choice([-1, 1]))
        inside = generator.uniform(0.4, 0.65) + 0.08 * _slope(generator, rows, columns)
        if generator.random() < 0.6:
            marks = (*patterns, "spots" if style != "context" else "stripes")
            marking = _pattern(generator, rows, columns, marks, (3, 8)) * generator.uniform(0.06, 0.16)
            inside = inside + marking
            colour = colour + TINT * marking[..., None] * _chroma(generator.random())
        chroma += alpha[..., None] * (colour - chroma)
        # Half the step in brightness that the object would have: its outline is mostly one of hue.
        brightness += alpha * (0.5 * (inside + brightness.mean()) - brightness)
        masks.append(alpha > 0.5)
        weak.append(faint)

    for _ in range(generator.integers(1, 3)):
        angle, offset = generator.uniform(0, np.pi), generator.uniform(-0.25, 0.25)
        side = (columns / width - 0.5) * np.cos(angle) + (rows / height - 0.5) * np.sin(angle) - offset
        shadow = np.clip(0.5 - (np.abs(side) - generator.uniform(0.06, 0.12)) * max(height, width), 0, 1)
        brightness *= 1 - shadow * generator.uniform(0.25, 0.45)

    picture = brightness[..., None] + chroma
    picture += generator.normal(0, 0.015, picture.shape)
    if style == "indoor":
        picture = np.clip(picture, 0, 1) ** 1.25 * np.array([1.0, 0.88, 0.7])
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), np.stack(masks), np.array(weak)


def label_map(masks: np.ndarray) -> np.ndarray:
    """Masks bool [K, H, W], back to front -> uint16 [H, W] of 1 (ground) and 2 .. K+1."""
    labels = np.ones(masks.shape[1:], np.uint16)
    for number, mask in enumerate(masks, start=2):
        labels[mask] = number
    return labels


def boundaries(labels: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour has another label: [H, W] -> 0/1 uint8 [H, W]."""
    edges = np.zeros(labels.shape, np.uint8)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def annotate(generator: np.random.Generator, masks: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """One annotator's segmentation: uint16 [H, W]; objects shifted by up to a pixel, or left out."""
    dropped = generator.random(len(masks)) < np.where(weak, 0.5, 0.05)
    if dropped.all():
        dropped[-1] = False
    shifts = generator.choice([-1, 0, 1], (len(masks), 2), p=[0.15, 0.7, 0.15])
    drawn = [
        _shifted(mask, *shift) for mask, shift, drop in zip(masks, shifts, dropped, strict=True) if not drop
    ]
    return label_map(np.stack(drawn))


def render_bsds(folder: Path) -> None:
    """`images` and `groundTruth` of BSDS500: 60 training, 20 validation and 20 test scenes."""
    for split, count in (("train", 60), ("val", 20), ("test", 20)):
        _render_annotated(folder, split, count, "outdoor")


def render_nyud(folder: Path) -> None:
    """`images` and `groundTruth` of ten test scenes in another light."""
    _render_annotated(folder, "test", 10, "indoor")


def render_context(pictures: Path, truths: Path, count: int = 140) -> None:
    """Pictures and MAT files with a `LabelMap` of whole objects, as in PASCAL-Context."""
    pictures.mkdir(parents=True, exist_ok=True)
    truths.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        generator = random_generator("contours", "context", index)
        picture, masks, _ = render_scene(generator, *SIZES[index % 2], "context")
        identity = f"2010_{index + 1:06d}"
        _save_picture(pictures / f"{identity}.jpg", picture)
        _save_mat(truths / f"{identity}.mat", {"LabelMap": label_map(masks)})


def _render_annotated(folder: Path, split: str, count: int, style: Style) -> None:
    for kind in ("images", "groundTruth"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    first = {"train": 100000, "val": 200000, "test": 300000}[split]
    for index in range(count):
        generator = random_generator("contours", style, split, index)
        picture, masks, weak = render_scene(generator, *SIZES[index % 2], style)
        cell = np.empty((1, ANNOTATORS), object)
        for annotator in range(ANNOTATORS):
            labels = annotate(generator, masks, weak)
            cell[0, annotator] = {"Segmentation": labels, "Boundaries": boundaries(labels)}
        _save_picture(folder / "images" / split / f"{first + index}.jpg", picture)
        _save_mat(folder / "groundTruth" / split / f"{first + index}.mat", {"groundTruth": cell})


def _chroma(hue: float) -> np.ndarray:
    """A colour of zero brightness (weights .299, .587, .114), [3]."""
    angles = 2 * np.pi * (hue + np.array([0, 1, 2]) / 3)
    colour = 0.1 * np.cos(angles)
    return colour - colour @ np.array([0.299, 0.587, 0.114])


def _slope(generator: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A smooth ramp in [-1, 1] in any direction."""
    angle = generator.uniform(0, 2 * np.pi)
    return (columns / columns.max() - 0.5) * np.cos(angle) + (rows / rows.max() - 0.5) * np.sin(angle)


def _pattern(
    generator: np.random.Generator,
    rows: np.ndarray,
    columns: np.ndarray,
    kinds: tuple[str, ...],
    period: tuple[float, float],
) -> np.ndarray:
    """A pattern of -1 and 1 (waves: between them) at any angle; `period` in pixels."""
    kind, length = generator.choice(kinds), generator.uniform(*period)
    angle, phase = generator.uniform(0, np.pi), generator.uniform(0, 2 * np.pi, 2)
    along = 2 * np.pi / length * (columns * np.cos(angle) + rows * np.sin(angle)) + phase[0]
    athwart = 2 * np.pi / length * (rows * np.cos(angle) - columns * np.sin(angle)) + phase[1]
    if kind == "stripes":
        return np.sign(np.sin(along))
    if kind == "checks":
        return np.sign(np.sin(along) * np.sin(athwart))
    if kind == "waves":
        return np.sin(along + 1.5 * np.sin(athwart / 2))
    return np.where(np.cos(along) + np.cos(athwart) > 0.8, 1.0, -1.0)


def _blob(
    generator: np.random.Generator,
    rows: np.ndarray,
    columns: np.ndarray,
    across: tuple[float, float],
    down: tuple[float, float],
    radius: tuple[float, float],
) -> np.ndarray:
    """A soft-edged shape with its centre at a share (across, down) of the picture: opacity [H, W]."""
    x = columns - generator.uniform(*across) * columns.shape[1]
    y = rows - generator.uniform(*down) * rows.shape[0]
    angle, aspect, size = generator.uniform(0, np.pi), generator.uniform(0.6, 1.0), generator.uniform(*radius)
    u, v = x * np.cos(angle) + y * np.sin(angle), (y * np.cos(angle) - x * np.sin(angle)) / aspect
    reach, bearing = np.hypot(u, v), np.arctan2(v, u)
    kind = generator.integers(4)
    if kind == 0:  # ellipse
        outline = np.full_like(reach, size)
    elif kind == 1:  # box with rounded corners
        outline = size * 0.9 / (np.abs(np.cos(bearing)) ** 8 + np.abs(np.sin(bearing)) ** 8) ** 0.125
    elif kind == 2:  # lobed
        outline = size * (1 + 0.22 * np.cos(generator.integers(3, 6) * bearing))
    else:  # triangle
        sector = np.mod(bearing, 2 * np.pi / 3) - np.pi / 3
        outline = size * 0.62 / np.cos(sector)
    return np.clip(0.5 - (reach - outline) * np.sqrt(aspect), 0, 1)


def _shifted(mask: np.ndarray, down: int, right: int) -> np.ndarray:
    height, width = mask.shape
    return np.pad(mask, 1)[1 - down : 1 - down + height, 1 - right : 1 - right + width]


def _save_picture(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(path, quality=95, subsampling=0)


def _save_mat(path: Path, content: dict[str, np.ndarray]) -> None:
    """A MAT file whose header carries no date, so that the same content has the same bytes."""
    buffer = io.BytesIO()
    savemat(buffer, content, do_compression=True)
    header = b"MATLAB 5.0 MAT-file, miniature".ljust(116)
    path.write_bytes(header + buffer.getvalue()[116:])
