"""The frozen backbone: what it adopts, that it stays as it is, what it says when there is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from datamodules.specs import ImageClassesSpec
from tasks.base import Method
from tasks.blocks.frozen_backbone import FrozenBackbone
from tasks.recognition.image_classification import ImageClassification
from tasks.recognition.majority import Majority

SPEC = ImageClassesSpec(dataset="test", classes=("a", "b"), image_size=(8, 8))


class Normed(Method):
    """Features are batch-normalised means, so evaluation mode shows."""

    name = "normed"
    task = ImageClassification

    def __init__(self, spec: ImageClassesSpec) -> None:
        super().__init__(spec)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.5)

    def features(self, batch: dict) -> Tensor:
        return self.drop(self.norm(batch["image"].mean(dim=(2, 3))))

    def predict(self, batch: dict) -> dict:
        return {"logits": self.features(batch)[:, :2]}


@pytest.fixture
def images() -> dict:
    return {"image": torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))}


def test_stays_frozen_in_training(images: dict) -> None:
    backbone = FrozenBackbone("owner")
    backbone.adopt("backbone", Normed(SPEC).train())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.train()
    features = backbone(images)
    assert features.shape == (4, 3)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    torch.testing.assert_close(backbone(images), features)  # neither dropout nor batch statistics
    torch.testing.assert_close(features, images["image"].mean(dim=(2, 3)) / (1 + 1e-5) ** 0.5)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_need_leaves_the_dataset_to_the_suite() -> None:
    need = FrozenBackbone.need("network:preset")
    assert (need.role, need.method, need.dataset) == ("backbone", "network:preset", None)


def test_errors_say_what_to_do(images: dict) -> None:
    backbone = FrozenBackbone("owner")
    with pytest.raises(RuntimeError, match=r"owner has no backbone: call adopt\('backbone'"):
        backbone(images)
    with pytest.raises(TypeError, match="no 'teacher'"):
        backbone.adopt("teacher", Normed(SPEC))
    with pytest.raises(TypeError, match=r"majority has no features\(batch\)"):
        backbone.adopt("backbone", Majority(SPEC))
    wrong = Normed(SPEC)
    wrong.features = lambda batch: batch["image"]  # type: ignore[method-assign]
    backbone.adopt("backbone", wrong)
    with pytest.raises(ValueError, match=r"must be \[4, K\], not \(4, 3, 8, 8\)"):
        backbone(images)
