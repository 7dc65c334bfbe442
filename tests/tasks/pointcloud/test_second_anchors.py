"""SECOND's anchors, coding, matching and losses by hand, and matching against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tasks.metrics.rotated_iou import rectangle_iou
from tasks.pointcloud.second_anchors import (
    BACKGROUND,
    IGNORED,
    anchor_grid,
    decode,
    detection_losses,
    directed,
    direction_bin,
    encode,
    focal_loss,
    match_anchors,
    nearest_rectangles,
    residual_loss,
)

MEAN = ((3.9, 1.6, 1.56, -1.78), (0.8, 0.6, 1.73, -0.6))


def test_anchors_stand_from_border_to_border() -> None:
    anchors = anchor_grid((0, -40, -3, 70.4, 40, 1), (3, 5), MEAN)
    assert anchors.shape == (5, 3, 2, 2, 7)
    assert anchors[0, :, 0, 0, 0].tolist() == pytest.approx([0, 35.2, 70.4])
    assert anchors[:, 0, 0, 0, 1].tolist() == [-40, -20, 0, 20, 40]
    assert anchors[2, 1, 0, 1].tolist() == pytest.approx([35.2, 0, -1, 3.9, 1.6, 1.56, math.pi / 2])
    assert float(anchors[0, 0, 1, 0, 2]) == pytest.approx(-0.6 + 0.865)


def test_coding_by_hand_and_back() -> None:
    anchor = torch.tensor([10.0, 0, -1, 4, 3, 2, 0])  # its diagonal is 5
    box = torch.tensor([12.5, -5, 0, 8, 3, 1, 0.3])
    code = encode(box, anchor)
    assert code.tolist() == pytest.approx([0.5, -1, 0.5, math.log(2), 0, -math.log(2), 0.3])
    torch.testing.assert_close(decode(code, anchor), box)
    assert torch.isfinite(decode(torch.full((7,), 200.0), anchor)).all()


def test_directions_by_hand() -> None:
    yaw = torch.tensor([0.0, math.pi / 2, math.pi, -math.pi / 2, -3.0, 0.78, 0.79])
    half = direction_bin(yaw)
    assert half.tolist() == [1, 0, 0, 1, 0, 1, 0]
    torch.testing.assert_close(torch.cos(directed(yaw + math.pi, half)), yaw.cos(), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.sin(directed(yaw + math.pi, half)), yaw.sin(), atol=1e-5, rtol=0)
    torch.testing.assert_close(directed(yaw, 1 - half).cos(), -yaw.cos(), atol=1e-5, rtol=0)
    many = directed(torch.linspace(-20, 20, 999), torch.arange(999) % 2)
    assert many.abs().max() <= math.pi + 1e-5


def test_rectangles_turn_to_the_nearer_axis() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 4, 2, 1, yaw] for yaw in (0.0, 0.7, 0.9, math.pi / 2, 3.0, -1.5)])
    wide = (nearest_rectangles(boxes)[:, 2] == 2.0).tolist()
    assert wide == [True, True, False, False, True, False]
    assert nearest_rectangles(boxes)[2].tolist() == [-1, -2, 1, 2]


def looped(
    anchors: Tensor,
    boxes: Tensor,
    label: Tensor,
    scan: Tensor,
    scans: int,
    matched: Tensor,
    unmatched: Tensor,
) -> Tensor:
    answer = torch.full((scans, *anchors.shape[:2]), BACKGROUND)
    for b in range(scans):
        for c in range(len(anchors)):
            own = [m for m in range(len(boxes)) if scan[m] == b and label[m] == c]
            overlap = [
                rectangle_iou(nearest_rectangles(anchors[c]), nearest_rectangles(boxes[m])).tolist()
                for m in own
            ]
            for a in range(anchors.shape[1]):
                column = [row[a] for row in overlap]
                if not column:
                    continue
                best = max(column)
                forced = any(row[a] == max(row) > 0 for row in overlap)
                if forced or best >= float(matched[c]):
                    answer[b, c, a] = own[column.index(best)]
                elif best >= float(unmatched[c]):
                    answer[b, c, a] = IGNORED
    return answer


def test_matching_like_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = anchor_grid((0, -8, -3, 16, 8, 1), (17, 17), MEAN).permute(2, 0, 1, 3, 4).reshape(2, -1, 7)
    boxes = torch.rand(14, 7, generator=generator) * torch.tensor([16, 16, 0.1, 1, 0.6, 1, 6])
    boxes = boxes + torch.tensor([0, -8, -1, 3.4, 1.3, 1, -3])
    label = torch.tensor([0, 1] * 7)
    boxes[label == 1, 3:5] = torch.tensor([0.8, 0.6])
    boxes[3] = boxes[1] + torch.tensor([0.2, 0.1, 0, 0, 0, 0, 0])  # rivals
    boxes[13, 0] = 400.0  # out of all anchors' reach
    scan = torch.tensor([0] * 9 + [2] * 5)
    levels = torch.tensor([0.6, 0.5]), torch.tensor([0.45, 0.35])
    got = match_anchors(anchors, boxes, label, scan, 3, *levels)
    assert got.dtype == torch.int64
    assert torch.equal(got, looped(anchors, boxes, label, scan, 3, *levels))
    assert (got[1] == BACKGROUND).all()
    assert (got == IGNORED).any()
    present = set(got[got >= 0].tolist())
    assert {0, 2, 4, 6, 8, 10, 12} <= present
    assert 13 not in present
    nothing = match_anchors(anchors, boxes[:0], label[:0], scan[:0], 2, *levels)
    assert (nothing == BACKGROUND).all()
    assert nothing.shape == (2, 2, anchors.shape[1])


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([0.0, math.log(3), math.log(3)])  # probabilities 1/2, 3/4, 3/4
    loss = focal_loss(logits, torch.tensor([1.0, 1.0, 0.0]))
    expected = [0.25 * 0.25 * math.log(2), 0.25 / 16 * math.log(4 / 3), 0.75 * 9 / 16 * math.log(4)]
    assert loss.tolist() == pytest.approx(expected)


def test_residual_loss_by_hand() -> None:
    target = torch.zeros(2, 7)
    predicted = torch.tensor([[1.0, 0, 0, 0, 0, 0, math.pi], [1 / 18, 0, 0, 0, 0, 0, math.pi / 2]])
    # Linear beyond 1/9, quadratic below; the yaw by its sine.
    expected = [1 - 1 / 18, 9 / 2 / 18**2 + 1 - 1 / 18]
    assert residual_loss(predicted, target).tolist() == pytest.approx(expected, abs=1e-6)


def test_losses_by_hand() -> None:
    """Two scans: one with a positive, an ignored and a background anchor, one with background only."""
    anchors = torch.tensor([[0.0, 0, 0, 4, 3, 2, 0]]).repeat(3, 1)
    boxes, label = torch.tensor([[0.0, 0, 0, 4, 3, 2, 0.0]]), torch.tensor([1])
    assigned = torch.tensor([[0, IGNORED, BACKGROUND], [BACKGROUND] * 3])
    logits, residuals = torch.zeros(2, 3, 2), torch.zeros(2, 3, 7)
    residuals[0, 0, 0] = 1.0
    residuals[0, 1:] = 100.0
    directions = torch.zeros(2, 3, 2)
    losses = detection_losses(logits, residuals, directions, anchors, assigned, boxes, label)
    positive, negative = 0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)
    assert losses.classes.item() == pytest.approx((positive + 3 * negative + 6 * negative) / 2)
    assert losses.boxes.item() == pytest.approx((1 - 1 / 18) / 2)
    assert losses.direction.item() == pytest.approx(math.log(2) / 2)
    logits.requires_grad_()
    empty = detection_losses(
        logits, residuals, directions, anchors, torch.full((2, 3), BACKGROUND), boxes[:0], label[:0]
    )
    assert empty.boxes.item() == empty.direction.item() == 0.0
    empty.classes.backward()
    assert (logits.grad > 0).all()
