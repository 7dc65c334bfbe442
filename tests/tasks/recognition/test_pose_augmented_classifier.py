"""The pose-augmented classifier: exactly the missing poses, the nearest source, the control, equal budgets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchvision.models import alexnet
from torchvision.models import resnet18 as torchvision_resnet18

from datamodules.recognition.ilab20m import ILab20M
from datamodules.specs import PosesSpec
from tasks.recognition.majority import Majority
from tasks.recognition.optnet import OPTNet
from tasks.recognition.pose_augmented_classifier import (
    AlexNet,
    PoseAugmentedClassifier,
    classical_augmentation,
    missing_poses,
    resnet18,
)

TINY = PoseAugmentedClassifier.profile("smoke")


def spec_of(*seen: tuple[int, ...], pitches: int = 1) -> PosesSpec:
    names = tuple("abcdef"[: len(seen)])
    return PosesSpec(dataset="toys", classes=names, image_size=(32, 32), yaws=6, pitches=pitches, seen=seen)


def test_missing_poses_have_the_nearest_source() -> None:
    spec = spec_of((0, 1, 2, 3, 4, 5), (1, 4))
    assert missing_poses(spec, between=False) == {(1, 1): [(1, 1), (3, 1)], (1, 4): [(4, 1), (6, 1)]}
    between = missing_poses(spec, between=True)
    assert between[0, 0] == [(1.5, 1)]  # of two equally near, the lower yaw
    assert between[1, 1] == [(1, 1), (3, 1), (1.5, 1), (2.5, 1), (3.5, 1)]
    assert between[1, 4] == [(4, 1), (6, 1), (4.5, 1), (5.5, 1)]
    plane = missing_poses(spec_of((0, 6), pitches=2), between=False)
    assert plane[0, 0] == [(yaw, 1) for yaw in range(2, 7)]
    assert plane[0, 6] == [(yaw, 2) for yaw in range(2, 7)]


def test_the_papers_networks() -> None:
    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        ours, theirs = resnet18(10), torchvision_resnet18(num_classes=10)
        assert size(ours) == size(theirs) == 11_181_642
        ours, theirs = AlexNet(6), alexnet(num_classes=6)
        assert size(ours) == size(theirs) == 57_028_422
    assert AlexNet(3, width=0.02)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert resnet18(3, width=0.05)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_classical_augmentation_crops_and_flips() -> None:
    row = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    made = classical_augmentation(row.repeat(64, 1, 1, 1), torch.Generator().manual_seed(0))
    slopes = made[:, 0, 16, 20] - made[:, 0, 16, 12]
    assert 15 < int((slopes > 0).sum()) < 50
    assert made.shape == (64, 3, 32, 32)
    assert 0.65 < float((slopes.abs() / (8 / 31)).min()) < float((slopes.abs() / (8 / 31)).max()) <= 1.001
    again = classical_augmentation(row.repeat(64, 1, 1, 1), torch.Generator().manual_seed(0))
    torch.testing.assert_close(made, again)


class Painter(OPTNet):
    """A transformer whose pictures tell which pose was asked for: their grey is the yaw's tenth."""

    def transform(self, image: Tensor, pose: Tensor) -> Tensor:
        return (pose[:, 0] / 10).view(-1, 1, 1, 1).expand_as(image)


def painter(spec: PosesSpec) -> Painter:
    return Painter(spec, **OPTNet.profile("smoke"))


Painter.name = "painter"


def trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, **options,
    )  # fmt: skip


def fitted(data: ILab20M, training_set: str, **options: Any) -> PoseAugmentedClassifier:
    pl.seed_everything(0, verbose=False)
    method = PoseAugmentedClassifier(data.spec, **{**TINY, "training_set": training_set, **options})
    if training_set in ("s-p-b", "sa-p-b"):
        method.adopt("transformer", painter(data.spec))
    trainer(max_epochs=1, limit_train_batches=2).fit(method, data)
    return method


