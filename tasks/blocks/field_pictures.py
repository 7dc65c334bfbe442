"""Pictures of warping fields: where each target position of a feature map is read from (VTN, Figs. 1, 5 and 7)."""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

SIDE = 160
COLUMNS = 4


def draw_fields(image: Tensor, field: Tensor, columns: int = COLUMNS) -> np.ndarray:
    """One row a picture: the picture, then the source positions of up to `columns` groups as dots on it.

    image: [N, 3, H, W] in [0, 1]; field: [N, C, h, w, 2], (x, y) in pixels of the map. A dot's colour says which
    target position it is read for: hue by direction from the middle, paler towards it. Groups are spread evenly over
    the C there are. -> uint8 [rows, columns, 3].
    """
    groups = torch.linspace(0, field.shape[1] - 1, min(columns, field.shape[1])).round().long().tolist()
    rows = [
        np.concatenate([_tile(picture), *(_dotted(picture, own[group]) for group in groups)], axis=1)
        for picture, own in zip(image, field, strict=True)
    ]
    return np.concatenate(rows)


def _tile(picture: Tensor) -> np.ndarray:
    pixels = (picture.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _dotted(picture: Tensor, field: Tensor) -> np.ndarray:
    """field: [h, w, 2] -> the picture, faded, with a dot at each source position."""
    height, width = field.shape[:2]
    faded = Image.fromarray((_tile(picture) * 0.45 + 140).astype(np.uint8))
    pen = ImageDraw.Draw(faded)
    for row in range(height):
        for column in range(width):
            dx, dy = field[row, column].tolist()
            x, y = (column + dx + 0.5) / width * SIDE, (row + dy + 0.5) / height * SIDE
            pen.ellipse([x - 2.5, y - 2.5, x + 2.5, y + 2.5], fill=_colour(row, column, height, width))
    return np.asarray(faded)


def _colour(row: int, column: int, height: int, width: int) -> tuple[int, int, int]:
    down, across = 2 * (row + 0.5) / height - 1, 2 * (column + 0.5) / width - 1
    hue = (np.arctan2(down, across) / (2 * np.pi)) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, min(1.0, float(np.hypot(down, across))), 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)
