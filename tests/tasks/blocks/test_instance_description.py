"""Description units: the paper's sizes and numbers of parameters."""

from __future__ import annotations

import pytest
import torch

from tasks.blocks.instance_description import build_describer


def test_lenet_has_the_size_of_the_paper() -> None:
    with torch.device("meta"):
        unit = build_describer("lenet", 1, (28, 28), length=500)
        maps, feature = unit(torch.empty(3, 1, 28, 28))
    assert sum(parameter.numel() for parameter in unit.parameters()) == 426_070
    assert maps.shape == (3, 50, 4, 4)
    assert unit.map_shape == (50, 4, 4)
    assert feature.shape == (3, 500)


def test_the_unit_for_nuclei_has_the_size_of_the_paper() -> None:
    with torch.device("meta"):
        unit = build_describer("nucleus", 3, (27, 27), length=512)
        maps, feature = unit(torch.empty(2, 3, 27, 27))
    assert maps.shape == (2, 48, 5, 5)
    assert feature.shape == (2, 512)
    convolutions = 36 * (3 * 16 + 1) + 48 * (36 * 9 + 1)
    linear = 512 * (48 * 25 + 1) + 512 * 513
    assert sum(parameter.numel() for parameter in unit.parameters()) == convolutions + linear
    assert sum(isinstance(layer, torch.nn.Dropout) for layer in unit.modules()) == 2


def test_width_shrinks_filters_and_pictures_must_be_large_enough() -> None:
    unit = build_describer("lenet", 1, (28, 28), length=7, width=0.1)
    maps, feature = unit(torch.rand(2, 1, 28, 28))
    assert maps.shape == (2, 5, 4, 4)
    assert feature.shape == (2, 7)
    assert feature.min() >= 0
    with pytest.raises(ValueError, match="too small for lenet"):
        build_describer("lenet", 1, (12, 28), length=7)
