"""Perceptual features: distances by hand, frozen networks with gradients to the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datamodules.specs import ImageClassesSpec
from tasks.blocks.perceptual_features import PerceptualFeatures, perceptual_distance
from tasks.blocks.vgg import VGG16Trunk
from tasks.recognition.face_classifier import FaceClassifier
from tasks.recognition.majority import Majority

SPEC = ImageClassesSpec(dataset="faces", classes=("a", "b", "c"), image_size=(32, 32))


def network() -> FaceClassifier:
    torch.manual_seed(0)
    return FaceClassifier(SPEC, widths=(4, 6), embedding=5)


def test_distance_by_hand() -> None:
    one = torch.tensor([[3.0, 0.0], [0.0, 2.0]]).view(1, 2, 1, 2)  # unit (1, 0) and (0, 1)
    other = torch.tensor([[5.0, 7.0], [0.0, 0.0]]).view(1, 2, 1, 2)  # (1, 0) twice
    assert float(perceptual_distance([one], [other])) == pytest.approx(1.0)  # mean of 0 and 2
    feature, opposite = torch.tensor([[2.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    assert float(perceptual_distance([one, feature], [other, opposite])) == pytest.approx(5.0)
    assert float(perceptual_distance([one], [9 * one])) == pytest.approx(0.0, abs=1e-6)


def test_identity_network_gives_layers_and_feature_and_stays_as_it_is() -> None:
    features = PerceptualFeatures(smallest=32)
    assert features.kind == "none"
    with pytest.raises(RuntimeError, match="no network"):
        features(torch.zeros(1, 3, 32, 32))
    features.adopt(network())
    features.train()
    assert features.kind == "identity"
    assert not any(module.training for module in features.modules())
    image = torch.rand(2, 3, 16, 16, requires_grad=True)
    maps = features(image)
    assert [tuple(each.shape) for each in maps] == [(2, 4, 16, 16), (2, 6, 8, 8), (2, 5)]
    perceptual_distance(maps, [each.detach().flip(0) for each in maps]).backward()
    assert float(image.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in features.parameters())


def test_vgg_layers_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(VGG16Trunk().state_dict(), tmp_path / "vgg.pth")
    features = PerceptualFeatures(vgg_weights=str(tmp_path / "vgg.pth"), smallest=32)
    features.adopt(network())
    assert features.kind == "vgg16"
    maps = features(torch.rand(1, 3, 32, 32))
    assert [each.shape[1] for each in maps] == [64, 128, 256, 512, 512, 5]
    with pytest.raises(FileNotFoundError, match="no VGG-16 weights"):
        PerceptualFeatures(vgg_weights=str(tmp_path / "none.pth"))


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(TypeError, match="no feature_maps"):
        PerceptualFeatures().adopt(Majority(SPEC))
