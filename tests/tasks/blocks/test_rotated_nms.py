"""Suppression of oriented boxes: by hand, and against a loop over all pairs."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.blocks.rotated_nms import rotated_nms
from tasks.metrics.rotated_iou import bev_iou


def test_by_hand() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0, 0, 4, 2, 1, 0],
            [0.0, 0, 0, 4, 2, 1, math.pi / 2],  # a cross over the first: IoU 4 / 12
            [3.9, 0, 5, 4, 2, 1, 0],  # IoU 0.2 / 15.8 with the first
            [50.0, 0, 0, 4, 2, 1, 0],
        ]
    )
    score = torch.tensor([0.9, 0.8, 0.7, 0.95])
    assert rotated_nms(boxes, score, 0.2, 10).tolist() == [3, 0, 2]
    assert rotated_nms(boxes, score, 0.4, 10).tolist() == [3, 0, 1, 2]
    assert rotated_nms(boxes, score, 0.01, 10).tolist() == [3, 0]
    assert rotated_nms(boxes, score, 0.2, 2).tolist() == [3, 0]
    assert rotated_nms(boxes[:0], score[:0], 0.2, 10).tolist() == []


@pytest.mark.parametrize("threshold", [0.01, 0.3])
def test_like_a_loop_over_pairs(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([20.0, 20, 1, 3, 2, 1, 6])
    boxes = torch.rand(120, 7, generator=generator) * spread + torch.tensor([0.0, 0, 0, 1, 0.5, 1, 0])
    score = torch.rand(120, generator=generator)
    score[40:60] = 0.5  # equal ones in their own order
    overlap = bev_iou(boxes[:, None], boxes[None])
    kept: list[int] = []
    for k in score.argsort(descending=True, stable=True).tolist():
        if all(float(overlap[k, other]) <= threshold for other in kept):
            kept.append(k)
    assert rotated_nms(boxes, score, threshold, 1000).tolist() == kept
    assert 5 < len(kept) < 120
