"""SGD with momentum whose learning rate is divided by ten at given parts of the training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn


def stepped_sgd(
    parameters: Iterable[nn.Parameter],
    steps: int,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    drops: Sequence[float],
    warmup: float = 0.0,
) -> dict[str, Any]:
    """What `configure_optimizers` answers.

    steps: of the whole training. drops: parts of it, 0..1, after which the rate is a tenth of what it was.
    warmup: part of it in which the rate rises from zero.
    """
    if not all(0 < drop <= 1 for drop in drops) or not 0 <= warmup < 1:
        raise ValueError(f"drops and warmup are parts of the training, got {tuple(drops)} and {warmup}")
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)
    falls = [max(1, round(drop * steps)) for drop in drops]
    rise = round(warmup * steps)

    def share(step: int) -> float:
        return min(1.0, (step + 1) / (rise + 1)) * 0.1 ** sum(step >= fall for fall in falls)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
