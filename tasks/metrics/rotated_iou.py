"""Overlap of upright boxes with a heading: areas seen from above, and 3D intersection over union.

A box is (x, y, z, length, width, height, yaw): its centre and full sizes in metres, yaw in radians from the
x axis towards the y axis. Boxes are compared pair by pair: leading axes broadcast, so `a[:, None], b[None]` is a
matrix. There is no loop over pairs.

The area of the intersection A of two convex polygons is half the integral of x dy - y dx along its border, which
is made of the parts of each polygon's sides that lie inside the other. Each side is clipped against the other
rectangle in that one's own axes (Liang and Barsky, 1984), and what is left of it adds its share; neither a list of
corners nor an order of them is needed. Sides that coincide are counted for the first box only, by a margin of
1e-9 of its size, for which areas are computed in double precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 1e-9


def corners(boxes: Tensor) -> Tensor:
    """The corners seen from above, anticlockwise: boxes [..., 7] -> [..., 4, 2]."""
    signs = boxes.new_tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    along, across = (boxes[..., None, 3:5] * signs).unbind(-1)
    cos, sin = boxes[..., 6, None].cos(), boxes[..., 6, None].sin()
    turned = torch.stack([cos * along - sin * across, sin * along + cos * across], dim=-1)
    return turned + boxes[..., None, :2]


def corners_3d(boxes: Tensor) -> Tensor:
    """The eight corners, the bottom four first: boxes [..., 7] -> [..., 8, 3]."""
    flat = corners(boxes)
    bottom = (boxes[..., 2] - boxes[..., 5] / 2)[..., None, None].expand(*flat.shape[:-1], 1)
    top = bottom + boxes[..., 5, None, None]
    return torch.cat([torch.cat([flat, bottom], dim=-1), torch.cat([flat, top], dim=-1)], dim=-2)


def bev_intersection(first: Tensor, second: Tensor) -> Tensor:
    """Area in m2 that two boxes share seen from above: [..., 7] and [..., 7], broadcast -> [...].

    Inverted and empty boxes (length or width not above 0) share nothing.
    """
    dtype = torch.promote_types(first.dtype, second.dtype)
    first, second = torch.broadcast_tensors(first.double(), second.double())
    cos, sin = second[..., 6, None].cos(), second[..., 6, None].sin()

    # Everything in the second box's axes, so that large coordinates cost no precision.
    x, y = (corners(first) - second[..., None, :2]).unbind(-1)
    inner = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)
    half = second[..., 3:5] / 2
    margin = MARGIN * first[..., 3:5].amax(dim=-1, keepdim=True)
    area = _sides_inside(inner, half + margin, inner)

    turn = first[..., 6] - second[..., 6]
    own = torch.zeros_like(second)
    own[..., 3:5] = second[..., 3:5]
    outer = corners(own)
    centre = inner.mean(dim=-2, keepdim=True)
    cos, sin = turn.cos()[..., None], turn.sin()[..., None]
    x, y = (outer - centre).unbind(-1)
    local = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1)
    area = area + _sides_inside(local, first[..., 3:5] / 2 - margin, outer)

    sizes = torch.minimum(first[..., 3:5], second[..., 3:5])
    largest = torch.minimum(first[..., 3:5].prod(-1), second[..., 3:5].prod(-1)).clamp(min=0)
    return torch.where((sizes > 0).all(dim=-1), area.clamp(min=0).minimum(largest), 0.0).to(dtype)


def _sides_inside(local: Tensor, half: Tensor, corner: Tensor) -> Tensor:
    """Half the integral of x dy - y dx along the parts of a rectangle's sides inside |x| <= half.

    local: [..., 4, 2] corners in the axes of the rectangle that clips; half: [..., 2] its half sizes;
    corner: [..., 4, 2] the same corners in the axes in which to integrate. -> [...]
    """
    way = local.roll(-1, dims=-2) - local
    # Where a side runs along an axis it is inside all along or nowhere: +-inf does that, 0 / 0 mustn't occur.
    tiny = torch.finfo(way.dtype).tiny ** 0.5
    slope = 1 / torch.where(way.abs() < tiny, tiny, way)
    one, other = ((sign * half[..., None, :] - local) * slope for sign in (-1, 1))
    enter = torch.minimum(one, other).amax(dim=-1).clamp(min=0, max=1)
    leave = torch.maximum(one, other).amin(dim=-1).clamp(min=0, max=1)
    ahead = corner.roll(-1, dims=-2) - corner
    # The cross product of the two ends of a stretch of p + t d is (t1 - t0) times that of p and d.
    cross = corner[..., 0] * ahead[..., 1] - corner[..., 1] * ahead[..., 0]
    return ((leave - enter).clamp(min=0) * cross).sum(dim=-1) / 2


def bev_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union seen from above, [..., 7] and [..., 7], broadcast -> [...] in 0..1.

    >>> box = torch.tensor([0.0, 0, 0, 2, 2, 2, 0])
    >>> round(float(bev_iou(box, box + torch.tensor([1.0, 0, 0, 0, 0, 0, 0]))), 4)
    0.3333
    """
    shared = bev_intersection(first, second)
    return _ratio(shared, first[..., 3:5].prod(-1), second[..., 3:5].prod(-1))


def iou_3d(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of volumes, [..., 7] and [..., 7], broadcast -> [...] in 0..1."""
    top = torch.minimum(first[..., 2] + first[..., 5] / 2, second[..., 2] + second[..., 5] / 2)
    bottom = torch.maximum(first[..., 2] - first[..., 5] / 2, second[..., 2] - second[..., 5] / 2)
    shared = bev_intersection(first, second) * (top - bottom).clamp(min=0)
    return _ratio(shared, first[..., 3:6].prod(-1), second[..., 3:6].prod(-1))


def rectangle_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of upright rectangles (left, top, right, bottom), broadcast -> [...] in 0..1."""
    shared = rectangle_intersection(first, second)
    sizes = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (first, second)]
    return _ratio(shared, *sizes)


def rectangle_intersection(first: Tensor, second: Tensor) -> Tensor:
    """Area that upright rectangles (left, top, right, bottom) share, broadcast -> [...]."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    return (high - low).clamp(min=0).prod(-1)


def _ratio(shared: Tensor, first: Tensor, second: Tensor) -> Tensor:
    union = first.clamp(min=0) + second.clamp(min=0) - shared
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)
