"""Learning rates a layer, as in the network definition that was released with HED (Xie and Tu, ICCV 2015).

Multiples of the base rate: 1 for conv1 to conv4, 100 for conv5, 0.01 for the side outputs' 1x1 convolutions,
0.001 for the fusion; biases learn at twice their layer's rate and do not decay.
"""

from __future__ import annotations

from typing import Any

from torch import nn

CONV5, SIDE, FUSION = 100.0, 0.01, 0.001


def multiplied_groups(
    trunk: nn.Module, side_outputs: nn.Module, fusion: nn.Module, *, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser, one for each multiplier and kind, each parameter once.

    Layers of the trunk whose name holds `conv5_` learn fastest. Vectors of normalisation layers do not decay.
    """
    named = [
        (CONV5 if "conv5_" in name else 1.0, name, parameter) for name, parameter in trunk.named_parameters()
    ]
    named += [(SIDE, name, parameter) for name, parameter in side_outputs.named_parameters()]
    named += [(FUSION, name, parameter) for name, parameter in fusion.named_parameters()]
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for multiplier, name, parameter in named:
        rate = learning_rate * multiplier * (2.0 if name.endswith("bias") else 1.0)
        decays = parameter.ndim > 1 and not name.endswith("bias")
        group = groups.setdefault(
            (rate, decays),
            {"params": [], "lr": rate, "weight_decay": weight_decay if decays else 0.0},
        )
        group["params"].append(parameter)
    return list(groups.values())
