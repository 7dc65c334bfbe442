"""Optimisers whose learning rate falls along half a cosine wave over the whole training, step by step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

Optimiser = Literal["sgd", "adam"]


def cosine_optimiser(
    parameters: Iterable[nn.Parameter],
    steps: int,
    *,
    optimiser: Optimiser,
    lr: float,
    final_lr: float,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
) -> dict[str, Any]:
    """SGD with momentum, or Adam, from `lr` to `final_lr` in `steps` steps, as `configure_optimizers` returns it."""
    if optimiser not in ("sgd", "adam"):
        raise ValueError(f"optimiser {optimiser!r} is none of sgd, adam")
    chosen: torch.optim.Optimizer
    if optimiser == "adam":
        chosen = torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)
    else:
        chosen = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(chosen, max(1, steps), eta_min=final_lr)
    return {"optimizer": chosen, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
