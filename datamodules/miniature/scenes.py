"""Small scenes with a class for every pixel, whose statistics are fixed to the place in the picture.

Upper half: smooth ground (a soft gradient) with a few thin objects, which only a fine map outlines.
Lower half: clutter, which belongs to the background: grain and short strokes in the colours of all objects and
bars that look like the thin objects of the upper half, so that a fine map is misled there. Large blobs lie
among it, told from the clutter by their texture over an area.

Five object classes: wire and ladder (thin; above), brick, dots and weave (blobs; below). A ring of void
surrounds each object, as in PASCAL VOC.
"""

from __future__ import annotations

import numpy as np

CLASSES = ("background", "wire", "ladder", "brick", "dots", "weave")
VOID = 255
SIZE = 64

_HUES = ((0.85, 0.30, 0.25), (0.25, 0.45, 0.85), (0.80, 0.50, 0.20), (0.35, 0.70, 0.35), (0.60, 0.35, 0.70))


def render_scene(generator: np.random.Generator, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """One scene: picture uint8 [size, size, 3] and labels uint8 [size, size] (255: void)."""
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float64)
    half = size // 2
    picture = _ground(generator, rows, columns)
    picture = np.where((rows >= half)[..., None], _clutter(generator, size), picture)
    for _ in range(generator.integers(1, 4)):
        mask, colours = _bar(generator, rows, columns, int(generator.integers(1, 3)), (half, size))
        picture[mask] = colours[mask]
    labels = np.zeros((size, size), dtype=np.uint8)
    for _ in range(generator.integers(1, 4)):
        kind = int(generator.integers(1, 3))
        _paint(picture, labels, *_bar(generator, rows, columns, kind, (0, half)), kind)
    for _ in range(generator.integers(1, 3)):
        kind = int(generator.integers(3, 6))
        _paint(picture, labels, *_blob(generator, rows, columns, kind, half), kind)
    picture = picture + generator.normal(0.0, 0.02, picture.shape)
    return (picture.clip(0.0, 1.0) * 255).round().astype(np.uint8), labels


def _ground(generator: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    size = rows.shape[0]
    angle = generator.uniform(0, 2 * np.pi)
    ramp = (np.cos(angle) * rows + np.sin(angle) * columns) / size
    return generator.uniform(0.45, 0.75, 3) + 0.15 * ramp[..., None]


def _clutter(generator: np.random.Generator, size: int) -> np.ndarray:
    """Grain and short strokes in the objects' colours, without any object, [size, size, 3]."""
    grain = generator.normal(0.0, 0.10, (size // 2, size // 2, 3)).repeat(2, 0).repeat(2, 1)
    picture = generator.uniform(0.35, 0.60, 3) + grain
    for _ in range(generator.integers(25, 40)):
        top, left = generator.integers(size // 2, size - 2), generator.integers(0, size - 2)
        long, thick = generator.integers(4, 11), generator.integers(2, 4)
        height, width = (long, thick) if generator.random() < 0.5 else (thick, long)
        colour = _tint(generator, int(generator.integers(1, 6)))
        picture[top : top + height, left : left + width] = colour
    return picture


def _bar(
    generator: np.random.Generator, rows: np.ndarray, columns: np.ndarray, kind: int, band: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A bar, 4 to 6 px wide, between the rows of `band`: plain (wire) or with rungs (ladder); mask, colours."""
    size = rows.shape[0]
    width = generator.uniform(4.0, 6.0)
    angle = generator.uniform(0, np.pi)
    centre = generator.uniform(band[0] + 6, band[1] - 6), generator.uniform(10, size - 10)
    down, right = rows - centre[0], columns - centre[1]
    along = down * np.sin(angle) + right * np.cos(angle)
    across = down * np.cos(angle) - right * np.sin(angle)
    length = generator.uniform(12, 24)
    mask = (np.abs(across) < width / 2) & (np.abs(along) < length)
    mask &= (rows >= band[0]) & (rows < band[1] - 2)
    colour = np.broadcast_to(_tint(generator, int(generator.integers(1, 3))), (size, size, 3))
    if kind == 2:
        rungs = np.floor(along / 2.0).astype(int) % 2 == 0
        colour = np.where(rungs[..., None], colour, 0.15)
    return mask, colour


def _blob(
    generator: np.random.Generator, rows: np.ndarray, columns: np.ndarray, kind: int, half: int
) -> tuple[np.ndarray, np.ndarray]:
    """A textured ellipse, 18 to 28 px across, inside the lower half; mask and colours."""
    size = rows.shape[0]
    radii = generator.uniform(9, 13, 2)
    centre = generator.uniform(half + 12, size - 8), generator.uniform(10, size - 10)
    mask = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 < 1
    mask &= rows > half + 1
    tint, dark = _tint(generator, kind), 0.25
    y, x = rows.astype(int) + generator.integers(0, 8), columns.astype(int) + generator.integers(0, 8)
    if kind == 3:  # bricks: courses of 4 px, joints shifted by half a brick
        pattern = (y % 4 == 0) | ((x + 4 * ((y // 4) % 2)) % 8 == 0)
    elif kind == 4:  # dots of 2 px on a grid of 4
        pattern = (y % 4 < 2) & (x % 4 < 2)
    else:  # weave: a checkerboard of 3 px
        pattern = ((y // 3) + (x // 3)) % 2 == 0
    return mask, np.where(pattern[..., None], dark, tint)


def _paint(picture: np.ndarray, labels: np.ndarray, mask: np.ndarray, colours: np.ndarray, kind: int) -> None:
    """Put an object on top of what is there, with a void ring of 1 px on the outside of its outline."""
    ring = mask.copy()
    ring[1:] |= mask[:-1]
    ring[:-1] |= mask[1:]
    ring[:, 1:] |= mask[:, :-1]
    ring[:, :-1] |= mask[:, 1:]
    picture[mask] = colours[mask]
    labels[ring] = VOID
    labels[mask] = kind


def _tint(generator: np.random.Generator, kind: int) -> np.ndarray:
    return np.array(_HUES[kind - 1]) + generator.normal(0.0, 0.05, 3)
