"""ImageNet networks of torchvision, used fully convolutionally, as frozen features of pictures of any size.

As in "Image-Text Matching for Cross-modal Retrieval" (thesis chapter 5; ICCV 2017): the shorter side becomes 512
pixels, the shape is kept, and the last map is averaged over space.
- resnet152: the map of the last residual stage, 2048-d (He et al., CVPR 2016).
- vgg19: fully connected layers 6 and 7 as a 7x7 and a 1x1 convolution over pool5, 4096-d, after ReLU (Simonyan and
  Zisserman, ICLR 2015; Long et al., CVPR 2015, for the recasting).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from tasks.blocks.vgg import normalise

Architecture = Literal["resnet152", "vgg19"]
LENGTHS: dict[str, int] = {"resnet152": 2048, "vgg19": 4096}
SHORT_SIDE = 512
SOURCES: dict[str, str] = {
    "resnet152": "https://download.pytorch.org/models/resnet152-394f9c45.pth (BSD-3-Clause)",
    "vgg19": "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth (BSD-3-Clause)",
}


class DeepImageFeatures(nn.Module):
    """One of the two networks without its classifier; see the module's docstring.

    weights: torchvision's file of ImageNet weights, a PyTorch state dict or safetensors. None: the parameters stay
    on the meta device, for shapes and counts alone.

    Raises FileNotFoundError, saying where the weights come from, and ValueError that lists tensors that are
    missing, left over or of another shape.
    """

    def __init__(
        self, architecture: Architecture, weights: str | Path | None, *, short_side: int = SHORT_SIDE
    ) -> None:
        super().__init__()
        if architecture not in LENGTHS:
            raise ValueError(f"architecture {architecture!r} is none of {', '.join(LENGTHS)}")
        self.length = LENGTHS[architecture]
        self.short_side = short_side
        with torch.device("meta"):
            network = models.resnet152() if architecture == "resnet152" else models.vgg19()
        if weights is not None:
            load_weights(network, weights, SOURCES[architecture])
        if isinstance(network, models.ResNet):
            layers = [module for name, module in network.named_children() if name not in ("avgpool", "fc")]
            self.layers = nn.Sequential(*layers)
        else:
            first, second = network.classifier[0], network.classifier[3]
            self.layers = nn.Sequential(
                network.features,
                convolution_of(first, kernel=7),
                nn.ReLU(),
                convolution_of(second, kernel=1),
                nn.ReLU(),
            )
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> DeepImageFeatures:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, image: Tensor) -> Tensor:
        """RGB in [0, 1], [B, 3, H, W] -> [B, length]."""
        return self.layers(normalise(short_side_to(image, self.short_side), "torchvision")).mean(dim=(2, 3))


def short_side_to(image: Tensor, length: int) -> Tensor:
    """[B, C, H, W] with its shorter side brought to `length` pixels, bilinearly, antialiased, the shape kept."""
    height, width = image.shape[-2:]
    factor = length / min(height, width)
    size = max(length, round(height * factor)), max(length, round(width * factor))
    if size == (height, width):
        return image
    return F.interpolate(image, size=size, mode="bilinear", antialias=True).clamp(0, 1)


def convolution_of(linear: nn.Linear, kernel: int) -> nn.Conv2d:
    """The convolution that a fully connected layer over a [C, kernel, kernel] map is: the same numbers."""
    channels, rest = divmod(linear.in_features, kernel * kernel)
    if rest:
        raise ValueError(f"{linear.in_features} inputs are no map of {kernel} x {kernel}")
    with torch.device("meta"):
        convolution = nn.Conv2d(channels, linear.out_features, kernel)
    weight = linear.weight.view(linear.out_features, channels, kernel, kernel)
    convolution.load_state_dict({"weight": weight, "bias": linear.bias}, assign=True)
    return convolution


def load_weights(network: nn.Module, path: str | Path, source: str) -> None:
    """Give a network on the meta device the tensors of a file; errors: see `DeepImageFeatures`."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no ImageNet weights at {path}. Get {source}")
    if path.suffix == ".safetensors":
        given = load_file(path)
    else:
        given = torch.load(path, map_location="cpu", weights_only=True)
    wanted = network.state_dict()
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}  # older files lack them
    problems = [f"missing {key}" for key in wanted if key not in given and key not in counters]
    problems += [f"unknown {key}" for key in given if key not in wanted]
    problems += [
        f"{key} has shape {tuple(value.shape)}, expected {tuple(wanted[key].shape)}"
        for key, value in given.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    if problems:
        shown = "\n  ".join(problems[:20])
        raise ValueError(f"{path} does not fit ({len(problems)} problems):\n  {shown}\nExpected {source}")
    given = {**{key: torch.zeros((), dtype=torch.long) for key in counters}, **given}
    network.load_state_dict(given, assign=True)
