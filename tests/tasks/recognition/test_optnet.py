"""OPT-Net: losses by hand, where gradients go, two stages, schedules, presets, fine-tuning, a short training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from datamodules.recognition.ilab20m import ILab20M
from datamodules.specs import PosesSpec
from tasks.recognition.optnet import (
    OPTNet,
    pose_weight,
    rate_share,
    reconstruction_loss,
    uniform_cross_entropy,
)

TINY = OPTNet.profile("smoke")
FULL = tuple(range(6))


def spec_of(side: int = 16, pitches: int = 1) -> PosesSpec:
    seen = tuple(range(6 * pitches))
    return PosesSpec(
        dataset="toys",
        classes=("a", "b"),
        image_size=(side, side),
        yaws=6,
        pitches=pitches,
        seen=(seen, seen[:2]),
    )


def tiny(spec: PosesSpec | None = None, **options: Any) -> OPTNet:
    torch.manual_seed(0)
    return OPTNet(spec or spec_of(), **{**TINY, **options})


def batch_of(count: int = 4, side: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    yaw = torch.arange(count) % 6
    return {
        "image": torch.rand(count, 3, side, side, generator=generator),
        "pose": torch.stack([yaw + 1.0, torch.ones(count)], dim=1),
        "pose_class": yaw,
        "label": torch.zeros(count, dtype=torch.long),
        "scene": torch.arange(count),
        "target_pose": torch.stack([(yaw + 2) % 6 + 1.0, torch.ones(count)], dim=1),
        "id": [str(index) for index in range(count)],
    }


def terms(method: OPTNet, batch: dict[str, Any], *poses: torch.Tensor) -> tuple[dict, dict]:
    image = 2 * batch["image"] - 1
    wanted = list(poses) or [batch["target_pose"]]
    torch.manual_seed(1)
    return (
        method.critic_terms(image, batch["pose_class"], wanted),
        method.generator_terms(image, batch["pose"], batch["pose_class"], wanted),
    )


def reached(*modules: torch.nn.Module) -> list[bool]:
    return [
        any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())
        for module in modules
    ]


def test_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    first, second = math.log(2), -(math.log(0.75) + math.log(0.25)) / 2
    assert uniform_cross_entropy(logits).item() == pytest.approx((first + second) / 2)
    # Not minus the classification loss: it is least where the prediction is uniform, not where it is wrong.
    wrong = torch.tensor([[-9.0, 9.0]])
    assert uniform_cross_entropy(wrong) > uniform_cross_entropy(torch.zeros(1, 2))
    assert reconstruction_loss(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), -0.5)).item() == 0.5
    assert pose_weight(0.0, 5, 0.05) == 5
    assert pose_weight(2.0, 5, 0.05) == pytest.approx(0.05)
    assert [rate_share(share) for share in (0.2, 0.75, 1.5)] == [1.0, 0.5, 0.0]


def test_totals_are_the_papers_sums() -> None:
    method, batch = tiny(lambda_cls=2.0, lambda_rec=7.0, lambda_gp=3.0), batch_of()
    critic, generator = terms(method, batch)
    total = critic["distance"] + 3 * critic["penalty"] + 2 * critic["cls_real"]
    torch.testing.assert_close(critic["critic"], total)
    total = generator["adv"] + 2 * generator["cls_fake"] + 7 * generator["rec"] + 5 * generator["pose"]
    torch.testing.assert_close(generator["generator"], total)
    image, pose = 2 * batch["image"] - 1, batch["target_pose"]
    with torch.no_grad():
        fake = method.generator(image, pose)
        verdict = method.discriminator(fake)
        asked = torch.tensor([2, 3, 4, 5])
        torch.testing.assert_close(generator["cls_fake"], F.cross_entropy(verdict.pose, asked))
        torch.testing.assert_close(generator["adv"], -verdict.source.mean())
        torch.testing.assert_close(
            generator["rec"], (method.generator(fake, batch["pose"]) - image).abs().mean()
        )
        real = method.discriminator(image)
        torch.testing.assert_close(critic["distance"], verdict.source.mean() - real.source.mean())
        torch.testing.assert_close(critic["cls_real"], F.cross_entropy(real.pose, batch["pose_class"]))


def test_gradients_go_where_the_equations_say() -> None:
    method, batch = tiny(), batch_of()
    elim, add = method.generator.eliminate, method.generator.add
    parts = (elim, add, method.discriminator, method.pelim)
    for name, wanted in (("critic", [False, False, True, False]), ("pelim", [False, False, False, True])):
        method.zero_grad()
        terms(method, batch)[0][name].backward()
        assert reached(*parts) == wanted, name
    for judge in (method.discriminator, method.pelim):
        judge.requires_grad_(False)
    for name, wanted in (("pose", [True, False, False, False]), ("generator", [True, True, False, False])):
        method.zero_grad()
        terms(method, batch)[1][name].backward()
        assert reached(*parts) == wanted, name


def test_decimal_targets_have_style_and_reconstruction_but_no_class() -> None:
    method, batch = tiny(lambda_style=2.0), batch_of()
    decimal = torch.tensor([[1.5, 1.0], [2.25, 1.0], [5.9, 1.0], [3.5, 1.0]])
    critic, generator = terms(method, batch, batch["target_pose"], decimal)
    assert {"distance_decimal", "penalty_decimal"} <= critic.keys()
    assert {"adv_decimal", "rec_decimal"} <= generator.keys()
    assert "cls_fake_decimal" not in generator
    extra = generator["adv_decimal"] + 10 * generator["rec_decimal"]
    alone = terms(method, batch, batch["target_pose"])[1]["generator"]
    torch.testing.assert_close(generator["generator"], alone + 2 * extra, rtol=1e-4, atol=1e-4)


def test_targets_are_uniform_whole_poses_or_points_between() -> None:
    method = tiny(spec_of(pitches=3))
    torch.manual_seed(0)
    whole, decimal = method.draw_poses(3000, decimal=False), method.draw_poses(3000, decimal=True)
    counts = torch.bincount(((whole[:, 1] - 1) * 6 + whole[:, 0] - 1).long(), minlength=18)
    assert counts.min() > 100
    assert counts.sum() == 3000
    assert decimal.min(0).values.tolist() >= [1.0, 1.0]
    assert decimal.max(0).values.tolist() <= [6.0, 3.0]
    assert (decimal != decimal.round()).all()


def trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, **options,
    )  # fmt: skip


class Losses(pl.Callback):
    """What each batch logged, and which networks it changed."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.changed: list[list[bool]] = []

    def on_train_batch_start(self, run: pl.Trainer, method: OPTNet, *_: Any) -> None:
        self.before = [
            self._state(part) for part in (method.generator, method.discriminator, method.pelim) if part
        ]

    def on_train_batch_end(self, run: pl.Trainer, method: OPTNet, *_: Any) -> None:
        after = [self._state(part) for part in (method.generator, method.discriminator, method.pelim) if part]
        self.changed.append([not torch.equal(a, b) for a, b in zip(self.before, after, strict=True)])
        found = {name.removeprefix("train/"): float(v) for name, v in run.callback_metrics.items()}
        self.logged.append(found)

    @staticmethod
    def _state(part: torch.nn.Module) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in part.parameters()]).clone()


