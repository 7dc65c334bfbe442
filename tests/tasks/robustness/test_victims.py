"""The miniature zoo: designs, denoising blocks, training attacks, and the zoo's promises on the miniature."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from datamodules.robustness.nips2017 import Nips2017
from datamodules.specs import ImageClassesSpec
from tasks.robustness.adversarial_attack import ZOOS
from tasks.robustness.patchwise_attack import PatchwiseAttack
from tasks.robustness.victims import Victim
from tasks.robustness.victims_networks import Denoising, network

SPEC = ImageClassesSpec(dataset="rendered", classes=tuple("abcdefghij"), image_size=(48, 48))
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
}


def trained(cache: Path, preset: str, epochs: int) -> Victim:
    """A victim of the mini profile, on one fixed seed."""
    pl.seed_everything(3, workers=True, verbose=False)
    data = Nips2017(cache=cache, batch_size=64, seed=3)
    data.prepare_data()
    victim = Victim(data.spec, **Victim.profile("mini", preset))
    trainer = pl.Trainer(**QUIET, max_epochs=epochs)
    trainer.fit(victim, data)
    trainer.test(victim, data, verbose=False)
    return victim.eval()


@pytest.mark.parametrize("design", ["plain", "residual", "branch", "dense", "large_kernel"])
def test_designs_take_any_size(design: str) -> None:
    net = network(design, 10, width=8).eval()
    assert net(torch.rand(2, 3, 48, 48)).shape == (2, 10)
    assert net(torch.rand(1, 3, 53, 37)).shape == (1, 10)
    blocks = network(design, 10, width=8, denoise="mean")
    assert sum(isinstance(module, Denoising) for module in blocks) == 1
    assert isinstance(blocks[2], Denoising)


def test_denoising_filters_by_hand() -> None:
    x = torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    for kind in ("mean", "non_local"):
        assert torch.equal(Denoising(4, kind).eval()(x), x)
    # Without embedding: each position becomes the mean of all, weighted by dot products.
    block = Denoising(4, "non_local", embed=False)
    flat = x[0].flatten(1)
    expected = torch.stack(
        [sum((flat[:, i] @ flat[:, j]) * flat[:, j] for j in range(25)) / 25 for i in range(25)]
    )
    torch.testing.assert_close(block.non_local(x)[0].flatten(1).T, expected)
    # With it: weights are a softmax, so equal features stay as they are.
    even = torch.ones(1, 4, 3, 3) * torch.arange(4.0).view(1, 4, 1, 1)
    torch.testing.assert_close(Denoising(4, "non_local").non_local(even), even)
    block = Denoising(4, "non_local")
    query, key = block.theta(x)[0].flatten(1), block.phi(x)[0].flatten(1)
    weight = (query.T @ key / 2**0.5).softmax(1)
    torch.testing.assert_close(block.non_local(x)[0].flatten(1), flat @ weight.T)


class Ramp(nn.Module):
    """Logits that rise with the picture's first channel."""

    def logits(self, image: Tensor) -> Tensor:
        return torch.stack([image[:, 0].mean((1, 2)), -image[:, 0].mean((1, 2))], dim=1)


def test_single_step_pictures_are_of_the_others() -> None:
    victim = Victim(SPEC, training="ensemble", others=("plain",), width=8)
    victim.others["plain"] = Ramp()
    victim.chance = torch.Generator().manual_seed(0)
    image = torch.full((200, 3, 8, 8), 0.5)
    noise = (victim.single_step(image, torch.zeros(200, dtype=torch.int64)) - image) * 255
    # Away from class 0: the first channel goes down by an eps of its own, the others, of no gradient, stay.
    assert noise[:, 1:].abs().max() == 0
    eps = -noise[:, 0, 0, 0]
    assert (noise[:, 0] + eps[:, None, None]).abs().max() < 1e-4
    assert 0 < eps.min() < 1
    assert 15 < eps.max() <= 16 + 1e-4


