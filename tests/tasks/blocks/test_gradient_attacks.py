"""Losses and gradients of attacked classifiers, and MI's, DI's and TI's treatment of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.blocks.gradient_attacks import (
    convolve_channels,
    diversify,
    ensemble_loss,
    gaussian_kernel,
    input_gradient,
    normalise_l1,
    within,
)


class Linear(nn.Module):
    """A linear classifier of the whole picture, with a second head on demand."""

    def __init__(self, seed: int, second: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, 3 * 4 * 4, generator=generator))
        self.other = torch.randn(3, 3 * 4 * 4, generator=generator) if second else None

    def logits(self, image: Tensor) -> Tensor:
        return image.flatten(1) @ self.weight.T

    def logits_and_auxiliary(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.logits(image), None if self.other is None else image.flatten(1) @ self.other.T


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(5, 3, 4, 4, generator=generator), torch.tensor([0, 1, 2, 1, 0])


def test_the_loss_is_of_the_mean_logits() -> None:
    first, second = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    label = torch.tensor([0])
    # Mean logits (1, 0): log(1 + e^-1).
    assert ensemble_loss([first, second], label).item() == pytest.approx(np.log(1 + np.exp(-1)))
    # Auxiliary heads of mean (0, 0) add log 2.
    auxiliary = ensemble_loss([first, second], label, [second, second])
    assert auxiliary.item() == pytest.approx(np.log(1 + np.exp(-1)) + np.log(2))


def test_gradient_of_a_linear_classifier(batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    model = Linear(0)
    expected = (model.logits(image).softmax(1) - F.one_hot(label, 3)) @ model.weight
    found = input_gradient([model], image, label)
    torch.testing.assert_close(found.flatten(1), expected.detach())
    assert model.weight.grad is None
    assert not image.requires_grad
    # A picture's gradient doesn't depend on its batch.
    torch.testing.assert_close(input_gradient([model], image[2:3], label[2:3]), found[2:3])


def test_auxiliary_heads_count_only_on_demand(batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    models = [Linear(0), Linear(1, second=False)]
    image = image.requires_grad_(True)
    loss = ensemble_loss([m.logits(image) for m in models], label, [models[0].logits_and_auxiliary(image)[1]])
    (expected,) = torch.autograd.grad(loss, image)
    torch.testing.assert_close(input_gradient(models, image, label, use_aux=True), expected)
    plain = input_gradient(models, image, label)
    assert not torch.allclose(plain, expected)
    torch.testing.assert_close(
        input_gradient(models[1:], image, label, use_aux=True), input_gradient(models[1:], image, label)
    )


def test_gradient_through_a_transform(batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    model = Linear(0)
    through = input_gradient([model], image, label, transform=lambda x: x.flip(3))
    torch.testing.assert_close(through, input_gradient([model], image.flip(3), label).flip(3))


def test_normalisation_is_per_picture() -> None:
    gradient = torch.tensor([[[[3.0, -1.0]]], [[[0.0, 0.0]]], [[[1e-30, 0.0]]]])
    expected = torch.tensor([[[[0.75, -0.25]]], [[[0.0, 0.0]]], [[[1.0, 0.0]]]])
    torch.testing.assert_close(normalise_l1(gradient), expected)


def test_gaussian_is_the_normal_density_on_15_points() -> None:
    line = norm.pdf(np.linspace(-3, 3, 15))
    expected = np.outer(line, line) / np.outer(line, line).sum()
    np.testing.assert_allclose(gaussian_kernel(15).numpy(), expected, rtol=1e-5)
    assert gaussian_kernel(1).tolist() == [[1.0]]
    with pytest.raises(ValueError, match="odd"):
        gaussian_kernel(4)


def test_channels_are_convolved_by_themselves_with_zeros_around() -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(2, 3, 9, 7, generator=generator)
    kernel = torch.rand(5, 5, generator=generator)
    found = convolve_channels(image, kernel)
    for b in range(2):
        for c in range(3):
            reference = convolve(image[b, c].numpy(), kernel.flip(0, 1).numpy(), mode="constant")
            np.testing.assert_allclose(found[b, c].numpy(), reference, atol=1e-5)


def test_diverse_inputs_lie_at_random_in_zeros() -> None:
    image = torch.full((2, 3, 299, 299), 0.5)
    seen = set()
    for seed in range(12):
        out = diversify(image, torch.Generator().manual_seed(seed), probability=1.0)
        assert out.shape == (2, 3, 330, 330)
        inside = (out[0, 0] == 0.5).nonzero()
        (top, left), (bottom, right) = inside.amin(0).tolist(), inside.amax(0).tolist()
        side = bottom - top + 1
        assert 299 <= side < 330
        assert right - left + 1 == side
        assert (out[0, 0] == 0.5).sum() == side**2
        assert torch.equal(out[0], out[1])
        seen.add((side, top, left))
    assert len(seen) > 8


def test_diverse_inputs_come_with_their_probability() -> None:
    image, generator = torch.rand(1, 1, 48, 48), torch.Generator().manual_seed(0)
    changed = sum(diversify(image, generator).shape[-1] != 48 for _ in range(400))
    assert 0.62 < changed / 400 < 0.78
    assert diversify(image, generator, probability=0.0) is image


def test_clipping_to_the_ball_and_to_the_valid_range() -> None:
    clean = torch.tensor([0.5, 0.01, 0.99])
    torch.testing.assert_close(within(clean + 0.2, clean, 0.1), torch.tensor([0.6, 0.11, 1.0]))
    torch.testing.assert_close(within(clean - 0.2, clean, 0.1), torch.tensor([0.4, 0.0, 0.89]))