def test_the_generator_steps_in_every_nth_batch_and_stage_2_comes_last(cache: Path) -> None:
    data = ILab20M(cache=cache, batch_size=4)
    data.prepare_data()
    method, seen = tiny(data.spec, critic_steps=3, steps=10, stage2_from=0.6, lr=1e-3), Losses()
    trainer(max_epochs=1, limit_train_batches=10, callbacks=[seen]).fit(method, data)
    assert [changed[0] for changed in seen.changed] == [number % 3 == 2 for number in range(10)]
    # The rate reaches 0 after the last step, not before: D and P_elim change in every batch.
    assert all(all(changed[1:]) for changed in seen.changed)
    assert ["distance_decimal" in logged for logged in seen.logged] == [number >= 6 for number in range(10)]
    weights = [logged["lambda_pose"] for logged in seen.logged]
    assert weights == pytest.approx([5 * 0.01 ** (number / 10) for number in range(1, 11)], rel=1e-4)
    assert method.current_pose_weight() == pytest.approx(0.05)
    found = method.diagnostics()
    assert found.keys() == {"probe_accuracy", "probe_chance", "pelim_accuracy"}
    assert all(0 <= value <= 100 for value in found.values())
    trainer(limit_test_batches=3).test(method, data, verbose=False)
    figure = method.figures()["poses"]
    assert figure.shape == (3 * 102, 12 * 84, 3)  # the source and eleven yaws, three test batches


