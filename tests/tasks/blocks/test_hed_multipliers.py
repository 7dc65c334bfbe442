"""HED's layer-wise learning rates: each layer's group by name, each parameter exactly once."""

from __future__ import annotations

import pytest
from torch import nn

from tasks.blocks.hed_multipliers import multiplied_groups
from tasks.blocks.side_outputs import SideOutputs
from tasks.blocks.vgg import VGG16Trunk


def test_rates_and_decay_of_every_layer() -> None:
    trunk = VGG16Trunk(width=0.05, batch_norm=True)
    sides, fusion = SideOutputs(trunk.widths), nn.Conv2d(5, 1, 1)
    groups = multiplied_groups(trunk, sides, fusion, learning_rate=2.0, weight_decay=0.1)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    given = [*trunk.parameters(), *sides.parameters(), *fusion.parameters()]
    assert sum(len(group["params"]) for group in groups) == len(given) == len(found)

    def settings(parameter: nn.Parameter) -> object:
        return pytest.approx(found[id(parameter)])

    assert settings(trunk.convolutions["conv1_1"].weight) == (2.0, 0.1)
    assert settings(trunk.convolutions["conv4_3"].bias) == (4.0, 0.0)
    assert settings(trunk.convolutions["conv5_1"].weight) == (200.0, 0.1)
    assert settings(trunk.convolutions["conv5_3"].bias) == (400.0, 0.0)
    assert settings(trunk.norms["conv1_1"].weight) == (2.0, 0.0)
    assert settings(sides.scores[0].weight) == (0.02, 0.1)
    assert settings(sides.scores[4].bias) == (0.04, 0.0)
    assert settings(fusion.weight) == (0.002, 0.1)
    assert settings(fusion.bias) == (0.004, 0.0)
