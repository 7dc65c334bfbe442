"""Warps by one field: sampling beside a slow loop, each warp's identity, and its formula beside a slow sum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tasks.blocks.spatial_warps import (
    AffineWarp,
    AttentionWarp,
    DeformableConvolution,
    SaliencyWarp,
    inverse_cdf_positions,
    pixel_grid,
    saliency_positions,
    sample_groups,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def slow_sample(features: Tensor, field: Tensor) -> Tensor:
    count, channels, height, width = features.shape
    per_group = channels // field.shape[1]
    out = torch.empty_like(features)
    for n in range(count):
        for k in range(channels):
            for y in range(height):
                for x in range(width):
                    dx, dy = field[n, k // per_group, y, x].tolist()
                    u, v = min(max(x + dx, 0), width - 1), min(max(y + dy, 0), height - 1)
                    left, top = math.floor(u), math.floor(v)
                    right, below = min(left + 1, width - 1), min(top + 1, height - 1)
                    plane, a, b = features[n, k], u - left, v - top
                    out[n, k, y, x] = (1 - b) * ((1 - a) * plane[top, left] + a * plane[top, right]) + b * (
                        (1 - a) * plane[below, left] + a * plane[below, right]
                    )
    return out


def test_sampling_is_the_slow_loop() -> None:
    features, field = random(2, 6, 4, 5), 4 * random(2, 3, 4, 5, 2, seed=1) - 2
    torch.testing.assert_close(sample_groups(features, field), slow_sample(features, field))


def test_displacement_is_x_then_y_in_pixels_and_by_group() -> None:
    features = torch.arange(12.0).view(1, 1, 3, 4).repeat(1, 2, 1, 1)
    field = torch.zeros(1, 2, 3, 4, 2)
    field[:, 0, ..., 0] = 1.0  # the first channel reads its right neighbour, the second the pixel below
    field[:, 1, ..., 1] = 1.0
    warped = sample_groups(features, field)
    assert warped[0, 0, 0].round().tolist() == [1, 2, 3, 3]
    assert warped[0, 1, 0].round().tolist() == [4, 5, 6, 7]


def test_sampling_has_gradients_in_both_and_refuses_other_shapes() -> None:
    features = random(1, 4, 3, 3).double().requires_grad_()
    field = (0.4 * random(1, 2, 3, 3, 2) + 0.2).double().requires_grad_()
    inside = torch.tensor([[[[0.3, 0.3]]]], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda a, b: sample_groups(a, b * inside), (features, field))
    with pytest.raises(ValueError, match="divisor of the channels"):
        sample_groups(features, torch.zeros(1, 3, 3, 3, 2))


@pytest.mark.parametrize("warp", [AffineWarp(8), SaliencyWarp(8)])
def test_learned_warps_start_as_the_identity(warp: nn.Module) -> None:
    features = random(2, 8, 5, 7)
    warped, field = warp.eval()(features)
    assert field.shape == (2, 1, 5, 7, 2)
    torch.testing.assert_close(field, torch.zeros_like(field), atol=1e-4, rtol=0)
    torch.testing.assert_close(warped, features, atol=1e-4, rtol=0)


def test_attention_warp_is_the_identity_on_a_flat_map_and_stretches_a_bright_row() -> None:
    warp = AttentionWarp()
    flat, field = warp(torch.ones(1, 3, 6, 6))
    torch.testing.assert_close(flat, torch.ones(1, 3, 6, 6))
    torch.testing.assert_close(field, torch.zeros_like(field), atol=1e-4, rtol=0)
    bright = 0.1 * torch.ones(1, 3, 6, 6)
    bright[:, :, 2] = 3.0
    warped, _ = warp(bright)
    assert (warped[0, 0, :, 0] > 1.5).sum() > (bright[0, 0, :, 0] > 1.5).sum()


def test_an_affine_map_by_hand() -> None:
    warp = AffineWarp(2)
    # Half the size: the corners of the target read a quarter of the map inside.
    warp.affine.bias.data = torch.tensor([0.5, 0.0, 0.0, 0.0, 0.5, 0.0])
    field = warp.eval().field(torch.zeros(1, 2, 8, 8))
    position = field[0, 0] + pixel_grid(8, 8, field)
    torch.testing.assert_close(position[0, 0], torch.tensor([1.75, 1.75]))
    torch.testing.assert_close(position[0, 7], torch.tensor([5.25, 1.75]))


def test_saliency_positions_are_the_slow_sum() -> None:
    saliency, sigma = random(2, 3, 4) + 0.05, 0.4
    height, width = 3, 4
    found = saliency_positions(saliency, sigma)
    for n in range(2):
        for y in range(height):
            for x in range(width):
                weights, u, v = 0.0, 0.0, 0.0
                for q in range(y - height, y + height + 1):
                    for p in range(x - width, x + width + 1):
                        s = saliency[n, min(max(q, 0), height - 1), min(max(p, 0), width - 1)].item()
                        distance = ((p - x) / (sigma * width)) ** 2 + ((q - y) / (sigma * height)) ** 2
                        k = s * math.exp(-0.5 * distance)
                        weights, u, v = weights + k, u + k * p, v + k * q
                expected = min(max(u / weights, 0), width - 1), min(max(v / weights, 0), height - 1)
                assert found[n, y, x].tolist() == pytest.approx(expected, abs=1e-4)


def test_salient_places_attract() -> None:
    saliency = torch.full((1, 7, 7), 0.01)
    saliency[0, 3, 5] = 1.0
    position = saliency_positions(saliency, 1 / 3)
    assert position[0, 3, 3, 0] > 3.5


def test_quantiles_by_hand() -> None:
    torch.testing.assert_close(inverse_cdf_positions(torch.ones(1, 4)), torch.tensor([[0.0, 1, 2, 3]]))
    # 3/4 of the mass in the second of two pixels: quantiles 1/4 and 3/4 lie at 0.5 and 1 + 1/6.
    found = inverse_cdf_positions(torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 1.0 + 2 / 3 - 0.5]]))
    density = (random(2, 5) + 0.1).double().requires_grad_()
    assert torch.autograd.gradcheck(inverse_cdf_positions, (density,))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_deformable_convolution_starts_as_the_one_it_replaces(stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 3, stride=stride, padding=1)
    deformable, image = DeformableConvolution(plain), random(2, 3, 6, 6)
    torch.testing.assert_close(deformable(image), plain(image), atol=1e-5, rtol=1e-4)
    before = deformable(image)
    deformable.offset.bias.data[1::2] = 1.0  # (y, x) pairs: one pixel to the right
    moved = deformable(image)
    assert not torch.allclose(before, moved)
    if stride == 1:
        torch.testing.assert_close(moved[..., 1:4, 1:3], before[..., 1:4, 2:4], atol=1e-5, rtol=1e-4)
    moved.square().mean().backward()
    assert deformable.offset.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="one group"):
        DeformableConvolution(nn.Conv2d(4, 4, 3, groups=2))
