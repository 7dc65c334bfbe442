"""A trained ResNet that a student looks up to and never changes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.blocks.crop_flip import ChannelNormalise
from tasks.blocks.narrow_resnet import NarrowResNet, Stages
from tasks.blocks.published_weights import read_published


class Teacher:
    """A frozen network with the normalisation of its pictures, always in evaluation mode.

    No module, so that a student that holds it neither counts, saves nor trains it, and `train()` can't set its batch
    statistics moving.
    """

    def __init__(self, network: NarrowResNet, normalise: nn.Module) -> None:
        self.network = network.requires_grad_(False).eval()
        self.normalise = normalise.eval()
        self.adopted = self.digest()

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Stages:
        """Pictures in [0, 1], [B, channels, H, W]; follows them to their device."""
        self.network.to(image.device)
        self.normalise.to(image.device)
        return self.network.stages(self.normalise(image))

    def digest(self) -> str:
        """Of all weights and batch statistics: the same as long as nothing has moved."""
        digest = hashlib.sha256()
        for value in self.network.state_dict().values():
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @classmethod
    def from_file(cls, path: str | Path, normalise: ChannelNormalise, pool_stride: int) -> Teacher:
        """From the checkpoint of a `kd_teacher`, or from a ResNet's state dict with torchvision's names.

        The latter brings no normalisation of its own and gets the student's. Raises as `read_published`, and
        ValueError that names the file and what doesn't fit.
        """
        state = read_published(path)
        own = {key.removeprefix("network."): v for key, v in state.items() if key.startswith("network.")}
        try:
            network = NarrowResNet.like(own or state, pool_stride=pool_stride)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        mean, std = (state.get(f"normalise.{name}", getattr(normalise, name)) for name in ("mean", "std"))
        return cls(network, ChannelNormalise(mean.flatten().tolist(), std.flatten().tolist(), len(mean)))
