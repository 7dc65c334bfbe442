"""Voxel attention: by hand, over positions and not the batch, its parts, its parameters."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.blocks.voxel_attention import ChannelAttention, VoxelAttention, spatial_attention


def test_spatial_attention_by_hand() -> None:
    # Two channels, two positions: means 0 and log 3, so the softmax is 1/4 and 3/4.
    features = torch.tensor([[[[1.0, 2 * math.log(3)]], [[-1.0, 0.0]]]])
    torch.testing.assert_close(spatial_attention(features), torch.tensor([[[[0.25, 0.75]]]]))


def test_spatial_attention_sums_to_one_for_each_picture() -> None:
    features = torch.randn(3, 5, 4, 2, generator=torch.Generator().manual_seed(0))
    attention = spatial_attention(features)
    assert attention.shape == (3, 1, 4, 2)
    torch.testing.assert_close(attention.sum((1, 2, 3)), torch.ones(3))
    torch.testing.assert_close(spatial_attention(features[1:2]), attention[1:2])


def test_channel_attention_by_hand() -> None:
    gate = ChannelAttention(2, 1)
    gate.squeeze.weight.data = torch.tensor([[1.0, -1.0]])
    gate.excite.weight.data = torch.tensor([[1.0], [-2.0]])
    features = torch.tensor([[[[4.0, 2.0]], [[1.0, 1.0]]]])  # means 3 and 1, so ReLU(W1 c) = 2
    expected = torch.sigmoid(torch.tensor([[2.0, -4.0]]))[:, :, None, None]
    torch.testing.assert_close(gate(features), expected)


def test_kernel_is_the_product_of_both_parts() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 6, 3, 4, generator=generator)
    attention = VoxelAttention(6, 3)
    expected = features * spatial_attention(features) * attention.channel(features)
    torch.testing.assert_close(attention(features), expected)
    torch.testing.assert_close(
        VoxelAttention(6, 3, "spatial")(features), features * spatial_attention(features)
    )
    channel = VoxelAttention(6, 3, "channel")
    torch.testing.assert_close(channel(features), features * channel.channel(features))


@pytest.mark.parametrize(
    ("parts", "expected"), [("voxel", 2 * 2048 * 800), ("channel", 2 * 2048 * 800), ("spatial", 0)]
)
def test_has_2cd_parameters(parts: str, expected: int) -> None:
    attention = VoxelAttention(2048, 800, parts)
    assert sum(p.numel() for p in attention.parameters()) == expected
