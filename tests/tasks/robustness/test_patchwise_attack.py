"""PI-FGSM and its relatives: Algorithm 1 step by step, its limits, parameters, and the real zoo's setting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.specs import ImageClassesSpec
from tasks.base import Method, Need
from tasks.recognition.image_classification import ImageClassification
from tasks.robustness.adversarial_attack import ZOOS
from tasks.robustness.patchwise_attack import (
    ATTACKS,
    Parameters,
    PatchwiseAttack,
    cut_noise,
    parameters,
    patchwise,
    project_kernel,
    projection,
    scaled_size,
)

SPEC = ImageClassesSpec(dataset="rendered", classes=tuple("abcd"), image_size=(12, 12))


class Small(Method):
    """A little network with dropout and batch statistics, which an attack must not touch."""

    name = "small"
    task = ImageClassification

    def __init__(self, spec: ImageClassesSpec, seed: int = 0) -> None:
        super().__init__(spec)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.Tanh(),
                nn.Dropout(0.5),
                nn.AdaptiveAvgPool2d(3),
                nn.Flatten(),
                nn.Linear(72, len(spec.classes)),
            )

    def logits(self, image: Tensor) -> Tensor:
        return self.network(4 * image - 2)

    def predict(self, batch: dict) -> dict:
        return {"logits": self.logits(batch["image"])}


def a_batch(count: int = 6, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (count, 3, 12, 12), generator=generator) / 255,
        "label": torch.arange(count) % 4,
        "id": [f"p{i}" for i in range(count)],
    }


def an_attack(preset: str | None = None, **options: object) -> PatchwiseAttack:
    method = PatchwiseAttack(SPEC, **{**PatchwiseAttack.profile("mini", preset), **options})
    for number, role in enumerate(method.source_roles):
        method.adopt(role, Small(SPEC, number))
    return method


def loss_of(method: PatchwiseAttack, images: Tensor, label: Tensor) -> float:
    logits = torch.stack([m.logits(images) for m in method.sources.values()]).mean(0)
    return float(nn.functional.cross_entropy(logits, label))


def slow_patchwise(
    clean: np.ndarray, signs: list[np.ndarray], eps: float, beta: float, gamma: float, size: int, keep: bool
) -> np.ndarray:
    """Algorithm 1 pixel by pixel in float64, for given gradient signs; clean [C, H, W]."""
    steps, half = len(signs), size // 2
    x, a = clean.copy(), np.zeros_like(clean)
    for sign in signs:
        a = a + beta * eps / steps * sign
        cut = np.where(np.abs(a) - eps > 1e-6, (np.abs(a) - eps) * np.sign(a), 0.0)
        push = np.zeros_like(a)
        for c, i, j in np.ndindex(a.shape):
            total = 0.0
            for di, dj in itertools.product(range(-half, half + 1), repeat=2):
                inside = 0 <= i + di < a.shape[1] and 0 <= j + dj < a.shape[2]
                if (di, dj) != (0, 0) and inside:
                    total += cut[c, i + di, j + dj]
            push[c, i, j] = gamma * np.sign(total) if abs(total) > 1e-6 else 0.0
        a = a + push if keep else a
        x = np.clip(x + beta * eps / steps * sign + push, clean - eps, clean + eps).clip(0, 1)
    return x


@pytest.mark.parametrize(
    ("beta", "gamma", "size", "keep"), [(10, 16, 3, True), (2.5, 2, 5, True), (4, 6, 3, False)]
)
def test_algorithm_1_pixel_by_pixel(beta: float, gamma: float, size: int, keep: bool) -> None:
    random = np.random.default_rng(size)
    clean = random.integers(0, 256, (3, 6, 7)) / 255
    signs = [np.sign(random.normal(size=clean.shape) + 0.6) for _ in range(5)]
    expected = slow_patchwise(clean, signs, 16 / 255, beta, gamma / 255, size, keep)
    moves = iter(signs)
    found = patchwise(
        torch.from_numpy(clean)[None].float(),
        lambda _: torch.from_numpy(next(moves))[None].float(),
        eps=16 / 255,
        steps=5,
        beta=beta,
        gamma=gamma / 255,
        kernel=project_kernel(size),
        accumulate_projection=keep,
    )
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-6)
    assert np.abs(expected - clean).max() > 15.9 / 255


def test_project_kernel() -> None:
    kernel = project_kernel(3)
    assert kernel.tolist() == [[0.125] * 3, [0.125, 0.0, 0.125], [0.125] * 3]
    assert project_kernel(1).tolist() == [[0.0]]
    for kind in ("uniform", "gaussian"):
        assert project_kernel(7, kind)[3, 3] == 0
        assert project_kernel(7, kind).sum().item() == pytest.approx(1)
    assert project_kernel(7, "gaussian")[3, 2] > project_kernel(7, "gaussian")[3, 0]
    with pytest.raises(ValueError, match="odd"):
        project_kernel(4)


def test_cut_noise_keeps_the_sign_and_ignores_rounding() -> None:
    accumulated = torch.tensor([20.0, -19.0, 15.0, 16.0]) / 255
    torch.testing.assert_close(cut_noise(accumulated, 16 / 255) * 255, torch.tensor([4.0, -3.0, 0.0, 0.0]))
    # Five float steps of 12/255/5 exceed 12/255 by some 4e-9.
    total = torch.zeros(())
    for _ in range(5):
        total = total + torch.tensor(12 / 255 / 5)
    assert cut_noise(total + 4e-9, 12 / 255) == 0


def test_projection_goes_to_the_neighbours_of_one_channel() -> None:
    cut = torch.zeros(1, 3, 5, 5)
    cut[0, 1, 2, 2] = -0.01
    push = projection(cut, project_kernel(3), 0.5)
    assert push[0, [0, 2]].abs().sum() == 0
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = -0.5
    expected[2, 2] = 0
    assert torch.equal(push[0, 1], expected)
    # Opposite neighbours of equal strength give no direction.
    cut = torch.zeros(1, 1, 1, 3)
    cut[0, 0, 0] = torch.tensor([0.1, 0.0, -0.1])
    assert projection(cut, project_kernel(3), 1.0)[0, 0, 0, 1] == 0


@pytest.mark.parametrize("eps", [16.0, 12.0])
def test_beta_1_is_i_fgsm(eps: float) -> None:
    batch = a_batch()
    for steps in (5, 10):
        plain = an_attack("i_fgsm", eps=eps, steps=steps).predict(batch)["adversarial"]
        beta1 = an_attack("beta1", eps=eps, steps=steps).predict(batch)["adversarial"]
        torch.testing.assert_close(beta1, plain, atol=1e-6, rtol=0)


def test_no_projection_is_direct_clipping_and_the_method_is_not() -> None:
    batch = a_batch()
    results = {
        name: an_attack(name).predict(batch)["adversarial"] for name in (None, "gamma0", "no_projection")
    }
    clipped = an_attack("i_fgsm", beta=10.0).predict(batch)["adversarial"]
    assert torch.equal(results["gamma0"], clipped)
    assert torch.equal(results["no_projection"], clipped)
    assert (results[None] - clipped).abs().max() > 1 / 255


def test_fgsm_is_one_full_step_of_the_sign() -> None:
    batch, method = a_batch(), an_attack("fgsm")
    image = batch["image"].clone().requires_grad_(True)
    (model,) = method.sources.values()
    loss = nn.functional.cross_entropy(model.logits(image), batch["label"], reduction="sum")
    (gradient,) = torch.autograd.grad(loss, image)
    expected = (image + 16 / 255 * gradient.sign()).clamp(0, 1).detach()
    torch.testing.assert_close(method.predict(batch)["adversarial"], expected)


def test_momentum_by_the_equation() -> None:
    batch, method = a_batch(3), an_attack("mi_fgsm", steps=3)
    (model,) = method.sources.values()
    clean = batch["image"]
    x, velocity = clean, torch.zeros_like(clean)
    for _ in range(3):
        x = x.detach().requires_grad_(True)
        loss = nn.functional.cross_entropy(model.logits(x), batch["label"], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        velocity = velocity + gradient / gradient.abs().sum((1, 2, 3), keepdim=True)
        x = (x + 16 / 255 / 3 * velocity.sign()).clamp(0, 1)
    torch.testing.assert_close(method.predict(batch)["adversarial"], x.detach())


@pytest.mark.parametrize(
    "preset", [None, *(name for name in ATTACKS if name != "pi"), "random_sign", "ensemble"]
)
def test_every_attack_stays_in_bounds_and_repeats(preset: str | None) -> None:
    batch, method = a_batch(), an_attack(preset)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with torch.inference_mode():
        prediction = method.predict(batch)
    noise = (prediction["adversarial"] - batch["image"]) * 255
    assert noise.abs().max() <= 16 + 1e-3
    assert 0 <= prediction["adversarial"].min() <= prediction["adversarial"].max() <= 1
    assert torch.equal(method.predict(batch)["adversarial"], prediction["adversarial"])
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())
    if preset != "random_sign":
        change = loss_of(method, prediction["adversarial"], batch["label"]) - loss_of(
            method, batch["image"], batch["label"]
        )
        assert change > 0.05


def test_attack_is_made_in_evaluation_mode_even_while_training() -> None:
    batch, method = a_batch(), an_attack()
    expected = method.predict(batch)["adversarial"]
    method.train()
    assert not any(module.training for module in method.sources.modules())
    assert torch.equal(method.predict(batch)["adversarial"], expected)


def test_pictures_are_attacked_independently() -> None:
    """The batch a picture is in changes nothing but the draws of random attacks."""
    batch, method = a_batch(), an_attack("mpi")
    one = {"image": batch["image"][2:3], "label": batch["label"][2:3], "id": batch["id"][2:3]}
    whole = method.predict(batch)["adversarial"][2:3]
    # Signs of gradients near 0 may differ by float summation order.
    assert ((method.predict(one)["adversarial"] - whole).abs() < 1e-6).float().mean() > 0.98


def test_chance_follows_seed_and_pictures() -> None:
    batch, method = a_batch(), an_attack("random_sign")
    torch.manual_seed(5)
    first = method.predict(batch)["adversarial"]
    torch.rand(3)
    assert torch.equal(method.predict(batch)["adversarial"], first)
    torch.manual_seed(6)
    assert not torch.equal(method.predict(batch)["adversarial"], first)


def test_parameter_table() -> None:
    assert parameters("nt", "nt", 1, False, 16, 10) == Parameters(10, 16, 3)
    assert parameters("nt", "nt", 1, True, 16, 10) == Parameters(2.5, 2, 3)
    assert parameters("eat", "nt", 1, True, 16, 10) == Parameters(10, 16, 7)
    assert parameters("eat", "nt", 4, False, 16, 10) == Parameters(5, 8, 7)
    assert parameters("fd", "nt", 4, False, 16, 10) == Parameters(5, 8, 21)
    assert parameters("fd", "fd", 1, False, 16, 10) == Parameters(2.5, 1, 3)
    used = {
        preset: PatchwiseAttack(SPEC, **PatchwiseAttack.presets[preset]).parameters_used
        for preset in ("eat", "ensemble", "dpi", "dmpi", "mpi", "fd", "i_fgsm", "beta1")
    }
    assert used["eat"] == Parameters(10, 16, 7)
    assert used["ensemble"] == Parameters(5, 8, 7)
    assert used["dpi"] == used["dmpi"] == Parameters(2.5, 2, 3)
    assert used["mpi"] == Parameters(10, 16, 3)
    assert used["fd"] == Parameters(2.5, 1, 3)
    assert used["i_fgsm"].beta == 1
    # Rule elsewhere: gamma = beta eps / T.
    assert used["beta1"].gamma == pytest.approx(1.6)
    assert PatchwiseAttack(SPEC, beta=4.0, eps=8.0, steps=8).parameters_used.gamma == pytest.approx(4)


def test_kernels_scale_with_the_picture_by_one_rule() -> None:
    assert [scaled_size(size, 48 / 299) for size in (1, 3, 7, 15, 21)] == [1, 3, 3, 3, 5]
    assert [scaled_size(size, 1.0) for size in (1, 3, 7, 15, 21)] == [1, 3, 7, 15, 21]
    # 7.5 is rounded up to the next odd number, 8 and 9 are 9.
    assert [scaled_size(15, scale) for scale in (0.5, 8 / 15, 0.6)] == [9, 9, 9]

    def sizes(**options: object) -> tuple[int, int]:
        method = PatchwiseAttack(SPEC, target="fd", **options)
        assert method.project.shape[0] == method.parameters_used.kernel_size
        return method.parameters_used.kernel_size, method.smooth.shape[0]

    assert sizes() == (21, 15)
    assert sizes(kernel_scale=48 / 299) == (5, 3)
    assert sizes(kernel_scale=48 / 299, kernel_size=7, translation_size=5) == (7, 5)
    assert PatchwiseAttack(SPEC, patch=False, kernel_scale=0.2).parameters_used.kernel_size == 1


def test_needs_are_the_sources_of_either_zoo() -> None:
    defaults = {"zoo": "published", "victims_folder": "/weights", "source": "nt1"}
    (need,) = PatchwiseAttack.needs(defaults)
    options = {"weights_folder": "/weights"}
    assert need == Need(role="inc_v3", method="published_victim:inc_v3", options=options)
    four = PatchwiseAttack.needs({**defaults, "source": "nt_ensemble"})
    assert [n.role for n in four] == ["inc_v3", "inc_v4", "res152_v2", "incres_v2"]
    small = {"zoo": "miniature", "victims_folder": None}
    assert [n.method for n in PatchwiseAttack.needs({**small, "source": "fd_ensemble"})] == [
        "victim:pgd",
        "victim:pgd_denoise",
    ]
    assert [n.role for n in PatchwiseAttack.needs({**small, "source": "nt2+dense"})] == ["residual", "dense"]


def test_every_preset_can_be_built_and_claims_name_presets() -> None:
    for preset in PatchwiseAttack.presets:
        method = PatchwiseAttack(SPEC, **PatchwiseAttack.profile("mini", preset))
        assert set(method.source_roles) <= set(ZOOS["miniature"])
        assert method.parameters_used.kernel_size in (1, 3)
    for claim in PatchwiseAttack.claims:
        for label in (claim.method, claim.over):
            assert (
                label == "patchwise_attack"
                or label.removeprefix("patchwise_attack:") in PatchwiseAttack.presets
            )


def test_errors() -> None:
    with pytest.raises(ValueError, match="bound of the task"):
        PatchwiseAttack(SPEC, eps=17.0)
    with pytest.raises(ValueError, match="'resnet' is no victim of the miniature zoo"):
        PatchwiseAttack(SPEC, zoo="miniature", source="resnet")
    with pytest.raises(ValueError, match="beta must be positive"):
        PatchwiseAttack(SPEC, beta=0.0)
    with pytest.raises(ValueError, match="kernel_scale must be positive"):
        PatchwiseAttack(SPEC, kernel_scale=0.0)
    method = PatchwiseAttack(SPEC, zoo="miniature")
    with pytest.raises(RuntimeError, match="no source 'plain'"):
        method.predict(a_batch())
    with pytest.raises(TypeError, match="not into 'dense'"):
        method.adopt("dense", Small(SPEC))
