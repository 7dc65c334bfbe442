"""RDS: targets by hand, what each loss sees, stages, and training that beats trivial predictors."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import nn

from datamodules.base import DataError
from datamodules.dense.bsds500 import BSDS500
from datamodules.specs import EdgeSpec
from tasks.base import Batch
from tasks.blocks.edge_losses import balanced_cross_entropy
from tasks.dense.rds import (
    RDS,
    canny_levels,
    map_levels,
    pack_levels,
    relaxed_labels,
    sgd_rates,
    unpack_levels,
)

SPEC = EdgeSpec(dataset="fake", annotators=5)
SMALL = {"width": 0.05, "sigmas": (0.5, 1.0, 1.5, 2.0, 3.0)}


def random_batch(size: tuple[int, int] = (24, 32), samples: int = 2, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    edges = (torch.rand(samples, 1, *size, generator=generator) < 0.1) & (
        torch.rand(samples, 5, *size, generator=generator) < 0.7
    )
    return {
        "image": torch.rand(samples, 3, *size, generator=generator),
        "edges": edges.to(torch.uint8),
        "annotators": torch.full((samples,), 5),
        "id": [f"sample{index}" for index in range(samples)],
    }


def shaken(method: RDS, seed: int = 0) -> RDS:
    """The method with side outputs that are not zero, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    for score in method.network.side_outputs.scores:
        score.weight.data = torch.randn(score.weight.shape, generator=generator)
    return method


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*self.trainer. reference is not registered.*")
        warnings.filterwarnings("ignore", message="rds trains random weights.*")
        yield


# Targets


def test_relaxed_labels_are_the_set_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    detected = torch.rand(3, 5, 8, 9, generator=generator) < 0.4
    target = (torch.rand(3, 1, 8, 9, generator=generator) < 0.3).long()
    labels = relaxed_labels(detected, target)
    for sample in range(3):
        edge = {tuple(place) for place in target[sample, 0].nonzero().tolist()}
        for level in range(5):
            fires = {tuple(place) for place in detected[sample, level].nonzero().tolist()}
            found = {tuple(place) for place in (labels[sample, level] == 2).nonzero().tolist()}
            assert found == fires - edge
    assert torch.equal(labels == 1, (target == 1).expand(-1, 5, -1, -1))
    ignored = relaxed_labels(torch.tensor([[[[True, False, True, False]]]]), torch.tensor([[[[2, 2, 1, 0]]]]))
    assert ignored.tolist() == [[[[2, 2, 1, 0]]]]


def test_map_levels_by_hand() -> None:
    probability = np.array([[0.0, 0.1, 0.2, 0.3, 0.9]])  # mean 0.3
    levels = map_levels(probability, (0.5, 1.0, 2.5, 3.0), lines=False)
    assert levels[:, 0].astype(int).tolist() == [
        [0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1],
    ]
    assert not map_levels(np.zeros((3, 4)), (0.5, 1.0), lines=False).any()


def test_lines_of_a_map_are_its_ridges_with_the_same_mean() -> None:
    probability = np.zeros((30, 40), np.float32)
    for row, peak in ((10, 1.0), (20, 0.1)):
        probability[row - 1 : row + 2] = peak * np.array([[0.5], [1.0], [0.5]])
    # The mean is 2 * 1.1 / 30 = .0733: the weak line is above once, not twice it.
    broad = map_levels(probability, (1.0, 2.0), lines=False)
    assert [sorted(set(level.nonzero()[0].tolist())) for level in broad] == [[9, 10, 11, 20], [9, 10, 11]]
    lines = map_levels(probability, (1.0, 2.0))
    assert [sorted(set(level.nonzero()[0].tolist())) for level in lines] == [[10, 20], [10]]