@pytest.mark.parametrize("preset", [p for p in OPTNet.presets if p != "finetuned"])
def test_every_preset_trains_and_predicts(preset: str) -> None:
    method = OPTNet(spec_of(), **{**TINY, **OPTNet.presets[preset]})
    batch = batch_of()
    critic, generator = terms(method, batch)
    assert critic["critic"].isfinite()
    assert generator["generator"].isfinite()
    assert ("pose" in generator) == (method.pelim is not None) == (preset not in ("stargan", "no_pelim"))
    assert len(method.configure_optimizers()) == (3 if method.pelim is not None else 2)
    with torch.no_grad():
        first, second = (method.eval().predict(batch)["image"] for _ in range(2))
    torch.testing.assert_close(first, second)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    method._taken = 2
    if preset == "constant_pose_weight":
        assert method.current_pose_weight() == 5.0
    elif method.pelim is not None:
        assert method.current_pose_weight() == pytest.approx(0.5)
    if preset == "reversed_pelim":
        logits = method.pelim(method.generator.eliminate(2 * batch["image"] - 1))
        torch.testing.assert_close(
            terms(method, batch)[1]["pose"], -F.cross_entropy(logits, batch["pose_class"])
        )


def test_the_papers_networks_step_once_on_small_pictures() -> None:
    """All of the paper's layers and widths; 64 pixels instead of 256, a sixteenth of the work."""
    torch.manual_seed(0)
    method = OPTNet(spec_of(64))
    batch = batch_of(1, 64)
    assert method.lr == 1e-4
    assert (method.critic_steps, method.steps) == (5, 200_000)
    for loss, modules in zip(
        (terms(method, batch)[0]["critic"], method.generator_terms(
            2 * batch["image"] - 1, batch["pose"], batch["pose_class"], [batch["target_pose"]])["generator"]),
        ((method.discriminator,), (method.generator,)),
        strict=True,
    ):  # fmt: skip
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is not None for module in modules for p in module.parameters())


def test_mixed_precision_keeps_losses_finite() -> None:
    method, batch = tiny(), batch_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        critic, generator = terms(method, batch)
    for loss in (critic["critic"] + critic["pelim"], generator["generator"]):
        loss.backward()
        assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_fine_tuning_starts_from_the_other_trials_networks() -> None:
    assert OPTNet.needs({"start": "scratch"}) == ()
    (need,) = OPTNet.needs({"start": "pretrained"})
    assert (need.role, need.method) == ("pretrained", "optnet")
    trained, method = tiny(), tiny(start="pretrained", lr=1e-3)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    method.adopt("pretrained", trained)
    for name, value in method.state_dict().items():
        if name != "probe":
            torch.testing.assert_close(value, trained.state_dict()[name])
    with pytest.raises(ValueError, match=r"don't fit toys: .*discriminator\.pose\.weight"):
        tiny(spec_of(32), start="pretrained").adopt("pretrained", trained)
    with pytest.raises(TypeError, match="takes 'pretrained' from no"):
        tiny().adopt("pretrained", trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "stargan"}, "set use_pelim and stage2 to false"),
        ({"critic_steps": 0}, "must be positive"),
        ({"critic_layers": 5}, "5 halvings"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_a_short_training_comes_nearer_than_its_start_and_repeats(cache: Path) -> None:
    data = ILab20M(cache=cache, batch_size=8, test_batch_size=60)
    data.prepare_data()
    found = []
    for steps in (30, 30, 0):
        pl.seed_everything(3, verbose=False)
        options = {**OPTNet.profile("mini"), "width": 4, "critic_width": 8, "lr": 2e-3, "steps": 60}
        method = OPTNet(data.spec, **{**options, "critic_steps": 1})
        if steps:
            trainer(max_epochs=1, limit_train_batches=steps).fit(method, data)
        found.append(trainer().test(method, data, verbose=False)[0]["test/psnr_foreground"])
    assert found[0] == found[1]
    assert found[0] > found[2] + 1


def test_blocks_are_options() -> None:
    def blocks(module: torch.nn.Module) -> int:
        return sum(type(layer).__name__ == "ResidualBlock" for layer in module.modules())

    generator = tiny(blocks=(1, 2)).generator
    assert (blocks(generator.eliminate), blocks(generator.add)) == (1, 2)
    assert blocks(tiny(**OPTNet.presets["stargan"], star_blocks=4).generator) == 4
