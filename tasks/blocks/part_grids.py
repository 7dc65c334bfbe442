"""From people's clicks on parts to where a network's local features could see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Window(NamedTuple):
    """The geometry of a convolution or pooling layer."""

    kernel: int
    stride: int
    padding: int


def click_masks(clicks: Tensor, size: tuple[int, int], side: float = 10.0) -> Tensor:
    """Squares around all clicks on a visible part, joined: [B, P, W, 3] (x, y, visible) -> bool [B, P, H, W].

    side: of the square in pixels. The pixel of row r and column c, with its centre at (c + 1/2, r + 1/2), is in the
    square of a click at x, y if both distances are at most half the side (Sylvain et al., ICLR 2020, appendix A.6).
    """
    height, width = size
    rows = torch.arange(height, device=clicks.device) + 0.5
    columns = torch.arange(width, device=clicks.device) + 0.5
    visible = clicks[..., 2] > 0
    across = ((columns - clicks[..., :1]).abs() <= side / 2) & visible[..., None]  # [B, P, W, width]
    down = (rows - clicks[..., 1:2]).abs() <= side / 2  # [B, P, W, height]
    # A pixel is covered by some click's rows and the same click's columns: a sum over clicks of an outer product.
    return torch.einsum("bpkh,bpkw->bphw", down.float(), across.float()) > 0


def project(mask: Tensor, windows: Sequence[Window]) -> Tensor:
    """A mask as a network's map sees it: true where the receptive field meets it; bool [B, P, H, W] -> [B, P, h, w].

    windows: of the layers up to the map, in order. Each is a max-pool with the layer's kernel, stride and padding.
    """
    grid = mask.float()
    for kernel, stride, padding in windows:
        grid = F.max_pool2d(grid, kernel, stride, padding)
    return grid > 0


def receptive_field(windows: Sequence[Window]) -> tuple[int, int]:
    """Side of the receptive field of one place of the map, and the step between neighbours, in pixels."""
    side, step = 1, 1
    for kernel, stride, _ in windows:
        side += (kernel - 1) * step
        step *= stride
    return side, step
