"""Backbones with a warp behind: shapes, sizes, weights, what the warps share, statistics of fields."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from tasks.blocks.spatial_warps import DeformableConvolution
from tasks.blocks.volumetric_transformer import uniform_field
from tasks.blocks.warped_backbone import WarpedBackbone, field_statistics, group_statistics

SMALL = {"backbone": "small", "groups": 8, "window": 5}
WARPS = ("none", "stn", "defconv", "ssn", "asn", "vtn")


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_published_backbones_have_their_size() -> None:
    with torch.device("meta"):
        resnet, vgg = WarpedBackbone(warp="none"), WarpedBackbone(backbone="vgg19", warp="none")
    assert parameters(resnet) == 25_557_032 - 2_049_000  # ResNet-50 less its classifier
    assert parameters(vgg) == 20_024_384  # the sixteen convolutions of VGG-19
    assert resnet.channels == 2048
    assert vgg.channels == 512
    with torch.device("meta"):
        image = torch.zeros(1, 3, 448, 448)
        assert resnet.layers(image).shape == (1, 2048, 14, 14)
        assert vgg.layers(image).shape == (1, 512, 28, 28)  # before pool5


@pytest.mark.parametrize("warp", WARPS)
def test_every_warp_keeps_the_map_and_starts_from_the_same_weights(warp: str) -> None:
    torch.manual_seed(3)
    plain, following = WarpedBackbone(**SMALL, warp="none"), torch.rand(1)
    torch.manual_seed(3)
    warped, also = WarpedBackbone(**SMALL, warp=warp), torch.rand(1)
    assert torch.equal(following, also)  # the classifier that is built next starts alike too
    own = {name.replace(".convolution.", "."): value for name, value in warped.layers.state_dict().items()}
    for name, value in plain.layers.state_dict().items():
        assert torch.equal(own[name], value)
    features, field = warped(torch.rand(2, 3, 96, 80))
    assert features.shape == (2, 64, 12, 10)
    assert (field is None) == (warp in ("none", "defconv"))
    groups = warped.parameter_groups(0.1, 1.0, None)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(map(id, grouped))) == len(list(warped.parameters()))


def test_a_deformable_convolution_takes_the_last_places() -> None:
    with torch.device("meta"):
        resnet = WarpedBackbone(warp="defconv")
    names = [
        name for name, module in resnet.layers.named_modules() if isinstance(module, DeformableConvolution)
    ]
    assert names == ["7.2.conv2"]


def test_one_field_for_all_channels() -> None:
    _, field = WarpedBackbone(**SMALL, shared_field=True)(torch.rand(2, 3, 48, 48))
    assert field.shape[1] == 1
    with pytest.raises(ValueError, match="shared_field is a form of warp 'vtn'"):
        WarpedBackbone(**SMALL, warp="stn", shared_field=True)


def test_imagenet_weights_are_loaded_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet50.pth"
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in resnet50().state_dict().items()}
    torch.save({name: torch.full(shape, 0.25) for name, shape in shapes.items()}, path)
    loaded = WarpedBackbone(weights=str(path), warp="none")
    assert (loaded.layers[0].weight == 0.25).all()
    assert (loaded.layers[7][2].conv3.weight == 0.25).all()
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(ValueError, match=r"(?s)missing: bn1.*resnet50-0676ba61"):
        WarpedBackbone(weights=str(path), warp="none")
    with pytest.raises(FileNotFoundError, match="resnet50-0676ba61"):
        WarpedBackbone(weights=str(tmp_path / "elsewhere.pth"), warp="none")
    with pytest.raises(ValueError, match="no ImageNet weights of the small"):
        WarpedBackbone(backbone="small", weights=str(path))


def test_statistics_of_fields_by_hand() -> None:
    field = torch.zeros(2, 2, 1, 1, 2)
    field[0, 0, ..., 0], field[0, 1, ..., 0] = 3.0, 1.0
    field[1, 0, ..., 0], field[1, 1, ..., 0] = 1.0, 1.0
    numbers = {
        name: value.item() for name, value in field_statistics(field, torch.zeros(1, 1, 1, 1, 2)).items()
    }
    assert numbers == pytest.approx(
        {
            "field_mean": 1.5,
            "field_from_uniform": 1.5,
            "field_group_spread": 0.5,
            "field_instance_spread": 0.5,
        }
    )
    idle = uniform_field(4, 4, 3, field)
    assert field_statistics(idle, idle)["field_from_uniform"].item() == 0.0
    response = torch.tensor([0.0, 1.0, 2.0, 5.0]).view(1, 1, 2, 2)
    assert group_statistics(response)["response_mean"].item() == 2.0
    assert group_statistics(response)["response_range"].item() == 5.0
