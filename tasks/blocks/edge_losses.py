"""Class-balanced cross-entropy of edge maps, with a third label that counts nowhere.

* Xie and Tu, "Holistically-Nested Edge Detection", ICCV 2015, eq. 2: weights from each picture's own balance.
* Liu and Lew, "Learning Relaxed Deep Supervision for Better Edge Detection", CVPR 2016, eq. 3.4 of the thesis
  chapter: fixed weights, and label 2 ("relaxed") with neither loss nor gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

NEGATIVE, POSITIVE, RELAXED = 0, 1, 2


def balanced_cross_entropy(
    logits: Tensor,
    target: Tensor,
    positive_weight: float | Tensor,
    negative_weight: float | Tensor,
    reduction: Literal["sum", "mean", "none"] = "sum",
) -> Tensor:
    """-w+ log sigmoid(x) where the label is 1, -w- log(1 - sigmoid(x)) where it is 0, exactly 0 where 2.

    logits: any shape; taken to float32. target: the same shape, labels 0, 1 and 2.
    positive_weight, negative_weight: numbers, or tensors that broadcast against the logits.
    reduction: "mean" divides by all pixels, relaxed ones too, so that it is the sum times a constant.
    Returns a scalar, or for "none" the loss a pixel. The gradient at label 2 is 0 even for infinite logits.
    """
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
    relaxed, positive = target == RELAXED, target == POSITIVE
    # Fill before the sigmoid: multiplying by 0 afterwards would turn an infinite logit into NaN.
    x = logits.float().masked_fill(relaxed, 0.0)
    weight = torch.where(positive, _like(x, positive_weight), _like(x, negative_weight))
    loss = weight.masked_fill(relaxed, 0.0) * F.softplus(torch.where(positive, -x, x))
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def image_balance(target: Tensor) -> tuple[Tensor, Tensor]:
    """HED's weights of each map: (beta, 1 - beta) with beta = |Y-| / |Y| over labels 0 and 1.

    target [B, K, H, W] -> positive, negative weights [B, K, 1, 1]. A map without counted pixels gets (1, 0).
    """
    negative = (target == NEGATIVE).sum((-2, -1), keepdim=True).float()
    positive = (target == POSITIVE).sum((-2, -1), keepdim=True).float()
    counted = negative + positive
    beta = torch.where(counted > 0, negative / counted.clamp(min=1), 1.0)
    return beta, 1 - beta


def _like(x: Tensor, weight: float | Tensor) -> Tensor:
    return torch.as_tensor(weight, dtype=x.dtype, device=x.device)
