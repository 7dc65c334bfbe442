"""FLOT: Eqs. 6-9 by hand, the paper's size, its switches, published weights, and learning on the miniature."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.pointcloud.flyingthings3d import FlyingThings3DPerfect, FlyingThings3DSubset
from datamodules.specs import SceneFlowSpec
from tasks.blocks.set_conv import NeighbourGraph
from tasks.pointcloud.flot import FLOT, masked_l1, published_names

SPEC = SceneFlowSpec(dataset="made-up", points=40)
TINY = {"neighbours": 5, "width": 4}


def make_batch(batch: int = 2, n: int = 40, m: int = 44, spread: float = 8.0) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "first": spread * torch.rand(batch, n, 3, generator=generator),
        "second": spread * torch.rand(batch, m, 3, generator=generator),
        "flow": torch.rand(batch, n, 3, generator=generator),
        "mask": torch.rand(batch, n, generator=generator) > 0.2,
        "match": torch.randint(-1, m, (batch, n), generator=generator),
        "first_valid": torch.ones(batch, n).bool(),
        "second_valid": torch.ones(batch, m).bool(),
        "id": [str(number) for number in range(batch)],
    }


def silent(method: FLOT) -> FLOT:
    method.log_dict = lambda *args, **options: None  # type: ignore[method-assign]
    return method


def build(seed: int = 0, **options: object) -> FLOT:
    torch.manual_seed(seed)
    return silent(FLOT(SPEC, **{**TINY, **options}))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Size.


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        method = FLOT(SPEC, **FLOT.profile("paper"))
    assert parameters(method) == 111_109
    assert parameters(method.features) == 55_360
    assert parameters(method.refiner) + parameters(method.refined_to_flow) == 55_747
    assert round(4 * parameters(method) / 1e6, 2) == 0.44  # MB (Table 2)
    with torch.device("meta"):
        assert parameters(FLOT(SPEC, **FLOT.profile("paper", "k0"))) == 111_109


def test_the_paper_profile_steps_at_full_size() -> None:
    torch.manual_seed(0)
    method = silent(FLOT(SPEC, **FLOT.profile("paper")))
    assert FLOT.recipe.data == {"points": 2048, "draws": 5}
    batch = make_batch(1, 2048, 2048, spread=20.0)
    before = method.features.layers[0].convolutions[0].weight.clone()
    loss = method.training_step(batch, 0)
    loss.backward()
    method.configure_optimizers().step()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert not torch.equal(before, method.features.layers[0].convolutions[0].weight)


# Learned scalars and the equations.


def test_scalars_start_where_the_authors_start_them() -> None:
    method = FLOT(SPEC, **TINY)
    assert method.epsilon.item() == pytest.approx(1.03)
    assert method.power.item() == pytest.approx(1 / 2.03)
    assert FLOT(SPEC, **TINY, balanced=True).power.item() == 1.0
    assert FLOT(SPEC, **TINY, iterations=0).power.item() == 0.0
    method.log_epsilon.data.fill_(-30.0)
    assert method.epsilon.item() == pytest.approx(0.03)


def test_the_loss_by_hand() -> None:
    truth = torch.zeros(2, 2, 3)
    flow = torch.tensor([[[1.0, -2.0, 0.0], [9.0, 9.0, 9.0]], [[0.3, 0.0, 0.0], [0.0, 0.0, 0.6]]])
    mask = torch.tensor([[True, False], [True, True]])
    assert masked_l1(flow, truth, mask).item() == pytest.approx(
        (3 + 0.3 + 0.6) / 9
    )  # over points, not examples
    assert masked_l1(flow, truth, torch.zeros(2, 2).bool()).item() == 0.0
    flow.requires_grad_()
    masked_l1(flow, truth, mask).backward()
    assert not flow.grad[0, 1].any()


def test_refinement_adds_to_the_flow_of_the_transport() -> None:
    method, batch = build(), make_batch()
    answer = method(batch["first"], batch["second"])
    assert not torch.allclose(answer["flow"], answer["unrefined"])
    nn.init.zeros_(method.refined_to_flow.weight)
    method.refined_to_flow.bias.data = torch.tensor([1.0, 2.0, 3.0])
    answer = method(batch["first"], batch["second"])
    torch.testing.assert_close(answer["flow"], answer["unrefined"] + method.refined_to_flow.bias)


def test_flot_0_is_attention() -> None:
    """Eq. 8, with the features as they are."""
    method, batch = build(iterations=0), make_batch(1)
    first, second = batch["first"], batch["second"]
    features = [
        method.features(cloud.transpose(1, 2), NeighbourGraph.of(cloud, 5))[0].T for cloud in (first, second)
    ]
    cosine = torch.cosine_similarity(features[0][:, None], features[1][None], dim=-1)
    near = (first[0][:, None] - second[0][None]).norm(dim=-1) < 10
    weight = torch.exp((cosine - 1) / 1.03) * near
    expected = weight @ second[0] / weight.sum(1, keepdim=True) - first[0]
    torch.testing.assert_close(method(first, second)["unrefined"][0], expected, atol=1e-4, rtol=1e-3)


def test_both_clouds_share_one_feature_net() -> None:
    """A cloud that is the other one, shuffled: each point's cost is least at itself."""
    method = build(iterations=0)
    first = make_batch(1)["first"]
    order = torch.randperm(40)
    answer = method.eval()(first, first[:, order])
    assert torch.equal(order[answer["match"][0]], torch.arange(40))