def test_projected_descent_stays_in_the_ball_and_misleads() -> None:
    victim = Victim(SPEC, training="pgd", width=8, pgd_steps=4, pgd_step=8.0)
    victim.chance = torch.Generator().manual_seed(0)
    victim.trainer = type("Stub", (), {"global_step": 5, "estimated_stepping_batches": 10})()
    image, label = torch.rand(16, 3, 48, 48), torch.arange(16) % 10
    found = victim.projected_descent(image, label)
    assert ((found - image).abs() * 255).max() <= 16 + 1e-3
    assert 0 <= found.min() <= found.max() <= 1
    loss = nn.functional.cross_entropy
    assert loss(victim.logits(found), label) > loss(victim.logits(image), label) + 0.05
    assert all(parameter.grad is None for parameter in victim.parameters())
    # Half of the training is over: with clean pictures for its first quarter, a third of what follows.
    victim.clean_start, victim.eps_warmup = 0.25, 0.75
    assert victim.attack_share(0.5) == pytest.approx(1 / 3)
    noise = (victim.projected_descent(image, label) - image).abs() * 255
    assert 5 < noise.max() <= 16 / 3 + 1e-3
    victim.clean_start = 0.6
    assert torch.equal(victim.projected_descent(image, label), image)


@pytest.mark.parametrize(
    ("start", "warmup", "shares"),
    [
        (0.0, 0.0, [1, 1, 1, 1]),
        (0.0, 0.5, [0, 0.5, 1, 1]),
        (0.2, 0.6, [0, 1 / 12, 0.5, 1]),
        (0.25, 0.0, [0, 1, 1, 1]),
    ],
)
def test_eps_grows_after_a_clean_start(start: float, warmup: float, shares: list[float]) -> None:
    victim = Victim(SPEC, training="pgd", width=8, clean_start=start, eps_warmup=warmup)
    assert [victim.attack_share(done) for done in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(shares)


def test_presets_are_the_zoo_and_needs_are_other_members() -> None:
    assert set(Victim.presets) == set(ZOOS["miniature"])
    for preset in Victim.presets:
        options = {"others": (), **Victim.presets[preset]}
        needs = Victim.needs(options)
        assert all(ZOOS["miniature"][need.role] == "nt" for need in needs)
        designs = {Victim.presets[need.role].get("design", "plain") for need in needs}
        assert not needs or options["design"] not in designs
        assert (ZOOS["miniature"][preset] == "eat") == bool(needs)
    with pytest.raises(ValueError, match="only an ensemble has others"):
        Victim(SPEC, others=("plain",))
    with pytest.raises(TypeError, match="is trained on plain, not 'dense'"):
        Victim(SPEC, training="ensemble", others=("plain",)).adopt("dense", Victim(SPEC))


def test_others_stay_as_they_are(cache: Path) -> None:
    data = Nips2017(cache=cache, batch_size=32)
    data.prepare_data()
    victim = Victim(data.spec, width=8, training="ensemble", others=("plain",))
    victim.adopt("plain", Victim(data.spec, width=8))
    before = {name: value.clone() for name, value in victim.others.state_dict().items()}
    own = victim.network[-1].weight.clone()
    pl.Trainer(**QUIET, max_steps=2).fit(victim, data)
    assert all(torch.equal(value, before[name]) for name, value in victim.others.state_dict().items())
    assert not torch.equal(victim.network[-1].weight, own)
    assert torch.isfinite(victim.logits(torch.rand(2, 3, 48, 48))).all()


def test_the_miniature_leaves_room_for_gain_and_loss(cache: Path) -> None:
    """Clean error under 5 %, a random sign harmless, I-FGSM white-box strong and its transfer neither 0 nor 100 %;
    a PGD-trained network that reads clean pictures and resists better."""
    zoo = {name: trained(cache, name, EPOCHS) for name in ("plain", "residual", "dense", "pgd")}
    clean = {name: victim.scores["test"]["error"] for name, victim in zoo.items()}
    assert max(clean[name] for name in ("plain", "residual", "dense")) < 5
    assert clean["pgd"] < 25

    def attacked(preset: str, source: str) -> dict[str, float]:
        data = Nips2017(cache=cache)
        options = {**PatchwiseAttack.profile("mini", preset), "source": source}
        attack = PatchwiseAttack(data.spec, **options)
        for role, victim in zoo.items():
            attack.empanel(role, victim)
        attack.adopt(source, zoo[source])
        pl.Trainer(**QUIET).test(attack, data, verbose=False)
        return attack.scores["test"]

    chance, plain = attacked("random_sign", "plain"), attacked("i_fgsm", "plain")
    assert chance["success"] < 15
    assert plain["success_white_box"] > 90
    assert 15 < plain["success_nt"] < 60
    assert attacked("eat", "plain")["success_nt"] > chance["success_nt"]
    assert attacked("i_fgsm", "pgd")["success_white_box"] < plain["success_white_box"] - 10


EPOCHS = Victim.profiles["mini"]["max_epochs"]
