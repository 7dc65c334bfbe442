"""How small pictures are augmented and normalised: a random crop of a larger canvas, a random mirror, channel means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Canvas = Literal["pad", "enlarge", "none"]
PADDING = 4
ENLARGED = 72 / 64

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)


def crop_flip(canvas: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut a window out of each canvas and mirror some of them.

    canvas: [B, C, H, W]; top, left: int64 [B], the window's corner; flip: bool [B]; size: (height, width) of the
    window. Returns [B, C, height, width].
    """
    rows = top[:, None] + torch.arange(size[0], device=canvas.device)
    columns = left[:, None] + torch.arange(size[1], device=canvas.device)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    sample = torch.arange(len(canvas), device=canvas.device)[:, None, None, None]
    plane = torch.arange(canvas.shape[1], device=canvas.device)[None, :, None, None]
    return canvas[sample, plane, rows[:, None, :, None], columns[:, None, None, :]]


def augment(image: Tensor, canvas: Canvas) -> Tensor:
    """A random crop of the picture's size and a mirror half of the time, by torch's global generator.

    image: [B, C, H, W]. canvas: "pad" (4 zeros on each side: 32 -> 40), "enlarge" (bilinear, 64 -> 72), or "none":
    the picture stays as it is.
    """
    if canvas == "none":
        return image
    height, width = image.shape[-2:]
    if canvas == "pad":
        larger = F.pad(image, (PADDING,) * 4)
    elif canvas == "enlarge":
        larger = F.interpolate(
            image, (round(ENLARGED * height), round(ENLARGED * width)), mode="bilinear", align_corners=False
        )
    else:
        raise ValueError(f"unknown canvas {canvas!r}")
    count, device = len(image), image.device
    top = torch.randint(larger.shape[-2] - height + 1, (count,), device=device)
    left = torch.randint(larger.shape[-1] - width + 1, (count,), device=device)
    return crop_flip(larger, top, left, torch.rand(count, device=device) < 0.5, (height, width))


class ChannelNormalise(nn.Module):
    """(picture - mean) / std, channel by channel; checkpoints carry both."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int) -> None:
        super().__init__()
        if len(mean) != channels or len(std) != channels:
            raise ValueError(
                f"pictures have {channels} channels, mean and std have {len(mean)} and {len(std)}"
            )
        if min(std) <= 0:
            raise ValueError(f"std must be positive, got {tuple(std)}")
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std