def test_canny_fires_less_at_larger_sigma() -> None:
    generator = np.random.default_rng(0)
    image = np.full((80, 96, 3), 0.3)
    image[:, 48:] = 0.7
    image += generator.normal(0, 0.05, image.shape)
    levels = canny_levels(image, (1, 3, 5, 7, 9), (0.35, 0.7))
    counts = levels.sum((1, 2))
    assert (np.diff(counts) <= 0).all()
    assert counts[0] > 4 * counts[4] > 0
    # The step itself is found at every scale, to within the blur.
    assert levels[:, 20:60, 46:50].any((1, 2)).all()


def test_packing_is_lossless() -> None:
    detected = np.random.default_rng(0).random((5, 6, 7)) < 0.5
    packed = pack_levels(detected)
    assert packed.dtype == torch.uint8
    assert packed.shape == (6, 7)
    assert np.array_equal(unpack_levels(packed[None], 5)[0].numpy(), detected)


def test_rates_convert_by_hand_and_give_the_same_path() -> None:
    rate, decay = sgd_rates(1e-9, 2e-4, "mean", 8 * 400 * 400)
    assert rate == pytest.approx(1.28e-3)
    assert rate * decay == pytest.approx(1e-9 * 2e-4)
    x = torch.linspace(-1, 1, 50)
    ends = []
    for reduction in ("sum", "mean"):
        weight = torch.tensor([0.5], requires_grad=True)
        lr, wd = sgd_rates(0.01, 0.3, reduction, 50)
        optimiser = torch.optim.SGD([weight], lr=lr, momentum=0.9, weight_decay=wd)
        for _ in range(5):
            optimiser.zero_grad()
            loss = balanced_cross_entropy(weight * x, (x > 0.3).long(), 9.0, 1.0, reduction=reduction)
            loss.backward()
            optimiser.step()
        ends.append(weight.item())
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)
    assert abs(ends[0] - 0.5) > 0.05


# The network and its losses


def test_parameter_count_of_the_paper() -> None:
    with torch.device("meta"):
        method = RDS(SPEC)
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == 14_716_171
    assert [name for name, p in method.named_parameters() if not p.requires_grad] == []


def test_fusion_adds_logits_with_equal_weights() -> None:
    method = RDS(SPEC, **SMALL)
    side, fused = method(torch.rand(2, 3, 17, 30))
    assert side.shape == (2, 5, 17, 30)
    assert not side.any()
    assert not fused.any()
    side, fused = shaken(method)(torch.rand(2, 3, 17, 30))
    assert torch.allclose(fused, side.mean(1, keepdim=True), atol=1e-5)


def loss_by_hand(method: RDS, batch: Batch, levels: list[int]) -> torch.Tensor:
    target = method.target(batch)
    side, fused = method(batch["image"])
    labels = method.labels(batch, target)
    total = balanced_cross_entropy(fused, target, 9.0, 1.0)
    for level in levels:
        total = total + balanced_cross_entropy(side[:, level], labels[:, level], 9.0, 1.0)
    return total


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"relax_source": "se_surrogate"}, [0, 1, 2, 3, 4]),
        ({"supervision": "general"}, [0, 1, 2, 3, 4]),
        ({"levels": "early"}, [0, 1, 2]),
        ({"levels": "late"}, [3, 4]),
        ({"levels": "none"}, []),
        ({"supervision": "fuse_only"}, []),
    ],
)
def test_training_loss_is_that_of_eq_3_3(options: dict[str, Any], levels: list[int]) -> None:
    method = shaken(RDS(SPEC, **SMALL, **options))
    batch = random_batch()
    expected = loss_by_hand(method, batch, levels)
    assert torch.allclose(method.training_step(batch, 0), expected)
    mean = RDS(SPEC, **SMALL, **options, reduction="mean")
    mean.load_state_dict(method.state_dict())
    assert mean.training_step(batch, 0).item() == pytest.approx(expected.item() / (2 * 24 * 32), rel=1e-5)


