"""ImageNet networks as features of pictures of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tasks.blocks.deep_image_features import (
    LENGTHS,
    DeepImageFeatures,
    convolution_of,
    load_weights,
    short_side_to,
)


@pytest.mark.parametrize("architecture", ["resnet152", "vgg19"])
def test_pictures_of_any_shape_give_one_vector(architecture: str) -> None:
    network = DeepImageFeatures(architecture, None)
    assert network.length == LENGTHS[architecture]
    features = network.layers(torch.zeros(2, 3, 512, 683, device="meta"))
    stride_32 = (16, 22) if architecture == "resnet152" else (10, 15)  # 7x7 over pool5 takes six off
    assert features.shape == (2, network.length, *stride_32)
    assert not network.train().training


def test_parameter_counts_are_the_papers_less_the_classifier() -> None:
    counts = [sum(p.numel() for p in DeepImageFeatures(name, None).parameters()) for name in LENGTHS]
    assert counts[0] == 60_192_808 - 2048 * 1000 - 1000
    assert counts[1] == 143_667_240 - 4096 * 1000 - 1000


def test_a_fully_connected_layer_is_the_same_as_a_convolution() -> None:
    torch.manual_seed(0)
    linear, maps = nn.Linear(5 * 49, 6), torch.randn(2, 5, 7, 7)
    torch.testing.assert_close(convolution_of(linear, 7)(maps).flatten(1), linear(maps.flatten(1)))
    with pytest.raises(ValueError, match="no map of 7 x 7"):
        convolution_of(nn.Linear(50, 6), 7)


def test_the_shorter_side_becomes_512_and_the_shape_is_kept() -> None:
    assert short_side_to(torch.zeros(1, 3, 100, 150), 512).shape == (1, 3, 512, 768)
    assert short_side_to(torch.zeros(1, 3, 1024, 600), 512).shape == (1, 3, 874, 512)
    same = torch.rand(1, 3, 512, 700)
    assert short_side_to(same, 512) is same
    torch.testing.assert_close(
        short_side_to(torch.full((1, 3, 9, 7), 0.25), 32), torch.full((1, 3, 41, 32), 0.25)
    )


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_read_from_both_formats(tmp_path: Path, suffix: str) -> None:
    given = tiny().state_dict()
    del given["1.num_batches_tracked"]  # as in older files
    path = tmp_path / f"weights{suffix}"
    save_file(given, path) if suffix == ".safetensors" else torch.save(given, path)
    with torch.device("meta"):
        network = tiny()
    load_weights(network, path, "somewhere")
    torch.testing.assert_close(network[0].weight, given["0.weight"])
    assert network[1].num_batches_tracked == 0


def test_what_is_wrong_with_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="resnet152-394f9c45"):
        DeepImageFeatures("resnet152", tmp_path / "none.pth")
    path = tmp_path / "weights.pth"
    torch.save({"0.weight": torch.zeros(2, 3, 3, 3), "more": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="unknown more") as caught:
        load_weights(tiny(), path, "somewhere")
    for part in ("missing 0.bias", "0.weight has shape (2, 3, 3, 3), expected (2, 3, 1, 1)", "somewhere"):
        assert part in str(caught.value)
