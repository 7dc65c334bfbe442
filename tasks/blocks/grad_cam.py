"""Grad-CAM of a classifier on a feature map, and the box of what it lights up (Selvaraju et al., ICCV 2017).

a_k = mean over pixels of d y_c / d V_k,   map = [ sum_k a_k V_k ]_+
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F


def grad_cam(features: Tensor, classifier: Callable[[Tensor], Tensor], classes: Tensor) -> Tensor:
    """The Grad-CAM of one class a picture, also from within inference mode.

    features: V [N, K, h, w]; classifier: V -> logits [N, C], without batch statistics; classes: int64 [N].
    -> float32 [N, h, w], not negative.
    """
    with torch.inference_mode(False), torch.enable_grad():
        features = features.detach().clone().requires_grad_()
        scores = classifier(features).gather(1, classes.clone()[:, None]).sum()
        (gradient,) = torch.autograd.grad(scores, features)
    weight = gradient.float().mean((2, 3), keepdim=True)
    return (weight * features.detach().float()).sum(1).clamp(min=0)


def largest_boxes(cam: Tensor, size: tuple[int, int], threshold: float = 0.2) -> Tensor:
    """The box of the largest connected region above a share of each map's maximum.

    cam: [N, h, w], enlarged bilinearly to `size`, (height, width) in pixels. -> float32 [N, 4], x1, y1, x2, y2 in
    those pixels; the whole picture where a map is zero.
    """
    enlarged = F.interpolate(cam[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]
    peak = enlarged.amax((1, 2), keepdim=True)
    lit = ((enlarged >= threshold * peak) & (peak > 0)).cpu().numpy()
    return torch.stack([_largest_box(mask) for mask in lit]).to(cam.device)


def _largest_box(mask: np.ndarray) -> Tensor:
    regions, count = ndimage.label(mask)
    if count == 0:
        return torch.tensor([0, 0, mask.shape[1], mask.shape[0]], dtype=torch.float32)
    sizes = np.bincount(regions.ravel())[1:]
    rows, columns = ndimage.find_objects(regions)[int(sizes.argmax())]
    return torch.tensor([columns.start, rows.start, columns.stop, rows.stop], dtype=torch.float32)
