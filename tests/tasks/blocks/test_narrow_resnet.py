"""Narrow ResNets: the paper's sizes, torchvision's network as the reference, and weights of unknown shape."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from tasks.blocks.narrow_resnet import NarrowResNet


@pytest.mark.parametrize(
    ("depth", "ratio", "classes", "parameters"),
    [
        (18, 0.25, 10, 701_466),
        (34, 0.25, 10, 1_334_618),
        (50, 0.25, 10, 1_484_186),
        (101, 0.5, 10, 10_660_138),
        (152, 0.5, 10, 14_582_570),
        (152, 1.0, 200, 58_545_928),
    ],
)
def test_parameters_are_the_papers(depth: int, ratio: float, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        network = NarrowResNet(depth, ratio, classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("depth", [18, 50])
def test_it_is_torchvisions_resnet_with_another_stem(depth: int) -> None:
    torch.manual_seed(0)
    width = {"width_per_group": 64} if depth == 18 else {}
    reference = getattr(torchvision.models, f"resnet{depth}")(num_classes=7, **width)
    reference.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    reference.maxpool = nn.MaxPool2d(3, 1, 1)
    network = NarrowResNet.like(reference.state_dict())
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(network.eval()(image), reference.eval()(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("side", "pool_stride", "last"), [(32, 1, 4), (64, 1, 8), (32, 2, 2)])
def test_maps(side: int, pool_stride: int, last: int) -> None:
    network = NarrowResNet(18, 1 / 16, 5, pool_stride=pool_stride)
    stages = network.eval().stages(torch.randn(2, 3, side, side))
    assert [tuple(m.shape[1:]) for m in stages.maps] == [
        (4, 8 * last, 8 * last),
        (8, 4 * last, 4 * last),
        (16, 2 * last, 2 * last),
        (32, last, last),
    ]
    assert network.channels == [4, 8, 16, 32]
    assert min(before.min().item() for before in stages.before) < 0
    assert torch.equal(stages.map, stages.before[-1].clamp(min=0))
    torch.testing.assert_close(stages.pooled, stages.map.mean(dim=(2, 3)))
    torch.testing.assert_close(stages.logits, network.fc(stages.pooled))


def test_convolutions_start_by_fan_out() -> None:
    torch.manual_seed(0)
    weight = NarrowResNet(18, 1.0, 5).get_submodule("layer4.1.conv2").weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(("depth", "ratio"), [(10, 0.125), (34, 1 / 16), (50, 1 / 16)])
def test_the_shape_of_a_network_is_read_from_its_weights(depth: int, ratio: float) -> None:
    network = NarrowResNet(depth, ratio, 6, channels=1).eval()
    other = NarrowResNet.like(network.state_dict()).eval()
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(network(image), other(image))


def test_other_weights_are_refused() -> None:
    state = NarrowResNet(18, 1 / 16, 5).state_dict()
    with pytest.raises(ValueError, match=r"conv1\.weight is missing"):
        NarrowResNet.like({"a": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"\(2, 2, 2, 1\) basic blocks"):
        NarrowResNet.like({key: value for key, value in state.items() if not key.startswith("layer4.1")})
    with pytest.raises(ValueError, match=r"layer2\.0\.bn1\.bias"):
        NarrowResNet.like({key: value for key, value in state.items() if key != "layer2.0.bn1.bias"})
    with pytest.raises(ValueError, match="depth 19"):
        NarrowResNet(19, 1.0, 5)
    with pytest.raises(ValueError, match="pool_stride must be"):
        NarrowResNet(18, 1.0, 5, pool_stride=3)
    with pytest.raises(ValueError, match="leaves no channel"):
        NarrowResNet(18, 0.001, 5)