def test_the_order_of_points_changes_the_order_of_flows_only() -> None:
    method, batch = build(iterations=3), make_batch(1)
    order, other = torch.randperm(40), torch.randperm(44)
    one = method(batch["first"], batch["second"])["flow"]
    two = method(batch["first"][:, order], batch["second"][:, other])["flow"]
    torch.testing.assert_close(one[:, order], two, atol=1e-4, rtol=1e-3)


def test_training_and_evaluation_are_the_same_and_so_are_alone_and_in_a_batch() -> None:
    method, batch = build(), make_batch()
    trained = method.train()(batch["first"], batch["second"])["flow"]
    alone = method.eval()(batch["first"][1:], batch["second"][1:])["flow"]
    torch.testing.assert_close(trained[1:], alone, atol=1e-4, rtol=1e-3)


def test_padding_changes_nothing() -> None:
    method, batch = build(), make_batch()
    padded = dict(batch)
    for key, fill in (("first", 0), ("second", 0), ("flow", 0), ("mask", 0), ("match", -1)):
        extra = torch.full((2, 9, *batch[key].shape[2:]), fill, dtype=batch[key].dtype)
        padded[key] = torch.cat([batch[key], extra], 1)
    padded["first_valid"] = torch.arange(49).expand(2, 49) < 40
    padded["second_valid"] = torch.arange(53).expand(2, 53) < 44
    one, two = method.predict(batch), method.predict(padded)
    torch.testing.assert_close(one["flow"], two["flow"][:, :40], atol=1e-4, rtol=1e-3)
    loss = method.training_step(batch, 0), method.training_step(padded, 0)
    assert loss[0].item() == pytest.approx(loss[1].item(), rel=1e-4)


def test_points_without_a_partner_stay_and_are_counted() -> None:
    method, batch = build(), make_batch()
    batch["first"][0, 3] = torch.tensor([0.0, 0.0, 100.0])
    answer = method(batch["first"], batch["second"])
    assert not answer["supported"][0, 3]
    assert not answer["unrefined"][0, 3].any()
    assert method._statistics(answer, batch)["unsupported"] == pytest.approx(100 / 80)
    assert torch.isfinite(answer["flow"]).all()


