"""Side outputs: the bilinear kernel by hand, alignment of every stage with the picture, fixed up-sampling."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tasks.blocks.side_outputs import SideOutputs, bilinear_kernel
from tasks.blocks.vgg import VGG16Trunk


def test_kernel_by_hand() -> None:
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.allclose(bilinear_kernel(2), torch.outer(line, line))
    assert bilinear_kernel(1).tolist() == [[1.0]]
    # Each output pixel is a weighted mean: shifted by the stride, the kernel sums to one.
    for stride in (2, 4, 8, 16):
        kernel = bilinear_kernel(stride)
        assert kernel.shape == (2 * stride, 2 * stride)
        shifted = kernel.view(2, stride, 2, stride).sum((0, 2))
        assert torch.allclose(shifted, torch.ones(stride, stride))
    with pytest.raises(ValueError, match="positive"):
        bilinear_kernel(0)


def sides_of_ones(levels: int = 5) -> SideOutputs:
    sides = SideOutputs([1] * levels)
    for score in sides.scores:
        torch.nn.init.ones_(score.weight)
    return sides


def test_constant_and_ramp_come_back_inside() -> None:
    size = 96
    position = torch.arange(size, dtype=torch.float32)
    # Stage k holds the mean of each block of 2^k pixels, as an ideal feature would.
    ramp = [position.view(-1, 2**k).mean(1).expand(1, 1, size // 2**k, -1) for k in range(5)]
    logits = sides_of_ones()(ramp, (size, size))
    constant = sides_of_ones()([torch.ones_like(feature) for feature in ramp], (size, size))
    for k in range(5):
        margin = 2**k // 2
        inside = slice(margin, size - margin)
        assert torch.allclose(logits[0, k, inside, inside], position[inside].expand(size - 2 * margin, -1))
        assert torch.allclose(constant[0, k, inside, inside], torch.ones(1))


def test_agrees_with_interpolation_inside() -> None:
    torch.manual_seed(0)
    features = [torch.rand(2, 1, 64 // 2**k, 96 // 2**k) for k in range(5)]
    logits = sides_of_ones()(features, (64, 96))
    for k, feature in enumerate(features):
        margin = max(1, 2**k // 2)
        reference = F.interpolate(feature, size=(64, 96), mode="bilinear", align_corners=False)[:, 0]
        inside = (slice(None), slice(margin, -margin), slice(margin, -margin))
        assert torch.allclose(logits[:, k][inside], reference[inside], atol=1e-6)


@pytest.mark.parametrize("pad_first", [1, 35])
def test_crop_aligns_with_the_picture(pad_first: int) -> None:
    """A trunk that only averages keeps a blob at its place in every side map."""
    trunk = VGG16Trunk(channels=1, width=1e-6, pad_first=pad_first)
    for convolution in trunk.convolutions.values():
        torch.nn.init.zeros_(convolution.weight)
        convolution.weight.data[:, :, 1, 1] = 1.0
    sides = SideOutputs(trunk.widths, trunk.offset)
    for score in sides.scores:
        torch.nn.init.ones_(score.weight)
    image = torch.zeros(1, 1, 96, 112)
    # A whole cell of the coarsest grid, wherever padding has put that grid.
    top, left = (48 - trunk.offset % 16, 64 - trunk.offset % 16)
    image[..., top : top + 16, left : left + 16] = 1.0
    logits = sides(trunk(image), (96, 112))[0].detach().clamp(min=0)
    rows, columns = torch.arange(96.0), torch.arange(112.0)
    for level in logits:
        assert float((level.sum(1) * rows).sum() / level.sum()) == pytest.approx(top + 7.5, abs=0.6)
        assert float((level.sum(0) * columns).sum() / level.sum()) == pytest.approx(left + 7.5, abs=0.6)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (33, 47)])
def test_any_size_is_covered(size: tuple[int, int]) -> None:
    trunk = VGG16Trunk(width=0.05)
    assert SideOutputs(trunk.widths)(trunk(torch.rand(1, 3, *size)), size).shape == (1, 5, *size)


def test_starts_at_zero_and_trains_scores_alone() -> None:
    sides = SideOutputs([3, 4])
    features = [torch.rand(1, 3, 8, 8), torch.rand(1, 4, 4, 4)]
    assert torch.equal(sides(features, (8, 8)), torch.zeros(1, 2, 8, 8))
    assert [name for name, _ in sides.named_parameters()] == [
        f"scores.{k}.{part}" for k in (0, 1) for part in ("weight", "bias")
    ]
    assert "bilinear_2" not in sides.state_dict()


def test_too_small_features_are_refused() -> None:
    with pytest.raises(ValueError, match="do not cover a picture of 9x9"):
        SideOutputs([1, 1])([torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)], (9, 9))
