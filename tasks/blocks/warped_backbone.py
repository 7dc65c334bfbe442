"""Backbones cut after their last convolution, with a warp of that feature map behind (VTN, section 4.2).

    resnet50  torchvision's ResNet-50 up to layer4: 2048 channels, stride 32
    vgg19     torchvision's VGG-19 up to conv5_4 and its ReLU, before pool5: 512 channels, stride 16
    small     five 3x3 conv-BN-ReLU of 16, 32, 64, 64 and 64 channels, stride 8, for rendered pictures

Every warp sits at the same place and takes and gives [N, K, h, w]; a deformable convolution takes the place of the
backbone's last 3x3 one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from tasks.blocks.published_weights import load_renamed, read_published
from tasks.blocks.spatial_warps import AffineWarp, AttentionWarp, DeformableConvolution, SaliencyWarp
from tasks.blocks.vgg import normalise
from tasks.blocks.volumetric_transformer import VolumetricTransformer

Backbone = Literal["resnet50", "vgg19", "small"]
Warp = Literal["none", "stn", "defconv", "ssn", "asn", "vtn"]
SMALL_WIDTHS = (16, 32, 64, 64, 64)
SMALL_STRIDES = (2, 2, 1, 1, 1)
SMALL_POOLED = (2,)
"""After which of its convolutions the small backbone halves the map by max-pooling."""

SOURCES = {
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth (BSD-3-Clause)",
    "vgg19": "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth (BSD-3-Clause)",
}


def build_backbone(backbone: Backbone, weights: str | None) -> tuple[nn.Sequential, int]:
    """The layers [N, 3, H, W] -> [N, K, h, w] and K. weights: file of torchvision's ImageNet weights, whole network.

    Raises ValueError and FileNotFoundError where the weights don't fit or aren't there, saying where to get them.
    """
    if backbone == "small":
        if weights is not None:
            raise ValueError("there are no ImageNet weights of the small backbone")
        return _small(), SMALL_WIDTHS[-1]
    from torchvision import models

    network = models.resnet50() if backbone == "resnet50" else models.vgg19()
    if weights is not None:
        try:
            load_renamed(network, read_published(weights), lambda name: name)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"{error}\nExpected {SOURCES[backbone]}") from error
    if isinstance(network, models.ResNet):
        return nn.Sequential(*list(network.children())[:-2]), 2048
    return nn.Sequential(*list(network.features)[:-1]), 512


def _small() -> nn.Sequential:
    layers: list[nn.Module] = []
    previous = 3
    for number, (width, stride) in enumerate(zip(SMALL_WIDTHS, SMALL_STRIDES, strict=True)):
        layers += [
            nn.Conv2d(previous, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        if number in SMALL_POOLED:
            layers.append(nn.MaxPool2d(2))
        previous = width
    return nn.Sequential(*layers)


def make_last_convolution_deformable(layers: nn.Module) -> None:
    """Put a deformable convolution in place of the last 3x3 convolution of a backbone, its weights kept."""
    name = [
        name
        for name, module in layers.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ][-1]
    parent, _, child = name.rpartition(".")
    owner = layers.get_submodule(parent)
    setattr(owner, child, DeformableConvolution(getattr(owner, child)))


class WarpedBackbone(nn.Module):
    """RGB in [0, 1], [N, 3, H, W] -> V [N, K, h, w], and the field [N, C, h, w, 2] or None where there is none.

    warp: what moves the last feature map. shared_field: one field for all channels from the same machinery (C = 1).
    groups, window, beta, use_squeeze, use_group, prob: see `VolumetricTransformer`.
    What a warp draws at random doesn't shift the global generator: with the same seed, the backbone and whatever is
    built later start alike under every warp.
    """

    def __init__(
        self,
        *,
        backbone: Backbone = "resnet50",
        weights: str | None = None,
        warp: Warp = "vtn",
        groups: int = 32,
        window: int = 11,
        beta: float = 10.0,
        use_squeeze: bool = True,
        use_group: bool = True,
        prob: bool = True,
        shared_field: bool = False,
    ) -> None:
        super().__init__()
        self.layers, self.channels = build_backbone(backbone, weights)
        if shared_field and warp != "vtn":
            raise ValueError(f"shared_field is a form of warp 'vtn', not of {warp!r}")
        self.warp: nn.Module | None = None
        with torch.random.fork_rng(devices=[]):
            if warp == "vtn":
                self.warp = VolumetricTransformer(
                    self.channels,
                    groups=1 if shared_field else groups,
                    window=window,
                    beta=beta,
                    use_squeeze=use_squeeze,
                    use_group=use_group or shared_field,
                    prob=prob,
                )
            elif warp == "stn":
                self.warp = AffineWarp(self.channels)
            elif warp == "ssn":
                self.warp = SaliencyWarp(self.channels)
            elif warp == "asn":
                self.warp = AttentionWarp()
            elif warp == "defconv":
                make_last_convolution_deformable(self.layers)

    def feature_map(self, image: Tensor) -> Tensor:
        """U: [N, 3, H, W] in [0, 1] -> [N, K, h, w], not negative."""
        return self.layers(normalise(image, "torchvision"))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.feature_map(image)
        return (features, None) if self.warp is None else self.warp(features)

    def take_layers(self, other: WarpedBackbone) -> None:
        """Take the trained layers of another one; the warp stays as it is. A `ValueError` where the backbones differ.

        A deformable convolution holds the one whose place it takes, and offsets that nobody has trained.
        """
        own, given = self.layers.state_dict(), other.layers.state_dict()
        known = {name.replace(".convolution.", "."): name for name in own if ".offset." not in name}
        if known.keys() != given.keys():
            raise ValueError(f"the backbones differ in {sorted(known.keys() ^ given.keys())[:5]}")
        self.layers.load_state_dict({**own, **{known[name]: given[name] for name in known}})

    def parameter_groups(self, lr: float, new_lr: float, others: nn.Module | None) -> list[dict[str, object]]:
        """Optimiser groups: the trained layers at `lr`, the warp and `others`, which are new, at `new_lr`."""
        fresh: list[nn.Parameter] = []
        for module in self.layers.modules():
            if isinstance(module, DeformableConvolution):
                fresh += module.offset.parameters()
        known = {id(parameter) for parameter in fresh}
        trained = [parameter for parameter in self.layers.parameters() if id(parameter) not in known]
        for module in (self.warp, others):
            fresh += [] if module is None else list(module.parameters())
        groups: list[dict[str, object]] = [{"params": trained, "lr": lr}]
        return groups + ([{"params": fresh, "lr": new_lr}] if fresh else [])


def field_statistics(field: Tensor, uniform: Tensor) -> dict[str, Tensor]:
    """What a batch of fields does, in pixels of the feature map; each of the numbers a scalar.

    field: [N, C, h, w, 2]; uniform: [1, 1, h, w, 2], the field of equal weights.
    field_mean: mean length of G. field_from_uniform: mean distance from the uniform field: near 0, the module is idle.
    field_group_spread: mean distance of a group's field from the mean over groups: 0, all groups do the same.
    field_instance_spread: mean distance of a picture's field from the mean over the batch: 0, all pictures alike.
    """
    field = field.float()
    return {
        "field_mean": field.norm(dim=-1).mean(),
        "field_from_uniform": (field - uniform).norm(dim=-1).mean(),
        "field_group_spread": (field - field.mean(1, keepdim=True)).norm(dim=-1).mean(),
        "field_instance_spread": (field - field.mean(0, keepdim=True)).norm(dim=-1).mean(),
    }


def group_statistics(response: Tensor) -> dict[str, Tensor]:
    """Of the responses U^max + U^avg [N, C, h, w]: their mean, and their mean range over a map, which against beta
    says how far the softmax can be from uniform."""
    flat = response.float().flatten(2)
    return {"response_mean": flat.mean(), "response_range": (flat.amax(2) - flat.amin(2)).mean()}
