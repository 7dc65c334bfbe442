"""Exact projections of binary shapes along any direction, from the corners of their pixel outline.

A shape is the union of its unit pixels; pixel (row i, column j) covers [j, j + 1] x [i, i + 1] in (x, y). Its
indicator is a sum of quadrants that open at lattice corners v, with the mixed second difference of the picture
as weight,

    f(x, y) = sum_v w_v H(x - x_v) H(y - y_v).

The chord of a quadrant at offset l of a line with unit normal (c, s) is (l - t_v)_+ / (c s), t_v = v . (c, s), and
the weights cancel whatever is infinite, so with a few hundred corners instead of all pixels

    R(l) = sum_v w_v (l - t_v)_+ / (c s),    area below l = sum_v w_v (l - t_v)_+^2 / (2 c s).

This is the exact Radon transform (every pixel's trapezoid footprint), without sampling of the picture. Along an
axis the limits are R(l) = -sum_v w_v y_v H(l - x_v) and its like. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

AXIS = 1e-9
"""A normal with a coordinate smaller than this lies along an axis."""
GROUP = 16384
"""Corners (padding included) of the shapes that are projected together; bounds the memory."""


class Corners:
    """The corners of B shapes, padded to the same number.

    position: float64 [B, V, 2], (x, y) in pixels from each picture's own middle; padding repeats a corner.
    weight: float64 [B, V], mixed second differences in -2..2; 0 where padded.
    """

    def __init__(self, position: Tensor, weight: Tensor) -> None:
        self.position, self.weight = position, weight

    @classmethod
    def of(cls, shapes: Sequence[Tensor]) -> Corners:
        """Binary pictures bool [H, W], of any sizes; a `ValueError` names one that is empty or no picture."""
        return _padded([_corners(shape) for shape in shapes])

    def moments(self, order: int) -> Tensor:
        """Integrals of x^p y^q over each shape, exact over the pixels' area: [B, order + 1, order + 1] by (p, q)."""
        power = torch.arange(1, order + 2, device=self.weight.device, dtype=torch.float64)
        x, y = (self.position[..., axis, None] ** power / power for axis in (0, 1))  # [B, V, order + 1]
        return torch.einsum("bv,bvp,bvq->bpq", self.weight, x, y)

    def centred(self) -> Corners:
        """The same shapes, each moved to its centroid and scaled to unit area."""
        area = self.moments(0)[:, 0, 0]
        moved = (self.position - self.centroid()[:, None]) / area.sqrt()[:, None, None]
        return Corners(moved, self.weight)

    def centroid(self) -> Tensor:
        """Centres of area, [B, 2] in the coordinates of `position`."""
        moments = self.moments(1)
        return torch.stack([moments[:, 1, 0], moments[:, 0, 1]], dim=1) / moments[:, :1, 0]


class Projections:
    """The projections of B shapes in A directions.

    angle: float64 [A] in radians, of the lines' normals.
    low, high: float64 [B, A], offsets of the supporting lines: the least and greatest x . theta of the shape.
    """

    def __init__(self, corners: Corners, angle: Tensor) -> None:
        cosine, sine = angle.cos()[:, None], angle.sin()[:, None]
        x, y = corners.position[:, None, :, 0], corners.position[:, None, :, 1]
        self._reach = x * cosine + y * sine  # [B, A, V]
        self.low, self.high = self._reach.amin(-1), self._reach.amax(-1)
        self._weight = corners.weight[:, None].repeat(1, len(angle), 1)
        along_x, along_y = sine.abs() < AXIS, cosine.abs() < AXIS
        self._axis = (along_x | along_y)[:, 0]
        for row in self._axis.nonzero()[:, 0].tolist():
            other, sign = (y, cosine) if along_x[row] else (x, sine)
            self._weight[:, row] *= -sign[row].sign() * other[:, 0]
        self._product = torch.where(self._axis[:, None], 1.0, cosine * sine)  # [A, 1]

    def chords(self, offset: Tensor, strip: float = 0.0) -> Tensor:
        """Lengths of the shapes along lines, in pixels: offset [B, A, Q] of the lines -> [B, A, Q].

        strip: average over lines this far around the offset (the area of a strip of this width, divided by
        it); 0: the line itself.
        """
        if strip:
            below, above = self.areas(torch.cat([offset - strip / 2, offset + strip / 2], dim=-1)).chunk(
                2, dim=-1
            )
            return ((above - below) / strip).clamp(min=0)
        return self._below(offset, order=1).clamp(min=0)

    def areas(self, offset: Tensor) -> Tensor:
        """Areas of the shapes below lines, in pixels: offset [B, A, Q] of the lines -> [B, A, Q]."""
        return self._below(offset, order=2)

    def _below(self, offset: Tensor, order: int) -> Tensor:
        """sum_v w_v (l - t_v)_+^order / (order c s), along an axis one order less: [B, A, Q] -> [B, A, Q]."""
        line, place = offset.sort(dim=-1)
        first = torch.searchsorted(line, self._reach)  # the first line that a corner counts for
        shape = (*line.shape[:-1], line.shape[-1] + 1)
        sums, term = [], self._weight
        for power in range(order + 1):
            term = term * self._reach if power else term
            total = torch.zeros(shape, dtype=torch.float64, device=line.device)
            sums.append(total.scatter_add_(-1, first, term).cumsum(-1)[..., :-1])
        linear = line * sums[0] - sums[1]
        if order == 2:
            square = line * linear - line * sums[1] + sums[2]
            value = torch.where(self._axis[:, None], linear, square / (2 * self._product))
        else:
            value = torch.where(self._axis[:, None], sums[0], linear / self._product)
        return torch.empty_like(value).scatter_(-1, place, value)


def grouped(shapes: Sequence[Tensor], limit: int = GROUP) -> Iterator[tuple[list[int], Corners]]:
    """Shapes with about as many corners together, so that padding stays small: their places and corners."""
    found = [_corners(shape) for shape in shapes]
    order = sorted(range(len(found)), key=lambda index: len(found[index][1]))
    group: list[int] = []
    for index in order:
        if group and (len(group) + 1) * len(found[index][1]) > limit:
            yield group, _padded([found[i] for i in group])
            group = []
        group.append(index)
    if group:
        yield group, _padded([found[i] for i in group])


def _padded(found: Sequence[tuple[Tensor, Tensor]]) -> Corners:
    positions, weights = zip(*found, strict=True)
    first = torch.stack([position[0] for position in positions])[:, None]
    # Padding is zero: shifted by a corner of its own shape, it lies inside the shape's extent.
    moved = pad_sequence([position - position[0] for position in positions], batch_first=True)
    return Corners(moved + first, pad_sequence(list(weights), batch_first=True))


def _corners(shape: Tensor) -> tuple[Tensor, Tensor]:
    """bool [H, W] -> positions [V, 2] from the picture's middle, weights [V], both float64."""
    if shape.ndim != 2 or shape.dtype != torch.bool:
        raise ValueError(f"a shape must be bool [H, W], got {shape.dtype} {tuple(shape.shape)}")
    padded = F.pad(shape.to(torch.int8), (1, 1, 1, 1))
    across = padded[:, 1:] - padded[:, :-1]
    weight = across[1:] - across[:-1]  # [H + 1, W + 1]
    place = weight.nonzero()
    if not len(place):
        raise ValueError(f"a shape of {shape.shape[1]} x {shape.shape[0]} pixels is empty")
    middle = torch.tensor([shape.shape[1] / 2, shape.shape[0] / 2], dtype=torch.float64, device=shape.device)
    return place.flip(1).double() - middle, weight[place[:, 0], place[:, 1]].double()
