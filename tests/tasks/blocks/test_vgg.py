"""The VGG-16 trunk: sizes, count, agreement with torchvision's own network, weight loading and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from tasks.blocks.vgg import DEPTHS, WIDTHS, VGG16Trunk, normalise


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 47), (64, 96)])
@pytest.mark.parametrize("pad_first", [1, 35])
def test_any_size_gives_five_stages_rounded_up(size: tuple[int, int], pad_first: int) -> None:
    trunk = VGG16Trunk(width=0.05, pad_first=pad_first)
    features = trunk(torch.rand(2, 3, *size))
    extended = [side + 2 * trunk.offset for side in size]
    for stage, (feature, width) in enumerate(zip(features, trunk.widths, strict=True)):
        assert feature.shape == (2, width, *(-(-side // 2**stage) for side in extended))


def test_counts_of_the_full_width() -> None:
    with torch.device("meta"):
        trunk = VGG16Trunk()
    assert trunk.widths == WIDTHS
    assert sum(parameter.numel() for parameter in trunk.parameters()) == 14_714_688
    assert len(trunk.convolutions) == sum(DEPTHS) == 13


def test_width_scales_every_layer_and_never_reaches_zero() -> None:
    assert VGG16Trunk(width=0.125).widths == (8, 16, 32, 64, 64)
    assert VGG16Trunk(width=1e-6).widths == (1, 1, 1, 1, 1)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_equals_torchvision_with_its_weights(batch_norm: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build = torchvision.models.vgg16_bn if batch_norm else torchvision.models.vgg16
    reference = build(weights=None, init_weights=False).eval()
    # The classifier is left out of the file to keep it small; real files hold one, which is skipped.
    state = {**reference.features.state_dict(prefix="features."), "classifier.0.bias": torch.zeros(3)}
    torch.save(state, tmp_path / "vgg.pth")
    trunk = VGG16Trunk(batch_norm=batch_norm).eval()
    trunk.load_imagenet(tmp_path / "vgg.pth")
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        last = trunk(image)[-1]
        assert torch.equal(last, reference.features[:-1](image))
        assert last.abs().max() > 0


def test_loads_caffe_names_from_safetensors(tmp_path: Path) -> None:
    source, trunk = VGG16Trunk(width=0.05), VGG16Trunk(width=0.05)
    state = {key.removeprefix("convolutions."): value for key, value in source.state_dict().items()}
    save_file({**state, "fc6.bias": torch.zeros(2)}, tmp_path / "caffe.safetensors")
    trunk.load_imagenet(tmp_path / "caffe.safetensors")
    assert all(torch.equal(value, trunk.state_dict()[key]) for key, value in source.state_dict().items())


def test_missing_file_says_where_weights_come_from(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"download\.pytorch\.org/models/vgg16-397923af\.pth"):
        VGG16Trunk(width=0.05).load_imagenet(tmp_path / "absent.pth")


def test_misfits_are_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    trunk = VGG16Trunk(width=0.05)
    before = trunk.convolutions["conv1_1"].weight.clone()
    state = trunk.state_dict()
    state["convolutions.conv1_1.weight"] = torch.zeros(3, 3, 3, 3)
    state["convolutions.conv1_1.bias"] = state["convolutions.conv1_1.bias"][:2]
    del state["convolutions.conv5_3.bias"]
    state["stray"] = torch.zeros(1)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="does not fit") as caught:
        trunk.load_imagenet(tmp_path / "bad.pth")
    message = str(caught.value)
    assert "missing convolutions.conv5_3.bias" in message
    assert "unknown stray" in message
    assert "convolutions.conv1_1.bias has shape (2,), expected (3,)" in message
    assert torch.equal(trunk.convolutions["conv1_1"].weight, before)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"weights": Path("x")}, tmp_path / "object.pth")
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported"):
        VGG16Trunk(width=0.05).load_imagenet(tmp_path / "object.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no state dict"):
        VGG16Trunk(width=0.05).load_imagenet(tmp_path / "list.pth")


def test_conventions_by_hand() -> None:
    image = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    caffe = normalise(image, "caffe").flatten()
    assert torch.allclose(caffe, torch.tensor([0 - 104.007, 127.5 - 116.669, 255 - 122.679]))
    rgb = normalise(image, "torchvision").flatten()
    assert torch.allclose(rgb, torch.tensor([0.515 / 0.229, 0.044 / 0.224, -0.406 / 0.225]))
    with pytest.raises(ValueError, match="RGB"):
        normalise(torch.zeros(1, 1, 4, 4), "caffe")


def test_padding_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="pad_first"):
        VGG16Trunk(pad_first=0)
