"""OPT-Net's networks: the paper's sizes, no pose in G_elim, the pose plane, patches, maps that never vanish."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tasks.recognition.optnet_networks import (
    Discriminator,
    EliminateAddGenerator,
    PoseEliminateModule,
    StarGenerator,
    pose_code,
    pose_mask,
)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_and_shapes_at_256_pixels() -> None:
    with torch.device("meta"):
        generator, star = EliminateAddGenerator(6, 1), StarGenerator(6, 1)
        discriminator, pelim = Discriminator(256, 6), PoseEliminateModule(64, 6)
        image, pose = torch.zeros(2, 3, 256, 256), torch.ones(2, 2)
        canonical = generator.eliminate(image)
        assert canonical.shape == (2, 256, 64, 64)
        assert generator.synthesise(canonical, pose).shape == image.shape
        assert pelim(canonical).shape == (2, 6)
        assert [tuple(part.shape) for part in discriminator(image)] == [(2, 1, 4, 4), (2, 6)]
    assert size(generator) == 11_380_096
    assert (size(generator.eliminate), size(generator.add)) == (4_207_680, 7_172_416)
    assert size(star) == 8_433_664
    assert size(discriminator) == 44_917_696
    assert size(pelim) == 7_475_206
    assert generator.add[0].in_channels == 262
    assert [layer.stride[0] for layer in generator.eliminate if isinstance(layer, nn.Conv2d)] == [1, 2, 2]
    assert sum(type(layer).__name__ == "ResidualBlock" for layer in generator.eliminate) == 3
    assert sum(type(layer).__name__ == "ResidualBlock" for layer in generator.add) == 5


def test_pose_elimination_halves_64_to_1() -> None:
    sides = []
    pelim = PoseEliminateModule(64, 6, channels=2)
    x = torch.zeros(1, 2, 64, 64)
    for layer in pelim.layers:
        x = layer(x)
        if isinstance(layer, nn.Conv2d):
            sides.append(x.shape[-1])
    assert sides == [32, 16, 8, 4, 2, 1]


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 10, 16, 24])
def test_pose_elimination_takes_small_maps_in_training(side: int) -> None:
    pelim = PoseEliminateModule(side, 6, channels=4).train()
    logits = pelim(torch.randn(2, 4, side, side))
    assert logits.shape == (2, 6)
    assert logits.isfinite().all()


def test_the_canonical_feature_sees_no_pose_and_the_picture_does() -> None:
    torch.manual_seed(0)
    generator = EliminateAddGenerator(6, 3, width=4)
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    poses = torch.tensor([[1.0, 1.0], [2.0, 1.0]]), torch.tensor([[4.5, 1.0], [2.0, 3.0]])
    with torch.no_grad():
        canonical = generator.eliminate(image)  # takes a picture alone
        first, second = (generator(image, pose) for pose in poses)
        torch.testing.assert_close(generator.synthesise(canonical, poses[0]), first)
    assert (first - second).abs().amax(dim=(1, 2, 3)).min() > 1e-4  # yaw changed in one, pitch in the other
    assert float(first.abs().max()) <= 1


def test_the_merging_convolution_keeps_what_a_constant_mask_adds() -> None:
    """Away from the border too, where InstanceNorm would have removed it."""
    torch.manual_seed(0)
    merge = EliminateAddGenerator(6, 1, width=2).add[:2]
    canonical = torch.randn(1, 8, 9, 9)
    masks = [pose_mask(torch.tensor([[yaw, 0.0]]), 9, 9) for yaw in (-1.0, 1.0)]
    first, second = (merge(torch.cat([canonical, mask], dim=1))[..., 2:-2, 2:-2] for mask in masks)
    assert (first - second).abs().max() > 0.1
    norm = nn.InstanceNorm2d(8)
    inner = [norm(merge[0](torch.cat([canonical, mask], dim=1))[..., 1:-1, 1:-1]) for mask in masks]
    torch.testing.assert_close(inner[0], inner[1], atol=1e-4, rtol=1e-3)


def test_poses_are_points_of_a_plane_and_three_equal_channels_each() -> None:
    poses = torch.tensor([[1.0, 1.0], [6.0, 3.0], [3.5, 2.0]])
    code = pose_code(poses, 6, 3)
    assert code.tolist() == [[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]
    assert pose_code(poses[:, :1].repeat(1, 2).clamp(max=1), 6, 1)[:, 1].tolist() == [0.0] * 3
    middle = pose_code(torch.tensor([[2.5, 1.0]]), 6, 3)
    torch.testing.assert_close(
        middle,
        (pose_code(torch.tensor([[2.0, 1.0]]), 6, 3) + pose_code(torch.tensor([[3.0, 1.0]]), 6, 3)) / 2,
    )
    mask = pose_mask(code, 4, 5)
    assert mask.shape == (3, 6, 4, 5)
    assert mask[0].unique().tolist() == [-1.0]
    assert (mask[:, :3] == code[:, :1, None, None]).all()
    assert (mask[:, 3:] == code[:, 1:, None, None]).all()


def test_stargan_takes_whole_poses_alone() -> None:
    generator = StarGenerator(6, 1, width=4)
    assert generator.layers[0].in_channels == 9
    image = torch.zeros(2, 3, 16, 16)
    assert generator(image, torch.tensor([[1.0, 1.0], [6.0, 1.0]])).shape == image.shape
    with pytest.raises(ValueError, match="can't be interpolated"):
        generator(image, torch.tensor([[1.5, 1.0], [6.0, 1.0]]))


def test_discriminators_need_enough_pixels() -> None:
    with pytest.raises(ValueError, match="6 halvings needs pictures of 64 n pixels, not 32"):
        Discriminator(32, 6)
