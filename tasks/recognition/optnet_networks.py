"""The networks of OPT-Net: the eliminate-add generator, StarGAN's, the discriminator and the pose-eliminate module.

Sections 2.1 to 2.3 and 3.2 of the paper give layers and strides, no widths, kernels or norms (its supplement isn't
public); those are StarGAN's (Choi et al., CVPR 2018), whose code the paper builds on. Defaults are for 256 x 256.
Convolutions with a normalisation behind them have no bias, as in StarGAN. D and P_elim, which have no normalisation,
start from He's initialisation (chosen here): PyTorch's own lets the signal shrink from layer to layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POSE_REPEATS = 3
"""Channels for yaw, and as many for pitch, in the pose mask."""
SLOPE = 0.01


def normalised(convolution: nn.Module, channels: int) -> list[nn.Module]:
    """A convolution, InstanceNorm with learnt scale and shift, ReLU."""
    return [convolution, nn.InstanceNorm2d(channels, affine=True), nn.ReLU(inplace=True)]


class ResidualBlock(nn.Module):
    """3x3, InstanceNorm, ReLU, 3x3, InstanceNorm, plus what came in.

    The last scale starts at 0, so that a block is the identity at first (chosen here).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = nn.InstanceNorm2d(channels, affine=True)
        nn.init.zeros_(last.weight)
        self.branch = nn.Sequential(
            *normalised(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), channels),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def encoder(inputs: int, width: int) -> list[nn.Module]:
    """Three convolutions, two of stride 2: [B, inputs, H, W] -> [B, 4 width, H/4, W/4]."""
    return [
        *normalised(nn.Conv2d(inputs, width, 7, 1, 3, bias=False), width),
        *normalised(nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), 2 * width),
        *normalised(nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False), 4 * width),
    ]


def decoder(width: int) -> list[nn.Module]:
    """Three convolutions, two of them up-sampling: [B, 4 width, H/4, W/4] -> [B, 3, H, W] in [-1, 1]."""
    return [
        *normalised(nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False), 2 * width),
        *normalised(nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False), width),
        nn.Conv2d(width, 3, 7, 1, 3, bias=False),
        nn.Tanh(),
    ]