def test_mixed_precision_gives_a_finite_loss_and_a_flow_in_single_precision() -> None:
    method, batch = build(), make_batch()
    method.log_epsilon.data.fill_(-5.0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.training_step(batch, 0)
        answer = method.predict(batch)
    loss.backward()
    assert loss.dtype == answer["unrefined"].dtype == torch.float32
    assert math.isfinite(loss.item())
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.parameters())


# Switches.


@pytest.mark.parametrize("preset", [None, *FLOT.presets])
def test_every_preset_steps(preset: str | None) -> None:
    method = build(**{**FLOT.profile("smoke", preset), **TINY})
    loss = method.training_step(make_batch(), 0)
    loss.backward()
    for name, parameter in method.named_parameters():
        unused = method.refinement == "discarded" and name.startswith("refine")
        if parameter.requires_grad and not unused:
            assert parameter.grad is not None, name
    assert method.log_lambda.requires_grad == (preset not in ("k0", "balanced"))


def test_names_in_tables_exist_and_typos_are_refused() -> None:
    for preset in FLOT.presets:
        for profile in ("paper", "mini", "smoke"):
            with torch.device("meta"):
                FLOT(SPEC, **FLOT.profile(profile, preset))
    for label in FLOT.baselines:
        name, _, preset = label.partition(":")
        assert name != "flot" or preset in FLOT.presets
    with pytest.raises(TypeError, match="iteration"):
        FLOT(SPEC, iteration=1)
    with pytest.raises(ValueError, match="must be positive"):
        FLOT(SPEC, iterations=-1)
    with pytest.raises(ValueError, match="unknown cost"):
        FLOT(SPEC, cost="cosinus")


def test_the_unrefined_flow_is_that_of_the_network_trained_with_refinement() -> None:
    options = {**TINY, "iterations": 3, "refinement": "discarded", "batch_size": 4}
    (need,) = FLOT.needs(options)
    assert (need.role, need.method) == ("refined", "flot")
    assert need.options == {**TINY, "iterations": 3}
    assert not FLOT.needs({"refinement": "on"})
    trained, bare = build(seed=1, iterations=3), build(iterations=3, refinement="discarded")
    bare.adopt("refined", trained)
    batch = make_batch()
    assert torch.equal(bare.predict(batch)["flow"], trained.predict(batch)["unrefined"])
    assert not torch.equal(bare.predict(batch)["flow"], trained.predict(batch)["flow"])
    with pytest.raises(TypeError, match="needs no 'teacher'"):
        bare.adopt("teacher", trained)
    fresh = build(refinement="discarded", iterations=3)
    fresh.load_state_dict(bare.state_dict())


def test_the_rate_falls_to_a_tenth_where_the_recipes_say() -> None:
    class FakeTrainer:
        estimated_stepping_batches = 60

    method = build(**FLOT.profile("paper", "s"))
    method._trainer = FakeTrainer()  # type: ignore[assignment]
    method.configure_optimizers()
    schedule = method.configure_optimizers()["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(60):
        rates.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1e-3] * 50 + [1e-4] * 10)
    assert FLOT.presets["s"]["data.points"] == 8192
    assert FLOT.presets["o"]["decay_at"] * FLOT.presets["o"]["max_epochs"] == 340
    assert isinstance(build().configure_optimizers(), torch.optim.Adam)


# Published weights.


