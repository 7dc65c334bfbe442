"""The consistency loss of warped feature maps, and how its triplets are drawn (VTN, ECCV 2020, section 3.4).

    Eq. 3   L = sum_i ||V(i) - V'(i)||^2
    Eq. 4   L = sum_i [ ||V(i) - V'(i)||^2 - ||V(i) - V''(i)||^2 + alpha ]_+

V' is a picture of the same class, V'' of another; i runs over pixels, the norm over all channels, and the hinge is
taken at each pixel. How triplets are drawn is not in the paper: each picture of a batch is an anchor once, its
positive and its negative drawn at random from the batch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reduction = Literal["sum", "mean"]
ConsistencyForm = Literal["triplet", "square"]


class Triplets(NamedTuple):
    """Indices into a batch, int64 [T] each."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor


def draw_triplets(label: Tensor, generator: torch.Generator | None = None) -> Triplets:
    """One triplet for each picture that has another of its class and one of a different class in the batch.

    label: int64 [B]. generator: of the CPU; None: the global one. -> T <= B triplets, in the order of their anchors.
    """
    count = len(label)
    chance = torch.rand(2, count, count, generator=generator).to(label.device)
    same = label[:, None] == label[None, :]
    other = same & ~torch.eye(count, dtype=torch.bool, device=label.device)
    positive = chance[0].masked_fill(~other, -1.0).argmax(1)
    negative = chance[1].masked_fill(same, -1.0).argmax(1)
    anchor = (other.any(1) & ~same.all(1)).nonzero()[:, 0]
    return Triplets(anchor, positive[anchor], negative[anchor])


def consistency_loss(
    warped: Tensor,
    triplets: Triplets,
    *,
    alpha: float,
    reduction: Reduction = "sum",
    form: ConsistencyForm = "triplet",
) -> Tensor:
    """Eq. 4, or Eq. 3 with `form="square"`, averaged over the triplets; 0 where there are none.

    warped: V [B, K, H, W]. reduction: the sum over pixels, as the equations have it, or their mean. -> scalar,
    computed in float32.
    """
    with torch.autocast(warped.device.type, enabled=False):
        warped = warped.float()
        anchor = warped[triplets.anchor]
        terms = (anchor - warped[triplets.positive]).square().sum(1)
        if form == "triplet":
            terms = terms - (anchor - warped[triplets.negative]).square().sum(1) + alpha
            terms = terms.clamp(min=0)
        pixels = terms.sum((1, 2)) if reduction == "sum" else terms.mean((1, 2))
        return pixels.sum() / max(1, len(pixels))