def he_initialised(module: nn.Module) -> None:
    """Draw the weights of all convolutions from He's normal distribution for a leaky ReLU; biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def pose_code(pose: Tensor, yaws: int, pitches: int) -> Tensor:
    """(yaw, pitch) from 1, [B, 2] -> [B, 2], each brought linearly to [-1, 1]; an axis of a single pose is 0.

    >>> pose_code(torch.tensor([[1.0, 1.0], [3.5, 2.0], [6.0, 3.0]]), 6, 3).tolist()
    [[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]
    """
    last = pose.new_tensor([yaws - 1, pitches - 1])
    return torch.where(last > 0, 2 * (pose - 1) / last.clamp(min=1) - 1, torch.zeros_like(pose))


def pose_mask(code: Tensor, height: int, width: int) -> Tensor:
    """A pose code [B, 2] as 6 constant channels [B, 6, h, w]: 3 of yaw, 3 of pitch (section 2.3)."""
    repeated = code.repeat_interleave(POSE_REPEATS, dim=1)
    return repeated[:, :, None, None].expand(-1, -1, height, width)


class EliminateAddGenerator(nn.Module):
    """G = G_elim, which sees no pose, then G_add, which gets the target pose (section 2.1).

    width: channels of the first convolution. eliminate_blocks, add_blocks: residual blocks of the two halves.
    """

    def __init__(
        self, yaws: int, pitches: int, *, width: int = 64, eliminate_blocks: int = 3, add_blocks: int = 5
    ) -> None:
        super().__init__()
        self.yaws, self.pitches, self.features = yaws, pitches, 4 * width
        blocks = [ResidualBlock(4 * width) for _ in range(eliminate_blocks)]
        self.eliminate = nn.Sequential(*encoder(3, width), *blocks)
        # Without InstanceNorm: the mask is constant over the map, so what it adds is what InstanceNorm would remove.
        merge = nn.Conv2d(4 * width + 2 * POSE_REPEATS, 4 * width, 3, 1, 1)
        blocks = [ResidualBlock(4 * width) for _ in range(add_blocks)]
        self.add = nn.Sequential(merge, nn.ReLU(inplace=True), *blocks, *decoder(width))

    def synthesise(self, canonical: Tensor, pose: Tensor) -> Tensor:
        """G_add: x_r [B, 4 width, H/4, W/4] and poses [B, 2] -> pictures [B, 3, H, W] in [-1, 1]."""
        mask = pose_mask(pose_code(pose, self.yaws, self.pitches), *canonical.shape[-2:])
        return self.add(torch.cat([canonical, mask.to(canonical.dtype)], dim=1))

    def forward(self, image: Tensor, pose: Tensor) -> Tensor:
        """image [B, 3, H, W] in [-1, 1], target poses [B, 2] -> [B, 3, H, W] in [-1, 1]"""
        return self.synthesise(self.eliminate(image), pose)


class StarGenerator(nn.Module):
    """StarGAN's generator: the target pose, one-hot, stands beside the picture at the input; whole poses alone.

    blocks: residual blocks.
    """

    def __init__(self, yaws: int, pitches: int, *, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        self.yaws, self.poses = yaws, yaws * pitches
        inner = [ResidualBlock(4 * width) for _ in range(blocks)]
        self.layers = nn.Sequential(*encoder(3 + self.poses, width), *inner, *decoder(width))

    def forward(self, image: Tensor, pose: Tensor) -> Tensor:
        """As `EliminateAddGenerator`; a `ValueError` for poses between the known ones."""
        whole = pose.round()
        if not torch.allclose(whole, pose, atol=1e-4):
            raise ValueError(f"StarGAN's one-hot poses can't be interpolated: {pose.tolist()}")
        number = ((whole[:, 1] - 1) * self.yaws + whole[:, 0] - 1).long()
        code = F.one_hot(number, self.poses).to(image.dtype)
        planes = code[:, :, None, None].expand(-1, -1, *image.shape[-2:])
        return self.layers(torch.cat([image, planes], dim=1))


class Verdict(NamedTuple):
    """D_src [B, 1, h, w], unbounded, and D_cls [B, poses], logits."""

    source: Tensor
    pose: Tensor


class Discriminator(nn.Module):
    """PatchGAN with two heads: real or not, patch by patch, and the pose (section 2.1).

    side: of the pictures, a multiple of 2^layers. width: channels of the first layer, doubled by each.
    """

    def __init__(self, side: int, poses: int, *, width: int = 64, layers: int = 6) -> None:
        super().__init__()
        if layers < 1 or side % 2**layers:
            raise ValueError(
                f"a discriminator of {layers} halvings needs pictures of {2**layers} n pixels, not {side}"
            )
        body: list[nn.Module] = []
        channels = 3
        for layer in range(layers):
            body += [nn.Conv2d(channels, width * 2**layer, 4, 2, 1), nn.LeakyReLU(SLOPE)]
            channels = width * 2**layer
        self.body = nn.Sequential(*body)
        self.source = nn.Conv2d(channels, 1, 3, 1, 1, bias=False)
        self.pose = nn.Conv2d(channels, poses, side // 2**layers, bias=False)
        he_initialised(self)

    def forward(self, image: Tensor) -> Verdict:
        x = self.body(image)
        return Verdict(self.source(x), self.pose(x).flatten(1))


class PoseEliminateModule(nn.Module):
    """P_elim: x_r -> pose logits, by three halvings, a residual block, three more halvings and an output layer.

    side: of x_r. A halving is 4x4 with stride 2 while the map is even, else 3x3 with stride 2, so that a map of 1 x 1
    stays one. InstanceNorm has no meaning for 1 x 1: it is in the residual block alone, where the map is larger there.
    """

    def __init__(self, side: int, poses: int, *, channels: int = 256) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(6):
            if number == 3:
                layers.append(ResidualBlock(channels) if side > 1 else PlainResidualBlock(channels))
            kernel = 4 if side % 2 == 0 else 3
            layers += [nn.Conv2d(channels, channels, kernel, 2, 1), nn.LeakyReLU(SLOPE)]
            side = (side + 1) // 2
        self.layers = nn.Sequential(*layers)
        self.output = nn.Conv2d(channels, poses, side)
        he_initialised(self)

    def forward(self, canonical: Tensor) -> Tensor:
        """[B, channels, h, w] -> logits [B, poses]"""
        return self.output(self.layers(canonical)).flatten(1)


class PlainResidualBlock(nn.Module):
    """A residual block without normalisation, for maps of 1 x 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1), nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)
