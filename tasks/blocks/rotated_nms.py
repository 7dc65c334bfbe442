"""Non-maximum suppression of oriented boxes seen from above."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.metrics.rotated_iou import bev_iou


def rotated_nms(boxes: Tensor, score: Tensor, threshold: float, most: int) -> Tensor:
    """The boxes that no better one overlaps by more than `threshold`, best first: int64 [K], K <= most.

    boxes: [N, 7] (x, y, z, length, width, height, yaw); score: [N], equal ones in their own order; threshold: of the
    intersection over union seen from above. One pass a kept box over all that are left: no loop over pairs.

    >>> boxes = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0], [1, 0, 0, 4, 2, 2, 0], [9, 0, 0, 4, 2, 2, 0]])
    >>> rotated_nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.3, 10).tolist()
    [1, 2]
    """
    left = score.argsort(descending=True, stable=True)
    radius = boxes[:, 3:5].norm(dim=1) / 2
    kept = []
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(best)
        near = (boxes[left, :2] - boxes[best, :2]).norm(dim=1) < radius[left] + radius[best]
        rivals = left[near]
        stays = torch.ones_like(near)
        stays[near] = bev_iou(boxes[rivals], boxes[best]) <= threshold
        left = left[stays]
    return torch.stack(kept) if kept else left.new_zeros(0)
