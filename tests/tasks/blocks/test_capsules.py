"""Capsule layers: squash, routing against a written-out reference, and the 3-D convolution it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.blocks.capsules import ClassCaps, ConvCaps, ConvCaps3D, route_capsules, route_maps, squash


def test_squash_keeps_the_direction_and_shortens_as_the_equation_says() -> None:
    s = torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0]])
    v = squash(s, dim=1)
    # ||s|| = 5: 25/26 of the unit vector (0.6, 0.8); ||s|| = 1: half of it; 0 stays 0.
    torch.testing.assert_close(v, torch.tensor([[0.6 * 25 / 26, 0.8 * 25 / 26], [0.3, 0.4], [0.0, 0.0]]))
    assert squash(30 * torch.randn(50, 8), dim=1).norm(dim=1).max() < 1


def test_squash_has_a_finite_gradient_at_zero_and_is_float32_from_half() -> None:
    s = torch.zeros(2, 4, requires_grad=True)
    squash(s, dim=1).sum().backward()
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()
    small = squash(torch.full((1, 4), 1e-3, dtype=torch.float16), dim=1)
    assert small.dtype == torch.float32
    assert float(small.norm()) == pytest.approx(4e-6, rel=0.05)


def route_slowly(votes: Tensor, bias: Tensor, iterations: int) -> Tensor:
    """Sabour et al.'s procedure for one sample, number by number: votes [in, out, dim]."""
    inputs, outputs, _ = votes.shape
    logits = [[0.0] * outputs for _ in range(inputs)]
    activation = []
    for _ in range(iterations):
        weights = [torch.tensor(row, dtype=torch.float64).softmax(0) for row in logits]
        activation = []
        for j in range(outputs):
            s = sum(weights[i][j] * votes[i, j] for i in range(inputs)) + bias[j]
            activation.append(squash(s, dim=0))
        for i in range(inputs):
            for j in range(outputs):
                logits[i][j] += float(activation[j] @ votes[i, j])
    return torch.stack(activation)


@pytest.mark.parametrize("iterations", [1, 3])
def test_routing_of_lists_is_the_written_out_procedure(iterations: int) -> None:
    torch.manual_seed(0)
    votes, bias = torch.randn(2, 4, 3, 5), torch.randn(3, 5)
    fast = route_capsules(votes, bias, iterations)
    slow = torch.stack([route_slowly(sample, bias, iterations) for sample in votes])
    torch.testing.assert_close(fast, slow.float(), atol=1e-5, rtol=1e-4)


def test_routing_of_maps_shares_weight_over_capsules_and_places() -> None:
    """A single iteration: every weight is 1 / (out * H * W), and lengths are squashed jointly."""
    torch.manual_seed(0)
    votes, bias = torch.randn(1, 3, 2, 4, 5, 5), torch.full((2, 4), 0.1)
    s = votes.sum(dim=1) / (2 * 5 * 5) + 0.1
    torch.testing.assert_close(route_maps(votes, bias, 1), squash(s, dim=(2, 3, 4)))
    routed = route_maps(votes, bias, 3)
    assert (routed.flatten(2).norm(dim=2) < 1).all()
    assert not torch.allclose(routed, route_maps(votes, bias, 1))


def test_routing_gives_weight_to_agreement() -> None:
    """Three inputs vote alike for output 0 and at odds for output 1: routing makes 0 longer than one pass does."""
    votes = torch.zeros(1, 3, 2, 2)
    votes[0, :, 0] = torch.tensor([2.0, 0.0])
    votes[0, :, 1] = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0]])
    lengths = [route_capsules(votes, torch.zeros(2, 2), n).norm(dim=2)[0] for n in (1, 3)]
    assert lengths[1][0] > lengths[0][0] > lengths[0][1]


def test_votes_of_conv_caps_3d_are_those_of_a_strided_3d_convolution() -> None:
    torch.manual_seed(0)
    layer = ConvCaps3D(in_dim=8, capsules=3, dim=4, iterations=1)
    x = torch.randn(2, 5, 8, 6, 6)
    kernel = layer.weight[:, None]  # [out, 1, 8, 3, 3]
    votes = F.conv3d(x.flatten(1, 2)[:, None], kernel, stride=(8, 1, 1), padding=(0, 1, 1))
    assert votes.shape == (2, 12, 5, 6, 6)
    expected = route_maps(votes.unflatten(1, (3, 4)).permute(0, 3, 1, 2, 4, 5), layer.bias, 1)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)
    assert layer.bias.detach().unique().tolist() == [pytest.approx(0.1)]


def test_shapes_and_routing_without_iterations() -> None:
    x = torch.randn(2, 4, 8, 7, 7)
    assert ConvCaps(4, 8, 3, 5, stride=2)(x).shape == (2, 3, 5, 4, 4)
    assert ConvCaps(4, 8, 3, 5).conv.bias is None
    assert ConvCaps3D(8, 3, 5)(x).shape == (2, 3, 5, 7, 7)
    assert ClassCaps(6, 8, 3, 5)(torch.randn(2, 6, 8)).shape == (2, 3, 5)
    with pytest.raises(ValueError, match="at least one"):
        ClassCaps(6, 8, 3, 5, iterations=0)


def test_routing_stays_in_float32_under_autocast() -> None:
    x = torch.randn(2, 4, 8, 4, 4)
    layer, last = ConvCaps3D(8, 4, 8), ClassCaps(64, 8, 3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routed = layer(x)
        listed = last(routed.flatten(3).permute(0, 3, 1, 2).flatten(1, 2).bfloat16())
    assert routed.dtype == listed.dtype == torch.float32
