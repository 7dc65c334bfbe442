"""CFN: the chapter's parameter counts and shapes, its equations by hand, its recipe, and a short training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import cross_entropy

from datamodules.recognition.cifar import CIFAR10
from datamodules.recognition.imagenet import ImageNet
from datamodules.specs import ImageClassesSpec
from tasks.base import Recipe
from tasks.recognition.cfn import (
    CFN,
    MeanPicture,
    classification_loss,
    global_contrast_normalise,
    pad_crop_flip,
)
from tasks.recognition.cfn_networks import ConvFusion, SumFusion


def spec(classes: int = 10, side: int = 32) -> ImageClassesSpec:
    return ImageClassesSpec(
        dataset="toy", classes=tuple(f"c{i}" for i in range(classes)), image_size=(side, side)
    )


def build(preset: str | None = None, *, classes: int = 10, side: int = 32, **options: Any) -> CFN:
    recipe = set(Recipe.__dataclass_fields__)
    chosen = {k: v for k, v in (CFN.presets[preset] if preset else {}).items() if k not in recipe}
    return CFN(spec(classes, side), **{**chosen, **options})


def toy_batch(count: int = 4, side: int = 32, classes: int = 10) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(count, 3, side, side, generator=generator),
        "label": torch.arange(count) % classes,
        "id": [str(i) for i in range(count)],
    }


def step(model: CFN, batch: dict[str, Any]) -> torch.Tensor:
    model.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    loss = model.training_step(batch, 0)
    loss.backward()
    return loss


@pytest.mark.parametrize(
    ("preset", "classes", "basic", "side", "fusion"),
    [
        ("cnn", 10, 224_202, 0, 0),
        ("cnn_sum", 10, 224_202, 24_960, 0),
        ("cnn_conv", 10, 224_202, 24_960, 4),
        (None, 10, 224_202, 24_960, 768),
        ("cnn_b", 10, 1_286_698, 0, 0),
        ("b", 10, 1_286_698, 55_680, 768),
        ("b", 100, 1_721_572, 74_112, 768),
        # EPLF adds a classifier of 192·10 + 10 a side branch and fuses 10 predictions of 3 branches.
        ("eplf", 10, 224_202, 24_960 + 2 * 1930, 40),
        ("top_side_only", 10, 224_202, 12_480, 192 * 3),
    ],
)
def test_parameters_of_the_small_networks(
    preset: str | None, classes: int, basic: int, side: int, fusion: int
) -> None:
    with torch.device("meta"):
        split = build(preset, classes=classes).network.parameter_split()
    assert split == {"basic": basic, "side": side, "fusion": fusion}


def test_parameters_of_the_imagenet_networks() -> None:
    with torch.device("meta"):
        split = {
            name: build(name, classes=1000, side=224).network.parameter_split()
            for name in ("cnn_11", "cfn_11", "cfn_11_repo", "dsn_11", "resnet_11", "cnn_19", "cfn_19")
        }
    weights = (  # Fig. 2.9, without biases: stem, four pairs, 1×1, classifier
        7 * 7 * 3 * 64
        + 9 * (64 * 64 * 2 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512)
        + 512 * 1024
        + 1024 * 1000
    )
    norms = 2 * (64 + 2 * (64 + 128 + 256 + 512) + 1024)
    assert split["cnn_11"] == {"basic": weights + norms + 1000, "side": 0, "fusion": 0}
    assert round(split["cnn_11"]["basic"] / 1e6, 1) == 6.3
    sides = (64 + 128 + 256) * 1024 + 3 * 2 * 1024
    assert split["cfn_11"] == {"basic": weights + norms + 1000, "side": sides, "fusion": 5 * 1024}
    assert split["cfn_11_repo"]["fusion"] == 4 * 1024 + 2 * 1024  # no bias, but BN behind
    assert split["dsn_11"]["side"] == sides + 3 * 1025 * 1000
    shortcuts = 64 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 2 * (64 + 128 + 256 + 512)
    assert split["resnet_11"]["basic"] == split["cnn_11"]["basic"] + shortcuts
    deeper = 2 * (9 * (64**2 + 128**2 + 256**2 + 512**2) + 2 * (64 + 128 + 256 + 512))
    assert split["cnn_19"]["basic"] == split["cnn_11"]["basic"] + deeper
    assert split["cfn_19"]["side"] == sides


@pytest.mark.parametrize(("trunk", "layers"), [("a", 3), ("b", 6), ("11", 9), ("19", 17)])
def test_depth_of_the_trunks(trunk: Any, layers: int) -> None:
    with torch.device("meta"):
        network = build(trunk=trunk, fusion="none").network
    convolutions = [m for m in network.trunk.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == layers  # plus the 1×1 convolution and the classifier


@pytest.mark.parametrize("trunk", ["a", "b"])
def test_pools_are_in_ceil_mode(trunk: Any) -> None:
    taps, last = build(trunk=trunk, width=0.1).network.trunk(torch.rand(1, 3, 32, 32))
    assert [tuple(tap.shape[-2:]) for tap in taps] == [(16, 16), (8, 8)]
    assert last.shape[-2:] == (8, 8)


def test_imagenet_taps_leave_the_first_pool_out() -> None:
    taps, last = build("cfn_11", width=1 / 32).network.trunk(torch.rand(1, 3, 224, 224))
    assert [tuple(tap.shape[1:]) for tap in taps] == [(2, 28, 28), (4, 14, 14), (8, 7, 7)]
    assert last.shape == (1, 16, 7, 7)


def test_side_branches_read_the_dropped_out_pool() -> None:
    torch.manual_seed(0)
    network = build(dropout=1.0, width=0.1).network  # drops everything behind the pools
    network.train()
    taps, _ = network.trunk(torch.rand(2, 3, 32, 32))
    assert not any(tap.any() for tap in taps)
    network.eval()
    assert all(tap.any() for tap in network.trunk(torch.rand(2, 3, 32, 32))[0])


def test_fused_feature_is_equation_2_3_on_the_branches() -> None:
    model = build().eval()
    torch.nn.init.normal_(model.network.fusion.weight)
    torch.nn.init.normal_(model.network.fusion.bias, std=0.1)
    batch = toy_batch()
    g = model.network.branches(model.preprocess(batch["image"]))
    assert g.shape == (4, 3, 192)
    w, b = model.network.fusion.weight, model.network.fusion.bias
    expected = torch.relu(w[0] * g[:, 0] + w[1] * g[:, 1] + w[2] * g[:, 2] + b)
    torch.testing.assert_close(model.features(batch), expected)
    torch.testing.assert_close(model.predict(batch)["logits"], model.network.classifier(expected))


def test_branch_order_is_bottom_to_top_and_branches_are_pooled_maps() -> None:
    network = build(width=0.1).network.eval()
    image = torch.randn(2, 3, 32, 32)
    taps, last = network.trunk(image)
    g = network.branches(image)
    for position, (branch, maps) in enumerate([(network.sides[0], taps[0]), (network.sides[1], taps[1])]):
        convolved = torch.relu(branch.project[0](maps))
        torch.testing.assert_close(g[:, position], convolved.mean(dim=(2, 3)))
    torch.testing.assert_close(g[:, 2], torch.relu(network.main.project[0](last)).mean(dim=(2, 3)))


def test_sum_and_conv_fusion_by_hand() -> None:
    stack = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, -9.0]]])
    assert SumFusion()(stack).tolist() == [[9.0, -3.0]]
    conv = ConvFusion(3, None, "relu")
    assert sum(p.numel() for p in conv.parameters()) == 4
    torch.testing.assert_close(conv(stack), torch.tensor([[3.0, 0.0]]))
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, 0.0, 2.0]))
        conv.bias.fill_(0.5)
    torch.testing.assert_close(conv(stack), torch.tensor([[11.5, 0.0]]))


def test_plain_cnn_feature_is_the_main_branch() -> None:
    model = build("cnn").eval()
    batch = toy_batch()
    _, last = model.network.trunk(model.preprocess(batch["image"]))
    torch.testing.assert_close(model.features(batch), model.network.main(last))


def test_eplf_fuses_signed_predictions() -> None:
    model = build("eplf").eval()
    batch = toy_batch()
    g = model.network.branches(model.preprocess(batch["image"]))
    heads = [*model.network.side_classifiers, model.network.classifier]
    predictions = torch.stack([head(g[:, i]) for i, head in enumerate(heads)], dim=1)
    logits = model.predict(batch)["logits"]
    torch.testing.assert_close(logits, predictions.mean(dim=1))  # at its initial weights of 1/3
    assert (logits < 0).any()
    torch.testing.assert_close(model.features(batch), g[:, -1])


def test_variants_start_from_the_same_trunk_and_the_same_dropout() -> None:
    def started(preset: str | None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        torch.manual_seed(7)
        network = build(preset).network
        shared = {k: v for k, v in network.state_dict().items() if not k.startswith(("side", "fusion"))}
        return shared, torch.rand(3)

    plain, next_random = started("cnn")
    for preset in ("cnn_sum", "cnn_conv", None, "eplf"):
        other, other_random = started(preset)
        assert plain.keys() == other.keys()
        assert all(torch.equal(plain[k], other[k]) for k in plain)
        assert torch.equal(next_random, other_random)


def test_global_contrast_normalisation() -> None:
    image = torch.rand(3, 3, 8, 8)
    image[2] = 0.7
    out = global_contrast_normalise(image)
    torch.testing.assert_close(out[:2].mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(out[:2].std(dim=(1, 2, 3), correction=0), torch.ones(2))
    assert out[2].abs().max() < 10  # constant: no explosion beyond rounding
    torch.testing.assert_close(
        global_contrast_normalise(0.2 * image[:2] + 0.1), out[:2], atol=1e-4, rtol=1e-4
    )


def test_pad_crop_flip_equals_slicing_one_by_one() -> None:
    image = torch.randn(5, 2, 6, 6)
    top, left = torch.tensor([0, 8, 4, 3, 1]), torch.tensor([8, 0, 4, 2, 7])
    flip = torch.tensor([False, True, False, True, True])
    padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
    expected = torch.stack(
        [
            (crop.flip(2) if f else crop)
            for crop, f in (
                (padded[i, :, t : t + 6, c : c + 6], f)
                for i, (t, c, f) in enumerate(zip(top, left, flip, strict=True))
            )
        ]
    )
    out = pad_crop_flip(image, top, left, flip)
    assert torch.equal(out, expected)
    assert torch.equal(out[2], image[2])


def test_deep_supervision_adds_one_weighted_loss_a_side() -> None:
    main = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    sides = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [0.0, 0.0]]])  # [B, 2, C]
    label = torch.tensor([0, 1])
    expected = (
        cross_entropy(main, label)
        + 0.3 * cross_entropy(sides[:, 0], label)
        + 0.3 * cross_entropy(sides[:, 1], label)
    )
    torch.testing.assert_close(classification_loss(main, sides, label, 0.3), expected)
    torch.testing.assert_close(classification_loss(main, None, label, 0.3), cross_entropy(main, label))


def test_mean_picture_is_the_mean_of_what_was_seen_then_stays() -> None:
    batches = torch.rand(3, 4, 3, 6, 6)
    per_pixel = MeanPicture(3, (6, 6), per_pixel=True, steps=2)
    per_channel = MeanPicture(3, (6, 6), per_pixel=False, steps=2)
    for images in batches:
        per_pixel.observe(images)
        per_channel.observe(images)
    seen = batches[:2].flatten(0, 1)
    torch.testing.assert_close(per_pixel(batches[2]), batches[2] - seen.mean(dim=0))
    torch.testing.assert_close(per_channel(batches[2]), batches[2] - seen.mean(dim=(0, 2, 3))[:, None, None])
    assert per_pixel(torch.rand(1, 3, 12, 9)).shape == (1, 3, 12, 9)
    assert set(per_pixel.state_dict()) == {"mean", "seen"}


def test_learning_rates_of_the_groups_and_the_schedule() -> None:
    model = build()
    model._fabric = None
    model.trainer = SimpleNamespace(estimated_stepping_batches=120_000, optimizers=[])  # type: ignore[assignment]
    configured = model.configure_optimizers()
    groups = configured["optimizer"].param_groups
    found = sorted(
        (round(g["lr"], 6), g["weight_decay"], sum(p.numel() for p in g["params"])) for g in groups
    )
    biases = 3 * 64 + 3 * 192 + 10
    weights = 224_202 + 24_960 - biases
    assert found == [(0.01, 1e-4, 576), (0.02, 0.0, 192), (0.1, 1e-4, weights), (0.2, 0.0, biases)]
    assert dict(configured["lr_scheduler"]["scheduler"].milestones) == {100_000: 1}
    model = build("repo")
    model.trainer = SimpleNamespace(estimated_stepping_batches=120_000, optimizers=[])  # type: ignore[assignment]
    assert dict(model.configure_optimizers()["lr_scheduler"]["scheduler"].milestones) == {
        40_000: 1,
        80_000: 1,
    }
    with torch.device("meta"):
        large = build("cfn_11", width=0.1)
    assert large.lr == 0.01
    assert large.drops == (0.5, 0.75)


def test_initial_weights_are_the_published_ones() -> None:
    torch.manual_seed(0)
    network = build(trunk="b").network
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(abs(float(m.weight.std()) - 0.05) < 0.002 for m in convolutions[1:])
    assert abs(float(network.classifier.weight.std()) - 0.1) < 0.005
    assert float(network.fusion.weight.detach().mean()) == pytest.approx(1 / 3)
    with torch.device("meta"):
        large = build("cfn_11")
    assert large.network.branch_count == 4
    small = build("cfn_11", width=0.1)
    assert float(small.network.fusion.weight.detach().min()) == 0.25


@pytest.mark.parametrize("preset", [None, "cnn", "cnn_sum", "cnn_conv", "b", "b_star", "eplf"])
def test_paper_sizes_of_the_small_networks_step_once(preset: str | None) -> None:
    torch.manual_seed(0)
    model = build(preset)
    loss = step(model, toy_batch())
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("preset", ["cfn_11", "cfn_11_repo", "dsn_11", "resnet_11"])
def test_paper_sizes_of_the_imagenet_networks_step_once(preset: str) -> None:
    torch.manual_seed(0)
    model = build(preset, classes=1000, side=224)
    batch = toy_batch(2, 224, 1000)
    assert torch.isfinite(step(model, batch))
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert int(model.mean_picture.seen) == 1
    assert model.features(batch).shape == (2, 1024)


def test_cfn_19_at_a_small_width_steps_once() -> None:
    model = build("cfn_19", side=64, width=0.05)
    assert torch.isfinite(step(model, toy_batch(4, 64)))


def test_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="peers"):
        build(peer="dsn", trunk="11")
    with pytest.raises(ValueError, match="side branches"):
        build(side_branches=[3])
    with pytest.raises(ValueError, match="side branches"):
        build(side_branches=[2, 1])
    with pytest.raises(TypeError):
        build(fusoin="lc")


def test_diagnostics_split_parameters_and_average_the_fusion() -> None:
    model = build()
    with torch.no_grad():
        model.network.fusion.weight[2] += 0.5
    numbers = model.diagnostics()
    assert numbers["parameters_fusion"] == 768
    assert numbers["fusion_weight_side1"] == pytest.approx(1 / 3)
    assert numbers["fusion_weight_main"] == pytest.approx(1 / 3 + 0.5)
    assert numbers["main_branch_largest"] == 1.0
    assert "fusion_weight_main" not in build("cnn_sum").diagnostics()


def test_every_preset_fits_the_constructor_and_every_name_exists() -> None:
    with torch.device("meta"):
        for preset in CFN.presets:
            build(preset, classes=12, side=64)
    for written in [*CFN.baselines, *(claim.over for claim in CFN.claims)]:
        name, _, preset = written.partition(":")
        assert name == "majority" or (name == "cfn" and preset in CFN.presets)


def trained(model: CFN, data: pl.LightningDataModule, steps: int) -> tuple[float, float]:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (before,) = trainer.test(model, data, verbose=False)
    trainer.fit(model, data)
    (after,) = trainer.test(model, data, verbose=False)
    return before["test/error"], after["test/error"]


def test_learns_on_the_miniature(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = CIFAR10(cache=cache, batch_size=32)
    model = CFN(data.spec, **{**CFN.profile("mini"), "width": 0.125})
    before, after = trained(model, data, 600)
    assert after < before - 5
    assert after < 80  # the trivial predictor has 90


def test_smoke_profile_runs_on_the_photograph_miniature(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = ImageNet(cache=cache, batch_size=8)
    model = CFN(data.spec, **CFN.profile("smoke", "cfn_11"))
    _, after = trained(model, data, 3)
    assert 0 <= after <= 100
    assert int(model.mean_picture.seen) == 3
