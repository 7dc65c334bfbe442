"""Grad-CAM of a linear classifier by hand, and boxes of regions."""

from __future__ import annotations

import torch
from torch import nn

from tasks.blocks.grad_cam import grad_cam, largest_boxes
from tasks.blocks.second_order_pooling import PooledClassifier


def test_of_global_average_pooling_it_is_the_weighted_sum() -> None:
    torch.manual_seed(0)
    head, features = PooledClassifier(3, 4), torch.rand(2, 3, 4, 5)
    classes = torch.tensor([1, 3])
    expected = torch.einsum("nk,nkhw->nhw", head.linear.weight[classes] / 20, features).clamp(min=0)
    torch.testing.assert_close(grad_cam(features, head, classes), expected.detach())


def test_it_works_in_inference_mode_and_leaves_no_gradients() -> None:
    head = PooledClassifier(3, 2, "bp")
    with torch.inference_mode():
        cam = grad_cam(torch.rand(1, 3, 4, 4), head, torch.tensor([1]))
    assert cam.shape == (1, 4, 4)
    assert all(parameter.grad is None for parameter in head.parameters())
    assert isinstance(head, nn.Module)


def test_the_box_of_the_largest_region() -> None:
    cam = torch.zeros(3, 8, 8)
    cam[0, 1:3, 1:3] = 1.0  # small and bright
    cam[0, 4:8, 3:8] = 0.5  # large
    cam[1, 2, 5] = 1.0
    cam[1, 0, 0] = 0.1  # below 20 %
    boxes = largest_boxes(cam, (8, 8))
    assert boxes[0].tolist() == [3, 4, 8, 8]
    assert boxes[1].tolist() == [5, 2, 6, 3]
    assert boxes[2].tolist() == [0, 0, 8, 8]  # nothing is lit


def test_boxes_are_in_pixels_of_the_picture() -> None:
    cam = torch.zeros(1, 4, 4)
    cam[0, 1:3, 1:3] = 1.0
    x1, y1, x2, y2 = largest_boxes(cam, (32, 16), threshold=0.5)[0].tolist()
    assert (x1 + x2) / 2 == 8
    assert (y1 + y2) / 2 == 16
    assert 6 <= x2 - x1 <= 10