class PublishedSetConv(nn.Module):
    """Parameters as the official code names them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        for number in (1, 2, 3):
            before = inputs + 3 if number == 1 else outputs
            setattr(self, f"fc{number}", nn.Conv2d(before, outputs, 1, bias=False))
            setattr(self, f"bn{number}", nn.InstanceNorm2d(outputs, affine=True))


def published_state(n: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    network = nn.Module()
    network.gamma, network.epsilon = nn.Parameter(torch.tensor([0.4])), nn.Parameter(torch.tensor([-2.0]))
    for kind in ("feat", "ref"):
        for number, (inputs, outputs) in enumerate([(3, n), (n, 2 * n), (2 * n, 4 * n)], start=1):
            setattr(network, f"{kind}_conv{number}", PublishedSetConv(inputs, outputs))
    network.fc = nn.Linear(4 * n, 3)
    return network.state_dict()


def test_a_published_checkpoint_is_loaded(tmp_path: Path) -> None:
    state = published_state()
    torch.save({"nb_iter": 3, "model": state}, tmp_path / "model.tar")
    method = build(iterations=3)
    method.load_published_weights(tmp_path / "model.tar")
    assert method.epsilon.item() == pytest.approx(math.exp(-2) + 0.03)
    assert method.log_lambda.item() == pytest.approx(0.4)
    assert torch.equal(method.features.layers[1].convolutions[0].weight, state["feat_conv2.fc1.weight"])
    assert torch.equal(method.refiner.layers[2].norms[1].bias, state["ref_conv3.bn2.bias"])
    assert torch.equal(method.refined_to_flow.bias, state["fc.bias"])
    assert set(published_names()) == set(state)
    assert set(published_names().values()) == set(method.state_dict())
    by_option = build(iterations=3, weights=str(tmp_path / "model.tar"))
    batch = make_batch()
    assert torch.equal(by_option.predict(batch)["flow"], method.predict(batch)["flow"])


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.tar"
    torch.save({"nb_iter": 3, "model": published_state()}, path)
    with pytest.raises(ValueError, match="trained with iterations=3, not 1"):
        build().load_published_weights(path)
    state = published_state()
    del state["epsilon"]
    state["mlp.weight"] = torch.zeros(2)
    state["fc.weight"] = torch.zeros(3, 99)
    torch.save({"nb_iter": 1, "model": state}, path)
    method = build()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with pytest.raises(ValueError, match="don't fit FLOT") as caught:
        method.load_published_weights(path)
    for part in ("missing: epsilon", "unexpected: mlp.weight", "fc.weight: (3, 99), expected (3, 16)"):
        assert part in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    with pytest.raises(ValueError, match="with refinement"):
        build(refinement="off").load_published_weights(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build().load_published_weights(tmp_path / "nowhere")


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


def test_training_on_the_miniature_beats_its_start_and_standing_still(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = FlyingThings3DPerfect(cache=cache, batch_size=4, points=128, draws=1)
    small = {"width": 8, "neighbours": 6}
    method = FLOT(data.spec, **{**FLOT.profile("mini"), **small})
    (start,) = trainer(1).test(method, data, verbose=False)
    run = trainer(2)
    run.fit(method, data)
    logged = {name.removeprefix("train/") for name in run.callback_metrics}
    (end,) = run.test(method, data, verbose=False)
    zero = torch.cat([sample["flow"].norm(dim=-1) for sample in data.test_dataloader()]).mean().item()
    assert end["test/epe"] < 0.75 * min(start["test/epe"], zero)
    assert end["test/epe"] < end["test/epe_unrefined"]
    assert end["test/match_hit"] > start["test/match_hit"]
    wanted = {"epsilon", "rho", "epe", "epe_unrefined", "row_mass_mean", "row_mass_min", "match_hit"}
    assert wanted <= logged
    found = method.diagnostics()
    assert 0.03 < found["epsilon"] < 0.13
    assert 0 < found["row_mass_min"] <= found["row_mass_mean"]
    assert method.figures()["correspondences"].shape[-1] == 3


def test_same_seed_same_numbers(cache: Path) -> None:
    losses = []
    for _ in range(2):
        pl.seed_everything(3, verbose=False)
        data = FlyingThings3DSubset(cache=cache, batch_size=2, points=64, seed=3)
        method = FLOT(data.spec, **FLOT.profile("smoke"))
        run = trainer(1)
        run.fit_loop.epoch_loop.max_steps = 3
        run.fit(method, data)
        losses.append([float(run.callback_metrics["train/loss"]), method.log_epsilon.item()])
    assert losses[0] == losses[1]