def test_exactly_the_missing_poses_are_synthesised(cache: Path) -> None:
    data = ILab20M(cache=cache, batch_size=8)
    data.prepare_data()
    method = fitted(data, "s-p-b")
    assert len(method._images) == 160
    assert (method._real, len(method._images) + method._real) == (320, 480)  # as large as P-B
    classes = data.spec.classes
    found = Counter(
        (classes[label], pose[0])
        for label, pose in zip(method._labels.tolist(), method._poses.tolist(), strict=True)
    )
    assert found == {
        (kind, yaw): 8
        for kind in ("bus", "mil", "monster", "pickup", "train")
        for yaw in (1.0, 3.0, 4.0, 6.0)
    }
    grey = method._images.float().mean(dim=(1, 2, 3)) / 255
    torch.testing.assert_close(grey, method._poses[:, 0] / 10, atol=2 / 255, rtol=0)
    assert method.figures()["synthetic"].shape == (3 * 114, 8 * 96, 3)
    image, label = torch.full((600, 3, 16, 16), 2.0), torch.zeros(600, dtype=torch.long)
    torch.manual_seed(0)
    mixed, labels = method.mixed(image, label)
    taken = (mixed.amax(dim=(1, 2, 3)) < 2).float().mean()
    assert float(taken) == pytest.approx(1 / 3, abs=0.06)
    assert bool((labels[mixed.amax(dim=(1, 2, 3)) == 2] == 0).all())


def test_decimal_poses_and_the_control(cache: Path) -> None:
    data = ILab20M(cache=cache, batch_size=8)
    data.prepare_data()
    more = fitted(data, "sa-p-b")
    assert len(more._images) == 160 + 80 * 5
    assert sorted(set(more._poses[:, 0].tolist())) == [1, 1.5, 2.5, 3, 3.5, 4, 4.5, 5.5, 6]
    control = fitted(data, "a-p-ub")
    assert len(control._images) == 160
    assert Counter(control._labels.tolist()) == Counter(fitted(data, "s-p-b")._labels.tolist())
    assert control._images.float().std() > 10  # real pictures
    plain = fitted(data, "p-ub")
    assert len(plain._images) == 0
    assert plain.synthetic_share == 0
    assert plain.figures() == {}
    assert plain.network.state_dict().keys() == control.network.state_dict().keys()
    scores = trainer(limit_test_batches=2).test(control, data, verbose=False)[0]
    assert 0 <= scores["test/error"] <= 100
    found = control.diagnostics()
    assert (found["real_pictures"], found["synthetic_pictures"]) == (320, 160)
    assert {"error_seen_poses"} <= found.keys()


def test_only_a_transformer_of_the_same_unbalanced_set_is_taken(cache: Path) -> None:
    data, balanced = ILab20M(cache=cache), ILab20M(cache=cache, training_set="p-b")
    method = PoseAugmentedClassifier(data.spec, **TINY, training_set="s-p-b")
    with pytest.raises(ValueError, match="trained on other poses"):
        method.adopt("transformer", painter(balanced.spec))
    with pytest.raises(TypeError, match="needs a 'transformer'"):
        method.adopt("transformer", Majority(data.spec))
    with pytest.raises(ValueError, match="doesn't fit a dataset whose training split lacks 20 poses"):
        PoseAugmentedClassifier(data.spec, **TINY, training_set="p-b")
    with pytest.raises(ValueError, match="lacks 0 poses"):
        PoseAugmentedClassifier(balanced.spec, **TINY, training_set="s-p-b")
    assert not any("transform" in name for name in method.state_dict())


def test_needs_follow_the_training_set() -> None:
    for training_set, count in (("p-ub", 0), ("a-p-ub", 0), ("p-b", 0), ("s-p-b", 1), ("sa-p-b", 1)):
        needs = PoseAugmentedClassifier.needs({"training_set": training_set, "transformer": "optnet:stargan"})
        assert [need.method for need in needs] == ["optnet:stargan"] * count


@pytest.mark.parametrize("preset", list(PoseAugmentedClassifier.presets))
def test_every_preset_steps(preset: str) -> None:
    options = {k: v for k, v in PoseAugmentedClassifier.presets[preset].items() if not k.startswith("data.")}
    everything = tuple(range(6))
    spec = spec_of(everything, everything if options["training_set"] == "p-b" else (1, 4))
    torch.manual_seed(0)
    method = PoseAugmentedClassifier(spec, **{**TINY, **options})
    batch = {"image": torch.rand(4, 3, 32, 32), "label": torch.tensor([0, 1, 0, 1]), "id": list("abcd")}
    loss = method.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert method.predict(batch)["logits"].shape == (4, 2)


def test_a_short_training_beats_its_start_and_repeats(cache: Path) -> None:
    data = ILab20M(cache=cache, batch_size=32, training_set="p-b")
    data.prepare_data()
    found = []
    for steps in (45, 45, 0):
        pl.seed_everything(3, verbose=False)
        method = PoseAugmentedClassifier(data.spec, training_set="p-b", width=0.125, steps=60)
        if steps:
            trainer(max_epochs=3, limit_train_batches=15).fit(method, data)
        found.append(trainer().test(method, data, verbose=False)[0]["test/error"])
    assert found[0] == found[1]
    assert found[0] < found[2] - 10
    assert found[0] < 80  # the constant class: 90