def test_side_gradient_is_exactly_zero_at_relaxed_pixels() -> None:
    method = shaken(RDS(SPEC, **SMALL))
    nn.init.zeros_(method.network.fusion.weight)  # leaves the side losses as the only gradient
    captured: list[torch.Tensor] = []
    method.network.side_outputs.register_forward_hook(
        lambda _module, _inputs, output: (output.retain_grad(), captured.append(output))[0]
    )
    batch = random_batch()
    method.training_step(batch, 0).backward()
    labels = method.labels(batch, method.target(batch))
    gradient = captured[0].grad
    for level in range(5):
        assert (labels[:, level] == 2).any()
        assert not gradient[:, level][labels[:, level] == 2].any()
        assert bool((gradient[:, level][labels[:, level] != 2] != 0).all())


def test_fused_loss_never_sees_relaxed_pixels() -> None:
    """With the side losses off, RDS and general supervision are one and the same."""
    batch = random_batch()
    relaxed = shaken(RDS(SPEC, **SMALL))
    target = relaxed.target(batch)
    assert set(target.unique().tolist()) == {0, 1}
    assert set(relaxed.labels(batch, target).unique().tolist()) == {0, 1, 2}
    general = RDS(SPEC, **SMALL, supervision="general")
    assert torch.equal(general.labels(batch, target), target.expand(-1, 5, -1, -1))


def test_relaxing_nothing_is_general_supervision() -> None:
    batch = random_batch()
    losses = [
        shaken(_seeded(**SMALL, **options)).training_step(batch, 0).item()
        for options in ({"relax_source": "none"}, {"supervision": "general"}, {})
    ]
    assert losses[0] == losses[1] > losses[2]


def _seeded(**options: Any) -> RDS:
    torch.manual_seed(0)
    return RDS(SPEC, **options)


def test_per_image_balance_weighs_edges_and_ground_equally() -> None:
    method = RDS(SPEC, **SMALL, supervision="general", balance="per_image")
    # All logits start at 0: each of the six losses is 2 |Y+| |Y-| / |Y| log 2.
    batch = random_batch(samples=1)
    target = method.target(batch)
    positive, total = int(target.sum()), target.numel()
    expected = 6 * 2 * positive * (total - positive) / total * np.log(2)
    assert method.training_step(batch, 0).item() == pytest.approx(expected, rel=1e-5)


def test_labels_are_computed_once_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    method = RDS(SPEC, **SMALL)
    calls: list[str] = []
    detect = method.detect
    monkeypatch.setattr(
        method, "detect", lambda picture, sample: (calls.append(sample), detect(picture, sample))[1]
    )
    batch = random_batch()
    target = method.target(batch)
    first = method.labels(batch, target)
    swapped = {key: value.flip(0) if torch.is_tensor(value) else value[::-1] for key, value in batch.items()}
    assert torch.equal(method.labels(swapped, target.flip(0)), first.flip(0))
    assert calls == ["sample0", "sample1"]
    method.labels(random_batch((16, 16)), method.target(random_batch((16, 16))))
    assert len(calls) == 4  # another training size needs other labels
    assert len(method._detected) == 2


@pytest.mark.parametrize("source", ["canny", "se_surrogate"])
def test_reversed_order_swaps_the_levels(source: Any) -> None:
    picture = random_batch((48, 64))["image"][0].permute(1, 2, 0).numpy()
    normal = RDS(SPEC, **SMALL, relax_source=source).detect(picture, "x")
    swapped = RDS(SPEC, **SMALL, relax_source=source, relax_order="reversed").detect(picture, "x")
    assert np.array_equal(normal, swapped[::-1])
    assert normal[0].sum() > normal[4].sum()


