"""VGG-16 without its classifier, as the trunk of pixel-wise networks (HED, RDS, FCN, their fusions).

Thirteen 3x3 convolutions with ReLU in five stages, four 2x2 max-poolings of stride 2 between them; pool5 and
the fully connected layers are not here (Simonyan and Zisserman, "Very Deep Convolutional Networks for
Large-Scale Image Recognition", ICLR 2015, configuration D).

Pooling rounds up (as Caffe does, in which HED and FCN were released): a stage of stride s is ceil(H / s)
high, so that its up-sampled map always covers the picture. On sizes divisible by 16 it equals torchvision's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = (2, 2, 3, 3, 3)
STRIDES = (1, 2, 4, 8, 16)

Convention = Literal["torchvision", "caffe"]
"""What weights expect: RGB less the ImageNet mean over its deviation, or BGR in 0..255 less the mean."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (104.007, 116.669, 122.679)

WEIGHTS = (
    "torchvision's VGG-16, trained on ImageNet (input convention 'torchvision'):\n"
    "  https://download.pytorch.org/models/vgg16-397923af.pth, with batch norm\n"
    "  https://download.pytorch.org/models/vgg16_bn-6c64b313.pth\n"
    "  (BSD-3-Clause; ImageNet itself: non-commercial research),\n"
    "or a conversion of the authors' Caffe model (https://www.robots.ox.ac.uk/~vgg/research/very_deep/,\n"
    "  CC BY 4.0; input convention 'caffe') with torchvision's or Caffe's layer names"
)


def normalise(image: Tensor, convention: Convention) -> Tensor:
    """RGB in [0, 1], [B, 3, H, W], to what the weights of a convention were trained on, [B, 3, H, W]."""
    if image.shape[1] != 3:
        raise ValueError(f"normalise expects RGB pictures [B, 3, H, W], got {tuple(image.shape)}")
    if convention == "caffe":
        return 255.0 * image.flip(1) - image.new_tensor(CAFFE_MEAN_BGR).view(1, 3, 1, 1)
    mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / std


class VGG16Trunk(nn.Module):
    """The thirteen convolutions of VGG-16, tapped at the end of each of the five stages.

    channels: input channels.
    width: factor on the number of filters of every layer (1: 14,714,688 parameters for RGB).
    batch_norm: batch normalisation after each convolution, for training from scratch (as vgg16_bn).
    pad_first: padding of conv1_1. Above 1 (HED: 35) stage k is `pad_first - 1` pixels larger on each side at
        stride 1; `offset` tells it to whoever crops.

    Layers carry Caffe's names: `convolutions["conv3_2"]`, `norms["conv3_2"]`.
    """

    def __init__(
        self, channels: int = 3, width: float = 1.0, batch_norm: bool = False, pad_first: int = 1
    ) -> None:
        super().__init__()
        if pad_first < 1:
            raise ValueError(f"pad_first must be at least 1 to keep the picture's size, got {pad_first}")
        self.widths = tuple(max(1, round(width * filters)) for filters in WIDTHS)
        self.offset = pad_first - 1
        self.convolutions = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        previous = channels
        for stage, (filters, depth) in enumerate(zip(self.widths, DEPTHS, strict=True), start=1):
            for index in range(1, depth + 1):
                layer = f"conv{stage}_{index}"
                padding = pad_first if layer == "conv1_1" else 1
                convolution = nn.Conv2d(previous, filters, 3, padding=padding)
                nn.init.kaiming_normal_(convolution.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(convolution.bias)
                self.convolutions[layer] = convolution
                if batch_norm:
                    self.norms[layer] = nn.BatchNorm2d(filters)
                previous = filters

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> conv1_2, conv2_2, conv3_3, conv4_3, conv5_3 after ReLU, before pooling; stage k is
        [B, widths[k], ceil((H + 2 offset) / 2^k), ceil((W + 2 offset) / 2^k)] for k = 0..4."""
        features = []
        for stage, depth in enumerate(DEPTHS, start=1):
            if stage > 1:
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            for index in range(1, depth + 1):
                layer = f"conv{stage}_{index}"
                x = self.convolutions[layer](x)
                if layer in self.norms:
                    x = self.norms[layer](x)
                x = F.relu(x)
            features.append(x)
        return features

    def load_imagenet(self, path: str | Path) -> None:
        """Load VGG-16 weights: torchvision's vgg16 or vgg16_bn, or a Caffe conversion (`conv1_1.weight` ...),
        as a PyTorch state dict or safetensors file; the classifier's tensors are skipped.

        Raises FileNotFoundError, saying where the weights come from, and ValueError that lists every tensor
        that is missing, left over or of another shape.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no VGG-16 weights at {path}. Get {WEIGHTS}")
        given = _read(path)
        wanted = self.state_dict()
        names = {**_torchvision_names(bool(self.norms)), **_caffe_names()}
        renamed = {
            names.get(key, key): value
            for key, value in given.items()
            if not key.startswith(("classifier.", "fc"))
        }
        optional = {key for key in wanted if key.endswith("num_batches_tracked")}
        problems = [f"missing {key}" for key in wanted if key not in renamed and key not in optional]
        problems += [f"unknown {key}" for key in renamed if key not in wanted]
        problems += [
            f"{key} has shape {tuple(value.shape)}, expected {tuple(wanted[key].shape)}"
            for key, value in renamed.items()
            if key in wanted and value.shape != wanted[key].shape
        ]
        if problems:
            raise ValueError(
                f"{path} does not fit this trunk (widths {self.widths}, batch norm "
                f"{'on' if len(self.norms) else 'off'}):\n  "
                + "\n  ".join(problems)
                + f"\nExpected {WEIGHTS}"
            )
        self.load_state_dict(renamed, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict of tensors (found {type(loaded).__name__})")
    return state


def _layers() -> list[str]:
    return [f"conv{s}_{i}" for s, depth in enumerate(DEPTHS, start=1) for i in range(1, depth + 1)]


def _torchvision_names(batch_norm: bool) -> dict[str, str]:
    """torchvision's `features.<index>.<tensor>` to this module's names."""
    names = {}
    index = 0
    for layer in _layers():
        if layer.endswith("_1") and layer != "conv1_1":
            index += 1  # a pooling layer lies before each later stage
        for tensor in ("weight", "bias"):
            names[f"features.{index}.{tensor}"] = f"convolutions.{layer}.{tensor}"
        if batch_norm:
            for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                names[f"features.{index + 1}.{tensor}"] = f"norms.{layer}.{tensor}"
        index += 3 if batch_norm else 2
    return names


def _caffe_names() -> dict[str, str]:
    return {
        f"{layer}.{tensor}": f"convolutions.{layer}.{tensor}"
        for layer in _layers()
        for tensor in ("weight", "bias")
    }
