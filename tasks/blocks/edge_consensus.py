"""The common target of several annotators' edge maps, as edge detectors are trained on it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.blocks.edge_losses import RELAXED


def consensus(
    edges: Tensor,
    annotators: Tensor,
    *,
    votes: int = 3,
    dilate: bool = True,
    low_consensus: Literal["negative", "ignore"] = "negative",
) -> Tensor:
    """The common target G of annotators' maps: uint8 [B, A, H, W], [B] -> int64 [B, 1, H, W] of 0, 1 and 2.

    An edge is where at least `votes` annotators (or all, where there are fewer) marked one, after a 3x3
    dilation if asked. With "ignore", marks of fewer than `votes` become label 2, as in HED's released code.
    """
    present = torch.arange(edges.shape[1], device=edges.device) < annotators[:, None]
    marks = ((edges > 0) & present[:, :, None, None]).sum(1, keepdim=True)
    needed = annotators.clamp(min=1, max=votes).view(-1, 1, 1, 1)
    positive = marks >= needed
    if dilate:
        positive = F.max_pool2d(positive.float(), 3, stride=1, padding=1) > 0
    target = positive.long()
    if low_consensus == "ignore":
        target.masked_fill_((marks > 0) & ~positive, RELAXED)
    return target