def test_edge_maps_are_read_thresholded_and_resized(tmp_path: Path) -> None:
    edges = np.zeros((48, 64), np.uint8)
    edges[:, 20:24] = 255  # mean 1/16: above every threshold
    edges[:, 40:44] = 30  # 30/255 of .118; the mean becomes .0699
    Image.fromarray(edges).save(tmp_path / "sample0.png")
    method = RDS(SPEC, **SMALL, relax_source="se", edge_maps=str(tmp_path), thin_maps=False)
    batch = random_batch(samples=1)
    batch["edges"].zero_()
    labels = method.labels(batch, method.target(batch))[0]
    assert labels.shape == (5, 24, 32)
    columns = [sorted({x for _, x in (level == 2).nonzero().tolist()}) for level in labels]
    # .118 lies between 1.5 and 2 times the mean: relaxed at the first three levels only.
    assert columns == [[10, 11, 20, 21]] * 3 + [[10, 11]] * 2


def test_missing_edge_maps_say_what_to_do(tmp_path: Path) -> None:
    batch = random_batch(samples=1)
    without = RDS(SPEC, **SMALL, relax_source="se")
    with pytest.raises(DataError, match=r"edge_maps=None is no folder.*se_surrogate"):
        without.training_step(batch, 0)
    with pytest.raises(DataError, match="edge_maps=None"):
        without.on_fit_start()
    absent = RDS(SPEC, **SMALL, relax_source="gpb", edge_maps=str(tmp_path))
    with pytest.raises(DataError, match=r"no edge map of training picture 'sample0'"):
        absent.training_step(batch, 0)
    # Prediction needs no detector, nor do baselines.
    assert without.eval().predict(batch)["edge"].shape == (1, 1, 24, 32)
    assert RDS(SPEC, **SMALL, relax_source="se", supervision="general").training_step(batch, 0) > 0


def test_one_sigma_and_eta_a_level() -> None:
    with pytest.raises(ValueError, match="one sigma and one eta a level"):
        RDS(SPEC, width=0.05, sigmas=(1.0, 2.0))


# Optimisers


def test_optimiser_of_the_paper() -> None:
    method = RDS(SPEC, width=0.05)
    optimiser = method.configure_optimizers()
    assert isinstance(optimiser, torch.optim.SGD)
    rates = sorted({group["lr"] for group in optimiser.param_groups})
    assert rates == pytest.approx([1e-12, 2e-12, 1e-11, 2e-11, 1e-9, 2e-9, 1e-7, 2e-7])
    assert {group["momentum"] for group in optimiser.param_groups} == {0.9}
    assert {group["weight_decay"] for group in optimiser.param_groups} == {0.0, 2e-4}
    recipe = RDS.recipe
    assert (recipe.batch_size, recipe.max_epochs, recipe.data["train_size"]) == (8, 25, (400, 400))


def test_mean_reduction_and_plain_rates() -> None:
    method = RDS(SPEC, width=0.05, reduction="mean", hed_multipliers=False)
    (group,) = method.configure_optimizers().param_groups
    assert group["lr"] == pytest.approx(1.28e-3)
    adam = RDS(SPEC, width=0.05, optimiser="adam", learning_rate=1e-3).configure_optimizers()
    assert isinstance(adam, torch.optim.Adam)


def test_random_weights_with_the_paper_recipe_are_warned_about() -> None:
    with pytest.warns(UserWarning, match="rds trains random weights"):
        RDS(SPEC, width=0.05).on_fit_start()


# Stages


def test_stage_zero_is_needed_and_adopted() -> None:
    assert RDS.needs({"cea": "none"}) == ()
    (need,) = RDS.needs({"cea": "pretrain+finetune", "width": 0.05, "learning_rate": 1.0})
    assert (need.role, need.method, need.dataset) == ("cea", "rds:cea_stage", None)
    assert need.options == {"cea": "none", "width": 0.05}
    stage = shaken(RDS(SPEC, width=0.05, supervision="fuse_only"))
    method = RDS(SPEC, width=0.05, cea="pretrain+finetune")
    method.adopt("cea", stage)
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(method(image)[1], stage(image)[1])
    method.network.fusion.weight.data.zero_()
    assert stage.network.fusion.weight.abs().sum() > 0  # copied, not shared
    with pytest.raises(TypeError, match="needs no 'teacher'"):
        method.adopt("teacher", stage)


