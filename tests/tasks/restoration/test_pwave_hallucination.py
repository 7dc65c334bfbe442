"""Exemplar-guided hallucination: weights by hand, any number of exemplars, switches, sizes, a short training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from datamodules.restoration.celeba import CelebA
from datamodules.specs import ImageClassesSpec, SuperResolutionSpec
from tasks.base import Method
from tasks.recognition.face_classifier import FaceClassifier
from tasks.restoration.pwave_hallucination import PWAveHallucination, content_loss, decayed, overlay
from tasks.restoration.pwave_network import (
    ExemplarEncoder,
    Generator,
    PixelWeightedAverage,
    WeightNetwork,
    combine,
    share,
)
from tasks.restoration.upscaling import Upscaling

SPEC = SuperResolutionSpec(dataset="faces", image_size=(32, 32), factor=8, exemplars=3)
TINY = PWAveHallucination.profile("smoke")


def batch_of(count: int = 2, m: int = 3, side: int = 32, factor: int = 8) -> dict:
    generator = torch.Generator().manual_seed(0)
    return {
        "low": torch.rand(count, 3, side // factor, side // factor, generator=generator),
        "high": torch.rand(count, 3, side, side, generator=generator),
        "exemplars": torch.rand(count, m, 3, side, side, generator=generator),
        "id": [str(index) for index in range(count)],
    }


def tiny(**options: object) -> PWAveHallucination:
    torch.manual_seed(0)
    return PWAveHallucination(SPEC, **{**TINY, "perceptual": False, **options}).eval()


def test_share_and_combine_by_hand() -> None:
    scores = torch.tensor([[1.0, 0.0], [3.0, 0.0]]).view(1, 2, 1, 2)
    weights = share(scores)
    assert weights.flatten().tolist() == [0.25, 0.0, 0.75, 0.0]  # no division by the zero at the second place
    features = torch.tensor([[[4.0, 1.0], [8.0, 1.0]], [[0.0, 1.0], [4.0, 1.0]]]).view(1, 2, 2, 1, 2)
    assert combine(weights, features).flatten().tolist() == [1.0, 0.0, 5.0, 0.0]


@pytest.mark.parametrize("fusion", ["pwave", "average", "image_level"])
def test_weights_sum_to_one_over_the_exemplars_at_every_place(fusion: str) -> None:
    torch.manual_seed(0)
    module = PixelWeightedAverage(4, 5, fusion=fusion, sees_picture=True)
    features, picture = torch.randn(2, 3, 4, 6, 6), torch.randn(2, 3, 6, 6)
    combined, weights = module(features, picture)
    assert combined.shape == (2, 4, 6, 6)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 6, 6))
    assert float(weights.detach().min()) > 0
    flat = weights.flatten(2)
    if fusion == "pwave":
        assert float(flat.detach().std(dim=2).min()) > 0
    else:
        torch.testing.assert_close(flat, flat[..., :1].expand_as(flat))


def test_max_takes_the_largest_and_has_no_weights() -> None:
    features = torch.tensor([1.0, 5.0, 3.0]).view(1, 3, 1, 1, 1)
    module = PixelWeightedAverage(1, 2, fusion="max", sees_picture=True)
    combined, weights = module(features, torch.zeros(1, 3, 1, 1))
    assert (combined.item(), weights) == (5.0, None)


def test_each_exemplar_is_scored_by_itself_with_the_same_weights() -> None:
    torch.manual_seed(0)
    network = WeightNetwork(4, 5)
    features, picture = torch.randn(2, 3, 4, 6, 6), torch.randn(2, 3, 6, 6)
    scores = network(features, picture)
    alone = torch.cat([network(features[:, i : i + 1], picture) for i in range(3)], dim=1)
    torch.testing.assert_close(scores, alone)
    assert float(scores.detach().min()) > 0


def test_order_of_exemplars_is_of_no_matter_and_any_number_is_taken() -> None:
    method, batch = tiny(), batch_of(m=4)
    with torch.no_grad():
        first = method.predict(batch)
        order = [2, 0, 3, 1]
        second = method.predict({**batch, "exemplars": batch["exemplars"][:, order]})
        torch.testing.assert_close(second["image"], first["image"], atol=1e-5, rtol=0)
        torch.testing.assert_close(second["weights"], first["weights"][:, order])
        for m in (0, 1, 6):
            prediction = method.predict(batch_of(m=m))
            assert prediction["image"].shape == (2, 3, 32, 32)
            assert ("weights" in prediction) == (m > 0)
        # Copies of one exemplar are as good as it alone.
        one = batch["exemplars"][:, :1]
        repeated = method.predict({**batch, "exemplars": one.expand(-1, 3, -1, -1, -1)})
        torch.testing.assert_close(repeated["image"], method.predict({**batch, "exemplars": one})["image"])


def test_exemplars_and_picture_both_reach_the_result() -> None:
    method, batch = tiny(), batch_of()
    with torch.no_grad():
        before = method.predict(batch)["image"]
        for key in ("low", "exemplars"):
            changed = method.predict({**batch, key: 1 - batch[key]})["image"]
            assert float((changed - before).abs().max()) > 1e-3
        assert 0 <= float(before.min()) <= float(before.max()) <= 1


def test_blind_weights_do_not_see_the_picture() -> None:
    batch = batch_of()
    other = {**batch, "low": 1 - batch["low"]}
    with torch.no_grad():
        for seeing in (True, False):
            method = tiny(wnn_lr_input=seeing)
            same = torch.equal(method.predict(batch)["weights"], method.predict(other)["weights"])
            assert same == (not seeing)


def test_small_generator_is_reached_by_the_large_loss_unless_detached() -> None:
    for detached in (False, True):
        method, batch = tiny(detach_small=detached), batch_of()
        content_loss(method(batch).image, 2 * batch["high"] - 1).backward()
        grown = sum(
            float(p.grad.abs().sum()) for p in method.generator.small.parameters() if p.grad is not None
        )
        assert (grown == 0) == detached


def test_fusions_have_the_same_parameters_and_the_weight_networks_their_own_rate() -> None:
    sizes = {
        fusion: sum(p.numel() for p in tiny(fusion=fusion).parameters())
        for fusion in ("pwave", "average", "max", "image_level")
    }
    assert len(set(sizes.values())) == 1
    method = tiny()
    generator, critic = method.configure_optimizers()
    assert [group["lr"] for group in generator.param_groups] == [3e-3, 1e-4]
    assert generator.defaults["betas"] == critic.defaults["betas"] == (0.0, 0.99)
    wnn = [*method.generator.pwave_1.weigh.parameters(), *method.generator.pwave_2.weigh.parameters()]
    assert {id(p) for p in generator.param_groups[1]["params"]} == {id(p) for p in wnn}
    covered = sum(p.numel() for group in generator.param_groups for p in group["params"])
    assert covered == sum(p.numel() for p in method.generator.parameters())
    assert len(tiny(discriminator=False).configure_optimizers()) == 1


@pytest.mark.parametrize(("factor", "side", "low"), [(8, 128, 16), (16, 128, 8), (8, 256, 32), (16, 256, 16)])
def test_scales_of_the_papers_networks(factor: int, side: int, low: int) -> None:
    spec = SuperResolutionSpec(dataset="faces", image_size=(side, side), factor=factor, exemplars=3)
    with torch.device("meta"):
        method = PWAveHallucination(spec)
        coarse, fine = method.generator.encoder(torch.zeros(6, 3, side, side))
        made = method({"low": torch.zeros(2, 3, low, low), "exemplars": torch.zeros(2, 3, 3, side, side)})
    assert coarse.shape == (6, 128, low, low)
    assert fine.shape == (6, 128, 2 * low, 2 * low)
    assert made.image.shape == (2, 3, side, side)
    assert made.small.shape == (2, 3, 2 * low, 2 * low)
    assert [w.shape[1:] for w in made.weights] == [(3, low, low), (3, 2 * low, 2 * low)]
    assert len(method.generator.enlargements) + 1 == {8: 3, 16: 4}[factor]  # M1


def test_the_papers_network_steps_once() -> None:
    torch.manual_seed(0)
    spec = SuperResolutionSpec(dataset="faces", image_size=(128, 128), factor=16, exemplars=1)
    method = PWAveHallucination(spec)
    batch = batch_of(1, 1, 128, 16)
    made = method(batch)
    loss = content_loss(made.image, 2 * batch["high"] - 1) - 1e-3 * method.critic(made.image).mean()
    loss.backward()
    without = [
        name
        for name, parameter in [*method.generator.named_parameters(), *method.critic.named_parameters()]
        if parameter.grad is None
    ]
    assert without == []
    assert loss.isfinite()


def test_encoder_needs_two_halvings_and_factors_powers_of_two() -> None:
    assert [tuple(f.shape) for f in ExemplarEncoder(2, width=4, features=4)(torch.zeros(1, 3, 16, 16))] == [
        (1, 4, 4, 4),
        (1, 4, 8, 8),
    ]
    for factor in (2, 12):
        with pytest.raises(ValueError, match="factor must be"):
            PWAveHallucination(SuperResolutionSpec(dataset="x", image_size=(24, 24), factor=factor), **TINY)
    with pytest.raises(ValueError, match="needs 5 widths"):
        Generator(
            16, channels=(4, 4), residual_blocks=1, features=4, encoder_width=4, weight_width=4, small_width=4,
            fusion="pwave", small="learned", wnn_lr_input=True, detach_small=False,
        )  # fmt: skip


def test_needs_follow_the_perceptual_loss() -> None:
    options = {"perceptual": True, "data.identities": "people"}
    (need,) = PWAveHallucination.needs(options)
    assert (need.role, need.method, need.dataset) == ("identity", "face_classifier", "people")
    assert PWAveHallucination.needs({**options, "perceptual": False}) == ()
    with pytest.raises(TypeError, match="needs no"):
        tiny().adopt(
            "identity", FaceClassifier(ImageClassesSpec(dataset="f", classes=("a",), image_size=(32, 32)))
        )


def test_losses_and_decay_by_hand() -> None:
    made, true = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1), torch.tensor([0.5, 0.5]).view(2, 1, 1, 1)
    assert float(content_loss(made, true)) == 1.0
    shares = [decayed(step, 100) for step in (0, 50, 100, 300)]
    assert shares == pytest.approx([1.0, 0.505, 0.01, 0.01])


def test_overlay_is_blue_where_nothing_and_red_where_all_is_taken() -> None:
    picture = overlay(torch.zeros(3, 4, 4), torch.tensor([[0.0, 1.0]]))
    assert picture.shape == (4, 4, 3)
    assert picture[0, 0, 2] > picture[0, 0, 0] == 0
    assert picture[0, -1, 0] > picture[0, -1, 2] == 0


def train(method: Method, data: CelebA, steps: int) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, limit_test_batches=2,
    )  # fmt: skip
    if steps:
        trainer.fit(method, data)
    return {key: float(value) for key, value in trainer.test(method, data, verbose=False)[0].items()}


def test_training_with_every_part_changes_all_that_should_learn(cache: Path) -> None:
    data = CelebA(cache=cache, batch_size=2, test_batch_size=4)
    data.prepare_data()
    pl.seed_everything(0, verbose=False)
    method = PWAveHallucination(data.spec, **TINY)
    method.adopt(
        "identity",
        FaceClassifier(
            ImageClassesSpec(dataset="f", classes=("a", "b"), image_size=(64, 64)),
            widths=(4, 4), embedding=4,
        ),
    )  # fmt: skip
    before = {name: value.clone() for name, value in method.state_dict().items()}
    scores = train(method, data, 4)  # two batches: critic and generator step in each
    same = {name for name, value in method.state_dict().items() if torch.equal(value, before[name])}
    assert {name for name in before if name.startswith("perception.")} <= same
    assert same <= {name for name in before if name.startswith("perception.")} | {
        "critic.score.bias"
    }  # cancels
    assert 0 < scores["test/weight_entropy"] <= 1
    figures = method.figures()
    assert set(figures) == {"weights", "editing"}
    assert all(sheet.dtype == np.uint8 and sheet.shape[2] == 3 for sheet in figures.values())
    assert method.diagnostics()["phi_p_is_identity_network"] == 1.0


def test_a_short_training_beats_its_start_and_what_learns_nothing(cache: Path) -> None:
    data = CelebA(cache=cache, batch_size=8, test_batch_size=20, size=32, factor=16, exemplars=2)
    data.prepare_data()
    pl.seed_everything(0, verbose=False)
    mini = {**PWAveHallucination.profile("mini"), "features": 16, "decay_steps": 120}
    method = PWAveHallucination(data.spec, **{**mini, "discriminator": False, "perceptual": False})
    before = train(method, data, 0)["test/psnr"]
    after = train(method, data, 120)["test/psnr"]
    assert after > before + 1.5
    for answer in ("bicubic", "mean_exemplar", "mean_face"):
        assert after > train(Upscaling(data.spec, answer=answer), data, 0)["test/psnr"] + 0.3
