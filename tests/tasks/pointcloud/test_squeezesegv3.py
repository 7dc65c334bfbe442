"""SqueezeSegV3: Eq. 5 and the schedule by hand, parameter counts, the paper's sizes, and learning."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.pointcloud.semantic_kitti import CLASSES, PUBLISHED_RATIOS, SemanticKITTI
from datamodules.specs import LidarSpec
from tasks.pointcloud.position_prior import PositionPrior
from tasks.pointcloud.squeezesegv3 import (
    PixelStatistics,
    SqueezeSegV3,
    active_area,
    downsample_label,
    frequency_weights,
    learning_rate_factor,
    multi_layer_loss,
)
from tasks.pointcloud.squeezesegv3_network import Layout, SqueezeSegV3Network

SPEC = LidarSpec(
    dataset="made-up",
    classes=CLASSES,
    class_frequency=(0.05,) * 20,
    beams=64,
    azimuths=2048,
    fov_up=3.0,
    fov_down=-25.0,
    mean=(12.12, 10.88, 0.23, -1.04, 0.21),
    std=(12.32, 11.47, 6.91, 0.86, 0.16),
    raw_ids=tuple(range(20)),
)
TINY = {"image_height": 8, "image_width": 64, "width_multiplier": 0.125}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make_batch(scans: int = 2, points: int = 500, seed: int = 0) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.randn(scans * points, 4, generator=generator) * torch.tensor([9.0, 9.0, 1.5, 0.2])
    return {
        "points": cloud - torch.tensor([0.0, 0.0, 1.0, 0.0]),
        "scan": torch.arange(scans).repeat_interleave(points),
        "label": torch.randint(0, 20, (scans * points,), generator=generator),
        "id": [str(number) for number in range(scans)],
    }


def silent(method: SqueezeSegV3) -> SqueezeSegV3:
    method.log = lambda *args, **options: None  # type: ignore[method-assign]
    return method


# Parameter counts of the official code with 20 outputs, and of RangeNet++ (50.4 million for 53 layers).


def test_parameters_of_depth_21() -> None:
    with torch.device("meta"):
        network = SqueezeSegV3(SPEC).network
    assert parameters(network) == 9_247_140
    assert parameters(network.stem) + parameters(network.encoder) == 6_129_120
    assert parameters(network.decoder) == 3_098_080
    assert parameters(network.heads) == 19_940
    attention = [block.adapt.attention for stage in network.encoder for block in stage.blocks]
    assert sum(map(parameters, attention)) == 1_512_000


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("53", 25_959_588),
        ("rangenet53", 50_377_364),
        ("rangenet21", 24_712_980),
        ("rangenet21_ds", 7_403_028),
    ],
)
def test_parameters_of_other_networks(preset: str, count: int) -> None:
    with torch.device("meta"):
        assert parameters(SqueezeSegV3(SPEC, **SqueezeSegV3.profile("paper", preset)).network) == count


def test_each_column_of_table_5_adds_one_thing() -> None:
    columns = [SqueezeSegV3.presets[name] for name in ("rangenet21", "rangenet21_ds", "rangenet21_ds_multi")]
    for before, after in pairwise(columns):
        assert len(set(after.items()) - set(before.items())) == 1
    with torch.device("meta"):
        baseline, single = (
            SqueezeSegV3(SPEC, **SqueezeSegV3.presets[name]).network
            for name in ("rangenet21_ds_multi", "rangenet21_ds")
        )
    # Four 1x1 heads of 64, 128, 256 and 256 channels are all that the further losses cost.
    assert parameters(baseline) - parameters(single) == (64 + 128 + 256 + 256) * 20 + 4 * 20


@pytest.mark.parametrize("preset", [None, *SqueezeSegV3.presets])
def test_every_preset_steps_in_small(preset: str | None) -> None:
    torch.manual_seed(0)
    options = {**SqueezeSegV3.profile("smoke", preset), **TINY}
    method = silent(SqueezeSegV3(SPEC, **options))
    batch = make_batch()
    loss = method.training_step(batch, 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.network.parameters())
    method.eval()
    with torch.no_grad():
        prediction = method.predict(batch)
    assert prediction["label"].shape == (1000,)
    assert prediction["image_label"].shape == prediction["image_truth"].shape
    assert 0 <= int(prediction["label"].min()) <= int(prediction["label"].max()) <= 19


@pytest.mark.slow
def test_the_paper_profile_steps_at_full_size() -> None:
    torch.manual_seed(0)
    method = silent(SqueezeSegV3(SPEC, **SqueezeSegV3.profile("paper")))
    batch = make_batch(scans=1, points=60_000)
    before = method.network.stem[0].weight.clone()
    loss = method.training_step(batch, 0)
    loss.backward()
    torch.optim.SGD(method.parameters(), lr=method.learning_rate).step()
    assert math.isfinite(loss.item())
    assert not torch.equal(before, method.network.stem[0].weight)


def test_presets_and_profiles_only_name_options_that_exist() -> None:
    for preset in [None, *SqueezeSegV3.presets]:
        for profile in ("paper", "mini", "smoke"):
            with torch.device("meta"):
                SqueezeSegV3(SPEC, **SqueezeSegV3.profile(profile, preset))
    for name in SqueezeSegV3.baselines:
        method, _, preset = name.partition(":")
        assert preset in SqueezeSegV3.presets if method == "squeezesegv3" else not preset
    with pytest.raises(TypeError, match="depht"):
        SqueezeSegV3(SPEC, depht=53)
    with pytest.raises(ValueError, match="divide"):
        SqueezeSegV3(SPEC, image_width=100)


# The network.


def test_heads_see_one_two_four_eight_eight() -> None:
    network = SqueezeSegV3Network(20, Layout.of(21, True, 0.125))
    image = torch.randn(2, 5, 6, 64)
    shapes = [tuple(logits.shape) for logits in network(image)]
    assert shapes == [(2, 20, 6, 64 // step) for step in (1, 2, 4, 8, 8)]
    rangenet = SqueezeSegV3Network(
        20, Layout.of(21, False, 0.125), sac="none", position="after_down", heads=1
    )
    assert [tuple(logits.shape) for logits in rangenet(image)] == [(2, 20, 6, 64)]
    assert [stage.stride for stage in rangenet.encoder] == [2] * 5


def test_each_sac_sees_coordinates_at_its_own_resolution() -> None:
    network = SqueezeSegV3Network(20, Layout.of(21, True, 0.125))
    seen: list[torch.Tensor] = []
    for stage in network.encoder:
        for block in stage.blocks:
            block.adapt.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    image = torch.randn(1, 5, 6, 64)
    network(image)
    assert [inputs[1].shape[-1] for inputs in seen] == [64, 32, 16, 16, 8, 8, 8]
    assert all(features.shape[2:] == coordinates.shape[2:] for features, coordinates in seen)
    assert torch.equal(seen[0][1], image[:, 1:4])  # x, y, z; not range or remission


def test_coordinates_are_halved_bilinearly() -> None:
    stage = SqueezeSegV3Network(20, Layout.of(21, True, 0.125)).encoder[0]
    ramp = torch.arange(8.0).expand(1, 3, 4, 8)
    _, halved = stage(torch.randn(1, 4, 4, 8), ramp)
    torch.testing.assert_close(halved[0, 0, 0], torch.tensor([0.0, 7 / 3, 14 / 3, 7.0]))


def test_detached_skips_carry_no_gradient() -> None:
    """With the path through the encoder cut, the stem learns through the skips alone, or not at all."""
    for detach in (True, False):
        torch.manual_seed(0)
        network = SqueezeSegV3Network(20, Layout.of(21, True, 0.125), detach_skips=detach)
        network.encoder[0].register_forward_hook(
            lambda module, inputs, output: (output[0].detach(), output[1])
        )
        network(torch.randn(1, 5, 6, 64))[0].square().sum().backward()
        weight = network.stem[0].weight
        assert (weight.grad is None) == detach


def test_attention_depends_on_position_where_a_plain_block_does_not() -> None:
    """Turning features and coordinates turns the output; turning features alone does so only without SAC."""
    torch.manual_seed(0)
    features, coordinates = torch.randn(1, 4, 6, 16), torch.randn(1, 3, 6, 16)
    for sac, same in (("ISK", False), ("plain", True)):
        network = SqueezeSegV3Network(20, Layout.of(21, True, 0.125), sac=sac, wrap=True).eval()
        block = network.encoder[0].blocks[0]
        alone = block(features.roll(4, -1), coordinates)
        assert torch.allclose(alone, block(features, coordinates).roll(4, -1), atol=1e-5) == same


def test_wrapped_network_commutes_with_turning_the_scan() -> None:
    torch.manual_seed(0)
    options = {"sac": "none", "position": "after_down", "wrap": True}  # coordinates resample with fixed ends
    network = SqueezeSegV3Network(20, Layout.of(21, True, 0.125), **options).eval()
    image = torch.randn(1, 5, 6, 64)
    turned = network(image.roll(16, -1))[0]
    torch.testing.assert_close(turned, network(image)[0].roll(16, -1), atol=1e-4, rtol=1e-4)


# Loss, weights, labels, schedule.


def test_loss_by_hand() -> None:
    # Two pixels and a head at each of two resolutions; uniform logits: -log p = log 3 for all.
    label = torch.tensor([[[1, 2]]])
    weights = torch.tensor([0.0, 1.0, 3.0])
    fine, coarse = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 1)
    loss = multi_layer_loss([fine, coarse], label, weights)
    assert loss.item() == pytest.approx(2 * math.log(3))  # each head is a weighted mean of log 3
    loss = multi_layer_loss([fine, coarse], label, weights, "hw")
    # (1 + 3) log 3 / 2 pixels, and the coarse pixel is the left one: 1 log 3 / 1.
    assert loss.item() == pytest.approx((4 / 2 + 1) * math.log(3))


def test_loss_is_minus_w_label_log_prediction() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 4, 3, 8), torch.randint(0, 4, (2, 3, 8))
    weights = torch.tensor([0.0, 0.5, 2.0, 1.0])
    per_pixel = (-weights.view(1, -1, 1, 1) * F.one_hot(label, 4).movedim(-1, 1) * logits.log_softmax(1)).sum(
        1
    )
    torch.testing.assert_close(multi_layer_loss([logits], label, weights, "hw"), per_pixel.mean())
    expected = per_pixel.sum() / weights[label].sum()
    torch.testing.assert_close(multi_layer_loss([logits], label, weights), expected)


def test_loss_ignores_empty_pixels_and_survives_an_empty_image() -> None:
    weights = torch.tensor([0.0, 1.0])
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    label = torch.tensor([[[0, 1], [0, 0]]])
    multi_layer_loss([logits], label, weights).backward()
    assert (logits.grad != 0).any(1).tolist() == [[[False, True], [False, False]]]
    assert multi_layer_loss([logits], torch.zeros_like(label), weights).item() == 0


def test_labels_are_downsampled_to_the_nearest_in_width_only() -> None:
    label = torch.tensor([[[1, 9, 4, 9], [2, 9, 7, 9]]])
    assert downsample_label(label, 2).tolist() == [[[1, 4], [2, 7]]]
    nearest = F.interpolate(label[:, None].float(), (2, 2), mode="nearest")[:, 0].long()
    assert torch.equal(downsample_label(label, 2), nearest)
    with pytest.raises(ValueError, match="columns"):
        downsample_label(label, 3)


def test_class_weights_by_hand() -> None:
    frequency = (0.5, 0.199, 0.009, 0.0)
    assert frequency_weights(frequency, "inverse").tolist() == pytest.approx([0, 5, 100, 1000])
    log = [0, 1 / math.log(1.219), 1 / math.log(1.029), 1 / math.log(1.02)]
    assert frequency_weights(frequency, "log").tolist() == pytest.approx(log, rel=1e-5)
    assert frequency_weights(frequency, "none").tolist() == [0, 1, 1, 1]
    road = PUBLISHED_RATIOS[40] + PUBLISHED_RATIOS[60]
    assert frequency_weights((0.0, road), "inverse")[1].item() == pytest.approx(5.0058, abs=1e-3)
    with pytest.raises(ValueError, match="inverse"):
        frequency_weights(frequency, "printed")


def test_schedule_by_hand() -> None:
    factors = [learning_rate_factor(step, 4, 1.0, 0.5) for step in range(13)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])  # up over the first epoch
    assert factors[8] == pytest.approx(0.5)  # halved after one epoch more
    assert factors[6] == pytest.approx(0.5**0.5)  # step by step
    assert factors[12] == pytest.approx(0.25)


# From points to pixels and back.


def test_all_points_of_a_pixel_get_its_class_and_the_2d_score_counts_pixels() -> None:
    method = SqueezeSegV3(SPEC, **TINY).eval()
    near, far, aside = [5.0, 0.0, -0.5, 0.1], [20.0, 0.0, -2.0, 0.3], [0.0, 5.0, -0.5, 0.2]
    batch = {
        "points": torch.tensor([far, near, aside]),
        "scan": torch.zeros(3, dtype=torch.int64),
        "label": torch.tensor([13, 18, 9]),
        "id": ["a"],
    }
    with torch.no_grad():
        prediction = method.predict(batch)
    label = prediction["label"]
    assert label[0] == label[1]
    assert len(prediction["image_label"]) == 2
    assert sorted(prediction["image_truth"].tolist()) == [9, 18]  # the nearest survives
    behind = SqueezeSegV3(SPEC, **TINY, keep="far").eval()
    with torch.no_grad():
        assert sorted(behind.predict(batch)["image_truth"].tolist()) == [9, 13]


def test_empty_pixels_enter_the_network_as_zeros_and_the_first_point_counts() -> None:
    method = SqueezeSegV3(SPEC, **TINY).eval()
    image = method.range_image(make_batch(scans=1, points=1))
    assert int(image.mask.sum()) == 1
    seen: list[torch.Tensor] = []
    method.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    method(image)
    assert int((seen[0] != 0).any(1).sum()) == 1


def test_knn_changes_points_never_pixels_and_never_answers_zero() -> None:
    torch.manual_seed(0)
    plain = SqueezeSegV3(SPEC, **TINY).eval()
    voted = SqueezeSegV3(SPEC, **TINY, knn=True).eval()
    voted.load_state_dict(plain.state_dict())
    batch = make_batch(points=2000)
    with torch.no_grad():
        one, two = plain.predict(batch), voted.predict(batch)
    assert torch.equal(one["image_label"], two["image_label"])
    assert not torch.equal(one["label"], two["label"])
    assert int(two["label"].min()) >= 1


def test_a_real_scan_fills_the_image_and_every_point_is_answered(real_data: Path) -> None:
    data = SemanticKITTI(real_data, "real", batch_size=1)
    batch = next(iter(data.test_dataloader()))
    method = SqueezeSegV3(data.spec, image_width=512, width_multiplier=0.0625, knn=True).eval()
    image = method.range_image(batch)
    assert 0.7 < float(image.mask.float().mean()) < 0.95
    assert len(batch["points"]) > 3 * int(image.mask.sum())  # most points share a pixel: KNN has work
    seen: list[torch.Tensor] = []
    method.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        prediction = method.predict(batch)
    assert prediction["label"].shape == batch["label"].shape
    assert 1 <= int(prediction["label"].min()) <= int(prediction["label"].max()) <= 19
    spread = seen[0].movedim(1, -1)[image.mask].std(0)
    assert ((spread > 0.3) & (spread < 2)).all()  # normalised by the constants, in their order


def test_mixed_precision_gives_a_finite_loss() -> None:
    torch.manual_seed(0)
    method = silent(SqueezeSegV3(SPEC, **TINY))
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.training_step(make_batch(), 0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert math.isfinite(loss.item())


# Diagnostics of Fig. 3.


def test_active_area_by_hand() -> None:
    activation = torch.zeros(3, 2, 2)
    activation[0, 0, 0] = 5.0  # a quarter of the image
    activation[1] = torch.tensor([[1.0, 0.05], [0.5, 0.2]])  # 0.05 is less than a tenth of 1
    assert active_area(activation).tolist() == [0.25, 0.75, 0.0]


def test_pixel_means_count_measured_pixels_only() -> None:
    method = SqueezeSegV3(SPEC, **TINY)
    statistics = PixelStatistics()
    for x in (4.0, 6.0):
        batch = make_batch(scans=1, points=1) | {"points": torch.tensor([[x, 0.0, 0.0, 0.0]])}
        image = method.range_image(batch)
        statistics.update(image, torch.full((1, 2, 8, 16), x - 5))
    coordinates, activation = statistics.means()
    row, column = image.mask[0].nonzero()[0]
    assert coordinates[:, row, column].tolist() == [5.0, 0.0, 0.0]
    assert int(torch.isfinite(coordinates[0]).sum()) == 1
    assert activation.unique().tolist() == [0.5]  # (0 + 1) / 2: negative activations are none


# Training.


def trainer(epochs: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )


def test_training_on_the_miniature_beats_its_start_and_the_position_prior(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = SemanticKITTI(batch_size=1, seed=0, cache=cache)
    small = {"image_height": 16, "image_width": 128, "width_multiplier": 0.1875}
    method = SqueezeSegV3(data.spec, **{**SqueezeSegV3.profile("mini"), **small})
    start = trainer(1).test(method, data, verbose=False)[0]
    run = trainer(14)
    run.fit(method, data)
    logged = set(run.callback_metrics)
    end = run.test(method, data, verbose=False)[0]
    prior = PositionPrior(data.spec, height=16, width=128)
    counting = trainer(1)
    counting.fit(prior, data)
    trivial = counting.test(prior, data, verbose=False)[0]
    for measure in ("test/miou", "test/miou_2d"):
        assert end[measure] > start[measure] + 5
    assert end["test/miou"] > trivial["test/miou"]
    assert end["test/miou_small"] > trivial["test/miou_small"] + 2
    # Training scores are logged and the schedule has run down.
    assert {"train/loss", "train/miou_2d", "train/accuracy_2d"} <= logged
    rate = run.optimizers[0].param_groups[0]["lr"]
    assert rate == pytest.approx(method.learning_rate * 0.8**13, rel=1e-6)
    # Fig. 3.
    assert 0 < method.diagnostics()["active_area"] < 100
    figures = method.figures()
    assert set(figures) == {"mean_coordinates", "mean_activation"}
    assert all(figure.dtype == np.uint8 and figure.shape[-1] == 3 for figure in figures.values())
    coordinates, _ = method.statistics.means()
    assert coordinates[2, :4].nanmean() > coordinates[2, -4:].nanmean()  # z falls from top to bottom


def test_same_seed_same_numbers(cache: Path) -> None:
    losses = []
    for _ in range(2):
        pl.seed_everything(3, verbose=False)
        data = SemanticKITTI(batch_size=2, seed=3, cache=cache)
        method = SqueezeSegV3(data.spec, **{**SqueezeSegV3.profile("smoke"), "dropout": 0.2})
        run = pl.Trainer(
            accelerator="cpu",
            max_steps=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )
        run.fit(method, data)
        losses.append([float(run.callback_metrics["train/loss"]), method.network.stem[0].weight.sum().item()])
    assert losses[0] == losses[1]
