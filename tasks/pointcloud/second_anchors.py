"""Anchors of SECOND: where they stand, which of them answers for which box, how boxes are coded, and the losses.

SECOND: Yan, Mao & Li, Sensors 2018, Secs. 3.2-3.3; numbers as in OpenPCDet's SECOND for KITTI. A box is (x, y, z,
length, width, height, yaw), its centre in metres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.metrics.rotated_iou import rectangle_iou

ROTATIONS = (0.0, math.pi / 2)
BACKGROUND, IGNORED = -1, -2
DIRECTION_OFFSET = math.pi / 4


def anchor_grid(
    point_range: Sequence[float], cells: tuple[int, int], mean_boxes: Sequence[Sequence[float]]
) -> Tensor:
    """Anchors float32 [rows, columns, C, 2, 7]: at each cell of the view from above, each class in two rotations.

    point_range: (x, y, z, x, y, z); cells: (columns along x, rows along y), spread from border to border as in the
    public code; mean_boxes: (length, width, height, bottom) a class.
    """
    columns, rows = cells
    x = torch.linspace(point_range[0], point_range[3], columns)
    y = torch.linspace(point_range[1], point_range[4], rows)
    boxes = torch.tensor(mean_boxes, dtype=torch.float32)
    anchors = torch.zeros(rows, columns, len(boxes), len(ROTATIONS), 7)
    anchors[..., 0] = x[None, :, None, None]
    anchors[..., 1] = y[:, None, None, None]
    anchors[..., 2] = (boxes[:, 3] + boxes[:, 2] / 2)[:, None]
    anchors[..., 3:6] = boxes[:, None, :3]
    anchors[..., 6] = torch.tensor(ROTATIONS)
    return anchors


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Residuals of boxes [..., 7] to their anchors [..., 7] (SECOND, Eq. 1): offsets in diagonals and heights, log
    ratios of sizes, difference of yaws."""
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    return torch.cat(
        [
            (boxes[..., :2] - anchors[..., :2]) / diagonal,
            (boxes[..., 2:3] - anchors[..., 2:3]) / anchors[..., 5:6],
            (boxes[..., 3:6] / anchors[..., 3:6]).log(),
            boxes[..., 6:] - anchors[..., 6:],
        ],
        dim=-1,
    )