def data(cache: Path, **options: Any) -> BSDS500:
    return BSDS500(cache=cache, batch_size=8, train_size=(64, 64), **options)


def trainer(steps: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        limit_test_batches=6,
    )


def test_pretrain_only_is_tested_as_adopted(cache: Path) -> None:
    samples = data(cache)
    samples.prepare_data()
    method = shaken(RDS(samples.spec, **SMALL, cea="pretrain_only", optimiser="adam", learning_rate=1e-3))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    run = trainer(5)
    run.fit(method, samples)
    assert run.global_step == 0
    assert all(
        torch.equal(value, before[key]) for key, value in method.state_dict().items() if "loss" not in key
    )


# Whole


def test_prediction_is_thin_and_of_the_picture_size() -> None:
    method = shaken(RDS(SPEC, **SMALL)).eval()
    batch = random_batch((33, 47), samples=1)
    with torch.no_grad():
        edge = method.predict(batch)["edge"]
    assert edge.shape == (1, 1, 33, 47)
    assert edge.dtype == torch.float32
    assert bool(((edge >= 0) & (edge <= 1)).all())
    assert 0 < float((edge > 0).float().mean()) < 0.6


def test_every_preset_builds_and_steps() -> None:
    batch = random_batch((32, 32))
    for preset in RDS.presets:
        options = RDS.profile("smoke", preset)
        if options.get("relax_source") in ("se", "gpb"):
            continue
        assert torch.isfinite(RDS(SPEC, **options).training_step(batch, 0))


def test_learns_the_miniature_and_reports(cache: Path) -> None:
    samples = data(cache)
    samples.prepare_data()
    pl.seed_everything(0, verbose=False)
    options = RDS.profile("mini")
    method = RDS(samples.spec, **options)
    untrained = trainer(0).test(method, samples, verbose=False)[0]
    run = trainer(100)
    run.fit(method, samples)
    trained = run.test(method, samples, verbose=False)[0]
    # Untrained it says 0.5 everywhere, the trivial map. Canny's best here is .40.
    assert trained["test/ods"] > untrained["test/ods"] + 0.1
    assert trained["test/ods"] > 0.4

    found = method.diagnostics()
    relaxed = [found[f"relaxed_{level}"] for level in range(1, 6)]
    assert all(0 < fraction < 0.6 for fraction in relaxed)
    assert relaxed[0] > relaxed[4]
    assert all(np.isfinite(found[f"side_loss_{level}"]) for level in range(1, 6))
    copy = RDS(samples.spec, **options)
    copy.load_state_dict(method.state_dict())
    assert copy.diagnostics() == found

    figures = method.figures()
    assert set(figures) == {"side_outputs", "relaxed_labels"}
    for picture in figures.values():
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
    assert figures["relaxed_labels"].shape == (64, 6 * 64, 3)


@pytest.mark.slow
def test_paper_profile_steps_once() -> None:
    method = RDS(SPEC)
    batch = random_batch((400, 400), samples=1)
    optimiser = method.configure_optimizers()
    loss = method.training_step(batch, 0)
    loss.backward()
    before = method.network.trunk.convolutions["conv5_3"].bias.detach().clone()
    optimiser.step()
    assert torch.isfinite(loss)
    # All logits start at 0: per level (9 |G| + |counted ground|) log 2.
    target = method.target(batch)
    labels = method.labels(batch, target)
    counted = 9 * int(target.sum()) + int((target == 0).sum())
    counted += sum(9 * int((level == 1).sum()) + int((level == 0).sum()) for level in labels[0])
    assert float(loss) == pytest.approx(counted * np.log(2), rel=1e-4)
    scores = method.network.side_outputs.scores
    assert all(score.weight.grad.abs().sum() > 0 for score in scores)
    assert torch.equal(method.network.trunk.convolutions["conv5_3"].bias, before)  # sides start at 0
