"""The critic: parts by hand, StyleGAN's size, losses whose value is known."""

from __future__ import annotations

import pytest
import torch

from tasks.blocks.style_critic import (
    Blur,
    StyleCritic,
    critic_loss,
    gradient_penalty,
    minibatch_deviation,
)


def test_minibatch_deviation_by_hand() -> None:
    x = torch.zeros(4, 2, 3, 3)
    x[2:] = 2.0  # over the four: mean 1, deviation 1 everywhere
    out = minibatch_deviation(x)
    assert out.shape == (4, 3, 3, 3)
    torch.testing.assert_close(out[:, 2], torch.ones(4, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(out[:, :2], x)
    alike = minibatch_deviation(torch.ones(3, 2, 4, 4))  # 4 doesn't divide 3: one group
    torch.testing.assert_close(alike[:, 2], torch.full((3, 4, 4), 1e-4))


def test_groups_are_apart() -> None:
    x = torch.zeros(8, 1, 2, 2)
    x[0] = 1.0  # with a group of 4: samples 0, 2, 4, 6 and 1, 3, 5, 7
    channel = minibatch_deviation(x)[:, 1, 0, 0]
    assert (channel[::2] > 0.4).all()
    assert (channel[1::2] < 1e-3).all()


def test_blur_keeps_a_constant_inside_and_spreads_a_point() -> None:
    point = torch.zeros(1, 1, 5, 5)
    point[0, 0, 2, 2] = 16.0
    assert Blur()(point)[0, 0, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


def test_channels_and_size_are_stylegans() -> None:
    with torch.device("meta"):
        critic = StyleCritic(1024)
    # StyleGAN's D_basic at 1024 x 1024 has 23,1 M parameters (its network printout).
    assert sum(p.numel() for p in critic.parameters()) == pytest.approx(23.1e6, rel=0.005)
    assert critic.from_rgb.weight.shape == (16, 3, 1, 1)
    assert critic.last.weight.shape == (512, 513, 3, 3)


def test_pictures_of_other_sides_are_refused() -> None:
    assert StyleCritic(16, base=32, widest=8)(torch.zeros(3, 3, 16, 16)).shape == (3,)
    with pytest.raises(ValueError, match="not 48"):
        StyleCritic(48)


def test_critic_loss_rewards_high_scores_of_real_pictures() -> None:
    assert float(critic_loss(torch.tensor([1.0, 3.0]), torch.tensor([5.0, 5.0]))) == -3.0


def test_penalty_of_a_linear_critic_is_known() -> None:
    slope = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)  # norm 5 anywhere: (5 - 1)^2
    fake, real = torch.rand(2, 2, 1, 1), torch.rand(2, 2, 1, 1)
    penalty = gradient_penalty(lambda x: (x * slope).sum(dim=(1, 2, 3)), fake, real, torch.rand(2, 1, 1, 1))
    assert float(penalty) == pytest.approx(16.0, rel=1e-5)


def test_penalty_is_taken_between_real_and_fake_and_reaches_the_critic() -> None:
    weight = torch.tensor(1.0, requires_grad=True)
    fake, real = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    # D(x) = w x^2 / 2, slope w x; mix 1/4 lies at x = 1/2: (1/2 - 1)^2, and d/dw = 2 (w/2 - 1) / 2 = -1/2.
    penalty = gradient_penalty(
        lambda x: weight * x.flatten(1).square().sum(dim=1) / 2, fake, real, torch.full((1, 1, 1, 1), 0.25)
    )
    assert float(penalty) == pytest.approx(0.25)
    penalty.backward()
    assert float(weight.grad) == pytest.approx(-0.5)