def decode(residuals: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode`. Sizes are at most e^4 of the anchor's: an untrained net must not overflow."""
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    return torch.cat(
        [
            residuals[..., :2] * diagonal + anchors[..., :2],
            residuals[..., 2:3] * anchors[..., 5:6] + anchors[..., 2:3],
            residuals[..., 3:6].clamp(max=4.0).exp() * anchors[..., 3:6],
            residuals[..., 6:] + anchors[..., 6:],
        ],
        dim=-1,
    )


def direction_bin(yaw: Tensor) -> Tensor:
    """Which half turn a yaw lies in, int64 0 or 1; halves begin at 45 degrees, where few objects head."""
    return torch.remainder(yaw - DIRECTION_OFFSET, 2 * math.pi).div(math.pi).long().clamp(max=1)


def directed(yaw: Tensor, half: Tensor) -> Tensor:
    """The yaw that equals `yaw` up to half turns and lies in the given half [...], in (-pi, pi]."""
    turned = torch.remainder(yaw - DIRECTION_OFFSET, math.pi) + DIRECTION_OFFSET + math.pi * half
    return math.pi - torch.remainder(math.pi - turned, 2 * math.pi)


def nearest_rectangles(boxes: Tensor) -> Tensor:
    """Boxes [..., 7] seen from above, turned to the nearer axis: [..., 4] (low x, low y, high x, high y)."""
    folded = torch.remainder(boxes[..., 6] + math.pi / 2, math.pi) - math.pi / 2
    along = folded.abs() < math.pi / 4
    size = torch.where(along[..., None], boxes[..., 3:5], boxes[..., [4, 3]])
    return torch.cat([boxes[..., :2] - size / 2, boxes[..., :2] + size / 2], dim=-1)


def match_anchors(
    anchors: Tensor,
    boxes: Tensor,
    label: Tensor,
    scan: Tensor,
    scans: int,
    matched: Tensor,
    unmatched: Tensor,
) -> Tensor:
    """Which box each anchor answers for: int64 [scans, C, A], a row of `boxes`, BACKGROUND or IGNORED.

    anchors: [C, A, 7], those of each class; boxes: [M, 7] with label and scan [M]; matched, unmatched: [C]. Overlap is
    that of `nearest_rectangles`, with boxes of the anchor's own class. An anchor is positive from `matched` on, or
    where it is a box's best; below `unmatched` it is background.
    """
    classes, count = anchors.shape[:2]
    overlap = rectangle_iou(nearest_rectangles(anchors)[label], nearest_rectangles(boxes)[:, None])  # [M, A]
    group = (scan * classes + label)[:, None].expand(-1, count)
    best = overlap.new_zeros(scans * classes, count).scatter_reduce(0, group, overlap, "amax")
    row = torch.arange(len(boxes), device=boxes.device)[:, None]
    candidate = torch.where(overlap == best.gather(0, group), row, len(boxes))
    owner = candidate.new_full(best.shape, len(boxes)).scatter_reduce(0, group, candidate, "amin")
    peak = (overlap == overlap.amax(dim=1, keepdim=True)) & (overlap > 0)
    forced = candidate.new_zeros(best.shape).scatter_reduce(0, group, peak.long(), "amax") > 0
    level = matched.repeat(scans)[:, None], unmatched.repeat(scans)[:, None]
    answer = torch.where(best < level[1], BACKGROUND, IGNORED)
    answer = torch.where(forced | (best >= level[0]), owner, answer)
    return answer.view(scans, classes, count)


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017) of each element: logits and 0/1 targets, one shape -> that shape."""
    probability = logits.sigmoid()
    miss = target * (1 - probability) + (1 - target) * probability
    weight = target * alpha + (1 - target) * (1 - alpha)
    return weight * miss**gamma * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def residual_loss(predicted: Tensor, target: Tensor, beta: float = 1 / 9) -> Tensor:
    """Smooth L1 of residuals [P, 7], summed over them -> [P]; of yaws the sine of the difference (SECOND, Eq. 2)."""
    difference = predicted - target
    difference = torch.cat([difference[:, :6], difference[:, 6:].sin()], dim=1)
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), beta=beta, reduction="none").sum(1)


class Losses(NamedTuple):
    """Scalars, each the sum over anchors divided by the positive ones of its scan, averaged over scans."""

    classes: Tensor
    boxes: Tensor
    direction: Tensor


def detection_losses(
    logits: Tensor,
    residuals: Tensor,
    directions: Tensor,
    anchors: Tensor,
    assigned: Tensor,
    boxes: Tensor,
    label: Tensor,
) -> Losses:
    """The three losses of SECOND, in float32.

    logits: [B, A, C]; residuals: [B, A, 7]; directions: [B, A, 2]; anchors: [A, 7]; assigned: int64 [B, A] as from
    `match_anchors`; boxes: [M, 7]; label: [M]. Ignored anchors count nowhere, background in the first only.
    """
    logits, residuals, directions = logits.float(), residuals.float(), directions.float()
    scan, anchor = (assigned >= 0).nonzero(as_tuple=True)
    own = assigned[scan, anchor]
    share = 1 / (assigned >= 0).sum(dim=1).clamp(min=1).float() / len(assigned)
    target = torch.zeros_like(logits)
    target[scan, anchor, label[own]] = 1.0
    counted = (assigned != IGNORED).float() * share[:, None]
    weight = share[scan]
    code = encode(boxes[own], anchors[anchor])
    direction = F.cross_entropy(directions[scan, anchor], direction_bin(boxes[own][:, 6]), reduction="none")
    return Losses(
        (focal_loss(logits, target).sum(dim=2) * counted).sum(),
        (residual_loss(residuals[scan, anchor], code) * weight).sum(),
        (direction * weight).sum(),
    )
