"""VTN: its size, its presets, its batches and crops, diagnostics by hand, and learning on the miniature."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.recognition.cub200 import CUB200
from datamodules.recognition.listed_images import Listed, Subset
from datamodules.specs import ImageClassesSpec
from tasks.blocks.grad_cam import grad_cam
from tasks.blocks.training_labels import training_labels
from tasks.recognition.vtn import VTN, rotated_crops

CLASSES = ("a/one", "a/two", "b/one", "b/two", "b/three", "b/four")
SPEC = ImageClassesSpec(dataset="made-up", classes=CLASSES, image_size=(52, 52))
TINY = {
    "backbone": "small",
    "groups": 4,
    "window": 3,
    "crop_size": 48,
    "cons_reduction": "mean",
    "beta": 1.0,
}


def make_batch(batch: int = 6, size: int = 52, classes: int = 3) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(batch, 3, size, size, generator=generator),
        "label": torch.arange(batch) % classes,
        "box": torch.tensor([[8.0, 8.0, 40.0, 40.0]]).repeat(batch, 1),
        "id": [str(number) for number in range(batch)],
    }


def build(seed: int = 0, **options: object) -> VTN:
    torch.manual_seed(seed)
    method = VTN(SPEC, **{**TINY, **options})
    method.log = lambda *args, **options: None  # type: ignore[method-assign]
    return method


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Size.


def test_the_paper_profile_has_the_papers_parts() -> None:
    spec = ImageClassesSpec(dataset="birds", classes=tuple(map(str, range(200))), image_size=(512, 512))
    with torch.device("meta"):
        method = VTN(spec, **VTN.profile("paper"))
        base = VTN(spec, **VTN.profile("paper", "base"))
    assert parameters(base) == 25_557_032 - 2_049_000 + 200 * 2049
    assert parameters(method) - parameters(base) == parameters(method.network.warp)
    warp = method.network.warp
    assert (warp.groups, warp.window, warp.beta) == (32, 11, 10.0)
    assert (method.alpha, method.lambda_cons, method.crop_size) == (30.0, 1.0, 448)
    with torch.device("meta"):
        assert VTN(spec, **VTN.profile("paper", "vgg19")).alpha == 20.0
    assert VTN.recipe.data == {"image_size": 512}
    assert (method.identities * method.pictures, VTN.recipe.batch_size) == (16, 16)


def test_the_paper_profile_steps_at_full_size() -> None:
    """Two pictures instead of sixteen: too few for a triplet."""
    torch.manual_seed(0)
    spec = ImageClassesSpec(dataset="birds", classes=tuple(map(str, range(200))), image_size=(512, 512))
    method = VTN(spec, **VTN.profile("paper"))
    method.log = lambda *args, **options: None  # type: ignore[method-assign]
    batch = make_batch(2, 512)
    before = method.network.warp.estimator.head.weight.clone()
    loss = method.training_step(batch, 0)
    loss.backward()
    torch.optim.SGD(method.parameters(), 1e-4).step()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert not torch.equal(before, method.network.warp.estimator.head.weight)


# Switches.


@pytest.mark.parametrize("preset", [None, *VTN.presets])
def test_every_preset_steps_and_predicts(preset: str | None) -> None:
    options = {**VTN.profile("smoke", preset), "backbone": "small", "crop_size": 48}
    torch.manual_seed(0)
    method = VTN(SPEC, **options)
    method.log = lambda *args, **options: None  # type: ignore[method-assign]
    batch = make_batch()
    loss = method.training_step(batch, 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())
    method.eval()
    logits = method.predict(batch)["logits"]
    assert logits.shape == (6, 6)
    assert torch.equal(logits, method.predict(batch)["logits"])


def test_warps_see_the_same_crops_and_start_alike() -> None:
    seen = {}
    for warp in ("none", "vtn", "stn"):
        method = build(warp=warp)
        image = method.augment(make_batch()["image"], method._chance())
        seen[warp] = image, method.classifier.linear.weight
    for warp in ("vtn", "stn"):
        assert torch.equal(seen[warp][0], seen["none"][0])
        assert torch.equal(seen[warp][1], seen["none"][1])


def test_lambda_weighs_the_consistency_loss() -> None:
    batch = make_batch()
    losses = [build(lambda_cons=weight).training_step(batch, 0).item() for weight in (0.0, 1.0, 2.0)]
    assert losses[1] > losses[0]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)
    summed = build(cons_reduction="sum").training_step(batch, 0).item()
    assert summed - losses[0] == pytest.approx(36 * (losses[1] - losses[0]), rel=1e-3)  # 6 x 6 pixels


def test_mixed_precision_has_a_finite_loss() -> None:
    for warp in ("vtn", "stn", "ssn", "asn", "defconv"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert build(warp=warp).training_step(make_batch(), 0).isfinite()


def test_a_crop_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot crop 448 x 448"):
        VTN(SPEC, backbone="small", groups=8)


# Crops.


def test_a_crop_without_a_turn_is_a_slice() -> None:
    image = make_batch(2)["image"]
    corner = torch.tensor([[3.0, 1.0], [0.0, 4.0]])
    crops = rotated_crops(image, (40, 48), torch.zeros(2), corner, torch.tensor([False, True]))
    torch.testing.assert_close(crops[0], image[0, :, 1:41, 3:51], atol=1e-4, rtol=0)
    torch.testing.assert_close(crops[1], image[1, :, 4:44, 0:48].flip(-1), atol=1e-4, rtol=0)


def test_a_quarter_turn() -> None:
    image = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    crops = rotated_crops(
        image, (9, 9), torch.tensor([math.pi / 2]), torch.zeros(1, 2), torch.tensor([False])
    )
    torch.testing.assert_close(crops, image.rot90(1, (2, 3)), atol=1e-4, rtol=0)


# Diagnostics.


def test_localisation_by_hand() -> None:
    method = build(warp="none").eval()
    method.on_test_start()
    batch = make_batch(2, classes=2)
    warped = torch.zeros(2, 64, 6, 6)
    warped[0, 0, 1:5, 1:5] = 1.0  # 8 .. 40 of 48 pixels
    warped[1, 0, 5, 5] = 1.0
    nn.init.ones_(method.classifier.linear.weight)
    shifted = {**batch, "box": torch.tensor([[10.0, 10.0, 42.0, 42.0]]).repeat(2, 1)}  # 2 pixels are cut off
    right = torch.eye(6)[:2]
    cam = grad_cam(warped, method.classifier, shifted["label"])
    method._record_localisation(cam, right, shifted)
    numbers = method.diagnostics()
    assert numbers["localisation_error_top1"] == 50.0
    assert numbers["localisation_error_known_class"] == 50.0
    method.on_test_start()
    third = torch.tensor([[0.2, 0.1, 0.0, 0.0, 0.0, 0.3]]).repeat(2, 1)
    method._record_localisation(cam, third, shifted)
    numbers = method.diagnostics()
    assert numbers["localisation_error_top1"] == 100.0
    assert numbers["localisation_error_top5"] == 50.0


def test_accuracy_by_super_class() -> None:
    method = build(warp="none", lambda_cons=0.0)
    method.on_test_start()
    method._record_super_classes(torch.eye(6)[[0, 0, 2, 3]], torch.tensor([0, 1, 2, 3]))
    assert method.diagnostics() == {"accuracy_a": 50.0, "accuracy_b": 100.0}


def test_adopting_a_trained_base() -> None:
    start = build(5, warp="none")
    for warp in ("none", "vtn", "defconv"):
        method = build(warp=warp)
        method.adopt("start", start)
        features = start.network.layers[:-3](torch.rand(1, 3, 48, 48))
        torch.testing.assert_close(method.network.layers[:-3](torch.rand(1, 3, 48, 48)).shape, features.shape)
        assert torch.equal(method.network.layers[0].weight, start.network.layers[0].weight)
        assert not torch.equal(method.classifier.linear.weight, start.classifier.linear.weight)
    with pytest.raises(TypeError, match="needs a VTN as 'start'"):
        build().adopt("teacher", start)
    (need,) = VTN.needs({"pretrained": True, "pretrain_epochs": 7})
    assert (need.method, need.options["max_epochs"], need.options["pretrained"]) == ("vtn:base", 7, False)
    assert VTN.needs({"pretrained": False}) == ()


# Data and training.


def small_birds(cache: Path, **options: object) -> CUB200:
    return CUB200(cache=cache, image_size=52, **options)


def test_labels_come_from_the_listing(cache: Path) -> None:
    data = small_birds(cache)
    data.prepare_data()
    labels = training_labels(data)
    assert labels.shape == (300,)
    assert all(data.split("train")[i]["label"] == labels[i] for i in range(0, 300, 60))
    with pytest.raises(ValueError, match="no 'kind'"):
        training_labels(data, "kind")


class Fewer(CUB200):
    """Two of the classes, which a short training tells apart by their stripes."""

    def published(self, subset: Subset) -> list[Listed]:
        return [item for item in super().published(subset) if item.values["label"] < 2]


def trainer(folder: Path, epochs: int, watch: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[watch],
    )


def run(folder: Path, cache: Path, epochs: int) -> tuple[VTN, list[list[int]]]:
    data = Fewer(cache=cache, image_size=52, seed=4)
    torch.manual_seed(4)
    options = {**TINY, "optimiser": "adam", "lr": 3e-3, "new_lr": 3e-3, "lambda_cons": 0.01, "beta": 3.0}
    method = VTN(data.spec, **{**options, "identities": 2, "pictures": 6})
    batches: list[list[int]] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:  # type: ignore[no-untyped-def, override]
            batches.append(batch["label"].tolist())

    fit = trainer(folder, epochs, Watch())
    fit.fit(method, data)
    fit.test(method, data, verbose=False)
    return method, batches


def test_it_learns_the_same_way_twice_in_balanced_batches(cache: Path, tmp_path: Path) -> None:
    method, batches = run(tmp_path, cache, 5)
    assert len(batches) == 5 * (60 // 12)
    assert all(np.bincount(labels).tolist() == [6, 6] for labels in batches)
    assert method.scores["test"]["error"] < 25.0  # chance: 50
    numbers = method.diagnostics()
    assert numbers["field_mean"] > 0.01
    assert numbers["field_group_spread"] > 0.01
    assert 0 <= numbers["localisation_error_known_class"] <= 100
    assert 0 <= numbers["localisation_before_warp_error_known_class"] <= 100
    assert numbers["cons_summed_over_pixels"] == 0.0
    (picture,) = method.figures().values()
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    again, _ = run(tmp_path, cache, 5)
    assert again.scores == method.scores
    assert torch.equal(again.network.warp.estimator.head.weight, method.network.warp.estimator.head.weight)
