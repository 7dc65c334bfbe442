"""The teacher: its architectures and recipe, one step at the paper's size, and learning on the miniature."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.specs import ImageClassesSpec
from tasks.base import Recipe
from tasks.recognition.kd_teacher import KDTeacher


def spec(classes: int = 10, side: int = 32, channels: int = 3) -> ImageClassesSpec:
    names = tuple(f"c{i}" for i in range(classes))
    return ImageClassesSpec(dataset="toy", classes=names, image_size=(side, side), channels=channels)


def batch(count: int, side: int = 32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(count, 3, side, side, generator=generator),
        "label": torch.arange(count) % 10,
        "id": [str(i) for i in range(count)],
    }


@pytest.mark.parametrize(
    ("preset", "classes", "parameters"),
    [(None, 10, 10_660_138), ("r152", 10, 14_582_570), ("tiny", 200, 58_545_928)],
)
def test_parameters_are_the_papers(preset: str | None, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        method = KDTeacher(spec(classes), **KDTeacher.profile("paper", preset))
    assert sum(p.numel() for p in method.parameters()) == parameters


def test_the_paper_profile_steps() -> None:
    torch.manual_seed(0)
    method = KDTeacher(spec(), **KDTeacher.profile("paper"))
    method.log = lambda *args, **options: None  # type: ignore[method-assign]
    method._trainer = SimpleNamespace(estimated_stepping_batches=100)  # type: ignore[assignment]
    optimizer = method.configure_optimizers()["optimizer"]
    before = method.network.conv1.weight.clone()
    loss = method.training_step(batch(2), 0)
    loss.backward()
    optimizer.step()
    assert math.isfinite(loss.item())
    assert all(p.grad is not None for p in method.parameters())
    assert not torch.equal(before, method.network.conv1.weight)


@pytest.mark.parametrize("preset", [None, *KDTeacher.presets])
@pytest.mark.parametrize("profile", ["smoke", "mini"])
def test_names_in_tables_exist(preset: str | None, profile: Any) -> None:
    with torch.device("meta"):
        KDTeacher(spec(), **KDTeacher.profile(profile, preset))
    known = set(Recipe.__dataclass_fields__) | set(KDTeacher.__init__.__kwdefaults__)
    assert set(KDTeacher.profiles[profile]) | set(KDTeacher.presets.get(preset, {})) <= known


def test_predictions_are_of_whole_normalised_pictures() -> None:
    method = KDTeacher(spec(), **KDTeacher.profile("smoke")).eval()
    pictures = batch(3)
    normalised = method.normalise(pictures["image"])
    assert torch.equal(method.predict(pictures)["logits"], method.network(normalised))
    assert float(normalised[:, 0].mean()) == pytest.approx((0.5 - 0.4914) / 0.2023, abs=0.1)
    assert method.features(pictures).shape == (3, 32)


def test_other_channels_want_their_own_means() -> None:
    with pytest.raises(ValueError, match="pictures have 1 channels"):
        KDTeacher(spec(channels=1))
    method = KDTeacher(spec(channels=1), mean=(0.5,), std=(0.25,), **KDTeacher.profile("smoke"))
    assert method.predict({"image": torch.rand(2, 1, 32, 32)})["logits"].shape == (2, 10)
